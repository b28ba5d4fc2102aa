"""A streamed answer while it comes: its events put together, and until when there has to be more of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from ..protocol import Events, Route, response_headers

_USAGE_S = 10.0  # after the finish reason, for the usage
_END_S = 1.0  # after [DONE], for the end of the body, without which the connection cannot be used again


class StreamReader:
    """Takes the pieces of an event stream from whoever receives them: :meth:`begin` when its headers are there, then
    :meth:`take`, which says until when, by the monotonic clock, more has to come: a line within each ``idle_s``, something of
    the answer within each ``answer_s``.

    ``see`` reads names and values of headers, ``clean`` takes secrets out of an event. ``first_at`` is when something of the
    answer was there, by the performance counter.
    """

    def __init__(
        self,
        route: Route,
        idle_s: float,
        answer_s: float,
        see: Callable[[Sequence[bytes], Sequence[bytes]], response_headers.Facts],
        clean: Callable[[bytes], bytes],
    ) -> None:
        self._route = route
        self.stream = route.stream(200)
        self.has_begun = False
        self.status = 200
        self.seen = response_headers.NOTHING
        self.first_at: float | None = None
        self._see = see
        self._clean = clean
        self._events = Events()
        self._idle_s = idle_s
        self._answer_s = answer_s
        now = time.monotonic()
        self._line_due, self._answer_due = now + idle_s, now + answer_s

    def begin(self, status: int, names: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.has_begun = True
        self.status = status
        self.stream = self._route.stream(status)
        self.seen = self._see(names, values)

    def take(self, piece: bytes) -> float:
        """:raises AttemptError: if it carries an error, or cannot be read."""
        stream, clean, now = self.stream, self._clean, time.monotonic()
        has_events = brought = False
        if b"\n" in piece or b"\r" in piece:  # be it a comment
            self._line_due = now + self._idle_s
        for name, event in self._events.feed(piece):
            has_events = True
            # One that brings nothing of the answer is a sign of life at most, as a comment is. A text that is all that is new is
            # cleaned with the whole answer.
            if (not name and stream.take_alike(event)) or stream.take(name, clean(event)):
                brought = True
        if brought:
            self.first_at = self.first_at or time.perf_counter()
            self._answer_due = now + self._answer_s
        if has_events and (stream.done or stream.finish_reason is not None):  # what may follow has so long
            self._answer_s = min(self._answer_s, _END_S if stream.done else _USAGE_S)
            self._answer_due = now + self._answer_s
        return min(self._line_due, self._answer_due)

    def end(self) -> None:
        """The body has ended; so has its last event, where the server forgot to say so.

        :raises AttemptError: as :meth:`take`.
        """
        self.take(b"\n\n")
