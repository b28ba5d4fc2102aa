"""``run`` and ``retry``: requests are sent."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..core import BatchflexError, JobError, output_path
from . import interrupts, output, remote_outputs
from .job_options import as_init, is_job_file, job_of, log_settings, settings
from .process import importing, rare_garbage_collection

if TYPE_CHECKING:
    from ..cluster import Shard
    from ..config import Job
    from ..engine import Observer, Run
    from ..notify import Notifier
    from ..storage import Attempt, Folder
    from .logs import Logs


def run(options: argparse.Namespace) -> int:
    with importing():
        from ..api import execute
        from ..storage import Attempt, Folder
    with Attempt(None if options.out is None else Folder(output_path(options.out))) as attempt:
        options.run_id, options.attempt = attempt.run_id, attempt
        try:
            job = job_of(options)
        except JobError as error:
            _notify_of_mistakes(options, error)
            raise
        spread, folder = _spread(job, options.processes), Folder(job.out)
        if (shard := _shard(options)) is not None:
            from ..cluster import ShardRun

            spread, folder = {"job_run": partial(ShardRun, shard=shard)}, folder.shard(shard.number, shard.of)
        return _send(options, attempt, folder, job, partial(execute, job, handle_signals=True, **spread))


def retry(options: argparse.Namespace) -> int:
    with importing():
        from ..config import parse_setting
        from ..engine import retry_of
        from ..storage import Attempt, Folder
    folder = Folder(options.out)
    with Attempt(folder) as attempt:
        options.run_id, options.attempt = attempt.run_id, attempt
        changed = [*map(parse_setting, options.set), *log_settings(options)]
        if options.metrics_file is not None:
            changed.append(("notify.metrics_file", options.metrics_file))
        job = retry_of(options.out, options.where, changed).job
        return _send(options, attempt, folder, job, partial(_retry, options, changed), notifies=not options.dry_run)


def _retry(
    options: argparse.Namespace, changed: Sequence[tuple[str, Any]], *, observer: Observer | None, attempt: Attempt
) -> Run | None:
    """Retry the job as its folder has it by now. ``None`` if that was only to be shown, or was not confirmed."""
    from ..api import execute
    from ..engine import preview, retry_of

    retried = retry_of(options.out, options.where, changed)
    interactive = not options.yes and sys.stdin.isatty() and sys.stderr.isatty()
    if options.dry_run or interactive:
        seen = preview(retried)
        if options.dry_run:
            if options.json:
                output.show_json(seen.facts)
            else:
                output.show(seen.summary)
            return None
        if seen.facts["asked"]:
            output.say(seen.summary)
            if not _is_confirmed():
                output.say("nothing was sent")
                if options.json:
                    output.show_json({**seen.facts, "message": "it was not confirmed, so nothing was sent"})
                return None
    spread = _spread(retried.job, options.processes)
    return execute(retried, observer=observer, handle_signals=True, attempt=attempt, **spread)


def _spread(job: Job, processes: int | None) -> dict[str, Any]:
    """What :func:`execute` takes to send from several processes."""
    if processes is None:
        return {}
    from ..cluster import on_processes
    from ..engine import JobRun

    return {"job_run": partial(JobRun, executed_by=on_processes(job, processes))}


def _shard(options: argparse.Namespace) -> Shard | None:
    """The part of the job that this command is to run, if it is one of an array."""
    if options.shards is None:
        for option, given in (("--shard", options.shard), ("--at-once", options.at_once)):
            if given is not None:
                raise JobError(f"{option} needs --shards N: how many there are")
        return None
    if options.processes is not None:
        raise JobError("--processes and --shards do not go together: each shard is a process already")
    from ..cluster import shard_of

    return shard_of(options.shards, options.shard, options.at_once)


def _is_confirmed() -> bool:
    output.say("Ask these again? [y/N] ", end="")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _notify_of_mistakes(options: argparse.Namespace, error: JobError) -> None:
    """Notify those whom ``[notify]`` names that the job file is wrong, as far as that section can be read."""
    if is_job_file(options.spec):
        from ..notify import notify_of_mistakes

        with contextlib.suppress(JobError):
            for note in notify_of_mistakes(options.spec, settings(options), error):
                error.add_note(note)


def _send(
    options: argparse.Namespace,
    attempt: Attempt,
    folder: Folder,
    job: Job,
    work: Callable[..., Run | None],
    *,
    notifies: bool = True,
) -> int:
    """Do the work, watched and logged, once no other run holds the folder, as ``--wait`` and ``--skip`` say, and report it.
    Returns the exit code."""
    with importing():
        from ..core import FolderBusy
        from ..notify import Notifier
        from . import wait
        from .logs import Logs

    attempt.of(folder, job.job.name)
    logs = Logs(job.log, job.job.name, quiet=options.quiet, debug=options.debug, attempt=attempt.run_id)
    options.logs = logs
    for warning in job.warnings():
        logs.warn(warning)
    notifier = Notifier(job)
    watched = partial(work, observer=notifier.watching(logs), attempt=attempt)
    with notifier if notifies else contextlib.nullcontext(), contextlib.closing(logs), rare_garbage_collection():
        try:
            if options.wait is None:
                ended = watched()
            else:
                left_s = wait.left_s(job.limits.deadline, attempt)
                ended = wait.patiently(watched, folder, options.wait, logs.note, until_deadline_s=left_s)
        except FolderBusy:
            if not options.skip:
                raise
            ended = None
            line = attempt.skipped(f"another run holds {folder.path}{folder.holder()}; nothing was sent")
            logs.skipped(line["message"])
            if options.json:
                output.show_json(line)
    return 0 if ended is None else _finish(ended, job, options, logs, notifier)


def _finish(run: Run, job: Job, options: argparse.Namespace, logs: Logs, notifier: Notifier) -> int:
    """Summary, notifications and report of a run that has ended. Returns the exit code, which no signal changes any more: it
    cuts short what is left."""
    say_fault = logs.warn if logs.stderr_is_log else _say_fault
    cut_short: KeyboardInterrupt | None = None
    try:
        interrupts.decided(run.exit_code)
        _report_end(run, job, options, logs, notifier, say_fault)
    except KeyboardInterrupt as error:
        cut_short = error
    with interrupts.held():
        if cut_short is not None:
            name = signal.Signals(getattr(cut_short, "exit_code", 130) - 128).name
            say_fault(
                f"{name} came when the run had ended: its report, and whom else it would have notified, are left out"
            )
        logs.ended(run)
        if run.exit_code >= 128:
            sys.stdout.flush()
            os._exit(run.exit_code)  # a thread that still writes the table must not keep an interrupted run alive
    return run.exit_code


def _report_end(
    run: Run,
    job: Job,
    options: argparse.Namespace,
    logs: Logs,
    notifier: Notifier,
    say_fault: Callable[[str], None],
) -> None:
    with interrupts.held():
        from ..display import run_text

        state = logs.summary(run)
        if options.json:
            _show_summary(run.summary)
    if logs.stderr_is_log:
        pass  # its last line says it
    elif not options.quiet:
        output.say(run_text.summary(state))
        if options.verb == "run" and _is_first(run) and (command := as_init(options)) is not None:
            output.say(f"  to keep this as a job file: {command}")
        _say_scores(run)
    elif run.unscored is not None:
        output.say(f"batchflex: {run.unscored}")
    elif state["message"]:
        output.say(f"batchflex: {state['job']} {state['status']}: {state['message']}")
    for fault in notifier.ended(run):
        say_fault(fault)
    if job.wants_report and run.exit_code < 128:
        _write_report(run, say_fault, quiet=options.quiet or logs.stderr_is_log)
        try:
            remote_outputs.upload(run.out, job)
        except BatchflexError as error:
            say_fault(f"the report is not uploaded: {error}")
    if not (logs.stderr_is_log or options.quiet) and run_text.not_ok(state):
        output.say(f"batchflex: {run_text.outcome(state)}")  # last, where no table of scores hides it


def _is_first(run: Run) -> bool:
    """Whether no other run has begun in its folder."""
    from ..storage import Folder

    return all(line.get("run_id") == run.summary["run_id"] for line in Folder(run.out).past_runs())


def _say_fault(text: str) -> None:
    output.say(f"batchflex: {text}")


def _show_summary(summary: Mapping[str, Any]) -> None:
    """The run is over: that its summary cannot be printed changes neither its exit code nor who is notified."""
    try:
        output.show_json(summary)
    except OSError as error:
        output.discard_stdout()
        if not isinstance(error, BrokenPipeError):
            _say_fault(f"the summary cannot be printed: {error.strerror or error}")


def _write_report(run: Run, say_fault: Callable[[str], None], *, quiet: bool) -> None:
    """Write the report of a run that has ended, unless nothing has changed since the last. That it fails changes no exit code."""
    from ..report import report
    from ..storage import Folder, ResultsFiles

    folder = Folder(run.out)
    if not ResultsFiles(folder).exists or (not run.summary["requests_sent"] and report.is_current(folder)):
        return
    try:
        written = report.write(folder)
    except BatchflexError as error:
        say_fault(f"no report: {error}")
    else:
        if not quiet:
            output.say(f"  report: {written.path}")


def _say_scores(run: Run) -> None:
    from ..scoring import score_text

    if run.scores is not None:
        output.say(score_text.text(run.scores, output.width()))
    if run.unscored is not None:
        output.say(run.unscored)
