"""What a caller in Python sees of a run: a bar, warnings, and what an observer of its own makes of it."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any, Protocol

from ..core import Event, JobWarning
from ..storage import RunState
from .progress import Bar

_WARNED_OF = frozenset({"note", "substituted"})  # other events of that level are told as they come, and pass
_BETWEEN = frozenset({"batchflex", "asyncio", "anyio", "contextlib", "threading", "concurrent"})


class Caller:
    """The line that calls batchflex, for warnings to point at, whatever thread they come from."""

    def __init__(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
            frame = frame.f_back
        self._file = "batchflex" if frame is None else frame.f_code.co_filename
        self._line = 0 if frame is None else frame.f_lineno
        self._names: dict[str, Any] = {} if frame is None else frame.f_globals

    def warn(self, text: str) -> None:
        """:raises JobWarning: where a filter makes errors of such warnings."""
        registry = self._names.setdefault("__warningregistry__", {})
        module = self._names.get("__name__")
        warnings.warn_explicit(text, JobWarning, self._file, self._line, module, registry)


class _Watching(Protocol):
    def tick(self, run_state: RunState) -> None: ...

    def note(self, text: str) -> None: ...


class Onlooker:
    """An observer for :func:`batchflex.run` and its like. It passes everything on to ``observer`` at once, and shows it when
    :meth:`attend` is called: with ``at_once`` as it comes, else by whoever waits for the run, in a thread of its own, since
    neither widgets nor warnings are for the thread that the run is in.

    A warning that a filter makes an error of ends no run: it is raised by :meth:`require_no_warning`.
    """

    def __init__(self, caller: Caller, bar: Bar | None, observer: _Watching | None = None, *, at_once: bool) -> None:
        self._caller, self._bar, self._observer = caller, bar, observer
        self._at_once = at_once
        self._state: RunState | None = None
        self._events: deque[Event] = deque()
        self._raised: JobWarning | None = None

    @property
    def debug(self) -> bool:
        return bool(getattr(self._observer, "debug", False))

    def warn(self, text: str) -> None:
        """Of what is wrong with a job before it runs.

        :raises JobWarning: as :meth:`Caller.warn`.
        """
        if self._observer is not None:
            self._observer.note(f"warning: {text}")
        self._caller.warn(text)

    def tick(self, run_state: RunState) -> None:
        if self._observer is not None:
            self._observer.tick(run_state)
        self._state = run_state
        if self._at_once:
            self.attend()

    def note(self, text: str) -> None:
        self.event(Event("note", text))

    def event(self, event: Event) -> None:
        if self._observer is not None:
            if (on_event := getattr(self._observer, "event", None)) is not None:
                on_event(event)
            elif event.shown:
                self._observer.note(event.message)
        if event.shown:
            self._events.append(event)
        if self._at_once:
            self.attend()

    def attend(self) -> None:
        """Show what has come since the last time."""
        while self._events:
            self._show(self._events.popleft())
        state, self._state = self._state, None
        if state is not None and self._bar is not None:
            self._draw(partial(self._bar.tick, state))

    def _show(self, event: Event) -> None:
        if event.level == "warning" and event.name in _WARNED_OF:
            with self._aside():
                try:
                    self._caller.warn(event.message)
                except JobWarning as error:
                    self._raised = self._raised or error
        elif self._bar is not None:
            self._draw(partial(self._bar.event, event))

    def _draw(self, work: Callable[[], None]) -> None:
        """No run ends because something of it cannot be shown."""
        try:
            work()
        except Exception as error:
            self._bar = None
            note = f"the progress cannot be shown any more: {type(error).__name__}: {error}; the run goes on"
            self.event(Event("note", note, level="warning"))

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        with contextlib.nullcontext() if self._bar is None else self._bar.aside():
            yield

    def close(self) -> None:
        """Show what is left. Raises nothing."""
        self.attend()
        if self._bar is not None:
            self._draw(self._bar.close)
        self.attend()

    def require_no_warning(self) -> None:
        """:raises JobWarning: that a filter has made an error of during the run."""
        if self._raised is not None:
            raise self._raised
