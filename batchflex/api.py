"""batchflex from Python: run a job, or answer the rows of a frame."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.from_thread
import anyio.to_thread

from .config import Job, build, environment_of, read
from .core import InputError, JobError, RunStopped
from .engine import JobRun, Nobody, Observer, Run
from .notify import Notifier
from .plan import require_input
from .storage import Attempt, Folder

if TYPE_CHECKING:
    import polars as pl

    from .engine import Retry

T = TypeVar("T")
JobLike = Job | Mapping[str, Any] | str | Path

_INTERRUPT_NOTICED_S = 0.1
_ANSWER_COLUMNS = [
    "status", "content", "reasoning", "tool_calls", "parsed", "finish_reason",
    "prompt_tokens", "completion_tokens", "cost", "error_message",
]  # fmt: skip


def run(job: JobLike, *, observer: Observer | None = None) -> Run:
    """Run a job to its end, or until something stops it, and return what came of it.

    ``job`` is a :class:`Job`, the path of a job file or of requests, or a mapping with the tables of a job file. Asks only for
    what has no answer in the output folder yet. Works in a notebook too, where an event loop is running already.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    """
    made = _job(job)
    _warn(made, observer)
    with Attempt(Folder(made.out), made.job.name) as attempt, Notifier(made) as notifier:
        ended = execute(made, observer=notifier.watching(observer), attempt=attempt)
    ended.untold = notifier.ended(ended)
    return ended


async def arun(job: JobLike, *, observer: Observer | None = None) -> Run:
    """:func:`run`, for use under a running asyncio event loop. Cancelling it loses nothing that was answered."""
    made = _job(job)
    _warn(made, observer)
    with Attempt(Folder(made.out), made.job.name) as attempt:
        async with Notifier(made) as notifier:
            ended = await _whole(made, observer=notifier.watching(observer), attempt=attempt)
    ended.untold = await anyio.to_thread.run_sync(notifier.ended, ended)
    return ended


def retry(
    out: str | Path,
    *,
    where: str,
    settings: Mapping[str, Any] | None = None,
    frame: pl.DataFrame | None = None,
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

    places = [(name if "." in name else f"override.{name}", value) for name, value in (settings or {}).items()]
    with Attempt(Folder(Path(out))) as attempt:
        retried = retry_of(Path(out), where, places)
        _warn(retried.job, observer)
        with Notifier(retried.job) as notifier:
            ended = execute(retried, frame=frame, observer=notifier.watching(observer), attempt=attempt)
    ended.untold = notifier.ended(ended)
    return ended


async def _whole(
    job: Job,
    *,
    retried: Retry | None = None,
    frame: pl.DataFrame | None = None,
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
    frame: pl.DataFrame,
    user: str | None = None,
    *,
    system: str | None = None,
    messages: list[dict[str, Any]] | None = None,
    model: str | None = None,
    endpoint: str | None = None,
    out: str | Path | None = None,
    concurrency: int | None = None,
    settings: Mapping[str, Any] | None = None,
    **params: Any,
) -> pl.DataFrame:
    """Ask for each row of a frame, and return the frame with the answers beside it, in the same order.

    ``user``, ``system`` and ``messages`` are templates over the frame's columns (Jinja2, strict); without any, the frame has a
    column ``messages``, and columns named like documented request parameters are sent as such. A column ``id`` tells rows
    apart when the frame changes; else their content does. ``endpoint`` is ``"local"`` (the default), ``"flexai"`` or the base
    URL of any server. Further keyword arguments are request parameters (``temperature=0``, ``max_tokens=64``); ``settings``
    are dotted places of a job (``{"limits.rpm": 60}``).

    With ``out`` the answers are kept in that folder, and calling again asks only for what is missing; without, a call that
    is interrupted has to begin anew.

    Columns added: ``status``, ``content``, ``reasoning``, ``tool_calls``, ``parsed``, ``finish_reason``, ``prompt_tokens``,
    ``completion_tokens``, ``cost``, ``error_message``; one whose name the frame has already gets ``answer_`` before it. A row
    that could not be answered has the status ``failed`` and says why in ``error_message``.

    :raises JobError, InputError, EndpointError, FolderError: before anything was sent.
    :raises RunStopped: if the run stopped before every row had its answer.
    """
    data: dict[str, Any] = {"job": {"name": "complete"}, "params": dict(params), "input": {}, "endpoint": {}}
    prompt = {"system": system, "user": user, "messages": messages}
    if any(value is not None for value in prompt.values()):
        data["prompt"] = {name: value for name, value in prompt.items() if value is not None}
    elif "messages" not in frame.columns:
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
        places = list((settings or {}).items())
        job = build(data, places, environment=environment_of(data, places, None))
        if job.sweep.variables or job.sweep.samples > 1 or job.input.limit or job.input.dedupe:
            raise JobError(
                "complete() gives one answer a row; run a job for a sweep, samples, input.limit or input.dedupe"
            )
        with Attempt(Folder(job.out), job.job.name) as attempt:
            ended = execute(job, frame=_asked(frame, job), attempt=attempt)
        if ended.stopped_by is not None:
            kept = "nothing is kept without out=" if out is None else "what was answered is kept: call again to go on"
            raise RunStopped(f"stopped by {ended.stopped_by}: {ended.summary['message']} ({kept})", ended.stopped_by)
        return _beside(frame, ended.results())


def _asked(frame: pl.DataFrame, job: Job) -> pl.DataFrame:
    """The columns that a request is made of. Unlike a file of requests, a frame has others for reasons of its own."""
    if job.templates:
        return frame
    own = {job.route.field, "id", "custom_id", job.input.id, *job.input.params}
    return frame.select([name for name in frame.columns if name in own or job.route.parameters.documented(name)])


def _beside(frame: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    taken, names = {*frame.columns}, {}
    for name in _ANSWER_COLUMNS:
        names[name] = name
        while names[name] in taken:
            names[name] = f"answer_{names[name]}"
        taken.add(names[name])
    return frame.hstack(results.sort("row").select(_ANSWER_COLUMNS).rename(names))


def _job(job: JobLike) -> Job:
    if isinstance(job, Job):
        return job
    if isinstance(job, Mapping):
        return build(job, environment=environment_of(job, (), None))
    return read(job)


def execute(
    job: Job | Retry,
    *,
    frame: pl.DataFrame | None = None,
    observer: Observer | None = None,
    handle_signals: bool = False,
    attempt: Attempt | None = None,
) -> Run:
    """A run or a retry, and its scores, on an event loop of its own: uvloop's where it is installed."""
    whole = partial(_whole, observer=observer, handle_signals=handle_signals, attempt=attempt)
    if isinstance(job, Job):
        return on_a_loop(partial(whole, job, frame=frame))
    from .engine import missing_input

    if frame is not None:
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
