"""How often each value of a column is there, and each pair of values of two. Streams: memory grows with the different values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa

from ..core import JobError, cell_values
from .query import Selected

_MOST_VALUES = 100_000
_MOST_CHARS = 64 << 20  # of them together

Values = tuple[Any, ...]


class Counts(NamedTuple):
    """How many of ``rows`` rows have which values in the ``columns``, most frequent first. ``points`` has the same of each sweep
    point, by its values in the columns ``sweep``, where there are several of these and none is counted itself."""

    columns: list[str]
    rows: int
    values: dict[Values, int]
    sweep: list[str]
    points: dict[Values, dict[Values, int]]

    def as_json(self) -> dict[str, Any]:
        found = {"columns": self.columns, "rows": self.rows, "counts": self._listed(self.values, self.rows)}
        points = [
            {"point": dict(zip(self.sweep, point, strict=True)), "rows": sum(values.values()),
             "counts": self._listed(values, sum(values.values()))}
            for point, values in self.points.items()
        ]  # fmt: skip
        return {**found, "points": points}

    def _listed(self, values: dict[Values, int], rows: int) -> list[dict[str, Any]]:
        return [
            {"values": dict(zip(self.columns, each, strict=True)), "rows": n, "share": n / rows}
            for each, n in values.items()
        ]


def count(rows: Selected, columns: Sequence[str], shown: Sequence[str]) -> Counts:
    """Count the values of one or two columns, ``shown`` under these names.

    :raises JobError: if there are more than 100,000 different ones, or more text in them than 64 MB.
    """
    sweep = [] if {*columns} & {*rows.about.origins.sweep} else [*rows.about.origins.sweep]
    found: dict[Values, int] = {}
    chars = 0
    for batch in rows.batches([*columns, *sweep]):
        for values, n in _of_batch(batch):
            if values not in found:
                chars += sum(len(value) for value in values if isinstance(value, str))
            found[values] = found.get(values, 0) + n
        if len(found) > _MOST_VALUES or chars > _MOST_CHARS:
            raise JobError(
                f"--counts {','.join(shown)}: there are more than {len(found) - 1:,} different values, which is more than can "
                "be counted; --where can narrow the rows down"
            )
    points: dict[Values, dict[Values, int]] = {}
    whole: dict[Values, int] = {}
    for values, n in found.items():
        own, point = values[: len(columns)], values[len(columns) :]
        whole[own] = whole.get(own, 0) + n
        here = points.setdefault(point, {})
        here[own] = here.get(own, 0) + n
    if len(points) < 2:
        sweep, points = [], {}
    return Counts(
        list(shown), sum(found.values()), _by_frequency(whole), sweep, {p: _by_frequency(v) for p, v in points.items()}
    )


def _by_frequency(values: dict[Values, int]) -> dict[Values, int]:
    return dict(sorted(values.items(), key=lambda pair: -pair[1]))


def _of_batch(batch: pa.RecordBatch) -> Iterable[tuple[Values, int]]:
    columns = [cell_values.texts(each) if pa.types.is_nested(each.type) else each for each in batch.columns]
    names = [str(at) for at in range(len(columns))]
    frame = pl.DataFrame(pa.RecordBatch.from_arrays(columns, names)).with_columns(pl.selectors.float().fill_nan(None))
    for *values, n in frame.group_by(names, maintain_order=True).len().iter_rows():
        yield tuple(values), n
