"""Scores for people, as tables that fit a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import aligned, clipped, count, duration, format, money, one_line, text_of, text_tables

_MOST_POINTS = 50
_WIDEST = 24
_SHOWN_LABELS = 12


def text(found: Mapping[str, Any], width: int | None = None) -> str:
    """What ``scores.json`` holds, in as many lines as it takes; tables closer together where ``width`` cells are too few."""
    lines = [f"scores of {count(found['rows'], 'row')}, with {format.level(found['level'])} intervals"]
    lines += _indented(_table(found), width)
    if len(found["points"]) > _MOST_POINTS:
        lines.append(f"  … and {len(found['points']) - _MOST_POINTS:,} more sweep points; scores.json has them all")
    lines += _indented(_samples(found), width)
    if len(found["points"]) == 1:
        for name, score in found["points"][0]["scores"].items():
            lines += _labels(name, score["labels"], width)
    if others := sum(point.get("substituted") or 0 for point in found["points"]):
        lines.append(
            f"  {count(others, 'row')} answered by another model than was asked for, or by a fallback: see the columns "
            "requested_model, model and gateway_fallbacks of the results"
        )
    lines += [f"  {judge_line(judge)}" for judge in found.get("judges", ())]
    return "\n".join(lines)


def judge_line(judge: Mapping[str, Any]) -> str:
    """How a judge's run stands, in a line."""
    line = f"judge of {judge['name']}: {judge['graded']:,} of {count(judge['asked'], 'answer')} graded"
    if judge["unreadable"]:
        line += f", {judge['unreadable']:,} without a grade that can be read"
    line += f"; {judge['prompt_tokens']:,} prompt + {judge['completion_tokens']:,} completion tokens"
    if judge["cost"] is not None:
        line += f", {money(judge['cost'])}"
    if judge["stopped_by"]:
        line += f"; stopped by {judge['stopped_by']}: {one_line(judge['message'] or '')}; run again to grade the rest"
    return line


def _with_interval(score: Mapping[str, Any], is_share: bool) -> str:
    return format.with_interval(score["mean"], score["low"], score["high"], is_share=is_share)


def _table(found: Mapping[str, Any]) -> list[list[str]]:
    """A line a sweep point: its values, each score with interval and count, and what it took."""
    points = found["points"][:_MOST_POINTS]
    columns: list[tuple[str, list[str]]] = []
    for name in dict.fromkeys(name for point in points for name in point["point"]):
        columns.append((name, [_cell(point["point"].get(name)) for point in points]))
    for spec in found["scores"]:
        scores = [point["scores"][spec["name"]] for point in points]
        columns.append((spec["name"], [_with_interval(score, spec["is_share"]) for score in scores]))
        columns.append(("n", [f"{score['n']:,}" for score in scores]))
    if any(point.get("substituted") for point in points):
        columns.append(("other model", [f"{point.get('substituted') or 0:,}" for point in points]))
    if any(point["prompt_tokens"] is not None for point in points):
        tokens = [(point["prompt_tokens"] or 0) + (point["completion_tokens"] or 0) for point in points]
        columns.append(("tokens", [f"{n:,}" for n in tokens]))
    if any(point["cost"] is not None for point in points):
        columns.append(("cost", [money(point["cost"]) for point in points]))
    if any(point["latency_s"]["p50"] is not None for point in points):
        columns.append(("latency", [duration(point["latency_s"]["p50"]) for point in points]))
    return [list(line) for line in zip(*([head, *cells] for head, cells in columns), strict=True)]


def _cell(value: Any, most: int = _WIDEST) -> str:
    return "–" if value is None else clipped(one_line(str(text_of(value))), most)


def _samples(found: Mapping[str, Any]) -> list[list[str]]:
    """Where items have several samples: pass@k, majority vote and agreement, a line for each sweep point and score."""
    rows = []
    ks: list[str] = []
    for point in found["points"][:_MOST_POINTS]:
        for name, score in point["scores"].items():
            if score["pass_at"] or score["majority"] or score["kappa"] is not None:
                rows.append((point["point"], name, score))
                ks += [k for k in score["pass_at"] or () if k not in ks]
    if not rows:
        return []
    variables = list(dict.fromkeys(name for values, _, _ in rows for name in values))
    ks.sort(key=int)
    lines = [[*variables, "samples", *(f"pass@{k}" for k in ks), "majority", "kappa"]]
    for values, name, score in rows:
        passed, majority = score["pass_at"] or {}, score["majority"]
        line = [*(_cell(values.get(variable)) for variable in variables), name]
        line += [format.percent(passed[k]["mean"] if k in passed else None) for k in ks]
        line.append(_with_interval(majority, is_share=True) if majority else format.NOTHING)
        lines.append([*line, format.coefficient(score["kappa"])])
    return lines


def _labels(name: str, labels: Mapping[str, Any] | None, width: int | None) -> list[str]:
    """The confusion matrix, a line for each label expected, with precision, recall and F1 beside it."""
    if labels is None or len(labels["names"]) > _SHOWN_LABELS:
        return []
    lines = [[f"{name}: expected ↓ answered →", *map(_cell, labels["names"]), "precision", "recall", "F1"]]
    for at, label in enumerate(labels["names"]):
        if labels["support"][at]:
            measures = (format.percent(labels[measure][at]) for measure in ("precision", "recall", "f1"))
            lines.append([_cell(label), *(f"{n:,}" for n in labels["matrix"][at]), *measures])
    return [*_indented(lines, width), f"  macro F1 of {name}: {format.percent(labels['macro_f1'])}"]


def _indented(lines: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    for gap in ("   ", "  ", " "):
        made = [f"  {line}" for line in aligned(lines, gap=gap)]
        if width is None or max(map(text_tables.width, made), default=0) <= width:
            break
    return made


# --------------------------------------------------------------------------------------------------- a comparison

_LONGEST_ANSWER, _SHORTEST_ANSWER, _BESIDE_ANSWERS = 60, 12, 40


def comparison(
    found: Mapping[str, Any], names: Sequence[str], flips: Sequence[Mapping[str, Any]], flipped: int, width: int = 160
) -> str:
    """A comparison as tables, in ``width`` cells if they are enough; ``flips`` are those of the ``flipped`` items that are to be
    shown, ``names`` the two operands."""
    lines = [f"A is {names[0]}", f"B is {names[1]}", f"{count(found['items'], 'item')} on both sides"]
    if found["only_a"] or found["only_b"]:
        lines[-1] += f"; {found['only_a']:,} only in A and {found['only_b']:,} only in B are left out"
    interval = f"{format.level(found['level'])} interval"
    table = [["", "items", "A", "B", "B - A", interval, "p", "test", "wins", "losses", "ties"]]
    for score in found["scores"]:
        is_share = score["is_share"]
        table.append([
            score["name"], f"{score['items']:,}", *(format.score(score[side], is_share=is_share) for side in "ab"),
            format.difference(score["difference"], is_share=is_share),
            format.difference_interval(score["low"], score["high"], is_share=is_share),
            format.p_value(score["p_value"]), score["method"] or format.NOTHING,
            f"{score['wins']:,}", f"{score['losses']:,}", f"{score['ties']:,}",
        ])  # fmt: skip
    lines += _indented(table, width)
    sides = [_side(name, found[name.lower()]) for name in "AB"]
    lines += _indented([["", "rows", "tokens", "cost", "latency"], *sides])
    if not flipped:
        return "\n".join([*lines, "  nothing flipped"])
    said_in = max(_SHORTEST_ANSWER, min(_LONGEST_ANSWER, (width - _BESIDE_ANSWERS) // 2))
    shown = [["flipped", "item", "A", "B", "A said", "B said"]]
    for flip in flips:
        item, *said = (_cell(flip.get(name), said_in) for name in ("item", "content_a", "content_b"))
        shown.append([str(flip["score"]), item, format.figure(flip["a"]), format.figure(flip["b"]), *said])
    lines += _indented(shown, width)
    if flipped > len(flips):
        lines.append(f"  {len(flips):,} of {flipped:,} that flipped; --rows N shows more, -o FILE writes all")
    return "\n".join(lines)


def _side(name: str, side: Mapping[str, Any]) -> list[str]:
    tokens = [side[kind] for kind in ("prompt_tokens", "completion_tokens") if side[kind] is not None]
    total = f"{sum(tokens):,}" if tokens else "–"
    return [name, f"{side['rows']:,}", total, money(side["cost"]), duration(side["latency_s"])]
