"""How a run is shown while it goes on: a tqdm bar on a terminal, a timed line now and then elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from typing import TYPE_CHECKING, TextIO

from . import render
from .tally import Tally

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_EVERY_S = 30.0


class Bar:
    """A tqdm bar: rows done and planned, rate, time left, in flight, failed, tokens.

    tqdm is imported with the first bar: a run without a terminal, as cron starts it, does without.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm | None = None

    def tick(self, tally: Tally) -> None:
        if (
            self._bar is not None and self._bar.desc.removesuffix(": ") != tally.job
        ):  # a judge's run after the run itself
            self._bar.close()
            self._bar = None
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=tally.job,
                total=tally.planned,
                initial=tally.before,
                unit=" rows",
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
                leave=False,
            )
        self._bar.total = tally.planned
        self._bar.set_postfix_str(_facts(tally), refresh=False)
        self._bar.update(tally.done - self._bar.n)
        self._bar.refresh()

    def note(self, text: str) -> None:
        text = "\n".join(map(render.one_line, text.splitlines()))
        if self._bar is None:
            self._stream.write(f"{text}\n")
        else:
            self._bar.write(text, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Lines:
    """A line every 30 s, each with its time; for logs."""

    def __init__(self, stream: TextIO, every_s: float = _LINE_EVERY_S) -> None:
        self._stream = stream
        self._every_s = every_s
        self._began = self._last = time.monotonic()
        self._job = ""

    def tick(self, tally: Tally) -> None:
        now = time.monotonic()
        if tally.job != self._job:
            self._job, self._began = tally.job, now if self._job else self._began
        if now - self._last < self._every_s:
            return
        self._last = now
        rate = (tally.done - tally.before) / (now - self._began)
        text = f"{tally.job}: {tally.done:,}"
        if tally.planned:
            text += f" of {tally.planned:,} rows ({100 * tally.done // tally.planned} %)"
        else:
            text += " rows"
        text += f", {rate:,.1f} rows/s, {_facts(tally)}"
        if tally.planned and rate > 0:
            text += f", {render.duration((tally.planned - tally.done) / rate)} left"
        self.note(text)

    def note(self, text: str) -> None:
        moment = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        for line in text.splitlines():
            self._stream.write(f"{moment} {render.one_line(line)}\n")
        self._stream.flush()

    def close(self) -> None:
        pass


class Quiet:
    """Nothing."""

    def tick(self, tally: Tally) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def _facts(tally: Tally) -> str:
    text = f"{tally.in_flight} in flight, {tally.rows['failed']:,} failed, "
    text += f"{render.short(tally.prompt_tokens + tally.completion_tokens)} tokens"
    if tally.binding:
        text += f", bound by {tally.binding}"
    if tally.backing_off:
        text += f", {tally.backing_off} waiting to retry"
    if tally.cost is not None:
        text += f", {render.money(tally.cost)}"
    return text


def choose(*, quiet: bool, stream: TextIO | None = None) -> Bar | Lines | Quiet:
    """What fits where standard error goes."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Quiet()
    return Bar(stream) if stream.isatty() else Lines(stream)
