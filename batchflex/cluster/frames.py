"""What the process of a run and its worker processes say to each other: frames, each a pickled object behind its length.

Both ends are the same program of the same user, so that pickles are safe here.
"""

from __future__ import annotations

import pickle
import struct
from typing import IO, Any, NamedTuple

from ..core import Event, Message, Outcome, Request, StopReason
from ..engine import Lease

_LENGTH = struct.Struct("<I")
LENGTH_BYTES = _LENGTH.size
# Of a limit that is leased: its name in [limits], and that of the endpoint it is of.
Limit = tuple[str, str | None]


class Setup(NamedTuple):
    """The first frame: what a worker is to do. ``job`` is as resolved, ``out`` the output folder of the run, ``worker`` the
    number of its own folder there, ``segment`` that of its first segment. ``number`` and ``of`` say which part of the concurrency
    is its own. ``leased`` are the limits that are leased, each with the portion to ask for. ``due_in_s`` is when the run's
    deadline comes."""

    job: dict[str, Any]
    out: str
    worker: int
    number: int
    of: int
    segment: int
    run_id: str
    plan: str | None
    labels: tuple[str, ...]
    carry_schema: bytes | None
    leased: dict[Limit, float]
    due_in_s: float | None


class Rows(NamedTuple):
    """Requests to send."""

    requests: list[Request]


class End(NamedTuple):
    """There are no more rows."""


class Stop(NamedTuple):
    """Admit nothing more; what is in flight may finish within ``limits.grace_s``."""

    reason: StopReason
    message: Message


class Segment(NamedTuple):
    """The number that was asked for by :class:`NextSegment`."""

    number: int


class Granted(NamedTuple):
    """A lease; ``None`` if there is no more."""

    asked: int
    lease: Lease | None


class Progress(NamedTuple):
    """``final`` are the keys of rows that have become final since the last, ``failed`` the outcomes of those that failed,
    ``answered`` how many did not, ``invalid`` of them with an answer that does not fit. ``taken`` is how many were taken in hand
    in all, ``counts`` is :meth:`RunState.snapshot` at this moment, ``is_proven`` whether an endpoint has answered as one that
    works."""

    final: list[bytes]
    failed: list[Outcome]
    answered: int
    invalid: int
    taken: int
    counts: dict[str, Any]
    is_proven: bool


class Happened(NamedTuple):
    event: Event


class Stopped(NamedTuple):
    """The worker has stopped by itself: so is the whole run to."""

    reason: StopReason
    message: Message


class NextSegment(NamedTuple):
    """Asks for the number of a further segment."""


class Ask(NamedTuple):
    """Asks for a lease."""

    number: int
    limit: Limit
    least: float
    units: float


class Settled(NamedTuple):
    """A lease is over."""

    limit: Limit
    lease: Lease
    used: float


class Ended(NamedTuple):
    """The last frame of a worker that has done what it was to do, or could not: then ``fault`` says why."""

    fault: str | None = None


def packed(frame: object) -> bytes:
    body = pickle.dumps(frame, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


def length(head: bytes) -> int:
    """How many bytes follow."""
    (found,) = _LENGTH.unpack(head)
    return int(found)


def unpacked(body: bytes) -> Any:
    return pickle.loads(body)  # noqa: S301


def read(stream: IO[bytes]) -> Any | None:
    """The next frame; ``None`` at the end, also where the other end has vanished. Blocks."""
    try:
        head = stream.read(LENGTH_BYTES)
        size = length(head) if len(head) == LENGTH_BYTES else 0
        body = stream.read(size)
    except OSError:
        return None
    return unpacked(body) if size and len(body) == size else None
