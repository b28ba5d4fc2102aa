"""Variables in the paths of a job: ``${NAME}`` and ``${NAME:-default}``. Pure.

A literal ``${`` is written ``$${``. Prompts, parameters and everything else stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from . import dated_path
from .mistake_messages import Mistake

# Where they are expanded; * is any number in a list of tables.
PLACES = (
    "job.out", "job.env_file", "input.path", "input.files", "notify.metrics_file", "log.file",
    "endpoint.model_path", "endpoints.*.model_path", "score.*.judge.endpoint.model_path",
)  # fmt: skip
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<inside>[^}]*)(?P<end>\}?)")
_INSIDE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """The text with its variables replaced. A variable that is empty counts as not set.

    :raises ValueError: with a sentence, if one is not set and has no ``:-``, or what follows ``${`` is no name.
    """

    def value(found: re.Match[str]) -> str:
        if found["inside"] is None:
            return "${"
        inside = _INSIDE.fullmatch(found["inside"])
        if inside is None or not found["end"]:
            raise ValueError(
                f"wants ${{NAME}} or ${{NAME:-default}}, and $${{ for a literal ${{; found {found[0]!r:.80}"
            )
        name, default = inside["name"], inside["default"]
        if set_to := variables.get(name):
            return set_to
        if default is not None:
            return default
        if name in variables:
            raise ValueError(f"the variable {name} is empty; set it, or write ${{{name}:-default}}")
        raise ValueError(
            f"the variable {name} is not set, neither in the environment nor in a file .env beside the job file; "
            f"set it, or write ${{{name}:-default}}"
        )

    return _VARIABLE.sub(value, text)


def names(text: str) -> list[str]:
    """The names of the variables in a text."""
    return [found["name"] for found in _well_formed(text)]


def values(text: str, variables: Mapping[str, str]) -> list[str]:
    """The values of the variables in a text."""
    return [value for name in names(text) if (value := variables.get(name))]


def defaults(text: str) -> list[str]:
    """The defaults of the variables in a text."""
    return [found["default"] or "" for found in _well_formed(text)]


def _well_formed(text: str) -> Iterator[re.Match[str]]:
    for found in _VARIABLE.finditer(text):
        if found["inside"] is not None and found["end"] and (inside := _INSIDE.fullmatch(found["inside"])):
            yield inside


def escaped(text: str) -> str:
    """The text so that :func:`expanded` gives it back as it is."""
    return text.replace("${", "$${")


def literal(data: dict[str, Any]) -> dict[str, Any]:
    """The tables of a job, changed so that :func:`build` takes their paths as they are."""
    each_path(data, lambda place, text: escaped(dated_path.escaped(text) if place == "job.out" else text))
    return data


def expand(data: dict[str, Any], variables: Mapping[str, str]) -> list[Mistake]:
    """Expand the paths of a job in place, and return what is wrong with them."""
    mistakes: list[Mistake] = []

    def value(place: str, text: str) -> str:
        try:
            return expanded(text, variables)
        except ValueError as error:
            mistakes.append(Mistake(place, str(error)))
            return text

    each_path(data, value)
    return mistakes


def each_path(data: dict[str, Any], change: Callable[[str, str], str], places: Collection[str] = PLACES) -> None:
    """Replace each path of a job by what ``change`` returns for its place and its text."""
    for pattern in places:
        *parents, last = pattern.split(".")
        for place, table in _tables(data, parents):
            there, at = table.get(last), f"{place}.{last}"
            if isinstance(there, str):
                table[last] = change(at, there)
            elif isinstance(there, list):
                table[last] = [change(at, one) if isinstance(one, str) else one for one in there]


def _tables(data: Any, steps: list[str], place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if not steps:
        if isinstance(data, dict):
            yield place, data
        return
    step, *rest = steps
    if step == "*" and isinstance(data, list):
        inside = [(str(number), value) for number, value in enumerate(data)]
    elif isinstance(data, dict) and step in data:
        inside = [(step, data[step])]
    else:
        inside = []
    for name, value in inside:
        yield from _tables(value, rest, f"{place}.{name}" if place else name)
