"""How long a streamed answer is waited for."""

from __future__ import annotations

from types import TracebackType

import anyio

from .alarm import Alarm


class AnswerTimeout:
    """A deadline that what comes of a stream moves on: ``idle_s`` for the next line, ``answer_s`` for something of the answer.

    A context manager, which is left when the time ``is_over``.
    """

    def __init__(self, idle_s: float, answer_s: float) -> None:
        self.idle_s = min(idle_s, answer_s)
        self._answer_s = answer_s
        self._scope = anyio.CancelScope()
        self._until = anyio.current_time() + self._answer_s
        self._alarm = Alarm(min(anyio.current_time() + self.idle_s, self._until), self._scope.cancel)

    def __enter__(self) -> AnswerTimeout:
        self._scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._alarm.cancel()
        return self._scope.__exit__(kind, error, trace)

    @property
    def is_over(self) -> bool:
        return self._scope.cancelled_caught

    def received(self, data: bytes) -> None:
        """Bytes came: if there is a line among them, be it a comment, that is a sign of life."""
        if b"\n" in data or b"\r" in data:
            self._extend()

    def _extend(self) -> None:
        self._alarm.put(min(anyio.current_time() + self.idle_s, self._until))

    def progressed(self) -> None:
        """Something of the answer came."""
        self._until = anyio.current_time() + self._answer_s
        self._extend()

    def at_most(self, seconds: float) -> None:
        """The answer is there; what may follow has so long, in all."""
        self._answer_s = min(self._answer_s, seconds)
        self.progressed()
