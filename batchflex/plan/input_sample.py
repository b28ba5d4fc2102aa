"""The first rows of an input, and what its columns probably are: for a job file that is only just being written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ..config import StorageSection
from ..core import Row
from .formats import Opening, Settings
from .reading import Fault
from .source import Source

_ROWS = 500
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_MOST_LABELS, _LONGEST_LABEL = 20, 60
_LABEL_NAMES = (
    "label",
    "class",
    "category",
    "gold",
    "team",
    "topic",
    "sentiment",
    "queue",
    "intent",
    "answer",
    "expected",
)


class InputSample(NamedTuple):
    """``columns`` are in the order of the input. ``rows`` are its first, those that can be read. ``dialect`` has what a job says
    under ``[input]`` of the separator and the encoding of CSV files, if these are not what is usual and the same in all."""

    columns: list[str]
    rows: list[Row]
    dialect: dict[str, str]

    @property
    def has_requests(self) -> bool:
        """Whether the rows are requests already, and need no prompt."""
        return any(name in row for row in self.rows for name in ("messages", "body"))

    def texts(self, column: str) -> list[str]:
        """What a column holds, without what is no text or empty."""
        return [text for row in self.rows if isinstance(text := row.get(column), str) and text.strip()]

    @property
    def text_column(self) -> str | None:
        """The column with the longest texts; ``None`` if none has texts."""
        lengths = {name: sum(map(len, self.texts(name))) for name in self.columns}
        best = max(lengths, key=lambda name: lengths[name], default=None)
        return best if best is not None and lengths[best] else None

    @property
    def id_column(self) -> str | None:
        """A column that is named like an id and has another value in each row. One that is called ``id`` needs no naming."""
        if {"id", "custom_id"} & {*self.columns}:
            return None
        named = (name for name in self.columns if name.lower().endswith(("_id", "-id", " id")) or name.lower() in _IDS)
        return next((name for name in named if self._tells_apart(name)), None)

    def _tells_apart(self, column: str) -> bool:
        values = [str(row.get(column) or "") for row in self.rows]
        return all(values) and len({*values}) == len(values)

    @property
    def label_column(self) -> str | None:
        """A column that is named like one of labels and has few different, short texts."""
        text = self.text_column
        named = [name for name in self.columns if name != text and any(word in name.lower() for word in _LABEL_NAMES)]
        return next((name for name in named if 1 < len(self.labels(name)) <= _MOST_LABELS), None)

    def labels(self, column: str) -> list[str]:
        """The different texts of a column, in the order of the alphabet; none if one is too long for a label."""
        found = sorted({*self.texts(column)})
        return found if all(len(text) <= _LONGEST_LABEL for text in found) else []


_IDS = ("key", "uuid", "number", "no", "nr")


def sample_of(
    path: str | list[str], said: Mapping[str, Any] = _NOTHING, storage: StorageSection | None = None
) -> InputSample:
    """Read the first rows of an input, as ``said`` under ``[input]`` of a job, and under ``[storage]``.

    :raises InputError: if there is none, or it cannot be read.
    """
    settings = Settings(**{name: said[name] for name in Settings._fields if name in said})
    source = Source(path, settings, storage=storage or StorageSection())
    block = next(iter(source.blocks(_ROWS)), None)
    rows = [] if block is None else [row for row in block.rows if not isinstance(row, Fault)]
    columns = source.columns() or list(dict.fromkeys(name for row in rows for name in row))
    return InputSample(columns, rows, _dialect(source.openings))


def _dialect(openings: Sequence[Opening]) -> dict[str, str]:
    if any(each.kind != "csv" or each.how.is_one_column for each in openings):
        return {}
    said = [{key.partition(".")[2] for key in each.keys} for each in openings]
    found = [{name: str(getattr(each.how, name)) for name in names} for names, each in zip(said, openings, strict=True)]
    return found[0] if found and all(each == found[0] for each in found) else {}
