"""The command line for tests: run to its end, begun and watched, or called in this process; and what a run leaves."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import polars as pl

from batchflex.cli import main


class Ended(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        """What --json printed: one line and nothing else."""
        assert self.out.count("\n") == 1 and self.out.endswith("\n"), self
        return dict(json.loads(self.out))


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without the keys that may lie in it, and the width of whatever it runs in."""
    mine = {n: value for n, value in os.environ.items() if not n.endswith("_API_KEY") and n != "COLUMNS"}
    return mine | dict(given or {})


def batchflex(
    *arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout_s: float = 60
) -> Ended:
    """Run the command to its end; it is killed when it takes far too long."""
    command = [sys.executable, "-m", "batchflex", *map(str, arguments)]
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env=environment(env),
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def called(*arguments: object, env: Mapping[str, str] | None = None) -> Ended:
    """The same in this process: for where one of its own would show nothing more and take most of the time."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        mock.patch.dict(os.environ, environment(env), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main.main([str(argument) for argument in arguments])
        except SystemExit as left:
            code = int(left.code or 0)
    out.seek(0)
    err.seek(0)
    return Ended(code, out.read(), err.read())


@contextlib.contextmanager
def begun(
    *arguments: object, preexec: Callable[[], None] | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """The command while it runs, in a process group of its own; it never outlives the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "batchflex", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(env),
        start_new_session=True,
        preexec_fn=preexec,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], timeout_s: float = 60) -> Ended:
    """What became of a command that was begun."""
    out, err = process.communicate(timeout=timeout_s)
    return Ended(process.returncode, out, err)


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.01)


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def write_rows(path: Path, rows: int, **fields: Any) -> Path:
    """Requests with the ids r0, r1, … asking "row 0.", "row 1.", …"""
    lines = ({"id": f"r{i}", "messages": message(f"row {i}.")} | fields for i in range(rows))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def table(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out / "results.parquet")


def state(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_bytes()))


def sha1_of_key(key: str) -> str:
    """How the endpoint's log shows a request that brought this key."""
    return hashlib.sha1(f"Bearer {key}".encode()).hexdigest()


def refused_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
