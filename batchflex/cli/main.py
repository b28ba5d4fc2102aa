"""The command line: verbs and exit codes; the only place that prints.

Standard output carries results only. Heavy modules are imported by the verb that needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import importlib.abc
import io
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..core import BatchflexError, JobError, ending, fit_json, format, json_line, one_line, shown
from .options import Verb, job as job_of, log_settings, parser, refuse

if TYPE_CHECKING:
    from ..config import Job
    from ..engine import Observer, Run
    from ..notify import Notifier
    from ..storage import Attempt, Folder
    from .log_setup import Logbook

T = TypeVar("T")
_MOST_FILES = 1 << 20
_WIDTH = 120  # of a line where there is no terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _prepare_streams()
    options, unknown = parser(_VERBS).parse_known_args(argv)
    if unknown:
        refuse(options.parser, unknown)
    from ..core import malloc

    _allow_open_files()
    atexit.register(gc.freeze)  # a collection of everything, as the last thing a process does, is in vain
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        if verb is not _score:  # which would take half as long again for pages given back and taken anew
            malloc.give_back(short=verb is not _run)
        return verb(options)
    except BatchflexError as error:
        if options.debug:
            _say(traceback.format_exc())
        if not _logged(options, error, error.exit_code):
            _say("\nbatchflex: ".join([f"batchflex: {error}", *_notes(error)]))
        return error.exit_code
    except KeyboardInterrupt as error:
        _logged(options, error, 130)
        return 130
    except BrokenPipeError:
        _give_up_stdout()
        return 0
    except Exception as error:
        if options.debug:
            _say(traceback.format_exc())
        if _logged(options, error, 3):
            return 3
        _say(
            f"batchflex: an unexpected fault of batchflex itself: {_kind_and_first_line(error)}\n"
            "What was answered is kept. --debug shows where it happened; please report it."
        )
        for note in _notes(error):
            _say(f"batchflex: {note}")
        return 3


def _allow_open_files() -> None:
    """Take as many as the system lets this process have: connections, and files of an export."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _logged(options: argparse.Namespace, error: BaseException, exit_code: int) -> bool:
    """Put what ended the command into its logs, if it has any. True: standard error is one, and has it."""
    if options.verb not in (_run, _retry):
        return False
    from . import log_setup

    try:
        if "book" not in options:
            job_file = Path(options.spec) if options.verb is _run else options.out / "job.toml"
            run_id = getattr(options, "run_id", None)  # a signal may come before there is one
            options.book = log_setup.peeked(dict(log_settings(options)), job_file, quiet=options.quiet, run_id=run_id)
        book: Logbook = options.book
        is_logged = book.failed(error, exit_code)
        for note in _notes(error) if is_logged else ():
            book.warn(note)
        return is_logged
    except Exception:  # the log cannot be written; the error itself is to be said, with its own exit code
        return False


def _kind_and_first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _notes(error: BaseException) -> list[str]:
    """What is to be said beside an error: who could not be told of it."""
    return list(getattr(error, "__notes__", []))


def _prepare_streams() -> None:
    """Words that the terminal's encoding does not have are no reason to fail; a closed stream is silence."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Left free, the number would go to the next file or socket that is opened.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more, or its disk is full: that changes no exit code
        print(shown(text), file=sys.stderr, flush=True)


def _print(text: str) -> None:
    """What is not JSON, a table's file or a schedule's: words for people, whatever names and answers are in them."""
    print(shown(text), flush=True)


def _give_up_stdout() -> None:
    """Or the flush at exit complains of what it does not take again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_json(data: object) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(json_line(data) + b"\n")
    sys.stdout.buffer.flush()


# ----------------------------------------------------------------------------------------------------------- verbs


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """For imports: they leave hardly any garbage, and looking for it takes as long as some of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """For runs: many live tasks make each collection dear, and a run leaves next to no cycles behind."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def _spare_pandas() -> None:
    """Keep pyarrow from importing pandas, where it is installed, for its first array: half a second for nothing here.

    It looks for it once, and then only when it is needed, as by a score's own function.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas(importlib.abc.MetaPathFinder):
    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("not now", name=name)


def _run(options: argparse.Namespace) -> int:
    from functools import partial

    with _no_collections():
        from ..api import execute
        from ..notify import Notifier
        from ..storage import Attempt, Folder
        from .log_setup import Logbook
    _spare_pandas()
    with Attempt(None if options.out is None else Folder(Path(options.out))) as attempt:
        options.run_id = attempt.run_id
        try:
            job = job_of(options)
        except JobError as error:
            _tell_of_mistakes(options, error)
            raise
        folder = Folder(job.out)
        attempt.of(folder, job.job.name)
        quiet, debug = options.quiet, options.debug
        book = options.book = Logbook(job.log, job.job.name, quiet=quiet, debug=debug, run_id=attempt.run_id)
        for warning in job.warnings():
            book.warn(warning)
        with Notifier(job) as notifier:
            work = partial(execute, job, observer=notifier.watching(book.observer), heed_signals=True, attempt=attempt)
            try:
                with _rare_collections():
                    run = _in_turn(options, attempt, folder, job, book, work)
            finally:
                book.observer.close()
    return 0 if run is None else _ended(run, job, options, notifier)


def _tell_of_mistakes(options: argparse.Namespace, error: JobError) -> None:
    """Tell those of [notify] that the job file is wrong, as far as that can be read of it."""
    if options.spec.lower().endswith(".toml"):
        from ..notify import notifier
        from .options import settings

        with contextlib.suppress(JobError):
            for note in notifier.mistaken(options.spec, settings(options), error):
                error.add_note(note)


def _in_turn(
    options: argparse.Namespace,
    attempt: Attempt,
    folder: Folder,
    job: Job,
    book: Logbook,
    work: Callable[[], T],
) -> T | None:
    """Do the work when no other run holds the folder, as the options say. ``None`` if it is skipped."""
    from ..core import FolderBusy

    try:
        if options.wait is None:
            return work()
        from . import wait

        left_s = wait.left_s(job.limits.deadline, attempt)
        return wait.patiently(work, folder, options.wait, book.note, until_deadline_s=left_s)
    except FolderBusy:
        if not options.skip:
            raise
        line = attempt.skipped(f"another run holds {folder.path}{folder.holder()}; nothing was sent")
        book.skipped(line["message"])
        if options.json:
            _print_json(line)
        return None


def _retry(options: argparse.Namespace) -> int:
    from functools import partial

    from ..config import parse_setting
    from ..engine import retry_of
    from ..notify import Notifier
    from ..storage import Attempt, Folder
    from .log_setup import Logbook

    _spare_pandas()
    folder = Folder(options.out)
    with Attempt(folder) as attempt:
        options.run_id = attempt.run_id
        settings = [*map(parse_setting, options.set), *log_settings(options)]
        if options.metrics_file is not None:
            settings.append(("notify.metrics_file", options.metrics_file))
        job = retry_of(options.out, options.where, settings).job
        attempt.of(folder, job.job.name)
        quiet, debug = options.quiet, options.debug
        book = options.book = Logbook(job.log, job.job.name, quiet=quiet, debug=debug, run_id=attempt.run_id)
        for warning in job.warnings():
            book.warn(warning)
        notifier = Notifier(job)
        work = partial(_ask_again, options, settings, notifier.watching(book.observer), attempt)
        with contextlib.nullcontext() if options.dry_run else notifier:
            try:
                with _rare_collections():
                    run = _in_turn(options, attempt, folder, job, book, work)
            finally:
                book.observer.close()
    return 0 if run is None else _ended(run, job, options, notifier)


def _ask_again(
    options: argparse.Namespace,
    settings: Sequence[tuple[str, Any]],
    observer: Observer | None,
    attempt: Attempt,
) -> Run | None:
    """A retry of the job as it is in its folder now. ``None`` if it was only to be shown, or is not wanted after all."""
    from ..api import ask_again
    from ..engine import preview, retry_of

    retried = retry_of(options.out, options.where, settings)
    interactive = not options.yes and sys.stdin.isatty() and sys.stderr.isatty()
    if options.dry_run or interactive:
        seen = preview(retried)
        if options.dry_run:
            if options.json:
                _print_json(seen.facts)
            else:
                _print(seen.summary)
            return None
        if seen.facts["asked"]:
            _say(seen.summary)
            if not _agreed():
                _say("nothing was sent")
                return None
    return ask_again(retried, observer=observer, heed_signals=True, attempt=attempt)


def _agreed() -> bool:
    print("Ask these again? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _ended(run: Run, job: Job, options: argparse.Namespace, notifier: Notifier) -> int:
    from . import rendering

    book: Logbook = options.book
    state = book.summary(run)
    if options.json:
        _print_summary(run.summary)
    if book.is_log:
        pass  # its last line says it
    elif not options.quiet:
        _say(rendering.summary(state))
        _say_scores(run.scores, run.unscored)
    elif run.unscored is not None:
        _say(f"batchflex: {run.unscored}")
    elif state["message"]:
        _say(f"batchflex: {state['job']} {state['status']}: {state['message']}")
    for words in notifier.ended(run):
        book.warn(words) if book.is_log else _say(f"batchflex: {words}")
    if job.wants_report and run.exit_code < 128:
        _write_report(run, book.warn if book.is_log else _say, quiet=options.quiet or book.is_log)
    book.ended(run)
    if run.exit_code >= 128:
        sys.stdout.flush()
        os._exit(run.exit_code)  # a thread that still writes the table must not keep an interrupted run alive
    return run.exit_code


def _print_summary(summary: Mapping[str, Any]) -> None:
    """The run is over: where its summary is not taken, its exit code says all the same how it went, and those are told who are
    to be."""
    try:
        _print_json(summary)
    except OSError as error:
        _give_up_stdout()
        if not isinstance(error, BrokenPipeError):
            _say(f"batchflex: the summary cannot be printed: {error.strerror or error}")


def _write_report(run: Run, say: Callable[[str], None], *, quiet: bool) -> None:
    """The page of a run that has ended, unless it is there and nothing is new. Without it the run is none the worse."""
    from ..report import report
    from ..storage import Folder

    folder = Folder(run.out)
    if not folder.results.exists() or (not run.summary["requests_sent"] and report.is_current(folder)):
        return
    try:
        written = report.write(folder)
    except BatchflexError as error:
        say(f"batchflex: no report: {error}")
    else:
        if not quiet:
            _say(f"  report: {written.path}")


def _say_scores(found: Mapping[str, Any] | None, missing: str | None) -> None:
    from . import score_text

    if found is not None:
        _say(score_text.text(found))
    if missing is not None:
        _say(missing)


def _score(options: argparse.Namespace) -> int:
    from functools import partial

    from ..api import on_a_loop
    from ..config import build, environment_of, load, parse_setting
    from ..engine import evaluate
    from ..storage import Folder
    from . import progress, score_text

    folder = Folder(options.out)
    folder.require()
    settings = [parse_setting(text) for text in options.set]
    if wrong := [place for place, _ in settings if not place.startswith("score.")]:
        raise JobError(f"score changes nothing but scores: --set score.NAME.KEY=VALUE; found {wrong[0]!r}")
    data = folder.read_job()
    if data is None:
        raise JobError(f"{options.out} has no job.toml: its run has not begun, or was refused")
    environment = environment_of(data, [], Path(), lenient=True)
    if options.spec is None:
        job = build(data, settings, environment=environment)
        specs = job.score
    else:
        named = load(options.spec, settings)
        if named.environment.file is not None:
            environment = named.environment
        job, specs = build(data, environment=environment), named.score
    for warning in environment.warnings(()):
        _say(f"warning: {warning}")
    if not specs:
        raise JobError(f"there is no [[score]] in {options.spec or folder.job}; name a job file that has some")
    observer = progress.choose(quiet=options.quiet)
    try:
        work = partial(evaluate.evaluate, job, options.out, specs, observer, heed_signals=True)
        with _rare_collections():
            made = on_a_loop(work)
    finally:
        observer.close()
    if options.json:
        _print_json(made.summary)
    else:
        _print(score_text.text(made.summary))
    if made.unfinished is not None:
        _say(made.unfinished)
    return 0 if made.unfinished is None else 3


def _compare(options: argparse.Namespace) -> int:
    from ..results import export
    from ..scoring import compare, comparison_sides
    from . import score_text

    if options.other is not None:
        (one, a), (two, b) = comparison_sides.side(options.out), comparison_sides.side(options.other)
    else:
        (one, a), (two, b) = comparison_sides.both_of(options.out)
    found = compare(a, b)
    if options.output is not None:
        export.write_frame(found.flips, Path(options.output))
    if options.json:
        _print_json({"a_is": one, "b_is": two, **found.told})
    else:
        flips = found.flips.head(options.rows).to_dicts()
        _print(score_text.comparison(found.told, (one, two), flips, found.flips.height))
    return 0


def _plan(options: argparse.Namespace) -> int:
    from ..notify import notifier
    from . import plan_text

    _spare_pandas()
    job = job_of(options)
    for warning in (*job.warnings(), *notifier.untellable(job)):
        _say(f"warning: {warning}")
    found = plan_text.forecast(job)
    if options.json:
        _print_json(found)
    else:
        _print(plan_text.text(found))
    return 0


def _status(options: argparse.Namespace) -> int:
    from ..storage import Folder, line_of_last
    from . import rendering

    folder = Folder(options.out)
    folder.require()
    before: object = None
    while True:
        held = folder.is_held()
        state = folder.read_state()
        if not state and not (options.watch and held):
            raise BatchflexError(
                f"{options.out} has no run.json: its run has only just begun, was refused, or was killed as it began"
            )
        if state and options.json and (seen := state if held else line_of_last(state)) != before:
            _print_json(before := seen)
        elif state and not options.json and (text := rendering.status(state, held)) != before:
            if isinstance(before, str) and sys.stdout.isatty():
                print(f"\x1b[{len(before.splitlines())}F\x1b[J", end="")
            _print(text)
            before = text
        if not options.watch or not held:
            return 0
        time.sleep(1.0)


def _history(options: argparse.Namespace) -> int:
    import shutil

    from . import history, history_text

    found = history.read(options.outs)
    for folder, lines in found.unreadable.items():
        _say(
            f"batchflex: {format.count(lines, 'line')} of {folder}/history.jsonl left out: torn, or not put there by batchflex"
        )
    if options.json:
        sys.stdout.flush()
        sys.stdout.buffer.writelines(fit_json(told.line) + b"\n" for told in found.runs[-options.last :])
        sys.stdout.buffer.flush()
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDTH
        _print(history_text.text(found, last=options.last, width=width))
    return 0


def _results(options: argparse.Namespace) -> int:
    from ..storage import Folder

    if options.set and not options.reparse:
        raise JobError("--set goes with --reparse")
    if options.reparse:
        from ..config import parse_setting
        from ..results import reparse

        read, fit, fit_no_more = reparse(Folder(options.out), [parse_setting(text) for text in options.set])
        _say(
            f"{read:,} answers read anew: {fit:,} fit now that did not before, {fit_no_more:,} do not fit any more; "
            "nothing was sent"
        )
    return _tell_results(options, Folder(options.out))


def _tell_results(options: argparse.Namespace, folder: Folder) -> int:
    from ..results import export, selected
    from . import rendering

    columns, by, output = options.columns, options.split_by, options.output
    to = None if output is None else export.target(folder, output, options.format)
    if to is None and (options.format or by):
        option = "--split-by" if by else "--format"
        raise JobError(
            f"{option} says how to write: name a file with -o" + ("" if by else ", or - for standard output")
        )
    if to is not None and to.format == export.OPENAI_BATCH and (columns or by):
        option = "--columns" if columns else "--split-by"
        raise JobError(f"{option} does not go with --format openai-batch, whose lines hold whole answers")
    if to is not None and to.path is None and to.format == "parquet" and sys.stdout.isatty():
        raise JobError("Parquet is nothing for a terminal: name a file with -o, or let a program read it")
    beside = [by] if by else []
    with _tidy_when_terminated(), selected(folder, options.where, columns, beside=beside, again=bool(by)) as rows:
        if options.where and not rows.rows:
            _say(f"no row of {rows.of:,} fits {one_line(options.where)}")
        if to is None:
            _print(rendering.table(rows.head(options.rows), rows.rows, whole=columns is not None))
            if options.where and rows.rows:
                _say(f"{rows.rows:,} of {format.count(rows.of, 'row')} fit {one_line(options.where)}")
            return 0
        written = export.split(rows, by, to, folder) if by else export.write(rows, to, folder, sys.stdout.buffer)
        if to.path is not None:
            _say(rendering.written(written, rows.of, is_batch=to.format == export.OPENAI_BATCH))
    return 0


@contextlib.contextmanager
def _tidy_when_terminated() -> Iterator[None]:
    """Half-written files are removed when SIGTERM or SIGHUP comes, too."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    numbers = [number for number in ending() if number != signal.SIGINT]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(options: argparse.Namespace) -> int:
    from ..core import MissingExtra
    from ..report import headline, report
    from ..storage import Folder

    folder = Folder(options.out)
    digest = report.read(folder, options.rows)
    written, missing = None, None
    try:
        written = report.write(folder, digest, options.output)
    except MissingExtra as error:  # the summary needs nothing of what is missing
        missing = error
    if options.json:
        _print_json(report.as_json(digest, written))
    else:
        _print(headline.summary(digest))
        if written is not None:
            _print(f"  report: {written.path} ({written.size / 1e6:.1f} MB)")
    if missing is not None:
        raise missing
    return 0


def _compact(options: argparse.Namespace) -> int:
    import datetime
    from contextlib import ExitStack

    from ..config import parse_age
    from ..results import compact

    before = None
    if options.older_than is not None:
        try:
            before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=parse_age(options.older_than))
        except (ValueError, OverflowError) as error:
            raise JobError(f"--older-than: {error}") from None
    found = []
    with ExitStack() as held:
        folders = compact.folders(options.out)
        for folder in folders:
            held.enter_context(folder.held())
        for folder in folders:
            sight = compact.look(folder, options.older_than, before)
            if not options.json:
                _print(compact.told(sight))
            found.append(sight.facts if options.dry_run else compact.carry_out(sight))
            if not options.json and not options.dry_run:
                _print(compact.told_after(found[-1]))
    if options.json:
        _print_json(found[0] | {"dry_run": options.dry_run, "judges": found[1:]})
    return 0


def _schedule(options: argparse.Namespace) -> int:
    import datetime
    import shlex

    from ..schedule import Wanted, schedule, write

    if not options.spec.lower().endswith(".toml"):
        raise JobError(f"schedule takes a job file (.toml); found {options.spec!r}")
    try:
        words = shlex.split(options.options)
    except ValueError as error:
        raise JobError(f"--options {options.options!r:.80}: {error}") from None
    as_run, unknown = parser(_VERBS).parse_known_args(["run", options.spec, *words])
    if unknown:
        refuse(as_run.parser, unknown)
    job = job_of(as_run)
    for warning in job.warnings():
        _say(f"warning: {warning}")
    wanted = Wanted(
        options.kind, Path(options.spec), options.at, options.cron, options.tz, words, options.log_file, options.env_file,
        options.keys, options.image, options.claim, options.secret,
    )  # fmt: skip
    found = schedule(wanted, job, datetime.datetime.now(datetime.UTC))
    written = [] if options.out is None else write(found.made, options.out)
    if options.json:
        times = [time.isoformat() for time in found.times]
        _print_json({"files": found.made.files, "notes": found.made.notes, "zone": found.zone, "next": times})
        return 0
    if options.out is None:
        headed = len(found.made.files) > 1
        texts = [f"# {name}\n{text}" if headed else text for name, text in found.made.files.items()]
        print("\n".join(texts), end="", flush=True)
    for path in written:
        _say(f"written: {path}")
    _say(f"next, in {found.zone}:")
    for time_ in found.times:
        _say(f"  {time_:%a %Y-%m-%d %H:%M %z}")
    for note in found.made.notes:
        _say(note)
    return 0


def _check(options: argparse.Namespace) -> int:
    import anyio

    from ..notify import notifier
    from . import check

    if options.spec is not None and not options.spec.lower().endswith(".toml"):
        raise JobError(f"check takes a job file (.toml), or no file at all; found {options.spec!r}")
    job = job_of(options)
    for warning in (*job.warnings(), *notifier.untellable(job)):
        _say(f"warning: {warning}")
    report = anyio.run(check.check, job)
    _print(report.text)
    return report.exit_code


def _notify(options: argparse.Namespace) -> int:
    from ..config import load, parse_setting
    from ..notify import notifier

    if not options.spec.lower().endswith(".toml"):
        raise JobError(f"notify takes a job file (.toml); found {options.spec!r}")
    outcomes = notifier.trial(load(options.spec, [parse_setting(text) for text in options.set]), options.event)
    for name, fault in outcomes.items():
        _print(f"told by {name}" if fault is None else f"not told by {name}: {fault}")
    return 3 if any(outcomes.values()) else 0


_VERBS: dict[str, Verb] = {
    "run": _run,
    "retry": _retry,
    "score": _score,
    "compare": _compare,
    "plan": _plan,
    "status": _status,
    "history": _history,
    "results": _results,
    "report": _report,
    "compact": _compact,
    "schedule": _schedule,
    "check": _check,
    "notify": _notify,
}


if __name__ == "__main__":
    sys.exit(main())
