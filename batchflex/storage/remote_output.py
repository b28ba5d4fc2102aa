"""An output folder in a bucket, and its copy on this machine, which a run works in as in any other folder.

The copy is the spool: what a run writes is uploaded from it, the journal with it, every ``journal.upload_s``; a run on another
machine begins with what was uploaded. All objects are whole and have the names of the files. They are uploaded in an order in
which whoever reads sees no answer less: parts, journal, other files, what names these; then what is gone here is deleted there.

One machine at a time writes (:mod:`.remote_lease`). Answers that this one has kept, but not uploaded before another one went on,
are added then where no other answer has come to their requests.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from ..config import JournalSection, StorageSection
from ..core import FolderError, StorageError, duration
from . import journal, remote_lease
from .files import replaced, storing
from .object_store import Object, ObjectStore, Superseded
from .output_folder import Folder
from .part_numbers import part_numbers
from .remote_lease import RemoteLease
from .store import FolderStore

_JOURNALS = ("journal", "workers/*/journal", "judges/*/journal")
_KEPT, _ASIDE = ".remote.json", ".aside"
_APPENDED = ("history.jsonl", "telemetry.jsonl")
_LAST = ("run.json", "format.json")  # and what names the files of a table
_TAIL = 64  # zeros that may be the end of a record, of those that end a segment
_CHECK_S = 1.0


class _Kept(msgspec.Struct):
    """What is known here of the bucket: ``files`` has size, time of change (ns) and tag of each file as it was last the same on
    both sides, at the ``epoch`` of the lease. ``id`` is that of this copy."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    options: dict[str, str] = {}
    lease_s: float = 60.0
    id: str = ""
    epoch: int = 0
    files: dict[str, tuple[int, int, str]] = {}


class RemoteOutput:
    """The copy that ``folder`` is of the output at ``url``. Its methods block, but for :meth:`uploading`.

    :raises MissingExtra: if obstore is not installed.
    :raises StorageError: of each method: if the store fails.
    """

    def __init__(self, folder: Folder, kept: _Kept, section: StorageSection) -> None:
        self.folder = folder
        self._kept = kept
        self._store = ObjectStore(kept.url, section)
        self._lease = RemoteLease(self._store, kept.id, kept.lease_s)
        self._uploaded_at, self._uploaded_size = 0.0, 0

    @property
    def url(self) -> str:
        return self._kept.url

    # ---------------------------------------------------------------------------------------------------------- reading

    def refresh(self, *, if_there: bool = False) -> None:
        """Bring the copy up to date for whoever only reads it. Nothing is done while a run of this machine holds it: then it is
        ahead of the bucket.

        :raises FolderError: if there is no output in the bucket, unless ``if_there``.
        """
        self.folder.path.mkdir(parents=True, exist_ok=True)
        with self.folder.held_if_free() as is_free:
            if not is_free:
                return
            if (lease := self._lease.newest()) is None:
                if if_there:
                    return
                raise FolderError(f"{self.url} is not the output folder of a run")
            if (lease.epoch, lease.copy) != (self._kept.epoch, self._kept.id):
                self._download()

    def holder(self) -> str | None:
        """The name of another machine that is at work, as far as its lease says: one that was lost just now says so still."""
        lease = self._lease.newest()
        return None if lease is None or lease.released or lease.copy == self._kept.id else lease.holder

    # ---------------------------------------------------------------------------------------------------------- writing

    @contextlib.contextmanager
    def written(self, say: Callable[[str], object] = lambda text: None) -> Iterator[None]:
        """Hold the output, with its copy up to date, and upload at the end what the block has changed. The folder must be held.

        :raises FolderBusy: if a run on another machine holds it.
        """
        self.acquire(say)
        yield
        self.end()

    def acquire(self, say: Callable[[str], object] = lambda text: None) -> None:
        """Take the lease, and bring the copy up to date if another machine had it since.

        :raises FolderBusy: if a run on another machine has it.
        """
        epoch, before = self._lease.take(say)
        if before is not None and (before.epoch, before.copy) != (self._kept.epoch, self._kept.id):
            self._download()
        else:  # what a run that was killed has uploaded, but not noted
            known = self._kept.files
            known |= {
                name: (-1, -1, each.tag)
                for name, each in self._objects().items()
                if name not in known or known[name][2] != each.tag
            }
        self._kept.epoch = epoch
        self._write_kept()

    def end(self) -> None:
        """Upload what is left, and give the lease back."""
        try:
            self._upload(files_of(self.folder.path))
        except Superseded:
            raise StorageError(self._taken_over()) from None
        self._lease.give_back()

    @contextlib.asynccontextmanager
    async def uploading(
        self, policy: JournalSection, stop: Callable[[str], object], warn: Callable[[str], object]
    ) -> AsyncIterator[None]:
        """Within the block upload what has changed, as often as ``policy`` says; at its end what is left. Then the lease is given
        back. ``stop`` is called with a sentence if another machine has taken the output over; ``warn`` if the store cannot be
        reached, which ends nothing: all is kept here."""
        async with anyio.create_task_group() as beside:
            beside.start_soon(self._keep_uploaded, policy, stop, warn)
            yield
            beside.cancel_scope.cancel()
        await anyio.to_thread.run_sync(self.end)

    async def _keep_uploaded(
        self, policy: JournalSection, stop: Callable[[str], object], warn: Callable[[str], object]
    ) -> None:
        failing = False
        while True:
            await anyio.sleep(min(_CHECK_S, policy.upload_s, self._kept.lease_s / 8))
            try:
                await anyio.to_thread.run_sync(self._upload_if_due, policy)
                failing = False
            except Superseded:
                stop(self._taken_over())
                return
            except StorageError as error:
                if not failing:
                    warn(f"{error}. Answers are kept in {self.folder.path}, and uploaded as soon as that is possible")
                failing = True

    def _upload_if_due(self, policy: JournalSection) -> None:
        here = files_of(self.folder.path)
        size = sum(size for name, (size, _) in here.items() if "journal/" in name or "parts/" in name)
        is_time = time.monotonic() - self._uploaded_at >= policy.upload_s
        if is_time or size - self._uploaded_size >= policy.upload_mb * 2**20:
            self._uploaded_at, self._uploaded_size = time.monotonic(), size  # also if it fails: it is not hurried then
            self._upload(here)
        elif self._lease.is_due:
            self._lease.renew()

    def _upload(self, here: dict[str, tuple[int, int]]) -> None:
        """Upload what of the files here is new or has changed, and delete there what is gone here.

        :raises Superseded: if another machine has the lease.
        """
        self._lease.renew()
        files = self._kept.files
        try:
            for name, (size, changed) in here.items():
                before = files.get(name)
                if before is not None and before[:2] == (size, changed):
                    continue
                path = _path_of(self.folder.path, name)
                try:
                    if name.endswith(".journal"):
                        tag = self._store.upload(name, _used(path))
                    elif _has_answers(name):
                        tag = self._store.add(name, path)
                    else:
                        tag = self._store.upload(name, path)
                except FileNotFoundError:  # it was sealed, or replaced by another, meanwhile
                    continue
                files[name] = (size, changed, tag)
            gone = [name for name in files if name not in here and not _path_of(self.folder.path, name).exists()]
            self._store.delete(gone)
            for name in gone:
                del files[name]
        finally:
            self._write_kept()

    def _taken_over(self) -> str:
        return (
            f"another machine has taken over {self.url}, as this one could not say for {duration(self._kept.lease_s)} that it is "
            f"there. What was answered here is kept in {self.folder.path}; the next run on this machine adds it"
        )

    # -------------------------------------------------------------------------------------------- what others have written

    def _download(self) -> None:
        """Make the copy what the bucket is. Answers that are only here are set aside, and added at the end."""
        here, files = files_of(self.folder.path), self._kept.files
        there = self._objects()
        segments = [name for name in there if "journal/" in name]
        fresh: dict[str, tuple[int, int, str]] = {}
        for name in segments:  # first: what is sealed meanwhile is in a part that is listed after
            self._fetch(name, there[name], here.get(name), fresh)
        there = self._objects()
        for name in sorted(there):
            if name not in fresh and name not in segments:
                self._fetch(name, there[name], here.get(name), fresh)
        for name, seen in here.items():
            if name in fresh:
                continue
            is_new = name not in files or files[name][:2] != seen
            if is_new and _has_answers(name):
                self._set_aside(name)
            elif name in files:
                (self.folder.path / name).unlink(missing_ok=True)
        self._kept.files = fresh
        self._kept.epoch = lease.epoch if (lease := self._lease.newest()) is not None else 0
        self._write_kept()
        self._add_what_was_set_aside()

    def _objects(self) -> dict[str, Object]:
        return {
            name: each
            for name, each in self._store.list().items()
            if not name.startswith(remote_lease.FOLDER) and _is_of_output(name)
        }

    def _fetch(
        self, name: str, there: Object, here: tuple[int, int] | None, fresh: dict[str, tuple[int, int, str]]
    ) -> None:
        path, before = self.folder.path / name, self._kept.files.get(name)
        is_same_here = here is not None and before is not None and before[:2] == here
        if is_same_here and before is not None and before[2] == there.tag:
            fresh[name] = before
            return
        own = b""
        if here is not None and not is_same_here:
            if _has_answers(name):
                self._set_aside(name)
            elif name in _APPENDED:
                own = path.read_bytes()
        if (tag := self._store.download(name, path)) is None:
            return
        size, changed = _stat(path)
        fresh[name] = (size, changed, tag)
        if own and (lines := _only_in(own, path.read_bytes())):  # uploaded again, as the file has another size then
            with path.open("ab") as stream:
                stream.writelines(lines)

    def _set_aside(self, name: str) -> None:
        to = self.folder.path / _ASIDE / f"{secrets.token_hex(4)}" / name
        to.parent.mkdir(parents=True, exist_ok=True)
        _path_of(self.folder.path, name).rename(to)

    def _add_what_was_set_aside(self) -> None:
        """Make parts of answers that only this machine had, without those whose requests have another answer by now."""
        aside = self.folder.path / _ASIDE
        found = sorted(path for path in aside.rglob("*") if path.is_file())
        by_folder: dict[Path, list[Path]] = {}
        for path in found:
            inside = path.relative_to(aside).parts[1:]
            by_folder.setdefault(self.folder.path.joinpath(*inside[:-2]), []).append(path)
        for folder, paths in by_folder.items():
            _add(Folder(folder), paths)
        shutil.rmtree(aside, ignore_errors=True)

    def _write_kept(self) -> None:
        path = self.folder.path / _KEPT
        with storing(path), replaced(path) as stream:
            stream.write(msgspec.json.encode(self._kept))


def of(folder: Folder, url: str | None = None, section: StorageSection | None = None) -> RemoteOutput | None:
    """That of a folder that is one; ``url`` says so of one that is not there yet. Without ``section`` the store is reached as
    it was when the copy was made.

    :raises FolderError: if the copy is of an output in another store.
    """
    if not folder.is_copy:
        return None
    known = _read(folder.path / _KEPT)
    if known is None and url is None:
        return None
    kept = known or _Kept(str(url), id=secrets.token_hex(8))
    given = section if section is not None and section.model_dump(exclude_defaults=True) else None
    if known is not None and given is not None and known.files and known.endpoint != given.endpoint:
        raise FolderError(
            f"{folder.path} is the copy of {known.url} at {known.endpoint or 'the usual address'}, and storage.endpoint names "
            "another store; use another name in the bucket, or move that folder away once nothing in it is wanted"
        )
    if given is not None:
        kept.endpoint, kept.region = given.endpoint, given.region
        kept.options, kept.lease_s = given.options, given.lease_s
    made = StorageSection(endpoint=kept.endpoint, region=kept.region, options=kept.options)
    return RemoteOutput(folder, kept, made if section is None else made.using(section.variables))


def url_of(folder: Folder) -> str | None:
    """The URL of the output that a folder is the copy of, if it is one."""
    kept = _read(folder.path / _KEPT) if folder.is_copy else None
    return None if kept is None else kept.url


def _read(path: Path) -> _Kept | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise FolderError(f"{path} cannot be read: {error}; move it away, and the bucket is compared anew") from None


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of each file of an output, by its name, in the order in which they are to be copied. Segments
    of the journals of worker processes are among those of the folder: no two have the same number."""
    found = {}
    journals = [
        *folder.glob("**/journal/*.journal")
    ]  # looked for first: what is sealed meanwhile is among the parts then
    for path in [*journals, *folder.rglob("*")]:
        name = path.relative_to(folder).as_posix()
        if name.startswith("workers/") and path.suffix == ".journal":
            name = f"journal/{path.name}"
        if _is_of_output(name) and name not in found:
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[name] = _stat(path)
    return {name: found[name] for name in sorted(found, key=_rank)}


def _path_of(folder: Path, name: str) -> Path:
    path = folder / name
    if name.startswith("journal/") and not path.exists():
        return next(folder.glob(f"workers/*/{name}"), path)
    return path


def _is_of_output(name: str) -> bool:
    parts = name.split("/")
    return (
        not any(part.startswith(".") for part in parts)
        and parts[0] != "workers"
        and parts[-2:] != ["journal", "reserve"]
    )


def _stat(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _rank(name: str) -> tuple[int, str]:
    if "parts/" in name:
        return 0, name
    if "journal/" in name:
        return 1, name
    return (3 if name.endswith("-table.json") or name in _LAST else 2), name


def _has_answers(name: str) -> bool:
    """Whether it is a part, or a segment of a journal."""
    return name.split("/")[-2:-1] in (["parts"], ["journal"])


def _used(segment: Path) -> bytes:
    """A segment without the space that is only reserved."""
    content = segment.read_bytes()
    return content[: len(content.rstrip(b"\0")) + _TAIL]


def _only_in(own: bytes, other: bytes) -> list[bytes]:
    known = set(other.splitlines(keepends=True))
    return [line for line in own.splitlines(keepends=True) if line not in known]


def _add(folder: Folder, paths: list[Path]) -> None:
    from . import part_files

    found: dict[str, Any] = {}
    for path in paths:
        if path.parent.name == "journal":
            outcomes = list(journal.read(path))
        else:  # each has a folder of its own
            store = FolderStore(path.parent)
            outcomes = [
                each
                for number in part_numbers(store)
                for each in part_files.outcomes(part_files.read_part(store, number))
            ]
        found |= {outcome.key: outcome for outcome in outcomes}
    numbers = part_numbers(folder.parts)
    for number in numbers:
        keys = part_files.read_part(folder.parts, number, ["key", "status"])
        for key, status in zip(*(keys[name].to_pylist() for name in ("key", "status")), strict=True):
            if status != "failed":
                found.pop(key, None)
    for segment in journal.segments(folder.journal):
        for outcome in journal.read(journal.segment_path(folder.journal, segment)):
            if outcome.status != "failed":
                found.pop(outcome.key, None)
    if found:
        last = max([*numbers, *journal.segments(folder.journal), 0])
        types = part_files.footer(folder.parts, numbers[0]).types if numbers else None
        part_files.write_part(folder.parts, int(last) + 1, list(found.values()), types)
