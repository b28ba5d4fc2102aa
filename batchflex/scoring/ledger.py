"""Collects what a summary needs of each scored row, in some 100 bytes: blocks in, one frame out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from ..config import ScoreSection
from ..core import STATUSES, JobError
from ..storage import is_substitute
from . import extract, spending
from .scorers import Scored

MEASURES: dict[str, pl.DataType | type[pl.DataType]] = {
    "status": pl.Enum(STATUSES),
    "prompt_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    "cache_read_input_tokens": pl.Int64,
    "cost": pl.Float64,
    "latency_s": pl.Float64,
    "substituted": pl.Int64,
}
WHO = ["requested_model", "model", "gateway_fallbacks"]
OTHER = "(other)"
_MOST_LABELS = 30
_LONGEST_LABEL = 40
_SHARE_OF_LABELS = 2  # labels occur at least twice on average; otherwise they are not labels, but different answers


class Score(NamedTuple):
    """What a summary needs to know of a score. ``is_share`` is ``None`` where it depends on the scores; ``uncompared`` says why
    its sweep points are not compared, if its baseline is none of them."""

    name: str
    kind: str | None = None
    is_share: bool | None = None
    expected: str | None = None
    answer: str | None = None
    is_labelling: bool = False
    cluster: str | None = None
    baseline: Mapping[str, Any] | None = None
    uncompared: str | None = None

    @property
    def column(self) -> str:
        return f"score_{self.name}"

    @classmethod
    def of(cls, spec: ScoreSection) -> Score:
        answer = None if spec.is_function or spec.kind == "judge" else spec.answer_column
        facts = (spec.name, spec.kind, spec.is_share, spec.expected, answer, spec.is_labelling)
        return cls(*facts, spec.cluster, spec.baseline)


class Ledger:
    """Collects rows. ``by`` are the columns of the sweep point, ``item`` is the column of the item that a row is a sample of."""

    def __init__(self, scores: Sequence[Score], by: Sequence[str], item: str | None) -> None:
        self.scores = list(scores)
        self.by = list(by)
        self._item = item
        self._rows = 0
        self._blocks: list[pl.DataFrame] = []
        self._labels: dict[str, set[str]] = {}  # those expected so far
        self._unlabelled: set[str] = set()
        self._unclustered: dict[str, bool] = {}  # whether a column of clusters has had no value so far

    def add(self, frame: pl.DataFrame, scored: Mapping[str, Scored]) -> None:
        """Add the rows of a block, with their scores by name."""
        begin, end = self._rows, self._rows + frame.height
        self._rows = end
        item = (
            pl.int_range(begin, end, dtype=pl.UInt64, eager=True) if self._item is None else frame[self._item].hash(0)
        )
        columns = [item.alias("item"), *(frame[name] for name in self.by)]
        for name in dict.fromkeys(score.cluster for score in self.scores):
            if name is not None:
                values = extract.texts(frame, name)
                self._unclustered[name] = self._unclustered.get(name, True) and values.null_count() == frame.height
                columns.append(_clusters(values, item).alias(f"c_{name}"))
        numbers = [name for name, kind in frame.schema.items() if kind.is_numeric()]
        columns += [
            frame.select(spending.of(name, numbers)).to_series().cast(kind, strict=False).alias(f"m_{name}")
            for name, kind in MEASURES.items()
            if name in frame.columns and _fits(frame[name].dtype, kind)
        ]
        for score in self.scores:
            found = scored[score.name]
            columns.append(found.score.cast(pl.Float64).alias(score.column))
            if score.is_labelling and found.answered is not None:
                columns.append(found.answered.hash(0).alias(f"h_{score.name}"))
                columns.append(found.answered.is_null().alias(f"n_{score.name}"))
                if found.expected is not None and self._are_labels(score.name, found.expected):
                    columns.append(_shortened(found.answered).alias(f"a_{score.name}"))
                    columns.append(found.expected.alias(f"e_{score.name}"))
        self._blocks.append(pl.DataFrame(columns))

    def _are_labels(self, name: str, expected: pl.Series) -> bool:
        if name not in self._unlabelled:
            labels = self._labels.setdefault(name, set())
            labels.update(expected.drop_nulls().unique().to_list())
            if len(labels) > _MOST_LABELS or any(len(label) > _LONGEST_LABEL for label in labels):
                self._unlabelled.add(name)
                self._blocks = [block.drop(f"a_{name}", f"e_{name}", strict=False) for block in self._blocks]
        return name not in self._unlabelled

    def frame(self) -> pl.DataFrame:
        """All rows: ``item`` (a hash), the columns of ``by``, ``c_…`` clusters (hashes), ``m_…`` measures, ``score_…``; for
        scores that find labels: ``h_…`` hash of the answer, ``n_…`` whether there is none, and ``a_…`` and ``e_…``, answered and
        expected label.

        :raises JobError: if no row has a value in a column of clusters.
        """
        for name, is_empty in self._unclustered.items():
            if is_empty and self._rows:
                raise JobError(f"no row has a value in {name!r}, by which scores are to be clustered")
        blocks, self._blocks = self._blocks, []
        return pl.concat(blocks, how="vertical_relaxed") if blocks else pl.DataFrame()

    def labels(self, name: str) -> list[str] | None:
        """The labels that a score expects; ``None`` if there are none, or too many."""
        labels = self._labels.get(name)
        if not labels or name in self._unlabelled or len(labels) * _SHARE_OF_LABELS > self._rows:
            return None
        return sorted(labels, key=_by_number_then_text)


def _clusters(values: pl.Series, item: pl.Series) -> pl.Series:
    """The cluster of each row, a hash; where the column is null, the item is one by itself."""
    known = pl.DataFrame([item.alias("item"), values.hash(2).alias("cluster"), values.is_null().alias("none")])
    own = pl.when("none").then(pl.col("item").hash(3)).otherwise("cluster")
    return known.select(own).to_series()


def with_substitutes(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with a column ``substituted``: 1 where a fallback or another model than requested has answered. Unchanged if it
    lacks the columns for that."""
    if not {*WHO} <= {*frame.columns}:
        return frame
    kinds = frame.select(WHO).unique()
    flags = [int(is_substitute(*kind)) for kind in kinds.iter_rows()]
    kinds = kinds.with_columns(substituted=pl.Series(flags, dtype=pl.Int64))
    return frame.drop("substituted", strict=False).join(
        kinds, on=WHO, how="left", nulls_equal=True, maintain_order="left"
    )


def _fits(kind: pl.DataType, wanted: pl.DataType | type[pl.DataType]) -> bool:
    return kind == pl.String if wanted == pl.Enum else kind.is_numeric()


def _shortened(answered: pl.Series) -> pl.Series:
    text = pl.col("x")
    short = pl.when(text.str.len_chars() <= _LONGEST_LABEL).then(text).when(text.is_not_null()).then(pl.lit(OTHER))
    return answered.to_frame("x").select(short).to_series()


def _by_number_then_text(label: str) -> tuple[float, str]:
    try:
        return float(label), label
    except ValueError:
        return float("inf"), label
