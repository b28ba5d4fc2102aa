"""The options of each verb, and what ``--help`` says of them."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn, get_args

from ..config import Occasion
from ..core import __version__, one_line
from . import option_groups as groups
from .option_types import names, path, path_text, positive, with_optional_wait

_ABOUT = """\
Ask a language model many questions, and get a Parquet table of the answers.

  batchflex run requests.jsonl --base-url http://127.0.0.1:8000/v1 --model m
  batchflex run job.toml

A run that was interrupted, killed or stopped goes on where it was: run the same command again. Nothing that was
answered is asked twice."""

_EXIT_CODES = """\
exit codes:
  0    every row was answered; or the run was skipped (--skip)
  1    finished, but some rows are 'failed', 'invalid' or 'empty'
  2    the job, the input or the command line is wrong; nothing was sent
  3    stopped early and resumable; the summary and run.json say why
  4    another run holds the output folder
  130  interrupted by Ctrl-C (143: by SIGTERM, 129: by SIGHUP, as a terminal is closed); resumable"""

_DEBUG = "show tracebacks, and by which rules failures are read"


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, in place of the whole usage. No abbreviations: a later option could make them ambiguous."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(with_optional_wait(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        end = " See" if message.endswith("?") else "; see"
        self.exit(2, f"{self.prog}: {one_line(message)}{end}: {self.prog} --help\n")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options as given, by default those of the process; ``verb`` is the verb's name. Exits with 2 if they are wrong."""
    options, unknown = parser().parse_known_args(arguments)
    if unknown:
        _refuse(options.parser, unknown)
    return options


def _refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    first = unknown[0].partition("=")[0]
    if not first.startswith("-"):
        parser.error(f"unexpected argument {first!r}")
    near = difflib.get_close_matches(first, re.findall(r"--[a-z-]+", parser.format_help()), n=1)
    parser.error(f"there is no option {first}" + (f"; did you mean {near[0]}?" if near else ""))


class _Verbs:
    """Makes the parser of each verb."""

    def __init__(self, whole: argparse.ArgumentParser) -> None:
        self._added_to = whole.add_subparsers(title="verbs", metavar="VERB", required=True)

    def add(self, name: str, brief: str, more: str = "", epilog: str | None = None) -> argparse.ArgumentParser:
        about = f"{brief[0].upper()}{brief[1:]}.\n\n{textwrap.fill(more, 100)}".strip()
        added = self._added_to.add_parser(name, help=brief, description=about, epilog=epilog)
        added.set_defaults(verb=name, parser=added)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
        return added


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    whole = _Parser(prog="batchflex", description=_ABOUT, epilog=_EXIT_CODES)
    whole.add_argument("--version", action="version", version=f"batchflex {__version__}")
    whole.add_argument("--debug", action="store_true", help=_DEBUG)
    verbs = _Verbs(whole)
    for add in (_run, _plan, _status, _history, _results, _score, _report):
        add(verbs)
    for add in (_compare, _retry, _compact, _schedule, _check, _notify):
        add(verbs)
    return whole


def _run(verbs: _Verbs) -> None:
    run = verbs.add("run", "ask everything that has no answer yet", "Progress goes to standard error.", _EXIT_CODES)
    groups.add_job_options(run)
    groups.add_lock_options(run)
    groups.add_options_of_sending(run)


def _plan(verbs: _Verbs) -> None:
    plan = verbs.add(
        "plan",
        "show what would be sent, and send nothing",
        "Counts, the sweep, one request in full, an estimate of tokens and cost, and what is done already. No network.",
    )
    groups.add_job_options(plan)
    groups.add_json(plan, "print it as one line of JSON")


def _status(verbs: _Verbs) -> None:
    status = verbs.add("status", "show how a run is going, or how it ended")
    groups.add_out(status)
    status.add_argument("--watch", action="store_true", help="show it again every second until the run ends")
    groups.add_json(status, "print run.json as one line")


def _history(verbs: _Verbs) -> None:
    history = verbs.add(
        "history",
        "show how past runs went",
        "A line for each: when, how long, rows, tokens, spend, and how it ended; the oldest first. Also those that were killed, "
        "refused, or found another run at work.",
    )
    history.add_argument(
        "outs",
        metavar="OUT",
        type=path_text,
        nargs="+",
        help="the output folder; or several, a folder of such, or a quoted pattern",
    )
    history.add_argument("--last", type=positive, default=20, metavar="N", help="how many to show (20)")
    groups.add_json(history, "print them as lines of JSON")


def _results(verbs: _Verbs) -> None:
    results = verbs.add(
        "results",
        "show the answers, or write them to a file",
        "Also of a run in progress or interrupted. The whole table is OUT/results.parquet, or OUT/results/ if the job says so.",
    )
    groups.add_out(results)
    results.add_argument(
        "-o", "--output", metavar="FILE", type=path_text,
        help="write them to FILE.parquet, .csv or .jsonl (.gz or .zst may follow the last two); - is standard output",
    )  # fmt: skip
    results.add_argument(
        "--format",
        choices=["parquet", "csv", "jsonl", "openai-batch"],
        help="what to write, whatever the name of the file is; on standard output jsonl by default. openai-batch: the "
        "lines of an OpenAI batch output file, failures in FILE_errors.jsonl; of a folder, in files named as OpenAI does",
    )
    results.add_argument(
        "--where",
        metavar="SQL",
        help="only rows that a condition chooses, over the columns of the results and their scores",
    )
    results.add_argument(
        "--columns",
        metavar="A,B,…",
        type=names,
        help="only these columns, in this order; patterns such as parsed_* too",
    )
    results.add_argument(
        "--split-by", metavar="COLUMN", help="with -o: a file for each value of this column, FILE-VALUE.parquet"
    )
    results.add_argument(
        "--reparse", action="store_true", help="parse the stored answers again, by [answer] of the job; sends nothing"
    )
    groups.add_set(results, "with --reparse: a place in [answer], such as answer.lenient=true; may be repeated")
    results.add_argument("--rows", type=positive, default=20, metavar="N", help="how many rows to show (20)")


def _score(verbs: _Verbs) -> None:
    score = verbs.add(
        "score",
        "score the answers of a folder, again or in another way",
        "By the [[score]] tables of the folder's job, or of another job file. No row is sent again; a judge is asked only for "
        "grades that are missing.",
    )
    groups.add_out(score)
    score.add_argument(
        "spec", nargs="?", metavar="JOB", type=path_text, help="a job file (.toml) whose [[score]] tables to take"
    )
    groups.add_set(score, "a place in a score (score.accuracy.ignore_case=true); may be repeated")
    groups.add_quiet(score, "no progress of a judge")
    groups.add_json(score, "print scores.json as one line")


def _report(verbs: _Verbs) -> None:
    report = verbs.add(
        "report",
        "write OUT/report.html and show a summary",
        "One page with scores, charts and a searchable sample of rows, which opens anywhere and loads nothing. Also of a "
        "run in progress.",
    )
    groups.add_out(report)
    report.add_argument("-o", "--output", metavar="FILE", type=path, help="where to write the page (OUT/report.html)")
    report.add_argument(
        "--rows", type=positive, default=200, metavar="N", help="rows of the random sample in the page (200)"
    )
    groups.add_json(report, "print the summary as one line of JSON")


def _compare(verbs: _Verbs) -> None:
    compare = verbs.add(
        "compare",
        "compare the scores of two runs, or of two sweep points",
        "Paired by item: differences with intervals and p-values, and the items that flipped.",
    )
    compare.add_argument(
        "out", metavar="A", type=path_text, help="an output folder, or a sweep point of it: OUT@temperature=0.7"
    )
    compare.add_argument(
        "other",
        metavar="B",
        nargs="?",
        type=path_text,
        help="the other one; may be left out if A has just two sweep points",
    )
    compare.add_argument("--rows", type=positive, default=10, metavar="N", help="how many flips to show (10)")
    compare.add_argument(
        "-o", "--output", metavar="FILE", type=path_text, help="write all flips to FILE.parquet, .csv or .jsonl"
    )
    groups.add_json(compare, "print it as one line of JSON, without the flips")


def _retry(verbs: _Verbs) -> None:
    retry = verbs.add(
        "retry",
        "ask again the rows that a condition chooses",
        "Such as: batchflex retry OUT --where \"status = 'truncated'\" --set max_tokens=4096. Shows first how many rows that is "
        "and what it may cost. An old answer stays until a new one is there, and in OUT/parts after that.",
        _EXIT_CODES,
    )
    groups.add_out(retry)
    retry.add_argument(
        "--where", metavar="SQL", required=True, help="a condition over the columns of the results and their scores"
    )
    groups.add_set(
        retry, "a request parameter for these rows (max_tokens=4096), or how to ask (limits.rpm=60); may be repeated"
    )
    groups.add_lock_options(retry)
    retry.add_argument("--dry-run", action="store_true", help="only show what would be asked")
    retry.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation, as on a terminal")
    groups.add_options_of_sending(retry)


def _compact(verbs: _Verbs) -> None:
    compact = verbs.add(
        "compact",
        "merge small parts of an output folder, and drop what is old and superseded",
        "The answers stay the same; that is checked, and it may be killed at any moment. Shows first what it is going to do.",
    )
    groups.add_out(compact)
    compact.add_argument(
        "--older-than", metavar="AGE",
        help="drop answers that others have superseded, and telemetry, if they are older: 30d, 12h (nothing is dropped)",
    )  # fmt: skip
    compact.add_argument("--dry-run", action="store_true", help="only show what would be done")
    groups.add_json(compact, "print what was done as one line of JSON")


def _schedule(verbs: _Verbs) -> None:
    schedule = verbs.add(
        "schedule",
        "print what starts a job by itself: a crontab line, systemd units, a Kubernetes CronJob",
        "With absolute paths, a log, the key from a file, and the time zone; ready to install. When it fires next is printed to "
        "standard error. Starts nothing, and runs nothing in the background.",
    )
    groups.add_schedule_options(schedule)


def _check(verbs: _Verbs) -> None:
    check = verbs.add(
        "check",
        "send one small request to see that endpoint, key and model work",
        "Of a job file, the endpoint and the model are taken. Prints the limits that the endpoint reports.",
    )
    check.add_argument("spec", nargs="?", metavar="SPEC", type=path_text, help="a job file (.toml)")
    groups.add_endpoint_options(check)


def _notify(verbs: _Verbs) -> None:
    notify = verbs.add(
        "notify",
        "send a test message to those whom a job notifies",
        "By the webhook and the command of [notify], as after a run. No ping is sent, no metrics file written, "
        "and nothing is asked of a model.",
    )
    notify.add_argument("spec", metavar="JOB", help="a job file (.toml)")
    notify.add_argument("--event", choices=get_args(Occasion), default="failure", help="the event to report (failure)")
    groups.add_set(notify, "a place in the job file; may be repeated")
