"""A growing set of 128-bit keys that stays small. polars is imported once it has grown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl


class KeySet:
    """A growing set of keys: the newest in a Python set, the others in sorted runs of 12 bytes a key.

    Runs are merged when one is no longer much larger than the next. Large ones stay as they are: merging them would need their
    size again. Keys are compared by 96 of their bits: that two of ten million are taken for one has a chance of 1 in 10^15.
    """

    _NEWEST = 1 << 15
    _RATIO = 4
    _LARGEST = 1 << 20

    def __init__(self) -> None:
        self._newest: set[bytes] = set()
        self._runs: list[pl.DataFrame] = []

    def __len__(self) -> int:
        return len(self._newest) + sum(run.height for run in self._runs)

    def copy(self) -> KeySet:
        twin = KeySet()
        twin._newest, twin._runs = set(self._newest), list(self._runs)
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
            from .sorted_keys import key_halves

            self.add_all(key_halves(list(self._newest)))
            self._newest = set()
        return answer

    def add_all(self, frame: pl.DataFrame) -> None:
        """Add the keys whose ``hi`` and ``lo`` a frame has."""
        if not frame.height:
            return
        from .sorted_keys import cut

        self._runs.append(cut(frame).sort("hi"))
        while len(self._runs) > 1 and self._are_to_merge(*(run.height for run in self._runs[-2:])):
            last, before = self._runs.pop(), self._runs.pop()
            self._runs.append(before.merge_sorted(last, "hi").rechunk())

    def find(self, keys: Sequence[bytes]) -> list[bool]:
        newest = self._newest
        answer = [False] * len(keys) if newest.isdisjoint(keys) else [key in newest for key in keys]
        if self._runs and keys:
            from .sorted_keys import cut, key_halves

            wanted = key_halves(keys)
            hi = wanted["hi"]
            for run in self._runs:
                his = run["hi"]
                near = his.search_sorted(hi)
                if near.max() == len(his):
                    near = near.clip(upper_bound=len(his) - 1)
                hit = his.gather(near) == hi
                if hit.any():
                    hit = hit & (run["lo"].gather(near) == cut(wanted)["lo"])
                    for at in hit.arg_true():
                        answer[at] = True
        return answer

    def _are_to_merge(self, before: int, last: int) -> bool:
        return before < self._RATIO * last and before + last <= self._LARGEST
