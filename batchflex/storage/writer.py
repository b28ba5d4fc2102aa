"""Durability while a run goes on: outcomes to the journal, the journal to the disk, its full segments to parts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import IO, Any, NamedTuple

import anyio
import anyio.to_thread

from ..config import JournalSection
from ..core import BatchflexError, FolderBusy, GilYield, Outcome, StorageError
from ..protocol import can_be_void
from . import journal, part_numbers
from .helper import Helper, HelperGone
from .output_folder import Folder


def recover(folder: Folder, carry_schema: Any = None) -> int:
    """Seal what earlier runs left in the journal and in those of their worker processes, remove what is left of parts that were
    merged and of segments that were sealed, and return the number of the first segment of this run.

    :raises StorageError: if the disk is full.
    :raises FolderBusy: if a worker process of a run that was killed has not ended yet.
    """
    part_numbers.clear(folder.parts)
    last = max(part_numbers.part_numbers(folder.parts), default=0)
    last = max(last, seal_all(folder, carry_schema))
    for spool in folder.spools():
        with spool.held_if_free() as is_free:
            if not is_free:
                raise FolderBusy(
                    f"a process of the last run in {folder.path}{spool.holder()} has not ended yet: it waits for what is in "
                    "flight. Try again in a moment"
                )
            last = max(last, seal_all(spool, carry_schema))
    folder.remove_workers()
    return last + 1


def seal_all(folder: Folder, carry_schema: Any = None) -> int:
    """Seal the segments of one journal, and return the highest number among them.

    :raises StorageError: if the disk is full.
    """
    sealed, last = part_numbers.part_numbers(folder.parts), 0
    for number in journal.segments(folder.journal):
        if not part_numbers.is_sealed(sealed, number):
            _seal(folder, number, carry_schema, lambda: None)
        last = max(last, number)
        journal.drop(folder.journal, number)
    return last


class Unsealed(NamedTuple):
    """What is only in the journal: ``outcomes`` without void failures, and the ids of runs whose failures are ``void``, wherever
    they are."""

    outcomes: list[Outcome]
    void: list[str]


def segments(folder: Folder) -> list[int]:
    """The numbers of the journal's segments, those of worker processes with them, ascending."""
    return sorted(number for spool in (folder, *folder.spools()) for number in journal.segments(spool.journal))


def has_unsealed(folder: Folder) -> bool:
    sealed = part_numbers.part_numbers(folder.parts)
    return any(not part_numbers.is_sealed(sealed, number) for number in segments(folder))


def unsealed(folder: Folder) -> Unsealed:
    """What is not in parts yet; also while a run goes on."""
    found: list[Outcome] = []
    void: list[str] = []
    spools = [each.journal for each in (folder, *folder.spools())]
    for number, spool in sorted((number, each) for each in spools for number in journal.segments(each)):
        void_here: list[str] = []
        outcomes = list(journal.read(journal.segment_path(spool, number), void_here))
        if not part_numbers.is_sealed(part_numbers.part_numbers(folder.parts), number):  # nor has been meanwhile
            found += outcomes
            void += void_here
    if any(map(can_be_void, found)):
        from . import part_files

        runs = part_files.void_runs(folder.parts).union(void)
        found = [outcome for outcome in found if not (can_be_void(outcome) and outcome.run_id in runs)]
    return Unsealed(found, void)


def _seal(
    folder: Folder, number: int, carry_schema: Any, between: Callable[[], None], helper: Helper | None = None
) -> None:
    from . import part_files  # brings pyarrow, which the first request does without

    segment = journal.segment_path(folder.journal, number)

    def filled(stream: IO[bytes]) -> bool:
        if helper is not None and isinstance(getattr(stream, "name", None), str):
            try:
                return helper.seal(segment, stream, carry_schema)
            except HelperGone:
                stream.truncate()
        void: list[str] = []
        return part_files.fill(stream, journal.read(segment, void), carry_schema, between, void)

    part_files.put(folder.parts, number, filled)


_LIKELY_LINE = 8 << 10
_SMALLEST_RESERVE, _LARGEST_RESERVE = 1 << 20, 512 << 20


class OutcomeWriter:
    """Keeps the outcomes of one run, of ``slots`` requests at a time. :meth:`keep` is for the event loop; what is slow happens in
    threads, or in the ``helper`` process, if there is one: what is sealed while it runs, and all that is sealed before
    :meth:`finish`. It is not started for the last two segments: ``left`` tells how many rows are without an outcome, if that is
    known. ``next_number`` gives the number of another segment, where it is not the next one as several writers share the parts.

    :raises StorageError: if the journal cannot be begun.
    """

    def __init__(
        self,
        folder: Folder,
        number: int,
        policy: JournalSection,
        *,
        slots: int = 1,
        carry_schema: Any = None,
        helper: Helper | None = None,
        left: Callable[[], int | None] = lambda: None,
        next_number: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        self._folder = folder
        self._next_number = next_number
        self._helper = helper
        self._left = left
        self._policy = policy
        self._carry_schema = carry_schema
        self._gil_yield = GilYield()
        self._ending = False
        self._slots = slots
        self._journal = journal.Journal(folder.journal, number, self._reserve_bytes(_LIKELY_LINE))
        self._seal_rows, self._seal_bytes = policy.seal_rows, int(policy.seal_mb * 2**20)
        self._large = anyio.Event()
        self._descriptor = anyio.Lock()
        self._unsealed: set[int] = set()

    def _reserve_bytes(self, line: int) -> int:
        """Room for one answer to each request in flight."""
        return min(_SMALLEST_RESERVE + 2 * self._slots * line, _LARGEST_RESERVE)

    @property
    def full(self) -> bool:
        """Whether the disk has filled up: only the reserve is left, for what is in flight."""
        return self._journal.full

    def keep(self, outcome: Outcome) -> None:
        """When this returns, killing the process loses the outcome no more.

        :raises StorageError: if it could not be written.
        """
        self._journal.append(outcome)
        segment = self._journal.segment
        if (segment.rows >= self._seal_rows or segment.bytes >= self._seal_bytes) and self._is_worth_sealing(segment):
            self._large.set()
            self._gil_yield.hurry()  # if one is being sealed still, it takes too long

    def _is_worth_sealing(self, segment: journal.Segment) -> bool:
        """Not if no more is left than it has, as to start the helper takes longer than to seal as much."""
        if self._helper is None or self._helper.is_running or segment.bytes >= 2 * self._seal_bytes:
            return True
        left = self._left()  # with the row that is being kept
        return left is None or left > segment.rows + 1

    def void(self, run_id: str) -> None:
        """Note that the failures of a run count for nothing. As :meth:`keep`."""
        self._journal.void(run_id)

    async def run(self) -> None:
        """Sync the journal every ``sync_s`` seconds and seal it when it is large. Runs until cancelled.

        :raises StorageError: if the disk is full, or a segment cannot be read back; it stays, and outcomes can be kept still.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._keep_synced)
            tasks.start_soon(self._keep_sealed)

    async def _keep_synced(self) -> None:
        try:
            while True:
                due = anyio.current_time() + self._policy.sync_s
                async with self._descriptor:
                    await anyio.to_thread.run_sync(self._journal.sync)
                    await anyio.to_thread.run_sync(self._journal.hold, self._reserve_bytes(self._journal.longest))
                await anyio.sleep_until(due)
        finally:
            self._hurry()  # cancelled: whatever is being sealed is waited for

    async def _keep_sealed(self) -> None:
        while True:
            await self._large.wait()
            self._large = anyio.Event()
            # Not to be left half-way by a cancellation: nobody else would write the ended segment.
            with anyio.CancelScope(shield=True):
                async with self._descriptor:
                    number, room = self._journal.segment.number, self._journal.segment.bytes
                    following = number + 1 if self._next_number is None else await self._next_number()
                    self._journal.rotate(
                        await anyio.to_thread.run_sync(journal.Segment, self._folder.journal, following, room)
                    )
                    await anyio.to_thread.run_sync(self._journal.sync)
                if not self._ending:
                    self._gil_yield.relax()
                await anyio.to_thread.run_sync(self._seal, number)

    def _seal(self, number: int) -> None:
        """:raises StorageError: whatever goes wrong: the segment has everything, and what is in flight is to be kept too."""
        self._unsealed.add(number)
        self._gil_yield.begin()
        try:
            helper = (
                self._helper if self._helper is not None and (self._helper.is_running or not self._ending) else None
            )
            _seal(self._folder, number, self._carry_schema, self._gil_yield, helper)
            journal.drop(self._folder.journal, number)
        except StorageError:
            raise
        except Exception as error:
            path = journal.segment_path(self._folder.journal, number)
            what = str(error) if isinstance(error, BatchflexError) else f"{type(error).__name__}: {error}"
            raise StorageError(
                f"no part could be made of {path}: {what}. All answers are kept there; run the same command again"
            ) from error
        self._unsealed.discard(number)

    def _hurry(self) -> None:
        """Nothing more comes: no pauses from now on."""
        self._ending = True
        self._gil_yield.hurry()

    async def finish(self) -> None:
        """Seal what is left, also what could not be sealed before.

        :raises StorageError: if the disk is full, or a segment cannot be read back; then it is still in the journal.
        """
        self._hurry()
        segment = self._journal.segment
        left = {*self._unsealed, segment.number} if segment.rows else self._unsealed
        await anyio.to_thread.run_sync(self._journal.close)
        faults = []
        for number in sorted(left):
            try:
                await anyio.to_thread.run_sync(self._seal, number)
            except StorageError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def abandon(self) -> None:
        """Sync and leave the journal as it is, for the next run to seal."""
        self._journal.close()
