"""Runs over time, from ``telemetry.jsonl`` and ``history.jsonl``, reduced to a bounded number of steps."""

from __future__ import annotations

import collections
import contextlib
import datetime
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from ..storage import HistoryLine

_STEPS = 160
_LINES = 200_000
_USUAL_GAP_S = 5.0


class Sample(msgspec.Struct, frozen=True, gc=False):
    """The fields that are used of a line of ``telemetry.jsonl``."""

    at: datetime.datetime
    run_id: str = ""
    binding: str | None = None
    in_flight: float = 0
    window: float = 0
    answers_per_s: float = 0
    refused: int = 0
    retries: int = 0


class Step(NamedTuple):
    """One step of a chart. ``at_s`` is running time without the gaps between runs; rates are means, counts are sums."""

    at_s: float
    run: int
    answers_per_s: float
    in_flight: float
    window: float
    refused: int
    retries: int


class Timeline(NamedTuple):
    """``begins_s`` is when each run began, in running time; ``bound_by`` is the share of time for each limiting factor."""

    steps: list[Step]
    begins_s: list[float]
    bound_by: dict[str, float]
    step_s: float


def lines(raw: Iterable[bytes], kind: Any) -> Iterator[Any]:
    """The lines that can be decoded; others are skipped."""
    decode = msgspec.json.Decoder(kind).decode
    for line in raw:
        with contextlib.suppress(ValueError):
            yield decode(line)


def timeline(raw: Iterable[bytes]) -> Timeline | None:
    """``None`` with less than two samples. Of very many lines only the last are used."""
    samples = list(lines(raw, Sample))[-_LINES:]
    if len(samples) < 2:
        return None
    placed, begins = _placed(samples)
    total = placed[-1][0]
    width = max(_USUAL_GAP_S, total / _STEPS)
    bins: dict[tuple[int, int], list[Sample]] = {}
    for at, run, sample in placed:
        bins.setdefault((run, int(at / width)), []).append(sample)
    steps = [
        Step(
            at_s=(number + 0.5) * width if width > _USUAL_GAP_S else number * width,
            run=run,
            answers_per_s=sum(s.answers_per_s for s in some) / len(some),
            in_flight=sum(s.in_flight for s in some) / len(some),
            window=max(s.window for s in some),
            refused=sum(s.refused for s in some),
            retries=sum(s.retries for s in some),
        )
        for (run, number), some in sorted(bins.items())
    ]
    counts = collections.Counter(sample.binding for sample in samples if sample.binding)
    shares = {name: n / counts.total() for name, n in counts.most_common()}
    return Timeline(steps, begins, shares, width)


def _placed(samples: list[Sample]) -> tuple[list[tuple[float, int, Sample]], list[float]]:
    """Each sample with its running time and the number of its run; and when each run began."""
    found: list[tuple[float, int, Sample]] = []
    begins: list[float] = []
    now, run, before = 0.0, -1, samples[0]
    for sample in samples:
        if run < 0 or sample.run_id != before.run_id:
            begins.append(now)
            run += 1
            now += _USUAL_GAP_S  # a line covers the time before it
        else:
            now += max(0.0, (sample.at - before.at).total_seconds())
        found.append((now, run, sample))
        before = sample
    return found, begins


def past_runs(raw: Iterable[bytes], most: int) -> list[HistoryLine]:
    """The last runs, oldest first, without those that never began because another was running or the job was refused."""
    return [run for run in lines(raw, HistoryLine) if run.done is not None][-most:]
