"""The sections of a report in their order: scores first, then what explains them. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..core import count, format, money, percent
from . import charts, headline, speed
from .digest import Digest, PointDigest
from .score_section import Interval, Labels, Score, ScoreSpec

_CONFUSIONS = 6
_TABLE_ROWS = 200
_BINDINGS = {
    "quota": "a rate limit", "endpoint": "the endpoint", "concurrency": "the limit on concurrency", "input": "reading the input",
    "client": "this machine", "budget": "a budget", "waiting": "waiting for an endpoint",
}  # fmt: skip


class Figure(NamedTuple):
    """A chart. ``id`` is set when its section is known to be shown."""

    spec: dict[str, Any]
    title: str = ""
    note: str = ""
    id: str = ""


class Table(NamedTuple):
    """``numeric`` are the columns to align to the right."""

    title: str
    head: list[str]
    rows: list[list[str]]
    numeric: tuple[int, ...] = ()
    folded: bool = False


def without_empty(table: Table) -> Table:
    """The table without the columns that have nothing in any row, but for the first."""
    kept = [at for at in range(len(table.head)) if not at or any(row[at] not in ("", "–") for row in table.rows)]
    numeric = tuple(new for new, at in enumerate(kept) if at in table.numeric)
    return table._replace(
        head=[table.head[at] for at in kept], rows=[[row[at] for at in kept] for row in table.rows], numeric=numeric
    )


class Section(NamedTuple):
    """``three_from`` is the number of figures from which three are shown side by side."""

    key: str
    title: str
    lead: str
    figures: list[Figure]
    tables: tuple[Table, ...] = ()
    three_from: int = 100

    @property
    def layout(self) -> str:
        """How many figures are shown side by side where there is room."""
        number = len(self.figures)
        return "one" if number < 2 else "two" if number < self.three_from else "three"


def chapters(digest: Digest) -> list[Section]:
    """The sections that have something to show."""
    if not digest.whole.rows:
        return []
    made = [
        _scores(digest), _heat(digest), _trade(digest), _labels(digest), _answers(digest), _histograms(digest),
        _failures(digest), _speed(digest), _time(digest), _tokens(digest),
    ]  # fmt: skip
    numbers = itertools.count(1)
    return [
        section._replace(
            figures=[figure._replace(id=f"f{next(numbers)}") for figure in section.figures],
            tables=tuple(without_empty(table) for table in section.tables),
        )
        for section in made
        if section is not None and (section.figures or section.tables)
    ]


def _specs(digest: Digest) -> list[ScoreSpec]:
    """The scores that any point has, with that of the headline first."""
    first = headline.primary(digest)
    scored = [spec for spec in digest.specs if any(spec.name in point.scores for point in digest.points)]
    return sorted(scored, key=lambda spec: spec is not first)


def _scores(digest: Digest) -> Section | None:
    specs = _specs(digest)
    if not specs or digest.scores is None:
        return None
    level = format.level(digest.scores.level)
    methods = sorted({headline.method(s) for p in digest.points for s in p.scores.values() if s.method})
    lead = f"Dots are means, lines their {level} intervals ({', '.join(methods)})." if methods else "Dots are means."
    clustered = dict.fromkeys(spec.cluster for spec in specs if spec.cluster)
    lead += f" Clustered by {', '.join(clustered)}." if clustered else ""
    beyond = len(digest.points) - charts.POINTS
    if beyond > 0:
        lead += f" The {charts.POINTS} points that score highest are drawn; all are in the table."
    if len(digest.points) == 1:
        spec = charts.scores_of_one(digest, digest.points[0])
        figures = [Figure(spec)] if spec else []
        lead = lead if spec else "Means over the rows that could be scored."
    else:
        figures = [Figure(charts.scores(digest, s), s.name, _kind(s)) for s in specs[:8] if headline.best(digest, s)]
    title = "Scores by sweep point" if len(digest.points) > 1 else "Scores"
    return Section("scores", title, lead, figures, (_numbers(digest, specs), *_compared(digest, specs)))


def _kind(spec: ScoreSpec) -> str:
    against = f" against {spec.expected}" if spec.expected else ""
    return f"{spec.kind}{against}" if (spec.kind and spec.kind != spec.name) or against else ""


def _numbers(digest: Digest, specs: list[ScoreSpec]) -> Table:
    """A table of all points; of each score that has them pass@k, majority vote and agreement, too."""
    points, several = digest.points[:_TABLE_ROWS], len(digest.points) > 1
    columns = _values(digest, points) if several else [("", ["all rows"])]
    named = len(columns)
    scores = {spec.name: [point.scores.get(spec.name, Score()) for point in points] for spec in specs}
    columns += [(spec.name, [headline.cell(spec, score) for score in scores[spec.name]]) for spec in specs]
    for spec in specs:
        found, name = scores[spec.name], "" if len(specs) == 1 else f"{spec.name}: "
        for k in dict.fromkeys(k for score in found for k in score.pass_at or {} if k != "1"):
            columns.append((f"{name}pass@{k}", [_mean(spec, (score.pass_at or {}).get(k)) for score in found]))
        if any(score.majority for score in found):
            columns.append((f"{name}majority vote", [_mean(spec, score.majority) for score in found]))
        if any(score.kappa is not None for score in found):
            columns.append((f"{name}Fleiss' κ", [format.coefficient(score.kappa) for score in found]))
        if any(score.agreement for score in found):
            columns.append((f"{name}Krippendorff's α", [_alpha(score) for score in found]))
    figures = [point.figures for point in points]
    columns.append(("rows", [f"{f.rows:,}" for f in figures]))
    columns.append(
        ("tokens a row", ["–" if f.tokens is None else format.fixed(f.tokens / max(1, f.rows), 1) for f in figures])
    )
    if any(f.cost is not None for f in figures):
        columns.append(("cost", [money(f.cost) for f in figures]))
    columns.append(("latency, median", [format.latency(f.latency_s["p50"]) for f in figures]))
    columns.append(("95 %", [format.latency(f.latency_s["p95"]) for f in figures]))
    head, cells = zip(*columns, strict=True)
    rows = [list(row) for row in zip(*cells, strict=True)]
    beyond = len(digest.points) > _TABLE_ROWS
    title = "In figures" + (f": the first {_TABLE_ROWS} of {len(digest.points):,} sweep points" if beyond else "")
    return Table(title, list(head), rows, tuple(range(named, len(head))), folded=len(rows) > 12)


def _values(digest: Digest, points: Sequence[PointDigest]) -> list[tuple[str, list[str]]]:
    """A column for each variable that differs between points."""
    at = {name: number for number, name in enumerate(digest.variables)}
    names = headline.varying(digest) or list(digest.variables)[:1]
    return [(name, [point.values[at[name]] or "(none)" for point in points]) for name in names]


def _compared(digest: Digest, specs: list[ScoreSpec]) -> Iterator[Table]:
    """For each score how the other points differ from the best or the baseline."""
    for spec in specs:
        of = [(point, found) for point in digest.points if (found := point.scores.get(spec.name, Score()).versus)]
        if spec.comparison is None or not of:
            continue
        shown = sorted(of, key=lambda pair: -(pair[1].difference or 0.0))[:_TABLE_ROWS]
        values = _values(digest, [point for point, _ in shown])
        rows = [
            [*(cells[at] for _, cells in values), headline.difference(spec, found), f"{found.items:,}",
             *(format.p_value(p) for p in (found.p_value, found.p_holm, found.p_bh)),
             format.difference(found.detectable, is_share=spec.is_share).lstrip("+")]
            for at, (_, found) in enumerate(shown)
        ]  # fmt: skip
        which = "the highest" if spec.comparison.chosen == "best" else "the baseline"
        title = f"{spec.name}, less that of {which}; p corrected for {count(spec.comparison.family, 'comparison')}"
        unit = "difference, points" if spec.is_share else "difference"
        figures = [unit, "items", "p", "p (Holm)", "p (Benjamini–Hochberg)", "detectable"]
        head = [*(name for name, _ in values), *figures]
        yield Table(title, head, rows, tuple(range(len(values), len(head))), folded=len(rows) > 12 or len(specs) > 1)


def _mean(spec: ScoreSpec, interval: Interval | None) -> str:
    return headline.value(spec, None if interval is None else interval.mean)


def _alpha(score: Score) -> str:
    found = score.agreement
    if found is None:
        return format.NOTHING
    return format.coefficient_with_interval(found.alpha, found.alpha_low, found.alpha_high)


def _heat(digest: Digest) -> Section | None:
    figures = []
    for spec in _specs(digest)[:4]:
        panels = charts.heat_maps(digest, spec)
        figures += [Figure(chart, f"{spec.name}{': ' if panel else ''}{panel}") for panel, chart in panels]
    if not figures:
        return None
    lead = "The stronger the shade, the higher; shades span the lowest to the highest mean of a score, so read the figures too."
    return Section("heat", "Over two variables", lead, figures, three_from=5)


def _trade(digest: Digest) -> Section | None:
    specs = _specs(digest)
    chosen = [s for s in specs if s.is_share][:2] or specs[:1]
    found = [(spec.name, *drawn) for spec in chosen if (drawn := charts.trade(digest, spec)) is not None]
    if not found:
        return None
    figures = [Figure(chart, name) for name, chart, _ in found]
    about = "cost" if found[-1][2].startswith("US") else "tokens"
    lead = "Points on the dashed line are beaten by no other in both: higher, or for less."
    if about == "tokens":
        lead += " No prices are known, so tokens stand for cost."
    return Section("trade", f"Quality against {about}", lead, figures)


def _labels(digest: Digest) -> Section | None:
    spec = next((s for s in _specs(digest) if any(_labels_of(p, s) for p in digest.points)), None)
    if spec is None:
        return None
    labelled = [(p, labels) for p in headline.best(digest, spec) if (labels := _labels_of(p, spec))]
    if not labelled:
        return None
    kept = {point.values: labels for point, labels in labelled[:_CONFUSIONS]}
    points = [point for point in digest.points if point.values in kept]
    figures = []
    for point in points:
        name = headline.name_of(digest, point) if len(points) > 1 else "Expected against answered"
        figures.append(Figure(charts.confusion(kept[point.values]), name))
    best, labels = labelled[0]
    if len(points) == 1:
        figures.append(Figure(charts.label_counts(labels), "How often", "bar: answered, tick: expected"))
    lead = f"{spec.name}: rows by expected and answered label; the shade is the share of the expected label, blue is right."
    if len(labelled) > len(points):
        lead += f" The {len(points)} points that score highest."
    title = "Precision and recall" + (f" of {headline.name_of(digest, best)}" if len(points) > 1 else "")
    title += f"; macro F1 {percent(labels.macro_f1)}" if labels.macro_f1 is not None else ""
    measures = (labels.precision, labels.recall, labels.f1)
    rows = [
        [
            str(name),
            *(_ratio(measure, at) for measure in measures),
            f"{labels.support[at]:,}" if at < len(labels.support) else "–",
        ]
        for at, name in enumerate(labels.names[:40])
    ]
    table = Table(title, ["label", "precision", "recall", "F1", "expected"], rows, (1, 2, 3, 4))
    return Section("labels", "Labels", lead, figures, (table,), three_from=3)


def _labels_of(point: PointDigest, spec: ScoreSpec) -> Labels | None:
    score = point.scores.get(spec.name)
    return score.labels if score and score.labels and score.labels.names else None


def _ratio(column: list[float | None], at: int) -> str:
    return percent(column[at] if at < len(column) else None)


def _answers(digest: Digest) -> Section | None:
    if not digest.answers or any(_labels_of(p, s) for s in _specs(digest) for p in digest.points):
        return None
    figures = [Figure(charts.answers(found), found.what) for found in digest.answers]
    return Section("answers", "Answers", "How often each value was answered, over all rows.", figures)


def _histograms(digest: Digest) -> Section | None:
    if not digest.numbers:
        return None
    figures = [
        Figure(speed.histogram(found, name, name, format.figure), name) for name, found in digest.numbers.items()
    ]
    lead = "How the numbers in the answers, and scores that are numbers, are distributed, over all rows."
    return Section("numbers", "Numbers", lead, figures)


def _failures(digest: Digest) -> Section | None:
    if not digest.causes:
        return None
    rows = [
        [f"{c.rows:,}", percent(c.rows / digest.whole.rows), c.status, c.what, c.message or "–", c.id]
        for c in digest.causes
    ]
    if digest.causes_beyond:
        beyond = digest.causes_beyond
        rows.append([f"{beyond:,}", percent(beyond / digest.whole.rows), "", "other causes", "", ""])
    wrong = digest.whole.rows - digest.whole.status["ok"]
    lead = f"{wrong:,} rows that are not ok, by cause, each with the words of one of them."
    table = Table("", ["rows", "share", "status", "cause", "for example", "id"], rows, (0, 1))
    return Section("failures", "Failures by cause", lead, [], (table,))


def _speed(digest: Digest) -> Section | None:
    kinds = [
        ("Latency", digest.latency, "from sending to the end of the answer"),
        ("Time to first token", digest.ttft, "streamed answers"),
    ]
    found = [(name, histogram, note) for name, histogram, note in kinds if histogram is not None]
    if not found:
        return None
    figures = [Figure(speed.histogram(h), name, note) for name, h, note in found]
    beyond = [f"{name.lower()} {format.latency(h.largest)}" for name, h, _ in found if h.largest > 1.001 * h.edges[-1]]
    lead = "Of the attempt that was answered."
    if beyond:
        lead += f" The slowest 0.5 % are in the last bar; longest {' and '.join(beyond)}."
    return Section("speed", "How long answers took", lead, figures)


def _time(digest: Digest) -> Section | None:
    if digest.timeline is not None:
        runs = digest.timeline
        figures = [Figure(spec, title) for title, spec in speed.over_time(runs)]
        bound = ", ".join(
            f"{_BINDINGS.get(name, name)} {percent(part)}" for name, part in list(runs.bound_by.items())[:4]
        )
        lead = f"What kept the run from being faster, by share of the time: {bound}." if bound else ""
        if not any(step.refused for step in runs.steps):
            lead += " No request was refused by a rate limit."
        if len(runs.begins_s) > 1:
            lead += f" {len(runs.begins_s)} runs, the time between them left out; dotted lines are where one begins."
        return Section("time", "Over time", lead.strip(), figures)
    if digest.flow is None:
        return None
    lead = "By the times of the rows: there is no telemetry, which is written every 5 seconds while a run asks."
    return Section("time", "Over time", lead, [Figure(speed.flow(digest.flow), "Rows a second")])


def _tokens(digest: Digest) -> Section | None:
    whole, spec = digest.whole, speed.tokens(digest)
    if spec is None or whole.tokens is None:
        return None
    lines = [
        ("prompt", whole.prompt_tokens, None), ("of these read from cache", whole.cache_read_input_tokens, whole.prompt_tokens),
        ("answer", whole.completion_tokens, None),
        ("of these reasoning", whole.reasoning_tokens, whole.completion_tokens), ("together", whole.tokens, None),
    ]  # fmt: skip
    rows = [
        [name, f"{n:,}", format.fixed(n / whole.rows, 1), percent(n / of) if of else ""]
        for name, n, of in lines
        if n is not None
    ]
    if whole.cost is not None:
        rows.append(["cost", money(whole.cost), money(whole.cost / whole.rows), ""])
    lead = "As the endpoint counted them, of the rows' last answers."
    if whole.cached_share is None:
        lead += " It does not report what it read from its cache."
    if whole.cost is None:
        lead += " No prices are known, so there is no cost."
    table = Table("", ["", "in all", "a row", "share"], rows, (1, 2, 3))
    return Section("tokens", "Tokens and cost", lead, [Figure(spec)], (table,))
