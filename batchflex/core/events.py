"""What happens in a run, as events for an observer, with a message that is fit for a log. Pure.

A server may repeat in an error whatever it was sent, and so may a mistake in a row or a template. Such words are for whoever
reads the results; a log gets the same sentence without them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from .redact import redacted

if TYPE_CHECKING:
    from .types import Outcome

Level = Literal["info", "warning", "error"]
Emit = Callable[["Event"], None]

_OURS = {"invalid_answer": "the answer does not fit", "empty_answer": "the answer is empty"}
RULE = "rule"  # the name of the event that says by which rule a failure was read, once for each rule
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,63}")
# What may hold values of a job, a row or a template, and what is left of it.
_FOUND = [
    (re.compile(r"[;,:]? ?\bfound .*"), ""),
    (re.compile(r"(?m)^([^\S\n]*[\w.-]+): .* → .*"), r"\1"),  # what changed, from and to
    (re.compile(r"(the template fails: [\w.]+): .*"), r"\1"),
    (re.compile(r"(the row's url) is .*"), r"\1 is another"),
]


class Event(NamedTuple):
    """``message`` is a sentence for whoever watches; ``logged`` the same without the words of servers, if it has any.

    ``facts`` are its numbers, and which row or endpoint it is about; ``request`` is the body that was sent. Without ``shown`` it
    is for a log alone: there may be thousands of them.
    """

    name: str
    message: str
    logged: str | None = None
    level: Level = "info"
    facts: Mapping[str, Any] = {}
    shown: bool = True
    request: bytes | None = None
    job: str | None = None
    run_id: str | None = None


class Watching(Protocol):
    def note(self, text: str) -> None: ...


class Emitter:
    """Passes events on to an observer: as they are, if it has a method ``event``, else as notes of what is to be shown. Only one
    whose ``debug`` is true gets the events that say by which rules failures were read."""

    def __init__(self, observer: Watching, job: str, run_id: str) -> None:
        self._note = observer.note
        self._on_event: Emit | None = getattr(observer, "event", None)
        self._job, self._run_id = job, run_id
        self._debug = bool(getattr(observer, "debug", False))

    def emit(self, event: Event) -> None:
        if event.name == RULE and not self._debug:
            return
        if self._on_event is not None:
            self._on_event(event._replace(job=self._job, run_id=self._run_id))
        elif event.shown:
            self._note(event.message)

    def note(self, text: str, level: Level = "info") -> None:
        self.emit(Event("note", text, level=level))


def brief(http_status: int | None, error_type: str | None, error_code: str | None, words: str | None) -> str:
    """What went wrong, without the words of a server: ``HTTP 400, invalid_request_error, context_length_exceeded``.

    Where no answer came the ``words`` are ours, and may stay. A type or code that is not a plain name is left out.
    """
    if http_status is None:
        return words or "it failed" if error_type in ("connect", "timeout", "bad_answer") else error_type or "it failed"
    if error_type in _OURS:
        return _OURS[error_type]
    names = [name for name in (error_type, error_code) if name is not None and _NAME.fullmatch(name)]
    return ", ".join([f"HTTP {http_status}", *(name for name in dict.fromkeys(names) if name != f"http_{http_status}")])


def unquoted(outcome: Outcome) -> str:
    """Why a row has no valid answer, as :func:`brief`."""
    return brief(outcome.http_status, outcome.error_type, outcome.error_code, outcome.error_message)


def ident(request_id: str | None) -> str:
    return "" if request_id is None else f" (request id {request_id})"


def named(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a failure that are known, without a type or code that is not a plain name."""
    kept = {name: value for name, value in facts.items() if value is not None}
    for name in ("error_type", "error_code"):
        if name in kept and not _NAME.fullmatch(kept[name]):
            del kept[name]
    return kept


def guarded(text: str) -> str:
    """The message of an error without values of a job, a row or a template, and without what looks like a key."""
    text = "\n".join(redacted(text).splitlines())
    for pattern, instead in _FOUND:
        text = pattern.sub(instead, text)
    return text
