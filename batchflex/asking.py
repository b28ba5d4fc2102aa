"""From a request to its row: workers, attempts, and what is done when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import anyio
import msgspec

from . import classify, outcome, reask, tries
from .accounts import Accounts
from .budget import Budget, Cost
from .errors import AttemptError, RateLimited, RowFault, RunFault, StopReason, StorageError, Transient
from .events import Event, Tell, ident, named, unquoted
from .failures import Failures
from .feed import Feed
from .gate import Gate
from .job import RetrySection
from .keep import Keeper
from .model import Outcome, Request
from .outcome import Frame
from .probing import Way
from .tally import Tally
from .tries import Tries
from .ways import Ways

# So many rows given up without an answer to any other: is it the rows, or the endpoint?
_MOST_SUSPECTS = 5
# After so many refusals by a rate limit that let others pass in between, the row is too large for it. From the second on it waits
# by itself, and no other waits for it.
_MOST_REFUSALS, _ALONE, _LONGEST_ALONE_S = 50, 2, 5.0
# An endpoint that asked to wait longer is not waited for to know whom to blame, where another can be asked.
_LONG_S = 5.0
# So many outages are no fault of the row that was caught in them. One that meets more may be what brings the server down.
_MOST_EXCUSED = 10
_NO_REASKS = reask.Policy()


class _Halted(Exception):
    """The run admits nothing more; the row stays unfinished."""


class _Row:
    """A request being asked. ``way`` is where it was sent last, as the request of that ``number``.

    ``planned`` is the request as it is in the plan; ``request`` goes on from an answer that did not fit, if there was one.
    ``sent_before`` are the requests that were sent for that. ``outages`` and ``completions`` are how many there had been
    there by then, ``failed_at`` is when it failed. ``refused`` counts refusals by a rate limit while others were answered,
    ``excused`` how often its failures were forgiven.
    """

    __slots__ = (
        "completions", "cost", "excused", "failed_at", "number", "outages", "planned", "refused", "request",
        "sent_before", "started_at", "tries", "waiting", "way",
    )  # fmt: skip

    def __init__(self, planned: Request, request: Request, cost: Cost) -> None:
        self.planned = planned
        self.request = request
        self.cost = cost
        self.sent_before = 0
        self.number = self.outages = self.completions = self.excused = 0
        self.failed_at = 0.0
        self.refused = 0
        self.tries = Tries()
        self.started_at = 0
        self.waiting = False
        self.way: Way | None = None


class _Suspect(NamedTuple):
    """A row given up at that moment, and where it was asked last."""

    made: Outcome
    fault: AttemptError
    row: _Row
    way: Way
    at: float


def _maybe_of_a_row(fault: RunFault, way: Way) -> bool:
    """After others were answered: moderation answers 403, and a row may itself name a model that is not there."""
    return way.completions > 0 and (fault.http_status == 403 or fault.reason in ("model", "url"))


class Asking:
    """Asks until the feed ends or the run is stopped; every final outcome goes to the keeper before its slot is free.

    ``stop`` is called with a reason and a sentence, and perhaps that without words of a server, when the run must end; it
    closes the gate and the feed. ``tell`` is told of what fails.
    """

    def __init__(
        self,
        policy: RetrySection,
        frame: Frame,
        ways: Ways,
        gate: Gate,
        budget: Budget,
        accounts: Accounts,
        keeper: Keeper,
        failures: Failures,
        tally: Tally,
        stop: Callable[[StopReason, str, str | None], None],
        tell: Tell,
        reasks: reask.Policy = _NO_REASKS,
    ) -> None:
        self._reasks = reasks
        self._policy = policy
        self._frame = frame
        self._ways = ways
        self._gate = gate
        self._budget = budget
        self._accounts = accounts
        self._keeper = keeper
        self._failures = failures
        self._tally = tally
        self._stop = stop
        self._tell = tell
        self._suspects: list[_Suspect] = []
        self._judged: set[int] = set()
        self._persisting = 0
        self._troubled = False
        self._changed = anyio.Event()

    async def everything(self, feed: Feed, workers: int) -> None:
        """Ask all that the feed has, ``workers`` at a time at most."""
        async with anyio.create_task_group() as watching:
            self._watching = watching
            self._ways.watch_in(watching, self._ask_suspects_again)
            async with anyio.create_task_group() as self._again:
                async with anyio.create_task_group() as tasks:
                    for _ in range(workers):
                        tasks.start_soon(self._work, feed)
                while self._tally.stopped_by is None and (self._persisting or self._suspects):
                    self._changed = anyio.Event()
                    if not self._persisting:
                        self._judge_suspects()
                    await self._changed.wait()
            watching.cancel_scope.cancel()

    async def _work(self, feed: Feed) -> None:
        while (request := await feed.take()) is not None:
            if request.fault is not None:
                self._keep(outcome.unaskable(self._frame, request, _now_us()), request)
                continue
            asked = None if request.before is None else reask.further(request, request.before, self._reasks)
            try:
                await self._see_through(self._row(request, asked or request))
            finally:
                if request.prefix is not None:
                    feed.back(request)

    def _row(self, planned: Request, asked: Request) -> _Row:
        return _Row(planned, asked, self._budget.cost(len(asked.body), asked.max_tokens, _model(asked.body).model))

    async def _see_through(self, row: _Row) -> None:
        """Ask until an answer fits or no further one is allowed; what fails is tried again by a task of its own."""
        further: _Row | None = row
        try:
            while further is not None:
                row = further
                further = await self._attempt(row)
        except _Halted:
            pass
        except AttemptError as fault:
            if isinstance(fault, Transient) and row.waiting:
                self._begin_persisting(row, fault)
            else:
                await self._give_up(row, fault)

    def _begin_persisting(self, row: _Row, first: Transient) -> None:
        self._persisting += 1
        self._again.start_soon(self._persist, row, first)

    async def _persist(self, row: _Row, first: Transient) -> None:
        """The further attempts of a row, in a task of its own: its worker has gone on to the next."""
        further = None
        try:
            try:
                further = await tries.persist(
                    lambda: self._attempt_again(row), first, row.tries, self._policy, self._gate.sleep
                )
            except _Halted:
                pass
            except AttemptError as fault:
                await self._give_up(row, fault)
            finally:
                self._gate.end_backing_off()
            if further is not None:
                await self._see_through(further)
        finally:
            self._persisting -= 1
            if not self._persisting:
                self._changed.set()

    async def _attempt_again(self, row: _Row) -> _Row | None:
        """As :meth:`_attempt`. Before the last attempt the endpoint has to have answered something since the one before."""
        way = row.way
        if way is not None and tries.is_last(row.tries, self._policy) and way.proof_at <= row.failed_at:
            if self._ways.others_than(way):
                self._excuse(row)
            elif self._ways.any_answered:
                await self._ways.works(way, row.request, row.failed_at, row.tries.sent)
        return await self._attempt(row)

    def _excuse(self, row: _Row) -> None:
        if row.excused < _MOST_EXCUSED:
            row.excused += 1
            row.tries.forgive()

    async def _attempt(self, row: _Row) -> _Row | None:
        """Send the row once, and keep its answer before anything else can happen. If it does not fit: what to ask next.

        :raises AttemptError: if there is none.
        :raises _Halted: if nothing was sent because the run is stopping.
        """
        lane = await self._gate.enter(row.cost, again=row.waiting)
        if lane is None:
            raise _Halted
        if row.way is not None and row.outages != row.way.outage.past:
            self._excuse(row)
        way = row.way = self._ways.of(lane)
        row.outages = way.outage.past
        tally = self._tally
        row.started_at = row.started_at or _now_us()
        tally.requests_sent += 1
        tally.retries += row.tries.sent > 0
        began, number = row.cost.sent_at, way.outage.sent()
        row.number = number
        try:
            answer = await way.client.attempt(
                row.request, lambda told: lane.pace.told(time.monotonic(), row.cost, told)
            )
            now = time.monotonic()
            row.tries.count(now - began, costs=True)
            made = outcome.answered(self._frame, row.request, self._effort(row), answer)
            further = self._further(row, made) if made.status == "invalid" else None
            self._keep(made, row.request, final=further is None)
            self._accounts.answered(lane, row.cost, answer.usage)
            self._ways.answered(way, number, row.request, began, first=not row.waiting)
            if self._suspects:
                self._clear_suspects(way)
            return further
        except AttemptError as fault:
            raise self._failed_once(row, way, fault, began) from None
        finally:
            self._ways.ended(way, number)
            self._gate.leave(lane)

    def _further(self, row: _Row, made: Outcome) -> _Row | None:
        asked = reask.further(row.planned, made, self._reasks)
        if asked is None:
            return None
        further = self._row(row.planned, asked)
        further.started_at, further.sent_before = row.started_at, row.sent_before + row.tries.sent
        return further

    def _failed_once(self, row: _Row, way: Way, fault: AttemptError, began: float) -> AttemptError:
        """Take note of a failed attempt, while its slot is still taken; returns what it means for the row."""
        now = row.failed_at = time.monotonic()
        first = not row.waiting
        of_row = classify.is_of_row(fault)
        alone = False
        if isinstance(fault, RateLimited):
            self._ways.understood(way, row.number, first=first)
            row.cost.refusals += 1
            if fault.limit_kind not in ("requests", "in_flight"):  # those are the same for every row
                others_passed = row.completions != way.completions
                if row.refused >= _ALONE and way.lane.in_flight == 1 and not self._gate.waiting:
                    others_passed = True  # all of them
                row.refused += others_passed
                alone = others_passed and row.refused >= _ALONE
            row.completions = way.completions
            if alone:
                fault.wait_s = min(_LONGEST_ALONE_S, fault.retry_after_s or 2.0 ** min(row.refused - _ALONE, 8))
        self._accounts.failed(way.lane, row.cost, fault, alone=alone)
        if isinstance(fault, RunFault) and not _maybe_of_a_row(fault, way):
            # Before the slot is free for the next to fail likewise.
            fault = self._ways.refuses(way, fault, row.request)
        elif isinstance(fault, RowFault):
            self._ways.understood(way, row.number, first=first)
            way.prove(began)
            self._gate.prove(way.lane)
        elif isinstance(fault, Transient) and not isinstance(fault, RateLimited):
            told = self._ways.failed(way, fault, row.number, row.request, first=first)
            fault = told if row.excused < _MOST_EXCUSED else fault
        row.tries.count(now - began, costs=tries.costs(fault))
        if isinstance(fault, RateLimited) and row.refused >= _MOST_REFUSALS:
            return classify.too_often(fault)
        if isinstance(fault, Transient):
            if tries.costs(fault) and not tries.exhausted(fault, row.tries, self._policy):
                self._tell_of_trouble(row, way, fault)
            if of_row:
                self._gate.doubt_row(_MOST_SUSPECTS)
            if not row.waiting and not tries.exhausted(fault, row.tries, self._policy):
                row.waiting = True
                self._gate.begin_backing_off()
        return fault

    def _tell_of_trouble(self, row: _Row, way: Way, fault: Transient) -> None:
        is_first, self._troubled = not self._troubled, True
        facts = {
            "id": row.planned.id,
            "endpoint": way.endpoint.name,
            "attempts": row.tries.sent,
            **classify.facts(fault),
        }
        words, bare = (f"trying again after a failure: {why}" for why in (fault.message, classify.unquoted(fault)))
        where = f"{bare} (row {row.planned.id}){ident(fault.request_id)}"
        self._tell(Event("retrying", words, where, "warning", facts, shown=is_first))

    async def _give_up(self, row: _Row, fault: AttemptError) -> None:
        """A row gets no further attempt: is it to blame, or the endpoint?

        Unless the server's words tell, it is a suspect until another that is asked after it is answered: then it is marked
        failed. With too many suspects, or when nobody is left to be answered, the endpoint is asked for a single token. If
        it was down, the row is asked again.
        """
        made = outcome.failed(self._frame, row.request, self._effort(row), fault)
        if isinstance(fault, RowFault) and row.refused < _MOST_REFUSALS:
            self._keep(made, row.request)
            return
        if self._tally.stopped_by is not None or row.way is None:
            return
        self._suspects.append(_Suspect(made, fault, row, row.way, time.monotonic()))
        self._gate.doubt_row(_MOST_SUSPECTS)
        never_worked = not self._ways.any_answered and isinstance(fault, Transient) and fault.blame == "endpoint"
        if never_worked or len(self._suspects) >= _MOST_SUSPECTS:
            self._gate.question(row.way.lane, True)
            self._judge_suspects()

    def _judge_suspects(self) -> None:
        """Find out whom to blame, for each endpoint in a task of its own: one may keep its probe waiting for long."""
        for way in {id(suspect.way): suspect.way for suspect in self._suspects}.values():
            if id(way) not in self._judged:
                self._judged.add(id(way))
                self._watching.start_soon(self._judge, way)

    async def _judge(self, way: Way) -> None:
        try:
            while self._tally.stopped_by is None and (suspects := [s for s in self._suspects if s.way is way]):
                held = way.lane.pauses or way.lane.pace.allowance.held_s(time.monotonic()) > _LONG_S
                if way.lane.closed or (held and self._ways.others_than(way)):
                    self._ask_suspects_again(way)
                elif way.lane.pauses:
                    self._gate.question(way.lane, False)
                    await self._ways.until_it_returns(way)
                else:
                    last = suspects[-1]
                    if await self._ways.works(way, last.row.request, last.at, last.row.tries.sent):
                        self._clear_suspects(way)
        finally:
            self._judged.discard(id(way))
            self._gate.question(way.lane, False)
            self._changed.set()

    def _clear_suspects(self, way: Way) -> None:
        """This endpoint has answered what was sent after these were given up: so it was them."""
        for suspect in [s for s in self._suspects if s.way is way and s.at < way.proof_at]:
            self._suspects.remove(suspect)
            self._keep(suspect.made, suspect.row.request)

    def _ask_suspects_again(self, way: Way) -> None:
        """They were given up while this endpoint was down, and are not to blame."""
        for suspect in [s for s in self._suspects if s.way is way]:
            self._suspects.remove(suspect)
            if suspect.row.excused >= _MOST_EXCUSED:
                self._keep(suspect.made, suspect.row.request)
                continue
            self._excuse(suspect.row)
            suspect.row.waiting = True
            self._gate.begin_backing_off()
            self._begin_persisting(suspect.row, classify.deferred(suspect.fault))

    def _keep(self, made: Outcome, request: Request, *, final: bool = True) -> None:
        """Keep an outcome. One that is not ``final`` is asked for again: should this run end before, by the next. A failure
        does not take the place of an answer that stands."""
        stays = outcome.stays(request, made)
        try:
            if not stays:
                self._keeper.keep(made)
        except StorageError as error:
            self._tally.unstored += 1
            self._stop("disk", str(error), None)
            return
        if not final:
            self._tally.add_unfit(made, request.stands)
        else:
            self._tally.add(made, request.stands, stays=stays)
            if useless := self._failures.add(made):
                self._stop("failures", useless, self._failures.unquoted)
            if made.status in ("failed", "invalid"):
                self._tell_of_row(made, request)
        if self._keeper.full:
            self._stop("disk", "the disk is full: free some space", None)

    def _tell_of_row(self, made: Outcome, request: Request) -> None:
        facts = {
            "status": made.status,
            **{name: getattr(made, name) for name in ("id", "row", "sample", "endpoint", "attempts", "http_status")},
            **{name: getattr(made, name) for name in ("error_type", "error_code", "request_id")},
        }
        is_failed = made.status == "failed"
        head = f"row {made.id} failed" if is_failed else f"the answer of row {made.id} does not fit"
        known_as = ident(made.request_id)
        bare = f"{head}: {unquoted(made)}{known_as}" if is_failed else f"{head}{known_as}"
        words = f"{head}: {made.error_message}{known_as}"
        self._tell(Event("row_failed", words, bare, "warning", named(facts), shown=False, request=request.body))

    def _effort(self, row: _Row) -> outcome.Effort:
        name = row.way.endpoint.name if row.way else None
        return outcome.Effort(row.sent_before + row.tries.sent, row.started_at, _now_us(), name)


class _Body(msgspec.Struct):
    model: str = ""


_model = msgspec.json.Decoder(_Body).decode


def _now_us() -> int:
    return time.time_ns() // 1_000
