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


class Score(Interval, frozen=True):
    """One score at one sweep point."""

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
