"""A digest in words: how the run ended, which sweep point scores highest, tokens and cost. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ..core import BAD, STATUSES, aligned, clipped, count, duration, format, money, one_line, percent, seconds_between
from .digest import Digest, PointDigest
from .score_section import Interval, ScoreSpec, Versus

_METHODS = {
    "wilson": "Wilson", "bootstrap": "bootstrap by item", "cluster-wilson": "Wilson, clustered", "cluster-t": "t, clustered",
}  # fmt: skip
_BOUNDARIES = re.compile(r"[^/\-_:\s]+|[/\-_:\s]")
_LONGEST_VALUE = 28
_TABLE_POINTS = 30
_WIDEST_NAME = 60
_BY_PAIRS = "whether they differ, batchflex compare says item by item"


class Ending(NamedTuple):
    """The state of a job: a word, a sentence, and a tone: ``good``, ``bad``, ``busy`` or ``warned``."""

    word: str
    sentence: str
    tone: str


def ending(digest: Digest) -> Ending:
    state = digest.state
    if digest.is_held:
        return Ending("running", "The run goes on; this is what was answered when the page was made.", "busy")
    word = state.get("status", "unknown")
    if word == "running":
        killed = "The run was killed. Nothing received is lost; run the same command again to go on."
        return Ending("killed", killed, "bad")
    if word in ("stopped", "interrupted"):
        why = f"by {state.get('stopped_by')}: {one_line(str(state.get('message') or ''))}".rstrip(": ")
        return Ending(word, f"Stopped {why}. What was answered is kept; run the same command again to go on.", "warned")
    if word != "finished":
        return Ending("unknown", "There is no run.json, so how the last run ended is not known.", "warned")
    status = digest.whole.status
    if any(status[each] for each in BAD):
        return Ending("finished", f"Finished with rows that failed: {statuses(digest)}.", "warned")
    if status["truncated"] or status["filtered"]:
        return Ending("finished", f"Finished; not every answer is whole: {statuses(digest)}.", "warned")
    return Ending("finished", "Finished; every row was answered.", "good")


def statuses(digest: Digest) -> str:
    """``70 ok, 2 truncated``."""
    status = digest.whole.status
    return ", ".join(f"{status[s]:,} {s}" for s in STATUSES if s == "ok" or status[s])


def took(digest: Digest) -> float | None:
    """Duration of all runs together in seconds."""
    spans = {
        run.run_id: (ended - run.started_at).total_seconds()
        for run in digest.runs
        if (ended := run.finished_at or run.updated_at)
    }
    state = digest.state
    if state.get("started_at") and state.get("run_id") not in spans:
        spans[str(state.get("run_id"))] = seconds_between(state["started_at"], state["updated_at"])
    return sum(spans.values()) if spans else None


def value(spec: ScoreSpec, number: float | None) -> str:
    """``91.7 %`` for a share, three significant digits for other scores."""
    return format.score(number, is_share=spec.is_share)


def between(spec: ScoreSpec, score: Interval) -> str:
    """``64.6 to 98.5 %``; empty without an interval."""
    return format.interval(score.low, score.high, is_share=spec.is_share)


def method(score: Interval) -> str:
    return _METHODS.get(score.method or "", score.method or "")


def primary(digest: Digest) -> ScoreSpec | None:
    """The score that the headline is about: the first that is a share, else the first."""
    scored = [spec for spec in digest.specs if any(spec.name in point.scores for point in digest.points)]
    return next((spec for spec in scored if spec.is_share), scored[0] if scored else None)


def name_of(digest: Digest, point: PointDigest) -> str:
    """``prompt = shown, temperature = 0.7``, with the variables that differ between points; the value alone if it is one."""
    names = varying(digest)
    if not names:
        return "all rows"
    values = dict(zip(digest.variables, point.values, strict=True))
    if len(names) == 1:
        return values[names[0]] or "(none)"
    return ", ".join(f"{name} = {values[name] or '(none)'}" for name in names)


def short_name_of(digest: Digest, point: PointDigest) -> str:
    """``shown · 0.7``: as :func:`name_of`, without the names of the variables and what their values have in common."""
    values, short = dict(zip(digest.variables, point.values, strict=True)), short_values(digest)
    return " · ".join(names.get(values[name], values[name]) for name, names in short.items()) or "all rows"


def short_values(digest: Digest) -> dict[str, dict[str, str]]:
    """For each variable that differs between points its values as charts name them: without what all of them begin or end with,
    and not too long."""
    return {name: _shortened(digest.variables[name]) for name in varying(digest)}


def _shortened(values: Sequence[str]) -> dict[str, str]:
    texts = [value for value in values if value]
    plain = {value: clipped(one_line(value), _LONGEST_VALUE) if value else "(none)" for value in values}
    if len(texts) > 1 and not any(_is_number(text) for text in texts):
        words = [_BOUNDARIES.findall(text) for text in texts]
        begin, end = _common(words), _common([each[::-1] for each in words])
        kept = ["".join(each[begin : len(each) - end]).strip("/-_: ") for each in words]
        if all(len(each) > begin + end for each in words) and all(kept):
            plain |= {text: clipped(one_line(short), _LONGEST_VALUE) for text, short in zip(texts, kept, strict=True)}
    return plain if len({*plain.values()}) == len(plain) else {value: one_line(value) or "(none)" for value in values}


def _common(words: Sequence[Sequence[str]]) -> int:
    """How many words all begin with."""
    least = min(map(len, words))
    return next((at for at in range(least) if len({each[at] for each in words}) > 1), least)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def varying(digest: Digest) -> list[str]:
    """The variables that have more than one value among the points."""
    return [name for at, name in enumerate(digest.variables) if len({point.values[at] for point in digest.points}) > 1]


def best(digest: Digest, spec: ScoreSpec) -> list[PointDigest]:
    """The points that have a mean, highest first."""
    means = [(score.mean, point) for point in digest.points if (score := point.scores.get(spec.name)) is not None]
    scored = [(mean, point) for mean, point in means if mean is not None]
    return [point for _, point in sorted(scored, key=lambda pair: -pair[0])]


def headline(digest: Digest) -> tuple[str, str]:
    """The main result as a short sentence, and further sentences that qualify it."""
    spec = primary(digest)
    if spec is None or digest.scores is None or not (ranked := best(digest, spec)):
        return _unscored(digest)
    first = ranked[0]
    score = first.scores[spec.name]
    said = f"{spec.name} {value(spec, score.mean)}"
    interval = between(spec, score)
    basis = count(score.n, "row")
    if score.items not in (0, score.n):
        basis += f" of {count(score.items, 'item')}"
    level = format.level(digest.scores.level)
    more = f"{level} interval {interval} ({method(score)}), {basis}." if interval else f"{basis}; no interval."
    if len(ranked) == 1:
        return said, more
    equal = sum(point.scores[spec.name].mean == score.mean for point in ranked) - 1
    beside = f", equalled by {equal} of them" if equal else ""
    return (
        f"{name_of(digest, first)}: {said}",
        f"Highest of {len(ranked)} sweep points{beside}. {more} {_rivals(digest, spec, ranked)}{_uncompared(spec)}",
    )


def _uncompared(spec: ScoreSpec) -> str:
    return "" if spec.uncompared is None else f" Not compared with its baseline: {spec.uncompared}."


def _rivals(digest: Digest, spec: ScoreSpec, ranked: Sequence[PointDigest]) -> str:
    """Whether the order may be chance: by tests item by item, corrected for how many there are, or by overlapping intervals."""
    is_compared = spec.comparison is not None and any(p.scores[spec.name].versus is not None for p in ranked[1:])
    if spec.comparison is not None and is_compared and ranked[0].scores[spec.name].versus is None:
        return _tested(digest, spec, ranked, spec.comparison.family)
    low = ranked[0].scores[spec.name].low
    if low is None:
        return ""
    near = [p for p in ranked[1:] if (high := p.scores[spec.name].high) is not None and high >= low]
    if not near:
        return "No other point's interval reaches into this one."
    if len(near) == len(ranked) - 1:
        return f"All other points' intervals reach into this one: {_BY_PAIRS}."
    some = ", ".join(name_of(digest, p) for p in near[:3]) + (f" and {len(near) - 3} more" if len(near) > 3 else "")
    return f"Its interval overlaps with that of {some}: {_BY_PAIRS}."


def _tested(digest: Digest, spec: ScoreSpec, ranked: Sequence[PointDigest], family: int) -> str:
    at_most = 1 - (digest.scores.level if digest.scores else 0.95)
    known = [(point, point.scores[spec.name].versus) for point in ranked[1:]]
    near = [point for point, versus in known if versus is None or versus.p_holm is None or versus.p_holm > at_most]
    tests = f"item by item, p corrected for {count(family, 'comparison')}"
    if not near:
        return f"All others are lower ({tests}: below {at_most:.2g})."
    if len(near) == len(ranked) - 1:
        return f"No other is surely lower ({tests}): the order may be chance."
    some = ", ".join(name_of(digest, p) for p in near[:3]) + (f" and {len(near) - 3} more" if len(near) > 3 else "")
    return f"Not surely lower ({tests}): {some}; there the order may be chance."


def difference(spec: ScoreSpec, found: Versus | None) -> str:
    """``-3.1 pp (-5.0 to -1.2 pp)``: percentage points of a share."""
    if found is None:
        return format.NOTHING
    return format.difference_with_interval(found.difference, found.low, found.high, is_share=spec.is_share)


def _unscored(digest: Digest) -> tuple[str, str]:
    whole = digest.whole
    if not whole.rows:
        return "No answers yet", "Nothing has been answered, so there is nothing to show but the state of the run."
    ok = whole.status["ok"]
    planned = digest.state.get("planned") or whole.rows
    said = f"All {planned:,} rows ok" if planned > 1 else "The row is ok"
    said = f"{ok:,} of {planned:,} rows ok" if ok < planned else said
    return said, "" if digest.scores is not None else "Not scored: add [[score]] to the job to have answers checked."


def spent(digest: Digest) -> str:
    """Tokens and cost of the rows, in a line."""
    whole = digest.whole
    if whole.tokens is None:
        return "tokens: the endpoint reported none"
    prompt = f"{whole.prompt_tokens or 0:,} prompt"
    if whole.cached_share is not None:
        prompt += f" ({percent(whole.cached_share)} read from cache)"
    text = f"tokens: {prompt} + {whole.completion_tokens or 0:,} completion"
    return text if whole.cost is None else f"{text}; {money(whole.cost)}"


def summary(digest: Digest) -> str:
    """The report in a few lines for a terminal."""
    state = ending(digest)
    planned = digest.state.get("planned")
    of = f" of {planned:,}" if planned else ""
    seconds = took(digest)
    after = f" after {duration(seconds)}" if seconds is not None and state.word == "finished" else ""
    lines = [f"{digest.name}: {state.word}{after}; {digest.whole.rows:,}{of} rows: {statuses(digest)}"]
    said, more = headline(digest)
    if digest.scores is not None and primary(digest) is not None:
        lines.append(f"  {one_line(said)}. {one_line(more)}")
        lines += _table(digest)
    lines.append(f"  {spent(digest)}")
    if digest.latency:
        lines.append(
            f"  latency: {format.latency(digest.latency.p50)} median, {format.latency(digest.latency.p95)} at 95 %"
        )
    for cause in digest.causes[:5]:
        words = f": {one_line(cause.message)}" if cause.message else ""
        lines.append(f"  {cause.rows:,} × {cause.status}: {one_line(cause.what)}{words}")
    lines += [f"  note: {note}" for note in digest.notes]
    return "\n".join(lines)


def _row_name(digest: Digest, point: PointDigest) -> str:
    """The point's name, or the short one if a longer one would not be told from another by its beginning."""
    whole = all(len(name_of(digest, each)) <= _WIDEST_NAME for each in digest.points[:_TABLE_POINTS])
    return name_of(digest, point) if whole else short_name_of(digest, point)


def _table(digest: Digest) -> list[str]:
    """Each point's scores with their intervals."""
    table = [["", *(spec.name for spec in digest.specs), "rows"]]
    for point in digest.points[:_TABLE_POINTS]:
        scores = [cell(spec, point.scores.get(spec.name)) for spec in digest.specs]
        table.append([clipped(one_line(_row_name(digest, point)), _WIDEST_NAME), *scores, f"{point.figures.rows:,}"])
    lines = [f"    {line}" for line in aligned(table)]
    beyond = len(digest.points) - _TABLE_POINTS
    return lines if beyond <= 0 else [*lines, f"    … and {beyond:,} more sweep points"]


def cell(spec: ScoreSpec, score: Interval | None) -> str:
    """``91.7 % (64.6 to 98.5 %)``; a dash where there is no mean."""
    score = score or Interval()
    return format.with_interval(score.mean, score.low, score.high, is_share=spec.is_share)
