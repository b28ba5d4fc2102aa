"""A printed line in a real crontab, kept by a real cron daemon: ``make test-cron``, as root, where a cron is installed.

Takes up to three minutes, and puts lines into the crontab of root for that time, so it is not among the usual tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from tests.counting_endpoint import CountingEndpoint

_BATCHFLEX = Path(sys.executable).with_name("batchflex")

pytestmark = pytest.mark.skipif(
    not os.environ.get("BATCHFLEX_TEST_CRON") or shutil.which("crontab") is None or os.geteuid() != 0,
    reason="only where it is asked for, with a cron and as root",
)


def crontab(*words: str, lines: str | None = None) -> str:
    done = subprocess.run(["crontab", *words], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "no crontab for" in done.stderr, done.stderr
    return done.stdout


@pytest.fixture
def kept_crontab() -> Iterator[None]:
    """The crontab as it was before, afterwards."""
    before = crontab("-l")
    try:
        yield
    finally:
        if before:
            crontab("-", lines=before)
        else:
            crontab("-r")


@pytest.fixture
def daemon() -> Iterator[None]:
    """The cron that runs already, else one for this test."""
    program = shutil.which("cron") or shutil.which("crond")
    assert program is not None
    options = ["-f"] if program.endswith("cron") else ["-n"]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.usefixtures("kept_crontab", "daemon")
def test_cron_runs_a_job_each_minute(tmp_path: Path, endpoint: CountingEndpoint) -> None:
    """One line as it is, one for another zone: both fire each minute, the second by way of ``date``."""
    lines = ""
    folders = [tmp_path / "a b%c$d 'e' ü" / name for name in ("here", "there")]
    for folder, options in zip(folders, ([], ["--tz", "Europe/Berlin"]), strict=True):
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text(_row(0))
        (folder / "k%.env").write_text("MY_KEY=sk-of-the-file\n")
        (folder / "k%.env").chmod(0o600)
        (folder / "job.toml").write_text(
            f'[endpoint]\nbase_url = "{endpoint.base_url}"\napi_key_env = "MY_KEY"\n[input]\npath = "rows.jsonl"\n'
            '[params]\nmodel = "m"\n'
        )
        every_minute = "* * 1-31 * 0-6" if options else "* * * * *"
        lines += subprocess.run(
            [_BATCHFLEX, "schedule", "job.toml", "--cron", every_minute, "--env-file", "k%.env", *options],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    crontab("-", lines=crontab("-l") + lines)
    for row in range(2):
        deadline = time.monotonic() + 90
        while not all(_answered(folder) == row + 1 for folder in folders):
            logs = [path.read_text() for folder in folders for path in folder.glob("*.log")]
            assert time.monotonic() < deadline, logs
            time.sleep(0.5)
        for folder in folders:
            with (folder / "rows.jsonl").open("a") as file:
                file.write(_row(row + 1))
    assert [path.read_text() for folder in folders for path in folder.glob("*.log")] == ["", ""]
    assert endpoint.stats()["requests"] == 4  # each row once


def _row(number: int) -> str:
    return f'{{"id": "{number}", "messages": [{{"role": "user", "content": "Question {number}?"}}]}}\n'


def _answered(folder: Path) -> int:
    try:
        return pl.read_parquet(folder / "runs/job/results.parquet").height
    except (OSError, pl.exceptions.PolarsError):
        return 0
