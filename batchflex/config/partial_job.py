"""A job with mistakes in it, as far as its fields are right, so that the rules between these can be checked as well. Pure.

Pydantic gives no half model: what it finds wrong is taken out of the tables until the rest is a job, and then made unreadable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .job import Job


def validated(data: dict[str, Any]) -> tuple[Job | None, list[ErrorDetails]]:
    """The job, and what is wrong with single fields of it. The job lacks these: to read one is a
    :class:`~batchflex.config.fields.WrongField`. ``None`` if nothing of it can be read."""
    first: list[ErrorDetails] = []
    left_out: list[tuple[int | str, ...]] = []
    while True:
        try:
            job = Job.model_validate(data)
            break
        except ValidationError as error:
            errors = error.errors(include_url=False)
            first = first or errors
            cuts = [path for each in errors if (path := _known_part(data, each["loc"]))]
            if not cuts:
                return None, first
            left_out += cuts
            for path in cuts:
                data = _without(data, path)
    for path in sorted(left_out, key=len):
        _leave_out(job, path)
    return job, first


def _known_part(data: Any, steps: Sequence[int | str]) -> tuple[int | str, ...]:
    """The part of a path that ends at its innermost key in ``data``; the last step is never an index of a list."""
    known: tuple[int | str, ...] = ()
    for number, step in enumerate(steps):
        if isinstance(data, list) and isinstance(step, int) and step < len(data):
            data = data[step]
        elif isinstance(data, dict) and step in data:
            data, known = data[step], tuple(steps[: number + 1])
        else:
            break
    return known


def _without(data: Any, path: Sequence[int | str]) -> Any:
    """A copy without the entry at ``path``; the data itself if there is none."""
    first, *rest = path
    if isinstance(data, list):
        return [_without(each, rest) if number == first else each for number, each in enumerate(data)]
    if not isinstance(data, dict) or first not in data:
        return data
    if not rest:
        return {name: value for name, value in data.items() if name != first}
    return {**data, first: _without(data[first], rest)}


def _leave_out(job: Job, path: Sequence[int | str]) -> None:
    """Make a field of a job unreadable; of a table of plain values just the key at ``path`` is missing."""
    at: Any = job
    table: BaseModel = job
    field = ""
    for step in path:
        if isinstance(at, BaseModel):
            table, field = at, str(step)
            at = at.__dict__.get(field)
        elif isinstance(at, list) and isinstance(step, int) and step < len(at):
            at = at[step]
        else:
            break
    known = type(table).model_fields.get(field)
    if known is not None and not (isinstance(at, dict) and Any in get_args(known.annotation)):
        table.__dict__.pop(field, None)
