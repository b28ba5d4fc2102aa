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
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BatchflexError, JobError
from .options import Verb, parser, refuse
from .options import job as job_of

if TYPE_CHECKING:
    from .job import Job
    from .runner import Run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _prepare_streams()
    options, unknown = parser(_VERBS).parse_known_args(argv)
    if unknown:
        refuse(options.parser, unknown)
    from . import allocation

    atexit.register(gc.freeze)  # a collection of everything, as the last thing a process does, is in vain
    verb: Callable[[argparse.Namespace], int] = options.verb
    try:
        if verb is not _score:  # which would take half as long again for pages given back and taken anew
            allocation.give_back(short=verb is not _run)
        return verb(options)
    except BatchflexError as error:
        if options.debug:
            traceback.print_exc()
        _say(f"batchflex: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit complains again
        return 0
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        _say(
            f"batchflex: an unexpected fault of batchflex itself: {_kind_and_first_line(error)}\n"
            "What was answered is kept. --debug shows where it happened; please report it."
        )
        return 3


def _kind_and_first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _prepare_streams() -> None:
    """Words that the terminal's encoding does not have are no reason to fail; a closed stream is silence."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Left free, the number would go to the next file or socket that is opened.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print_json(data: object) -> None:
    import msgspec

    sys.stdout.flush()
    sys.stdout.buffer.write(msgspec.json.encode(data) + b"\n")
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
    with _no_collections():
        from . import progress
        from .api import execute
    _spare_pandas()
    job = job_of(options)
    observer = progress.choose(quiet=options.quiet)
    for warning in job.warnings():
        observer.note(f"warning: {warning}")
    try:
        run = execute(job, observer=observer, heed_signals=True)
    finally:
        observer.close()
    return _ended(run, job, options)


def _retry(options: argparse.Namespace) -> int:
    from . import progress
    from .again import retry_of, sight
    from .api import ask_again
    from .job import parse_setting

    _spare_pandas()
    retried = retry_of(options.out, options.where, [parse_setting(text) for text in options.set])
    observer = progress.choose(quiet=options.quiet)
    for warning in retried.job.warnings():
        observer.note(f"warning: {warning}")
    interactive = not options.yes and sys.stdin.isatty() and sys.stderr.isatty()
    if options.dry_run or interactive:
        seen = sight(retried)
        if options.dry_run:
            if options.json:
                _print_json(seen.facts)
            else:
                print(seen.told)
            return 0
        if seen.facts["asked"]:
            _say(seen.told)
            if not _agreed():
                _say("nothing was sent")
                return 0
    try:
        run = ask_again(retried, observer=observer, heed_signals=True)
    finally:
        observer.close()
    return _ended(run, retried.job, options)


def _agreed() -> bool:
    print("Ask these again? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _ended(run: Run, job: Job, options: argparse.Namespace) -> int:
    from . import render

    if options.json:
        _print_json(run.summary)
    if not options.quiet:
        _say(render.summary(run.summary))
        _say_scores(run.scores, run.unscored)
    elif run.unscored is not None:
        _say(f"batchflex: {run.unscored}")
    elif run.summary["message"]:
        _say(f"batchflex: {run.summary['job']} {run.summary['status']}: {run.summary['message']}")
    if job.wants_report and run.exit_code < 128:
        _write_report(run, quiet=options.quiet)
    if run.exit_code >= 128:
        sys.stdout.flush()
        os._exit(run.exit_code)  # a thread that still writes the table must not keep an interrupted run alive
    return run.exit_code


def _write_report(run: Run, *, quiet: bool) -> None:
    """The page of a run that has ended, unless it is there and nothing is new. Without it the run is none the worse."""
    from . import report
    from .folder import Folder

    folder = Folder(run.out)
    if not folder.results.exists() or (not run.summary["requests_sent"] and report.is_current(folder)):
        return
    try:
        written = report.write(folder)
    except BatchflexError as error:
        _say(f"batchflex: no report: {error}")
    else:
        if not quiet:
            _say(f"  report: {written.path}")


def _say_scores(found: Mapping[str, Any] | None, missing: str | None) -> None:
    from . import scoretext

    if found is not None:
        _say(scoretext.text(found))
    if missing is not None:
        _say(missing)


def _score(options: argparse.Namespace) -> int:
    from functools import partial

    from . import evaluation, progress, scoretext
    from .api import on_a_loop
    from .folder import Folder
    from .job import build, load, parse_setting

    folder = Folder(options.out)
    folder.require()
    settings = [parse_setting(text) for text in options.set]
    if wrong := [place for place, _ in settings if not place.startswith("score.")]:
        raise JobError(f"score changes nothing but scores: --set score.NAME.KEY=VALUE; found {wrong[0]!r}")
    data = folder.read_job()
    if data is None:
        raise JobError(f"{options.out} has no job.toml: its run has not begun, or was refused")
    if options.spec is None:
        job = build(data, settings)
        specs = job.score
    else:
        job, specs = build(data), load(options.spec, settings).score
    if not specs:
        raise JobError(f"there is no [[score]] in {options.spec or folder.job}; name a job file that has some")
    observer = progress.choose(quiet=options.quiet)
    try:
        made = on_a_loop(partial(evaluation.evaluate, job, options.out, specs, observer, heed_signals=True))
    finally:
        observer.close()
    if options.json:
        _print_json(made.summary)
    else:
        print(scoretext.text(made.summary))
    if made.unfinished is not None:
        _say(made.unfinished)
    return 0 if made.unfinished is None else 3


def _compare(options: argparse.Namespace) -> int:
    from . import export, scoretext, sides
    from .pairing import compare

    if options.other is not None:
        (one, a), (two, b) = sides.side(options.out), sides.side(options.other)
    else:
        (one, a), (two, b) = sides.both_of(options.out)
    found = compare(a, b)
    if options.output is not None:
        export.write_frame(found.flips, Path(options.output))
    if options.json:
        _print_json({"a_is": one, "b_is": two, **found.told})
    else:
        shown = found.flips.head(options.rows).to_dicts()
        print(scoretext.comparison(found.told, (one, two), shown, found.flips.height))
    return 0


def _plan(options: argparse.Namespace) -> int:
    from . import forecast

    _spare_pandas()
    job = job_of(options)
    for warning in job.warnings():
        _say(f"warning: {warning}")
    found = forecast.forecast(job)
    if options.json:
        _print_json(found)
    else:
        print(forecast.text(found))
    return 0


def _status(options: argparse.Namespace) -> int:
    from . import render
    from .folder import Folder

    folder = Folder(options.out)
    folder.require()
    shown: object = None
    while True:
        held = folder.is_held()
        state = folder.read_state()
        if not state and not (options.watch and held):
            raise BatchflexError(
                f"{options.out} has no run.json: its run has only just begun, was refused, or was killed as it began"
            )
        if state and options.json and state != shown:
            _print_json(shown := state)
        elif state and not options.json and (text := render.status(state, held)) != shown:
            if isinstance(shown, str) and sys.stdout.isatty():
                print(f"\x1b[{len(shown.splitlines())}F\x1b[J", end="")
            print(text, flush=True)
            shown = text
        if not options.watch or not held:
            return 0
        time.sleep(1.0)


def _results(options: argparse.Namespace) -> int:
    from . import export, render
    from .folder import Folder

    if options.set and not options.reparse:
        raise JobError("--set goes with --reparse")
    if options.reparse:
        from .job import parse_setting
        from .reparse import reparse

        read, fit, fit_no_more = reparse(Folder(options.out), [parse_setting(text) for text in options.set])
        _say(
            f"{read:,} answers read anew: {fit:,} fit now that did not before, {fit_no_more:,} do not fit any more; "
            "nothing was sent"
        )
    results = export.Results(Folder(options.out))
    if options.format == "openai-batch":
        if options.output in (None, "-"):
            raise JobError("--format openai-batch writes two files: name the first with -o FILE.jsonl")
        good, bad = export.write_openai_batch(results, Path(options.output))
        _say(f"{good:,} answers in {options.output}, {bad:,} failures beside it in its _errors file")
    elif options.output == "-":
        export.stream_jsonl(results, sys.stdout.buffer)
    elif options.output is not None:
        export.write(results, Path(options.output))
        _say(f"{results.rows:,} rows in {options.output}")
    else:
        print(render.table(results.head(options.rows), results.rows))
    return 0


def _report(options: argparse.Namespace) -> int:
    from . import report, verdict
    from .errors import MissingExtra
    from .folder import Folder

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
        print(verdict.summary(digest))
        if written is not None:
            print(f"  report: {written.path} ({written.size / 1e6:.1f} MB)")
    if missing is not None:
        raise missing
    return 0


def _compact(options: argparse.Namespace) -> int:
    import datetime
    from contextlib import ExitStack

    from . import compact
    from .spans import parse_duration

    before = None
    if options.older_than is not None:
        try:
            before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(
                seconds=parse_duration(options.older_than)
            )
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
                print(compact.told(sight), flush=True)
            found.append(sight.facts if options.dry_run else compact.carry_out(sight))
            if not options.json and not options.dry_run:
                print(compact.told_after(found[-1]), flush=True)
    if options.json:
        _print_json(found[0] | {"dry_run": options.dry_run, "judges": found[1:]})
    return 0


def _check(options: argparse.Namespace) -> int:
    import anyio

    from . import checking

    if options.spec is not None and not options.spec.lower().endswith(".toml"):
        raise JobError(f"check takes a job file (.toml), or no file at all; found {options.spec!r}")
    job = job_of(options)
    report = anyio.run(checking.check, job)
    print(report.text)
    return report.exit_code


_VERBS: dict[str, Verb] = {
    "run": _run,
    "retry": _retry,
    "score": _score,
    "compare": _compare,
    "plan": _plan,
    "status": _status,
    "results": _results,
    "report": _report,
    "compact": _compact,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
