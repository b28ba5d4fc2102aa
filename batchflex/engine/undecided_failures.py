"""Who is to blame for a failed row: the row, or the endpoint or model it was sent to?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from anyio.abc import TaskGroup

from ..core import AttemptError, Outcome, RunFault, Transient
from ..protocol import failure_text
from .endpoint_pool import EndpointPool
from .endpoint_state import EndpointState
from .pending_row import PendingRow
from .probes import Prober

# With so many rows failed and no other answered, or refused before that model has answered anything, a probe finds out who is to
# blame.
MOST_UNDECIDED = 5
# The same for refusals in a row by a model that has answered.
_MOST_IN_A_ROW = 20
# Where the endpoint asked to wait longer, the rows go to another one, if there is one, in place of a probe.
_LONG_S, _POLL_S = 5.0, 0.2
_ALIKE = "the endpoint refuses the smallest request with the same words as the rows"
_MEND = "see to what these words say, and run the same command again"


class UndecidedRow(NamedTuple):
    """A row without further attempts, since ``at``, and the endpoint that it was sent to last. ``made`` is its outcome if it is
    to blame. With ``is_refusal`` the server's words may be about the account or the model; without, it failed as if the endpoint
    were down."""

    made: Outcome
    fault: AttemptError
    row: PendingRow
    state: EndpointState
    at: float
    is_refusal: bool


class UndecidedFailures:
    """Rows awaiting a verdict. They are to blame once the same model, at the same endpoint, answers something sent later: another
    row, or a probe. So memory is bounded by what fails between two answers.

    ``models`` are those that the job names. ``rows`` are by endpoint and model, in the order of time. ``confirm`` is called with
    each row that is to blame, ``resend`` with those to send again or elsewhere, ``changed`` when some may have gone. Probes go
    in ``tasks``, one for each model at an endpoint: it may have to wait for long.
    """

    def __init__(
        self,
        pool: EndpointPool,
        prober: Prober,
        models: Collection[str],
        *,
        confirm: Callable[[UndecidedRow], None],
        resend: Callable[[Sequence[UndecidedRow]], None],
        changed: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._prober = prober
        self._gate = prober.gate
        self._models = frozenset(models)
        self._confirm = confirm
        self._resend = resend
        self._changed = changed
        self._deciding: set[tuple[EndpointState, str]] = set()
        self.rows: dict[tuple[EndpointState, str], list[UndecidedRow]] = {}
        self.tasks: TaskGroup

    def add(self, each: UndecidedRow) -> None:
        """A row got no answer. With too many of them, or before anything was answered, a probe is sent."""
        state, model = key = each.state, each.row.request.model
        if self._pool.is_disabled_everywhere(model):
            self._end(state, model)
            return
        self.rows.setdefault(key, []).append(each)
        if each.is_refusal:
            if self._are_due(key):
                if not state.completions:
                    self._gate.await_verdict(state, True)
                self._begin(key)
            return
        self._gate.try_rows(MOST_UNDECIDED)
        fault = each.fault
        never_worked = not self._pool.any_answered and isinstance(fault, Transient) and fault.blame == "endpoint"
        if never_worked or sum(not other.is_refusal for rows in self.rows.values() for other in rows) >= MOST_UNDECIDED:
            if not state.completions or isinstance(fault, RunFault):  # else a new row may be answered before a probe is
                self._gate.await_verdict(state, True)
            self.decide_all(refusals=False)

    def decide_all(self, *, refusals: bool = True) -> None:
        """Send probes for all; without ``refusals`` not for models of which there are only these."""
        for key, rows in list(self.rows.items()):
            if refusals or not all(each.is_refusal for each in rows):
                self._begin(key)

    def take(self, state: EndpointState) -> list[UndecidedRow]:
        """Remove and return those that failed while this endpoint was down, but for rows that met too many outages."""
        keys = [key for key in self.rows if key[0] is state]
        return [each for key in keys for each in self._take(key, refusals=False)]

    def _take(self, key: tuple[EndpointState, str], *, refusals: bool) -> list[UndecidedRow]:
        """Remove and return those that may be sent again."""
        return self._remove(key, lambda each: each.row.may_be_forgiven and (refusals or not each.is_refusal))

    def _remove(self, key: tuple[EndpointState, str], goes: Callable[[UndecidedRow], bool]) -> list[UndecidedRow]:
        rows = self.rows.pop(key, [])
        if stay := [each for each in rows if not goes(each)]:
            self.rows[key] = stay
        return [each for each in rows if goes(each)]

    def _are_due(self, key: tuple[EndpointState, str]) -> bool:
        """Whether there are so many of one model that a probe is due; one that is said not to be there is enough."""
        state, model = key
        rows = self.rows.get(key, ())
        refusals = sum(each.is_refusal for each in rows)
        most = _MOST_IN_A_ROW if state.of(model).completions else MOST_UNDECIDED
        of_model = any(each.is_refusal and isinstance(each.fault, RunFault) for each in rows)
        return of_model or refusals >= most or len(rows) - refusals >= MOST_UNDECIDED

    def answered(self, state: EndpointState, model: str, sent_at: float, *, refusals: bool = True) -> None:
        """What was sent then was answered: rows that had failed before are to blame; without ``refusals`` only those whose
        failure is none."""
        before = self._remove((state, model), lambda each: each.at <= sent_at and (refusals or not each.is_refusal))
        for each in before:
            self._confirm(each)

    def _begin(self, key: tuple[EndpointState, str]) -> None:
        if key not in self._deciding:
            self._deciding.add(key)
            self.tasks.start_soon(self._decide, *key)

    async def _decide(self, state: EndpointState, model: str) -> None:
        """Probe that model: an answer means that the rows are to blame; the same refusal means that they are not."""
        try:
            while not self._gate.closed and (rows := self.rows.get((state, model))):
                last = rows[-1]
                refusal = next((each.fault for each in reversed(rows) if each.is_refusal), None)
                waits = state.pauses or state.pacer.held_s(time.monotonic(), model) > _LONG_S
                elsewhere = waits and self._pool.others_than(state, model)
                if self._pool.is_disabled_everywhere(model):
                    del self.rows[state, model]
                elif self._pool.is_disabled(state, model):
                    self._resend(self.rows.pop((state, model)))
                elif elsewhere and (movable := self._take((state, model), refusals=True)):
                    self._resend(movable)
                elif state.pauses or self._gate.is_paused:
                    self._end(state, model)
                    await self._gate.sleep(_POLL_S)
                elif proof := await self._pool.find_proof(
                    self._prober, state, last.row.request, last.at, last.row.tries.sent, refusal
                ):
                    self.answered(state, model, proof, refusals=refusal is not None)
                    if not self._are_due((state, model)):  # those that came since: more may be answered
                        return
                elif self._prober.is_over or refusal is None or not state.is_open:
                    continue
                elif last in self.rows.get((state, model), ()):
                    self._disable(state, model, refusal)
        finally:
            self._deciding.discard((state, model))
            self._end(state, model)
            self._changed()

    def _end(self, state: EndpointState, model: str) -> None:
        self._pool.question(state, model, is_open=False)
        self._gate.await_verdict(state, False)

    def _disable(self, state: EndpointState, model: str, fault: AttemptError) -> None:
        """Everything sent to this model is refused there: send it elsewhere, or other models, or stop."""
        which = f", sent to the model {model}" if len(self._models) != 1 else ""
        message = f"{_ALIKE}{which}: " + failure_text.why(fault) + f" (HTTP {fault.http_status}); {_MEND}"
        self._pool.disable(state, model, "failures", fault, message)
