"""What is scored and how: the tables ``[[score]]`` and ``[score.judge]``, of a job file or from a caller.

docs/scores.md describes the kinds; :mod:`batchflex.scoring.scorers` makes numbers of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field, model_validator
from pydantic_core import SchemaError, SchemaValidator, core_schema

from ..core import JobError
from .endpoint_section import EndpointSection
from .fields import NonEmpty, NonEmptyList, Section, name_rule, refusing, wanted
from .mistake_messages import Mistake, explained, found, sentences
from .parameter_tables import Parameters
from .sections import LimitsSection, PricesSection

KINDS = ("exact", "contains", "regex", "number", "json", "choice", "length", "judge")
# Those whose score says right or wrong.
_SHARES = {"exact", "contains", "regex", "number", "choice", "length"}
# Those that find one of many possible answers in the text, so that samples can vote and labels be confused.
_LABELLING = {"exact", "number", "choice"}
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _kind_fault(kind: str) -> str | None:
    if kind in KINDS or _FUNCTION.fullmatch(kind):
        return None
    return f"must be one of {', '.join(KINDS)}, or 'module:function' of your own; {found(kind)}"


def _pattern_fault(pattern: str) -> str | None:
    """Patterns are those of Rust's regex, which polars has: no look-around, no back-references."""
    try:
        SchemaValidator(core_schema.str_schema(pattern=pattern))
    except SchemaError as error:
        why = " ".join(str(error).split()).partition("error: ")[2] or str(error)
        return f"is no regular expression of the kind used here (without look-around): {why:.200}"
    return None


def _scale_fault(scale: list[int | float]) -> str | None:
    if len(scale) == 2 and scale[0] < scale[1]:
        return None
    return f"must be two numbers, the worst grade and the best, such as [1, 5]; {found(scale)}"


_Pattern = Annotated[NonEmpty, refusing(_pattern_fault)]
_Tolerance = Annotated[float, Field(ge=0)]
_Constant = Annotated[
    str | bool | int | float | list[Any] | dict[str, Any], wanted("text, a number, true, false, a list or a table")
]


class JudgeSection(Section):
    """A model that grades by a rubric. Endpoint, limits and prices are those of the job where left out."""

    rubric: NonEmpty
    system: str | None = None
    scale: Annotated[list[int | float], wanted("two numbers, the worst and the best grade"), refusing(_scale_fault)] = (
        Field(default=[1, 5])
    )
    endpoint: EndpointSection | None = None
    params: Parameters = Field(default_factory=dict)
    limits: LimitsSection | None = None
    prices: PricesSection | None = None


class ScoreSection(Section):
    """One score: a number for each row, or null where a row cannot be scored."""

    name: Annotated[str, name_rule("a score's name", "_-", 60)]
    kind: Annotated[str, refusing(_kind_fault)]
    answer: NonEmpty | None = None
    expected: NonEmpty | None = None
    value: _Constant | None = None
    missing: Literal["skip", "zero"] = "skip"
    cluster: NonEmpty | None = None
    baseline: (
        Annotated[dict[str, Any], Field(min_length=1), wanted("a table of swept variables with their values")] | None
    ) = None
    extract: _Pattern | None = None
    strip: bool = True
    ignore_case: bool = False
    ignore_punctuation: bool = False
    pattern: _Pattern | None = None
    tolerance: _Tolerance = 0.0
    relative_tolerance: _Tolerance = 0.0
    take: Literal["last", "first"] = "last"
    choices: Annotated[list[NonEmpty], Field(min_length=2, max_length=26)] | None = None
    fields: NonEmptyList | None = None
    unit: Literal["characters", "words", "tokens"] = "characters"
    min: Annotated[int, Field(ge=0)] | None = None
    max: Annotated[int, Field(ge=0)] | None = None
    columns: NonEmptyList | None = None
    folder: NonEmpty | None = None
    judge: JudgeSection | None = None

    @model_validator(mode="after")
    def _fits_its_kind(self) -> ScoreSection:
        if wrong := [*self._superfluous(), *self._lacking()]:
            raise ValueError("; ".join(wrong))
        return self

    def _superfluous(self) -> list[str]:
        """Keys without effect for this kind are refused: somebody believes they have one."""
        kind = "function" if self.is_function else self.kind
        defaults = type(self).model_fields
        given = [n for n in sorted(self.model_fields_set) if getattr(self, n) != defaults[n].default and n in _KEYS]
        given = [name for name in given if kind not in _KEYS[name]]
        return [f"'{name}' is nothing for kind '{self.kind}', but for {_listed(_KEYS[name])}" for name in given]

    def _lacking(self) -> list[str]:
        """What this kind requires and does not have."""
        wrong = []
        if self.expected is not None and self.value is not None:
            wrong.append("'expected' (a column) and 'value' (the same for all rows) exclude each other")
        for kinds, names, words in _NEEDED:
            if self.kind in kinds and all(getattr(self, name) is None for name in names):
                wrong.append(f"kind '{self.kind}' needs {words}")
        if self.choices is not None and len({c.casefold().strip() for c in self.choices}) < len(self.choices):
            wrong.append("'choices' has the same choice twice")
        if self.min is not None and self.max is not None and self.min > self.max:
            wrong.append(f"'min' is above 'max'; found {self.min} and {self.max}")
        if self.value == []:
            wrong.append("'value' is an empty list: nothing would be right")
        if self.kind == "number" and self.value is not None and not all(map(_has_number, self._values)):
            wrong.append(f"'value' must be a number; {found(self.value)}")
        if self.kind == "choice" and self.choices is not None and self.value is not None and not self._is_a_choice():
            wrong.append(f"'value' must be one of 'choices', its letter or its number from 0; {found(self.value)}")
        return wrong

    @property
    def _values(self) -> list[Any]:
        return self.value if isinstance(self.value, list) else [self.value]

    def _is_a_choice(self) -> bool:
        names = names_of(self.choices or [], by_number=isinstance(self.value, int))
        return len(self._values) == 1 and bare(str(self._values[0])) in names

    @property
    def is_function(self) -> bool:
        return ":" in self.kind

    @property
    def is_share(self) -> bool | None:
        """Whether each score is 0 or 1; ``None`` if that is known from the scores only."""
        return True if self.kind in _SHARES else None

    @property
    def is_labelling(self) -> bool:
        """Whether a score finds in each answer one of several possible labels."""
        return self.kind in _LABELLING

    @property
    def column(self) -> str:
        """The column of the scores."""
        return f"score_{self.name}"

    @property
    def answer_column(self) -> str:
        """The column that is scored."""
        if self.answer is not None:
            return self.answer
        if self.kind == "length" and self.unit == "tokens":
            return "completion_tokens"
        return "parsed" if self.kind == "json" else "content"


# Keys that only some kinds use.
_TEXTUAL = {"exact", "contains", "regex", "number", "choice", "length"}
_KEYS: dict[str, set[str]] = {
    "answer": {*_TEXTUAL, "json"},
    "expected": {"exact", "contains", "number", "json", "choice"},
    "value": {"exact", "contains", "number", "json", "choice"},
    "extract": _TEXTUAL,
    "strip": {"exact", "contains", "json", "length"},
    "ignore_case": {"exact", "contains", "regex", "json"},
    "ignore_punctuation": {"exact", "contains", "json"},
    "pattern": {"regex"},
    "tolerance": {"number", "json"},
    "relative_tolerance": {"number", "json"},
    "take": {"number"},
    "choices": {"choice"},
    "fields": {"json"},
    "unit": {"length"},
    "min": {"length"},
    "max": {"length"},
    "columns": {"function"},
    "folder": {"function"},
    "judge": {"judge"},
}


# Of these keys a score of these kinds has at least one.
_NEEDED: tuple[tuple[set[str], tuple[str, ...], str], ...] = (
    ({"exact", "contains", "number", "choice"}, ("expected", "value"), "'expected', a column, or 'value', the same for all rows"),
    ({"json"}, ("expected", "value", "fields"), "'expected', a column of JSON, or 'value', or 'fields' that are columns too"),
    ({"regex"}, ("pattern",), "'pattern'"),
    ({"choice"}, ("choices",), "'choices', a list of what may be answered"),
    ({"length"}, ("min", "max"), "'min' or 'max'"),
    ({"judge"}, ("judge",), "a table [score.judge] with a 'rubric'"),
)  # fmt: skip


def _has_number(value: Any) -> bool:
    return (
        isinstance(value, int | float | str)
        and not isinstance(value, bool)
        and re.search(r"\d", str(value)) is not None
    )


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
ROUND_A_NAME = " \t\r\n()."


def names_of(choices: Sequence[str], *, by_number: bool) -> dict[str, str]:
    """The choice for each name that it may be written by, in lower case: its letter, ``by_number`` its number from 0, itself."""
    names = dict(zip(LETTERS.lower(), choices, strict=False)) if all(len(c.strip()) > 1 for c in choices) else {}
    if by_number:
        names |= {str(number): choice for number, choice in enumerate(choices)}
    return names | {choice.strip().lower(): choice for choice in choices}


def bare(name: str) -> str:
    """A name as a key of :func:`names_of`."""
    return name.strip(ROUND_A_NAME).lower()


def _listed(kinds: Iterable[str]) -> str:
    return ", ".join("'module:function'" if kind == "function" else f"'{kind}'" for kind in sorted(kinds))


class _Scores(Section):
    score: list[ScoreSection]


ScoreLike = ScoreSection | Mapping[str, Any]


def specs_of(scores: Sequence[ScoreLike] | Mapping[str, Mapping[str, Any]] | ScoreLike) -> list[ScoreSection]:
    """Validate scores that a caller gives: a list of tables as in a job file, a single one, or tables by name.

    :raises JobError: naming every mistake at once.
    """
    if isinstance(scores, ScoreSection) or (isinstance(scores, Mapping) and "kind" in scores):
        given: list[Any] = [scores]
    elif isinstance(scores, Mapping):
        given = [{"name": name, **table} for name, table in scores.items()]
    else:
        given = list(scores)
    tables = [
        each.model_dump(exclude_none=True, exclude_unset=True) if isinstance(each, ScoreSection) else each
        for each in given
    ]
    try:
        made = _Scores.model_validate({"score": tables}).score
    except pydantic.ValidationError as error:
        raise JobError(sentences([explained(e, _Scores) for e in error.errors(include_url=False)], {})) from None
    if mistakes := list(name_mistakes(made)):
        raise JobError(sentences(mistakes, {}))
    return made


def name_mistakes(scores: Sequence[ScoreSection]) -> Iterator[Mistake]:
    """Scores with the name of an earlier one."""
    names = [score.name for score in scores]
    for number, name in enumerate(names):
        if name in names[:number]:
            what = f"is the second score called {name!r:.80}; give each a name of its own"
            yield Mistake(f"score.{number}.name", what)
