"""Runs over time, from ``telemetry.jsonl`` and ``history.jsonl``, reduced to a bounded number of steps."""

from __future__ import annotations

import collections
import contextlib
import datetime
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
import polars as pl

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
    frame = pl.DataFrame(map(msgspec.structs.astuple, samples), Sample.__struct_fields__, orient="row")
    begins = pl.col("run_id").ne_missing(pl.col("run_id").shift())
    passed_s = pl.col("at").diff().dt.total_microseconds().clip(0) / 1e6
    frame = frame.with_columns(
        run=begins.cast(pl.Int64).cum_sum() - 1,
        at_s=pl.when(begins).then(_USUAL_GAP_S).otherwise(passed_s).cum_sum(),  # a line covers the time before it
    )
    width = max(_USUAL_GAP_S, frame["at_s"][-1] / _STEPS)
    number = (pl.col("at_s") / width).floor()
    at_s = (number + 0.5) * width if width > _USUAL_GAP_S else number * width
    means, sums = pl.col("answers_per_s", "in_flight").mean(), pl.col("refused", "retries").sum()
    steps = frame.group_by("run", at_s=at_s).agg(means, pl.col("window").max(), sums).sort("run", "at_s")
    counts = collections.Counter(sample.binding for sample in samples if sample.binding)
    return Timeline(
        steps=[Step(*row) for row in steps.select(Step._fields).iter_rows()],
        begins_s=(frame.filter(begins)["at_s"] - _USUAL_GAP_S).to_list(),
        bound_by={name: n / counts.total() for name, n in counts.most_common()},
        step_s=width,
    )


def past_runs(raw: Iterable[bytes], most: int) -> list[HistoryLine]:
    """The last runs, oldest first, without those that never began because another was running or the job was refused."""
    return [run for run in lines(raw, HistoryLine) if run.done is not None][-most:]
