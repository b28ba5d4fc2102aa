"""What counts as proof that a failure is the row's own, and when so many rows have failed that going on is useless. Decisions
only; nothing is stopped here.

A refusal is the row's if the server's words are about the request (``words``: :func:`classify.is_about_request`), or if the same
model answers something that is sent later (``answers``), be it a request for one token; or if no request could be made of the row
(``input``). Until then it is nobody's, and when the run stops it is void.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from . import classify
from .errors import AttemptError, RunFault, StopReason, Transient
from .events import unquoted
from .model import Outcome

# A run that stops for one of these was refused as a whole: that its rows failed proves nothing against them.
VOIDING: frozenset[StopReason] = frozenset({"key", "credit", "model", "url", "endpoint", "failures"})
BLAMELESS = ". No row was marked failed for it"

_FIRST_ALIKE = 20
_SHARE_FROM_ROWS = 50
_HAS_DIGIT = re.compile(r"\S*\d\S*")


def can_be_void(outcome: Outcome) -> bool:
    """Whether it is a failure that does not count if its run stops for its rows' sake: of one that was sent."""
    return outcome.proof is not None and outcome.proof != "input"


def are_alike(one: AttemptError, other: AttemptError) -> bool:
    """Whether two refusals are the same one: who refuses everything says the same each time, but for numbers and ids."""
    return _kind(one) == _kind(other)


def _kind(fault: AttemptError) -> tuple[Any, ...]:
    return fault.http_status, fault.error_type, fault.error_code, _HAS_DIGIT.sub("#", fault.message)


@functools.lru_cache(1_000)
def is_of_the_run(
    http_status: int | None,
    error_type: str | None,
    error_code: str | None,
    error_message: str | None,
    response: str | None,
) -> bool:
    """Whether a stored failure, of which no proof was kept, is read as the run's or the endpoint's today."""
    if http_status is None:
        return False
    body = (response or "").encode()
    if not body:
        body = msgspec.json.encode({"error": {"message": error_message, "type": error_type, "code": error_code}})
    if http_status < 300:
        try:
            data = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError):
            return False
        fault = classify.error_inside(data, body, http_status, 0.0) if isinstance(data, dict) else None
    else:
        fault = classify.http_fault(http_status, {}, body, 0.0)
    return isinstance(fault, RunFault) or (isinstance(fault, Transient) and fault.blame == "endpoint")


class Failures:
    """Holds the rows of one run against ``limits.max_failures``.

    A whole number is a count that may not be passed; a fraction is a share of the final rows, held against once 50 are
    final. With either, the first 20 rows that all fail with the same error are enough. 1.0 never ends a run. A row no
    request could be made of is a fault of the input, and counts for nothing. ``unquoted`` is the latest sentence without the
    server's words.
    """

    def __init__(self, most: int | float) -> None:
        self._most = most
        self._final = self._failed = 0
        self._first: tuple[int | None, str | None, str | None] | None = None
        self._alike = True
        self.unquoted = ""

    def add(self, outcome: Outcome) -> str | None:
        """Count a final row. Returns a sentence if the run should end now."""
        if not outcome.attempts or (isinstance(self._most, float) and self._most >= 1.0):
            return None
        self._final += 1
        if outcome.status != "failed":
            self._alike = False
            return None
        self._failed += 1
        error = (outcome.http_status, outcome.error_type, outcome.error_code)
        self._first = self._first or error
        self._alike = self._alike and error == self._first
        if self._alike and self._final >= _FIRST_ALIKE:
            return self._sentence(f"the first {self._final} rows failed with the same error", outcome)
        if isinstance(self._most, int):
            passed = self._failed > self._most
        else:
            passed = self._final >= _SHARE_FROM_ROWS and self._failed > self._most * self._final
        if not passed:
            return None
        so_many = f"{self._failed:,} of {self._final:,} rows failed (limits.max_failures is {self._most}); the latest"
        return self._sentence(so_many, outcome)

    def _sentence(self, what: str, outcome: Outcome) -> str:
        self.unquoted = f"{what}: {unquoted(outcome)}"
        return f"{what}: {outcome.error_message or outcome.error_type}"
