"""The command line: verbs, options, exit codes; the only place that prints.

Standard output carries results only. Heavy modules are imported by the verb that needs them, so that ``--help`` is quick.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import gc
import io
import os
import re
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import BatchflexError, JobError

if TYPE_CHECKING:
    from .job import Job
    from .runner import Run

_ABOUT = """\
Ask a language model many questions, and get a Parquet table of the answers.

  batchflex run requests.jsonl --base-url http://127.0.0.1:8000/v1 --model m
  batchflex run job.toml

A run that was interrupted, killed or stopped goes on where it was: run the same command again. Nothing that was
answered is asked twice."""

_EXIT_CODES = """\
exit codes:
  0    every row was answered
  1    finished, but some rows are 'failed' or 'invalid'
  2    the job, the input or the command line is wrong; nothing was sent
  3    stopped early and resumable; the summary and run.json say why
  4    another run holds the output folder
  130  interrupted by Ctrl-C (143: by SIGTERM); resumable"""

_SPEC = (
    "a job file (.toml), or the requests themselves: .jsonl or .parquet (.gz and .zst may follow), a folder "
    "or a quoted pattern of these, each row with 'messages' or in the shape of an OpenAI batch file"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    _prepare_streams()
    options, unknown = _parser().parse_known_args(argv)
    if unknown:
        _refuse(options.parser, unknown)
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


# --------------------------------------------------------------------------------------------------------- options


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, in place of the whole usage. No abbreviations: a later option could make them ambiguous."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see: {self.prog} --help\n")


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    first = unknown[0].partition("=")[0]
    if not first.startswith("-"):
        parser.error(f"{first!r} is one thing too many")
    near = difflib.get_close_matches(first, re.findall(r"--[a-z-]+", parser.format_help()), n=1)
    parser.error(f"there is no option {first}" + (f"; did you mean {near[0]}?" if near else ""))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="batchflex",
        description=_ABOUT,
        epilog=_EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"batchflex {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(
        name: str, does: Callable[[argparse.Namespace], int], brief: str, more: str = ""
    ) -> argparse.ArgumentParser:
        about = f"{brief[0].upper()}{brief[1:]}.\n\n{textwrap.fill(more, 100)}".strip()
        added = verbs.add_parser(name, help=brief, description=about)
        added.set_defaults(verb=does, parser=added)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        return added

    run = verb("run", _run, "ask everything that has no answer yet", "Progress goes to standard error.")
    run.epilog = _EXIT_CODES
    _add_job_options(run)
    run.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary; errors are still said")
    run.add_argument("--json", action="store_true", help="print the summary as one line of JSON on standard output")

    plan = verb(
        "plan",
        _plan,
        "show what would be sent, and send nothing",
        "Counts, the sweep, one request in full, an estimate of tokens and cost, and what is done already. No network.",
    )
    _add_job_options(plan)
    plan.add_argument("--json", action="store_true", help="print it as one line of JSON")

    status = verb("status", _status, "show how a run is going, or how it ended")
    status.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    status.add_argument("--watch", action="store_true", help="show it again every second until the run ends")
    status.add_argument("--json", action="store_true", help="print run.json as one line")

    results = verb(
        "results",
        _results,
        "show the answers, or write them to a file",
        "Also of a run in progress or interrupted. The whole table is OUT/results.parquet.",
    )
    results.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    results.add_argument(
        "-o", "--output", metavar="FILE", help="write all rows and columns to FILE.parquet, .csv or .jsonl; - is JSON lines "
        "to standard output"
    )  # fmt: skip
    results.add_argument(
        "--format",
        choices=["openai-batch"],
        help="the lines of an OpenAI batch output file, failures in FILE_errors.jsonl",
    )
    results.add_argument(
        "--reparse", action="store_true", help="read the answers there are anew, by [answer] of the job; sends nothing"
    )
    results.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="with --reparse: a place in [answer], such as answer.lenient=true; may be repeated",
    )
    results.add_argument("--rows", type=_positive, default=20, metavar="N", help="how many rows to show (20)")

    score = verb(
        "score",
        _score,
        "score the answers of a folder, again or in another way",
        "By the [[score]] tables of the folder's job, or of another job file. No answer is asked again; only a judge's own "
        "grades are asked, those that are missing.",
    )
    score.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    score.add_argument("spec", nargs="?", metavar="JOB", help="a job file (.toml) whose [[score]] tables to take")
    score.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="a place in a score (score.accuracy.ignore_case=true); may be repeated",
    )  # fmt: skip
    score.add_argument("-q", "--quiet", action="store_true", help="no progress of a judge")
    score.add_argument("--json", action="store_true", help="print scores.json as one line")
    report = verb(
        "report",
        _report,
        "write OUT/report.html and show a summary",
        "One page with scores, charts and a searchable sample of rows, which opens anywhere and loads nothing. Also of a "
        "run in progress.",
    )
    report.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    report.add_argument("-o", "--output", metavar="FILE", type=Path, help="where to write the page (OUT/report.html)")
    report.add_argument(
        "--rows", type=_positive, default=200, metavar="N", help="rows of the random sample in the page (200)"
    )
    report.add_argument("--json", action="store_true", help="print the summary as one line of JSON")

    compare = verb(
        "compare",
        _compare,
        "hold the scores of two runs, or of two sweep points, against each other",
        "Paired by item: differences with intervals and p-values, and the items that flipped.",
    )
    compare.add_argument("out", metavar="A", help="an output folder, or a sweep point of it: OUT@temperature=0.7")
    compare.add_argument("other", metavar="B", nargs="?", help="the other side; left out, A has just two sweep points")
    compare.add_argument("--rows", type=_positive, default=10, metavar="N", help="how many flips to show (10)")
    compare.add_argument("-o", "--output", metavar="FILE", help="write all flips to FILE.parquet, .csv or .jsonl")
    compare.add_argument("--json", action="store_true", help="print it as one line of JSON, without the flips")

    check = verb(
        "check",
        _check,
        "send one small request to see that endpoint, key and model work",
        "Of a job file, the endpoint and the model are taken. Prints the limits that the endpoint tells.",
    )
    check.add_argument("spec", nargs="?", metavar="SPEC", help="a job file (.toml)")
    _add_endpoint_options(check)
    return parser


def _add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("endpoint")
    group.add_argument(
        "--endpoint", metavar="NAME", help="'local' (a small model on this machine, the default) or 'flexai'"
    )
    group.add_argument(
        "--base-url", metavar="URL", help="any OpenAI-compatible server, for example http://127.0.0.1:8000/v1"
    )
    group.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="the environment variable that holds the key (with --base-url: BATCHFLEX_API_KEY)",
    )
    group.add_argument("--model", metavar="M", help="the model to ask, whatever the job or the rows say")


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", help=_SPEC)
    parser.add_argument("--out", metavar="DIR", help="the output folder (runs/NAME)")
    _add_endpoint_options(parser)
    group = parser.add_argument_group("job", "each of these wins over the job file")
    group.add_argument("--limit", metavar="N", help="only the first N rows of the input")
    group.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a place in the job file (limits.rpm=60), or a request parameter (max_tokens=4096); may be repeated",
    )
    group.add_argument(
        "--on-change",
        metavar="WHAT",
        help="if the job changed since the answers in the folder: 'stop' and say so (default), 'rerun' what changed, "
        "'keep' the old answers",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument("--concurrency", metavar="N|auto", help="requests in flight at most (auto)")
    limits.add_argument("--rpm", metavar="N", help="requests a minute at most")
    limits.add_argument("--tpm", metavar="N", help="tokens a minute at most")
    limits.add_argument("--budget-usd", metavar="X", help="dollars at most, by [prices] of the job file")
    limits.add_argument("--deadline", metavar="WHEN", help="send nothing more after this time: 30m, 2h, 1h30m or 06:30")


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"wants a whole number, 1 or more; found {text!r}")
    return number


_PLACES = {
    "out": "job.out",
    "on_change": "job.on_change",
    "limit": "input.limit",
    "concurrency": "limits.concurrency",
    "rpm": "limits.rpm",
    "tpm": "limits.tpm",
    "budget_usd": "limits.budget_usd",
    "deadline": "limits.deadline",
}
_TEXTS = {"out", "on_change", "deadline"}


def _settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    from .job import parse_setting

    settings = [parse_setting(text) for text in getattr(options, "set", [])]
    for name, place in _PLACES.items():
        given = getattr(options, name, None)
        if given is not None:
            settings.append((place, given if name in _TEXTS else parse_setting(f"{place}={given}")[1]))
    if options.model is not None:
        settings.append(("override.model", options.model))
    if options.endpoint and options.base_url:
        raise JobError("--endpoint and --base-url exclude each other")
    named = {"name": options.endpoint, "base_url": options.base_url, "api_key_env": options.api_key_env}
    settings += [(f"endpoint.{name}", value) for name, value in named.items() if value is not None]
    places = dict(settings)
    if "endpoint.name" in places or "endpoint.base_url" in places:
        # Another server: nothing of the job file's own belongs to it, its key least of all.
        own = ["name", "base_url", "api_key_env"]
        if places.get("endpoint.name") != "local":
            own.append("model_path")
        settings = [*((f"endpoint.{name}", None) for name in own), *settings]
    return settings


def _job(options: argparse.Namespace) -> Job:
    from .job import build, read

    settings = _settings(options)
    if options.spec is None:
        return build({}, settings)
    return read(options.spec, settings)


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


def _run(options: argparse.Namespace) -> int:
    with _no_collections():
        from . import progress, render
        from .api import execute
    job = _job(options)
    observer = progress.choose(quiet=options.quiet)
    for warning in job.warnings():
        observer.note(f"warning: {warning}")
    try:
        run = execute(job, observer=observer, heed_signals=True)
    finally:
        observer.close()
    if options.json:
        _print_json(run.summary)
    if not options.quiet:
        _say(render.summary(run.summary))
        _say_scores(run.scores, run.unscored)
    elif run.unscored is not None:
        _say(f"batchflex: {run.unscored}")
    elif run.summary["message"]:
        _say(f"batchflex: {job.job.name} {run.summary['status']}: {run.summary['message']}")
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

    job = _job(options)
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


def _check(options: argparse.Namespace) -> int:
    import anyio

    from . import checking

    if options.spec is not None and not options.spec.lower().endswith(".toml"):
        raise JobError(f"check takes a job file (.toml), or no file at all; found {options.spec!r}")
    job = _job(options)
    report = anyio.run(checking.check, job)
    print(report.text)
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
