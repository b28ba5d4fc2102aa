"""How much Python runs for a row on the event loop, counted in calls: a guard against a relapse that no clock disturbs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint

ROWS, FIRST = 3_000, 1_000
MOST_CALLS = 160  # functions of Python and of C, on the thread of the loop, for each row
COUNTED = """
import functools, importlib.util, json, sys
import anyio
import batchflex

calls = 0
rows = []

def count(frame, event, argument):
    global calls
    if event in ("call", "c_call"):
        calls += 1

class Watch:
    def note(self, text):
        pass
    def tick(self, tally):
        rows.append((tally.done, calls))

job = {
    "input": {"path": sys.argv[1]},
    "endpoint": {"base_url": sys.argv[2]},
    "params": {"model": "m"},
    "job": {"out": sys.argv[3]},
    "limits": {"concurrency": 64},
}
sys.setprofile(count)
options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
ended = anyio.run(functools.partial(batchflex.arun, job, observer=Watch()), backend_options=options)  # in this thread
sys.setprofile(None)
print(json.dumps({"ok": ended.summary["ok"], "rows": rows, "calls": calls}))
"""


def _counted(endpoint: CountingEndpoint, folder: Path, rows: int) -> int:
    endpoint.reset()
    source = write_rows(folder / f"{rows}.jsonl", rows)
    command = [sys.executable, "-c", COUNTED, str(source), endpoint.base_url, str(folder / f"out-{rows}")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["ok"] == rows
    return int(told["calls"])


@pytest.mark.slow
def test_a_row_takes_so_many_calls_at_most(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    few, many = (_counted(endpoint, tmp_path, rows) for rows in (FIRST, ROWS))
    a_row = (many - few) / (ROWS - FIRST)
    assert 20 < a_row < MOST_CALLS, f"{a_row:.0f} calls a row"


# Which of these libraries a command imports, and how many requests have been sent by then.
WATCHED = """
import json, sys, urllib.request
from batchflex.cli.main import main

control, *words = sys.argv[1:]
watched = "numpy pyarrow pyarrow.compute polars jinja2 tenacity click rich tornado obstore boto3".split()
watched += ["batchflex.storage.remote_files", "batchflex.storage.remote_output"]
sent = {}

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name in watched and name not in sent:
            with urllib.request.urlopen(f"{control}/stats") as answer:
                sent[name] = json.load(answer)["requests"]

sys.meta_path.insert(0, Finder)
code = main(words)
print(json.dumps({"code": code, "sent": sent}))
"""


def test_the_first_request_waits_for_no_library_that_it_does_without(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 1), tmp_path / "out"
    control = f"{endpoint.base_url.removesuffix('/v1')}/control"
    options = ["run", str(rows), "--base-url", endpoint.base_url, "--model", "m", "--out", str(out), "--quiet"]
    command = [sys.executable, "-c", WATCHED, control, *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(ended.stdout)
    assert found["code"] == 0
    assert found["sent"] == dict.fromkeys(("numpy", "pyarrow"), 1)  # for the table


def test_a_run_does_not_wait_for_pandas_where_it_is_installed(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """pyarrow would import it for its first array."""
    rows, out = write_rows(tmp_path / "rows.jsonl", 1), tmp_path / "out"
    options = ["run", str(rows), "--base-url", endpoint.base_url, "--model", "m", "--out", str(out), "--quiet"]
    program = (
        f"import sys; from batchflex.cli.main import main; code = main({options}); print(code, 'pandas' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.split() == ["0", "False"], ended.stderr
