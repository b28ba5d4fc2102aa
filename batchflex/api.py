"""batchflex from Python: run a job, or answer the rows of a frame."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import tempfile
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio
import anyio.from_thread
import anyio.to_thread

from .config import Job, build, changed, environment_of, for_another_server, places_of, read
from .core import InputError, JobError, RunStopped
from .engine import JobRun, Nobody, Observer, Run
from .notify import Notifier
from .plan import FrameInput, messages_of, require_input
from .storage import Attempt, Folder

if TYPE_CHECKING:
    import polars as pl
    from pydantic import BaseModel

    from .engine import Retry
    from .plan import Part, RowFunction

T = TypeVar("T")
F = TypeVar("F")
JobLike = Job | Mapping[str, Any] | str | Path

_INTERRUPT_NOTICED_S = 0.1
_ANSWER_PLACES = ("params.response_format", "override.response_format", "answer.choices", "answer.json_schema")
_COMPLETE = "complete"  # the name of the jobs of :func:`complete`


def run(
    job: JobLike,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    frame: Any = None,
    observer: Observer | None = None,
) -> Run:
    """Run a job to its end, or until something stops it, and return what came of it.

    ``job`` is a :class:`Job`, the path of a job file or of requests, or a mapping with the tables of a job file. ``settings``
    replace values of it, as ``--set`` does: dotted places (``{"limits.rpm": 60}``) and request parameters, which override those
    of rows (``{"temperature": 0}``). ``out`` is the output folder. ``frame`` is what to take the rows from in place of
    ``input.path``: a data frame of any kind that :func:`complete` takes. Asks only for what has no answer in the output folder
    yet. Works in a notebook too, where an event loop is running already.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    """
    rows = _rows(frame, "run()")
    made = _job(job, settings, out, has_frame=rows is not None)
    _warn(made, observer)
    with Attempt(Folder(made.out), made.job.name) as attempt, Notifier(made) as notifier:
        ended = execute(made, frame=rows, observer=notifier.watching(observer), attempt=attempt)
    ended.untold = notifier.ended(ended)
    return ended


async def arun(
    job: JobLike,
    *,
    settings: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    frame: Any = None,
    observer: Observer | None = None,
) -> Run:
    """:func:`run`, for use under a running asyncio event loop. Cancelling it loses nothing that was answered."""
    rows = await anyio.to_thread.run_sync(_rows, frame, "arun()")
    made = _job(job, settings, out, has_frame=rows is not None)
    _warn(made, observer)
    with Attempt(Folder(made.out), made.job.name) as attempt:
        async with Notifier(made) as notifier:
            ended = await _whole(made, frame=rows, observer=notifier.watching(observer), attempt=attempt)
    ended.untold = await anyio.to_thread.run_sync(notifier.ended, ended)
    return ended


def retry(
    out: str | Path,
    *,
    where: str,
    settings: Mapping[str, Any] | None = None,
    frame: Any = None,
    observer: Observer | None = None,
) -> Run:
    """Ask again the rows of a folder's results for which an SQL condition is true, and return what came of it.

    ``settings`` are request parameters (``{"max_tokens": 4096}``), for these requests alone, and dotted places of a job
    (``{"limits.rpm": 60}``), for this run. ``frame`` is what the rows came from, if that was no file. An answer is superseded by
    a new one only; where none comes, it stays.

    :raises JobError: if the condition or a setting is wrong.
    :raises InputError, EndpointError, FolderError: before anything was sent.
    """
    from .engine import retry_of

    places, rows = places_of(settings), _rows(frame, "retry()")
    with Attempt(Folder(Path(out))) as attempt:
        retried = retry_of(Path(out), where, places)
        _warn(retried.job, observer)
        with Notifier(retried.job) as notifier:
            ended = execute(retried, frame=rows, observer=notifier.watching(observer), attempt=attempt)
    ended.untold = notifier.ended(ended)
    return ended


async def _whole(
    job: Job,
    *,
    retried: Retry | None = None,
    frame: pl.DataFrame | FrameInput | None = None,
    observer: Observer | None = None,
    handle_signals: bool = False,
    attempt: Attempt | None = None,
) -> Run:
    """The run, and then its scores. Before all else it is seen to it that the input is there."""
    if frame is None:
        await anyio.to_thread.run_sync(require_input, job if retried is None else retried.planned)
    then = None
    if job.score:
        from .engine import evaluate

        evaluate.require(job)
        then = partial(evaluate.after, job=job, observer=observer, handle_signals=handle_signals)
    run = JobRun(job, retried=retried, frame=frame, observer=observer, attempt=attempt, then=then)
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


def _warn(job: Job, observer: Observer | None) -> None:
    """Report what is probably a slip in a job."""
    if observer is not None:
        for warning in job.warnings():
            observer.note(f"warning: {warning}")


def complete(
    frame: F,
    user: Part | None = None,
    *,
    system: Part | None = None,
    messages: list[dict[str, Any]] | RowFunction | None = None,
    schema: type[BaseModel] | Mapping[str, Any] | None = None,
    choices: Iterable[str] | Mapping[str, Iterable[str]] | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    out: str | Path | None = None,
    concurrency: int | None = None,
    settings: Mapping[str, Any] | None = None,
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
    that an answer is one of, in a column ``label``; a mapping has them by the name of the column. Both are null where a row has
    no answer that fits.

    With ``out`` the answers are kept in that folder, and calling again asks only for what is missing; without, a call that
    is interrupted has to begin anew.

    Columns added: the fields, then ``status``, ``content``, ``reasoning``, ``tool_calls``, ``parsed``, ``finish_reason``,
    ``prompt_tokens``, ``completion_tokens``, ``cost``, ``error_message``; one whose name the frame has already gets ``answer_``
    before it (of a field that is a warning). A row that could not be answered has the status ``failed`` and says why in
    ``error_message``.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    :raises RunStopped: if the run stopped before every row had its answer.
    """
    from .core import frame_of
    from .results import answer_columns

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
            raise JobError(
                f"complete(): {others[0]} says what an answer is, as schema= and choices= do; leave one of them out"
            )
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
            asked = FrameInput(_asked(given.rows, job))
        with Attempt(Folder(job.out), job.job.name) as attempt:
            ended = execute(job, frame=asked, attempt=attempt)
        if ended.stopped_by is not None:
            kept = "nothing is kept without out=" if out is None else "what was answered is kept: call again to go on"
            raise RunStopped(f"stopped by {ended.stopped_by}: {ended.summary['message']} ({kept})", ended.stopped_by)
        columns, renamed = answer_columns.beside(ended.results(), wanted.fields, given.rows.columns)
        for name, other in renamed.items():
            who = "every row" if name in answer_columns.FIXED else "the frame"
            warnings.warn(f"the field {name!r} is in the column {other!r}, as {who} has one of that name", stacklevel=2)
        return cast(F, given.beside(columns))


def _asked(frame: pl.DataFrame, job: Job) -> pl.DataFrame:
    """The columns that a request is made of. Unlike a file of requests, a frame has others for reasons of its own."""
    if job.templates:
        return frame
    if job.route.field not in frame.columns:
        raise InputError(
            f"no template makes these prompts: the frame needs a column {job.route.field!r} with those of each row"
        )
    own = {job.route.field, "id", "custom_id", job.input.id, *job.input.params}
    return frame.select([name for name in frame.columns if name in own or job.route.parameters.documented(name)])


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
    return read(job, places)


def execute(
    job: Job | Retry,
    *,
    frame: pl.DataFrame | FrameInput | None = None,
    observer: Observer | None = None,
    handle_signals: bool = False,
    attempt: Attempt | None = None,
) -> Run:
    """A run or a retry, and its scores, on an event loop of its own: uvloop's where it is installed."""
    whole = partial(_whole, observer=observer, handle_signals=handle_signals, attempt=attempt)
    if isinstance(job, Job):
        return on_a_loop(partial(whole, job, frame=frame))
    from .engine import missing_input

    if frame is not None and not isinstance(frame, FrameInput) and job.planned.job.name == _COMPLETE:
        frame = _asked(frame, job.planned)
    try:
        return on_a_loop(partial(whole, job.job, retried=job, frame=frame))
    except InputError as error:
        raise missing_input(job, error) from None


def on_a_loop(work: Callable[[], Awaitable[T]]) -> T:
    """Do the work on an event loop of its own, also where one is running already. An interrupt cancels the work first."""
    options = {"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    if not _loop_is_running():
        return anyio.run(work, backend_options=options)
    with anyio.from_thread.start_blocking_portal(backend_options=options) as portal:
        ended = portal.start_task_soon(work)
        while not ended.done():  # polars handles SIGINT in a way that does not wake a thread that waits for ever
            concurrent.futures.wait([ended], _INTERRUPT_NOTICED_S)
        return ended.result()


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
