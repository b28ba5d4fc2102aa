"""A score and a block of rows to a number for each row: vectorised, and each block by itself.

What a row gets that has no answer to score: ``failed`` rows nothing (or 0 with ``missing = "zero"``); any other row, also
a truncated, filtered or invalid one, was answered, and 0 where nothing that could be right is found in its answer. A row
whose expected value is null gets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any, NamedTuple

import polars as pl

from ..config import ScoreSection, choice as nearest_of
from ..core import JobError, text_of
from . import extract


class Scored(NamedTuple):
    """``score`` has a number or null for each row. Kinds that find a label in the text tell which, as text: ``answered``, and
    ``expected`` where each row has one."""

    score: pl.Series
    answered: pl.Series | None = None
    expected: pl.Series | None = None


Function = Callable[[pl.DataFrame], Any]


def needed(spec: ScoreSection, columns: Collection[str]) -> list[str]:
    """The columns that this score reads, of those there are.

    :raises JobError: if one is missing, naming those there are.
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
    return list(dict.fromkeys(_column(spec, name, columns) for name in names))


def _column(spec: ScoreSection, name: str, columns: Collection[str]) -> str:
    """The column that ``name`` stands for: its own, or for ``parsed.label`` the one before the point."""
    if name in columns:
        return name
    head, point, _ = name.partition(".")
    if point and head in columns:
        return head
    raise JobError(
        f"score '{spec.name}': there is no column {name!r} in the results; {nearest_of(name, list(columns), 'the columns are')}"
    )


def evaluate(frame: pl.DataFrame, spec: ScoreSection, function: Function | None = None) -> Scored:
    """Score each row of a frame by any kind but ``judge``. ``function`` is the caller's own, if the kind names one.

    :raises JobError: if a column is missing or has no values that can be scored, or the caller's function fails.
    """
    needed(spec, frame.columns)
    failed = _failed(frame)
    if function is not None:
        answered = frame.filter(~failed)
        scores = pl.DataFrame(
            {
                "at": pl.int_range(frame.height, eager=True).filter(~failed),
                "score": _by_function(answered, spec, function),
            }
        )
        scored = Scored(
            pl.DataFrame({"at": pl.int_range(frame.height, eager=True)}).join(
                scores, on="at", how="left", maintain_order="left"
            )["score"]
        )
    else:
        scored = _KINDS[spec.kind](frame, spec)
    score = scored.score.cast(pl.Float64)
    if failed.any():
        score = frame.select(pl.when(failed).then(0.0 if spec.missing == "zero" else None).otherwise(score)).to_series()
    if scored.expected is not None:  # a failed row without an expected value is none that could have been right
        score = frame.select(pl.when(scored.expected.is_not_null()).then(score)).to_series()
    return Scored(score.alias(spec.column), scored.answered, scored.expected)


def _failed(frame: pl.DataFrame) -> pl.Series:
    """Which rows have no answer; a frame that is no table of results may have another column of this name."""
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
    """The texts that are scored, null where there is none, or where ``extract`` finds nothing in it."""
    texts = extract.texts(frame, spec.answer_column)
    if spec.extract is not None:
        pattern = spec.extract if _has_group(spec.extract) else f"({spec.extract})"
        texts = texts.str.extract(pattern)
    return texts


def _has_group(pattern: str) -> bool:
    return pl.select(pl.lit("").str.extract_groups(pattern)).to_series().dtype != pl.Struct([])


def _expectations(frame: pl.DataFrame, spec: ScoreSection) -> pl.Series:
    """For each row the list of texts that are right, a null where nothing is expected."""
    if spec.expected is not None:
        return extract.lists(frame, spec.expected)
    values = spec.value if isinstance(spec.value, list) else [spec.value]
    return pl.Series([[text_of(value) for value in values]]).new_from_index(0, frame.height)


def _one_each(expected: pl.Series) -> pl.Series | None:
    """The texts themselves, where no row has several."""
    return expected.list.first() if not (expected.list.len() > 1).any() else None


def _any_right(
    answers: pl.Series, expected: pl.Series, is_right: Callable[[pl.Expr, pl.Expr], pl.Expr], spec: ScoreSection
) -> Scored:
    """Right if one of what is expected is."""
    answers = _normalised(answers, spec)
    if (single := _one_each(expected)) is not None:
        single = _normalised(single, spec)
        pairs = pl.DataFrame([answers.alias("answer"), single.alias("expected")])
        verdict = is_right(pl.col("answer"), pl.col("expected")).fill_null(False)
        return Scored(
            pairs.select(pl.when(pl.col("expected").is_not_null()).then(verdict)).to_series(), answers, single
        )
    pairs = pl.DataFrame([answers.alias("answer"), expected.alias("expected")]).with_row_index("at").explode("expected")
    pairs = pairs.with_columns(_normalised(pairs["expected"], spec))
    right = is_right(pl.col("answer"), pl.col("expected"))
    verdicts = pairs.group_by("at", maintain_order=True).agg(
        right=pl.when(pl.col("expected").is_not_null().any()).then(right.fill_null(False).any())
    )
    return Scored(verdicts["right"], answers)


def _exact(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    return _any_right(_answers(frame, spec), _expectations(frame, spec), lambda a, e: a == e, spec)


def _contains(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    expected = _expectations(frame, spec)
    found = _any_right(_answers(frame, spec), expected, lambda a, e: a.str.contains(e, literal=True), spec)
    return Scored(found.score)


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
    least, most = spec.min or 0, spec.max
    within = (size >= least) & (size <= most) if most is not None else size >= least
    return Scored(within.fill_null(False))


# ----------------------------------------------------------------------------------------------------- numbers


def _number(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    answered = extract.numbers(_answers(frame, spec), spec.take)
    expected = _expectations(frame, spec)
    margin = pl.max_horizontal(pl.lit(spec.tolerance), spec.relative_tolerance * pl.col("expected").abs())
    # What was meant as 0.1 is not held to be 0.1 away by a bit more than 0.1.
    near = ((pl.col("answer") - pl.col("expected")).abs() <= margin * (1 + 1e-12)).fill_null(False)
    if (single := _one_each(expected)) is not None:
        pairs = pl.DataFrame([answered.alias("answer"), extract.numbers(single, spec.take).alias("expected")])
        right = pairs.select(pl.when(pl.col("expected").is_not_null()).then(near)).to_series()
        return Scored(right, extract.number_texts(answered), extract.number_texts(pairs["expected"]))
    flat = pl.DataFrame([answered.alias("answer"), expected.alias("expected")]).with_row_index("at").explode("expected")
    flat = flat.with_columns(extract.numbers(flat["expected"], spec.take).alias("expected"))
    verdicts = flat.group_by("at", maintain_order=True).agg(
        right=pl.when(pl.col("expected").is_not_null().any()).then(near.any())
    )
    return Scored(verdicts["right"], extract.number_texts(answered))


# ----------------------------------------------------------------------------------------------------- choices


def _choice(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    choices = spec.choices or []
    answered = extract.chosen(_answers(frame, spec), choices)
    expected = _expectations(frame, spec)
    single = _one_each(expected)
    if single is None:
        raise JobError(f"score '{spec.name}': kind 'choice' expects one choice for each row, not a list of them")
    single = extract.named(single, choices, by_number=_is_number(frame, spec))
    right = (answered == single).fill_null(False)
    pairs = pl.DataFrame([right.alias("right"), single.alias("expected")])
    return Scored(pairs.select(pl.when(pl.col("expected").is_not_null()).then("right")).to_series(), answered, single)


def _is_number(frame: pl.DataFrame, spec: ScoreSection) -> bool:
    if spec.expected is None:
        return isinstance(spec.value, int)
    return spec.expected in frame.columns and frame[spec.expected].dtype.is_integer()


# -------------------------------------------------------------------------------------------------------- JSON


def _json(frame: pl.DataFrame, spec: ScoreSection) -> Scored:
    answers = extract.objects(frame, spec.answer_column) if _has(frame, spec.answer_column) else [None] * frame.height
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
    how = {"fields": spec.fields, "tolerance": spec.tolerance, "relative": spec.relative_tolerance}
    text = partial(_same_text, spec)
    shares = [extract.share_right(a, e, text, **how) for a, e in zip(answers, expected, strict=True)]  # type: ignore[arg-type]
    return Scored(pl.Series(shares, dtype=pl.Float64))


def _same_text(spec: ScoreSection, text: str) -> str:
    if spec.ignore_punctuation:
        text = " ".join("".join(c if c.isalnum() or c.isspace() else " " for c in text).split())
    text = text.strip() if spec.strip else text
    return text.lower() if spec.ignore_case else text


def _has(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns or name.partition(".")[0] in frame.columns


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
    try:
        given = function(frame.select(spec.columns) if spec.columns is not None else frame)
        scores = given.to_list() if isinstance(given, pl.Series) else list(given)
        values = [None if score is None else float(score) for score in scores]
    except Exception as error:
        raise JobError(f"score '{spec.name}': {spec.kind} fails: {_told(error, function)}") from error
    if len(values) != frame.height:
        raise JobError(
            f"score '{spec.name}': {spec.kind} was given {frame.height:,} rows and gave {len(values):,} scores; it must give "
            "one for each row, None where a row has none"
        )
    series = pl.Series(spec.column, values, dtype=pl.Float64)
    finite = series.is_finite()
    return series if finite.all() else pl.DataFrame([series]).select(pl.when(finite).then(spec.column)).to_series()


def _told(error: Exception, function: Function) -> str:
    """What was raised, and where in the function's own module, whatever that called."""
    place, at = "", error.__traceback__
    while at is not None:
        if at.tb_frame.f_globals.get("__name__") == getattr(function, "__module__", None):
            place = f" ({at.tb_frame.f_code.co_filename}, line {at.tb_lineno})"
        at = at.tb_next
    return f"{type(error).__name__}: {error}{place}"
