"""The plan of a job: its input files to requests, by the block."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from ..config import SHAPING, Job
from ..core import TIMINGS, InputError, JobError, KeySet, Request
from ..storage import Folder, Layout, Span, shaped
from .csv_dialect import Dialect
from .dated_outputs import since
from .formats import Settings
from .frame_input import FrameInput
from .input_file import InputFile, beside
from .manifest import Inputs, Written
from .planner import Answered, Passed, Planner, SharedId, points
from .rows import Itemizer
from .source import Ended, Signature, Source, escaped_name, is_young

if TYPE_CHECKING:
    import polars as pl

_BLOCK_REQUESTS = 400
_HASHES_AT_ONCE = 200  # that are written down
_TELL_EVERY_S = 10.0
_PLANNING_VERSION = 1  # to be raised when the same job and input make other requests, ids, slots or rows than before
_WHICH_ROWS = (
    "path",
    "limit",
    "since",
    "file_hosts",
)  # of [input]: they say which rows and files, not what is made of them
_CHANGED = (
    "was changed while it was being asked, so which of its rows are done cannot be told; run the same command again"
)


class Plan:
    """Everything a job asks, in order. Can be gone through any number of times; each time reads the input anew, as far as it
    went when this object was made.

    ``frame`` is what to take the rows from in place of ``input.path``.

    :raises InputError: if there is no input.
    :raises JobError: if the job does not fit the columns of its input.
    """

    def __init__(
        self, job: Job, default_model: str | None = None, frame: pl.DataFrame | FrameInput | None = None
    ) -> None:
        self.job = job
        self._default_model = default_model
        self._before: Inputs | None = None
        self._since = None if frame is not None else since(job)
        counts = None if self._since is None else self._since.counts
        said = job.input
        self._source = Source(
            said.path,
            Settings(said.format, said.separator, said.encoding, said.sheet),
            frame,
            without=job.out,
            counts=counts,
            remembered=self._dialect_before,
            storage=job.storage,
        )
        self._made = time.time_ns()
        self._signature = self._source.seen()
        if self._is_young:
            time.sleep(TIMINGS.young_file_s)  # written just now, as it is when a program makes an input and asks it
            self._made = time.time_ns()
            self._signature = self._source.seen()
        self._inputs: Inputs | None = None
        # Files that are written to right now cannot be known again by their times.
        self._once = secrets.token_hex(8) if self._is_young else ""
        self._remembers = True
        self._ids: list[tuple[Span, ...]] = []
        self._spans: list[tuple[Span, ...]] = []  # the same, with what this job makes of the rows
        self._counted: dict[int, int] = {}
        self.left: list[str] = []  # names of files whose last line is still being written
        # Which keys have an answer in the folder; None where there are none. To be set before the plan is gone through.
        self.answered: Answered | None = None
        # What passes have found, as the planner tells it.
        self.has_former = self.is_in_doubt = False
        self._shared_id: SharedId | None = None
        self._has_noted_ids = False
        self._file_notes = self._source.notes()
        try:
            self._itemizer = Itemizer(job, self._source.columns(), has_messages=self._source.has_messages)
        except JobError as error:
            for note in self._file_notes:  # if it was read otherwise than it is meant, that is why
                error.add_note(note)
            raise
        self._source.needs = self._itemizer.needs(self._source.columns())
        # Called now and then with a sentence, by whatever thread goes through the plan, while files that rows name are read.
        self.tell: Callable[[str], object] | None = None
        self._told_at = time.monotonic()
        self.labels = tuple(point.label for point in points(job))
        self.per_item = len(self.labels) * job.sweep.samples

    @property
    def _said(self) -> tuple[str | None, str | None]:
        """What the job says of how CSV files are written."""
        return self.job.input.separator, self.job.input.encoding

    def _dialect_before(self, path: InputFile, beginning: bytes, seems: Dialect) -> Dialect | None:
        """How a CSV file was read in the folder of this job, so that rows which are added to it change nothing."""
        if self._before is None:
            self._before = Inputs(Folder(self.job.out))
        return self._before.dialect(path, beginning, seems, self._said)

    @property
    def _is_young(self) -> bool:
        return any(is_young(seen, self._made) for seen in self._signature or ())

    def _shape(self) -> str:
        """A digest of what makes requests of rows: two plans of one shape make the same of the same row."""
        resolved = self.job.resolved()
        shaping = {name: resolved.get(name) for name in SHAPING}
        shaping["input"] = {name: value for name, value in (shaping["input"] or {}).items() if name not in _WHICH_ROWS}
        shaping["sweep"] = {name: value for name, value in (shaping["sweep"] or {}).items() if name != "order"}
        if self.job.input.carry == "*" and self.job.templates:
            shaping["carried"] = "all"  # versions before left out columns that are named as what a request is made of
        return _digest([_PLANNING_VERSION, shaping, self._default_model])

    def identity(self) -> str | None:
        """A digest of all that this plan is made of: two plans of one identity have the same requests in the same rows,
        but one may end sooner than the other (``input.limit``).

        The files of the input are known by their inodes, sizes and times. ``None`` if that does not tell: of a frame, as soon as
        a file has changed since this object was made (one that has only become longer has not), and where rows name further
        files, whose content is part of what is asked.
        """
        if self._signature is None or self._itemizer.reads_files or not self._is_still(self._signature):
            return None
        files = [each._replace(path=escaped_name(each.path)) for each in self._signature]
        return _digest([self._shape(), files, self._once])

    def _is_still(self, signature: Signature) -> bool:
        try:
            now = self._source.seen()
        except InputError:  # one is gone
            return False
        return now is not None and all(then.has_become(each) for then, each in zip(signature, now, strict=True))

    @property
    def files_note(self) -> str | None:
        """A sentence if not all files of the input count."""
        if self._since is None:
            return None
        files = len(self._source.files)
        return f"input files changed since {self._since.moment}: {files:,} of {files + self._source.left_out:,}"

    @property
    def no_rows_note(self) -> str:
        """Why there is nothing to ask, where the input has no rows."""
        left_out = self._source.left_out
        if self._since is not None and left_out and not self._source.files:
            files = "the one file" if left_out == 1 else f"all {left_out:,} files"
            return f"no row is left: input.since = {self._since.text!r} leaves out {files} of the input"
        return "the input has no rows"

    @property
    def growth_note(self) -> list[str]:
        """A sentence for each file that the folders of earlier dates have read a beginning of."""
        return [] if self._since is None else list(self._since.growth_notes(self._source.seen() or ()))

    def notes(self) -> list[str]:
        """Sentences about the files and the rows gone through so far, each said once: how files are written, columns that are not
        sent, ids that come twice."""
        notes, shared = [*self._file_notes, *self._itemizer.notes()], self._shared_id
        self._file_notes = []
        if shared is not None and not self._has_noted_ids:
            self._has_noted_ids = True
            first, second = shared.first, shared.second
            rows = f"row {second} and one before" if first is None else f"rows {first} and {second}"
            notes.append(
                f"ids come more than once in the input: {shared.id!r:.80} in {rows} (counted from 0, as in the results). "
                "Each row has its own answer, but by their ids alone they cannot be told apart"
            )
        return notes

    def slips(self) -> list[str]:
        """The same of what is probably a mistake in the rows: parameters that are misspelt."""
        return self._itemizer.slips()

    @property
    def narrows(self) -> bool:
        """Whether files are left out that earlier runs in the folder might have asked, as :meth:`know` found."""
        return self._since is not None and self._inputs is not None and self._since.text not in self._inputs.since

    def know(self, folder: Folder, *, remember: bool = True) -> list[str]:
        """Take what a folder remembers of the input files: those that are as they were, or begin so, need not be read where
        nothing of them is to be asked. Returns a sentence for each that is not what it was. Blocks, while files that have
        grown or were touched are read once. A line at the end of one that has grown is left out while it is being written.
        Unless it is to ``remember``, nothing is written into the folder, which need not be held then."""
        if self._signature is None:
            return []
        self._remembers = remember
        self._inputs = Inputs(folder)
        self._itemizer.finder.know(self._inputs.attached)
        found = self._inputs.find(self._signature, [path for path, _ in self._source.files])
        shape = self._shape()
        self._ids = [each.spans for each in found]
        self._spans = [shaped(each.spans, shape) for each in found]
        self._source.known = [each.known for each in found]
        pairs = list(zip(found, self._signature, strict=True))
        names = [path.name for path, _ in self._source.files]
        self.left = [name for (each, seen), name in zip(pairs, names, strict=True) if each.bytes < seen.size]
        self._signature = tuple(seen._replace(size=each.bytes) for each, seen in pairs)
        changed = self._inputs.dialect_notes(self._dialects(), self._said)
        return [each.note for each in found if each.note is not None] + changed

    def _dialects(self, only: int | None = None) -> list[Written]:
        """Of the CSV files, or ``only`` of one file if it is one: how they are written, and how they begin."""
        chosen = slice(None) if only is None else slice(only, only + 1)
        files = zip(self._source.files[chosen], self._source.openings[chosen], strict=True)
        return [(path, opened.how, opened.beginning) for (path, kind), opened in files if kind == "csv"]

    def _rows_of(self, at: int) -> int | None:
        """How many rows a file of this plan has, if that is known."""
        known, signature = self._source.known[at], self._signature
        if known is not None and signature is not None and known.bytes == signature[at].size:
            return known.rows
        return self._counted.get(at)

    def layout(self, wanted: Collection[int] = ()) -> Layout:
        """Where the rows of each file are in this plan, as far as that is known. It is known of all files that are among the
        ``wanted``, for which others may be read, to count their rows. Empty if the files cannot be known again."""
        if self._signature is None or self.identity() is None:
            return Layout()
        mine = [any(span.file in wanted for span in spans) for spans in self._spans]
        for at in range(max((at for at, is_wanted in enumerate(mine) if is_wanted), default=0)):
            if self._rows_of(at) is None:
                self._counted[at] = self._source.rows_of(at, self._signature[at])
        return Layout([(spans, self._rows_of(at)) for at, spans in enumerate(self._spans)], self.job.input.limit)

    @property
    def is_of_known_files(self) -> bool:
        """Whether the folder that :meth:`know` was given has met a file of this input, or none at all yet."""
        inputs, signature = self._inputs, self._signature
        return inputs is not None and signature is not None and (inputs.is_empty or any(map(inputs.knows, signature)))

    @property
    def is_as_last(self) -> bool:
        """Whether the last run in the folder that :meth:`know` was given had the same plan."""
        identity = self.identity()
        return identity is not None and self._inputs is not None and self._inputs.last_plan == identity

    def begin(self) -> None:
        """Remember the files of this plan, before it is asked.

        :raises StorageError: if that cannot be written.
        """
        identity = self.identity()
        if self._inputs is not None and identity is not None and self._signature is not None:
            if self._since is not None:
                self._inputs.begin_at(self._since.text, self._since.at)
            self._inputs.begin(identity, self._ids, self._signature, self._made, self._dialects(), self._said)

    def _note_end(self, at: int, ended: Ended) -> None:
        if self._rows_of(at) not in (None, ended.known.rows):
            raise InputError(f"{self._source.files[at][0]} {_CHANGED}")
        self._source.known[at] = ended.known
        self._counted[at] = ended.known.rows
        if self._inputs is not None and self._remembers and self._signature is not None:
            written = self._dialects(at)
            self._inputs.ended(self._ids[at], self._signature[at], ended, self._made, written, self._said)

    def blocks(self, passed: Passed | None = None) -> Iterator[list[Request]]:
        """All requests, or those of the rows not ``passed``, some 400 a block. Blocks the thread it runs in.

        :raises InputError: if a file is damaged beyond single rows; with ``passed`` also if it is not the one any more
            that this plan was made of.
        """
        rows, seen = (passed.rows, passed.seen) if passed is not None else (b"", KeySet())
        answered = self.answered if self._itemizer.may_leave_out else None
        planner = Planner(self.job, seen, self._default_model, partial=passed is not None, answered=answered)
        limit = self.job.input.limit

        def on_change(path: InputFile) -> None:
            if passed is not None:
                raise InputError(f"{path} {_CHANGED}")
            self._signature = None

        size = max(1, _BLOCK_REQUESTS // self.per_item)
        for block in self._source.blocks(size, rows, self._signature, on_change, self._note_end):
            spans = self._spans[block.number] if self._spans and self._signature is not None else ()
            folder = beside(self._source.files[block.number][0]) if self._source.files else None
            items = self._itemizer.items(block, former=answered is not None, spans=spans, beside=folder)
            self._remember_hashes(_HASHES_AT_ONCE)
            self._tell_of_reading(block.at[-1] + 1 if len(block.at) else 0)
            within = items if limit is None else [item for item in items if item.row < limit]
            if within:
                requests = planner.requests(within)
                self._shared_id = self._shared_id or planner.shared_id
                self.has_former = self.has_former or planner.has_former
                self.is_in_doubt = self.is_in_doubt or planner.is_in_doubt
                yield requests
            if len(within) < len(items):
                break
        self._remember_hashes(1)

    def _remember_hashes(self, at_least: int) -> None:
        """Have the folder remember what was found in files that rows name, if these are so many by now."""
        read = self._itemizer.finder.read
        if self._inputs is not None and self._remembers and len(read) >= at_least:
            self._inputs.hashed(read)
            read.clear()

    def _tell_of_reading(self, rows: int) -> None:
        now, read = time.monotonic(), self._itemizer.finder.bytes_read
        if self.tell is not None and read and now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            self.tell(
                f"reading the files that rows name, to know what is asked: up to row {rows:,}, {read / 1e9:,.1f} GB so far"
            )

    def count(self) -> int | None:
        """How many requests there are, as far as that can be told without planning them: before ``dedupe``.

        May read the whole input once to count its lines. ``None`` if only planning can tell.
        """
        rows = self._source.count(self._signature)
        if rows is None:
            return None
        return min(rows, self.job.input.limit or rows) * self.per_item

    def carry_schema(self) -> Any | None:
        """The Arrow types of the carried columns, if the input has types."""
        schema = self._source.arrow_schema()
        if schema is None or not self.job.input.carry:
            return None
        import pyarrow as pa

        return pa.schema([schema.field(name) for name in self._itemizer.carried_of(schema.names)])


def _digest(made_of: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(made_of, enc_hook=str), digest_size=16).hexdigest()
