"""Everything that can go wrong, drawn as a tree.

::

    BatchflexError
    ├── JobError            the job file, a request parameter or an option is wrong          exit 2
    ├── InputError          an input file or row is wrong                                    exit 2
    ├── EndpointError       the endpoint cannot be set up: no key, no model file             exit 2
    ├── MissingExtra        an optional package that is needed is not installed              exit 2
    ├── FolderError         the output folder cannot be used                                 exit 2
    │   ├── FolderBusy      another run holds it                                             exit 4
    │   └── JobChanged      its answers came from a different job, and `on_change` is "stop" exit 2
    ├── StorageError        an answer cannot be written: disk full, no permission            exit 3
    ├── RunStopped          a run of `complete` stopped before every row had its answer      exit 3
    ├── Interrupted         a signal came while it waited for the lock                       exit 129, 130, 143
    └── AttemptError        one attempt at one request failed; never leaves the run
        ├── Transient       worth another attempt
        │   ├── NotReady    the endpoint says that it is starting: it is waited for, as in an outage
        │   └── Deferred    not the row's fault: it waits for its endpoint, and that costs no attempt
        │       └── RateLimited the endpoint asked this key to wait
        ├── RowFault        final for this request: its row becomes ``failed``
        │   └── Filtered    the request was refused for its content: its row becomes ``filtered``
        └── RunFault        every request to this endpoint would fail the same way: if it is the last, the run stops

The three below :class:`AttemptError` are decided in one place only, :mod:`batchflex.protocol.classify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .types import Usage

Blame = Literal["endpoint", "row"]
LimitKind = Literal["requests", "tokens", "in_flight"]


class JobWarning(UserWarning):
    """Something in a job, its input or its endpoint is probably not as it was meant; the run goes on. For whoever runs it from
    Python; the command line writes the same words to standard error."""


class BatchflexError(Exception):
    """The root. ``str(error)`` is a sentence for people: what, where, and what to do."""

    exit_code: int = 2


class JobError(BatchflexError):
    """The job cannot be run as written. ``mistakes`` holds every one of them, a sentence each."""

    def __init__(self, mistakes: Sequence[str] | str, place: str = "") -> None:
        self.mistakes = [mistakes] if isinstance(mistakes, str) else list(mistakes)
        self.place = place
        if place and len(self.mistakes) > 1:
            head = f"{place} has {len(self.mistakes)} mistakes:"
            super().__init__("\n  - ".join([head, *self.mistakes]))
        elif place:
            super().__init__(f"{place}: {self.mistakes[0]}")
        else:
            super().__init__("\n".join(self.mistakes))


class InputError(BatchflexError):
    """An input file is missing, unreadable, or has a row no request can be made of."""


class EndpointError(BatchflexError):
    """The endpoint cannot be set up, so nothing was sent."""


class MissingExtra(BatchflexError):
    """An optional package is needed and not installed."""


class FolderError(BatchflexError):
    """The output folder cannot be used as it is."""


class FolderBusy(FolderError):
    """Another run holds the output folder."""

    exit_code = 4


class JobChanged(FolderError):
    """Answers in the folder belong to requests that this job would send differently."""


class StorageError(BatchflexError):
    """An answer could not be made durable. What was stored before stays valid."""

    exit_code = 3


class RunStopped(BatchflexError):
    """A run ended early, so that not every row has its answer. ``reason`` is ``stopped_by`` of ``run.json``."""

    exit_code = 3

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Interrupted(BatchflexError):
    """A signal ended the wait for a folder that another run holds."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class AttemptError(Exception):
    """One attempt failed.

    ``message`` are the server's words where it said any. ``http_status`` is ``None`` when no answer arrived.
    ``body`` is the raw answer (at most 64 KB), kept for the row. ``error_type`` and ``error_code`` are the
    server's own, else a short name of what happened (``connect``, ``timeout``, ``bad_answer``, …). ``request_id`` is the
    server's name for this attempt, if it gave one. ``rule`` is the name of the rule of :mod:`batchflex.protocol.classify` that
    applied. ``billed`` says whether the endpoint may charge for this attempt all the same; ``usage`` is what it says that the
    attempt used. ``sent`` is false if no request could go out.
    """

    billed = False
    sent = True
    usage: Usage | None = None

    def __init__(
        self,
        message: str,
        *,
        error_type: str,
        error_code: str | None = None,
        http_status: int | None = None,
        body: bytes | None = None,
        retry_after_s: float | None = None,
        request_id: str | None = None,
        rule: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.error_type = error_type
        self.error_code = error_code
        self.http_status = http_status
        self.body = body
        self.retry_after_s = retry_after_s
        self.request_id = request_id
        self.rule = rule


class Transient(AttemptError):
    """Worth another attempt.

    ``blame`` says what is at fault when every attempt fails: the ``row`` (a permanent 500, an answer without choices: the
    endpoint works, this request does not) or the ``endpoint`` (unreachable, cut off, overloaded): then the row is not marked
    failed unless others are answered meanwhile.
    """

    blame: Blame = "endpoint"

    def blamed_on(self, blame: Blame) -> Transient:
        self.blame = blame
        return self


class NotReady(Transient):
    """The endpoint says that it is starting, or loads its model: an outage from the first such answer on."""


class Deferred(Transient):
    """A fault of the endpoint that is known already (it is down, its credit is spent): costs the row no attempt.

    ``wait_s`` is how long this row waits at least, beside the wait of all for the endpoint.
    """

    wait_s = 0.0


class KeyReplaced(Deferred):
    """The key was refused, and there is a new one: the request is sent again with that."""


class RateLimited(Deferred):
    """429, or a 5xx that hides one. ``retry_after_s`` is the server's wait, ``None`` if it gave none.

    ``limit_kind`` is the limit that was hit, ``None`` if the server did not say; of a limit on requests in flight ``limit`` is
    how many are allowed, if the server said.
    """

    limit_kind: LimitKind | None = None
    limit: int | None = None

    def by(self, kind: LimitKind | None, limit: int | None) -> RateLimited:
        self.limit_kind, self.limit = kind, limit
        return self


class RowFault(AttemptError):
    """Final for this request: retrying buys nothing."""


class Filtered(RowFault):
    """The request was refused for what it says, by a content filter or a moderation. ``message`` says so."""


StopReason = Literal[
    "key", "credit", "quota", "model", "url", "endpoint", "format", "failures", "disk", "input", "files", "budget", "deadline",
    "signal", "error",
]  # fmt: skip


class RunFault(AttemptError):
    """Every request would fail the same way. ``reason`` goes into ``run.json`` as ``stopped_by``, ``what`` was asked for."""

    reason: StopReason = "key"
    what = "chat completions"

    def because(self, reason: StopReason) -> RunFault:
        self.reason = reason
        return self


def sole_fault(error: BaseException) -> BatchflexError | None:
    """Our own error that task groups have wrapped, if there is nothing else in the group."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, BatchflexError) else None
