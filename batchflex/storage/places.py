"""Where a row of the results is in their table: by its row, sweep point and sample. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import msgspec
import polars as pl
import pyarrow as pa

ALL = 2**31  # beyond the number of every part
# Of the plan, whose results are one file where the table is a folder: the last is made each night.
STRETCH_ROWS = 250_000
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class WholeGroup(NamedTuple):
    """Rows of a table that are a row group of a part, in its order: ``made`` are the columns that are others than there,
    ``read`` gives all of them."""

    part: int
    group: int
    made: pa.Table
    read: Callable[[], Iterator[pa.Table]]


Pieces = Iterator[pa.Table | WholeGroup]


class Stretch(NamedTuple):
    """Some rows of a table that follow each other. ``name`` is their ``number``, and a digest of what they are made of, which
    ``parts`` have."""

    number: int
    name: str
    rows: int
    parts: list[int]
    pieces: Callable[[], Pieces]


class Some(NamedTuple):
    """A table without the stretches that stay as they are (``but``): only these ``parts`` have rows in the others. ``size`` is
    how many sweep points and samples a row has at least."""

    but: Collection[int]
    parts: Collection[int]
    size: tuple[int, int]


def place_of(size: tuple[int, int]) -> pl.Expr:
    """One number for row, sweep point and sample, where a row has so many sweep points and samples."""
    row, point, sample = (pl.col(name).cast(pl.UInt64) for name in ("row", "point", "sample"))
    return (row * size[0] + point) * size[1] + sample


def stretch_of(size: tuple[int, int]) -> pl.Expr:
    """The number of the stretch that a row, sweep point and sample are in."""
    return place_of(size) // STRETCH_ROWS


def stretches_at(places: pl.Series) -> pl.Series:
    """The numbers of the stretches that these :func:`place_of` are in."""
    return places // STRETCH_ROWS


def pointed(head: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """With the sweep points as their numbers; one that is none of ``labels`` has the next. The order of its variables says
    nothing about what a point is."""
    order = {_plain(label): number for number, label in enumerate(labels)}
    numbers = {label: order.get(_plain(label), len(order)) for label in head["point"].unique()}
    return head.with_columns(pl.col("point").replace_strict(numbers, default=len(order), return_dtype=pl.Int32))


def _plain(label: str) -> bytes:
    return _encode_sorted(msgspec.json.decode(label))
