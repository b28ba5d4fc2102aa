"""Reading, choosing, exporting and compacting the answers that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import (
        answer_columns as answer_columns,
        compact as compact,
        export as export,
        prompts as prompts,
        view as view,
    )
    from .carried_refresh import refresh as refresh
    from .counts import Counts as Counts, count as count
    from .export import Target as Target, Written as Written
    from .live_table import assemble as assemble, is_newest as is_newest, plan_of as plan_of
    from .one_row import OneRow as OneRow, look_up as look_up
    from .query import Choice as Choice, choose as choose, matching as matching, selected as selected
    from .reparsing import reparse as reparse
    from .result_row import ResultRow as ResultRow

__all__, __getattr__, __dir__ = exports(__name__)
