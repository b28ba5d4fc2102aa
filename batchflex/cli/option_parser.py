"""The parser of options: refuses in one line, and names what was probably meant."""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..core import JobError, nearest, one_line
from .option_types import with_optional_wait


class CommandLineError(JobError):
    """The command line cannot be read. Its text names the command and needs nothing before it."""


class Parser(argparse.ArgumentParser):
    """Refuses in one line, in place of the whole usage. No abbreviations: a later option could make them ambiguous."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(with_optional_wait(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        end = " See" if message.endswith("?") else "; see"
        raise CommandLineError(f"{self.prog}: {one_line(message)}{end}: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        allowed = list(map(str, action.choices))
        if not isinstance(action, argparse._SubParsersAction):
            raise argparse.ArgumentError(action, f"there is no {value!r:.80}; {_choice(str(value), allowed)}")
        if _is_a_job(value) and not nearest(value, allowed):
            self.error(f"{value!r:.80} is no verb; did you mean: {self.prog} run {one_line(value, 80)}?")
        self.error(f"there is no verb {value!r:.80}; {_choice(value, allowed)}")


def words_for(parser: argparse.ArgumentParser, words: Sequence[str], other: argparse.ArgumentParser) -> list[str]:
    """Of the words that ``parser`` was given after the name of its verb, those that ``other`` takes as well."""
    known, wanted = parser._option_string_actions, other._option_string_actions
    left = with_optional_wait(words)
    left = left[left.index(parser.prog.rpartition(" ")[2]) + 1 :]
    found: list[str] = []
    while left:
        word = left.pop(0)
        name, given, _ = word.partition("=")
        action = known.get(name)
        whole = [word]
        if action is not None and action.nargs != 0 and not given and left:
            whole.append(left.pop(0))
        if action is None or name in wanted:
            found += whole
    return found


def refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    """:raises CommandLineError: always."""
    first = unknown[0].partition("=")[0]
    if not first.startswith("-"):
        parser.error(f"unexpected argument {first!r}")
    near = nearest(first.lstrip("-"), re.findall(r"--([a-z-]+)", parser.format_help()))  # all are alike in their dashes
    parser.error(f"there is no option {first}" + (f"; did you mean --{near}?" if near else ""))


def _is_a_job(word: str) -> bool:
    with contextlib.suppress(OSError, ValueError):  # what can be no path at all
        return word.endswith((".toml", ".jsonl", ".parquet", ".csv")) or Path(word).exists()
    return False


def _choice(name: str, allowed: Sequence[str]) -> str:
    near = nearest(name, allowed)
    return f"did you mean {near}?" if near else f"there are: {', '.join(allowed)}"
