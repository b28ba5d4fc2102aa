"""A job run among those that share an engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core import Emit, Message, StopReason
from ..storage import RunState
from .endpoint_state import EndpointState
from .probes import Prober


@dataclass(eq=False)
class Member:
    """A job run, as those know it whom it shares endpoints with.

    ``models`` are those that its job names, if it names them all. ``emit`` takes events for whoever watches, ``stop`` a reason
    and a sentence. ``on_return`` is called when an endpoint answers again, before anything is sent to it. The ``prober`` is there
    while it sends.
    """

    run_state: RunState
    stop: Callable[[StopReason, Message | str], None]
    emit: Emit
    models: frozenset[str] = frozenset()
    prober: Prober | None = None
    on_return: Callable[[EndpointState], None] | None = None
