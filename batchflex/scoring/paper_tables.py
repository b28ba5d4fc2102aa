"""Scores and comparisons as tables for a paper (LaTeX with booktabs), a README (Markdown), or further work (a frame). Pure.

Where people read it, a score is ``81.2 [79.9, 82.5]``: the mean and its interval, of shares in percent with one decimal. Brackets
and not ``±``, as the intervals of shares are not symmetric. The row that has the highest mean is bold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import polars as pl

from ..core import count, format, one_line, text_of

Form = Literal["md", "tex"]
Found = Mapping[str, Any]

METHODS = {
    "wilson": "Wilson", "bootstrap": "bootstrap over items", "cluster-wilson": "Wilson with clustered standard errors",
    "cluster-t": "t with clustered standard errors", "mcnemar": "McNemar's test", "mcnemar-exact": "McNemar's exact test",
    "paired-t": "paired t-test",
}  # fmt: skip
TESTS = {**METHODS, "cluster-t": "paired t-test with clustered standard errors"}


class _Table(NamedTuple):
    """``bold`` are the rows to make stand out, by column. ``numeric`` columns are aligned to the right."""

    head: list[str]
    rows: list[list[str]]
    numeric: set[int]
    bold: set[tuple[int, int]]
    notes: list[str]


def frame(found: Found) -> pl.DataFrame:
    """What ``scores.json`` holds with a row for each sweep point and score; numbers as they are, shares from 0 to 1."""
    rows = []
    for at, point in enumerate(found["points"]):
        for spec in found["scores"]:
            score, described = point["scores"][spec["name"]], spec.get("comparison")
            versus, agreement = score.get("versus") or {}, score.get("agreement") or {}
            majority = score["majority"] or {}
            against = described["with"] if described else None
            rows.append({
                **{_free(name): _cell(value) for name, value in point["point"].items()},
                "score": spec["name"], "mean": score["mean"], "low": score["low"], "high": score["high"],
                "se": score.get("se"), "df": score.get("df"), "method": score["method"], "n": score["n"], "items": score["items"],
                "clusters": score.get("clusters"), "majority": majority.get("mean"), "kappa": score["kappa"],
                "alpha": agreement.get("alpha"), "compared_with": against,
                "is_reference": described is not None and described["point"] == at,
                "difference": versus.get("difference"), "difference_low": versus.get("low"),
                "difference_high": versus.get("high"), "p_value": versus.get("p_value"), "p_holm": versus.get("p_holm"),
                "p_bh": versus.get("p_bh"), "test": versus.get("method"), "detectable": versus.get("detectable"),
                "rows": point["rows"], "prompt_tokens": point["prompt_tokens"],
                "completion_tokens": point["completion_tokens"], "cost": point["cost"],
                "latency_p50_s": point["latency_s"]["p50"], "latency_p95_s": point["latency_s"]["p95"],
            })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None, strict=False)


_TAKEN = {
    "score",
    "mean",
    "low",
    "high",
    "se",
    "df",
    "method",
    "n",
    "items",
    "clusters",
    "test",
    "rows",
    "cost",
    "kappa",
    "alpha",
}


def _free(name: str) -> str:
    return f"sweep_{name}" if name in _TAKEN else name


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | str) else text_of(value)


def scores(found: Found, form: Form) -> str:
    """What ``scores.json`` holds, with a line for each sweep point."""
    points, level = found["points"], found["level"]
    variables = list(dict.fromkeys(name for point in points for name in point["point"]))
    columns = [(name, [_text(point["point"].get(name)) for point in points]) for name in variables]
    if not variables:
        columns.append(("", ["all rows"] * len(points)))
    first, bold, notes = len(columns), set(), [f"{format.level(level)} intervals"]
    sizes = [{point["scores"][spec["name"]]["n"] for point in points} for spec in found["scores"]]
    same = len(set().union(*sizes)) <= 1
    for spec in found["scores"]:
        name, share = spec["name"], bool(spec["is_share"])
        mine = [point["scores"][name] for point in points]
        means = [score["mean"] for score in mine]
        best = max((mean for mean in means if mean is not None), default=None)
        if len(points) > 1 and len({*means}) > 1:
            bold |= {(row, len(columns)) for row, mean in enumerate(means) if mean is not None and mean == best}
        columns.append(
            (f"{name} (%)" if share else name, [_interval(s["mean"], s["low"], s["high"], share) for s in mine])
        )
        if not same:
            columns.append(("n", [f"{score['n']:,}" for score in mine]))
        notes.append(_about(spec, mine))
        if described := spec.get("comparison"):
            versus = [score.get("versus") for score in mine]
            columns.append(
                (f"Δ {name}" if len(found["scores"]) > 1 else "Δ", [_difference(each, share) for each in versus])
            )
            columns.append(("p (Holm)", [_p(each and each["p_holm"]) for each in versus]))
            notes.append(_tested(name, described, points, versus))
    if same and points:
        number = count(next(iter(set().union(*sizes)), 0), "row")
        notes.insert(1, f"n = {number} at each point" if len(points) > 1 else f"n = {number}")
    rows = [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]
    head = [name for name, _ in columns]
    return _written(_Table(head, rows, set(range(first, len(head))), bold, notes), form)


def comparison(told: Found, names: Sequence[str], form: Form, shares: Mapping[str, bool]) -> str:
    """A comparison with a line for each score. ``names`` are those of A and B, ``shares`` says which scores are shares."""
    head = ["score", "n", "A", "B", "B − A", "p"]
    adjusted = sum(score["p_value"] is not None for score in told["scores"]) > 1
    head += ["p (Holm)"] if adjusted else []
    rows, notes = [], [f"A: {names[0]}", f"B: {names[1]}", f"{format.level(told['level'])} intervals"]
    for score in told["scores"]:
        name = score["name"]
        share = shares.get(name, False)
        row = [
            f"{name} (%)" if share else name,
            f"{score['items']:,}",
            _number(score["a"], share),
            _number(score["b"], share),
        ]
        row += [_difference(score, share), _p(score["p_value"])] + ([_p(score["p_holm"])] if adjusted else [])
        rows.append(row)
    tests = sorted({TESTS[score["method"]] for score in told["scores"] if score["method"]})
    notes += [f"p: {' and '.join(tests)}"] if tests else []
    clusters = {score["clusters"] for score in told["scores"]}
    if told["cluster"] is not None:
        notes.append(f"clustered by {told['cluster']} ({_range(clusters)} clusters)")
    return _written(_Table(head, rows, set(range(1, len(head))), set(), notes), form)


def _about(spec: Found, scores: Sequence[Found]) -> str:
    methods = [METHODS.get(m, m) for m in dict.fromkeys(score["method"] for score in scores) if m]
    said = f"{spec['name']}: {' and '.join(methods) or 'no interval'}"
    if spec.get("cluster") and scores:
        said += f", clustered by {spec['cluster']} ({_range({score['clusters'] for score in scores})} clusters)"
    return said


def _range(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _tested(name: str, described: Found, points: Sequence[Found], versus: Sequence[Found | None]) -> str:
    reference = ", ".join(f"{n} = {_text(value)}" for n, value in points[described["point"]]["point"].items())
    tests = sorted({TESTS[each["method"]] for each in versus if each and each["method"]})
    which = "the highest" if described["with"] == "best" else "the baseline"
    said = f"Δ {name}: difference from {which} ({reference})"
    return (
        f"{said}; {' and '.join(tests)}, p corrected by Holm for {described['family']:,} comparisons" if tests else said
    )


def _text(value: Any) -> str:
    return "–" if value is None else one_line(text_of(value) or "")


def _number(value: float | None, share: bool) -> str:
    if value is None:
        return "–"
    return format.fixed(100 * value, 1) if share else format.fixed(value, 3 if abs(value) < 100 else 1)


def _interval(mean: float | None, low: float | None, high: float | None, share: bool) -> str:
    if mean is None or low is None or high is None:
        return _number(mean, share)
    return f"{_number(mean, share)} [{_number(low, share)}, {_number(high, share)}]"


def _difference(found: Found | None, share: bool) -> str:
    """``-3.1 [-5.0, -1.2]``, in percentage points where the score is a share."""
    if found is None or found["difference"] is None:
        return "–"
    text = _interval(found["difference"], found["low"], found["high"], share)
    shown = _number(found["difference"], share)
    return format.signed(shown) + text.removeprefix(shown)


def _p(value: float | None) -> str:
    return format.p_value(value).replace("<", "< ")


# ---------------------------------------------------------------------------------------------------------- writing

_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": r"\textbar{}", "–": "--",
    "Δ": r"$\Delta$", "κ": r"$\kappa$", "·": r"$\cdot$", "−": "$-$", "±": r"$\pm$", "…": r"\dots{}",
}  # fmt: skip
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


def tex_text(text: str) -> str:
    """Text as LaTeX shows it; signs of numbers are a minus."""
    escaped = "".join(_TEX.get(character, character) for character in text)
    return _MINUS.sub("$-$", escaped)


def md_text(text: str) -> str:
    """Text as Markdown shows it, also in a cell of a table."""
    return re.sub(r"([\\`*_{}\[\]<>|~#])", r"\\\1", text)


def _md_number(text: str) -> str:
    return text.replace("<", "&lt;").replace("-", "−") if text != "–" else text


def _written(table: _Table, form: Form) -> str:
    return _tex(table) if form == "tex" else _md(table)


def _md(table: _Table) -> str:
    lines = [
        " | ".join(map(md_text, table.head)),
        " | ".join("---:" if at in table.numeric else "---" for at in range(len(table.head))),
    ]
    for row, cells in enumerate(table.rows):
        shown = [_md_number(cell) if at in table.numeric else md_text(cell) for at, cell in enumerate(cells)]
        shown = [f"**{cell}**" if (row, at) in table.bold else cell for at, cell in enumerate(shown)]
        lines.append(" | ".join(shown))
    text = "\n".join(f"| {line} |" for line in lines)
    return f"{text}\n\n{md_text('. '.join(table.notes))}.\n"


def _tex(table: _Table) -> str:
    """``tabular`` alone, so that caption and place are the paper's; what a caption should say is in comments."""
    columns = "".join("r" if at in table.numeric else "l" for at in range(len(table.head)))
    lines = ["% \\usepackage{booktabs}", *(f"% {one_line(note)}" for note in table.notes)]
    lines += [
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        f"{' & '.join(map(tex_text, table.head))} \\\\",
        "\\midrule",
    ]
    for row, cells in enumerate(table.rows):
        shown = [
            f"\\textbf{{{tex_text(cell)}}}" if (row, at) in table.bold else tex_text(cell)
            for at, cell in enumerate(cells)
        ]
        lines.append(f"{' & '.join(shown)} \\\\")
    # A row that begins with a bracket would be taken for an argument of the line before.
    lines = [f"{{}}{line}" if line.startswith("[") else line for line in lines]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", ""])
