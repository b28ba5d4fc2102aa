"""Refusals in words that may be about whoever asks: they are of a row once the same model answers something sent later."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from . import classify
from .budget import Cost
from .errors import AttemptError
from .model import Outcome, Request
from .params import model_of
from .probing import Way
from .tally import Tally
from .tries import Tries
from .ways import ALIKE, MEND, Ways

# So many rows refused before that model has answered anything: is it the rows, or the run?
_MOST_AT_FIRST = 5
# So many in a row of one that has.
_MOST_IN_A_ROW = 20


class Asked:
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


class Suspect(NamedTuple):
    """A row given up at that moment, and where it was asked last. ``made`` is its row, if it is to blame."""

    made: Outcome
    fault: AttemptError
    row: Asked
    way: Way
    at: float


class Refusals:
    """Holds refused rows until it is known whose fault it is. In time, memory is bounded by what is refused between two answers.

    ``models`` are those that the job names: where whatever one of them is asked is refused, it is set aside, and the others are
    still asked. ``held`` are the rows for which it is not known yet whom to blame, by endpoint and model, in the order of time.
    ``confirm`` is called with each row that is to blame, ``ask_again`` with those to be asked elsewhere.
    """

    def __init__(
        self,
        ways: Ways,
        models: Collection[str],
        tally: Tally,
        confirm: Callable[[Suspect], None],
        ask_again: Callable[[Sequence[Suspect]], None],
    ) -> None:
        self._ways = ways
        self._models = frozenset(models)
        self._tally = tally
        self._confirm = confirm
        self._ask_again = ask_again
        self.held: dict[tuple[Way, str], deque[Suspect]] = {}  # in the order of time
        self._answering: set[tuple[Way, str]] = set()

    def add(self, suspect: Suspect) -> tuple[Way, str] | None:
        """A row was refused. Returns the endpoint and the model if it is time to :meth:`judge`."""
        way = suspect.way
        key = way, model_of(suspect.row.request.body)
        if self._ways.is_set_aside(suspect.row.request):
            return None
        held = self.held.setdefault(key, deque())
        held.append(suspect)
        has_answered = key in self._answering or (way.completions > 0 and len(self._models) == 1)
        return key if len(held) >= (_MOST_IN_A_ROW if has_answered else _MOST_AT_FIRST) else None

    def answered(self, way: Way, request: Request, sent_at: float) -> None:
        """An answer came to what was sent then: what that model had refused before is of the rows."""
        self._clear(way, model_of(request.body), sent_at)

    def _clear(self, way: Way, model: str, sent_at: float) -> None:
        self._answering.add((way, model))
        held = self.held.get((way, model))
        while held and held[0].at <= sent_at:
            self._confirm(held.popleft())
        if held is not None and not held:
            self.held.pop((way, model), None)

    async def judge(self, way: Way, model: str) -> None:
        """Ask that model for one token: if it says the same to that, it is not the rows."""
        while self._tally.stopped_by is None and (held := self.held.get((way, model))):
            last, asked_at = held[-1], time.monotonic()
            if self._ways.is_set_aside(last.row.request):
                del self.held[way, model]
            elif way.lane.closed or (not way.lane.is_open and self._ways.others_than(way)):
                self._ask_again(self.held.pop((way, model)))
            elif not way.lane.is_open:
                await self._ways.until_it_returns(way)
            elif await self._ways.works(way, last.row.request, last.at, last.row.tries.sent, last.fault):
                self._clear(way, model, asked_at)
                if len(held) < _MOST_IN_A_ROW:  # refused meanwhile: more may be answered
                    return
            elif way.lane.is_open and self._tally.stopped_by is None and last in held:
                self._give_up(way, model, last.fault)

    def _give_up(self, way: Way, model: str, fault: AttemptError) -> None:
        """Whatever this model is asked is refused there: ask another endpoint, or other models, or stop."""
        if self._ways.others_left(way):
            self._ways.refuses_all(way, fault)
            return
        for each in [each for each in self.held if each[1] == model]:
            del self.held[each]
        which = f", sent to the model {model}" if len(self._models) != 1 else ""
        words, bare = (
            f"{ALIKE}{which}: {why} (HTTP {fault.http_status}); {MEND}"
            for why in (fault.message, classify.unquoted(fault))
        )
        self._ways.set_aside(way, model, "failures", fault, words, bare)
