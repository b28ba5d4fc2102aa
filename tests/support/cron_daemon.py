"""A real cron daemon that keeps lines for the time of a ``with``: for tests that are asked for by ``make test-cron``, as root."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_BATCHFLEX = Path(sys.executable).with_name("batchflex")

needs_cron = pytest.mark.skipif(
    not os.environ.get("BATCHFLEX_TEST_CRON") or shutil.which("crontab") is None or os.geteuid() != 0,
    reason="only where it is asked for, with a cron and as root",
)


def printed(folder: Path, *words: str) -> str:
    """What ``batchflex schedule`` prints in a folder."""
    done = subprocess.run(
        [_BATCHFLEX, "schedule", *words],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def cron_keeps(lines: str) -> Iterator[None]:
    """These lines in the crontab of root, below those that are there; afterwards it is as before. The cron that
    runs already keeps them, else one for this test."""
    before = _crontab("-l")
    try:
        _crontab("-", lines=before + lines)
        with _daemon():
            yield
    finally:
        if before:
            _crontab("-", lines=before)
        else:
            _crontab("-r")


def _crontab(*words: str, lines: str | None = None) -> str:
    done = subprocess.run(["crontab", *words], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "no crontab for" in done.stderr, done.stderr
    return done.stdout


@contextlib.contextmanager
def _daemon() -> Iterator[None]:
    program = shutil.which("cron") or shutil.which("crond")
    assert program is not None
    options = ["-f"] if program.endswith("cron") else ["-n"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
