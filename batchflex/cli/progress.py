"""How a run is shown on a terminal while it goes on: as a tqdm bar."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TextIO

from ..core import Event, one_line
from ..storage import RunState
from . import run_text

if TYPE_CHECKING:
    from tqdm import tqdm


class Bar:
    """A tqdm bar: rows done and planned, rate, time left, in flight, failed, tokens.

    What a terminal that is gone does not take is not shown: not the failed write ends the run but the SIGHUP, in order. tqdm is
    imported with the first bar, so that a run without a terminal, as cron starts it, does without.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm | None = None

    def tick(self, run_state: RunState) -> None:
        with contextlib.suppress(OSError):
            self._show(run_state)

    def _show(self, run_state: RunState) -> None:
        job = one_line(run_state.job)
        if self._bar is not None and self._bar.desc.removesuffix(": ") != job:  # a judge's run after the run itself
            self._bar.close()
            self._bar = None
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=job,
                total=run_state.planned,
                initial=run_state.before,
                unit=" rows",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
                leave=False,
            )
        self._bar.total = run_state.planned
        self._bar.set_postfix_str(one_line(run_text.facts(run_state, quoting=True)), refresh=False)
        self._bar.update(run_state.done - self._bar.n)
        self._bar.refresh()

    def note(self, text: str) -> None:
        text = "\n".join(map(one_line, text.splitlines()))
        with contextlib.suppress(OSError):
            if self._bar is None:
                self._stream.write(f"{text}\n")
            else:
                self._bar.write(text, file=self._stream)
            self._stream.flush()

    def event(self, event: Event) -> None:
        if event.shown:
            self.note(event.message)

    def close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()
