"""Runs that cron, systemd or Kubernetes starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .scheduling import Wanted as Wanted, schedule as schedule, write as write

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "scheduling": ["Wanted", "schedule", "write"],
    },
    modules=[],
)
