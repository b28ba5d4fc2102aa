"""An immutable set of 128-bit keys, looked up by the block.

A key takes 16 bytes (in a Python ``set`` some 110): ten million finished rows are 160 MB. A block of 4,096 keys is looked up in a
few milliseconds. Keys are two unsigned 64-bit columns, sorted by the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa


def raw(series: pl.Series) -> memoryview:
    """The bytes of a column of numbers without nulls."""
    values = series.rechunk().to_arrow()
    width = values.type.bit_width // 8
    return memoryview(values.buffers()[1])[values.offset * width : (values.offset + len(values)) * width]


def key_halves(keys: Sequence[bytes]) -> pl.DataFrame:
    """16-byte keys as a frame of ``hi`` and ``lo``."""
    joined = pa.Array.from_buffers(pa.uint64(), 2 * len(keys), [None, pa.py_buffer(b"".join(keys))])
    flat = pl.Series(joined)
    return pl.DataFrame({"hi": flat.gather_every(2), "lo": flat.gather_every(2, 1)})


class SortedKeys:
    """Finds the position of a key in the frame that the set was made from.

    Of two keys that share their first 64 bits only one is found: among ten million keys that has a chance of 3 in a million, and
    costs one request that is sent again.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        ordered = frame.select("hi", "lo").with_row_index("at").sort("hi")
        self._hi, self._lo, self._at = ordered["hi"], ordered["lo"], ordered["at"]

    def __len__(self) -> int:
        return len(self._hi)

    def find(self, keys: pl.DataFrame) -> list[int]:
        """For each key its position, or -1."""
        if not len(self):
            return [-1] * keys.height
        near = self._hi.search_sorted(keys["hi"]).clip(upper_bound=len(self) - 1)
        hit = (self._hi.gather(near) == keys["hi"]) & (self._lo.gather(near) == keys["lo"])
        return (
            self._at.gather(near)
            .cast(pl.Int64)
            .zip_with(hit, pl.repeat(-1, len(hit), dtype=pl.Int64, eager=True))
            .to_list()
        )
