"""The documents say what there is: every option, every file, every exit code."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from batchflex import cli
from batchflex.errors import StopReason

ROOT = Path(__file__).resolve().parent.parent
COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()
README = (ROOT / "README.md").read_text()


def verbs() -> dict[str, argparse.ArgumentParser]:
    parser = cli._parser()
    return next(dict(a.choices) for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def section(verb: str) -> str:
    found = re.search(rf"(?ms)^## {verb}\n(.*?)(?=^## |\Z)", COMMAND_LINE)
    assert found, f"docs/command-line.md has no section on {verb}"
    return found[1]


@pytest.mark.parametrize("verb", verbs())
def test_every_option_is_documented(verb: str) -> None:
    text = section(verb) + (section("run") if verb == "plan" else "")
    for action in verbs()[verb]._actions:
        for option in action.option_strings:
            if option not in ("-h", "--help", "--debug"):
                assert f"`{option}" in text, f"{verb} {option} is not in docs/command-line.md"


def test_no_option_is_invented() -> None:
    known = {option for parser in verbs().values() for action in parser._actions for option in action.option_strings}
    for name in ("docs/command-line.md", "README.md"):
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / name).read_text()):
            assert option in known | {"--version", "--no-deps"}, f"{name} speaks of {option}, which there is not"


def test_every_stop_reason_is_documented() -> None:
    for reason in get_args(StopReason):
        if reason != "signal":
            assert f"`{reason}`" in section("Exit codes")


def test_the_tree_of_the_readme_names_every_file() -> None:
    listed = set(re.findall(r"(?m)^\s*[├└│─\s]*([\w./-]+\.(?:py|md|toml|csv|jsonl?|html|css|js|png))\s", README))
    tracked = subprocess.run(
        ["git", "ls-files", "batchflex", "jobs", "docs", "benchmarks"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    on_disk = [
        str(p.relative_to(ROOT)) for d in ("batchflex", "jobs", "docs", "benchmarks") for p in (ROOT / d).rglob("*.*")
    ]
    for path in tracked or [p for p in on_disk if "__pycache__" not in p]:
        name = Path(path).name
        assert name == "py.typed" or "inbox" in path or name.endswith(".txt") or name in listed, (
            f"README.md does not name {path}"
        )


def test_links_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CONTRACT.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name} links to {link}"
