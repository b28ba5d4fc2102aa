"""Who is told how a run ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import notifier as notifier
    from .notifier import Notifier as Notifier

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "notifier": ["Notifier"],
    },
    modules=["notifier"],
)
