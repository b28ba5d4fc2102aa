"""What the rows of a plan carry now, compared with what was carried with their answers, while the plan is gone through."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ..core import KeySet, Request
from ..storage import CarriedUpdates, Folder, UpdatesWriter, part_files, part_index
from .planner import Passed

if TYPE_CHECKING:
    from .answer_index import AnswerIndex
    from .plan import Plan


class CarriedPass:
    """Collects the updates of a folder's carried columns. ``done`` are its answers; those to rows that are passed over keep the
    updates they have. Some 10 bytes an answer, and 24 for each update that there was; what is new goes to the disk.

    Within a block; nothing is changed unless :meth:`keep` is called. Does nothing where neither the plan nor the folder has
    carried columns.

    :raises FolderError: if a part is damaged.
    :raises StorageError: if what is new cannot be written.
    """

    def __init__(self, folder: Folder, plan: Plan, done: AnswerIndex) -> None:
        self._folder = folder
        self._done = done
        self._types: Any | None = plan.carry_schema()
        self._updates = CarriedUpdates(folder.carried)
        self._writer = UpdatesWriter(folder.carried)
        numbers = part_files.part_numbers(folder.parts)
        self._is_on = bool(plan.job.input.carry or len(self._updates)) or any(
            part_files.footer(folder.parts, number).kinds for number in numbers
        )
        self.changed = 0  # answers that carry something else from now on
        size = len(done) if self._is_on else 0
        self._noted = np.zeros(size, np.bool_)
        self._hashes = np.zeros(size, np.uint64)
        self._differ = np.zeros(size, np.bool_)  # several answers to one key that carry different things
        self._updated = np.zeros(0, np.int64)
        self._updated_to = np.zeros(0, np.uint64)
        if self._is_on:
            self._read_parts(numbers)
            self._read_updates()

    def __enter__(self) -> CarriedPass:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def _read_parts(self, numbers: Sequence[int]) -> None:
        seen = np.zeros(len(self._hashes), np.bool_)
        for number in numbers:
            for table in part_files.read_rows(self._folder.parts, number, columns=["key", "carry"]):
                part = part_index.head(table)
                at, hashes = self._done.find(part), part["carry"].hash().to_numpy()
                at, hashes = at[at >= 0], hashes[at >= 0]
                differs = seen[at] & (self._hashes[at] != hashes)
                self._hashes[at] = hashes
                differs |= self._hashes[at] != hashes  # one key twice in these rows
                self._differ[at[differs]] = True
                seen[at] = True

    def _read_updates(self) -> None:
        ats, hashes = [self._updated], [self._updated_to]
        for entries in self._updates.batches():
            ats.append(self._done.find(entries))
            hashes.append(entries["carry"].hash().to_numpy())
        at, to = np.concatenate(ats), np.concatenate(hashes)
        order = np.argsort(at, kind="stable")
        self._updated, self._updated_to = at[order], to[order]

    def note(self, requests: Sequence[Request], answers: Sequence[int]) -> None:
        """Some of the plan, with the position of the answer to each, -1 if it has none."""
        if not self._is_on:
            return
        at = np.array(answers, np.int64)
        is_there = at >= 0
        if not is_there.any():
            return
        texts = pl.Series("carry", [request.carry for request in requests], pl.String)
        hashes, at = texts.hash().to_numpy()[is_there], at[is_there]
        texts = texts.filter(pl.Series(is_there))
        self._noted[at] = True
        self.changed += int((hashes != self._known(at)).sum())
        is_new = (hashes != self._hashes[at]) | self._differ[at]
        if is_new.any():
            self._writer.add(self._done.keys_at(at[is_new]), texts.filter(pl.Series(is_new)).to_list(), self._types)

    def _known(self, at: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Hashes of what these answers have carried so far, updates counted."""
        if not len(self._updated):
            return self._hashes[at]
        near = np.minimum(np.searchsorted(self._updated, at), len(self._updated) - 1)
        known: npt.NDArray[np.uint64] = np.where(self._updated[near] == at, self._updated_to[near], self._hashes[at])
        return known

    def note_kept(self, plan: Plan) -> None:
        """What rows carry whose answers were given to different requests, once these count (:meth:`AnswerIndex.keep_changed`).
        Reads these rows again."""
        rows = self._done.kept_rows()
        if not self._is_on or not len(rows):
            return
        passed = np.ones(int(rows.max()) + 1, np.uint8)
        passed[rows] = 0
        for block in plan.blocks(Passed(passed.tobytes(), KeySet())):
            self.note(block, self._done.answers(block))
            if block and block[-1].row >= len(passed):
                break

    def keep(self) -> int:
        """Let the updates count from now on, and return how many answers carry something else. To be called after the positions
        that the same pass has found are written down."""
        if self._is_on:
            for entries in self._updates.batches():
                at = self._done.find(entries)
                stays = (at >= 0) & ~self._noted[np.maximum(at, 0)]
                if stays.any():
                    left = entries.filter(pl.Series(stays))
                    self._writer.add(left, left["carry"].to_list(), self._updates.footer.types)
        self._writer.keep(part_index.found_id(self._folder.positions) if self._is_on else "")
        return self.changed
