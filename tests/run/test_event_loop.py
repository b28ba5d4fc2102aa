"""Nothing that waits for the disk happens on the event loop while rows are asked: told by what its thread calls, not by time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint

ROWS = 6_000
WATCHED = """
import collections, json, os, sys, threading
import batchflex

loop = threading.get_ident()
found = collections.Counter()
elsewhere = collections.Counter()
asking = False
FILES = {"open", "os.rename", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "os.truncate", "import"}

def note(what):
    if asking:
        (found if threading.get_ident() == loop else elsewhere)[what] += 1

def heard(event, args):
    if event in FILES:
        note(f"{event} {args[0]}" if threading.get_ident() == loop else event)

def watched(name):
    call = getattr(os, name)
    def watching(*args):
        note(name)
        return call(*args)
    return watching

class Watch:
    def note(self, text):
        pass
    def tick(self, tally):
        global asking
        asking = 500 < tally.done < tally.before + int(sys.argv[4])

for name in ("fsync", "fdatasync", "posix_fallocate"):
    setattr(os, name, watched(name))
sys.addaudithook(heard)
job = {
    "input": {"path": sys.argv[1]},
    "endpoint": {"base_url": sys.argv[2]},
    "params": {"model": "m"},
    "job": {"out": sys.argv[3]},
    "limits": {"concurrency": 64},
    "journal": {"seal_rows": 500, "sync_s": 0.05},
}
ended = batchflex.run(job, observer=Watch())
print(json.dumps({"loop": found, "elsewhere": elsewhere, "ok": ended.summary["ok"]}))
"""


def test_the_loop_neither_opens_nor_syncs_nor_removes_files_while_rows_are_asked(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(latency_s=0.02)
    rows = write_rows(tmp_path / "in.jsonl", ROWS)
    command = [sys.executable, "-c", WATCHED, str(rows), endpoint.base_url, str(tmp_path / "out"), str(ROWS)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["ok"] == ROWS
    assert told["loop"] == {}
    for what in ("open", "fsync", "fdatasync", "os.rename", "os.remove"):
        assert told["elsewhere"].get(what, 0) > 0, f"{what} was not seen at all: {told}"
