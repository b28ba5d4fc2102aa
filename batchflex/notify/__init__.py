"""Who is notified of how a run went, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .addresses import missing_addresses as missing_addresses
    from .notifier import Notifier as Notifier, notify_of_mistakes as notify_of_mistakes, send_test as send_test

__all__, __getattr__, __dir__ = exports(__name__)
