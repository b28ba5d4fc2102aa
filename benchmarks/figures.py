"""Figures beside their goals, as lines to read and as ``results.json``."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """What several runs measured. ``goal`` and ``stretch`` are met by medians at most so large, or ``at_least``.

    ``target`` is what the runs were asked of; ``note`` says what one has to know to read the figure.
    """

    what: str
    unit: str
    runs: Sequence[float]
    goal: float | None = None
    stretch: float | None = None
    at_least: bool = False
    target: str | None = None
    note: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def meets(self, bound: float | None) -> bool | None:
        if bound is None:
            return None
        return self.median >= bound if self.at_least else self.median <= bound

    def as_json(self) -> dict[str, Any]:
        return {
            "figure": self.what,
            "unit": self.unit,
            "runs": [round(value, 4) for value in self.runs],
            "median": round(self.median, 4),
            "min": round(min(self.runs), 4),
            "max": round(max(self.runs), 4),
            "goal": self.goal,
            "stretch": self.stretch,
            "goal_is": "at least" if self.at_least else "at most",
            "met": self.meets(self.goal),
            "target": self.target,
            "note": self.note,
        }


HEADER = (
    "| case | figure | median (min to max) | runs | goal | stretch | |\n| --- | --- | --- | ---: | --- | --- | --- |"
)


def line(case: str, figure: Figure) -> str:
    """A row of the table under :data:`HEADER`."""
    sign = "≥" if figure.at_least else "≤"
    goal, stretch = (
        "" if bound is None else f"{sign} {bound:,g}{'' if met else ' missed'}"
        for bound, met in ((b, figure.meets(b)) for b in (figure.goal, figure.stretch))
    )
    spread = f"{_short(figure.median)} ({_short(min(figure.runs))} to {_short(max(figure.runs))}) {figure.unit}"
    notes = "; ".join(filter(None, (figure.target, figure.note)))
    return f"| {case} | {figure.what} | {spread} | {len(figure.runs)} | {goal} | {stretch} | {notes} |"


def _short(value: float) -> str:
    """Three digits or more."""
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3}f}"


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it is now."""
    models = [
        text.partition(":")[2].strip()
        for text in Path("/proc/cpuinfo").read_text().splitlines()
        if text.startswith("model name")
    ]
    return {
        "cores": os.cpu_count(),
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
    }


def keep(path: Path, case: str, measured: Sequence[Figure] | str, on: dict[str, Any], *, quick: bool) -> None:
    """Put a case into the file in place of its earlier figures; the other cases stay. A text says why there are none.

    ``on`` is the machine as it was before.
    """
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    entry: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": on,
        "full_size": not quick,
    }
    if isinstance(measured, str):
        entry["aborted"] = measured
    else:
        entry["figures"] = [figure.as_json() for figure in measured]
    known[case] = entry
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
