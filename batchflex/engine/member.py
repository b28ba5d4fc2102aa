"""A job run among those that share an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..core import Emit, Message, StopReason
from ..storage import RunState
from .endpoint_state import EndpointState
from .gate import Gate
from .probes import Prober


class Stop(Protocol):
    def __call__(self, reason: StopReason, message: Message | str, /) -> None: ...


@dataclass(eq=False)
class Member:
    """A job run, as those know it whom it shares endpoints with.

    ``models`` are those that its job names, if it names them all. ``tell`` takes what whoever watches should know, ``stop`` a
    reason and a sentence. ``on_return`` is called when an endpoint answers again, before anything is sent to it. ``gate`` and
    ``prober`` are there while it asks.
    """

    run_state: RunState
    stop: Stop
    tell: Emit
    models: frozenset[str] = frozenset()
    gate: Gate[EndpointState] | None = None
    prober: Prober | None = None
    on_return: Callable[[EndpointState], None] | None = None
