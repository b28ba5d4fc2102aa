"""The commands of docs/nightly-job.md and docs/json.md do what these say, one after the other as a reader would try them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from batchflex.cli.options import parse
from tests.support.command_line import environment
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

SERVER = "http://127.0.0.1:8000/v1"


def blocks(name: str) -> list[str]:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    found = re.findall(r"(?ms)^```bash\n(.*?)^```", text)
    assert len(found) == text.count("```bash") > 0
    return found


@pytest.mark.parametrize("name", ["nightly-job.md", "json.md"])
def test_every_command_is_one(name: str) -> None:
    text = "\n".join(blocks(name)).replace("\\\n", " ")
    commands = re.findall(r"(?m)^batchflex ([^>|\n]*)", text)
    assert len(commands) > 0
    for command in commands:
        parse(shlex.split(command, comments=True))


@pytest.mark.slow
def test_a_nightly_job_from_the_first_file_to_the_answers(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"label": "bug"}')
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    said = []
    for block in [*blocks("nightly-job.md"), *blocks("json.md")]:
        command = f"set -e\n{block.replace(SERVER, endpoint.base_url).replace('my-model', 'm')}"
        done = subprocess.run(
            ["/bin/bash", "-c", command], cwd=tmp_path, env={**environment(), "PATH": path, "NO_PROXY": "*"},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (block, done.stdout, done.stderr)
        said.append(done.stdout + done.stderr)
    pages = "\n".join(said)
    assert "nothing is in the way of a run" in pages and "requests  2: 0 done already, 2 to send" in pages
    assert endpoint.stats()["requests"] == 3, "each ticket was asked about once"
    assert (tmp_path / "alerts.txt").read_text() == "nightly: this is only a test of the event 'stopped'.\n"
    assert "all answered" in pages and "3 of 3" in pages
    assert "finished None" in pages
    assert json.loads((tmp_path / "last.json").read_text())["ok"] == 3
    assert pl.read_csv(tmp_path / "labels.csv").rows() == [("t1", "bug"), ("t2", "bug"), ("t3", "bug")]
    assert yaml.safe_load((tmp_path / "cronjob.yaml").read_text())["kind"] == "CronJob"
    assert "nightly.toml" in (tmp_path / "nightly.crontab").read_text()
    assert sorted(each.name for each in (tmp_path / "units").iterdir()) == [
        "batchflex-nightly.service", "batchflex-nightly.timer",
    ]  # fmt: skip
    assert (tmp_path / "nightly.log").exists()
