"""The table of results when a run ends, and what it tells the next run: a finished job is known by its footer alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core import malloc
from ..storage import Folder, part_files, writer

if TYPE_CHECKING:
    from ..storage import Moves
    from .resume import Done

_SETTLED = b"batchflex.settled"


class Settled(msgspec.Struct, frozen=True):
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


def last_settled(folder: Folder) -> Settled | None:
    """What the table says, if it was made of the parts that are there now."""
    told, _ = part_files.told(folder.results)
    try:
        found = msgspec.json.decode(told.get(_SETTLED, b""), type=Settled)
    except msgspec.DecodeError:
        return None
    return found if found.parts == part_files.stamp(folder.parts) else None


def retold(known: Settled | None, folder: Folder, more_ok: int) -> dict[bytes, bytes]:
    """The same for the parts as they are now, of which so many more are ``ok`` in place of ``invalid``."""
    if known is None:
        return {}
    counts = {"ok": known.rows.get("ok", 0) + more_ok, "invalid": known.rows.get("invalid", 0) - more_ok}
    now = msgspec.structs.replace(known, parts=part_files.stamp(folder.parts), rows=known.rows | counts)
    return {_SETTLED: msgspec.json.encode(now)}


def settled(folder: Folder, plan: str | None, limit: int | None) -> Settled | None:
    """What the table says of a plan; ``None`` if it was made for another, or of other parts."""
    told, rows = part_files.told(folder.results)
    raw = told.get(_SETTLED)
    if raw is None or plan is None:
        return None
    try:
        found = msgspec.json.decode(raw, type=Settled)
    except msgspec.DecodeError:
        return None
    is_whole = rows >= sum(found.rows.values()) and part_files.is_readable(folder.results)
    return (
        found
        if is_whole and (found.plan, found.limit, found.parts) == (plan, limit, part_files.stamp(folder.parts))
        else None
    )


def make(
    folder: Folder,
    variables: Mapping[str, list[Any]],
    labels: Sequence[str],
    declared: Mapping[str, list[str]],
    done: Done | None,
    since: int,
    known: Settled | None,
    moves: Mapping[str, Moves] | None = None,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Make the table from the parts, unless it is there. Blocks.

    ``declared`` are the fields of structured answers that the job's schema names. ``done`` has the places of answers in parts
    numbered below ``since``; the others are where they say themselves. Where every place is told by the plan that a part names,
    ``moves`` says how, in place of ``done``. ``known`` is what to tell the next run. ``between`` is called between
    the steps: an error that it raises ends this, and an older table stays as it is.

    :raises StorageError, FolderError: if it cannot be made; an older one stays as it is.
    """
    from ..storage import results_table

    pending, void = writer.unsealed(folder)
    malloc.trim()
    # Where all parts have the row numbers of the plan, none has to be looked up by its key.
    planned = results_table.NO_PLAN if done is None or moves is not None else done.planned()
    since = since if done is not None or moves is not None else 0
    made = results_table.assemble(
        folder.parts, variables, labels, planned, since, pending, declared, moves, void, between
    )
    told = {} if known is None or pending or void else {_SETTLED: msgspec.json.encode(known)}
    if pending or not results_table.is_current(folder.results, made, told):
        results_table.write_results(folder.results, made, told, between)
