"""Scores for people, as tables that fit a terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..core import aligned, clipped, count, format, money, one_line, text_of, text_tables

_MOST_POINTS = 50
_WIDEST = 24
_SHOWN_LABELS = 12
_FEW_CLUSTERS = 20


def text(found: Mapping[str, Any], width: int | None = None) -> str:
    """What ``scores.json`` holds, in as many lines as it takes; with ``planned`` rows beside it they are scores so far. Tables
    are closer together where ``width`` cells are too few."""
    of = count(found["rows"], "row")
    if "planned" in found:
        of = (
            f"{of} so far"
            if found["planned"] is None
            else f"{found['rows']:,} of {count(found['planned'], 'row')} so far"
        )
    lines = [f"scores of {of}, with {format.level(found['level'])} intervals"]
    lines += _indented(_table(found), width)
    if len(found["points"]) > _MOST_POINTS:
        lines.append(f"  … and {len(found['points']) - _MOST_POINTS:,} more sweep points; scores.json has them all")
    lines += _unscored(found)
    lines += _clustered(found)
    lines += [
        f"  {spec['name']} is not compared: {one_line(spec['uncompared'])}"
        for spec in found["scores"]
        if spec.get("uncompared")
    ]
    lines += _indented(_samples(found), width)
    compared = [spec for spec in found["scores"] if spec.get("comparison")]
    shares = [spec for spec in compared if spec["is_share"]]
    for spec in shares or compared[:1]:
        lines += _versus(found, spec, width)
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


def _unscored(found: Mapping[str, Any]) -> list[str]:
    """What is said of scores that no row has, though there are rows."""
    lines = []
    for spec in found["scores"] if found["rows"] else ():
        if spec.get("kind") != "judge" and not any(point["scores"][spec["name"]]["n"] for point in found["points"]):
            place = spec.get("expected")
            why = (
                "every row has failed"
                if place is None
                else f"{one_line(repr(place))} is null in every row, or all failed"
            )
            lines.append(f"  {spec['name']} is the score of no row: {why}")
    return lines


def brief(found: Mapping[str, Any]) -> str:
    """The same in a line: ``accuracy 96.3 % (89.5 to 98.7 %)``; of several sweep points from the lowest to the highest."""
    told = []
    for name, is_share in [(score["name"], score["is_share"]) for score in found["scores"]]:
        scores = [point["scores"][name] for point in found["points"]]
        means = sorted(score["mean"] for score in scores if score["mean"] is not None)
        if len(scores) == 1:
            told.append(f"{name} {_with_interval(scores[0], is_share)}")
        elif means:
            low, high = (format.score(mean, is_share=is_share) for mean in (means[0], means[-1]))
            told.append(f"{name} {low} to {high} at {len(scores):,} sweep points")
    return f"{', '.join(told)} ({count(found['rows'], 'row')})"


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
        columns.append(("latency", [format.latency(point["latency_s"]["p50"]) for point in points]))
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
    lines = [[*variables, "samples", *(f"pass@{k}" for k in ks), "majority", "kappa", "alpha"]]
    for values, name, score in rows:
        passed, majority = score["pass_at"] or {}, score["majority"]
        line = [*(_cell(values.get(variable)) for variable in variables), name]
        line += [format.percent(passed[k]["mean"] if k in passed else None) for k in ks]
        line.append(_with_interval(majority, is_share=True) if majority else format.NOTHING)
        agreed = score.get("agreement") or {}
        alpha = (agreed.get(name) for name in ("alpha", "alpha_low", "alpha_high"))
        lines.append([*line, format.coefficient(score["kappa"]), format.coefficient_with_interval(*alpha)])
    return lines


def _clustered(found: Mapping[str, Any]) -> list[str]:
    """By which column scores are clustered, and whether there are too few clusters to say much."""
    lines = []
    for spec in found["scores"]:
        if spec.get("cluster"):
            fewest = min((point["scores"][spec["name"]]["clusters"] for point in found["points"]), default=0)
            line = f"  {spec['name']} is clustered by {one_line(spec['cluster'])}: {count(fewest, 'cluster')}"
            if fewest == 1:
                line += ", so that there is no interval"
            elif fewest < _FEW_CLUSTERS:
                line += "; so few say little, and intervals are wide"
            lines.append(line)
    return lines


def _versus(found: Mapping[str, Any], spec: Mapping[str, Any], width: int | None) -> list[str]:
    """How each sweep point differs from the best or the baseline, with corrected p-values."""
    described = spec.get("comparison")
    if described is None:
        return []
    compared_with = found["points"][described["point"]]
    reference, reference_mean = compared_with["point"], compared_with["scores"][spec["name"]]["mean"]
    shown = [p for p in found["points"][:_MOST_POINTS] if p["scores"][spec["name"]].get("versus")]
    variables = list(dict.fromkeys(name for point in shown for name in point["point"]))
    head = f"{spec['name']} less that of {'the best' if described['with'] == 'best' else 'the baseline'}"
    lines = [[*variables, head, "items", "p", "p (Holm)", "p (BH)", "test", "detectable"]]
    for point in shown:
        versus = point["scores"][spec["name"]]["versus"]
        ends = (versus[name] for name in ("difference", "low", "high"))
        line = [_cell(point["point"].get(name)) for name in variables]
        line += [format.difference_with_interval(*ends, is_share=spec["is_share"]), f"{versus['items']:,}"]
        line += [format.p_value(versus[name]) for name in ("p_value", "p_holm", "p_bh")]
        detectable = format.difference(versus["detectable"], is_share=spec["is_share"]).lstrip("+")
        lines.append([*line, versus["method"] or format.NOTHING, detectable])
    if len(lines) == 1:
        return []
    named = ", ".join(f"{name} = {_cell(value)}" for name, value in reference.items())
    about = f"{'best' if described['with'] == 'best' else 'baseline'}: {named}; p corrected for "
    about += count(described["family"], "comparison")
    if described["with"] == "best":
        about += ", all pairs, as the best is picked by the same data"
    if _is_of_items(spec, reference_mean, shown):
        about += ". Differences are of the items that both points have, each counted once; means above are of all rows"
    return [*_indented(lines, width), f"  {about}"]


def _is_of_items(spec: Mapping[str, Any], reference: float, points: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some difference is shown as another than that of the means."""
    for point in points:
        score = point["scores"][spec["name"]]
        told = (score["versus"]["difference"], score["mean"] - reference)
        if None not in told and len({format.difference(each, is_share=spec["is_share"]) for each in told}) > 1:
            return True
    return False


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
    found: Mapping[str, Any],
    names: Sequence[str],
    flips: Sequence[Mapping[str, Any]] = (),
    flipped: int | None = None,
    width: int = 160,
    more: str = "--rows N shows more, -o FILE writes all",
) -> str:
    """A comparison as tables, in ``width`` cells if they are enough; ``flips`` are those of the ``flipped`` items that are to be
    shown, if that is known, and ``more`` says where the others are; ``names`` are the two operands."""
    lines = [f"A is {names[0]}", f"B is {names[1]}", f"{count(found['items'], 'item')} on both sides"]
    if found["only_a"] or found["only_b"]:
        lines[-1] += f"; {found['only_a']:,} only in A and {found['only_b']:,} only in B are left out"
    interval = f"{format.level(found['level'])} interval"
    several = sum(score["p_value"] is not None for score in found["scores"]) > 1
    corrected = ["p (Holm)", "p (BH)"] if several else []
    clustered = ["clusters"] if found["cluster"] is not None else []
    head = ["", "items", *clustered, "A", "B", "B - A", interval, "p", *corrected, "test", "detectable"]
    table = [[*head, "wins", "losses", "ties"]]
    for score in found["scores"]:
        is_share = score["is_share"]
        line = [score["name"], f"{score['items']:,}", *(f"{score[name]:,}" for name in clustered)]
        line += [format.score(score[side], is_share=is_share) for side in "ab"]
        line.append(format.difference(score["difference"], is_share=is_share))
        line.append(format.difference_interval(score["low"], score["high"], is_share=is_share))
        line += [format.p_value(score[name]) for name in ("p_value", *(("p_holm", "p_bh") if several else ()))]
        detectable = format.difference(score["detectable"], is_share=is_share).lstrip("+")
        line += [score["method"] or format.NOTHING, detectable]
        table.append([*line, f"{score['wins']:,}", f"{score['losses']:,}", f"{score['ties']:,}"])
    lines += _indented(table, width)
    lines += [f"  {words}" for words in map(_of_rows, found["scores"]) if words is not None]
    if clustered:
        lines.append(f"  clustered by {one_line(found['cluster'])}")
    if agreed := [_agreed(score) for score in found["scores"] if score["agreement"]]:
        lines += _indented([["agreement", "on", "rows", "equal", "kappa"], *agreed], width)
    sides = [_side(name, found[name.lower()]) for name in "AB"]
    lines += _indented([["", "rows", "tokens", "cost", "latency"], *sides])
    if not flipped:
        return "\n".join(lines if flipped is None else [*lines, "  nothing flipped"])
    said_in = max(_SHORTEST_ANSWER, min(_LONGEST_ANSWER, (width - _BESIDE_ANSWERS) // 2))
    shown = [["flipped", "item", "A", "B", "A said", "B said"]]
    for flip in flips:
        item, *said = (_cell(flip.get(name), said_in) for name in ("item", "content_a", "content_b"))
        shown.append([str(flip["score"]), item, format.figure(flip["a"]), format.figure(flip["b"]), *said])
    lines += _indented(shown, width)
    if flipped > len(flips):
        lines.append(f"  {len(flips):,} of {flipped:,} that flipped; {more}")
    return "\n".join(lines)


def _of_rows(score: Mapping[str, Any]) -> str | None:
    """Where a mean over the items of both sides is not shown as that over all rows, which ``score`` shows: both, and of what."""
    pairs = [(side, score[side], score.get(f"{side}_of_rows")) for side in "ab"]
    shown = [[format.score(mean, is_share=score["is_share"]) for mean in pair[1:]] for pair in pairs]
    if all(of_rows in (of_items, format.NOTHING) for of_items, of_rows in shown):
        return None
    both = " and ".join(f"{of_rows} in {side.upper()}" for (side, *_), (_, of_rows) in zip(pairs, shown, strict=True))
    return f"{score['name']} is here the mean of the items on both sides, each counted once; of all rows it is {both}"


def agreement(found: Mapping[str, Any], names: Sequence[str]) -> str:
    """How far two sides agree in some columns."""
    lines = [f"A is {names[0]}", f"B is {names[1]}, with {format.level(found['level'])} intervals"]
    if not found["agreement"]:
        return "\n".join([*lines, "  no row has a value on both sides"])
    rows = []
    for each in found["agreement"]:
        rows.append([each["on"], f"{each['rows']:,}", *_equal_and_kappa(each)])
    lines += _indented([["column", "rows", "equal", "kappa"], *rows])
    return "\n".join([*lines, *([f"  clustered by {one_line(found['cluster'])}"] if found["cluster"] else [])])


def _agreed(score: Mapping[str, Any]) -> list[str]:
    """How far both sides gave the same label, or were right and wrong at the same rows."""
    found = score["agreement"]
    on = "the answer" if found["on"] == "answer" else "right or wrong"
    return [score["name"], on, f"{found['rows']:,}", *_equal_and_kappa(found)]


def _equal_and_kappa(found: Mapping[str, Any]) -> tuple[str, str]:
    equal = format.with_interval(found["share"], found["low"], found["high"], is_share=True)
    return equal, format.coefficient_with_interval(found["kappa"], found["kappa_low"], found["kappa_high"])


def _side(name: str, side: Mapping[str, Any]) -> list[str]:
    tokens = [side[kind] for kind in ("prompt_tokens", "completion_tokens") if side[kind] is not None]
    total = f"{sum(tokens):,}" if tokens else "–"
    return [name, f"{side['rows']:,}", total, money(side["cost"]), format.latency(side["latency_s"])]
