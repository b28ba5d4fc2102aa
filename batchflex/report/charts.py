"""Charts of scores, labels and answers, in Vega-Lite by way of Altair. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from . import headline
from .breakdown import Distribution
from .canvas import ACCENT, INK, SOFT, WARM, Spec, data, drawn, name_axis
from .digest import Digest, PointDigest
from .score_section import Labels, Score, ScoreSpec

POINTS = 40  # a chart shows
_STEP = 34
_NAMED_POINTS = 6
_LONG_LABEL = 30


# ------------------------------------------------------------------------------------------------------------ scores


def scores(digest: Digest, spec: ScoreSpec) -> Spec:
    """A dot with its interval for each sweep point, with the highest one marked."""
    points = [(headline.name_of(digest, point), point.scores[spec.name]) for point in shown(digest, spec)]
    top = max((score.mean or 0.0 for _, score in points), default=0.0)
    rows = [
        {"name": name, **_figures(spec, score), **_ends(score), "top": score.mean == top and len(points) > 1}
        for name, score in points
    ]
    return _dots(rows, spec)


def scores_of_one(digest: Digest, point: PointDigest) -> Spec | None:
    """All shares of a job without a sweep, one below the other; ``None`` if it has none."""
    specs = [s for s in (digest.scores.scores if digest.scores else []) if s.is_share and s.name in point.scores]
    rows = [
        {"name": spec.name, **_figures(spec, score), **_ends(score), "top": at == 0}
        for at, spec in enumerate(specs)
        if (score := point.scores[spec.name]).mean is not None
    ]
    return _dots(rows, specs[0]) if rows else None


def _figures(spec: ScoreSpec, score: Score) -> dict[str, Any]:
    """The mean of a score, and the texts of its tooltip."""
    interval = headline.between(spec, score) or "none"
    return {"mean": score.mean, "said": headline.value(spec, score.mean), "interval": interval, "rows": score.n}


def _ends(score: Score) -> dict[str, Any]:
    """The ends of a score's interval; its mean where it has none."""
    return {
        "low": score.mean if score.low is None else score.low,
        "high": score.mean if score.high is None else score.high,
    }


def _tooltip(spec: ScoreSpec, *first: alt.Tooltip) -> list[alt.Tooltip]:
    """Tooltips for :func:`_figures`, after those of its name."""
    interval, rows = alt.Tooltip("interval:N", title="interval"), alt.Tooltip("rows:Q", title="rows", format=",")
    return [*first, alt.Tooltip("said:N", title=spec.name), interval, rows]


def _dots(rows: Sequence[Mapping[str, Any]], spec: ScoreSpec) -> Spec:
    scale = alt.Scale(domain=[0, 1]) if spec.is_share else alt.Scale(zero=False, nice=True, padding=12)
    axis = alt.Axis(title=None, format=".0%" if spec.is_share else "~s", tickCount=6)
    order = list(dict.fromkeys(row["name"] for row in rows))
    colour = alt.condition("datum.top", alt.value(ACCENT), alt.value(SOFT))
    tooltip = _tooltip(spec, alt.Tooltip("name:N", title=" "))
    base = alt.Chart(data(rows)).encode(y=alt.Y("name:N", sort=order, axis=name_axis()), tooltip=tooltip)
    line = base.mark_rule(strokeWidth=3, strokeCap="round").encode(
        x=alt.X("low:Q", scale=scale, axis=axis), x2="high:Q", color=colour
    )
    dot = base.mark_circle(size=110, opacity=1).encode(x="mean:Q", color=colour)
    words = base.mark_text(dy=-13, fontSize=12, fontWeight=600).encode(x="mean:Q", text="said:N")
    return drawn(line + dot + words, _STEP * len(order) + 12)


def shown(digest: Digest, spec: ScoreSpec) -> list[PointDigest]:
    """The points to show in a chart, in the order of the sweep: those with the highest scores if there are too many."""
    ranked = headline.best(digest, spec)[:POINTS]
    kept = {point.values for point in ranked}
    return [point for point in digest.points if point.values in kept]


def heat_maps(digest: Digest, spec: ScoreSpec) -> list[tuple[str, Spec]]:
    """Heat maps of the means over the two variables that have most values, with their titles: one for each combination of the
    other variables, nine at most."""
    varying = headline.varying(digest)
    if len(varying) < 2:
        return []
    names = sorted(varying, key=lambda name: -len(digest.variables[name]))
    across, down, *rest = names[0], names[1], *names[2:]
    panels: dict[str, list[dict[str, Any]]] = {}
    for point in headline.best(digest, spec):
        values = dict(zip(digest.variables, point.values, strict=True))
        panel = ", ".join(f"{name} = {values[name]}" for name in rest)
        cell = {"across": values[across], "down": values[down], **_figures(spec, point.scores[spec.name])}
        panels.setdefault(panel, []).append(cell)
    every = [row["mean"] for rows in panels.values() for row in rows]
    low, high = min(every), max(every)
    domain = [low - max(0.15 * (high - low), 1e-9), high + 1e-9]
    orders = {name: list(digest.variables[name]) for name in (across, down)}
    return [
        (panel, _heat(panels[panel], across, down, orders, domain, spec))
        for panel in sorted(panels, key=lambda panel: _panel_order(digest, rest, panel))[:9]
    ]


def _panel_order(digest: Digest, rest: Sequence[str], panel: str) -> list[int]:
    values = dict(part.split(" = ", 1) for part in panel.split(", ") if " = " in part)
    return [digest.variables[n].index(values[n]) if values.get(n) in digest.variables[n] else 0 for n in rest]


def _heat(
    rows: Sequence[Mapping[str, Any]], across: str, down: str, orders: Mapping[str, list[str]],
    domain: Sequence[float], spec: ScoreSpec,
) -> Spec:  # fmt: skip
    columns = [v for v in orders[across] if any(row["across"] == v for row in rows)]
    lines = [v for v in orders[down] if any(row["down"] == v for row in rows)]
    middle = domain[0] + 0.62 * (domain[1] - domain[0])
    base = alt.Chart(data(rows)).encode(
        x=alt.X("across:N", sort=columns,
              axis=alt.Axis(title=across, labelAngle=0, orient="top", labelColor=INK, labelLimit=120)),
        y=alt.Y("down:N", sort=lines, axis=name_axis(down)),
        tooltip=_tooltip(spec, alt.Tooltip("across:N", title=across), alt.Tooltip("down:N", title=down)),
    )  # fmt: skip
    cells = base.mark_rect(color=ACCENT, cornerRadius=3, stroke="var(--page)", strokeWidth=2).encode(
        opacity=alt.Opacity("mean:Q", scale=alt.Scale(domain=list(domain), range=[0.06, 1]), legend=None)
    )
    words = base.mark_text(fontSize=13, fontWeight=600).encode(
        text="said:N", color=alt.condition(f"datum.mean > {middle}", alt.value("var(--on-accent)"), alt.value(INK))
    )
    return drawn(cells + words, 46 * len(lines) + 10)


def trade(digest: Digest, spec: ScoreSpec) -> tuple[Spec, str] | None:
    """Score against cost, with the unit of that: US dollars for 1,000 rows, or tokens a row. ``None`` with less than two points.
    A line joins the points that no other beats in both."""
    points = [
        p for p in headline.best(digest, spec) if _price(p, "cost") is not None or _price(p, "tokens") is not None
    ]
    what = "cost" if points and all(p.figures.cost is not None for p in points) else "tokens"
    points = [p for p in points if _price(p, what) is not None][: 4 * POINTS]
    if len(points) < 2:
        return None
    title = "US dollars for 1,000 rows" if what == "cost" else "tokens a row, prompt and answer"
    rows: list[dict[str, Any]] = []
    cheapest = float("inf")
    for point in points:  # by falling score
        score, price = point.scores[spec.name], _price(point, what) or 0.0
        front = price < cheapest
        cheapest = min(cheapest, price)
        rows.append({
            "name": headline.name_of(digest, point), "short": headline.short_name_of(digest, point),
            "mean": score.mean, "price": price, "front": front, **_ends(score),
            "said": headline.value(spec, score.mean), "paid": f"${price:,.4g}" if what == "cost" else f"{price:,.0f}",
        })  # fmt: skip
    dear, cheap = max(row["price"] for row in rows), min(row["price"] for row in rows)
    _name_few(rows, dear - cheap)
    room = max(0.18 * (dear - cheap), 0.04 * dear, 1e-9)
    x = alt.X("price:Q", scale=alt.Scale(domain=[max(0.0, cheap - room), dear + room * 1.6], nice=False),
              axis=alt.Axis(title=title, grid=False, format="$~g" if what == "cost" else ",.0f", tickCount=6))  # fmt: skip
    y_scale = alt.Scale(domain=[0, 1]) if spec.is_share else alt.Scale(zero=False, padding=14)
    y_axis = alt.Axis(title=spec.name, format=".0%" if spec.is_share else "~s", grid=True, tickCount=5)
    colour = alt.condition("datum.front", alt.value(ACCENT), alt.value(SOFT))
    tooltip = [
        alt.Tooltip("name:N", title=" "),
        alt.Tooltip("said:N", title=spec.name),
        alt.Tooltip("paid:N", title=title),
    ]
    base = alt.Chart(data(rows)).encode(x=x, tooltip=tooltip)
    y = alt.Y("mean:Q", scale=y_scale, axis=y_axis)
    front = base.transform_filter("datum.front").mark_line(
        color=ACCENT, strokeWidth=1.5, strokeDash=[4, 3], opacity=0.7
    )
    chart = (
        front.encode(y=y, order="price:Q")
        + base.mark_rule(strokeWidth=2, opacity=0.45).encode(
            y=alt.Y("low:Q", scale=y_scale, axis=y_axis), y2="high:Q", color=colour)
        + base.mark_circle(size=110, opacity=1).encode(y=y, color=colour)
        + base.mark_text(dx=10, dy=-8, align="left", fontWeight=600, limit=220).encode(y=y, text="label:N")
    )  # fmt: skip
    return drawn(chart, 300), title


def _name_few(rows: list[dict[str, Any]], width: float) -> None:
    """Label points: those close to each other with one label, and of many points only those on the line."""
    height = max(row["high"] for row in rows) - min(row["low"] for row in rows)
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
    figures = point.figures
    if what == "cost":
        return None if figures.cost is None else 1000 * figures.cost / max(1, figures.rows)
    return None if figures.tokens is None else figures.tokens / max(1, figures.rows)


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
                         "said": f"{n:,}" if n else "", "part": headline.share(n / total)})  # fmt: skip
    base = alt.Chart(data(rows)).encode(
        x=alt.X("answered:N", sort=names, axis=alt.Axis(title="answered", orient="top", labelColor=INK, labelLimit=110,
                                                        labelAngle=0 if len(names) <= 5 else -40)),
        y=alt.Y("expected:N", sort=names, axis=name_axis("expected")),
        tooltip=[alt.Tooltip("expected:N"), alt.Tooltip("answered:N"), alt.Tooltip("rows:Q", format=","),
                 alt.Tooltip("part:N", title="of the expected")],
    )  # fmt: skip
    cells = base.mark_rect(cornerRadius=3, stroke="var(--page)", strokeWidth=2).encode(
        opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.05, 1]), legend=None),
        color=alt.condition("datum.right", alt.value(ACCENT), alt.value(WARM)),
    )
    words = base.mark_text(fontSize=13, fontWeight=600).encode(
        text="said:N", color=alt.condition("datum.share > 0.6", alt.value("var(--on-accent)"), alt.value(INK))
    )
    return drawn(cells + words, max(36, min(56, 420 // len(names))) * len(names) + 10)


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
    x = alt.X("answered:Q", axis=alt.Axis(title="rows", format="~s", tickCount=4), scale=alt.Scale(nice=True))
    bars = base.mark_bar(color=ACCENT, opacity=0.75, height=16, cornerRadiusEnd=3).encode(x=x)
    ticks = base.mark_tick(color=INK, thickness=2.5, size=24).encode(x="expected:Q")
    return drawn(bars + ticks, 36 * len(names) + 10)


def answers(found: Distribution) -> Spec:
    """How often each value was answered."""
    total = sum(found.counts) + found.others + found.nothing
    more = [("other values", found.others), ("no value", found.nothing)]
    rows = [
        {"name": name, "rows": n, "said": f"{n:,} · {headline.share(n / total)}", "plain": plain}
        for name, n, plain in [
            *((name, n, True) for name, n in zip(found.names, found.counts, strict=True)),
            *((name, n, False) for name, n in more if n),
        ]
    ]
    order = [str(row["name"]) for row in rows]
    base = alt.Chart(data(rows)).encode(
        y=alt.Y("name:N", sort=order, axis=name_axis()),
        x=alt.X("rows:Q", axis=None, scale=alt.Scale(domain=[0, 1.25 * max(row["rows"] for row in rows)])),  # type: ignore[operator,type-var]
        tooltip=[alt.Tooltip("name:N", title=found.what), alt.Tooltip("rows:Q", format=",")],
    )
    bars = base.mark_bar(height=16, cornerRadiusEnd=3, opacity=0.75).encode(
        color=alt.condition("datum.plain", alt.value(ACCENT), alt.value(SOFT))
    )
    return drawn(bars + base.mark_text(align="left", dx=6).encode(text="said:N"), 28 * len(order) + 6)
