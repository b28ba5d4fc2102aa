"""From a request to its row: workers, attempts, and what is done when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio
import msgspec

from . import classify, outcome, retry
from .client import Client
from .errors import AttemptError, RateLimited, RowFault, RunFault, StopReason, StorageError, Transient
from .feed import Feed
from .gate import Gate
from .job import RetrySection
from .keep import Keeper
from .model import Answer, Outcome, Request
from .outcome import Frame
from .pace import Cost, Pace
from .retry import Tries
from .tally import Tally

# So many rows given up without an answer to any other: is it the rows, or the endpoint?
_MOST_SUSPECTS = 5
# After so many refusals by a rate limit: is the row too large for it, or does it let nothing pass?
_MOST_REFUSALS = 50
_MAYBE_BILLED = {"timeout", "bad_answer", "empty_answer"}


class _Halted(Exception):
    """The run admits nothing more; the row stays unfinished."""


class _Row:
    """A request being asked. ``refused`` counts its refusals by a rate limit."""

    __slots__ = ("cost", "refused", "request", "started_at", "tries", "waiting")

    def __init__(self, request: Request, cost: Cost) -> None:
        self.request = request
        self.cost = cost
        self.refused = 0
        self.tries = Tries()
        self.started_at = 0
        self.waiting = False


class Asking:
    """Asks until the feed ends or the run is stopped; every final outcome goes to the keeper before its slot is free.

    ``stop`` is called with a reason and a sentence when the run must end; it closes the gate and the feed.
    """

    def __init__(
        self,
        policy: RetrySection,
        frame: Frame,
        client: Client,
        gate: Gate,
        pace: Pace,
        keeper: Keeper,
        tally: Tally,
        stop: Callable[[StopReason, str], None],
    ) -> None:
        self._policy = policy
        self._frame = frame
        self._client = client
        self._gate = gate
        self._pace = pace
        self._keeper = keeper
        self._tally = tally
        self._stop = stop
        self._suspects: list[Outcome] = []
        self._suspected_at = 0.0
        self._judging = anyio.Lock()
        self._answered: Request | None = None

    async def everything(self, feed: Feed, workers: int) -> None:
        """Ask all that the feed has, ``workers`` at a time at most."""
        async with anyio.create_task_group() as self._again, anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(self._work, feed)
        if self._suspects:
            await self._judge_suspects()

    async def _work(self, feed: Feed) -> None:
        while (request := await feed.take()) is not None:
            if request.fault is not None:
                self._keep(outcome.unaskable(self._frame, request, _now_us()))
                continue
            row = _Row(request, self._pace.cost(len(request.body), request.max_tokens))
            try:
                await self._attempt(row)
            except _Halted:
                pass
            except AttemptError as fault:
                if isinstance(fault, Transient) and row.waiting:
                    self._again.start_soon(self._persist, row, fault)
                else:
                    await self._give_up(row, fault)

    async def _persist(self, row: _Row, first: Transient) -> None:
        """The further attempts of a row, in a task of its own: its worker has gone on to the next."""
        try:
            await retry.persist(lambda: self._attempt(row), first, row.tries, self._policy, self._gate.sleep)
        except _Halted:
            pass
        except AttemptError as fault:
            await self._give_up(row, fault)
        finally:
            self._gate.end_backing_off()

    async def _attempt(self, row: _Row) -> Answer:
        """Send the row once, and keep its answer before anything else can happen.

        :raises AttemptError: if there is none.
        :raises _Halted: if nothing was sent because the run is stopping.
        """
        if not await self._gate.enter(row.cost, again=row.waiting):
            raise _Halted
        tally = self._tally
        row.started_at = row.started_at or _now_us()
        tally.requests_sent += 1
        tally.retries += row.tries.sent > 0
        began = time.monotonic()
        try:
            answer = await self._client.attempt(row.request)
            now = time.monotonic()
            row.tries.count(now - began, costs=True)
            made = outcome.answered(self._frame, row.request, self._effort(row), answer)
            self._keep(made)
            tally.use(answer.usage, made.cost)
            self._answered = row.request
            self._pace.settled(now, row.cost, answer.usage, billed=True)
            self._gate.prove()
            if self._suspects and began > self._suspected_at:
                self._clear_suspects()
            return answer
        except AttemptError as fault:
            raise self._failed_once(row, fault, began) from None
        finally:
            self._gate.leave()

    def _failed_once(self, row: _Row, fault: AttemptError, began: float) -> AttemptError:
        """Take note of a failed attempt, while its slot is still taken; returns what it means for the row."""
        now = time.monotonic()
        row.tries.count(now - began, costs=not isinstance(fault, RateLimited))
        self._pace.settled(now, row.cost, None, billed=fault.error_type in _MAYBE_BILLED)
        if isinstance(fault, RateLimited):
            self._tally.rate_limited += 1
            self._pace.refused(now, began, fault.retry_after_s)
            row.refused += 1
            if row.refused >= _MOST_REFUSALS:
                return classify.too_often(fault)
        if isinstance(fault, Transient) and self._tally.trouble is None:
            self._tally.trouble = fault.message
        if isinstance(fault, RunFault) and not self._maybe_of_a_row(fault):
            # Before the slot is free for the next to fail likewise.
            self._stop_for(fault)
        elif isinstance(fault, RowFault):
            self._gate.prove()
        elif isinstance(fault, Transient) and fault.blame == "row":
            self._gate.doubt_row(_MOST_SUSPECTS)
        if isinstance(fault, Transient) and not row.waiting and not retry.exhausted(fault, row.tries, self._policy):
            row.waiting = True
            self._gate.begin_backing_off()
        return fault

    def _maybe_of_a_row(self, fault: RunFault) -> bool:
        """After others were answered: moderation answers 403, and a row may itself name a model that is not there."""
        return self._answered is not None and (fault.http_status == 403 or fault.reason in ("model", "url"))

    def _stop_for(self, fault: RunFault) -> None:
        words = classify.advice(fault, with_key=self._client.has_key)
        self._stop(fault.reason, f"{words}. No row was marked failed")

    async def _give_up(self, row: _Row, fault: AttemptError) -> None:
        """A row gets no further attempt: is it to blame, or the endpoint?

        Unless the server's words tell, it is a suspect until another that is asked after it is answered: then it is marked
        failed. With too many suspects, or when nobody is left to be answered, the endpoint is asked for a single token.
        """
        made = outcome.failed(self._frame, row.request, self._effort(row), fault)
        if isinstance(fault, RowFault) and row.refused < _MOST_REFUSALS:
            self._keep(made)
            return
        if self._tally.stopped_by is not None:
            return
        self._suspects.append(made)
        self._last_suspect = row
        self._suspected_at = time.monotonic()
        self._gate.doubt_row(_MOST_SUSPECTS)
        never_worked = self._answered is None and isinstance(fault, Transient) and fault.blame == "endpoint"
        if never_worked or len(self._suspects) >= _MOST_SUSPECTS:
            await self._judge_suspects()

    async def _judge_suspects(self) -> None:
        async with self._judging:
            if self._suspects and self._tally.stopped_by is None and await self._endpoint_answers():
                self._gate.prove()
                self._clear_suspects()

    async def _endpoint_answers(self) -> bool:
        """Ask for one token, of a model that has answered if one has; if the endpoint does not answer, stop the run."""
        suspect = self._last_suspect
        request = _probe(self._answered or suspect.request)
        row = _Row(request, self._pace.cost(len(request.body), request.max_tokens))
        if not await self._gate.enter(row.cost, again=True):
            return False
        self._tally.requests_sent += 1
        try:
            answer = await self._client.attempt(request)
            self._tally.use(answer.usage, None)
            self._pace.settled(time.monotonic(), row.cost, answer.usage, billed=True)
            return True
        except AttemptError as fault:
            self._pace.settled(time.monotonic(), row.cost, None, billed=fault.error_type in _MAYBE_BILLED)
            if isinstance(fault, RunFault):
                self._stop_for(fault)
            elif isinstance(fault, Transient):
                tried = suspect.tries.sent
                self._stop(
                    "endpoint", f"the endpoint does not answer: {fault.message} (after {tried} attempts at one row)"
                )
            return isinstance(fault, RowFault)  # it works, if not for this
        finally:
            self._gate.leave()

    def _clear_suspects(self) -> None:
        suspects, self._suspects = self._suspects, []
        for made in suspects:
            self._keep(made)

    def _keep(self, made: Outcome) -> None:
        try:
            self._keeper.keep(made)
        except StorageError as error:
            self._tally.unstored += 1
            self._stop("disk", str(error))
            return
        self._tally.add(made)
        if self._keeper.full:
            self._stop("disk", "the disk is full: free some space")

    def _effort(self, row: _Row) -> outcome.Effort:
        return outcome.Effort(row.tries.sent, row.started_at, _now_us())


class _Model(msgspec.Struct):
    model: str


def _probe(request: Request) -> Request:
    """The smallest request to the same model."""
    model = msgspec.json.decode(request.body, type=_Model).model
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "ok"}], "model": model}
    return msgspec.structs.replace(request, body=msgspec.json.encode(body), max_tokens=1)


def _now_us() -> int:
    return time.time_ns() // 1_000
