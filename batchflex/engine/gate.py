"""A job run's entry to the endpoints: its rows in their order, and what its budget says.

Nothing is awaited where a slot is free and the pace allows it. A row that waits for another attempt holds no slot.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio

from ..core import StopReason
from ..endpoint import Cost
from .admission import Admission, Bound, FairShare
from .budget import GO, Budget
from .endpoint_state import EndpointState

_POLL_S = 0.05  # a probe checks so often whether it may go
_REFUSED = 2  # what a limit has refused so often lets others go first
# So many of those that wait are tried for one that may go before the first, which is not passed for longer than this.
_MOST_PASSED, _PATIENCE_S = 64, 60.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """``passed_at`` is when another went before it."""

    cost: Cost
    decided: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    endpoint: EndpointState | None = None
    passed_at: float | None = None

    def decide(self) -> None:
        if not self.decided.done():
            self.decided.set_result(None)


class Gate:
    """Admits the attempts of one job run; sends each where there is room.

    Until :meth:`try_rows` no other row begins, before an endpoint has proven itself, while the first one has to be tried again:
    one request is enough to learn that a key is wrong. ``most_backing_off`` bounds the rows that wait for another attempt;
    beyond it no new row begins. ``on_stop`` is called once, when the budget says that the run must end, with a reason and a
    sentence. ``weight`` is its share of what is free, beside other job runs.
    """

    def __init__(
        self,
        admission: Admission,
        budget: Budget,
        most_backing_off: int,
        on_stop: Callable[[StopReason, str], None],
        weight: float = 1.0,
    ) -> None:
        self.admission = admission
        self.endpoints = admission.endpoints
        self.share = FairShare(weight)
        self.in_flight = 0
        self.backing_off = 0
        self.closed = False
        self.is_paused = False
        self.why_paused = ""
        self._budget = budget
        self._most_backing_off = most_backing_off
        self._on_stop = on_stop
        self._clock = admission.clock
        self._rows_on_trial = 1
        self._fresh: deque[_Waiter] = deque()
        self._again: deque[_Waiter] = deque()
        self._closing = anyio.Event()
        self._bound: Bound | None = None  # unless it is slots
        self._others_may_go = False  # though the latest that was looked at had to wait
        self._backing_off: Counter[str] = Counter()
        self._refused_next = False
        admission.join(self)

    @property
    def waiting(self) -> int:
        """Rows that wait to be sent."""
        return len(self._again) + len(self._fresh)

    @property
    def bound(self) -> Bound | None:
        """What keeps more from being sent; ``None`` if there is room and nothing that waits for it."""
        if self.is_paused:
            return "waiting"
        if self._again or self._fresh:
            may_begin = self._may_begin(again=bool(self._again))
            return (self._bound or self.admission.bound_by_slots()) if may_begin else "endpoint"
        return None if any(each.has_room for each in self.endpoints) else self.admission.bound_by_slots()

    async def enter(self, cost: Cost, *, again: bool = False) -> EndpointState | None:
        """Take a slot, waiting for it; ``again`` goes before new rows. ``None``: nothing more is admitted."""
        if self.closed:
            return None
        queue = self._again if again else self._fresh
        admission = self.admission
        must_queue = queue or self.is_paused or (admission.is_shared and admission.must_queue(self))
        may_begin = (admission.proven and not (self.backing_off or self._again)) or self._may_begin(again=again)
        if not must_queue and may_begin and (endpoint := self._admit(cost)) is not None:
            return endpoint
        if self.closed:
            return None
        waiter = _Waiter(cost)
        queue.append(waiter)
        if admission.is_shared or admission.may_pass_over:
            admission.pump()
        try:
            await waiter.decided
        except BaseException:
            if waiter.endpoint is not None:
                self.give_back(waiter.endpoint, cost)
            elif waiter in queue:
                queue.remove(waiter)
            raise
        return waiter.endpoint

    async def enter_as_probe(self, endpoint: EndpointState, cost: Cost) -> bool:
        """Take the next slot of an endpoint, be it paused, when every limit allows it. False: nothing is admitted now."""
        endpoint.probe_waits = True
        self._backing_off[cost.model] += 1  # rows wait for what it finds out
        try:
            while not (self.closed or self.is_paused or endpoint.closed):
                now = self._clock()
                wait_s = endpoint.pacer.wait_s(now, cost)
                if wait_s <= 0 and endpoint.in_flight < endpoint.window and self._affordable(now, cost):
                    self._take(endpoint, cost, now)
                    return True
                await self.sleep(min(_POLL_S, wait_s) if wait_s > 0 else _POLL_S)
            return False
        finally:
            endpoint.probe_waits = False
            self._backing_off[cost.model] -= 1
            self.admission.pump()

    def _take(self, endpoint: EndpointState, cost: Cost, now: float) -> None:
        if self._budget.is_bounded:
            self._budget.sent(cost)
        self.in_flight += 1
        endpoint.in_flight += 1
        endpoint.sent_at = now
        endpoint.pacer.sent(now, cost, endpoint.in_flight)
        if self.admission.is_shared:
            self.admission.went(self)

    def give_back(self, endpoint: EndpointState, cost: Cost) -> None:
        """Give back a slot in which nothing was sent."""
        self._budget.settled(cost, None, billed=False, sent=False)
        endpoint.pacer.unsent(self._clock(), cost, endpoint.in_flight - 1)
        self.leave(endpoint)

    def leave(self, endpoint: EndpointState) -> None:
        """Give the slot back."""
        self.in_flight -= 1
        endpoint.in_flight -= 1
        endpoint.pacer.ended(self._clock())
        if self._again or self._fresh or self.admission.is_shared:
            self.admission.pump()

    def begin_backing_off(self, model: str = "") -> None:
        """A row of this model waits for another attempt, at the gate or elsewhere."""
        self.backing_off += 1
        self._backing_off[model] += 1

    def end_backing_off(self, model: str = "") -> None:
        self.backing_off -= 1
        self._backing_off[model] -= 1
        self.admission.pump()

    def waiting_models(self) -> set[str]:
        """The models of the rows that wait to be sent, be it for another time, or for what a probe finds out."""
        queued = {waiter.cost.model for queue in (self._again, self._fresh) for waiter in queue}
        return queued.union(+self._backing_off)

    def try_rows(self, rows: int) -> None:
        """The failure may be the row's own: before any endpoint has proven itself, so many rows may be on trial."""
        self._rows_on_trial = rows
        self.admission.pump()

    def await_verdict(self, endpoint: EndpointState, doubted: bool) -> None:
        """Whether rows have to wait there until it is known who is to blame for failures."""
        (endpoint.awaiting_verdict.add if doubted and not self.closed else endpoint.awaiting_verdict.discard)(self)
        self.admission.pump()

    def pause(self, why: str) -> None:
        """Admit nothing until :meth:`resume`; what is in flight goes on. ``why`` is a sentence."""
        self.is_paused, self.why_paused = True, why
        self._await_no_verdict()
        self.admission.pump()

    def resume(self) -> None:
        self.is_paused = False
        for endpoint in self.endpoints:  # a pause is no time in which it has let nothing through
            endpoint.pacer.allowance.resumed()
        self.admission.pump()

    def dismiss(self, model: str) -> None:
        """Admit nothing of those that wait with this model."""
        for queue in (self._again, self._fresh):
            for waiter in [waiter for waiter in queue if waiter.cost.model == model]:
                queue.remove(waiter)
                waiter.decide()

    def close(self) -> None:
        """Admit nothing more, also of those that wait."""
        self.closed = True
        self._closing.set()
        self._await_no_verdict()
        for queue in (self._again, self._fresh):
            while queue:
                queue.popleft().decide()

    def _await_no_verdict(self) -> None:
        """Other job runs need not wait for what this one does not send now."""
        for endpoint in self.endpoints:
            endpoint.awaiting_verdict.discard(self)

    def due_s(self, now: float) -> float | None:
        """Seconds until the next of those that wait for a moment may go; ``None`` if none does."""
        due = self.admission.due
        return due - now if self.waiting and due < float("inf") else None

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not beyond :meth:`close`."""
        with anyio.move_on_after(seconds):
            await self._closing.wait()

    def _may_begin(self, *, again: bool) -> bool:
        if again:
            return True
        most = self._most_backing_off if self.admission.proven else self._rows_on_trial
        return self.backing_off < most and (not self._again or self.admission.failing)

    def _next(self) -> deque[_Waiter] | None:
        """Those of whom the first may begin."""
        if self._fresh and self._may_begin(again=False):
            return self._fresh
        if self._fresh and self._again and self._again[0].cost.refusals >= _REFUSED and self._room_for_fresh:
            # What is refused again and again takes turns with others: it may be too large for the limit, and they are not.
            return self._again if self._refused_next else self._fresh
        return self._again or None

    @property
    def _room_for_fresh(self) -> bool:
        return self.admission.proven and self.backing_off < self._most_backing_off

    def _past_the_first(self, now: float) -> tuple[deque[_Waiter], int, EndpointState] | None:
        """One that may go while the first has to wait for a limit of its model, or of tokens, or for an endpoint that has its
        model. Nobody is passed for long."""
        blocked: dict[str, float] = {}
        for queue in (self._again, self._fresh) if self._room_for_fresh else (self._again,):
            for at, waiter in enumerate(itertools.islice(queue, _MOST_PASSED)):
                cost = waiter.cost
                size = cost.body_bytes + (cost.max_tokens or 0)
                if size >= blocked.get(cost.model, float("inf")):
                    continue
                if (endpoint := self._admit(cost)) is not None:
                    return queue, at, endpoint
                if not self._others_may_go:
                    return None
                waiter.passed_at = now if waiter.passed_at is None else waiter.passed_at
                blocked[cost.model] = 0.0 if now - waiter.passed_at > _PATIENCE_S else size
        return None

    def _admit(self, cost: Cost) -> EndpointState | None:
        """The endpoint on which the attempt goes now, taken; ``None`` if it has to wait, for what :attr:`bound` says."""
        now = self._clock()
        best: EndpointState | None = None
        least, soonest, roomy = float("inf"), float("inf"), False
        self._others_may_go = False
        for endpoint in self.endpoints:
            if not endpoint.has_room:
                continue
            if endpoint.without and cost.model in endpoint.without:
                self._others_may_go = True
                continue
            roomy = True
            wait = endpoint.pacer.wait_s(now, cost)
            if wait > 0:
                soonest = min(soonest, wait)
            elif len(self.endpoints) == 1:
                best = endpoint
            elif (load := endpoint.in_flight / endpoint.window) < least:
                best, least = endpoint, load
        if not roomy:
            self._bound = None
            return None
        if self._budget.is_limited and not self._affordable(now, cost):
            self._bound = "budget"
            self._others_may_go = False
            return None
        if best is None:
            self._bound = "quota"
            self._others_may_go = True
            self.admission.wake_at(now + min(soonest, self._budget.left_s(now)))
            return None
        self._take(best, cost, now)
        return best

    def _affordable(self, now: float, cost: Cost) -> bool:
        verdict = self._budget.verdict(now, cost)
        if verdict.stop is not None:
            self.close()
            self._on_stop(verdict.stop, verdict.why)
        return verdict is GO

    def admit_next(self) -> bool:
        """Admit the next of those that wait, if one may go. False: none may."""
        if self.closed or self.is_paused or (queue := self._next()) is None:
            return False
        at = 0
        if (endpoint := self._admit(queue[0].cost)) is None:
            admission = self.admission
            if not (self._others_may_go and admission.may_pass_over) or not (
                found := self._past_the_first(self._clock())
            ):
                return False
            queue, at, endpoint = found
        waiter = queue[at]
        del queue[at]
        self._refused_next = queue is self._fresh
        waiter.endpoint = endpoint
        waiter.decide()
        return True
