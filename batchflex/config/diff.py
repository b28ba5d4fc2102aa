"""What differs between two jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The tables that determine the requests; the others say how they are sent, and what is done with the answers.
SHAPING = ("params", "override", "prompt", "prompts", "sweep", "input")
_MOST, _BEFORE, _AFTER = (
    64,
    24,
    16,
)  # characters that are shown of a value, and of what is the same before and after a difference

# Of [input], what makes others of the same rows.
_SHAPING_INPUT = ("id", "dedupe", "params", "separator", "encoding", "sheet")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two resolved jobs that change requests, as ``place: old → new``; of long values the text around the
    first difference, and of texts of several lines in which line that is."""
    one, two = (_flat({k: job[k] for k in SHAPING if job.get(k)}) for job in _without_the_same(old, new))
    lines = []
    for place in sorted(one.keys() | two.keys()):
        shapes = place != "sweep.order" and (
            not place.startswith("input.") or place.removeprefix("input.") in _SHAPING_INPUT
        )
        if shapes and one.get(place) != two.get(place):
            if place in one and place in two:
                lines.append(_difference(place, one[place], two[place]))
            else:
                shown = [_shortened(side[place]) if place in side else "(none)" for side in (one, two)]
                lines.append(f"{place}: {shown[0]} → {shown[1]}")
    return lines


def _without_the_same(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Two jobs without the parameters that requests have alike by both, be it from [params] or by an option."""
    one, two = ({**job.get("params", {}), **job.get("override", {})} for job in (old, new))
    alike = {name for name in one.keys() & two.keys() if one[name] == two[name]}
    tables = ("params", "override")
    return [
        {**job, **{table: {k: v for k, v in job.get(table, {}).items() if k not in alike} for table in tables}}
        for job in (old, new)
    ]


def _difference(place: str, old: Any, new: Any) -> str:
    are_texts = isinstance(old, str) and isinstance(new, str)
    one, two = (old, new) if are_texts else (repr(old), repr(new))
    begin = _common(one, two)
    line = f", line {1 + one.count(chr(10), 0, begin)}" if are_texts and ("\n" in one or "\n" in two) else ""
    if max(len(one), len(two)) <= _MOST:
        shown = [one, two]
    else:
        most = min(len(one), len(two)) - begin
        end = min(most, _common(one[::-1], two[::-1]))  # so many characters at the end are the same
        shown = [_around(text, begin, len(text) - end) for text in (one, two)]
    if are_texts:
        shown = [repr(text) for text in shown]
    return f"{place}{line}: {shown[0]} → {shown[1]}"


def _common(one: str, two: str) -> int:
    """How many characters two texts begin with alike."""
    pairs = enumerate(zip(one, two, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(two)))


def _around(text: str, begin: int, end: int) -> str:
    """A long text from ``begin``, where it differs from another, to ``end``, with a little of what is before and after."""
    first = max(0, begin - _BEFORE)
    if first:  # a whole word, if there is one
        first = text.find(" ", first, begin) + 1 or first
    last = min(len(text), end + _AFTER, first + _MOST)
    return f"{'…' if first else ''}{text[first:last]}{'…' if last < len(text) else ''}"


def _shortened(value: Any) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= _MOST else value[:_MOST] + "…")
    text = repr(value)
    return text if len(text) <= _MOST else text[:_MOST] + "…"


def endpoint_of(resolved: Mapping[str, Any]) -> str:
    """A short name for where a resolved job sends its requests."""
    sections = resolved.get("endpoints") or [resolved.get("endpoint", {})]
    return " and ".join(str(s.get("base_url") or s.get("model_path") or s.get("name") or "local") for s in sections)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    """The values of nested tables by their places; lists of tables, such as messages, are gone into as well."""
    inside: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inside = [(f"{place}.{name}" if place else str(name), inner) for name, inner in value.items()]
    elif isinstance(value, list) and all(isinstance(each, Mapping) for each in value):
        inside = [(f"{place}[{number}]", inner) for number, inner in enumerate(value)]
    if not inside:
        return {place: value}
    return {name: leaf for inner_place, inner in inside for name, leaf in _flat(inner, inner_place).items()}
