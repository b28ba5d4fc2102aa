"""Charts of speed, tokens and cost, in Vega-Lite by way of Altair. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import altair as alt

from ..core import duration, format
from . import headline
from .breakdown import Flow, Histogram
from .canvas import ACCENT, INK, MUTED, SERIES, WARM, Spec, counts, data, drawn, name_axis
from .charts import POINTS
from .digest import Digest
from .timeline import Timeline


def histogram(
    found: Histogram, unit: str = "seconds", tooltip: str = "took", text: Callable[[float], str] = format.latency
) -> Spec:
    """A histogram, of how long answers took or of other numbers, with the median and the 95th percentile marked."""
    rows = [
        {"begin": low, "end": high, "rows": n, "span": f"{text(low)} to {text(high)}"}
        for low, high, n in zip(found.edges, found.edges[1:], found.counts, strict=False)
    ]
    low, high = found.edges[0], found.edges[-1]
    scale = alt.Scale(type="log" if found.is_log else "linear", domain=[low, high], nice=False, zero=False)
    title = f"{unit}, on a log scale" if found.is_log else unit
    x = alt.X("begin:Q", bin="binned", scale=scale, axis=alt.Axis(title=title, grid=False, format=",.3~r", tickCount=6))
    bars = (
        alt.Chart(data(rows))
        .mark_bar(color=ACCENT, opacity=0.75, binSpacing=1)
        .encode(x=x, x2="end:Q",
                y=alt.Y("rows:Q", scale=alt.Scale(domain=[0, 1.25 * max(found.counts)]), axis=counts("rows")),
                tooltip=[alt.Tooltip("span:N", title=tooltip), alt.Tooltip("rows:Q", format=",")])
    )  # fmt: skip
    marks = []
    for line, (word, at) in enumerate((("median", found.p50), ("95 %", found.p95))):
        is_left = (at - low) / max(1e-12, high - low) < 0.75
        mark = alt.Chart(data([{"at": min(at, high), "said": f"{word} {text(at)}"}])).encode(
            x=alt.X("at:Q", scale=scale)
        )
        marks.append(mark.mark_rule(color=INK, strokeDash=[3, 3]))
        place: dict[str, Any] = {"align": "left", "dx": 5} if is_left else {"align": "right", "dx": -5}
        marks.append(mark.mark_text(y=6 + 16 * line, fontWeight=600, **place).encode(text="said:N"))
    return drawn(alt.layer(bars, *marks), 170)


def over_time(timeline: Timeline) -> list[tuple[str, Spec]]:
    """Charts over time with their titles: answers a second, requests in flight and their limit, refusals, retries."""
    unit, divisor = _unit(timeline.steps[-1].at_s)
    top = max(step.at_s for step in timeline.steps) / divisor
    rows = [
        {"at": step.at_s / divisor, "run": step.run, "answers": round(step.answers_per_s, 3),
         "said": format.fixed(step.answers_per_s, 1), "flight": round(step.in_flight, 1),
         "window": step.window, "refused": step.refused, "retries": step.retries}
        for step in timeline.steps
    ]  # fmt: skip
    axis = alt.Axis(title=f"{unit} of running", grid=False, tickCount=6)
    x = alt.X("at:Q", scale=alt.Scale(domain=[0, top], nice=False), axis=axis)
    base = alt.Chart(data(rows)).encode(x=x, detail="run:N")
    line = base.mark_area(color=ACCENT, opacity=0.15, line={"color": ACCENT, "strokeWidth": 2})
    dashed = base.mark_line(color=MUTED, interpolate="step-after", strokeWidth=1.5, strokeDash=[4, 3])
    begins = [{"at": at / divisor} for at in timeline.begins_s[1:]]
    rules = [alt.Chart(data(begins)).mark_rule(color=MUTED, strokeDash=[2, 3]).encode(x=x)] if begins else []

    def y(name: str) -> alt.Y:
        return alt.Y(f"{name}:Q", axis=counts(), scale=alt.Scale(zero=True), stack=None)

    def placed(*charts: alt.Chart) -> Spec:
        return drawn(alt.layer(*charts, *rules), 130)

    answers = line.encode(y=y("answers"), tooltip=[alt.Tooltip("said:N", title="answers/s")])
    tooltip = [alt.Tooltip("flight:Q", title="in flight"), alt.Tooltip("window:Q", title="may be")]
    flight = placed(line.encode(y=y("flight"), tooltip=tooltip), dashed.encode(y=y("window")))
    found = [("Answers a second", placed(answers)), ("Requests in flight (dashed: as many as may be)", flight)]
    for name, words in (("refused", "Refused by a rate limit"), ("retries", "Retried")):
        if any(row[name] for row in rows):
            bars = base.mark_bar(color=WARM, width=3).encode(y=y(name), tooltip=[alt.Tooltip(f"{name}:Q", format=",")])
            found.append((f"{words}, each {duration(timeline.step_s)}", placed(bars)))
    return found


def flow(found: Flow) -> Spec:
    """Rows that ended a second, over the time of a run, from the results alone."""
    unit, divisor = _unit(found.begin_s[-1] + found.width_s)
    rows = [
        {
            "at": begin / divisor,
            "end": (begin + found.width_s) / divisor,
            "rate": n / found.width_s,
            "said": format.fixed(n / found.width_s, 1),
        }
        for begin, n in zip(found.begin_s, found.rows, strict=True)
    ]
    chart = alt.Chart(data(rows)).mark_bar(color=ACCENT, opacity=0.75, binSpacing=1).encode(
        x=alt.X("at:Q", bin="binned", scale=alt.Scale(nice=False),
                axis=alt.Axis(title=f"{unit} since the first request", grid=False, tickCount=6)),
        x2="end:Q", y=alt.Y("rate:Q", axis=counts()),
        tooltip=[alt.Tooltip("said:N", title="rows/s")],
    )  # fmt: skip
    return drawn(alt.layer(chart), 130)


def _unit(seconds: float) -> tuple[str, float]:
    if seconds < 180:
        return "seconds", 1.0
    return ("minutes", 60.0) if seconds < 3 * 3600 else ("hours", 3600.0)


def tokens(digest: Digest) -> Spec | None:
    """Tokens a row at each sweep point: computed prompt, prompt read from cache, reasoning, answer."""
    parts = ["prompt", "prompt read from cache", "reasoning", "answer"]
    rows: list[dict[str, Any]] = []
    for point in [p for p in digest.points if p.figures.tokens is not None][:POINTS]:
        f = point.figures
        cached, reasoning = f.cache_read_input_tokens or 0, f.reasoning_tokens or 0
        prompt, answer = max(0, (f.prompt_tokens or 0) - cached), max(0, (f.completion_tokens or 0) - reasoning)
        rows += [
            {
                "name": headline.name_of(digest, point),
                "short": headline.short_name_of(digest, point),
                "part": part,
                "order": at,
                "each": n / max(1, f.rows),
                "said": format.fixed(n / max(1, f.rows), 1),
                "sum": n,
            }
            for at, (part, n) in enumerate(zip(parts, (prompt, cached, reasoning, answer), strict=True))
            if n
        ]
    if not rows:
        return None
    there = [part for part in parts if any(row["part"] == part for row in rows)]
    order = list(dict.fromkeys(row["short"] for row in rows))
    colours = [SERIES[parts.index(part)] for part in there]
    chart = alt.Chart(data(rows)).mark_bar(height=16, cornerRadius=2).encode(
        y=alt.Y("short:N", sort=order, axis=name_axis()),
        x=alt.X("each:Q", axis=alt.Axis(title="tokens a row", format="~s", tickCount=6)),
        color=alt.Color("part:N", scale=alt.Scale(domain=there, range=colours), legend=alt.Legend(title=None)),
        order=alt.Order("order:Q"),
        tooltip=[alt.Tooltip("name:N", title=" "), alt.Tooltip("part:N", title="tokens"),
                 alt.Tooltip("said:N", title="a row"),
                 alt.Tooltip("sum:Q", title="in all", format=",")],
    )  # fmt: skip
    return drawn(alt.layer(chart), 30 * len(order) + 10)
