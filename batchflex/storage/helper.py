"""A process beside a run that makes its Parquet files: what computes for long competes with the event loop for no lock there.

It writes into files that the run has opened beside their places. To sync them and to put them in their place is the run's, so
that neither process leaves anything half done however it ends, and none that outlives its run changes anything. If it ends before
the run does, the run makes the files itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.to_thread
import msgspec

from ..core import FolderError
from .helper_main import Answer, Done, Fault, Order, Seal

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from batchflex.storage.helper_main import serve; serve()"
# What an interpreter, its libraries and its allocators go by. Of all else, keys among it, the helper needs to know nothing.
_PASSED_ON = re.compile(r"(PYTHON|LD_|DYLD_|LC_|MALLOC_|_RJEM_|ARROW_|GLIBC_)\w*|LANG|PATH|HOME|TZ|TMPDIR")
_LOOK_MS = 200
_package = Path(__file__).absolute().parent.parent
_decode = msgspec.json.Decoder(Answer).decode


class HelperGone(Exception):
    """There is no helper process, or it ended before it had done what it was to do."""


class Helper:
    """The helper process of one run. The first order starts it; orders come from threads, one after the other, and block.

    Each may raise :class:`HelperGone`; once one has, all others do. ``on_gone`` is called with why when that happens, in the
    thread of the order.
    """

    def __init__(self, on_gone: Callable[[str], None] = lambda why: None) -> None:
        self._on_gone = on_gone
        self._one_at_a_time = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_gone = not _can_be_started()

    @property
    def is_running(self) -> bool:
        return self._process is not None and not self._is_gone

    def seal(self, segment: Path, stream: IO[bytes], carry_schema: Any) -> bool:
        """Fill a part with what a segment holds, as :func:`part_files.fill`; ``stream`` is that of a file with a name."""
        schema = None if carry_schema is None else carry_schema.serialize().to_pybytes()
        return self._do(Seal(str(segment.absolute()), str(Path(stream.name).absolute()), schema))

    def _do(self, order: Order, between: Callable[[], None] = lambda: None) -> bool:
        """``between`` is called while the answer is awaited; if it raises, that ends the process, too."""
        with self._one_at_a_time:
            if self._is_gone:
                raise HelperGone
            try:
                answer = self._answer(order, between)
            except (OSError, EOFError, msgspec.DecodeError) as error:
                self._on_gone(self._end() or str(error))
                raise HelperGone from None
            except BaseException:
                self._end()
                raise
        if isinstance(answer, Done):
            return answer.written
        if answer.errno is not None:
            raise OSError(answer.errno, answer.message)
        raise FolderError(answer.message) if answer.is_own else RuntimeError(answer.message)

    def _answer(self, order: Order, between: Callable[[], None]) -> Done | Fault:
        process = self._process = self._process or _started()
        if process.stdin is None or process.stdout is None:
            raise EOFError
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.flush()
        answers = select.poll()
        answers.register(process.stdout, select.POLLIN)
        while not answers.poll(_LOOK_MS):
            between()
        line = process.stdout.readline()
        if not line:
            raise EOFError
        return _decode(line)

    def _end(self) -> str:
        """End the process, whatever it does, and tell how it ended; nothing if it never began."""
        self._is_gone = True
        ended = None
        if self._process is None:
            return ""
        with contextlib.suppress(OSError), self._process as process:  # what it was not sent any more is no matter
            ended = process.poll()
            process.kill()
        return "" if ended is None else f"signal {-ended}" if ended < 0 else f"exit code {ended}"

    def close(self) -> None:
        """End the process when it has done what it does. Blocks."""
        with self._one_at_a_time:
            self._is_gone = True
            if self._process is not None:
                self._process.communicate()

    async def __aenter__(self) -> Helper:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)


def _can_be_started() -> bool:
    """Whether the program that runs is a Python interpreter, and not one that has become part of another program."""
    return not getattr(sys, "frozen", False) and Path(sys.executable or "").name.startswith(("python", "pypy"))


def _started() -> subprocess.Popen[bytes]:
    """With the paths of this process, so that it finds the same modules; without what else a start of Python takes."""
    paths = [os.path.abspath(path) for path in sys.path if isinstance(path, str)]  # noqa: PTH100 (Path(".zip/…") too)
    environment = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    command = [sys.executable, "-S", "-c", _PROGRAM, *paths, str(_package.parent)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)  # noqa: S603
