"""A printed line in a real crontab, kept by a real cron daemon: ``make test-cron``, as root, where a cron is installed.

Takes up to three minutes, and puts lines into the crontab of root for that time, so it is not among the usual tests.
"""

from __future__ import annotations

import time
from pathlib import Path

import polars as pl

from tests.support.counting_endpoint import CountingEndpoint
from tests.support.cron_daemon import cron_keeps, needs_cron, printed

pytestmark = needs_cron


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
        lines += printed(folder, "job.toml", "--cron", every_minute, "--env-file", "k%.env", *options)
    with cron_keeps(lines):
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
