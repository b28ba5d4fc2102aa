"""Jobs that cron, systemd or Kubernetes start: what to install for them, and when they run next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .scheduling import ScheduleOptions as ScheduleOptions, schedule as schedule, write as write
    from .zones import zone_of_machine as zone_of_machine

__all__, __getattr__, __dir__ = exports(__name__)
