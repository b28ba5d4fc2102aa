"""Rows to requests, and which of them are left to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import completion_marker as completion_marker, retention as retention, snapshot as snapshot
    from .answer_index import AnswerIndex as AnswerIndex
    from .completion_marker import CompletionMarker as CompletionMarker, settled as settled
    from .plan import Plan as Plan
    from .planner import Passed as Passed, PlanDiff as PlanDiff, is_repetition as is_repetition, points as points
    from .prefix_order import PrefixQueue as PrefixQueue, grouped as grouped, name_of as name_of
    from .preparation import (
        Held as Held,
        Prepared as Prepared,
        index_of as index_of,
        keep_positions as keep_positions,
        prepare as prepare,
    )
    from .template import WHOLE_ROW as WHOLE_ROW, Prompt as Prompt, missing_column as missing_column

__all__, __getattr__, __dir__ = exports(__name__)
