"""The mistakes of a [sweep], whose keys are free: told from the values as they were given, each at its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ..protocol import CHAT, TRANSPORT, unsayable
from .job_mistakes import KEY_HINT, Mistake, choice, found, names_a_key
from .schema_checks import check_format
from .sweep import RESERVED, told_apart

_Table = Mapping[str, Any]


class _Variable(NamedTuple):
    """A variable where it stands. ``values`` are those it is tried with; one, if it stands in a point."""

    place: str
    form: str
    name: str
    values: Any


def check_sweep(sweep: _Table, prompts: _Table, override: _Table) -> list[Mistake]:
    """Every mistake in what is swept. ``prompts`` are the tables [prompts.NAME], ``override`` is the table of that name."""
    standing = list(_standing(sweep))
    mistakes = _check_forms(sweep) + _check_homes(standing)
    for variable in standing:
        faults = [Mistake(variable.place, why) for why in _faults(variable, prompts, override)]
        if variable.name == "response_format" and not faults:
            faults = [mistake for value in variable.values for mistake in check_format(variable.place, value)]
        mistakes += faults
    return mistakes


def _standing(sweep: _Table) -> Iterator[_Variable]:
    for name, values in sweep.items():
        if name not in RESERVED:
            yield _Variable(f"sweep.{name}", "grid", name, values)
    zipped, points = sweep.get("zip"), sweep.get("points")
    if isinstance(zipped, Mapping):
        for name, values in zipped.items():
            yield _Variable(f"sweep.zip.{name}", "zip", name, values)
    for number, point in enumerate(points if isinstance(points, list) else []):
        for name, value in point.items() if isinstance(point, Mapping) else ():
            yield _Variable(f"sweep.points.{number}.{name}", "points", name, [value])


def _faults(variable: _Variable, prompts: _Table, override: _Table) -> Iterator[str]:
    name, values = variable.name, variable.values
    if name in (CHAT.field, *RESERVED, *TRANSPORT):
        yield "cannot be swept"
    elif names_a_key(str(name)):
        yield KEY_HINT
    elif isinstance(values, Mapping):
        yield f"must be a list of the values to try, or else stand in [params]; {found(values)}"
    elif not isinstance(values, list) or not values:
        yield f"must be a list of the values to try; {found(values)}"
    elif why := unsayable(values):
        yield why
    elif variable.form == "grid" and _has_twice([told_apart(value) for value in values]):
        yield f"has the same value twice; for repeated answers set sweep.samples; {found(values)}"
    elif name == "prompt":
        yield from (why for value in values if (why := _no_prompt(value, prompts)))
    elif name in override:
        yield f"override.{name} (also: --set {name}=…) would make all points the same; leave out one of the two"
    else:
        yield from (why for value in values if (why := CHAT.parameters.out_of_range(name, value)))


def _no_prompt(value: Any, prompts: _Table) -> str | None:
    if isinstance(value, str) and value in prompts:
        return None
    there = choice(str(value), [str(name) for name in prompts]) if prompts else "write it as [prompts.NAME]"
    return f"no prompt is named {value!r:.80}; {there}"


def _check_homes(standing: list[_Variable]) -> list[Mistake]:
    """A variable has one form: two would contradict each other."""
    homes: dict[str, _Variable] = {}
    mistakes = []
    for variable in standing:
        home = homes.setdefault(variable.name, variable)
        if home.form != variable.form:
            mistakes.append(Mistake(variable.place, f"is swept by {home.place} already; leave out one of the two"))
    return mistakes


def _check_forms(sweep: _Table) -> list[Mistake]:
    zipped, points = sweep.get("zip"), sweep.get("points")
    mistakes = []
    if isinstance(zipped, Mapping):
        mistakes += [Mistake("sweep.zip", why) for why in _faults_of_zip(zipped)]
    if isinstance(points, list):
        mistakes += _check_points(points)
    return mistakes


def _faults_of_zip(zipped: _Table) -> Iterator[str]:
    lists = {name: values for name, values in zipped.items() if isinstance(values, list)}
    lengths = {name: len(values) for name, values in lists.items()}
    if not zipped:
        yield "is empty; name the variables whose values go together, or leave it out"
    elif len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        yield f"takes the lists value by value, so all need the same length; {told}"
    elif len(lists) == len(zipped) and _has_twice([told_apart(entry) for entry in zip(*lists.values(), strict=True)]):
        yield f"has the same values together twice; for repeated answers set sweep.samples; {found(dict(zipped))}"


def _check_points(points: list[Any]) -> list[Mistake]:
    if not points:
        return [Mistake("sweep.points", "is empty; write one table for each point, or leave it out")]
    tables = [(number, point) for number, point in enumerate(points) if isinstance(point, Mapping)]
    mistakes = []
    if len(tables) == len(points) and not any(point for _, point in tables):
        mistakes.append(Mistake("sweep.points", "names no variable; write one table for each point, or leave it out"))
    firsts: dict[str, int] = {}
    for number, point in tables:
        if (first := firsts.setdefault(_as_text(point), number)) != number:
            what = f"is the same point as sweep.points.{first}; for repeated answers set sweep.samples"
            mistakes.append(Mistake(f"sweep.points.{number}", what))
    if any("prompt" in point for _, point in tables):
        mistakes += [
            Mistake(f"sweep.points.{number}", "names no prompt, and others do; each point needs one then")
            for number, point in tables
            if "prompt" not in point
        ]
    return mistakes


def _as_text(point: _Table) -> str:
    return "\n".join(f"{name}={told_apart(point[name])}" for name in sorted(point, key=str))


def _has_twice(names: list[str]) -> bool:
    return len(set(names)) < len(names)
