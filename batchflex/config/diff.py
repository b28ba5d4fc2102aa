"""What differs between two jobs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The tables that determine the requests; the others say how they are sent, and what is done with the answers.
SHAPING = ("params", "override", "prompt", "prompts", "sweep", "input")

# Of [input], what makes others of the same rows.
_SHAPING_INPUT = ("id", "dedupe", "params", "separator", "encoding", "sheet")


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences between two resolved jobs that change requests, as ``place: old → new``."""
    one, two = (_flat({k: job[k] for k in SHAPING if job.get(k)}) for job in (old, new))
    lines = []
    for place in sorted(one.keys() | two.keys()):
        shapes = place != "sweep.order" and (
            not place.startswith("input.") or place.removeprefix("input.") in _SHAPING_INPUT
        )
        if shapes and one.get(place) != two.get(place):
            shown = [repr(side[place]) if place in side else "(none)" for side in (one, two)]
            lines.append(f"{place}: {shown[0]:.60} → {shown[1]:.60}")
    return lines


def endpoint_of(resolved: Mapping[str, Any]) -> str:
    """A short name for where a resolved job sends its requests."""
    sections = resolved.get("endpoints") or [resolved.get("endpoint", {})]
    return " and ".join(str(s.get("base_url") or s.get("model_path") or s.get("name") or "local") for s in sections)


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        flat: dict[str, Any] = {}
        for name, inner in value.items():
            flat |= _flat(inner, f"{place}.{name}" if place else str(name))
        return flat
    return {place: value}
