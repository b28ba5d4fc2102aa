"""The table of results when a run ends, and what it tells the next run: a finished job is known by its footer alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ..core import malloc
from ..storage import Folder, ResultsFiles, carried_updates, part_files, writer

if TYPE_CHECKING:
    from .plan import Plan
    from .preparation import Prepared

_SETTLED = b"batchflex.settled"


class CompletionMarker(msgspec.Struct, frozen=True):
    """What the table tells of the run that made it: the plan it was made for and its ``input.limit``, how many requests that
    has, and of which parts the table was made. ``rows`` counts those of each status that were done."""

    plan: str
    limit: int | None
    planned: int
    parts: str
    rows: dict[str, int]

    @property
    def is_complete(self) -> bool:
        """Whether a further run has nothing to do."""
        return sum(self.rows.values()) == self.planned and not self.rows.get("failed")


def last_marker(folder: Folder, there: ResultsFiles | None = None) -> CompletionMarker | None:
    """What the table says (``there``, if it was looked at already), if it was made of the parts, and of the updates of carried
    columns, that are there now."""
    there = there or ResultsFiles(folder)
    try:
        found = msgspec.json.decode(there.metadata.get(_SETTLED, b""), type=CompletionMarker)
    except msgspec.DecodeError:
        return None
    is_newest = carried_updates.identity(folder.carried) == there.carried
    return found if is_newest and part_files.has_identity(folder.parts, found.parts) else None


def marker_of(
    folder: Folder, plan: Plan, prepared: Prepared, planned: int | None, rows: dict[str, int]
) -> CompletionMarker | None:
    """What a run tells the next one: what that need not find out if nothing has changed."""
    identity = plan.identity()
    planned = prepared.diff.planned if planned is None and prepared.diff is not None else planned
    if identity is None or planned is None or prepared.kept:
        return None
    return CompletionMarker(identity, plan.job.input.limit, planned, part_files.identity(folder.parts), rows)


def metadata(marker: CompletionMarker) -> dict[bytes, bytes]:
    """A marker as a table has it."""
    return {_SETTLED: msgspec.json.encode(marker)}


def marker_of_present_parts(known: CompletionMarker | None, folder: Folder, more_ok: int) -> dict[bytes, bytes]:
    """The same for the parts as they are now, of which so many more are ``ok`` in place of ``invalid``."""
    if known is None:
        return {}
    counts = {"ok": known.rows.get("ok", 0) + more_ok, "invalid": known.rows.get("invalid", 0) - more_ok}
    now = msgspec.structs.replace(known, parts=part_files.identity(folder.parts), rows=known.rows | counts)
    return metadata(now)


def settled(folder: Folder, plan: str | None, limit: int | None) -> CompletionMarker | None:
    """What the table says of a plan; ``None`` if it was made for another, or of other parts."""
    there = ResultsFiles(folder)
    found = last_marker(folder, there)
    if found is None or (found.plan, found.limit) != (plan, limit):
        return None
    return found if there.rows >= sum(found.rows.values()) and there.is_readable else None


def make(
    folder: Folder,
    plan: Plan,
    prepared: Prepared,
    marker: CompletionMarker | None,
    *,
    as_folder: bool = False,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Make the table from the parts, unless it is there. Blocks.

    Answers of earlier runs are where the preparation has found them in the plan, if that is elsewhere than is written down,
    else where its layout has their files; answers of this run are where they say themselves. ``marker`` is for the next run.
    ``between`` is called between the steps: an error that it raises ends this, and an older table stays as it is.

    :raises StorageError, FolderError: if it cannot be made; an older one stays as it is.
    """
    from ..storage import CarriedUpdates, declared, part_index, places, results_table, table_files, table_reuse

    pending, void = writer.unsealed(folder)
    malloc.trim()
    done, job = prepared.done, plan.job
    planned = done.planned() if done is not None and done.has_moved else None
    found, updates = part_index.read_found(folder.positions), CarriedUpdates(folder.carried)
    positions = None if planned is not None else part_index.Positions(prepared.layout, found)
    source = kept = None
    is_known = (
        prepared.snapshot is not None or prepared.diff is None
    )  # where each answer is, without going through the plan
    if as_folder and is_known and not (pending or void or len(updates)):
        layout = plan.layout(prepared.layout.files)  # by now; of new files that is known once they are read
        source = table_reuse.Source(folder, layout, found, plan.labels)
        if not (layout and source.has_in_place(prepared.segment)):
            source = None
        kept = None if source is None or prepared.snapshot is None else table_files.kept(source)

    def assemble(only: places.Some | None) -> results_table.Assembled:
        return results_table.assemble(
            folder.parts, job.sweep.variables, plan.labels, planned, prepared.segment, pending, declared(job.schemas),
            positions, void, between, updates, only,
        )  # fmt: skip

    made = assemble(None if kept is None else kept.anew)
    if kept is not None and source is not None and not source.fits(made, kept.basis):
        kept, made = None, assemble(None)
    more = {} if marker is None or pending or void else metadata(marker)
    made = made.with_metadata(more)
    if pending or not table_files.is_current(folder, made, as_folder=as_folder, source=source, kept=kept):
        table_files.write(folder, made, as_folder=as_folder, source=source, kept=kept)
