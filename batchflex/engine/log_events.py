"""What is reported of rows that fail. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ..attachments import described
from ..core import RULE, AttemptError, Event, Message, Outcome, Request, ident, named, unquoted
from ..protocol import failure_text

_HEADS = {"failed": "row {0} failed", "empty": "the answer of row {0} is empty"}


def rule_applied(fault: AttemptError) -> Event:
    """By which rule a failure was read: for finding out why it was read so."""
    words = f"read by the rule {fault.rule}: {failure_text.unquoted(fault)}"
    said = "" if fault.http_status is None else f": {fault.message}"
    return Event(RULE, words + said, words, facts=failure_text.facts(fault))


def retrying(id: str, endpoint: str, attempts: int, fault: AttemptError, *, shown: bool) -> Event:
    """A row is tried again after so many attempts."""
    facts = {"id": id, "endpoint": endpoint, "attempts": attempts, **failure_text.facts(fault)}
    words = "trying again after a failure: " + failure_text.why(fault)
    logged = f"{words.unquoted} (row {id}){ident(fault.request_id)}"
    return Event("retrying", words.text, logged, "warning", facts, shown=shown)


def of_bad_row(made: Outcome, request: Request, doubt: Message | None) -> Iterator[Event]:
    """That a row ended without an answer that fits, and what that gives reason to doubt."""
    yield _row_failed(made, request)
    if doubt is not None:
        yield Event("note", doubt.text, doubt.unquoted, "warning")


def _row_failed(made: Outcome, request: Request) -> Event:
    """A row ended without an answer that fits."""
    facts = {
        "status": made.status,
        **{name: getattr(made, name) for name in ("id", "row", "sample", "endpoint", "attempts", "http_status")},
        **{name: getattr(made, name) for name in ("error_type", "error_code", "request_id")},
    }
    head = _HEADS.get(made.status, "the answer of row {0} does not fit").format(made.id)
    why = Message(f": {made.error_message}", f": {unquoted(made)}" if made.status == "failed" else "")
    words = head + why + ident(made.request_id)
    asked = described(request.body, request.files) if request.files else request.body
    return Event("row_failed", words.text, words.unquoted, "warning", named(facts), shown=False, request=asked)
