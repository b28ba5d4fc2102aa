"""What proves that a failure is the row's own. Pure.

A refusal is the row's if the server's words are about the request (``words``: :func:`classify.is_about_request`), or if the same
model answers something that is sent later (``answers``), be it a request for one token; or if no request could be made of the row
(``input``). Until then it is nobody's, and when the run stops it is void.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from ..core import AttemptError, Outcome, RunFault, StopReason, Transient
from . import classify
from .loose_json import object_of

# A run that stops for one of these was refused as a whole: that its rows failed proves nothing against them.
VOIDING: frozenset[StopReason] = frozenset({"key", "credit", "model", "url", "endpoint", "failures"})
BLAMELESS = ". No row was marked failed for it"
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
        fault = classify.error_inside(object_of(body), body, http_status)
    else:
        fault = classify.http_fault(http_status, {}, body, 0.0)
    return isinstance(fault, RunFault) or (isinstance(fault, Transient) and fault.blame == "endpoint")
