"""What is written to the terminal: results to standard output, everything else to standard error. The only module that prints."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterable

from ..core import json_line, printable


class _Shown:
    json = False  # whether standard output has the one object that it is to have


def prepare_streams() -> None:
    """Characters that the terminal's encoding lacks are replaced. A stream that is closed becomes ``/dev/null``, or the next file
    or socket that is opened would get its number."""
    _Shown.json = False
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


_WIDTH = 120  # of a line where there is no terminal


def width() -> int:
    """How many cells a line may take: what ``COLUMNS`` says, else what the terminal has; 120 where there is none."""
    is_told = os.environ.get("COLUMNS") or sys.stdout.isatty()
    return shutil.get_terminal_size((_WIDTH, 24)).columns if is_told else _WIDTH


def say(text: str, *, end: str = "\n") -> None:
    """Write to standard error. That it takes nothing (a closed pipe, a full disk) changes no exit code."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True, end=end)


def warn(text: str) -> None:
    say(f"warning: {text}")


def show(text: str, *, over: str | None = None) -> None:
    """Write text for people to standard output. On a terminal it replaces ``over``, the text that was shown before."""
    if over is not None and sys.stdout.isatty():
        print(f"\x1b[{len(over.splitlines())}F\x1b[J", end="")
    print(printable(text), flush=True)


def show_exactly(text: str) -> None:
    """Write to standard output what a file is to hold, to the letter."""
    print(text, end="", flush=True)


def show_json(data: object) -> None:
    """Write the one object that ``--json`` asks for."""
    line = json_line(data)
    _Shown.json = True
    show_lines([line])


def has_shown_json() -> bool:
    return _Shown.json


def show_lines(lines: Iterable[bytes]) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.writelines(line + b"\n" for line in lines)
    sys.stdout.buffer.flush()


def discard_stdout() -> None:
    """Nobody reads it any more: without this, the flush when the process exits would fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
