"""Scores the rows of a block, vectorised: a number for each row. Pure, but for functions of one's own.

A ``failed`` row gets null (or 0 with ``missing = "zero"``). Any other row was answered, also if it is truncated, filtered or
invalid: it gets 0 where its answer contains nothing that could be right. A row whose expected value is null,
or blank text (CSV has no nulls), gets null.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import polars as pl

from ..config import ScoreSection, choice as nearest_of
from ..core import JobError, text_of
from . import extract


class Scored(NamedTuple):
    """``score`` has a number or null for each row. Kinds that find a label in the text give it as ``answered``, and as
    ``expected`` the right one if each row has a single one."""

    score: pl.Series
    answered: pl.Series | None = None
    expected: pl.Series | None = None


Function = Callable[[pl.DataFrame], Any]


def needed(spec: ScoreSection, columns: Collection[str]) -> list[str]:
    """The columns that a score reads, out of ``columns``.

    :raises JobError: if one is missing, with a list of ``columns``.
    """
    if spec.is_function:
        names = list(spec.columns or (name for name in columns if name != "response"))
    elif spec.kind == "judge":
        names = []
    elif spec.kind == "json":
        names = ["content"] if spec.answer is None and "content" in columns else []
        names += [spec.answer_column] if spec.answer is not None or "parsed" in columns or not names else []
        names += [spec.expected] if spec.expected is not None else []
        names += spec.fields or [] if spec.expected is None and spec.value is None else []
    else:
        names = [spec.answer_column, *([spec.expected] if spec.expected is not None else [])]
    names += [spec.cluster] if spec.cluster is not None else []
    return list(dict.fromkeys(_column(spec, name, columns) for name in names))


def _column(spec: ScoreSection, name: str, columns: Collection[str]) -> str:
    """The column that ``name`` refers to: the one of that name, or for ``parsed.label`` the one before the point."""
    if name in columns:
        return name
    head, point, _ = name.partition(".")
    if point and head in columns:
        return head
    known = nearest_of(name, list(columns), "the columns are")
    raise JobError(f"score '{spec.name}': there is no column {name!r} in the results; {known}")


def evaluate(frame: pl.DataFrame, spec: ScoreSection, function: Function | None = None) -> Scored:
    """Score each row of a frame by any kind but ``judge``. ``function`` is the caller's own, if the kind names one.

    :raises JobError: if a column is missing or has no values that can be scored, or the caller's function fails.
    """
    needed(spec, frame.columns)
    scored = _KINDS[spec.kind](frame, spec) if function is None else Scored(_by_function(frame, spec, function))
    score = _without_failed(frame, spec, scored.score.cast(pl.Float64))
    if scored.expected is not None:  # a failed row without an expected value could not have been right
        score = _where(scored.expected.is_not_null(), score)
    return Scored(score.alias(spec.column), scored.answered, scored.expected)


def graded(frame: pl.DataFrame, spec: ScoreSection, grades: pl.DataFrame | None) -> Scored:
    """Score each row by what the judge gave it, null where it gave nothing yet. ``grades`` has ``key`` and ``score``."""
    if grades is None:
        return Scored(pl.repeat(None, frame.height, dtype=pl.Float64, eager=True))
    score = frame.select("key").join(grades, on="key", how="left", maintain_order="left")["score"]
    return Scored(_without_failed(frame, spec, score))


def _without_failed(frame: pl.DataFrame, spec: ScoreSection, score: pl.Series) -> pl.Series:
    """The scores, with what a failed row counts for in place of its own."""
    failed = _failed(frame)
    if not failed.any():
        return score
    return frame.select(pl.when(failed).then(0.0 if spec.missing == "zero" else None).otherwise(score)).to_series()


def _where(known: pl.Series, score: pl.Series) -> pl.Series:
    """The scores, null where ``known`` is false."""
    return score.to_frame("x").select(pl.when(known).then("x")).to_series()


def _failed(frame: pl.DataFrame) -> pl.Series:
    """Which rows have no answer. A frame that is not a table of results may have an unrelated column of this name."""
    if "status" in frame.columns and frame["status"].dtype == pl.String:
        return (frame["status"] == "failed").fill_null(False)
    return pl.repeat(False, frame.height, dtype=pl.Boolean, eager=True)


# ------------------------------------------------------------------------------------------------------- texts


def _normalised(values: pl.Series, spec: ScoreSection) -> pl.Series:
    if spec.ignore_punctuation:
        values = values.str.replace_all(r"[\p{P}\p{S}]+", " ").str.replace_all(r"\s+", " ")
    if spec.strip or spec.ignore_punctuation:
        values = values.str.strip_chars()
    return values.str.to_lowercase() if spec.ignore_case else values


def _answers(frame: pl.DataFrame, spec: ScoreSection) -> pl.Series:
    """The texts to score, null where there is none or ``extract`` does not match."""
    texts = extract.texts(frame, spec.answer_column)
    if spec.extract is None:
        return texts
    has_group = pl.select(pl.lit("").str.extract_groups(spec.extract)).to_series().dtype != pl.Struct([])
    return texts.str.extract(spec.extract if has_group else f"({spec.extract})")


def _expectations(frame: pl.DataFrame, spec: ScoreSection) -> pl.Series:
    """For each row the list of texts that are right, with a single null where nothing is expected (null, blank)."""
    if spec.expected is not None:
        return extract.lists(frame, spec.expected)
    values = spec.value if isinstance(spec.value, list) else [spec.value]
    return pl.Series([[text_of(value) for value in values]]).new_from_index(0, frame.height)


def _any_right(
    frame: pl.DataFrame,
    spec: ScoreSection,
    is_right: pl.Expr,
    prepared: Callable[[pl.Series], pl.Series],
    label: Callable[[pl.Series], pl.Series] = lambda texts: texts,
) -> Scored:
    """Right if one of what is expected is; null where nothing is expected.

    ``is_right`` compares the columns ``answer`` and ``expected``, both ``prepared``; ``label`` makes texts of these.
    """
    answers = prepared(_answers(frame, spec))
    pairs = pl.DataFrame([answers.alias("answer"), _expectations(frame, spec).alias("expected")])
    pairs = pairs.with_row_index("at").explode("expected")
    pairs = pairs.with_columns(prepared(pairs["expected"]).alias("expected"))
    right, known = is_right.fill_null(False), pl.col("expected").is_not_null()
    if pairs.height == len(answers):
        return Scored(pairs.select(pl.when(known).then(right)).to_series(), label(answers), label(pairs["expected"]))
    verdicts = pairs.group_by("at", maintain_order=True).agg(right=pl.when(known.any()).then(right.any()))
    return Scored(verdicts["right"], label(answers))


def _exact(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    same = pl.col("answer") == pl.col("expected")
    return _any_right(frame, spec, same, partial(_normalised, spec=spec))


def _contains(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    contains = pl.col("answer").str.contains(pl.col("expected"), literal=True)
    return _any_right(frame, spec, contains, partial(_normalised, spec=spec))


def _regex(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    pattern = f"(?i){spec.pattern}" if spec.ignore_case else spec.pattern
    return Scored(_answers(frame, spec).str.contains(str(pattern)).fill_null(False))


def _length(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    if spec.unit == "tokens":
        size = frame[spec.answer_column]
        if not size.dtype.is_integer():
            raise JobError(f"score '{spec.name}': the column {spec.answer_column!r} has no counts of tokens")
    else:
        texts = _answers(frame, spec)
        texts = texts.str.strip_chars() if spec.strip else texts
        size = texts.str.len_chars() if spec.unit == "characters" else extract.words(texts)
    most = spec.max if spec.max is not None else float("inf")
    return Scored(size.is_between(spec.min or 0, most).fill_null(False))


# ----------------------------------------------------------------------------------------------------- numbers


def _number(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    margin = pl.max_horizontal(pl.lit(spec.tolerance), spec.relative_tolerance * pl.col("expected").abs())
    # 0.3 - 0.2 is a bit more than 0.1 in floating point, and still within a tolerance of 0.1.
    near = (pl.col("answer") - pl.col("expected")).abs() <= margin * (1 + 1e-12)
    return _any_right(frame, spec, near, partial(extract.numbers, take=spec.take), extract.as_texts)


# ----------------------------------------------------------------------------------------------------- choices


def _choice(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    choices = spec.choices or []
    answered = extract.chosen(_answers(frame, spec), choices)
    expected = _expectations(frame, spec)
    if (expected.list.len() > 1).any():
        raise JobError(f"score '{spec.name}': kind 'choice' expects one choice for each row, not a list of them")
    if spec.expected is None:
        by_number = isinstance(spec.value, int)
    else:
        by_number = spec.expected in frame.columns and frame[spec.expected].dtype.is_integer()
    single = extract.named(expected.list.first(), choices, by_number=by_number)
    return Scored((answered == single).fill_null(False), answered, single)


# -------------------------------------------------------------------------------------------------------- JSON


def _json(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    is_there = spec.answer_column in frame.columns or spec.answer_column.partition(".")[0] in frame.columns
    answers = extract.objects(frame, spec.answer_column) if is_there else [None] * frame.height
    if spec.answer is None and "content" in frame.columns:
        said = extract.objects(frame, "content")
        answers = [a if a is not None else c for a, c in zip(answers, said, strict=True)]
    expected: Sequence[Any]
    if spec.expected is not None:
        expected = extract.objects(frame, spec.expected)
    elif spec.value is not None:
        expected = [spec.value] * frame.height
    else:
        expected = frame.select(spec.fields or []).to_dicts()
    shares = [_share_right(a, e, spec) for a, e in zip(answers, expected, strict=True)]
    return Scored(pl.Series(shares, dtype=pl.Float64))


def _share_right(answer: Any, expected: Any, spec: ScoreSection) -> float | None:
    """The share of the expected fields that the answer has right; 1 or 0 if an object is not what is expected. Other fields of an
    answer are ignored. ``None`` if nothing is expected."""

    def same(one: Any, two: Any) -> bool:
        if isinstance(one, str) and isinstance(two, str):
            return _same_text(spec, one) == _same_text(spec, two)
        if isinstance(one, bool) or isinstance(two, bool):
            return one is two
        if isinstance(one, int | float) and isinstance(two, int | float):
            return abs(one - two) <= max(spec.tolerance, spec.relative_tolerance * abs(two)) * (1 + 1e-12)
        if isinstance(one, list) and isinstance(two, list):
            return len(one) == len(two) and all(map(same, one, two))
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            return one.keys() == two.keys() and all(same(one[key], two[key]) for key in two)
        return one is None and two is None

    if not isinstance(expected, Mapping):
        return None if expected is None else float(same(answer, expected))
    wanted = [name for name in (expected if spec.fields is None else spec.fields) if name in expected]
    if not wanted:
        return None
    given = answer if isinstance(answer, Mapping) else {}
    return sum(name in given and same(given[name], expected[name]) for name in wanted) / len(wanted)


def _same_text(spec: ScoreSection, text: str) -> str:
    if spec.ignore_punctuation:
        text = " ".join("".join(c if c.isalnum() or c.isspace() else " " for c in text).split())
    text = text.strip() if spec.strip else text
    return text.lower() if spec.ignore_case else text


_KINDS: dict[str, Callable[[pl.DataFrame, ScoreSection], Scored]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "number": _number,
    "json": _json,
    "choice": _choice,
    "length": _length,
}


# --------------------------------------------------------------------------------------------- functions of one's own


def _by_function(frame: pl.DataFrame, spec: ScoreSection, function: Function) -> pl.Series:
    """The function is called with the rows that were answered."""
    answered = frame.filter(~_failed(frame))
    try:
        given = function(answered.select(spec.columns) if spec.columns is not None else answered)
        scores = given.to_list() if isinstance(given, pl.Series) else list(given)
        values = [None if score is None else float(score) for score in scores]
    except Exception as error:
        raise JobError(f"score '{spec.name}': {spec.kind} fails: {_described(error, function)}") from error
    if len(values) != answered.height:
        counts = f"was given {answered.height:,} rows and gave {len(values):,} scores"
        raise JobError(
            f"score '{spec.name}': {spec.kind} {counts}; it must give one for each row, None where a row has none"
        )
    series = pl.Series(values, dtype=pl.Float64)
    series = _where(series.is_finite(), series)
    return pl.repeat(None, frame.height, dtype=pl.Float64, eager=True).scatter((~_failed(frame)).arg_true(), series)


def _described(error: Exception, function: Function) -> str:
    """The error, and the line in the module of the function that it came from."""
    place, at = "", error.__traceback__
    while at is not None:
        if at.tb_frame.f_globals.get("__name__") == getattr(function, "__module__", None):
            place = f" ({at.tb_frame.f_code.co_filename}, line {at.tb_lineno})"
        at = at.tb_next
    return f"{type(error).__name__}: {error}{place}"
