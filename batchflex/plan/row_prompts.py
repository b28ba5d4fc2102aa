"""Prompts that functions make of each row, where templates do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..config import PromptSection
from ..core import InputError, JobError, Row
from ..protocol import unwritable
from .frame_input import Made
from .reading import Fault
from .template_faults import TemplateFault, missing_column

if TYPE_CHECKING:
    import polars as pl

# From a row, a dict by column, to a text (for ``messages`` to a list of messages).
RowFunction = Callable[[Row], Any]
Part = str | RowFunction


class _Unfit(Exception):
    """A row that a function has made nothing of that can be sent."""


def messages_of(
    frame: pl.DataFrame,
    on_bad_row: str = "stop",
    *,
    system: Part | None = None,
    user: Part | None = None,
    messages: RowFunction | list[Row] | None = None,
) -> list[Made]:
    """The messages of each row: what ``messages`` makes of it, or what ``system`` and ``user`` do, each a template or a function.

    Functions are called once for each row, in order. A row that one of them fails on is a fault with ``on_bad_row = "fail"``.

    :raises JobError: if a template is wrong.
    :raises InputError: if a function or a template fails on a row, with the function's exception as cause; it names the row,
        counted from 1.
    """
    if messages is not None and not (system is None and user is None):
        raise JobError("a prompt has either 'messages' or 'system' and 'user', not both")
    parts = [
        (role, _maker(role, part, frame)) for role, part in (("system", system), ("user", user)) if part is not None
    ]
    found: list[Made] = []
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        try:
            made = _conversation(messages, row) if callable(messages) else list(_said(parts, row))
            found.append(made)
        except (_Unfit, TemplateFault) as fault:
            if on_bad_row == "stop":
                todo = "Nothing was sent. To ask the other rows: settings={'input.on_bad_row': 'fail'}"
                raise InputError(f"row {number}: {fault}\n{todo}") from fault.__cause__
            found.append(Fault(str(fault)))
    return found


def _maker(role: str, part: Part, frame: pl.DataFrame) -> RowFunction:
    if not isinstance(part, str):
        return part
    from .template import Prompt

    prompt = Prompt(PromptSection(user=part) if role == "user" else PromptSection(system=part, user="-"))
    if prompt.file_kinds:
        raise JobError(
            f"prompt.{role}: a template beside a function puts no files in; write system and user as templates"
        )
    if missing := prompt.missing(frame.columns):
        raise JobError(f"prompt.{role}: {missing_column(missing[0], frame.columns)}")
    return lambda row: prompt.render(row)[0]["content"]


def _said(parts: list[tuple[str, RowFunction]], row: Row) -> Iterator[dict[str, Any]]:
    for role, make in parts:
        text = _called(role, make, row)
        if text is None and role == "system":
            continue
        if not isinstance(text, str):
            raise _Unfit(f"{role}= must return text; it returned {text!r:.80}")
        if why := unwritable(text):
            raise _Unfit(f"what {role}= returned {why}")
        yield {"role": role, "content": text}


def _conversation(make: RowFunction, row: Row) -> list[dict[str, Any]]:
    made = _called("messages", make, row)
    if not isinstance(made, list) or not made or not all(isinstance(message, dict) for message in made):
        raise _Unfit(f"messages= must return a list of messages, each a dict; it returned {made!r:.80}")
    if why := _unsendable(made):
        raise _Unfit(f"what messages= returned {why}")
    return made


def _called(place: str, make: RowFunction, row: Row) -> Any:
    try:
        return make(row)
    except TemplateFault:
        raise
    except Exception as error:  # whatever a function of the user's raises is that row's fault
        raise _Unfit(f"{place}= raised {type(error).__name__}: {error}{_hint(error, row)}") from error


def _hint(error: Exception, row: Row) -> str:
    if isinstance(error, KeyError):
        return f"; the columns are: {', '.join(row)}"
    if isinstance(error, AttributeError) and error.obj is row:
        return f"; a row is a dict: row[{error.name!r}]"
    return ""


def _unsendable(value: Any) -> str | None:
    """Why a part of a message cannot be JSON; null can."""
    if isinstance(value, dict):
        return next((why for each in (*value, *value.values()) if (why := _unsendable(each))), None)
    if isinstance(value, list | tuple):
        return next((why for each in value if (why := _unsendable(each))), None)
    return None if value is None else unwritable(value)
