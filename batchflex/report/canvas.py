"""What all charts of a report have in common: colours, fonts, sizes. Pure.

Colours are CSS variables of the page, so that one chart serves light mode, dark mode and print. Shades are opacities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

INK, MUTED, RULE = "var(--ink)", "var(--muted)", "var(--rule)"
ACCENT, SOFT, WARM = "var(--accent)", "var(--soft)", "var(--warm)"
SERIES = ["var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)"]
FONT = 'ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", sans-serif'
LONGEST_NAME = 260  # pixels
# The variables of the page in light mode, and a font that other programs have: for charts that leave the page.
PALETTE = {
    "page": "#ffffff", "ink": "#1b1f24", "muted": "#626b76", "rule": "#e3e6ea", "accent": "#0067a8", "on-accent": "#ffffff",
    "soft": "#8a9aab",
    "warm": "#c4560a", "on-warm": "#ffffff", "s1": "#0067a8", "s2": "#8fc5ea", "s3": "#b668a0", "s4": "#e09b1a",
}  # fmt: skip
PLAIN_FONT = "Helvetica, Arial, Liberation Sans, sans-serif"
ALONE_WIDTH = 640  # pixels of a chart outside of the page

Spec = dict[str, Any]
Chart = alt.Chart | alt.LayerChart | alt.FacetChart


def config() -> Spec:
    axis = {"labelColor": MUTED, "titleColor": MUTED, "domainColor": RULE, "tickColor": RULE, "gridColor": RULE,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelFont": FONT, "titleFont": FONT,
            "domain": False, "ticks": False, "labelPadding": 6, "titlePadding": 8, "labelLimit": LONGEST_NAME}  # fmt: skip
    return {
        "background": "transparent",
        "font": FONT,
        "view": {"stroke": None},
        "axis": axis,
        "axisY": {"grid": False},
        "legend": {"labelColor": INK, "titleColor": MUTED, "labelFontSize": 12, "titleFontSize": 12, "orient": "top",
                   "titleFontWeight": "normal", "symbolType": "square", "symbolSize": 110, "offset": 6,
                   "labelFont": FONT, "titleFont": FONT},
        "text": {"color": INK, "fontSize": 12, "font": FONT},
    }  # fmt: skip


def data(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=[dict(row) for row in rows])


def drawn(chart: Chart, height: float) -> Spec:
    """A chart as Vega-Lite, as wide as its container in the page."""
    spec: Spec = chart.properties(
        width="container", height=height, autosize=alt.AutoSizeParams(type="fit-x", contains="padding")
    ).to_dict()
    spec.pop("config", None)  # the page has one for all
    return spec


def alone(spec: Spec) -> Spec:
    """A chart that stands by itself: colours in place of the page's variables, a width, a white background."""
    found: Spec = _plain({**spec, "width": ALONE_WIDTH, "background": PALETTE["page"], "config": config()})
    found["config"]["background"] = found["background"]
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if value == FONT:
        return PLAIN_FONT
    return PALETTE.get(value[6:-1], value) if value.startswith("var(--") and value.endswith(")") else value


def counts(title: str | None = None) -> alt.Axis:
    """An axis of numbers, with a grid."""
    return alt.Axis(title=title, format="~s", tickCount=4, grid=True)


def by_flag(flag: str) -> Any:
    """The colour of a mark: the accent where ``flag`` is set in its row."""
    return alt.condition(f"datum.{flag}", alt.value(ACCENT), alt.value(SOFT))


def matrix(base: alt.Chart, shade: str, domain: Sequence[float], colour: Any, steps: int, step: float) -> Spec:
    """Cells the more opaque the higher their ``shade`` is in its ``domain``, with the words ``said`` in each. There are ``steps``
    lines of the height ``step``."""
    dark = f"datum.{shade} > {domain[0] + 0.6 * (domain[1] - domain[0])}"
    cells = base.mark_rect(cornerRadius=3, stroke="var(--page)", strokeWidth=2).encode(
        opacity=alt.Opacity(f"{shade}:Q", scale=alt.Scale(domain=list(domain), range=[0.06, 1]), legend=None),
        color=colour,
    )
    words = base.mark_text(fontSize=13, fontWeight=600).encode(
        text="said:N", color=alt.condition(dark, alt.value("var(--on-accent)"), alt.value(INK))
    )
    return drawn(cells + words, step * steps + 10)


def name_axis(title: str | None = None) -> alt.Axis:
    """Names; how wide they may be is in :func:`config`, which the page changes where it is narrow."""
    return alt.Axis(title=title, labelColor=INK, labelFontSize=13)
