"""The table ``[sweep]``, its forms, and the enumeration of its points. Pure.

A sweep has up to three forms: a *grid*, lists of values of which every combination is tried; *zip*, lists whose first values go
together, then their second ones, and so on; and *points*, written out one by one. They are crossed with each other: every
point with every entry of the zip with every combination of the grid, whose last variable moves fastest.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from .fields import Section


class Forms(NamedTuple):
    """The swept values by form. A variable is in one of them only; a point need not set all variables."""

    grid: Mapping[str, Sequence[Any]]
    zip: Mapping[str, Sequence[Any]]
    points: Sequence[Mapping[str, Any]]


class SweepSection(Section):
    """The table ``[sweep]``: every key that is not a field is a variable of the grid."""

    model_config = ConfigDict(extra="allow")
    samples: Annotated[int, Field(ge=1, le=100_000)] = 1
    zip: dict[str, Any] | None = None
    points: list[dict[str, Any]] | None = None
    order: Literal["auto", "prefix", "row"] = "auto"

    @property
    def forms(self) -> Forms:
        """The swept values, without those that are not lists."""
        grid, zipped = self.model_extra or {}, self.zip or {}
        grid, zipped = ({n: v for n, v in form.items() if isinstance(v, list)} for form in (grid, zipped))
        return Forms(grid, zipped, self.points or [])

    @property
    def variables(self) -> dict[str, list[Any]]:
        """As :func:`variables`."""
        return variables(self.forms)


def variables(swept: Forms) -> dict[str, list[Any]]:
    """Each swept variable with its distinct values, in order of first appearance: those of points, of zip, of the grid."""
    pairs = itertools.chain(
        ((name, value) for point in swept.points for name, value in point.items()),
        ((name, value) for form in (swept.zip, swept.grid) for name, values in form.items() for value in values),
    )
    found: dict[str, dict[str, Any]] = {}
    for name, value in pairs:
        found.setdefault(name, {}).setdefault(identity(value), value)
    return {name: list(values.values()) for name, values in found.items()}


def always_set(swept: Forms) -> set[str]:
    """The variables that every sweep point sets."""
    in_all_points = set.intersection(*map(set, swept.points)) if swept.points else set()
    return {*swept.grid, *swept.zip, *in_all_points}


def combinations(swept: Forms) -> Iterator[dict[str, Any]]:
    """The values of each sweep point, variables in the order of :func:`variables`. One empty one if nothing is swept."""
    order = variables(swept)
    zipped = [dict(zip(swept.zip, entry, strict=True)) for entry in zip(*swept.zip.values(), strict=True)]
    grid = (dict(zip(swept.grid, values, strict=True)) for values in itertools.product(*swept.grid.values()))
    for point, entry, values in itertools.product(swept.points or [{}], zipped or [{}], grid):
        merged = {**point, **entry, **values}
        yield {name: merged[name] for name in order if name in merged}


def identity(value: Any) -> str:
    """Equal for the same value only: ``1``, ``1.0`` and ``true`` are three. The order of a table's keys counts."""
    return repr(value)
