"""A command of the user's: bounded in time, and ended with its children."""

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

from .redact import one_line, redacted

_GRACE_S = 1.0
_LOOK_S = 0.02
_TAIL_BYTES = 2048
_MOST_WORDS = 200
_MOST_BYTES = 64 << 10


def run(
    command: str | list[str],
    told: bytes,
    more: Mapping[str, str],
    within_s: float,
    given_up: threading.Event,
) -> str | None:
    """Run ``command``, by the shell if it is text, with ``told`` on its standard input; return why it failed, as a sentence.

    ``more`` is added to its environment. Its output goes nowhere but, of a command that fails, into that sentence. When
    ``within_s`` is over, or ``given_up`` set, it and its children are sent SIGTERM, and a second later SIGKILL. Blocks.
    """
    with tempfile.TemporaryFile() as output:
        return _ended(command, told, more, within_s, given_up, output, output)


class Printed(NamedTuple):
    """What a command has printed, or why it failed, as a sentence with the last line of its standard error."""

    output: bytes
    fault: str | None


def printed(command: str | Sequence[str], within_s: float, given_up: threading.Event) -> Printed:
    """Run ``command`` as :func:`run` does, with nothing on its standard input, and take what it prints. Blocks."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as said:
        fault = _ended(command, b"", {}, within_s, given_up, output, said)
        output.seek(0)
        return Printed(output.read(_MOST_BYTES), fault)


def _ended(
    command: str | Sequence[str],
    told: bytes,
    more: Mapping[str, str],
    within_s: float,
    given_up: threading.Event,
    output: IO[bytes],
    said: IO[bytes],
) -> str | None:
    # Files, as a pipe would have to be emptied, and would stay open with whatever the command leaves in the background.
    with tempfile.TemporaryFile() as stdin:
        stdin.write(told)
        stdin.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own command is what is wanted
                command,
                shell=isinstance(command, str),
                stdin=stdin,
                stdout=output,
                stderr=said,
                env={**os.environ, **more},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return f"it cannot be started: {getattr(error, 'strerror', None) or error}"
        due = time.monotonic() + within_s
        while (code := process.poll()) is None:
            if given_up.wait(_LOOK_S) or time.monotonic() >= due:
                _end(process)
                when = "when this was interrupted" if given_up.is_set() else f"after {within_s:.3g} s"
                return f"it had not ended {when}, and was killed"
        if code == 0:
            return None
        how = f"it exited with {code}" if code > 0 else f"it was ended by {signal.Signals(-code).name}"
        words = _last_line(said)
        return f"{how}: {words}" if words else how


def _end(process: subprocess.Popen[bytes]) -> None:
    """End all of its process group, whatever has become of the command itself."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)


def _last_line(output: IO[bytes]) -> str:
    output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
    lines = [line for line in output.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return one_line(redacted(lines[-1]), _MOST_WORDS) if lines else ""
