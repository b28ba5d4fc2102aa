"""A file for each value of a column: which values there are, and how their files are called. Names are pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core import JobError, cell_values

MOST_FILES = 1_000
_LONGEST_BYTES = 100
_PLAIN = set("-_.,+=@")


def values(columns: Iterable[pa.Array], name: str) -> list[str | None]:
    """The values of a column as text, each once, sorted; null comes last.

    :raises JobError: if there are more than 1,000.
    """
    found: set[str | None] = set()
    for column in columns:
        found.update(cell_values.texts(column if pa.types.is_nested(column.type) else pc.unique(column)).to_pylist())
        if len(found) > MOST_FILES:
            raise JobError(
                f"--split-by {name}: it has more than {MOST_FILES:,} different values, and each would be a file; nothing was "
                "written. --where can narrow them down"
            )
    return sorted(found, key=lambda value: (value is None, value or ""))


def names(texts: Iterable[str | None]) -> dict[str | None, str]:
    """What stands for each value in the name of its file; no two are the same, also where capitals do not count.

    What is no letter, digit or one of ``-_.,+=@`` becomes ``_``; what is long is cut to 100 bytes. Null is ``null``, nothing
    is ``empty``. Of values that would have one name the later ones get ``-2``, ``-3`` and so on after it.
    """
    made: dict[str | None, str] = {}
    taken: set[str] = set()
    for text in texts:
        plain = "null" if text is None else _plain(text) if text else "empty"
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        made[text] = name
    return made


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    kept = "".join(sign if sign.isalnum() or sign in _PLAIN else "_" for sign in text)
    return kept.encode()[:_LONGEST_BYTES].decode(errors="ignore")


def parts(batch: pa.RecordBatch, name: str) -> Iterator[tuple[str | None, pa.RecordBatch]]:
    """The rows of a batch by the value of a column, each in their order; the column goes with them."""
    coded = cell_values.texts(batch.column(name)).dictionary_encode(null_encoding="encode")
    values = coded.dictionary.to_pylist()
    if len(values) == 1:
        yield values[0], batch
        return
    numbers = coded.indices.to_numpy()
    order = np.argsort(numbers, kind="stable")
    begins = np.searchsorted(numbers[order], np.arange(len(values) + 1))
    for number, value in enumerate(values):  # copies, so that few rows that wait do not keep all of the batch
        yield value, batch.take(pa.array(order[begins[number] : begins[number + 1]]))
