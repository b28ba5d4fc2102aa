"""Keeping a folder small: parts are merged, superseded answers and telemetry dropped when they are old enough."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..core import FolderError, StorageError, format
from ..plan import completion_marker
from ..storage import (
    Answers,
    Folder,
    Number,
    ResultsFiles,
    Size,
    disk_space,
    part_merging,
    part_numbers,
    replaced,
    storing,
    superseded,
    writer,
)

_MOST_ROWS, _MOST_BYTES = 200_000, 256 << 20  # of a part
_MARGIN = 16 << 20  # bytes
_words = disk_space.words


class CompactPreview(NamedTuple):
    """What compacting a folder is going to do: the parts that are merged to one each (``groups``), the answers and the number of
    lines of telemetry that go. ``needed`` is the room on the disk that it takes meanwhile, ``freed`` about what it frees, in
    bytes."""

    folder: Folder
    numbers: list[Number]
    sizes: list[Size]
    groups: list[slice]
    superseded: part_merging.Superseded
    telemetry: int
    older_than: str | None
    needed: int
    freed: int
    free: int | None

    @property
    def dropped(self) -> int:
        """How many answers go."""
        return sum(len(rows) for rows in self.superseded.values())

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "out": str(self.folder.path),
            "parts_before": len(self.numbers),
            "parts_after": self.parts_after,
            "rows": sum(size.rows for size in self.sizes),
            "superseded": self.dropped,
            "telemetry": self.telemetry,
            "bytes_before": sum(size.bytes for size in self.sizes),
            "bytes_needed": self.needed,
            "bytes_free": self.free,
            "bytes_freed": self.freed,
        }

    @property
    def parts_after(self) -> int:
        return len(self.numbers) - sum(len(self.numbers[group]) - 1 for group in self.groups)


def folders(out: Path) -> list[Folder]:
    """The output folder and those of its judges.

    :raises FolderError: if there is no run in it.
    """
    whole = Folder(out)
    whole.require()
    return [whole, *(Folder(path) for path in sorted(whole.judges.glob("*/")) if Folder(path).exists())]


def preview(folder: Folder, older_than: str | None, before: datetime.datetime | None) -> CompactPreview:
    """What there is to do in a folder that is held. Only reads. With ``before``, superseded answers and telemetry of before that
    moment are to go; ``older_than`` says so in words.

    :raises FolderError: if a part is damaged.
    """
    gone: part_merging.Superseded = {}
    sizes_of = part_numbers.part_sizes(folder.parts)
    numbers = list(sizes_of)
    if before is not None:
        gone = Answers(folder.parts, int(before.timestamp() * 1e6)).superseded(_present(folder))
    sizes = [
        part_merging.size_of(folder.parts, number, size, len(gone.get(number, ()))) for number, size in sizes_of.items()
    ]
    groups = _groups(numbers, sizes, writer.segments(folder))
    there = disk_space.free(folder.path)
    return CompactPreview(
        folder,
        numbers,
        sizes,
        groups,
        gone,
        _old_lines(folder.telemetry, before) if before is not None else 0,
        older_than,
        max((sum(size.bytes for size in sizes[group]) + _MARGIN for group in groups), default=0),
        sum(part_merging.saved(sizes[group]) for group in groups),
        None if there is None else there[0],
    )


def _groups(numbers: Sequence[Number], sizes: Sequence[Size], segments: Sequence[int]) -> list[slice]:
    """Which neighbours to merge. None has a segment of the journal between that is not sealed, as a full disk can leave one: the
    merged part would stand for it."""
    found, begin = [], 0
    for end in range(1, len(numbers) + 1):
        if end < len(numbers) and not any(numbers[end - 1] < segment < numbers[end].first for segment in segments):
            continue
        of_these = part_merging.groups(sizes[begin:end], _MOST_ROWS, _MOST_BYTES)
        found += [slice(begin + group.start, begin + group.stop) for group in of_these]
        begin = end
    return found


def _present(folder: Folder) -> list[Path] | None:
    """The table of results, if it is that of the last run's job; else nothing is known of which answers that has."""
    known = completion_marker.last_marker(folder)
    is_told = known is not None and known.plan == folder.read_state().get("plan")
    return ResultsFiles(folder).paths if is_told and not writer.segments(folder) else None


def carry_out(preview: CompactPreview) -> dict[str, Any]:
    """Do it, and return the facts. Each merge takes effect at once: when this is killed, what is there reads the same, and the
    rest can be done later. What was counted before is counted again.

    :raises StorageError: if there is no room for it, or the disk takes no more.
    :raises FolderError: if a part is damaged.
    """
    folder, parts = preview.folder, preview.folder.parts
    _require_room(preview, preview.needed)
    part_numbers.clear(parts)
    before = superseded.known(parts, preview.superseded or None) if preview.groups else None
    left = 0
    for group in preview.groups:
        _require_room(preview, sum(size.bytes for size in preview.sizes[group]))
        part_merging.merge(parts, preview.numbers[group], preview.superseded)
        left = part_numbers.clear(parts)
    if before is not None:
        after = superseded.known(parts, {} if preview.superseded else None)
        if after != before._replace(rows=before.rows - preview.dropped):
            raise FolderError(f"{parts} has other answers than before ({after.statuses}, before {before.statuses})")
    if preview.telemetry:
        _drop_lines(folder.telemetry, preview.telemetry)
    sizes = part_numbers.part_sizes(parts)
    size = sum(sizes.values())
    return preview.facts | {
        "parts_after": len(sizes),
        "bytes_after": size,
        "bytes_freed": preview.facts["bytes_before"] - size,
        "statuses": before.statuses if before is not None else None,
        "parts_left": left,
    }


def _require_room(preview: CompactPreview, needed: int) -> None:
    there = disk_space.free(preview.folder.path)
    if there is not None and there[0] < needed:
        raise StorageError(
            f"merging parts of {preview.folder.path} takes {_words(needed)} of room meanwhile, and "
            f"{_words(there[0])} are free. What there is stays as it is; free some space and run the same command again"
        )


def _old_lines(path: Path, before: datetime.datetime) -> int:
    """How many lines the file begins with that are of before that moment."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return sum(1 for _ in itertools.takewhile(lambda line: _is_old(line, before), stream))
    return 0


def _is_old(line: bytes, before: datetime.datetime) -> bool:
    try:
        return datetime.datetime.fromisoformat(msgspec.json.decode(line)["at"]) < before
    except (ValueError, TypeError, KeyError, msgspec.DecodeError):  # torn, or of another version
        return True


def _drop_lines(path: Path, count: int) -> None:
    with storing(path), path.open("rb") as old, replaced(path) as new:
        for _ in itertools.islice(old, count):
            pass
        shutil.copyfileobj(old, new)


def describe(preview: CompactPreview) -> str:
    """For people, what is going to be done."""
    return "\n".join(_lines(preview))


def _lines(preview: CompactPreview) -> Iterator[str]:
    path, facts = preview.folder.path, preview.facts
    before, after = (format.count(facts[name], "part") for name in ("parts_before", "parts_after"))
    there = f"{before} with {facts['rows']:,} rows, {_words(facts['bytes_before'])}"
    if preview.groups:
        free = f", of {_words(preview.free)} that are free" if preview.free is not None else ""
        yield f"{path}: {there}, become {after}"
        yield f"  frees       about {_words(preview.freed)}; takes {_words(preview.needed)} meanwhile{free}"
    else:
        yield f"{path}: {there}; nothing to merge"
    if preview.older_than is None:
        return
    yield f"  superseded  {format.count(preview.dropped, 'answer')} older than {preview.older_than} to drop"
    if preview.telemetry:
        yield f"  telemetry   {preview.telemetry:,} lines older than {preview.older_than} to drop"


def describe_done(done: Mapping[str, Any]) -> str:
    """For people, what was done."""
    return "\n".join(_lines_after(done))


def _lines_after(done: Mapping[str, Any]) -> Iterator[str]:
    freed = _words(max(0, done["bytes_freed"]))
    yield f"  done        {format.count(done['parts_after'], 'part')}, {_words(done['bytes_after'])}: {freed} freed"
    if rows := ", ".join(f"{count:,} {status}" for status, count in (done["statuses"] or {}).items() if count):
        yield f"  checked     the same answers as before: {rows}"
    if done["parts_left"]:
        left = format.count(done["parts_left"], "part")
        yield f"  left        {left} that somebody reads now; the next run, or compact again, removes them"
