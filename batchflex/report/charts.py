"""Charts of scores, labels and answers, in Vega-Lite by way of Altair. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from ..core import format, money, percent
from . import headline
from .breakdown import Distribution
from .canvas import ACCENT, INK, WARM, Spec, by_flag, counts, data, drawn, matrix, name_axis
from .digest import Digest, PointDigest
from .score_section import Labels, Score, ScoreSpec

POINTS = 40  # a chart shows
_STEP = 34
_NAMED_POINTS = 6
_LONG_LABEL = 30
_DECIMAL = ",.3~r"  # 0.67 and 1,200, where ~s has 670m and 1.2k


# ------------------------------------------------------------------------------------------------------------ scores


def scores(digest: Digest, spec: ScoreSpec) -> Spec:
    """A dot with its interval for each sweep point, in the order of the sweep; of too many those that score highest."""
    kept = {point.values for point in headline.best(digest, spec)[:POINTS]}
    points = [point for point in digest.points if point.values in kept]
    rows = [{**_named(digest, point), **_figures(spec, point.scores[spec.name])} for point in points]
    top = max((row["mean"] for row in rows), default=None)
    return _dots([{**row, "top": row["mean"] == top and len(rows) > 1} for row in rows], spec)


def scores_of_one(digest: Digest, point: PointDigest) -> Spec | None:
    """All shares of a job without a sweep, one below the other; ``None`` if it has none."""
    specs = [s for s in digest.specs if s.is_share and s.name in point.scores]
    rows = [
        {"name": spec.name, "short": spec.name, **_figures(spec, point.scores[spec.name]), "top": spec is specs[0]}
        for spec in specs
        if point.scores[spec.name].mean is not None
    ]
    return _dots(rows, specs[0]) if rows else None


def _named(digest: Digest, point: PointDigest) -> dict[str, Any]:
    """The ``name`` of a point for tooltips, and the ``short`` one for axes."""
    return {"name": headline.name_of(digest, point), "short": headline.short_name_of(digest, point)}


def _figures(spec: ScoreSpec, score: Score) -> dict[str, Any]:
    """The mean of a score, the ends of its interval (or the mean where it has none), and the texts of its tooltip."""
    mean, low, high = score.mean, score.low, score.high
    return {
        "mean": mean, "low": mean if low is None else low, "high": mean if high is None else high,
        "said": headline.value(spec, mean), "interval": headline.between(spec, score) or "none", "rows": score.n,
    }  # fmt: skip


def _tooltip(spec: ScoreSpec, *first: alt.Tooltip) -> list[alt.Tooltip]:
    """Tooltips for :func:`_figures`, after those of its name."""
    interval, rows = alt.Tooltip("interval:N", title="interval"), alt.Tooltip("rows:Q", title="rows", format=",")
    return [*first, alt.Tooltip("said:N", title=spec.name), interval, rows]


def _dots(rows: Sequence[Mapping[str, Any]], spec: ScoreSpec) -> Spec:
    scale = alt.Scale(domain=[0, 1]) if spec.is_share else alt.Scale(zero=False, nice=True, padding=12)
    axis = alt.Axis(title=None, format=".0%" if spec.is_share else _DECIMAL, tickCount=6)
    order = list(dict.fromkeys(row["short"] for row in rows))
    tooltip = _tooltip(spec, alt.Tooltip("name:N", title=" "))
    base = alt.Chart(data(rows)).encode(y=alt.Y("short:N", sort=order, axis=name_axis()), tooltip=tooltip)
    x = alt.X("low:Q", scale=scale, axis=axis)
    line = base.mark_rule(strokeWidth=3, strokeCap="round").encode(x=x, x2="high:Q", color=by_flag("top"))
    dot = base.mark_circle(size=110, opacity=1).encode(x="mean:Q", color=by_flag("top"))
    words = base.mark_text(dy=-13, fontSize=12, fontWeight=600).encode(x="mean:Q", text="said:N")
    return drawn(line + dot + words, _STEP * len(order) + 12)


def heat_maps(digest: Digest, spec: ScoreSpec) -> list[tuple[str, Spec]]:
    """Heat maps of the means over the two variables that have most values, with their titles: one for each combination of the
    other variables, nine at most."""
    varying = headline.varying(digest)
    if len(varying) < 2:
        return []
    names = sorted(varying, key=lambda name: -len(digest.variables[name]))
    across, down, *rest = names[0], names[1], *names[2:]
    short = headline.short_values(digest)
    panels: dict[tuple[str, ...], list[dict[str, Any]]] = {}  # by the values of the other variables
    for point in headline.best(digest, spec):
        values = dict(zip(digest.variables, point.values, strict=True))
        cell = {"across": short[across][values[across]], "down": short[down][values[down]], **_named(digest, point)}
        cell |= _figures(spec, point.scores[spec.name])
        panels.setdefault(tuple(values[name] for name in rest), []).append(cell)
    every = [row["mean"] for rows in panels.values() for row in rows]
    low, high = min(every), max(every)
    domain = [low - max(0.15 * (high - low), 1e-9), high + 1e-9]

    def order(panel: tuple[str, ...]) -> list[int]:
        orders = [digest.variables[name] for name in rest]
        return [values.index(value) if value in values else 0 for values, value in zip(orders, panel, strict=True)]

    found = []
    for panel in sorted(panels, key=order)[:9]:
        rows = panels[panel]
        columns, lines = (
            [name for name in short[variable].values() if any(row[field] == name for row in rows)]
            for variable, field in ((across, "across"), (down, "down"))
        )
        top = alt.Axis(title=across, labelAngle=0, orient="top", labelColor=INK, labelLimit=120)
        base = alt.Chart(data(rows)).encode(
            x=alt.X("across:N", sort=columns, axis=top),
            y=alt.Y("down:N", sort=lines, axis=name_axis(down)),
            tooltip=_tooltip(spec, alt.Tooltip("name:N", title=" ")),
        )
        title = ", ".join(f"{name} = {value}" for name, value in zip(rest, panel, strict=True))
        found.append((title, matrix(base, "mean", domain, alt.value(ACCENT), len(lines), 46)))
    return found


def trade(digest: Digest, spec: ScoreSpec) -> tuple[Spec, str] | None:
    """Score against cost, with the unit of that: US dollars for 1,000 rows, or tokens a row. ``None`` with less than two points.
    A line joins the points that no other beats in both."""
    ranked = headline.best(digest, spec)
    priced = [p for p in ranked if p.figures.cost is not None or p.figures.tokens is not None]
    what = "cost" if priced and all(p.figures.cost is not None for p in priced) else "tokens"
    points = [p for p in ranked if _price(p, what) is not None][: 4 * POINTS]
    if len(points) < 2:
        return None
    title = "US dollars for 1,000 rows" if what == "cost" else "tokens a row, prompt and answer"
    rows: list[dict[str, Any]] = []
    cheapest = float("inf")
    for point in points:  # by falling score
        price = _price(point, what) or 0.0
        front = price < cheapest
        cheapest = min(cheapest, price)
        rows.append({
            **_named(digest, point),
            **_figures(spec, point.scores[spec.name]),
            "price": price, "front": front, "paid": money(price) if what == "cost" else format.fixed(price, 0),
        })  # fmt: skip
    dear, cheap = max(row["price"] for row in rows), min(row["price"] for row in rows)
    lowest, highest = min(row["low"] for row in rows), max(row["high"] for row in rows)
    _name_few(rows, dear - cheap, 1.0 if spec.is_share else highest - lowest)
    room = max(0.18 * (dear - cheap), 0.04 * dear, 1e-9)
    x = alt.X("price:Q", scale=alt.Scale(domain=[max(0.0, cheap - room), dear + room * 1.6], nice=False),
              axis=alt.Axis(title=title, grid=False, format="$~g" if what == "cost" else ",.0f", tickCount=6))  # fmt: skip
    y_scale = alt.Scale(domain=[0, 1]) if spec.is_share else alt.Scale(zero=False, padding=14)
    y_axis = alt.Axis(title=spec.name, format=".0%" if spec.is_share else _DECIMAL, grid=True, tickCount=5)
    tooltip = [alt.Tooltip(f"{field}:N", title=words) for field, words in
               (("name", " "), ("said", spec.name), ("paid", title))]  # fmt: skip
    base = alt.Chart(data(rows)).encode(x=x, tooltip=tooltip)
    y, low = (alt.Y(f"{field}:Q", scale=y_scale, axis=y_axis) for field in ("mean", "low"))
    front = base.transform_filter("datum.front").mark_line(
        color=ACCENT, strokeWidth=1.5, strokeDash=[4, 3], opacity=0.7
    )
    rules = base.mark_rule(strokeWidth=2, opacity=0.45).encode(y=low, y2="high:Q", color=by_flag("front"))
    dots = base.mark_circle(size=110, opacity=1).encode(y=y, color=by_flag("front"))
    middle = (cheap + dear) / 2  # words of points in the right half go to the left, so that they stay within the chart
    words = base.encode(y=y, text="label:N")
    left = words.transform_filter(f"datum.price <= {middle!r}").mark_text(
        align="left", dx=10, dy=-8, fontWeight=600, limit=220
    )
    right = words.transform_filter(f"datum.price > {middle!r}").mark_text(
        align="right", dx=-10, dy=-8, fontWeight=600, limit=220
    )
    return drawn(front.encode(y=y, order="price:Q") + rules + dots + left + right, 300), title


def _name_few(rows: list[dict[str, Any]], width: float, height: float) -> None:
    """Label points: those close to each other, on axes of this width and height, with one label, and of many points only those
    on the line."""
    named: list[dict[str, Any]] = []
    for row in rows:
        row["label"] = ""
        if not row["front"] and len(rows) > _NAMED_POINTS:
            continue
        near = (
            other
            for other in named
            if abs(other["price"] - row["price"]) <= 0.2 * width and abs(other["mean"] - row["mean"]) <= 0.05 * height
        )
        if (other := next(near, None)) is not None:
            other["label"] += f", {row['short']}" if len(other["label"]) < _LONG_LABEL else ""
        else:
            row["label"] = row["short"]
            named.append(row)


def _price(point: PointDigest, what: str) -> float | None:
    """US dollars for 1,000 rows, or tokens a row."""
    figures = point.figures
    total = figures.tokens if what == "tokens" else None if figures.cost is None else 1000 * figures.cost
    return None if total is None else total / max(1, figures.rows)


# ------------------------------------------------------------------------------------------------------------ labels


def confusion(labels: Labels, most: int = 16) -> Spec:
    """A confusion matrix: expected labels down, answered ones across, shaded by the share of the expected label."""
    names = [str(name) for name in labels.names][:most]
    rows = []
    for down, name in enumerate(names):
        total = sum(labels.matrix[down]) or 1
        for across, answered in enumerate(names):
            n = labels.matrix[down][across]
            rows.append({"expected": name, "answered": answered, "rows": n, "share": n / total, "right": down == across,
                         "said": f"{n:,}" if n else "", "part": percent(n / total)})  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        x=alt.X("answered:N", sort=names, axis=alt.Axis(title="answered", orient="top", labelColor=INK, labelLimit=110,
                                                        labelAngle=0 if len(names) <= 5 else -40)),
        y=alt.Y("expected:N", sort=names, axis=name_axis("expected")),
        tooltip=[alt.Tooltip("expected:N"), alt.Tooltip("answered:N"), alt.Tooltip("rows:Q", format=","),
                 alt.Tooltip("part:N", title="of the expected")],
    )  # fmt: skip
    colour = alt.condition("datum.right", alt.value(ACCENT), alt.value(WARM))
    return matrix(base, "share", [0, 1], colour, len(names), max(36, min(56, 420 // len(names))))


def label_counts(labels: Labels, most: int = 16) -> Spec:
    """How often each label was answered (bar) and expected (tick)."""
    names = [str(name) for name in labels.names][:most]
    rows = [
        {"label": name, "answered": sum(line[at] for line in labels.matrix), "expected": sum(labels.matrix[at])}
        for at, name in enumerate(names)
    ]
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("label:N", sort=names, axis=name_axis()),
        tooltip=[alt.Tooltip("label:N"), alt.Tooltip("answered:Q", format=","), alt.Tooltip("expected:Q", format=",")],
    )
    x = alt.X("answered:Q", axis=counts("rows"), scale=alt.Scale(nice=True))
    bars = base.mark_bar(color=ACCENT, opacity=0.75, height=16, cornerRadiusEnd=3).encode(x=x)
    ticks = base.mark_tick(color=INK, thickness=2.5, size=24).encode(x="expected:Q")
    return drawn(bars + ticks, 36 * len(names) + 10)


def answers(found: Distribution) -> Spec:
    total = sum(found.counts) + found.others + found.nothing
    named = [(name or "(empty)", n, True) for name, n in zip(found.names, found.counts, strict=True)]
    more = [("other values", found.others, False), ("no value", found.nothing, False)]
    rows: list[dict[str, Any]] = [
        {"name": name, "rows": n, "said": f"{n:,} · {percent(n / total)}", "plain": plain}
        for name, n, plain in [*named, *(each for each in more if each[1])]
    ]
    order = [row["name"] for row in rows]
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("name:N", sort=order, axis=name_axis()),
        x=alt.X("rows:Q", axis=None, scale=alt.Scale(domain=[0, 1.25 * max(row["rows"] for row in rows)])),
        tooltip=[alt.Tooltip("name:N", title=found.what), alt.Tooltip("rows:Q", format=",")],
    )
    bars = base.mark_bar(height=16, cornerRadiusEnd=3, opacity=0.75).encode(color=by_flag("plain"))
    return drawn(bars + base.mark_text(align="left", dx=6).encode(text="said:N"), 28 * len(order) + 6)
