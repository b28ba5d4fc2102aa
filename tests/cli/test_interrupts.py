"""A signal at any moment of a command: it ends with the exit code, and the object, that are promised, never with a traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import Ended, state, write_rows
from tests.support.counting_endpoint import CountingEndpoint

# The command in a process that signals itself when a module is looked for: always at the same moment. Or as Python ends.
SIGNALLED = """
import atexit, os, sys
from importlib.abc import MetaPathFinder

number, moment = int(sys.argv[1]), sys.argv[2]
sys.argv[1:3] = []

def send():
    os.kill(os.getpid(), number)

class Finder(MetaPathFinder):
    def find_spec(name, path=None, target=None):
        if name == moment:
            sys.meta_path.remove(Finder)
            send()

sys.meta_path.insert(0, Finder)
if moment == "the last thing":
    atexit.register(send)
from batchflex.cli.main import main
code = main()
if moment == "after the command":
    atexit.register(send)
sys.exit(code)
"""


def signalled(number: signal.Signals, moment: str, *words: object) -> Ended:
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), moment, *map(str, words)]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in ended.stderr and "KeyboardInterrupt" not in ended.stderr, ended.stderr
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def command(endpoint: CountingEndpoint, folder: Path, *more: object) -> list[object]:
    rows = write_rows(folder / "rows.jsonl", 2)
    return ["run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", folder / "out", *more]


BEGINNINGS = {
    "batchflex.cli.command": signal.SIGINT,
    "batchflex.cli.options": signal.SIGTERM,
    "pydantic": signal.SIGINT,
    "httpx": signal.SIGTERM,
    "batchflex.cli.logs": signal.SIGHUP,
}


@pytest.mark.parametrize(("moment", "number"), BEGINNINGS.items())
def test_a_signal_while_it_begins(
    moment: str, number: signal.Signals, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    ended = signalled(number, moment, *command(endpoint, tmp_path, "--json"))
    found = json.loads(ended.out)
    assert (found["error"], found["verb"], found["status"]) == ("Interrupted", "run", "interrupted")
    assert ended.code == found["exit_code"] == 128 + number
    assert not (tmp_path / "out").exists() and endpoint.stats()["requests"] == 0


def test_a_signal_while_it_begins_is_logged_without_json_too(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    ended = signalled(signal.SIGTERM, "pydantic", *command(endpoint, tmp_path, "--log-file", log))
    assert (ended.code, ended.out) == (143, "")
    assert "interrupted, exit code 143" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["batchflex.report", "after the command", "the last thing"])
def test_a_signal_when_the_run_has_ended_changes_no_exit_code(
    number: signal.Signals, moment: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    ended = signalled(number, moment, *command(endpoint, tmp_path, "--json", "--set", "job.report=true"))
    assert ended.code == json.loads(ended.out)["exit_code"] == state(tmp_path / "out")["exit_code"] == 0
    is_cut_short = moment.startswith("batchflex")
    assert ("when the run had ended" in ended.err) == is_cut_short
    assert (tmp_path / "out" / "report.html").exists() != is_cut_short


def test_help_takes_a_signal_too() -> None:
    ended = signalled(signal.SIGTERM, "batchflex.cli.option_types", "--help")
    assert ended.code == 0 and "usage" in ended.out
