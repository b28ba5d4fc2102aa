"""Runs a command of the user's: bounded in time, and ended together with its children."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple

from .redact import redacted
from .safe_text import one_line

_GRACE_S = 1.0
_POLL_S = 0.02
_TAIL_BYTES = 2048
_MOST_WORDS = 200
_MOST_BYTES = 64 << 10


class Printed(NamedTuple):
    """What a command has printed, or why it failed, as a sentence with the last line of its standard error."""

    output: bytes
    fault: str | None


def printed(command: str | Sequence[str], within_s: float, cancelled: threading.Event) -> Printed:
    """Run ``command`` as :func:`run` does, with nothing on its standard input, and take what it prints. Blocks."""
    with tempfile.TemporaryFile() as output:
        fault = run(command, b"", {}, within_s, cancelled, output)
        output.seek(0)
        return Printed(output.read(_MOST_BYTES), fault)


def run(
    command: str | Sequence[str],
    stdin: bytes,
    more: Mapping[str, str],
    within_s: float,
    cancelled: threading.Event,
    output: IO[bytes] | None = None,
) -> str | None:
    """Run ``command``, by the shell if it is text, with ``stdin`` on its standard input; return why it failed, as a sentence.

    ``more`` is added to its environment. What it prints goes to ``output``, if there is one; the last line of its errors (without
    an ``output`` of all that it prints) into that sentence. When ``within_s`` is over, or ``cancelled`` set, it and its children
    are sent SIGTERM, and a second later SIGKILL. Blocks.
    """
    # Files, as somebody would have to read a pipe, and it would stay open with what the command leaves in the background.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command is what is wanted
                command,
                shell=isinstance(command, str),
                stdin=given,
                stdout=errors if output is None else output,
                stderr=errors,
                env={**os.environ, **more},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"it cannot be started: {getattr(error, 'strerror', None) or error}"
        due = time.monotonic() + within_s
        while (code := process.poll()) is None:
            if cancelled.wait(_POLL_S) or time.monotonic() >= due:
                _end(process)
                when = "when this was interrupted" if cancelled.is_set() else f"after {within_s:.3g} s"
                return f"it had not ended {when}, and was killed"
        if code == 0:
            return None
        how = f"it exited with {code}" if code > 0 else f"it was ended by {signal.Signals(-code).name}"
        words = _last_line(errors)
        return f"{how}: {words}" if words else how


def _end(process: subprocess.Popen[bytes]) -> None:
    """End its whole process group, also if the command itself has ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = [line for line in output.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return one_line(redacted(lines[-1]), _MOST_WORDS) if lines else ""
