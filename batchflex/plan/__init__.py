"""Rows to requests, and which of them are left to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import completion_marker as completion_marker, retention as retention, snapshot as snapshot
    from .answer_index import AnswerIndex as AnswerIndex
    from .carried_pass import CarriedPass as CarriedPass
    from .completion_marker import CompletionMarker as CompletionMarker, settled as settled
    from .frame_input import FrameInput as FrameInput, asked_columns as asked_columns
    from .input_paths import input_files as input_files, require_input as require_input
    from .input_sample import InputSample as InputSample, sample_of as sample_of
    from .plan import Plan as Plan
    from .planner import Passed as Passed, PlanDiff as PlanDiff, is_repetition as is_repetition, points as points
    from .prefix_order import PrefixQueue as PrefixQueue, grouped as grouped, name_of as name_of
    from .preparation import (
        Held as Held,
        Prepared as Prepared,
        index_of as index_of,
        is_compared as is_compared,
        keep_positions as keep_positions,
        prepare as prepare,
        recarried_note as recarried_note,
        survey as survey,
    )
    from .row_prompts import Part as Part, RowFunction as RowFunction, messages_of as messages_of
    from .template import Prompt as Prompt
    from .template_faults import WHOLE_ROW as WHOLE_ROW, missing_column as missing_column

__all__, __getattr__, __dir__ = exports(__name__)
