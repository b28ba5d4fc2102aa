"""Answers to scores, summaries, comparisons; judges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import (
        comparison_sides as comparison_sides,
        functions as functions,
        judge as judge,
        paper_tables as paper_tables,
        planning as planning,
        score_text as score_text,
        scores_file as scores_file,
        spending as spending,
    )
    from .comparison import agreement_on as agreement_on, compare as compare
    from .data_frames import Scores as Scores
    from .readable import ScoreSummary as ScoreSummary

__all__, __getattr__, __dir__ = exports(__name__)
