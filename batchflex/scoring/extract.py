"""Extracts from answers: text, a number, a choice, JSON. From columns to columns of the same length. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from ..config import LETTERS, ROUND_A_NAME, names_of
from ..core import text_of

_decode = msgspec.json.Decoder().decode

# ------------------------------------------------------------------------------------------------------- texts


def texts(frame: pl.DataFrame, place: str) -> pl.Series:
    """A column as text; for ``parsed.label`` that field of a column of JSON objects or structs.

    Numbers and booleans are as in JSON (``5``, ``0.5``, ``true``), whole floats without a fraction; lists and objects are JSON.
    """
    if place in frame.columns:
        return as_texts(frame[place])
    head, *steps = place.split(".")
    column = frame[head]
    while steps and column.dtype == pl.Struct:
        names = [field.name for field in column.dtype.fields]  # type: ignore[attr-defined]
        step = steps.pop(0)
        missing = pl.Series(head, [None], pl.String).new_from_index(0, len(column))
        column = column.struct.field(step) if step in names else missing
    if not steps:
        return as_texts(column)
    path = "".join(f".{step}" if re.fullmatch(r"[A-Za-z_]\w*", step) else f"['{step}']" for step in steps)
    return column.cast(pl.String).str.json_path_match(f"${path}")


def as_texts(column: pl.Series) -> pl.Series:
    """Any column as texts. Equal numbers are the same text."""
    kind = column.dtype
    if kind == pl.String:
        return column
    if kind.is_float():
        whole = pl.col("x").is_finite() & (pl.col("x") == pl.col("x").round()) & (pl.col("x").abs() < 2**53)
        as_number = pl.when(whole).then(pl.col("x").cast(pl.Int64, strict=False).cast(pl.String))
        return pl.DataFrame({"x": column}).select(as_number.otherwise(pl.col("x").cast(pl.String))).to_series()
    if kind.is_nested() or kind == pl.Object:
        return pl.Series(column.name, [None if v is None else text_of(v) for v in column.to_list()], pl.String)
    return column.cast(pl.String)


def lists(frame: pl.DataFrame, place: str) -> pl.Series:
    """A column as lists of texts: of one each, or as a column of lists, or a field with one, has them. A null, a blank text and
    an empty list give one null; in a list a blank text is one like any other."""
    column = frame[place] if place in frame.columns else None
    if column is not None and isinstance(column.dtype, pl.List | pl.Array):
        found = [[text_of(v) for v in row] if row is not None and len(row) else [None] for row in column.to_list()]
        return pl.Series(place, found, pl.List(pl.String))
    said = pl.when(pl.col("x").str.contains(r"\S")).then("x")
    single = texts(frame, place).to_frame("x").select(said).to_series()
    if column is None and single.str.starts_with("[").any():  # a list, or a text that looks like one
        head, *steps = place.split(".")
        values = [_within(value, steps) for value in objects(frame, head)]
        found = [
            ([text_of(v) for v in value] or [None]) if isinstance(value, list) else [text]
            for value, text in zip(values, single, strict=True)
        ]
        return pl.Series(place, found, pl.List(pl.String))
    return single.to_frame("x").select(pl.concat_list("x")).to_series()


def _within(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def words(column: pl.Series) -> pl.Series:
    """The number of words in each text: runs without white space."""
    plain = column.str.strip_chars()
    # Counting spaces is ten times as fast as counting runs, and is right where single spaces separate all words.
    otherwise = plain.str.contains(r"\s\s|[^\S ]").fill_null(False)
    spaces = plain.str.count_matches(" ", literal=True)
    counts = (spaces + 1) * (plain != "").cast(pl.UInt32)
    return counts.scatter(otherwise.arg_true(), plain.filter(otherwise).str.count_matches(r"\S+"))


# ----------------------------------------------------------------------------------------------------- numbers

_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"


def numbers(column: pl.Series, take: str = "last") -> pl.Series:
    """The last (or first) number in each text, null if there is none.

    ``1,234.5``, ``-3``, ``.5``, ``2e-3``; currency and percent signs are ignored. A dash between two numbers is not a sign: in
    ``3-5`` the last is 5.
    """
    # Only the word with the last digit is parsed, which a pattern anchored at the end of the text finds fast.
    word = column.str.extract(r"(\S*\d)\D*$" if take == "last" else r"(\S*\d\S*)")
    plain = word.str.replace_all("\u2212", "-", literal=True).str.replace_all(r"(\d)[-–—]", "$1 ")
    found = plain.str.extract(f"({_NUMBER})") if take == "first" else plain.str.extract_all(_NUMBER).list.last()
    return found.str.replace_all(",", "", literal=True).cast(pl.Float64, strict=False)


# ----------------------------------------------------------------------------------------------------- choices

_AROUND = " \t\r\n*_`\"'“”‘’.,;:!?()[]"


def chosen(column: pl.Series, choices: Sequence[str]) -> pl.Series:
    """The choice that each answer names, null if it names none or more than one.

    The first rule that finds one: the whole answer is a choice or its letter; one is named after "answer is" or "Answer:" (the
    last such); just one letter stands in brackets or leads a line ("(B)", "B."); just one choice is named anywhere; just
    one letter stands alone as a capital (A and I, which are words too, only before a bracket, a full stop or a colon).
    Letters stand for the choices in their order, unless a choice is itself a single letter. Upper and lower case of choices
    are the same.
    """
    left = column.drop_nulls().unique().to_frame("text")
    found = [pl.DataFrame(schema={"text": pl.String, "choice": pl.String})]
    for rule in _Choices(choices).rules(pl.col("text")):
        if left.height:
            read = left.with_columns(choice=rule)
            found.append(read.filter(pl.col("choice").is_not_null()))
            left = read.filter(pl.col("choice").is_null()).select("text")
    return column.to_frame("text").join(pl.concat(found), on="text", how="left", maintain_order="left")["choice"]


class _Choices:
    def __init__(self, choices: Sequence[str]) -> None:
        self._whole = {choice.strip().lower(): choice for choice in choices}
        self._trimmed = {choice.strip(_AROUND).lower(): choice for choice in choices}
        has_letters = all(len(choice.strip()) > 1 for choice in choices)
        self._lettered = dict(zip(LETTERS if has_letters else "", choices, strict=False))
        self._letters = f"[{''.join(self._lettered)}]" if self._lettered else "[^\\s\\S]"
        longest_first = sorted((choice.strip() for choice in choices), key=len, reverse=True)
        self._any = "|".join(_bounded(choice) for choice in longest_first)

    def rules(self, text: pl.Expr) -> list[pl.Expr]:
        """Those of :func:`chosen`, most reliable first."""
        trimmed, any_choice = text.str.strip_chars(_AROUND), f"(?i){self._any}"
        designated = rf"(?:answer|choice|option)\b\W*(?:is\b|:|=)?\W*?(?:(?-i:{self._letters})\b|{self._any})"
        after = text.str.extract_all(f"(?i){designated}").list.last()
        words = "AI"  # as letters only where a sentence would not have them
        alone = "".join(letter for letter in self._lettered if letter not in words) or "\n"
        return [
            self._of(text.str.strip_chars(), self._whole),
            self._of(trimmed, self._trimmed),
            self._of(trimmed.str.to_uppercase(), self._lettered, lower=False),
            pl.coalesce(
                self._only(after.str.extract_all(any_choice)), self._only_letter(after, rf"({self._letters})$")
            ),
            self._only_letter(text, rf"(?i:[(\[]{self._letters}[)\]])|(?m:^)\s*[*_]*{self._letters}[).:]"),
            self._only(text.str.extract_all(any_choice)),
            self._only_letter(text, rf"\b[{alone}]\b|\b[{words}](?:[)\].:]|\W*$)"),
        ]

    def _of(self, text: pl.Expr, names: Mapping[str, str], *, lower: bool = True) -> pl.Expr:
        text = text.str.to_lowercase() if lower else text
        return text.replace_strict(names, default=None, return_dtype=pl.String) if names else pl.lit(None, pl.String)

    def _only(self, found: pl.Expr) -> pl.Expr:
        """The choice, if all texts that were found are the same."""
        distinct = found.list.eval(pl.element().str.to_lowercase()).list.unique()
        return self._of(pl.when(distinct.list.len() == 1).then(distinct.list.first()), self._whole)

    def _only_letter(self, text: pl.Expr, pattern: str) -> pl.Expr:
        if not self._lettered:
            return pl.lit(None, pl.String)
        letter = pl.element().str.extract(f"(?i)({self._letters})\\W*$").str.to_uppercase()
        distinct = text.str.extract_all(pattern).list.eval(letter).list.unique()
        return self._of(pl.when(distinct.list.len() == 1).then(distinct.list.first()), self._lettered, lower=False)


def _bounded(choice: str) -> str:
    """A pattern for a choice that is not part of a longer word."""
    before = r"\b" if re.match(r"\w", choice) else ""
    after = r"\b" if re.search(r"\w$", choice) else ""
    return f"{before}{re.escape(choice)}{after}"


def named(column: pl.Series, choices: Sequence[str], *, by_number: bool) -> pl.Series:
    """The choice that each text stands for: the choice itself, its letter, or (``by_number``) its number from 0."""
    names = names_of(choices, by_number=by_number)
    bare = column.str.strip_chars(ROUND_A_NAME).str.to_lowercase()
    return bare.replace_strict(names, default=None, return_dtype=pl.String)


# -------------------------------------------------------------------------------------------------------- JSON


def objects(frame: pl.DataFrame, place: str) -> list[Any]:
    """A column of JSON as values, ``None`` where it is not valid JSON; structs as they are."""
    if place in frame.columns and frame[place].dtype != pl.String:
        return frame[place].to_list()
    return [_value(text) for text in texts(frame, place)]


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
