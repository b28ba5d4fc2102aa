"""batchflex from Python: run a job, or answer the rows of a frame."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.to_thread

from .config import Job, build, changed, environment_of, for_another_server, places_of, read, specs_of
from .core import InputError, JobError, JobWarning, RunStopped
from .display import Caller, Onlooker, bar_for
from .engine import JobRun, Nobody, Observer, RowStream, Run, Underway, awaited, on_a_loop, rows_of, wait_for
from .notify import Notifier
from .plan import FrameInput, asked_columns, messages_of, require_input
from .protocol import CHAT
from .storage import Attempt, Folder

if TYPE_CHECKING:
    import polars as pl
    from pydantic import BaseModel

    from .engine import Retry
    from .plan import Part, RowFunction
    from .results import ResultRow
    from .scoring import Scores

F = TypeVar("F")
JobLike = Job | Mapping[str, Any] | str | Path
OnRow = Callable[["ResultRow"], object]

_ANSWER_PLACES = ("params.response_format", "override.response_format", "answer.choices", "answer.json_schema")
_COMPLETE = "complete"  # the name of the jobs of :func:`complete`


def run(
    job: JobLike,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    frame: Any = None,
    progress: bool | None = None,
    on_row: OnRow | None = None,
    observer: Observer | None = None,
) -> Run:
    """Run a job to its end, or until something stops it, and return what came of it.

    ``job`` is a :class:`Job`, the path of a job file or of requests, or a mapping with the tables of a job file. ``settings``
    replace values of it, as ``--set`` does: dotted places (``{"limits.rpm": 60}``) and request parameters, which override those
    of rows (``{"temperature": 0}``). ``out`` is the output folder. ``frame`` is what to take the rows from in place of
    ``input.path``: a data frame of any kind that :func:`complete` takes. Asks only for what has no answer in the output folder
    yet. Works in a notebook too, where an event loop is running already.

    ``progress`` shows a bar: ``None`` where somebody looks (in a notebook, on a terminal) and no ``observer`` is given, true
    always, false never. ``on_row`` is called, in the thread that calls this, with each :class:`ResultRow` as it comes, once it is
    kept; not with those that earlier runs have answered. While it is slower than the endpoint, with 1,000 rows waiting, nothing
    more is sent. An error in it stops the run, and is raised when that has ended.

    Ctrl-C, and the interrupt of a notebook's kernel, stop the run: what is in flight may finish within ``limits.grace_s``, and
    then :class:`KeyboardInterrupt` is raised; the second ends it at once. What was answered is kept: run it again to go on.

    What is probably a slip in the job or its rows is a :class:`JobWarning`.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    """
    rows = _rows(frame, "run()")
    made = _job(job, settings, out, has_frame=rows is not None)
    with (
        _watched(made, Caller(), progress, observer) as onlooker,
        Attempt(Folder(made.out), made.job.name) as attempt,
        Notifier(made) as notifier,
    ):
        watching = notifier.watching(onlooker)
        ended = execute(made, frame=rows, observer=watching, attempt=attempt, on_row=on_row, attend=onlooker.attend)
    ended.untold = notifier.ended(ended)
    return ended


async def arun(
    job: JobLike,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    frame: Any = None,
    progress: bool | None = None,
    on_row: Callable[[ResultRow], Awaitable[object] | object] | None = None,
    observer: Observer | None = None,
) -> Run:
    """:func:`run`, for use under a running asyncio event loop, where ``on_row`` is called too; it may be a coroutine function.
    Cancelling it loses nothing that was answered; an interrupt of a notebook's kernel stops it as it stops :func:`run`."""
    caller, rows_in = Caller(), await anyio.to_thread.run_sync(_rows, frame, "arun()")
    made = _job(job, settings, out, has_frame=rows_in is not None)

    async def work(underway: Underway) -> Run:
        return await _arun(made, rows_in, caller, progress, observer, underway)

    if on_row is None:
        return await awaited(work)
    ended: list[Run] = []
    async with contextlib.aclosing(rows_of(work, ended.append)) as rows:
        async for row in rows:
            if inspect.isawaitable(taken := on_row(row)):
                await taken
    return ended[0]


def stream(
    job: JobLike,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    frame: Any = None,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> RowStream:
    """The rows of a job as they come, each once it is kept, under a running asyncio event loop::

        async for row in batchflex.stream("job.toml"):
            print(row.id, row.content)

    Asks only for what has no answer yet, and yields only that: what earlier runs have answered is in the results. While rows are
    taken more slowly than they come, with 1,000 of them waiting, nothing more is sent. The arguments are as for :func:`run`.

    :raises JobError: if the job is wrong; what else :func:`run` raises comes with the first row.
    """
    rows, caller = _rows(frame, "stream()"), Caller()
    made = _job(job, settings, out, has_frame=rows is not None)
    return RowStream(lambda underway: _arun(made, rows, caller, progress, observer, underway))


async def _arun(
    job: Job,
    rows: pl.DataFrame | None,
    caller: Caller,
    progress: bool | None,
    observer: Observer | None,
    underway: Underway | None = None,
) -> Run:
    with (
        _watched(job, caller, progress, observer, at_once=True) as onlooker,
        Attempt(Folder(job.out), job.job.name) as attempt,
    ):
        async with Notifier(job) as notifier:
            watching = notifier.watching(onlooker)
            ended = await _whole(job, frame=rows, observer=watching, attempt=attempt, underway=underway)
        ended.untold = await anyio.to_thread.run_sync(notifier.ended, ended)
    return ended


def retry(
    out: str | Path,
    *,
    where: str,
    settings: Mapping[str, Any] | None = None,
    frame: Any = None,
    progress: bool | None = None,
    observer: Observer | None = None,
) -> Run:
    """Ask again the rows of a folder's results for which an SQL condition is true, and return what came of it.

    ``settings`` are request parameters (``{"max_tokens": 4096}``), for these requests alone, and dotted places of a job
    (``{"limits.rpm": 60}``), for this run. ``frame`` is what the rows came from, if that was no file. An answer is superseded by
    a new one only; where none comes, it stays. ``progress``, interrupts and warnings are as for :func:`run`.

    :raises JobError: if the condition or a setting is wrong.
    :raises InputError, EndpointError, FolderError: before anything was sent.
    """
    from .engine import retry_of

    places, rows = places_of(settings), _rows(frame, "retry()")
    with Attempt(Folder(Path(out))) as attempt:
        retried = retry_of(Path(out), where, places)
        with (
            _watched(retried.job, Caller(), progress, observer) as onlooker,
            Notifier(retried.job) as notifier,
        ):
            watching = notifier.watching(onlooker)
            ended = execute(retried, frame=rows, observer=watching, attempt=attempt, attend=onlooker.attend)
    ended.untold = notifier.ended(ended)
    return ended


def scores_so_far(out: str | Path, scores: Scores | None = None) -> dict[str, Any]:
    """The scores of what is answered in an output folder by now, whether a run goes on there or not.

    ``scores`` are as for :func:`score`, without them those of the folder's job. Returns the fields ``level``, ``rows``,
    ``scores``, ``points`` and ``judges`` of ``scores.json`` (CONTRACT.md), and ``planned`` rows, ``None`` if that is not known
    yet. Nothing is asked, written or held: a judge's score has the grades that there are.

    :raises JobError: if there are no scores, or one cannot be made of these results.
    :raises FolderError: if there is no run in the folder, or nothing is answered yet.
    """
    from .engine import evaluate

    return evaluate.so_far(Path(out), None if scores is None else specs_of(scores))


async def _whole(
    job: Job,
    *,
    retried: Retry | None = None,
    frame: pl.DataFrame | FrameInput | None = None,
    observer: Observer | None = None,
    handle_signals: bool = False,
    attempt: Attempt | None = None,
    underway: Underway | None = None,
    job_run: Callable[..., JobRun] = JobRun,
) -> Run:
    """The run, and then its scores. Before all else it is seen to it that the input is there."""
    if frame is None:
        await anyio.to_thread.run_sync(require_input, job if retried is None else retried.planned)
    then = None
    if job.score:
        from .engine import evaluate

        evaluate.require(job, is_retry=retried is not None)
        then = partial(evaluate.after, job=job, observer=observer, handle_signals=handle_signals)
    run = job_run(job, retried=retried, frame=frame, observer=observer, attempt=attempt, then=then,
                  on_row=None if underway is None else underway.on_row)  # fmt: skip
    if underway is not None:
        underway.begun(run)
    if job.dated is None:
        return await run.run(handle_signals=handle_signals)
    from .plan import retention

    note = (observer or Nobody()).note
    if left := await anyio.to_thread.run_sync(retention.left_behind, job):
        note(left)
    ended = await run.run(handle_signals=handle_signals)
    if ended.stopped_by is None:
        await anyio.to_thread.run_sync(retention.remove_old, job, note)
    return ended


@contextlib.contextmanager
def _watched(
    job: Job, caller: Caller, progress: bool | None, observer: Observer | None, *, at_once: bool = False
) -> Iterator[Onlooker]:
    """Whoever watches a run that is called from Python, once warned of what is probably a slip in the job."""
    bar = bar_for(False if progress is None and observer is not None else progress)
    onlooker = Onlooker(caller, bar, observer, at_once=at_once)
    for warning in job.warnings():
        onlooker.warn(warning)
    try:
        yield onlooker
    finally:
        onlooker.close()
    onlooker.require_no_warning()


def complete(
    frame: F,
    user: Part | None = None,
    *,
    system: Part | None = None,
    messages: list[dict[str, Any]] | RowFunction | None = None,
    schema: type[BaseModel] | Mapping[str, Any] | None = None,
    choices: Iterable[str] | type[Enum] | Mapping[str, Iterable[str] | type[Enum]] | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    out: str | Path | None = None,
    concurrency: int | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    on_row: OnRow | None = None,
    **params: Any,
) -> F:
    """Ask for each row of a frame, and return the frame with the answers beside it, in the same order.

    ``frame`` is a data frame of polars, pandas, pyarrow or another library, and what is returned is of the same kind: of pandas
    with its index, of polars lazy where it was lazy. docs/python.md says what kinds there are, and how names and missing
    values are read.

    ``user``, ``system`` and ``messages`` are templates over the frame's columns (Jinja2, strict), or functions of a row (a dict
    by column): of ``user`` and ``system`` to a text, of ``messages`` to a list of messages. Without any, the frame has a column
    ``messages``, and columns named like documented request parameters are sent as such. A column ``id`` tells rows
    apart when the frame changes; else their content does. ``endpoint`` is ``"local"`` (the default), ``"flexai"`` or the base
    URL of any server. Further keyword arguments are request parameters (``temperature=0``, ``max_tokens=64``); ``settings``
    are as for :func:`run`.

    ``schema``, a pydantic model or a JSON Schema, makes a typed column of each field of an answer. ``choices`` are the texts
    that an answer is one of (also an Enum class, with their values, or a ``Literal``), in a column ``label``; a mapping has them
    by the name of the column. Both are null where a row has no answer that fits.

    With ``out`` the answers are kept in that folder, and calling again asks only for what is missing; without, a call that
    is interrupted has to begin anew. ``progress``, ``on_row``, interrupts and warnings are as for :func:`run`; of a
    :class:`ResultRow`, ``row`` is the number of its row in the frame.

    Columns added: the fields, then ``status``, ``content``, ``reasoning``, ``tool_calls``, ``parsed``, ``finish_reason``,
    ``prompt_tokens``, ``completion_tokens``, ``cost``, ``error_message``; one whose name the frame has already gets ``answer_``
    before it, then ``_2``, ``_3`` after it too (of a field that is a warning). A row that could not be answered has the status
    ``failed`` and says why in ``error_message``.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    :raises RunStopped: if the run stopped before every row had its answer.
    """
    from .core import frame_of
    from .results import answer_columns

    _require_no_slip(params)
    given = frame_of(frame, "complete()")
    prompt = {
        name: value for name, value in (("system", system), ("user", user), ("messages", messages)) if value is not None
    }
    asked_for = {"schema": schema, "choices": choices, "response_format": params.get("response_format")}
    if len(twice := [f"{name}=" for name, value in asked_for.items() if value is not None]) > 1:
        raise JobError(f"complete() takes {' or '.join(twice)}: each says what an answer is")
    wanted = answer_columns.wanted(schema, choices)
    if wanted.response_format is not None:
        params["response_format"] = wanted.response_format
        if others := [place for place, _ in places_of(settings) if place.startswith(_ANSWER_PLACES)]:
            raise JobError(f"complete(): {others[0]} says what an answer is, as schema= and choices= do; leave one out")
    data: dict[str, Any] = {"job": {"name": _COMPLETE}, "params": dict(params), "input": {}, "endpoint": {}}
    has_functions = any(map(callable, prompt.values()))
    if prompt and not has_functions:
        data["prompt"] = prompt
    elif not prompt and "messages" not in given.rows.columns:
        raise JobError("complete() needs user=…, messages=… or a column 'messages'")
    if model is not None:
        data["params"]["model"] = model
    if endpoint is not None:
        data["endpoint"] = {"base_url" if "://" in endpoint else "name": endpoint}
    if concurrency is not None:
        data["limits"] = {"concurrency": concurrency}
    with contextlib.ExitStack() as stack:
        folder = out if out is not None else stack.enter_context(tempfile.TemporaryDirectory(prefix="batchflex-"))
        data["job"]["out"] = str(folder)
        job = _job(data, settings)
        if job.sweep.variables or job.sweep.samples > 1 or job.input.limit or job.input.dedupe:
            raise JobError(
                "complete() gives one answer a row; run a job for a sweep, samples, input.limit or input.dedupe"
            )
        if has_functions:
            made = messages_of(given.rows, job.input.on_bad_row, system=system, user=user, messages=messages)
            asked = FrameInput(given.rows, made)
        else:
            asked = FrameInput(asked_columns(given.rows, job))
        kept = "nothing is kept without out=" if out is None else "what was answered is kept: call again to go on"
        with (
            _watched(job, Caller(), progress, None) as onlooker,
            Attempt(Folder(job.out), job.job.name) as attempt,
        ):
            ended = execute(
                job, frame=asked, observer=onlooker, attempt=attempt, on_row=on_row, attend=onlooker.attend, kept=kept
            )
        if ended.stopped_by is not None:
            raise RunStopped(f"stopped by {ended.stopped_by}: {ended.summary['message']} ({kept})", ended.stopped_by)
        columns, renamed = answer_columns.beside(ended.results(), wanted.fields, given.rows.columns)
        for name, other in renamed.items():
            who = "every row" if name in answer_columns.FIXED else "the frame"
            warnings.warn(
                f"the field {name!r} is in the column {other!r}, as {who} has one of that name", JobWarning, 2
            )
        return cast(F, given.beside(columns))


def _require_no_slip(params: Mapping[str, Any]) -> None:
    """What ``complete`` is called with beside its own arguments is sent to the server, whose parameters may be any.

    :raises JobError: if one rather seems to be an argument, misspelt.
    """
    own = ["user", *(n for n, each in inspect.signature(complete).parameters.items() if each.kind is each.KEYWORD_ONLY)]
    for name in params:
        meant = CHAT.parameters.likely_misspelt(name)
        near = difflib.get_close_matches(name, [*own, *([meant] if meant else [])], n=1, cutoff=0.8)
        if near and near[0] in own and not CHAT.parameters.known(name):
            raise JobError(
                f"complete() has no argument {name!r}; did you mean {near[0]!r}? If {name!r} is a request parameter, "
                f"send it with settings={{'params.{name}': …}}"
            )


def _rows(frame: Any, whose: str) -> pl.DataFrame | None:
    """The rows of a data frame of any kind.

    :raises JobError: if it is none.
    """
    if frame is None:
        return None
    from .core import frame_of

    return frame_of(frame, whose).rows


def _job(
    job: JobLike, settings: Mapping[str, Any] | None = None, out: str | Path | None = None, *, has_frame: bool = False
) -> Job:
    """The job with its settings. One whose rows come from a frame names no file of them, so that its folder does not either."""
    places = [*places_of(settings), *([] if out is None else [("job.out", str(out))])]
    places = for_another_server([*places, *([("input.path", None)] if has_frame else [])])
    if isinstance(job, Job):
        return changed(job, places) if places else job
    if isinstance(job, Mapping):
        return build(job, places, environment=environment_of(job, places, None))
    if not isinstance(job, str | os.PathLike):
        raise JobError(
            f"a job is the path of a job file or of requests, a mapping with its tables, or a Job; found a {type(job).__name__}. "
            "A data frame goes into frame=, and complete() asks for each of its rows without a job"
        )
    return read(job, places)


def execute(
    job: Job | Retry,
    *,
    frame: pl.DataFrame | FrameInput | None = None,
    observer: Observer | None = None,
    handle_signals: bool = False,
    attempt: Attempt | None = None,
    on_row: OnRow | None = None,
    attend: Callable[[], object] = lambda: None,
    kept: str = "what was answered is kept: run it again to go on",
    job_run: Callable[..., JobRun] = JobRun,
) -> Run:
    """A run or a retry, and its scores, on an event loop of its own: uvloop's where it is installed.

    With ``handle_signals`` in this thread, as the command line wants it. Else in another: this one then calls ``attend`` now and
    then, and ``on_row`` with each row; an interrupt says what is ``kept``. ``job_run`` makes the :class:`JobRun`.
    """
    whole = partial(_whole, observer=observer, handle_signals=handle_signals, attempt=attempt, job_run=job_run)

    def on_a_loop_of_its_own(work: Callable[..., Awaitable[Run]]) -> Run:
        if handle_signals:
            return on_a_loop(work)
        underway = Underway(wants_rows=on_row is not None)
        try:
            return wait_for(partial(work, underway=underway), underway, attend, on_row)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {kept}") from None

    if isinstance(job, Job):
        return on_a_loop_of_its_own(partial(whole, job, frame=frame))
    from .engine import missing_input

    if frame is not None and not isinstance(frame, FrameInput) and job.planned.job.name == _COMPLETE:
        frame = asked_columns(frame, job.planned)
    try:
        return on_a_loop_of_its_own(partial(whole, job.job, retried=job, frame=frame))
    except InputError as error:
        raise missing_input(job, error) from None
