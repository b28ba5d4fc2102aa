"""Figures of a table of results: by sweep point, cause of failure, label and time. The texts are not held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import polars as pl

from ..core import STATUSES, text_of
from ..scoring import spending

_BINS = 48
_CAUSES = 12
_LABELS = 24
_FIELDS = 3
_LONGEST_LABEL = 48
_LOOKED_AT = 2_000
_CAUSE_CHARS = 300
_SKEWED = 25.0
_SUMS = ("prompt_tokens", "completion_tokens", "cache_read_input_tokens", "reasoning_tokens", "cost")
# The parts in which messages with the same cause differ.
_PARTICULARS = (
    r"[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|\b[0-9a-fA-F]{12,}\b|\b(?:req|chatcmpl|call|id)[-_][\w-]+|\d+(?:[.,]\d+)*"
)


class Figures(NamedTuple):
    """Counts and sums of some rows. ``None`` where no row has a value. Times are in seconds, ``cost`` in US dollars."""

    rows: int
    items: int
    status: dict[str, int]
    prompt_tokens: int | None
    completion_tokens: int | None
    cache_read_input_tokens: int | None
    reasoning_tokens: int | None
    cost: float | None
    latency_s: dict[str, float | None]
    ttft_s: dict[str, float | None]

    @property
    def tokens(self) -> int | None:
        if self.prompt_tokens is None and self.completion_tokens is None:
            return None
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)

    @property
    def cached_share(self) -> float | None:
        """The share of prompt tokens that the server read from its cache."""
        if self.cache_read_input_tokens is None or not self.prompt_tokens:
            return None
        return self.cache_read_input_tokens / self.prompt_tokens


class Cause(NamedTuple):
    """Rows with the same cause of failure. ``message`` and ``id`` are those of one of them."""

    status: str
    what: str
    rows: int
    id: str
    message: str | None


class Histogram(NamedTuple):
    """Counts between ``edges``, which grow by a factor if ``is_log``. Larger values are counted in the last bin."""

    edges: list[float]
    counts: list[int]
    p50: float
    p95: float
    largest: float
    is_log: bool


class Distribution(NamedTuple):
    """How often each value was answered, most frequent first. ``others`` counts less frequent ones, ``nothing`` rows without."""

    what: str
    names: list[str]
    counts: list[int]
    others: int
    nothing: int


class Flow(NamedTuple):
    """The number of rows that ended in each of several intervals of the same length."""

    begin_s: list[float]
    rows: list[int]
    width_s: float


def _figures(columns: Sequence[str]) -> list[pl.Expr]:
    """The fields of :class:`Figures` of some rows."""
    sums = (spending.total(name, columns) if name in columns else pl.lit(None).alias(name) for name in _SUMS)
    return [
        pl.len().alias("rows"),
        pl.col("row").n_unique().alias("items"),
        pl.struct((pl.col("status") == status).sum().alias(status) for status in STATUSES).alias("status"),
        *sums,
        *(
            pl.struct(p50=pl.col(name).quantile(0.5), p95=pl.col(name).quantile(0.95)).alias(name)
            for name in ("latency_s", "ttft_s")
        ),
    ]


def whole(table: pl.LazyFrame, columns: Sequence[str]) -> Figures:
    return Figures(**table.select(_figures(columns)).collect().row(0, named=True))


def text(value: Any) -> str:
    """A swept value as text: the same for 0 and 0.0, and for a value and its JSON in a column of strings."""
    return text_of(value) or ""


def by_point(table: pl.LazyFrame, columns: Sequence[str], swept: Sequence[str]) -> dict[tuple[str, ...], Figures]:
    """The figures of each sweep point, by the texts of its values in the order of ``swept``."""
    if not swept:
        return {(): whole(table, columns)}
    point = pl.struct(pl.col(name).alias(str(at)) for at, name in enumerate(swept))
    grouped = table.group_by(point.alias("point")).agg(_figures(columns)).collect()
    return {tuple(map(text, row.pop("point").values())): Figures(**row) for row in grouped.iter_rows(named=True)}


def histogram(table: pl.LazyFrame, name: str) -> Histogram | None:
    """A histogram of a column of positive numbers; ``None`` if it has none."""
    values = table.select(pl.col(name).drop_nulls()).collect()[name]
    return binned(values.filter(values >= 0), 0.995)


def binned(values: pl.Series, top_share: float = 1.0) -> Histogram | None:
    """A histogram of numbers; ``None`` if there are none. Those above ``top_share`` of them are counted in the last bin."""
    values = values.filter(values.is_finite())
    if not len(values):
        return None
    low, p50, p95, top, high = (float(values.quantile(q) or 0.0) for q in (0, 0.5, 0.95, top_share, 1))
    is_log = low > 0 and top / low > _SKEWED
    bins = min(_BINS, max(1, int(len(values) ** 0.5) * 2))
    if top <= low:
        low, top, bins = low - max(0.1 * abs(low), 1e-9), top + (0.1 * abs(top) or 1.0), 5
    edges = np.geomspace(low, top, bins + 1) if is_log else np.linspace(low, top, bins + 1)
    counts, _ = np.histogram(values.to_numpy().clip(low, top), edges)
    return Histogram(edges.tolist(), counts.tolist(), p50, p95, high, is_log)


def numbers(table: pl.LazyFrame, scores: pl.LazyFrame | None, columns: Sequence[str]) -> dict[str, Histogram]:
    """Histograms of the numbers that answers have in top-level fields of JSON, and of scores (``columns``), by their names.
    Fields with few different values are :func:`answers`."""
    found: dict[str, Histogram | None] = {}
    head = table.select("parsed").head(_LOOKED_AT).collect()["parsed"].drop_nulls().to_list()
    for name in _numeric_fields(head):
        value = pl.col("parsed").str.json_path_match(f"$['{name}']").cast(pl.Float64, strict=False)
        found[name] = binned(table.select(value.alias("value")).collect()["value"].drop_nulls())
    for column, values in {} if scores is None else scores.select(columns).collect().to_dict().items():
        found[f"score {column.removeprefix('score_')}"] = binned(values.drop_nulls())
    return {name: histogram for name, histogram in found.items() if histogram is not None}


def _numeric_fields(texts: Sequence[str]) -> list[str]:
    seen: dict[str, list[Any]] = {}
    for raw in texts:
        data = msgspec.json.decode(raw)
        for name, value in data.items() if isinstance(data, dict) else ():
            if value is not None and "'" not in name:
                seen.setdefault(name, []).append(value)
    numeric = {
        name: v
        for name, v in seen.items()
        if all(isinstance(x, int | float) and x is not True and x is not False for x in v)
    }
    labels = _fields(texts)
    return [name for name in numeric if name not in labels][:_FIELDS]


def causes(table: pl.LazyFrame) -> tuple[list[Cause], int]:
    """Why rows are not ``ok``, most frequent first, and how many rows have a less frequent cause."""
    kind = pl.coalesce("error_code", "error_type", "finish_reason").fill_null("unknown")
    cut = pl.col("error_message").str.slice(0, _CAUSE_CHARS)
    grouped = (
        table.filter(pl.col("status") != "ok")
        .select("status", "http_status", "id", kind=kind, message=cut, alike=cut.str.replace_all(_PARTICULARS, "…"))
        .group_by("status", "http_status", "kind", "alike")
        .agg(pl.len().alias("rows"), pl.col("id").first(), pl.col("message").first())
        .sort(["rows", "status", "kind", "alike"], descending=[True, False, False, False])
        .collect()
    )
    found = [
        Cause(row["status"], _cause(row["kind"], row["http_status"]), row["rows"], row["id"], row["message"])
        for row in grouped.head(_CAUSES).iter_rows(named=True)
    ]
    return found, int(grouped["rows"].slice(_CAUSES).sum())


def _cause(kind: str, http_status: int | None) -> str:
    return kind if http_status in (None, 200) or str(http_status) in kind else f"{http_status} {kind}"


def answers(table: pl.LazyFrame) -> list[Distribution]:
    """Distributions of the answers, if they have few different values: of top-level fields of JSON, else of short texts."""
    head = table.select("parsed", "content").head(_LOOKED_AT).collect()
    fields = _fields(head["parsed"].drop_nulls().to_list())
    if fields:
        values = [pl.col("parsed").str.json_path_match(f"$['{name}']").alias(str(at)) for at, name in enumerate(fields)]
        found = [_distribution(table.select(value), name) for value, name in zip(values, fields, strict=True)]
        return [distribution for distribution in found if distribution is not None]
    texts = head["content"].drop_nulls().str.strip_chars()
    if head["parsed"].null_count() < head.height or not len(texts) or not _are_few(texts):
        return []
    only = _distribution(table.select(pl.col("content").str.strip_chars()), "answer")
    return [only] if only is not None else []


def _fields(texts: Sequence[str]) -> list[str]:
    """Fields that have few and short values, in order of first appearance."""
    seen: dict[str, list[str]] = {}
    fractions = set()
    for raw in texts:
        data = msgspec.json.decode(raw)
        for name, value in data.items() if isinstance(data, dict) else ():
            if isinstance(value, str | bool | int) and "'" not in name:
                seen.setdefault(name, []).append(text(value))
            elif isinstance(value, float):
                fractions.add(name)
    return [name for name, values in seen.items() if name not in fractions and _are_few(pl.Series(values))][:_FIELDS]


def _are_few(values: pl.Series) -> bool:
    distinct = values.unique()
    longest: Any = distinct.str.len_chars().max()
    return longest <= _LONGEST_LABEL and (len(distinct) <= _LABELS // 2 or len(distinct) * 20 <= len(values))


def _distribution(values: pl.LazyFrame, what: str) -> Distribution | None:
    counted = (
        values.collect().to_series().rename("value").value_counts().sort("count", "value", descending=[True, False])
    )
    nothing = int(counted.filter(pl.col("value").is_null())["count"].sum())
    counted = counted.drop_nulls("value")
    if not counted.height:
        return None
    shown = counted.head(_LABELS)
    names = [name if len(name) <= _LONGEST_LABEL else f"{name[:_LONGEST_LABEL]}…" for name in shown["value"]]
    return Distribution(what, names, shown["count"].to_list(), int(counted["count"].slice(_LABELS).sum()), nothing)


def flow(table: pl.LazyFrame, run_id: str | None, parts: int) -> Flow | None:
    """How many rows of a run ended when, in seconds since the first was sent; ``None`` without any duration."""
    of_run = pl.lit(True) if run_id is None else pl.col("run_id") == run_id
    times = table.filter(of_run).select("started_at", "finished_at").collect()
    if times.height < 2:
        return None
    begin: Any = times["started_at"].min()
    ended = (times["finished_at"] - begin).dt.total_microseconds().drop_nulls().to_numpy() / 1e6
    last = float(ended.max(initial=0.0))
    if last <= 0:
        return None
    rows, edges = np.histogram(ended, parts, (0.0, last))
    return Flow(edges[:-1].tolist(), rows.tolist(), last / parts)
