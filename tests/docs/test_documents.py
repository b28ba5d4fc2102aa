"""The documents say what there is: every option, every file, every exit code."""

from __future__ import annotations

import argparse
import re
from typing import get_args

import pytest

import batchflex
from batchflex.cli import options
from batchflex.core.errors import StopReason
from tests.support.paths import ROOT

COMMAND_LINE = (ROOT / "docs" / "command-line.md").read_text()
README = (ROOT / "README.md").read_text()


def verbs() -> dict[str, argparse.ArgumentParser]:
    parser = options.parser()
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


def test_the_architecture_names_every_package_and_files_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    packages = {path.parent.name for path in (ROOT / "batchflex").glob("*/__init__.py")}
    shown = text.split("```")[1]
    assert packages == _first_words(shown)
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        assert (ROOT / name).exists() or (ROOT / "batchflex" / name).exists(), name
    assert len(text.splitlines()) <= 200


def _first_words(shown: str) -> set[str]:
    """The packages that the lines of a drawing of layers begin with."""
    heads = [re.split(r"\s{2,}", line)[0] for line in shown.strip().splitlines()]
    return {name for head in heads for name in head.split(" · ") if not name.endswith(".py")}


def test_files_that_documents_name_are_there() -> None:
    documents = [path for path in ROOT.glob("*.md") if path.stem != "CHANGELOG"]
    for path in [*documents, *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"`((?:tests|benchmarks|batchflex|docs)/[\w./-]+)`", path.read_text()):
            assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_links_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
            if not link.startswith("http"):
                assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_the_python_reference_has_everything_that_the_package_offers() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    assert sorted(re.findall(r"auto(?:function|class|exception):: (\w+)", text)) == sorted(batchflex.__all__)
