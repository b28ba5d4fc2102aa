"""What is reported of rows that fail. Pure."""

from __future__ import annotations

from ..core import RULE, AttemptError, Event, Outcome, Request, ident, named, unquoted
from ..protocol import classify

_HEADS = {"failed": "row {0} failed", "empty": "the answer of row {0} is empty"}


def rule_applied(fault: AttemptError) -> Event:
    """By which rule a failure was read: for whoever looks into how they are read."""
    bare = f"read by the rule {fault.rule}: {classify.unquoted(fault)}"
    words = f"{bare}: {fault.message}" if fault.http_status is not None else bare
    return Event(RULE, words, bare, facts=classify.facts(fault))


def retrying(id: str, endpoint: str, attempts: int, fault: AttemptError, *, shown: bool) -> Event:
    """A row is tried again after so many attempts."""
    facts = {"id": id, "endpoint": endpoint, "attempts": attempts, **classify.facts(fault)}
    words, bare = (f"trying again after a failure: {why}" for why in (fault.message, classify.unquoted(fault)))
    return Event("retrying", words, f"{bare} (row {id}){ident(fault.request_id)}", "warning", facts, shown=shown)


def row_failed(made: Outcome, request: Request) -> Event:
    """A row ended without an answer that fits."""
    facts = {
        "status": made.status,
        **{name: getattr(made, name) for name in ("id", "row", "sample", "endpoint", "attempts", "http_status")},
        **{name: getattr(made, name) for name in ("error_type", "error_code", "request_id")},
    }
    head = _HEADS.get(made.status, "the answer of row {0} does not fit").format(made.id)
    known_as = ident(made.request_id)
    bare = f"{head}: {unquoted(made)}{known_as}" if made.status == "failed" else f"{head}{known_as}"
    words = f"{head}: {made.error_message}{known_as}"
    return Event("row_failed", words, bare, "warning", named(facts), shown=False, request=request.body)
