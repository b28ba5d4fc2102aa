"""Whose fault is it that a row failed: its own, or that of the endpoint or of the model it was sent to?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from anyio.abc import TaskGroup

from ..core import AttemptError, Outcome, Request, RunFault, Transient
from ..endpoint import Cost, Tries
from ..protocol import failure_text
from ..storage import RunState
from .endpoint_pool import EndpointPool
from .endpoint_state import EndpointState
from .probes import Prober

# So many rows given up without an answer to any other, or refused before that model has answered anything: is it the rows?
MOST_HELD = 5
# So many outages are no fault of the row that was caught in them. One that meets more may be what brings the server down.
MOST_EXCUSED = 10
# So many refused in a row by one that has.
_MOST_IN_A_ROW = 20
# An endpoint that asked to wait longer is not waited for to know whom to blame, where another can be asked.
_LONG_S, _MOMENT_S = 5.0, 0.2
_ALIKE = "the endpoint refuses the smallest request with the same words as the rows"
_MEND = "see to what these words say, and run the same command again"


class Asked:
    """A request being asked. ``state`` is where it was sent last, as the request of that ``number``.

    ``planned`` is the request as it is in the plan; ``request`` goes on from an answer that did not fit, if there was one.
    ``sent_before`` are the requests that were sent for that. ``outages``, ``completions`` and ``of_model`` (completions of its
    model) are how many there had been there by then, ``failed_at`` is when it failed. ``refused`` counts refusals by a rate limit
    while others were answered, ``passed`` those while others of its model were, ``excused`` how often its failures were
    forgiven.
    """

    __slots__ = (
        "completions",
        "cost",
        "excused",
        "failed_at",
        "number",
        "of_model",
        "outages",
        "passed",
        "planned",
        "refused",
        "request",
        "sent_before",
        "started_at",
        "state",
        "tries",
        "waiting",
    )  # fmt: skip

    def __init__(self, planned: Request, request: Request, cost: Cost) -> None:
        self.planned = planned
        self.request = request
        self.cost = cost
        self.sent_before = 0
        self.number = self.outages = self.completions = self.of_model = self.excused = 0
        self.failed_at = 0.0
        self.refused = self.passed = 0
        self.tries = Tries()
        self.started_at = 0
        self.waiting = False
        self.state: EndpointState | None = None


class Held(NamedTuple):
    """A row given up at that moment, and where it was asked last. ``made`` is its row, if it is to blame. ``is_refusal`` tells
    that it was refused in words that may be about whoever asks; else it failed as it might where the endpoint does not work."""

    made: Outcome
    fault: AttemptError
    row: Asked
    state: EndpointState
    at: float
    is_refusal: bool


class Verdicts:
    """Holds rows that were given up until it is known whose fault it is. They are to blame once the same model, at the same
    endpoint, answers something sent later: another row, or a request for one token. In time, memory is bounded by what fails
    between two answers.

    ``models`` are those that the job names. ``held`` are the rows, by endpoint and model, in the order of time. ``confirm`` is
    called with each row that is to blame, ``ask_again`` with those to be asked again or elsewhere, ``changed`` when fewer may be
    held.
    """

    def __init__(
        self,
        pool: EndpointPool,
        prober: Prober,
        models: Collection[str],
        run_state: RunState,
        confirm: Callable[[Held], None],
        ask_again: Callable[[Sequence[Held]], None],
        changed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._prober = prober
        self._gate = prober.gate
        self._models = frozenset(models)
        self._run_state = run_state
        self._confirm = confirm
        self._ask_again = ask_again
        self._changed = changed
        self._judged: set[tuple[EndpointState, str]] = set()
        self.held: dict[tuple[EndpointState, str], deque[Held]] = {}

    def judge_in(self, tasks: TaskGroup) -> None:
        """Where the tasks run that ask endpoints whom to blame, one for each model: one may keep its probe waiting for long."""
        self._tasks = tasks

    def add(self, each: Held) -> None:
        """A row was given up. With too many of them, or before anything was answered, it is time to find out."""
        state, model = key = each.state, each.row.request.model
        if self._pool.is_set_aside(model):
            return
        self.held.setdefault(key, deque()).append(each)
        if each.is_refusal:
            if self._are_due(key):
                if not state.completions:
                    self._gate.question(state, True)
                self._begin(key)
            return
        self._gate.doubt_row(MOST_HELD)
        fault = each.fault
        never_worked = not self._pool.any_answered and isinstance(fault, Transient) and fault.blame == "endpoint"
        if never_worked or sum(not other.is_refusal for held in self.held.values() for other in held) >= MOST_HELD:
            if not state.completions or isinstance(
                fault, RunFault
            ):  # else new rows may be answered sooner than a probe
                self._gate.question(state, True)
            self.judge_all(refusals=False)

    def judge_all(self, *, refusals: bool = True) -> None:
        """Find out whom to blame; unless that is meant, not for models of which there are only ``refusals``."""
        for key, held in list(self.held.items()):
            if refusals or not all(each.is_refusal for each in held):
                self._begin(key)

    def answered(self, state: EndpointState, model: str, sent_at: float) -> None:
        """An answer came to what was sent then: what had failed before is the rows' fault."""
        self._clear(state, model, sent_at)

    def take(self, state: EndpointState) -> list[Held]:
        """Those that failed while this endpoint was down, and were caught in not too many outages: they are held no more."""
        keys = [key for key in self.held if key[0] is state]
        return [each for key in keys for each in self._take(key, refusals=False)]

    def _take(self, key: tuple[EndpointState, str], *, refusals: bool) -> list[Held]:
        """Those that may be asked again."""
        held = self.held[key]
        found = [each for each in held if each.row.excused < MOST_EXCUSED and (refusals or not each.is_refusal)]
        self._keep(key, [each for each in held if each not in found])
        return found

    def _keep(self, key: tuple[EndpointState, str], held: Iterable[Held]) -> None:
        self.held[key] = deque(held)
        if not self.held[key]:
            del self.held[key]

    def _are_due(self, key: tuple[EndpointState, str]) -> bool:
        """Whether so many are held of one model that it is to be asked whom to blame."""
        state, model = key
        held = self.held.get(key, ())
        refusals = sum(each.is_refusal for each in held)
        most = _MOST_IN_A_ROW if state.of(model).completions else MOST_HELD
        return refusals >= most or len(held) - refusals >= MOST_HELD

    def _clear(self, state: EndpointState, model: str, sent_at: float, *, refusals: bool = True) -> None:
        """Blame what failed before that, ``refusals`` too, or only what is none."""
        held = self.held.get((state, model), ())
        clear = [each for each in held if each.at <= sent_at and (refusals or not each.is_refusal)]
        if clear:
            self._keep((state, model), [each for each in held if each not in clear])
            for each in clear:
                self._confirm(each)

    def _begin(self, key: tuple[EndpointState, str]) -> None:
        if key not in self._judged:
            self._judged.add(key)
            self._tasks.start_soon(self._judge, *key)

    async def _judge(self, state: EndpointState, model: str) -> None:
        """Ask that model for one token: if it is answered, it is the rows; not if it says the same to that."""
        try:
            while self._run_state.stopped_by is None and (held := self.held.get((state, model))):
                last = held[-1]
                refusal = next((each.fault for each in reversed(held) if each.is_refusal), None)
                waits = state.pauses or state.pacer.held_s(time.monotonic(), model) > _LONG_S
                elsewhere = waits and self._pool.others_than(state, model)
                if self._pool.is_set_aside(model):
                    del self.held[state, model]
                elif self._pool.is_disabled(state, model):
                    self._ask_again(self.held.pop((state, model)))
                elif elsewhere and (movable := self._take((state, model), refusals=True)):
                    self._ask_again(movable)
                elif state.pauses or self._gate.held:
                    self._gate.question(state, False)
                    await self._gate.sleep(_MOMENT_S)
                elif proof := await self._works(state, last, refusal):
                    self._clear(state, model, proof, refusals=refusal is not None)
                    if not self._are_due((state, model)):  # those that came since: more may be answered
                        return
                elif self._prober.is_over or refusal is None or not state.is_open:
                    continue
                elif last in self.held.get((state, model), ()):
                    self._give_up(state, model, refusal)
        finally:
            self._judged.discard((state, model))
            self._gate.question(state, False)
            self._changed()

    async def _works(self, state: EndpointState, last: Held, refusal: AttemptError | None) -> float | None:
        row = last.row
        return await self._pool.works(self._prober, state, row.request, last.at, row.tries.sent, refusal)

    def _give_up(self, state: EndpointState, model: str, fault: AttemptError) -> None:
        """Whatever this model is asked is refused there: ask it elsewhere, or other models, or stop."""
        which = f", sent to the model {model}" if len(self._models) != 1 else ""
        message = f"{_ALIKE}{which}: " + failure_text.why(fault) + f" (HTTP {fault.http_status}); {_MEND}"
        self._pool.disable(state, model, "failures", fault, message)
