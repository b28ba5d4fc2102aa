"""The sections of a report in their order: scores first, then what explains them. Pure."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from ..core import duration, money
from . import charts, headline, speed
from .digest import Digest, PointDigest
from .score_section import Labels, ScoreSpec

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
        _scores(digest), _heat(digest), _trade(digest), _labels(digest), _answers(digest), _failures(digest), _speed(digest),
        _time(digest), _tokens(digest),
    ]  # fmt: skip
    numbers = itertools.count(1)
    return [
        section._replace(figures=[figure._replace(id=f"f{next(numbers)}") for figure in section.figures])
        for section in made
        if section is not None and (section.figures or section.tables)
    ]


def _specs(digest: Digest) -> list[ScoreSpec]:
    """The scores that any point has, with that of the headline first."""
    first = headline.primary(digest)
    if first is None or digest.scores is None:
        return []
    others = [
        s for s in digest.scores.scores if s.name != first.name and any(s.name in p.scores for p in digest.points)
    ]
    return [first, *others]


def _scores(digest: Digest) -> Section | None:
    specs = _specs(digest)
    if not specs or digest.scores is None:
        return None
    level = f"{100 * digest.scores.level:g} %"
    methods = sorted({headline.method(s) for p in digest.points for s in p.scores.values() if s.method})
    lead = f"Dots are means, lines their {level} intervals ({', '.join(methods)})." if methods else "Dots are means."
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
    return Section("scores", title, lead, figures, (_numbers(digest, specs),))


def _kind(spec: ScoreSpec) -> str:
    against = f" against {spec.expected}" if spec.expected else ""
    return f"{spec.kind}{against}" if (spec.kind and spec.kind != spec.name) or against else ""


def _numbers(digest: Digest, specs: list[ScoreSpec]) -> Table:
    """A table of all points."""
    several = len(digest.points) > 1
    head, rows = ["sweep point"] if several else [""], []
    extras = _extras(digest, specs)
    costs = any(p.figures.cost is not None for p in digest.points)
    head += [s.name for s in specs] + [name for name, _ in extras] + ["rows", "tokens a row"]
    head += (["cost"] if costs else []) + ["latency, median", "95 %"]
    for point in digest.points[:_TABLE_ROWS]:
        f = point.figures
        cells = [headline.name_of(digest, point)]
        for spec in specs:
            score = point.scores.get(spec.name)
            interval = headline.between(spec, score) if score else ""
            cells.append((headline.value(spec, score.mean) if score else "–") + (f" ({interval})" if interval else ""))
        cells += [point_extra(point) for _, point_extra in extras]
        cells += [f"{f.rows:,}", "–" if f.tokens is None else f"{f.tokens / max(1, f.rows):,.0f}"]
        cells += ["–" if f.cost is None else money(f.cost)] if costs else []
        cells += [_seconds(f.latency_s["p50"]), _seconds(f.latency_s["p95"])]
        rows.append(cells)
    beyond = len(digest.points) - _TABLE_ROWS
    title = "In figures" + (f": the first {_TABLE_ROWS} of {len(digest.points):,} sweep points" if beyond > 0 else "")
    return Table(title, head, rows, tuple(range(1, len(head))), folded=len(rows) > 12)


def _extras(digest: Digest, specs: list[ScoreSpec]) -> list[tuple[str, Any]]:
    """Columns for pass@k, majority vote and agreement, where a score has them."""
    found: list[tuple[str, Any]] = []
    for spec in specs:
        name = "" if len(specs) == 1 else f"{spec.name}: "
        scores = [p.scores[spec.name] for p in digest.points if spec.name in p.scores]
        for k in dict.fromkeys(k for s in scores for k in s.pass_at or {} if k != "1"):
            found.append((f"{name}pass@{k}", lambda p, s=spec, k=k: _of(p, s, lambda x: (x.pass_at or {}).get(k), s)))
        if any(s.majority for s in scores):
            found.append((f"{name}majority vote", lambda p, s=spec: _of(p, s, lambda x: x.majority, s)))
        if any(s.kappa is not None for s in scores):
            found.append((f"{name}Fleiss' κ", lambda p, s=spec: _of(p, s, lambda x: x.kappa, None)))
    return found


def _of(point: PointDigest, spec: ScoreSpec, take: Any, as_spec: ScoreSpec | None) -> str:
    score = point.scores.get(spec.name)
    value = take(score) if score else None
    if value is None:
        return "–"
    return f"{value:.2f}" if as_spec is None else headline.value(as_spec, value.mean)


def _seconds(value: float | None) -> str:
    return "–" if value is None else duration(value)


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
    figures = []
    word = ""
    specs = _specs(digest)
    for spec in [s for s in specs if s.is_share][:2] or specs[:1]:
        found = charts.trade(digest, spec)
        if found is not None:
            figures.append(Figure(found[0], spec.name))
            word = found[1]
    if not figures:
        return None
    about = "cost" if word.startswith("US") else "tokens"
    lead = "Points on the dashed line are beaten by no other in both: higher, or for less."
    if about == "tokens":
        lead += " No prices are known, so tokens stand for cost."
    return Section("trade", f"Quality against {about}", lead, figures)


def _labels(digest: Digest) -> Section | None:
    spec = next((s for s in _specs(digest) if any(_labels_of(p, s) for p in digest.points)), None)
    if spec is None:
        return None
    ranked = [p for p in headline.best(digest, spec) if _labels_of(p, spec)]
    kept = {p.values for p in ranked[:_CONFUSIONS]}
    points = [p for p in digest.points if p.values in kept]
    figures = []
    for point in points:
        if (labels := _labels_of(point, spec)) is None:
            continue
        name = headline.name_of(digest, point) if len(points) > 1 else ""
        figures.append(Figure(charts.confusion(labels), name or "Expected against answered"))
        if len(points) == 1:
            figures.append(Figure(charts.label_counts(labels), "How often", "bar: answered, tick: expected"))
    if (labels := _labels_of(ranked[0], spec)) is None:
        return None
    lead = f"{spec.name}: rows by expected and answered label; the shade is the share of the expected label, blue is right."
    if len(ranked) > len(points):
        lead += f" The {len(points)} points that score highest."
    which = f" of {headline.name_of(digest, ranked[0])}" if len(points) > 1 else ""
    table = Table(
        f"Precision and recall{which}" + (f"; macro F1 {labels.macro_f1:.3f}" if labels.macro_f1 is not None else ""),
        ["label", "precision", "recall", "F1", "expected"],
        [
            [str(name), *(_ratio(column, at) for column in (labels.precision, labels.recall, labels.f1)),
             f"{labels.support[at]:,}" if at < len(labels.support) else "–"]
            for at, name in enumerate(labels.names[:40])
        ],
        (1, 2, 3, 4),
    )  # fmt: skip
    return Section("labels", "Labels", lead, figures, (table,), three_from=3)


def _labels_of(point: PointDigest, spec: ScoreSpec) -> Labels | None:
    score = point.scores.get(spec.name)
    return score.labels if score and score.labels and score.labels.names else None


def _ratio(column: list[float | None], at: int) -> str:
    value = column[at] if at < len(column) else None
    return "–" if value is None else f"{100 * value:.1f} %"


def _answers(digest: Digest) -> Section | None:
    if not digest.answers or any(_labels_of(p, s) for s in _specs(digest) for p in digest.points):
        return None
    figures = [Figure(charts.answers(found), found.what) for found in digest.answers]
    return Section("answers", "Answers", "How often each value was answered, over all rows.", figures)


def _failures(digest: Digest) -> Section | None:
    if not digest.causes:
        return None
    rows = [
        [f"{c.rows:,}", headline.share(c.rows / digest.whole.rows), c.status, c.what, c.message or "–", c.id]
        for c in digest.causes
    ]
    if digest.causes_beyond:
        beyond = digest.causes_beyond
        rows.append([f"{beyond:,}", headline.share(beyond / digest.whole.rows), "", "other causes", "", ""])
    wrong = digest.whole.rows - digest.whole.status["ok"]
    lead = f"{wrong:,} rows that are not ok, by cause, each with the words of one of them."
    table = Table("", ["rows", "share", "status", "cause", "for example", "id"], rows, (0, 1))
    return Section("failures", "Failures by cause", lead, [], (table,))


def _speed(digest: Digest) -> Section | None:
    found = [
        ("Latency", digest.latency, "from sending to the end of the answer"),
        ("Time to first token", digest.ttft, "streamed answers"),
    ]
    figures = [Figure(speed.histogram(h), name, note) for name, h, note in found if h is not None]
    if not figures:
        return None
    beyond = [
        f"{name.lower()} {duration(h.largest)}"
        for name, h, _ in found
        if h is not None and h.largest > 1.001 * h.edges[-1]
    ]
    lead = "Of the attempt that was answered."
    if beyond:
        lead += f" The slowest 0.5 % are in the last bar; longest {' and '.join(beyond)}."
    return Section("speed", "How long answers took", lead, figures)


def _time(digest: Digest) -> Section | None:
    if digest.timeline is not None:
        runs = digest.timeline
        figures = [Figure(spec, title) for title, spec in speed.over_time(runs)]
        bound = ", ".join(
            f"{_BINDINGS.get(name, name)} {headline.share(part)}" for name, part in list(runs.bound_by.items())[:4]
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
        ("prompt", whole.prompt_tokens), ("of these read from cache", whole.cache_read_input_tokens),
        ("answer", whole.completion_tokens), ("of these reasoning", whole.reasoning_tokens), ("together", whole.tokens),
    ]  # fmt: skip
    rows = [[name, f"{n:,}", f"{n / whole.rows:,.1f}", _part(name, n, digest)] for name, n in lines if n is not None]
    if whole.cost is not None:
        rows.append(["cost", money(whole.cost), money(whole.cost / whole.rows), ""])
    lead = "As the endpoint counted them, of the rows' last answers."
    if whole.cached_share is None:
        lead += " It does not report what it read from its cache."
    if whole.cost is None:
        lead += " No prices are known, so there is no cost."
    table = Table("", ["", "in all", "a row", "share"], rows, (1, 2, 3))
    return Section("tokens", "Tokens and cost", lead, [Figure(spec)], (table,))


def _part(name: str, n: int, digest: Digest) -> str:
    of = {
        "of these read from cache": digest.whole.prompt_tokens,
        "of these reasoning": digest.whole.completion_tokens,
    }.get(name)
    return headline.share(n / of) if of else ""
