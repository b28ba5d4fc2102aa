"""A run that has ended as HTML, for a notebook: how it went, what it took, how good the answers are, what to do next. Pure.

It stands in the page of somebody else, bright or dark: so every colour is the page's own text colour, thinned out, or one that
can be read on both; styles are inline, and nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from ..core import BAD, STATUSES, count, duration, format, money, one_line, printable, seconds_between
from ..scoring import score_text
from ..storage import sent
from . import run_text

_TONES = {"good": "#2a9d5c", "warned": "#d08700", "bad": "#d9443f"}
_COLOURS = {
    "ok": "#2a9d5c", "truncated": "#d08700", "filtered": "#8a63d2", "empty": "#7c8694", "invalid": "#d9443f",
    "failed": "#b83280", "open": "rgba(128,128,128,.3)",
}  # fmt: skip
_MOST_POINTS = 20
_LINE = "1px solid rgba(128,128,128,.35)"
_GROUND = "rgba(128,128,128,.15)"
_CELL = "padding:.15em 1em .15em 0;text-align:left;background:none;border:none"


def page(
    state: Mapping[str, Any],
    scores: Mapping[str, Any] | None = None,
    unscored: str | None = None,
    report: str | None = None,
) -> str:
    """``state`` is the summary of a run, ``scores`` what ``scores.json`` holds, ``report`` the path of its report, if there is
    one, as a link from the notebook."""
    parts = [_head(state), _bar(state), _facts(state)]
    if scores is not None:
        parts.append(_scores(scores))
    parts.append(_steps([*_next(state, unscored)]))
    out = f"{state['out']}/{state.get('results', 'results.parquet')}"
    links = [f"<code>{_text(out)}</code>"]
    if report is not None:
        links.append(f'<a href="{_text(report)}" target="_blank" rel="noopener" style="color:inherit">report</a>')
    parts.append(f'<div style="opacity:.75;margin-top:.5em">{" · ".join(links)}</div>')
    tone = _TONES[_tone(state, unscored)]
    style = f"border-left:4px solid {tone};padding:.2em 0 .2em .9em;margin:.3em 0;max-width:64em;line-height:1.5"
    return f'<div style="{style}">{"".join(parts)}</div>'


def _text(text: object) -> str:
    return escape(printable(str(text)))


def _tone(state: Mapping[str, Any], unscored: str | None) -> str:
    if state["status"] != "finished":
        return "bad" if state["status"] == "stopped" else "warned"
    return "warned" if run_text.not_ok(state) or unscored is not None else "good"


def _head(state: Mapping[str, Any]) -> str:
    verdict = run_text.outcome(state)
    took = duration(seconds_between(state["started_at"], state["finished_at"] or state["updated_at"]))
    name = f'<span style="opacity:.75"> · {_text(state["job"])} · {took}</span>'
    return f'<div><b style="font-size:1.1em">{_text(verdict[0].upper() + verdict[1:])}</b>{name}</div>'


def _bar(state: Mapping[str, Any]) -> str:
    """Rows by status: a bar of their shares, and the counts."""
    planned = max(state["planned"] or 0, state["done"])
    rows = {status: state.get(status) or 0 for status in STATUSES} | {"open": planned - state["done"]}
    rows = {status: n for status, n in rows.items() if n or status == "ok"}
    whole = max(1, sum(rows.values()))
    shares = "".join(
        f'<span style="display:inline-block;height:100%;width:{format.fixed(100 * n / whole, 2)}%;'
        f'background:{_COLOURS[status]}"></span>'
        for status, n in rows.items()
        if n
    )
    counts = "".join(
        f'<span style="margin-right:1.2em;white-space:nowrap"><span style="color:{_COLOURS[status]}">■</span> '
        f"{n:,} {'not answered yet' if status == 'open' else status}</span>"
        for status, n in rows.items()
    )
    frame = f"height:8px;border-radius:4px;overflow:hidden;margin:.4em 0;font-size:0;white-space:nowrap;background:{_GROUND}"
    return f'<div style="{frame}">{shares}</div><div>{counts}</div>'


def _facts(state: Mapping[str, Any]) -> str:
    if not state["requests_sent"]:
        return (
            '<div style="opacity:.75">Nothing was sent: every answer was there already.</div>' if state["done"] else ""
        )
    facts = [sent(state)]
    if state["retries"]:
        facts.append(count(state["retries"], "retry", "retries"))
    if state["rate_limited"]:
        facts.append(f"{state['rate_limited']:,} rate-limited")
    facts.append(run_text.usage(state))
    return f'<div style="opacity:.75">This run: {_text("; ".join(facts))}</div>'


def _scores(scores: Mapping[str, Any]) -> str:
    """A line a sweep point: its values, and each score with its interval and how many rows it is of."""
    points: Sequence[Mapping[str, Any]] = scores["points"]
    variables = list(dict.fromkeys(name for point in points for name in point["point"]))
    names = [score["name"] for score in scores["scores"]]
    shares = [score["is_share"] for score in scores["scores"]]
    costs = any(point["cost"] is not None for point in points)
    heads = [*variables, *(cell for name in names for cell in (name, "n")), *(["cost"] if costs else [])]
    lines = []
    for point in points[:_MOST_POINTS]:
        cells = [_text(one_line(str(point["point"].get(name, "–")), 60)) for name in variables]
        for name, is_share in zip(names, shares, strict=True):
            score = point["scores"][name]
            value = format.score(score["mean"], is_share=is_share)
            interval = format.interval(score["low"], score["high"], is_share=is_share)
            cells += [f'<b>{value}</b> <span style="opacity:.7">{interval}</span>', f"{score['n']:,}"]
        cells += [money(point["cost"])] if costs else []
        lines.append("".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells))
    head = "".join(f'<th style="{_CELL};border-bottom:{_LINE};font-weight:600">{_text(name)}</th>' for name in heads)
    body = "".join(f'<tr style="background:none">{line}</tr>' for line in lines)
    more = len(points) - _MOST_POINTS
    beyond = f'<div style="opacity:.75">… and {count(more, "more sweep point")}</div>' if more > 0 else ""
    told = f"Scores of {count(scores['rows'], 'row')}, with {format.level(scores['level'])} intervals"
    style = "border-collapse:collapse;margin:.2em 0;color:inherit;font:inherit"
    table = f'<table style="{style}"><tr style="background:none">{head}</tr>{body}</table>'
    judges = "".join(f"<div>{_text(score_text.judge_line(judge))}</div>" for judge in scores.get("judges", ()))
    return f'<div style="margin-top:.6em;opacity:.75">{told}</div>{table}{beyond}{judges}'


Step = tuple[str, str | None]


def _steps(steps: Sequence[Step]) -> str:
    if not steps:
        return ""
    lines = [
        f'<li style="margin:.1em 0">{_text(words)}{"" if code is None else f": <code>{_text(code)}</code>"}</li>'
        for words, code in steps
    ]
    return f'<ul style="margin:.5em 0 0;padding-left:1.2em">{"".join(lines)}</ul>'


def _next(state: Mapping[str, Any], unscored: str | None) -> Iterator[Step]:
    """What to do next: a sentence, and a line of Python if there is one that does it."""
    out = state["out"]
    if state["status"] != "finished":
        if state["message"] and state["stopped_by"] != "signal":
            yield f"{state['stopped_by']}: {one_line(state['message'])}", None
        yield f"What was answered is kept; {run_text.how_to_go_on(state, 'run this again')}", None
    if bad := [status for status in STATUSES if status in BAD and state.get(status)]:
        if state["first_failure"]:
            yield f"The first that has no usable answer is {one_line(state['first_failure'])}", None
        listed = ", ".join(f'"{status}"' for status in bad)
        yield "See them all", f'run.results().filter(pl.col("status").is_in([{listed}]))'
    for status, words in (("truncated", run_text.cut_off), ("empty", run_text.without_text)):
        if answers := state.get(status):
            again = f"""batchflex.retry({out!r}, where="status = '{status}'", settings={{"max_tokens": …}})"""
            yield words(answers), again
    for words in state.get("given_up") or ():
        if words not in (state["message"] or ""):
            yield one_line(words), None
    if unscored is not None:
        yield one_line(unscored), None
