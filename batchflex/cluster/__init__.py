"""A job run on several processes: of one run, with leases of its limits and one account of it all, or as an array of shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .processes import on_processes as on_processes
    from .shards import Shard as Shard, ShardRun as ShardRun, shard_of as shard_of

__all__, __getattr__, __dir__ = exports(__name__)
