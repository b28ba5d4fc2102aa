"""A growing set of 128-bit keys that stays small. numpy is imported once it has grown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import polars as pl


class _Run(NamedTuple):
    """Keys in order of their first halves, as arrays of these and of the lower 32 bits of the second ones."""

    hi: Any
    lo: Any


class KeySet:
    """A growing set of keys: the newest in a Python set, the others in sorted runs of 12 bytes a key.

    Runs are merged when one is no longer much larger than the next. Large ones stay as they are: merging them would need their
    size again, and those that come in order stay where they are. A bitmap of the first bits of the keys in runs, of 1 to 4 bytes
    a key, spares most new ones the search in them; it is made once so many are looked up that it is worth it.
    Keys are compared by 96 of their bits: that two of ten million are taken for one has a chance of 1 in 10^15.
    """

    _NEWEST = 1 << 16
    _RATIO = 4
    _LARGEST = 1 << 20
    _BITS_PER_KEY = 8
    _WORTH_MARKING = 32  # keys in runs for each that was looked up

    def __init__(self) -> None:
        self._newest: set[bytes] = set()
        self._runs: list[_Run] = []
        self._bits = 0  # so many first bits of a key are its place in the bitmap
        self._bitmap: Any = None
        self._looked_up = 0

    def __len__(self) -> int:
        return len(self._newest) + sum(len(run.hi) for run in self._runs)

    def copy(self) -> KeySet:
        twin = KeySet()
        twin._newest, twin._runs = set(self._newest), list(self._runs)
        twin._bits, twin._bitmap = self._bits, None if self._bitmap is None else self._bitmap.copy()
        return twin

    def add(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of ``keys`` were there already or come twice in this call; all are there afterwards."""
        before = len(self._newest)
        answer = self.find(keys)
        self._newest.update(keys)
        if len(self._newest) - before < len(keys):
            here: set[bytes] = set()
            for i, key in enumerate(keys):
                answer[i] = answer[i] or key in here
                here.add(key)
        if len(self._newest) >= self._NEWEST:
            # One that is in a run too is there twice, which does no harm.
            hi, lo = _halves(self._newest)
            self._add_run(hi, lo.astype("u4"))
            self._newest = set()
        return answer

    def add_all(self, frame: pl.DataFrame) -> None:
        """Add the keys whose ``hi`` and ``lo`` a frame has."""
        if frame.height:
            hi, lo = frame["hi"], frame["lo"].to_numpy().view("u4")[::2]
            self._add_run(hi.to_numpy(), lo, in_order=hi.flags["SORTED_ASC"])

    def _add_run(self, hi: Any, lo: Any, *, in_order: bool = False) -> None:
        if not in_order:
            order = hi.argsort()
            hi, lo = hi[order], lo[order]
        self._runs.append(_Run(hi, lo))
        if self._bitmap is not None:
            self._mark()
        while len(self._runs) > 1 and self._are_to_merge(*(len(run.hi) for run in self._runs[-2:])):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(_merged(before, last))

    def _mark(self) -> None:
        """Put the last run into the bitmap; all of them, once that has become too small."""
        import numpy as np

        runs, wanted = self._runs[-1:], self._BITS_PER_KEY * sum(len(run.hi) for run in self._runs)
        if wanted >> self._bits:
            self._bits, runs = wanted.bit_length() + 1, self._runs
            self._bitmap = np.zeros(1 << self._bits - 3, np.uint8)
        for run in runs:
            at = run.hi >> (64 - self._bits)
            places, marks = at >> 3, np.left_shift(1, at & 7, dtype=np.uint8, casting="unsafe")
            starts = np.flatnonzero(np.append(True, places[1:] != places[:-1]))
            self._bitmap[places[starts]] |= np.bitwise_or.reduceat(marks, starts)

    def find(self, keys: Sequence[bytes]) -> list[bool]:
        newest = self._newest
        answer = [False] * len(keys) if newest.isdisjoint(keys) else [key in newest for key in keys]
        if self._runs and keys:
            hi, lo = _halves(keys)
            marked = self._marked(hi)
            hi, lo = hi[marked], lo[marked].astype("u4")
            for run in self._runs:
                near = run.hi.searchsorted(hi)
                hit = run.hi.take(near, mode="clip") == hi
                if hit.any():
                    for index in marked[hit & (run.lo.take(near, mode="clip") == lo)]:
                        answer[index] = True
        return answer

    def _marked(self, hi: Any) -> Any:
        """The positions of those of these keys that may be in runs."""
        import numpy as np

        if self._bitmap is None:
            self._looked_up += len(hi)
            if self._looked_up * self._WORTH_MARKING < sum(len(run.hi) for run in self._runs):
                return np.arange(len(hi))
            self._mark()
        at = hi >> (64 - self._bits)
        return (self._bitmap[at >> 3] >> (at & 7) & 1).nonzero()[0]

    def _are_to_merge(self, before: int, last: int) -> bool:
        return before < self._RATIO * last and before + last <= self._LARGEST


def _halves(keys: Sequence[bytes] | set[bytes]) -> Any:
    import numpy as np

    return np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2).T


def _merged(one: _Run, other: _Run) -> _Run:
    import numpy as np

    at = one.hi.searchsorted(other.hi) + np.arange(len(other.hi))
    mine = np.ones(len(one.hi) + len(other.hi), np.bool_)
    mine[at] = False
    merged = _Run(np.empty(len(mine), np.uint64), np.empty(len(mine), np.uint32))
    for into, its, others in zip(merged, one, other, strict=True):
        into[at], into[mine] = others, its
    return merged
