"""A job run on several processes: shares of its rows, leases of its limits, and one account of it all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .processes import on_processes as on_processes

__all__, __getattr__, __dir__ = exports(__name__)
