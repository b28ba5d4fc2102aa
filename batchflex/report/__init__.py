"""A run as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import report as report, verdict as verdict

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "report": [],
        "verdict": [],
    },
    modules=["report", "verdict"],
)
