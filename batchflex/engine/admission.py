"""Admission: the endpoints of an engine, and whose request goes next where one has room.

What a job run itself has to say to that (its rows in order, its budget, whether it is paused) is its
:class:`~batchflex.engine.gate.Gate`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import anyio

from ..core import Message
from .endpoint_state import EndpointState, Pause

if TYPE_CHECKING:
    from .gate import Gate

# What keeps more requests from being sent, as far as a gate knows.
Bound = Literal["waiting", "quota", "budget", "endpoint", "concurrency"]


class FairShare:
    """Whose turn it is among job runs that share an engine: start-time fair queueing (Goyal, Vin, Cheng 1996). What one
    ``had`` is requests, divided by its ``weight``."""

    __slots__ = ("had", "weight")

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.had = 0.0

    def due(self, now: float) -> tuple[float, float]:
        """Whose is least goes next. ``now`` is where the one that went last began: who did not want anything until then has
        saved nothing up."""
        return max(now, self.had), self.had

    def went(self, now: float) -> float:
        """One request of it goes; returns what ``now`` is from then on."""
        begins = max(now, self.had)
        self.had = begins + 1.0 / self.weight
        return begins


class Admission:
    """Bounds the attempts in flight at the ``endpoints``, those of all job runs together.

    Until an endpoint is proven one request goes there at a time, or as many as :meth:`try_out` says. ``clock`` gives seconds and
    never goes back.
    """

    def __init__(self, endpoints: Sequence[EndpointState], clock: Callable[[], float] = time.monotonic) -> None:
        self.endpoints = list(endpoints)
        self.gates: list[Gate] = []
        self.clock = clock
        self.proven = False
        self.is_shared = False
        self.due = float("inf")
        self._nudge = anyio.Event()
        self._now = 0.0

    def join(self, gate: Gate) -> None:
        self.gates.append(gate)
        self.is_shared = len(self.gates) > 1

    def part(self, gate: Gate) -> None:
        """This job run sends nothing more."""
        self.gates.remove(gate)
        self.is_shared = len(self.gates) > 1
        gate.close()
        self.pump()

    @property
    def waiting(self) -> int:
        """Rows that wait to be sent, of all job runs."""
        return sum(gate.waiting for gate in self.gates)

    def waiting_models(self) -> set[str]:
        """The models of the rows that wait to be sent, but for those of job runs that are paused."""
        return set().union(*(gate.waiting_models() for gate in self.gates if not gate.is_paused))

    def must_queue(self, gate: Gate) -> bool:
        """Whether rows of another job run wait, which may have to go first."""
        return any(other.waiting for other in self.gates if other is not gate)

    def went(self, gate: Gate) -> None:
        """A request of this job run was admitted."""
        self._now = gate.share.went(self._now)

    def pump(self) -> None:
        """Admit all that may go now, each time of the job run whose turn it is."""
        if not self.is_shared:
            for gate in self.gates:
                while gate.admit_next():
                    pass
            return
        while any(gate.admit_next() for gate in self._in_turn()):
            pass

    def _in_turn(self) -> list[Gate]:
        return sorted((gate for gate in self.gates if gate.waiting), key=lambda gate: gate.share.due(self._now))

    def prove(self, endpoint: EndpointState) -> None:
        """The endpoint answered as one that works does: open to its window."""
        if not endpoint.proven:
            endpoint.proven = self.proven = True
            self.pump()

    def try_out(self, endpoint: EndpointState, requests: int) -> None:
        """Let so many requests go at a time to an endpoint that is not proven yet."""
        endpoint.on_trial = requests
        self.pump()

    def pause(self, endpoint: EndpointState, why: str, message: Message | str = "", for_s: float | None = None) -> None:
        """Admit nothing to this endpoint until :meth:`resume` with the same reason, which ``message`` explains; in ``for_s``
        seconds, if that is known."""
        now = self.clock()
        endpoint.pauses[why] = Pause(Message.of(message), now, None if for_s is None else now + for_s)

    def resume(self, endpoint: EndpointState, why: str) -> None:
        """That reason is gone; with the last one requests go to the endpoint again."""
        if why not in endpoint.pauses:
            return
        del endpoint.pauses[why]
        if not endpoint.pauses:
            endpoint.pacer.allowance.resumed()
            endpoint.pacer.concurrency.reset(self.clock())
            self.pump()

    def close_endpoint(self, endpoint: EndpointState) -> bool:
        """Use this endpoint no more. False: it was the last one."""
        endpoint.closed = True
        endpoint.pauses.clear()
        self.pump()
        return any(not other.closed for other in self.endpoints)

    def serve_without(self, endpoint: EndpointState, models: Iterable[str]) -> None:
        """Send nothing of these models to this endpoint."""
        endpoint.without = frozenset(models)
        self.pump()

    def dismiss(self, model: str) -> None:
        """Admit nothing more of this model."""
        for gate in self.gates:
            gate.dismiss(model)
        self.pump()

    async def keep_time(self) -> None:
        """Admit those who wait for a moment when it comes. Runs until cancelled."""
        while True:
            with anyio.move_on_after(max(0.0, self.due - self.clock())):
                await self._nudge.wait()
                self._nudge = anyio.Event()
            if self.clock() >= self.due:
                self.due = float("inf")
                self.pump()

    def wake_at(self, moment: float) -> None:
        """Pump then at the latest."""
        if moment < self.due:
            self.due = moment
            self._nudge.set()

    @property
    def failing(self) -> bool:
        return any(endpoint.failing for endpoint in self.endpoints if endpoint.is_open)

    @property
    def may_pass_over(self) -> bool:
        """Whether one request may have to wait, for a limit or for another endpoint, while another may go."""
        return any(endpoint.pacer.allowance.may_pass_over or endpoint.without for endpoint in self.endpoints)

    def bound_by_slots(self) -> Bound:
        usable = [endpoint for endpoint in self.endpoints if endpoint.is_open]
        if not usable:
            return "waiting"
        all_are_allowed = any(endpoint.window >= endpoint.pacer.concurrency.allowed for endpoint in usable)
        return "concurrency" if all_are_allowed else "endpoint"
