"""How a run is shown while it goes on: as a tqdm bar, on a terminal or in a notebook."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from ..core import Event, one_line
from ..storage import RunState
from . import run_text

_BREAK = "\u200b"  # where a line may be broken: tqdm makes each space of a widget one at which none may


def bar_for(progress: bool | None) -> Bar | None:
    """The bar for a caller in Python: ``None`` means one where somebody looks, in a notebook or on a terminal."""
    if progress is False:
        return None
    if in_notebook():
        return NotebookBar()
    return Bar(sys.stderr) if progress or (sys.stderr is not None and sys.stderr.isatty()) else None


def in_notebook() -> bool:
    """Whether this process is a kernel of Jupyter, whoever shows what it puts out: a browser, VS Code, Colab."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Bar:
    """A tqdm bar: rows done and planned, rate, time left, in flight, failed, tokens.

    What a terminal that is gone does not take is not shown: not the failed write ends the run but the SIGHUP, in order. tqdm is
    imported with the first bar, so that a run without a terminal, as cron starts it, does without.
    """

    _stays = False  # once it is closed

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def tick(self, run_state: RunState) -> None:
        with contextlib.suppress(OSError):
            self._show(run_state)

    def _show(self, run_state: RunState) -> None:
        job = one_line(run_state.job)
        if self._bar is not None and self._bar.desc.removesuffix(": ") != job:  # a judge's run after the run itself
            self._bar.close()
            self._bar = None
        if self._bar is None:
            self._bar = self._kind()(
                desc=job,
                total=run_state.planned,
                initial=run_state.before,
                unit=" rows",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
                leave=self._stays,
            )
            # Not since now, as rows may have been answered by now.
            self._bar.start_t = self._bar.last_print_t = min(self._bar.start_t, run_state.started_at)
        self._resize(run_state.planned)
        self._bar.set_postfix_str(self._facts(run_state), refresh=False)
        self._bar.update(run_state.done - self._bar.n)
        self._bar.refresh()

    def _kind(self) -> Any:
        from tqdm import tqdm

        return tqdm

    def _resize(self, planned: int | None) -> None:
        self._bar.total = planned

    def _facts(self, run_state: RunState) -> str:
        return one_line(run_text.facts(run_state, quoting=True))

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

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Others may write to the terminal within the block: the bar makes room for it."""
        if self._bar is None:
            yield
        else:
            with self._bar.external_write_mode(file=self._stream):
                yield

    def close(self) -> None:
        if self._bar is not None:
            with contextlib.suppress(OSError):
                self._bar.close()


class NotebookBar(Bar):
    """A widget where ipywidgets is installed, else a bar of text; either stays below the cell, so that what was done is seen
    later. Notes stand there as lines."""

    _stays = True

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def _kind(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a bar of text will do
            from tqdm.auto import tqdm

        return tqdm

    def _resize(self, planned: int | None) -> None:
        if self._is_widget and planned and planned != self._bar.total:
            _, widget, _ = self._bar.container.children
            widget.max, widget.bar_style, widget.layout.width = planned, "", None
        super()._resize(planned)

    def _facts(self, run_state: RunState) -> str:
        facts = super()._facts(run_state)
        return facts.replace(" ", f"{_BREAK} ") if self._is_widget else facts

    @property
    def _is_widget(self) -> bool:
        return hasattr(self._bar, "container")
