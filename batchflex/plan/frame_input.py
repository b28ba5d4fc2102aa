"""The rows of a data frame as the input of a job, in place of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Job
from ..core import InputError, Row
from .reading import Fault, wanted

if TYPE_CHECKING:
    import polars as pl

# The messages of one row, or why there are none.
Made = list[dict[str, Any]] | Fault


class FrameRows(NamedTuple):
    """Some rows; ``at`` are their positions, ``messages`` those that were made of each, if they were."""

    rows: list[Row | Fault]
    at: Sequence[int]
    messages: list[Made] | None


class FrameInput:
    """A frame to ask for each row of. ``messages`` are those of each row, where a function has made them: then no column is sent
    beside them but what ``input.params`` names."""

    def __init__(self, frame: pl.DataFrame, messages: list[Made] | None = None) -> None:
        self._frame = frame
        self._messages = messages

    @classmethod
    def of(cls, frame: pl.DataFrame | FrameInput | None) -> FrameInput | None:
        return frame if frame is None or isinstance(frame, FrameInput) else cls(frame)

    def __len__(self) -> int:
        return int(self._frame.height)

    @property
    def has_messages(self) -> bool:
        return self._messages is not None

    @property
    def columns(self) -> list[str]:
        return list(self._frame.columns)

    def arrow_schema(self) -> Any:
        """The Arrow types of the columns, but for those of Python objects."""
        import polars as pl

        typed = [name for name, kind in self._frame.schema.items() if kind != pl.Object]
        return self._frame.select(typed).head(0).to_arrow().schema

    def blocks(self, max_rows: int, skip: bytes) -> Iterator[FrameRows]:
        """The rows that ``skip`` does not pass over, at most ``max_rows`` a block."""
        for begin in range(0, len(self), max_rows):
            at = wanted(begin, min(begin + max_rows, len(self)), skip)
            if at:
                made = self._messages
                rows: list[Row | Fault] = [*self._frame[at].to_dicts()]
                yield FrameRows(rows, at, None if made is None else [made[row] for row in at])


def asked_columns(frame: pl.DataFrame, job: Job) -> pl.DataFrame:
    """The columns that a request is made of. Unlike a file of requests, a frame has others for reasons of its own.

    :raises InputError: if it has no column with what is asked.
    """
    if job.templates:
        return frame
    if job.route.field not in frame.columns:
        raise InputError(
            f"no template makes these prompts: the frame needs a column {job.route.field!r} with those of each row"
        )
    own = {job.route.field, "id", "custom_id", job.input.id, *job.input.params}
    return frame.select([name for name in frame.columns if name in own or job.route.parameters.documented(name)])
