"""A folder's last run and the totals of all, as Prometheus text for node_exporter's textfile collector.

The label is ``job_name``: a label ``job`` is Prometheus' own, and would be moved to ``exported_job`` when it is scraped.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..config import End, end_of, went_well
from ..core import STATUSES

_SUMS = {"requests_sent": "requests", "retries": "retries", "rate_limited": "rate_limited"}
_HELP = {
    "requests": "Requests sent, retries and probes included",
    "retries": "Requests that repeat one that failed",
    "rate_limited": "Requests that the endpoint turned away to wait",
}
_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]
_Value = float | None | Mapping[Any, float]  # by a label's value, or by those of several
_SUMMED = (*_SUMS, "prompt_tokens", "completion_tokens", "cost")


class Past(NamedTuple):
    """Totals of a history. ``last_success`` is in seconds since the epoch."""

    sums: dict[str, float]
    ends: dict[End, int]
    last_success: float | None


def past(history: Iterable[Mapping[str, Any]], own: str | None = None) -> Past:
    """Of the lines of ``history.jsonl`` but that of the run ``own``. What is not a number or a time is left out."""
    sums: dict[str, float] = {}
    ends: dict[End, int] = dict.fromkeys(get_args(End), 0)
    success: float | None = None
    for line in history:
        if own is not None and line.get("run_id") == own:
            continue
        for field in _SUMMED:
            if isinstance(value := line.get(field), int | float):
                sums[field] = sums.get(field, 0) + value
        end = end_of(line)
        ends[end] += 1
        if went_well(line) and (at := _seconds(line.get("finished_at"))) is not None:
            success = max(success or 0.0, at)
    return Past(sums, ends, success)


def write(path: Path, last: Mapping[str, Any], rows: Mapping[str, Any], before: Past) -> None:
    """Write the file; a reader sees the old one or the new one.

    ``last`` is ``run.json`` of the run in question, ``rows`` one that has the counts of rows (another, where a run was refused),
    ``before`` what came before that run.

    :raises OSError: if it cannot be written.
    """
    registry = CollectorRegistry()
    registry.register(_Fixed(metrics(last, rows, before)))
    path.parent.stat()  # or its name would be missing in the error
    write_to_textfile(str(path), registry)


class _Fixed(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def metrics(last: Mapping[str, Any], rows: Mapping[str, Any], before: Past) -> list[Metric]:
    """As :func:`write`. Totals include this run, also while it goes on; as one that has ended it counts when it has. Metrics
    without a value are left out."""
    running = last["status"] == "running"
    now = past([last])
    sums = {field: before.sums.get(field, 0) + now.sums.get(field, 0) for field in before.sums | now.sums}
    ends = {end: number + (0 if running else now.ends[end]) for end, number in before.ends.items()}
    began, finished = _seconds(last["started_at"]), _seconds(last["finished_at"])
    took_s = None if began is None or finished is None else round(finished - began, 3)
    success = max((at for at in (before.last_success, now.last_success) if at is not None), default=None)
    counts = {status: rows[status] for status in STATUSES if isinstance(rows.get(status), int)}
    tokens, all_tokens = (
        {kind: of.get(f"{kind}_tokens", 0) for kind in ("prompt", "completion")} for of in (last, sums)
    )

    def family(kind: _Kind, name: str, about: str, value: _Value, *labels: str) -> Metric:
        made = kind(f"batchflex_{name}", about, labels=["job_name", *labels])
        values: Mapping[Any, float | None] = value if isinstance(value, Mapping) else {(): value}
        for of, each in values.items():
            if each is not None:
                made.add_metric([last["job"], *((of,) if isinstance(of, str) else of)], each)
        return made

    gauge, counter = partial(family, GaugeMetricFamily), partial(family, CounterMetricFamily)
    status = {(last["status"], last["stopped_by"] or ""): 1}
    found = [
        gauge("running", "Whether the last run was going on when this was written", running),
        gauge("updated_timestamp_seconds", "When this was written", _seconds(last["updated_at"])),
        gauge("last_run_start_timestamp_seconds", "When the last run began", began),
        gauge("last_run_end_timestamp_seconds", "When the last run ended", finished),
        gauge("last_run_duration_seconds", "How long the last run took", took_s),
        gauge("last_run_exit_code", "What the last run exited with", last["exit_code"]),
        gauge("last_success_timestamp_seconds", "When a run last left no bad row of its own", success),
        gauge("last_run_info", "Status of the last run, and why it stopped early", status, "status", "stopped_by"),
        gauge("rows", "Rows of the whole job that have their outcome", counts, "status"),
        gauge("rows_planned", "Requests of the whole job", rows.get("planned") if counts else None),
        *(gauge(f"last_run_{name}", f"{_HELP[name]}, by the last run", last[field]) for field, name in _SUMS.items()),
        gauge("last_run_tokens", "Tokens of the last run's answers", tokens, "kind"),
        gauge("last_run_cost_dollars", "What the last run's answers cost, as far as is known", last["cost"]),
        *(counter(name, f"{_HELP[name]}, by all runs", sums.get(field, 0)) for field, name in _SUMS.items()),
        counter("tokens", "Tokens of all runs' answers", all_tokens, "kind"),
        counter("cost_dollars", "What the answers of all runs cost, as far as is known", sums.get("cost")),
        counter("runs", "Runs that have ended", ends, "result"),
    ]
    return [made for made in found if made.samples]


def _seconds(moment: object) -> float | None:
    """``None`` also for what is not a time: anybody may have written into the history."""
    try:
        return datetime.datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
    except ValueError:
        return None
