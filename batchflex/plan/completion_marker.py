"""The table of results when a run ends, and what it tells the next run: a finished job is known by its footer alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core import malloc
from ..storage import Folder, ResultsFiles, part_files, writer

if TYPE_CHECKING:
    from ..storage import Layout
    from .resume import AnswerIndex

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
    """What the table says (``there``, if it was looked at already), if it was made of the parts that are there now."""
    there = there or ResultsFiles(folder)
    try:
        found = msgspec.json.decode(there.metadata.get(_SETTLED, b""), type=CompletionMarker)
    except msgspec.DecodeError:
        return None
    return found if part_files.is_of(folder.parts, found.parts) else None


def marker_of_present_parts(known: CompletionMarker | None, folder: Folder, more_ok: int) -> dict[bytes, bytes]:
    """The same for the parts as they are now, of which so many more are ``ok`` in place of ``invalid``."""
    if known is None:
        return {}
    counts = {"ok": known.rows.get("ok", 0) + more_ok, "invalid": known.rows.get("invalid", 0) - more_ok}
    now = msgspec.structs.replace(known, parts=part_files.identity(folder.parts), rows=known.rows | counts)
    return {_SETTLED: msgspec.json.encode(now)}


def settled(folder: Folder, plan: str | None, limit: int | None) -> CompletionMarker | None:
    """What the table says of a plan; ``None`` if it was made for another, or of other parts."""
    there = ResultsFiles(folder)
    found = last_marker(folder, there)
    if found is None or (found.plan, found.limit) != (plan, limit):
        return None
    return found if there.rows >= sum(found.rows.values()) and there.is_readable else None


def make(
    folder: Folder,
    variables: Mapping[str, list[Any]],
    labels: Sequence[str],
    declared: Mapping[str, list[str]],
    done: AnswerIndex | None,
    since: int,
    known: CompletionMarker | None,
    layout: Layout,
    *,
    as_folder: bool = False,
    between: Callable[[], None] = lambda: None,
) -> None:
    """Make the table from the parts, unless it is there. Blocks.

    ``declared`` are the fields of structured answers that the job's schema names. ``done`` has found where answers are in parts
    numbered below ``since``; if that is not elsewhere than is written down, or it is ``None``, they are where ``layout`` has
    their files. Answers in later parts are where they say themselves. ``known`` is what to tell the next run. ``between`` is
    called between the steps: an error that it raises ends this, and an older table stays as it is.

    :raises StorageError, FolderError: if it cannot be made; an older one stays as it is.
    """
    from ..storage import part_index, results_files, results_table

    pending, void = writer.unsealed(folder)
    malloc.trim()
    planned = done.planned() if done is not None and done.has_moved else None
    positions = None if planned is not None else part_index.Positions(layout, part_index.read_found(folder.positions))
    made = results_table.assemble(
        folder.parts, variables, labels, planned, since, pending, declared, positions, void, between
    )
    more = {} if known is None or pending or void else {_SETTLED: msgspec.json.encode(known)}
    if pending or not results_files.is_current(folder, made, more, as_folder=as_folder):
        results_files.write(folder, made, more, as_folder=as_folder, between=between)
