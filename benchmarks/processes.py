"""Processes on cores of their own, and what they cost: clients on the first core, load targets on the second."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
_LONGEST_S = 3600.0


class Refused(Exception):
    """A case whose figures would mean nothing; says why."""


class Spent(NamedTuple):
    """What a process cost, with those it started, from its start to its end. ``began`` is a moment of the monotonic clock,
    ``resident_kb`` the most that all had at one time, as far as a look every 0.1 s shows, or the first alone."""

    began: float
    wall_s: float
    cpu_s: float
    resident_kb: int
    starter_kb: int

    @property
    def peak_mb(self) -> float:
        """:raises Refused: if it is no more than the process had that started it, whose pages it counted at first."""
        if self.resident_kb <= self.starter_kb:
            raise Refused("the benchmark itself takes more memory than the client, whose peak can then not be told")
        return self.resident_kb / 1024


def cores() -> list[int]:
    return sorted(os.sched_getaffinity(0))


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Processes started inside run on this core; ``None`` leaves them where they are."""
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def client_core() -> int | None:
    return cores()[0] if len(cores()) > 1 else None


def target_core() -> int | None:
    return cores()[1] if len(cores()) > 1 else None


def open_many_files() -> None:
    """Let this process and its children have as many connections as the system allows."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def environment(**more: str) -> dict[str, str]:
    """Of a client: the batchflex beside these benchmarks, its modules compiled once, as where it is installed, and no proxy
    between it and the target."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return kept | {"PYTHONPATH": str(ROOT)} | more


def start(
    command: Sequence[str],
    env: Mapping[str, str] | None = None,
    said: Path | None = None,
    complaints: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """A client on its core; what it says on standard output goes to ``said``, on standard error to ``complaints``."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_core(client_core()))
        stdout = subprocess.DEVNULL if said is None else stack.enter_context(said.open("wb"))
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=complaints, env=env or environment()
        )


def measure(command: Sequence[str], env: Mapping[str, str] | None = None, said: Path | None = None) -> Spent:
    """Run a client to its end.

    :raises Refused: if it fails or hangs.
    """
    with tempfile.TemporaryFile() as complaints:
        began = time.monotonic()
        process = start(command, env, said, complaints)
        with _Family(process.pid) as family:
            usage = _await(process)
        wall_s = time.monotonic() - began
        if process.returncode != 0:
            complaints.seek(0)
            last = complaints.read().decode(errors="replace").strip().rpartition("\n")[2]
            raise Refused(f"a client ended with {process.returncode}, saying {last!r}: {' '.join(command)}")
    return Spent(began, wall_s, usage.ru_utime + usage.ru_stime, max(usage.ru_maxrss, family.most_kb), _resident_kb())


class _Family:
    """Watches how much memory a process and its children have."""

    def __init__(self, pid: int) -> None:
        self.most_kb = 0
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _Family:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            with contextlib.suppress(OSError):
                children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
                if children:
                    self.most_kb = max(self.most_kb, sum(map(_resident_kb, (self._pid, *children))))


def _await(process: subprocess.Popen[bytes]) -> resource.struct_rusage:
    watchdog = threading.Timer(_LONGEST_S, process.kill)
    watchdog.daemon = True
    watchdog.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        watchdog.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def _resident_kb(pid: object = "self") -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024
