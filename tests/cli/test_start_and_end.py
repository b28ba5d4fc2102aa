"""What a command spares when it starts and when it ends, and that nothing is missing for that."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchflex.cli import options
from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint

PLUGIN = """
from pathlib import Path

Path("met").touch()

class plugin:
    def new_schema_validator(*_):
        return None, None, None
"""


def _verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = (each for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    return dict(action.choices)


@pytest.mark.parametrize("verb", _verbs(options.parser()))
def test_a_verb_has_the_same_options_alone(verb: str) -> None:
    alone = _verbs(options.parser(verb))
    assert [*alone] == [verb]
    assert alone[verb].format_help() == _verbs(options.parser())[verb].format_help()


def test_what_is_no_verb_gets_all_of_them() -> None:
    assert options.parser("jobs.toml").format_help() == options.parser().format_help()


def test_plugins_of_pydantic_are_not_searched_for(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(PLUGIN)
    info = tmp_path / "plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pydantic]\nplugin = plugin:plugin\n")
    environment = os.environ | {"PYTHONPATH": f"{Path.cwd()}{os.pathsep}{tmp_path}"}

    def met(*command: object) -> bool:
        words = [sys.executable, *map(str, command)]
        subprocess.run(words, cwd=tmp_path, env=environment, timeout=60, check=True, stderr=subprocess.PIPE)
        return (tmp_path / "met").exists()

    rows = write_rows(tmp_path / "rows.jsonl", 1)
    asks = ("--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out", "--quiet")
    assert not met("-m", "batchflex", "run", rows, *asks)
    assert met("-c", "import batchflex.config.job")


def test_a_command_is_gone_before_python_puts_all_away() -> None:
    program = """
import os, sys
from batchflex.cli.main import main

class Kept:
    def __del__(self):
        os.write(1, b"put away")

kept = Kept()
sys.exit(main())
"""
    command = [sys.executable, "-c", program, "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.startswith("batchflex ") and "put away" not in ended.stdout
