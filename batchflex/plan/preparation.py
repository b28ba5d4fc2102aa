"""Before anything is sent: what earlier runs left is made whole, and the plan is compared with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..config import Job, changes, endpoint_of
from ..core import InputError, JobChanged, Request, money
from ..storage import Folder, Layout, part_numbers, writer
from .plan import Plan
from .planner import Passed, PlanDiff
from .unusable_rows import UnusableRows

if TYPE_CHECKING:
    from ..protocol import Policy
    from ..storage import RetryRecord
    from .answer_index import AnswerIndex
    from .carried_pass import CarriedPass
    from .completion_marker import CompletionMarker
    from .snapshot import Snapshot

_HELD_BYTES = 32 << 20  # of the requests looked at before a run, which then need not be planned twice
_OBJECT_BYTES = 600  # of a request, beside its body and what it carries; also of a file that it puts in
_SHOWN_CHANGES = 12
_NO_LAYOUT = Layout()


class Prepared(NamedTuple):
    """``segment`` is the first journal segment of this run. ``diff`` is ``None`` in a folder without answers.

    ``before`` counts the rows of each status that are done. ``blocks`` are those of the plan in which something may be left
    to ask, ``passed`` the number of requests in the others. ``done`` is ``None`` where no answers have to be looked up:
    there are none, or the table of results is there and ``complete``, or ``snapshot`` tells of them. ``layout`` is where the
    rows of each input file are in the plan. ``kept`` are answers to requests that the job would send
    differently now, which count as done all the same, ``recarried`` answers whose rows carry something else now than they did.
    ``empty`` tells that the input has no rows. ``sort_out`` gives those of
    a block that are to be asked. ``notes`` are sentences for whoever watches. ``again`` tells that it is a retry.
    """

    segment: int
    before: dict[str, int]
    diff: PlanDiff | None
    carry_schema: Any
    done: AnswerIndex | None
    blocks: Iterator[list[Request]]
    passed: int = 0
    layout: Layout = _NO_LAYOUT
    snapshot: Snapshot | None = None
    complete: bool = False
    kept: int = 0
    recarried: int = 0
    empty: bool = False
    sort_out: Callable[[Sequence[Request]], list[Request]] = list
    notes: tuple[str, ...] = ()
    again: RetryRecord | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing is left to ask."""
        return self.empty or self.complete or (self.diff is not None and self.diff.left == 0)


def prepare(job: Job, plan: Plan, folder: Folder) -> Prepared:
    """Seal the journal of earlier runs, find what is done, and refuse what must not be begun. Blocks.

    A folder with answers costs a pass over the rows whose answers' places are not known from what the folder remembers of its
    input. In one without, only the beginning of the plan is looked at.

    :raises JobChanged: if there are answers to other requests than this job makes, and ``on_change`` is ``stop``.
    :raises InputError: if there is a row no request can be made of, and ``on_bad_row`` is ``stop``.
    """
    carry_schema = plan.carry_schema()
    changed = plan.know(folder)
    segment = writer.recover(folder, carry_schema)
    job_before = folder.read_job()
    if part_numbers.part_numbers(folder.parts):
        prepared = _among_answers(job, plan, folder, changed)
    else:
        blocks = preflight(job, plan.blocks)
        prepared = Prepared(0, {}, None, None, None, blocks or iter(()), empty=blocks is None)
    prepared = prepared._replace(segment=segment, carry_schema=carry_schema)
    before = endpoint_of(job_before or job.resolved())
    moved_from = before if sum(prepared.before.values()) and before != endpoint_of(job.resolved()) else None
    folder.write_job(job.resolved())
    plan.begin()
    notes = [] if plan.files_note is None else [plan.files_note, *plan.growth_note]
    if prepared.diff is not None:
        notes += [f"{words}: its rows are looked up one by one" for words in changed]
    notes += [f"{name} ends within a line, which is left for the next run" for name in plan.left]
    if prepared.empty or (prepared.diff is not None and prepared.diff.planned == 0):
        notes.append(f"{plan.no_rows_note}: nothing is sent")
    return prepared._replace(notes=(*notes, *_notes(prepared, moved_from), *plan.notes()))


def _among_answers(job: Job, plan: Plan, folder: Folder, changed: list[str]) -> Prepared:
    """What is left where there are answers."""
    from ..storage import ResultsFiles
    from .completion_marker import settled

    known = settled(folder, plan.identity(), job.input.limit)
    is_of_kind = ResultsFiles(folder).is_of_kind(as_folder=job.job.results == "folder")
    is_in_step = is_compared(job, folder)
    if known is not None and is_in_step and is_of_kind and known.is_complete and not job.reasks.reopens(known.rows):
        diff = PlanDiff(known.planned, known.planned, 0, 0, 0, None, 0)
        return Prepared(0, known.rows, diff, None, None, iter(()), complete=True)
    stands = _as_it_stands(job, plan, folder, known) if is_in_step else None
    return stands or _by_index(job, plan, folder, known, changed)


def _notes(prepared: Prepared, moved_from: str | None) -> Iterator[str]:
    diff = prepared.diff
    if diff is None:
        return
    if moved_from:
        yield f"earlier answers came from {moved_from}; the same requests still count as answered"
    if diff.left == 0 and diff.planned != 0:
        yield f"all {diff.planned:,} requests have their answers already; nothing is sent"
    elif diff.done or diff.failed_again:
        again = f", {diff.failed_again:,} that failed before are asked again" if diff.failed_again else ""
        of = f" of {diff.planned:,}" if diff.planned is not None else ""
        left = f", {diff.left:,} to ask" if diff.left is not None else ""
        yield f"resuming: {diff.done:,}{of} are done{left}{again}"
    if diff.orphans > diff.changed:
        yield (
            f"earlier answers that belong to no row of this job now: {diff.orphans - diff.changed:,}; "
            "they stay in parts/, but are not in the results"
        )
    if prepared.recarried:
        yield recarried_note(prepared.recarried)
    if prepared.kept:
        yield f"answers that an earlier, different job got and that are kept: {prepared.kept:,} (on_change is 'keep')"


def recarried_note(answers: int) -> str:
    """What is said of answers whose rows carry something else now."""
    rows = "one row" if answers == 1 else f"{answers:,} rows"
    return f"carried columns are not what they were in {rows}: the results have them as the input has them now"


def is_compared(job: Job, folder: Folder) -> bool:
    """Whether the carried columns of answers that were found elsewhere than where they were given are known to be those of the
    input. Not in folders of versions that did not look."""
    from ..storage import carried_updates

    return not job.input.carry or carried_updates.is_in_step(folder)


def _as_it_stands(job: Job, plan: Plan, folder: Folder, known: CompletionMarker | None) -> Prepared | None:
    """What is left, where each row of the plan has all of its answers or none; ``None`` where some are otherwise."""
    from . import snapshot

    found = snapshot.of(folder, plan, job.reasks)
    if found is None:
        return None
    stands, rows = found.snapshot, found.finished
    blocks = preflight(job, lambda: plan.blocks(stands.passed(rows, plan.per_item)))
    passed = rows.count(1) * plan.per_item
    planned = passed if blocks is None else None if known is None else known.planned
    diff = PlanDiff(planned, passed, stands.failed, 0, 0, None, 0)
    return Prepared(
        0, stands.statuses, diff, None, None, blocks or iter(()), passed, layout=found.layout, snapshot=stands
    )


def index_of(plan: Plan, folder: Folder, retry_failed: int, reasks: Policy) -> tuple[AnswerIndex, Layout]:
    """The answers of a folder, and where the files that they are to are in the plan."""
    from ..storage import part_index
    from .answer_index import AnswerIndex

    found = part_index.read_found(folder.positions)
    layout = plan.layout(part_index.files(folder.parts, found))
    done = AnswerIndex(
        folder.parts, retry_failed, plan.labels, positions=part_index.Positions(layout, found), reasks=reasks
    )
    plan.answered = done.holds
    return done, layout


def _by_index(job: Job, plan: Plan, folder: Folder, known: CompletionMarker | None, changed: list[str]) -> Prepared:
    """What is left, by the keys of all answers. Rows that have theirs, as parts tell, are not gone through."""
    done, layout = index_of(plan, folder, job.job.retry_failed, job.reasks)
    rows = done.finished(plan.per_item) if is_compared(job, folder) else b""
    if not rows or not done.is_located(rows, plan.per_item, is_as_last=plan.is_as_last):
        return _surveyed(job, plan, folder, done, layout, rows, changed)
    diff = done.diff()._replace(planned=known.planned if known is not None else None)
    blocks: Iterator[list[Request]] | None = None
    passed = 0
    if diff.left != 0:
        # The planner adds to what has been seen: each pass gets its own.
        blocks = preflight(job, lambda: plan.blocks(done.passed(rows, plan.per_item)), done.sort_out)
        passed = rows.count(1) * plan.per_item
        if plan.is_in_doubt:
            return _surveyed(job, plan, folder, done, layout, b"", changed)
        if blocks is None:
            diff = diff._replace(planned=passed)
    return Prepared(
        0, done.statuses(), diff, None, done, blocks or iter(()), passed, layout=layout, sort_out=done.sort_out
    )


def keep_positions(folder: Folder, done: AnswerIndex, layout: Layout) -> None:
    """Write down where a pass has found answers elsewhere than was known, so that the next run need not look for them.

    :raises StorageError: if it cannot be written.
    """
    if done.has_moved and layout:
        from ..storage import part_index

        folder.snapshot.unlink(missing_ok=True)  # it goes by what is written down now
        part_index.write_found(folder.positions, done.moved(layout))


def _surveyed(
    job: Job, plan: Plan, folder: Folder, done: AnswerIndex, layout: Layout, rows: bytes, changed: list[str]
) -> Prepared:
    """Go through the plan, but for those of its ``rows`` that have their answers, compare it with what is done, and refuse what
    must not be begun."""
    from .carried_pass import CarriedPass

    before = done.passed(rows, plan.per_item) if rows.count(1) else None
    with CarriedPass(folder, plan, done) as carried:
        diff, held = survey(job, plan, done, before, carried)
        if before is None or not plan.is_in_doubt:
            return _compared(job, plan, folder, done, layout, changed, diff, held, carried)
    return _surveyed(job, plan, folder, done, layout, b"", changed)


def _compared(
    job: Job,
    plan: Plan,
    folder: Folder,
    done: AnswerIndex,
    layout: Layout,
    changed: list[str],
    diff: PlanDiff,
    held: Held,
    carried: CarriedPass,
) -> Prepared:
    """What a pass has found: refuse what must not be begun, and write down where answers are and what their rows carry."""
    kept = 0
    if job.job.on_change == "stop" and plan.narrows and diff.orphans:
        raise InputError(
            f"{folder.path} has answers to rows of files that input.since leaves out now: {diff.orphans:,} "
            f"({plan.files_note}); they would drop out of its results. Give the job an output folder for each date "
            '(job.out = "runs/{name}/{date}"), or leave since away: in one folder only what is new is asked in any case'
        )
    if job.job.on_change == "stop" and not diff.planned:
        raise InputError(
            f"the input has no rows now, and {folder.path} has {len(done):,} answers, which would drop out of its results; "
            "if that is meant, say --on-change rerun"
        )
    if job.job.on_change == "stop" and (concerned := _concerned(job, folder, diff)):
        raise JobChanged(_what_changed(job, folder, diff, concerned, changed))
    keep_positions(folder, done, plan.layout())
    now = done.finished(plan.per_item) if held.blocks is None else b""
    if job.job.on_change == "keep" and diff.changed:
        done.keep_changed()
        kept = diff.changed
        diff = diff.keeping()
        if not (plan.is_as_last and is_compared(job, folder)):
            carried.note_kept(plan)
    prepared = Prepared(
        0, done.statuses(), diff, None, done, iter(()), layout=layout, kept=kept, recarried=carried.keep(),
        sort_out=done.sort_out,
    )  # fmt: skip
    if not diff.left:
        return prepared
    if held.blocks is not None:
        return prepared._replace(blocks=iter(held.blocks), passed=(diff.planned or 0) - held.requests)
    # The input might be changed before it is read again; or rows of which some answers are there need all rows to be found.
    if plan.identity() is None or (plan.has_former and plan.per_item > 1):
        return prepared._replace(blocks=plan.blocks())
    passed = done.passed(now, plan.per_item)
    return prepared._replace(blocks=plan.blocks(passed), passed=passed.requests)


class _Concerned(NamedTuple):
    """How many answers a changed job concerns, and what they took."""

    answers: int
    tokens: int
    cost: float | None


def _concerned(job: Job, folder: Folder, diff: PlanDiff) -> _Concerned | None:
    """The answers that a changed job concerns; ``None`` if it has not changed.

    A variable that came into the sweep or went from it, or another column as id, moves every answer: then none is found at the
    place of a new request, and yet all are asked again. Rows that share an id come and go without the job's having changed.
    """
    old = folder.read_job()
    has_changed = bool(old and changes(old, job.resolved()))
    if not has_changed:
        return _Concerned(diff.changed, diff.changed_tokens, diff.changed_cost) if diff.changed else None
    if diff.changed or diff.shared:
        costs = [cost for cost in (diff.changed_cost, diff.shared_cost) if cost is not None]
        tokens = diff.changed_tokens + diff.shared_tokens
        return _Concerned(diff.changed + diff.shared, tokens, sum(costs) if costs else None)
    orphans = min(diff.orphans, diff.left or 0)
    return _Concerned(orphans, 0, None) if orphans else None


def survey(
    job: Job, plan: Plan, done: AnswerIndex, passed: Passed | None = None, carried: CarriedPass | None = None
) -> tuple[PlanDiff, Held]:
    """Compare a plan, or what of it is not ``passed``, with what is done. Returns also what is left to be asked.
    ``carried`` notes what the rows with answers carry.

    :raises InputError: as :func:`prepare`, for the new rows among the first 10,000.
    """
    faulty, held = UnusableRows(job), Held()
    done.begin_survey(passed)
    for block in plan.blocks(passed):
        left = done.sort_out(block, survey=True)
        if carried is not None:
            carried.note(block, done.answers(block))
        faulty.note(left, len(block))
        held.add(left)
    faulty.check()
    return done.diff(), held


class Held:
    """Requests that are kept as long as they are few, so that they need not be planned once more. ``blocks`` is ``None`` once
    they were too many."""

    def __init__(self) -> None:
        self.blocks: list[list[Request]] | None = []
        self.requests = 0
        self._bytes = 0

    def add(self, requests: list[Request]) -> None:
        if self.blocks is None or not requests:
            return
        self._bytes += sum(
            len(request.body) + len(request.carry or "") + _OBJECT_BYTES * (1 + len(request.files))
            for request in requests
        )
        self.requests += len(requests)
        self.blocks.append(requests)
        if self._bytes > _HELD_BYTES:
            self.blocks = None


def preflight(
    job: Job,
    begin: Callable[[], Iterator[list[Request]]],
    sort_out: Callable[[list[Request]], list[Request]] = list,
) -> Iterator[list[Request]] | None:
    """Look at the first 10,000 requests, so that a wrong template or column costs nothing, and return all. ``None`` if
    there is none. ``begin`` gives the blocks from their beginning, ``sort_out`` what is still to be asked of one.

    :raises InputError: as :func:`prepare`.
    """
    faulty, held, blocks = UnusableRows(job), Held(), begin()
    for block in blocks:
        held.add(block)
        if not faulty.note(sort_out(block), len(block)) and held.requests:
            break
    faulty.check()
    if not held.requests:
        return None
    return begin() if held.blocks is None else _emptying(held.blocks, blocks)


def _emptying(held: list[list[Request]], rest: Iterator[list[Request]]) -> Iterator[list[Request]]:
    """All blocks; those held are let go one by one."""
    held.reverse()
    while held:
        yield held.pop()
    yield from rest


def _what_changed(job: Job, folder: Folder, diff: PlanDiff, concerned: _Concerned, changed: Sequence[str]) -> str:
    old = folder.read_job()
    differences = changes(old, job.resolved()) if old else []
    if not differences:
        differences = [
            *changed,
            "(not the job file: rows of the input under the same id, files that they name, or answers kept from an earlier job)",
        ]
    shown = "".join(f"\n  {line}" for line in differences[:_SHOWN_CHANGES])
    if len(differences) > _SHOWN_CHANGES:
        shown += f"\n  … and {len(differences) - _SHOWN_CHANGES} more"
    worth = ""
    if concerned.tokens:
        worth = f" They took {concerned.tokens:,} tokens{f' and {money(concerned.cost)}' if concerned.cost else ''}."
    return (
        f"the job has changed since the answers in {folder.path} were given:{shown}\n"
        f"{concerned.answers:,} of {diff.planned or 0:,} requests would now be sent differently.{worth} "
        "Nothing was sent. Choose:\n"
        "  --on-change rerun   ask these again; the old answers stay in parts/, but not in the results\n"
        "  --on-change keep    keep the old answers where item, sweep point and sample are the same; ask for the rest\n"
        "  --out DIR           begin in another folder\n"
        "In a job file or from Python these are job.on_change and job.out."
    )
