"""The report of a run, as one HTML page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import headline as headline, report as report

__all__, __getattr__, __dir__ = exports(__name__)
