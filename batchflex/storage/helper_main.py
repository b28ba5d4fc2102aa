"""The helper process of a run: does what it is told on its standard input, a line of JSON each, and answers in the same way.

It ends with its input, so that it outlives no run, and ignores the signals that end one: the run still needs it then. It imports
nothing of the package that brings polars, httpx or pydantic.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import msgspec

from ..core import BatchflexError, SparedImports, malloc


class Seal(msgspec.Struct, tag=True):
    """Make a part of a ``segment``, ``into`` a file that is there. ``carry_schema`` is as Arrow serializes one."""

    segment: str
    into: str
    carry_schema: bytes | None


Order = Seal


class Done(msgspec.Struct, tag=True):
    """``written`` is false if there was nothing to write."""

    written: bool


class Fault(msgspec.Struct, tag=True):
    """What went wrong: of a failed system call its ``errno``, ``is_own`` of an error whose message is a sentence for people."""

    message: str
    errno: int | None = None
    is_own: bool = False


Answer = Done | Fault


def serve() -> None:
    """Serve until the standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    malloc.give_back(short=True)
    gc.disable()  # nothing that is made here refers to itself
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints is no answer
    sys.meta_path.insert(0, SparedImports)
    decode = msgspec.json.Decoder(Order).decode
    for line in sys.stdin.buffer:
        os.write(answers, msgspec.json.encode(_answer(decode(line))) + b"\n")
    os._exit(0)  # nothing is to be put away


def _answer(order: Order) -> Answer:
    try:
        return Done(_done(order))
    except OSError as error:
        return Fault(error.strerror or str(error), error.errno)
    except BatchflexError as error:
        return Fault(str(error), is_own=True)
    except Exception as error:
        return Fault(f"{type(error).__name__}: {error}")


def _done(order: Order) -> bool:
    import pyarrow as pa

    from . import journal, part_files

    schema = None if order.carry_schema is None else pa.ipc.read_schema(pa.py_buffer(order.carry_schema))
    void: list[str] = []
    with Path(order.into).open("r+b") as stream:
        return part_files.fill(stream, journal.read(Path(order.segment), void), schema, void=void)
