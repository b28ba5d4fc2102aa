"""Reading, choosing, exporting and compacting the answers that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import answer_columns as answer_columns, compact as compact, export as export, view as view
    from .carried_refresh import refresh as refresh
    from .export import Written as Written
    from .live_table import assemble as assemble, is_newest as is_newest, plan_of as plan_of
    from .query import Choice as Choice, choose as choose, selected as selected
    from .reparsing import reparse as reparse

__all__, __getattr__, __dir__ = exports(__name__)
