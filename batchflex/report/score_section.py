"""The content of ``scores.json``, typed. CONTRACT.md describes the fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class Interval(msgspec.Struct, frozen=True):
    """A mean with the ends of its interval. ``n`` counts rows, ``items`` the rows of the input they belong to."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    items: int = 0
    method: str | None = None


class Labels(msgspec.Struct, frozen=True):
    """Expected labels (rows of ``matrix``) against answered ones (columns), both in the order of ``names``."""

    names: list[Any]
    matrix: list[list[int]]
    precision: list[float | None] = []
    recall: list[float | None] = []
    f1: list[float | None] = []
    support: list[int] = []
    macro_f1: float | None = None


class Versus(msgspec.Struct, frozen=True):
    """The difference of a sweep point from the reference of its score, with p-values as they are and corrected."""

    items: int = 0
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_holm: float | None = None
    p_bh: float | None = None
    method: str | None = None
    detectable: float | None = None


class Agreement(msgspec.Struct, frozen=True):
    """Of the samples of an item: the share of equal pairs, and Krippendorff's alpha with its interval."""

    share: float | None = None
    alpha: float | None = None
    alpha_low: float | None = None
    alpha_high: float | None = None


class Compared(msgspec.Struct, frozen=True, rename={"chosen": "with"}):
    """With which point the others are compared: the ``best`` or the ``baseline``; its number; and for how many comparisons
    p-values are corrected."""

    chosen: str
    point: int
    family: int


class Score(Interval, frozen=True):
    """One score at one sweep point. ``clusters`` are as many as its standard error is of."""

    clusters: int = 0
    versus: Versus | None = None
    agreement: Agreement | None = None

    pass_at: dict[str, Interval] | None = None
    majority: Interval | None = None
    kappa: float | None = None
    labels: Labels | None = None


class ScoreSpec(msgspec.Struct, frozen=True):
    """What is scored. ``expected`` and ``answer`` are columns of the results."""

    name: str
    kind: str = ""
    is_share: bool = False
    expected: str | None = None
    answer: str | None = None
    cluster: str | None = None
    comparison: Compared | None = None
    uncompared: str | None = None

    @property
    def column(self) -> str:
        """Its column in ``scores.parquet``."""
        return f"score_{self.name}"


class ScoredPoint(msgspec.Struct, frozen=True):
    point: dict[str, Any] = {}
    scores: dict[str, Score] = {}


class Scores(msgspec.Struct, frozen=True):
    """``results`` is the stamp of the table that was scored, ``level`` that of the intervals (0.95)."""

    level: float = 0.95
    results: str | None = None
    rows: int = 0
    scores: list[ScoreSpec] = []
    points: list[ScoredPoint] = []


def read(path: Path) -> Scores | None:
    """``None`` if the file does not exist or cannot be decoded: scores can be made again at any time."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Scores)
    except (OSError, msgspec.DecodeError):
        return None
