"""The options of the command line: what each verb takes, and the job that they make."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import JobError

if TYPE_CHECKING:
    from .job import Job

Verb = Callable[[argparse.Namespace], int]

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


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, in place of the whole usage. No abbreviations: a later option could make them ambiguous."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see: {self.prog} --help\n")


def refuse(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> NoReturn:
    first = unknown[0].partition("=")[0]
    if not first.startswith("-"):
        parser.error(f"{first!r} is one thing too many")
    near = difflib.get_close_matches(first, re.findall(r"--[a-z-]+", parser.format_help()), n=1)
    parser.error(f"there is no option {first}" + (f"; did you mean {near[0]}?" if near else ""))


def parser(verbs: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """The parser of the command line. ``verbs`` are what the verbs do, by their names."""
    whole = _Parser(
        prog="batchflex",
        description=_ABOUT,
        epilog=_EXIT_CODES,
    )
    whole.add_argument("--version", action="version", version=f"batchflex {__version__}")
    whole.add_argument("--debug", action="store_true", help="show tracebacks")
    added_to = whole.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, brief: str, more: str = "") -> argparse.ArgumentParser:
        about = f"{brief[0].upper()}{brief[1:]}.\n\n{textwrap.fill(more, 100)}".strip()
        added = added_to.add_parser(name, help=brief, description=about)
        added.set_defaults(verb=verbs[name], parser=added)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        return added

    run = verb("run", "ask everything that has no answer yet", "Progress goes to standard error.")
    run.epilog = _EXIT_CODES
    _add_job_options(run)
    run.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary; errors are still said")
    run.add_argument("--json", action="store_true", help="print the summary as one line of JSON on standard output")

    plan = verb(
        "plan",
        "show what would be sent, and send nothing",
        "Counts, the sweep, one request in full, an estimate of tokens and cost, and what is done already. No network.",
    )
    _add_job_options(plan)
    plan.add_argument("--json", action="store_true", help="print it as one line of JSON")

    status = verb("status", "show how a run is going, or how it ended")
    status.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    status.add_argument("--watch", action="store_true", help="show it again every second until the run ends")
    status.add_argument("--json", action="store_true", help="print run.json as one line")

    results = verb(
        "results",
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
        "hold the scores of two runs, or of two sweep points, against each other",
        "Paired by item: differences with intervals and p-values, and the items that flipped.",
    )
    compare.add_argument("out", metavar="A", help="an output folder, or a sweep point of it: OUT@temperature=0.7")
    compare.add_argument("other", metavar="B", nargs="?", help="the other side; left out, A has just two sweep points")
    compare.add_argument("--rows", type=_positive, default=10, metavar="N", help="how many flips to show (10)")
    compare.add_argument("-o", "--output", metavar="FILE", help="write all flips to FILE.parquet, .csv or .jsonl")
    compare.add_argument("--json", action="store_true", help="print it as one line of JSON, without the flips")

    retry = verb(
        "retry",
        "ask again the rows that a condition chooses",
        "Such as: batchflex retry OUT --where \"status = 'truncated'\" --set max_tokens=4096. Shows first how many rows that is "
        "and what it may cost. An old answer stays until a new one is there, and in OUT/parts after that.",
    )
    retry.epilog = _EXIT_CODES
    retry.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    retry.add_argument(
        "--where", metavar="SQL", required=True, help="a condition over the columns of the results and their scores"
    )
    retry.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="a request parameter for these rows (max_tokens=4096), or how to ask (limits.rpm=60); may be repeated",
    )  # fmt: skip
    retry.add_argument("--dry-run", action="store_true", help="only show what would be asked")
    retry.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation, as on a terminal")
    retry.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary; errors are still said")
    retry.add_argument("--json", action="store_true", help="print the summary as one line of JSON on standard output")

    compact = verb(
        "compact",
        "merge small parts of an output folder, and drop what is old and superseded",
        "The answers stay the same; that is checked, and it may be killed at any moment. Says first what it is going to do.",
    )
    compact.add_argument("out", metavar="OUT", type=Path, help="the output folder")
    compact.add_argument(
        "--older-than", metavar="AGE",
        help="drop answers that others have superseded, and telemetry, if they are older: 30d, 12h (nothing is dropped)",
    )  # fmt: skip
    compact.add_argument("--dry-run", action="store_true", help="only show what would be done")
    compact.add_argument("--json", action="store_true", help="print what was done as one line of JSON")

    check = verb(
        "check",
        "send one small request to see that endpoint, key and model work",
        "Of a job file, the endpoint and the model are taken. Prints the limits that the endpoint tells.",
    )
    check.add_argument("spec", nargs="?", metavar="SPEC", help="a job file (.toml)")
    _add_endpoint_options(check)
    return whole


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


def settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    from .job import parse_setting
    from .settings import elsewhere

    found = [parse_setting(text) for text in getattr(options, "set", [])]
    for name, place in _PLACES.items():
        given = getattr(options, name, None)
        if given is not None:
            found.append((place, given if name in _TEXTS else parse_setting(f"{place}={given}")[1]))
    if options.model is not None:
        found.append(("override.model", options.model))
    if options.endpoint and options.base_url:
        raise JobError("--endpoint and --base-url exclude each other")
    named = {"name": options.endpoint, "base_url": options.base_url, "api_key_env": options.api_key_env}
    found += [(f"endpoint.{name}", value) for name, value in named.items() if value is not None]
    return elsewhere(found)


def job(options: argparse.Namespace) -> Job:
    from .job import build, read

    if options.spec is None:
        return build({}, settings(options))
    return read(options.spec, settings(options))
