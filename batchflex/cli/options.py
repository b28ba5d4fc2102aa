"""The options of the command line: what each verb takes, and the job that they make."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_args

from ..config import Occasion
from ..core import JobError, __version__, one_line

if TYPE_CHECKING:
    from ..config import Job

Verb = Callable[[argparse.Namespace], int]

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
_SPEC = (
    "a job file (.toml), or the requests themselves: .jsonl or .parquet (.gz and .zst may follow), a folder "
    "or a quoted pattern of these, each row with 'messages' or in the shape of an OpenAI batch file"
)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line, in place of the whole usage. No abbreviations: a later option could make them ambiguous."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_known_args(_alone(sys.argv[1:] if args is None else args), namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}; see: {self.prog} --help\n")


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
    whole.add_argument("--debug", action="store_true", help=_DEBUG)
    added_to = whole.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, brief: str, more: str = "") -> argparse.ArgumentParser:
        about = f"{brief[0].upper()}{brief[1:]}.\n\n{textwrap.fill(more, 100)}".strip()
        added = added_to.add_parser(name, help=brief, description=about)
        added.set_defaults(verb=verbs[name], parser=added)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
        return added

    run = verb("run", "ask everything that has no answer yet", "Progress goes to standard error.")
    run.epilog = _EXIT_CODES
    _add_job_options(run)
    _add_turn_options(run)
    _add_metrics_file(run)
    _add_log_options(run)
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
    status.add_argument("out", metavar="OUT", type=_path, help="the output folder")
    status.add_argument("--watch", action="store_true", help="show it again every second until the run ends")
    status.add_argument("--json", action="store_true", help="print run.json as one line")

    history = verb(
        "history",
        "show how past runs went",
        "A line for each: when, how long, rows, tokens, spend, and how it ended; the oldest first. Also those that were killed, "
        "refused, or found another run at work.",
    )
    history.add_argument(
        "outs",
        metavar="OUT",
        type=_path_text,
        nargs="+",
        help="the output folder; or several, a folder of such, or a quoted pattern",
    )
    history.add_argument("--last", type=_positive, default=20, metavar="N", help="how many to show (20)")
    history.add_argument("--json", action="store_true", help="print them as lines of JSON")

    results = verb(
        "results",
        "show the answers, or write them to a file",
        "Also of a run in progress or interrupted. The whole table is OUT/results.parquet.",
    )
    results.add_argument("out", metavar="OUT", type=_path, help="the output folder")
    results.add_argument(
        "-o", "--output", metavar="FILE", type=_path_text,
        help="write them to FILE.parquet, .csv or .jsonl (.gz or .zst may follow the last two); - is standard output",
    )  # fmt: skip
    results.add_argument(
        "--format",
        choices=["parquet", "csv", "jsonl", "openai-batch"],
        help="what to write, whatever the name of the file is; on standard output jsonl, if it is not said. openai-batch: the "
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
        type=_names,
        help="only these columns, in this order; patterns such as parsed_* too",
    )
    results.add_argument(
        "--split-by", metavar="COLUMN", help="with -o: a file for each value of this column, FILE-VALUE.parquet"
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
    score.add_argument("out", metavar="OUT", type=_path, help="the output folder")
    score.add_argument(
        "spec", nargs="?", metavar="JOB", type=_path_text, help="a job file (.toml) whose [[score]] tables to take"
    )
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
    report.add_argument("out", metavar="OUT", type=_path, help="the output folder")
    report.add_argument("-o", "--output", metavar="FILE", type=_path, help="where to write the page (OUT/report.html)")
    report.add_argument(
        "--rows", type=_positive, default=200, metavar="N", help="rows of the random sample in the page (200)"
    )
    report.add_argument("--json", action="store_true", help="print the summary as one line of JSON")

    compare = verb(
        "compare",
        "hold the scores of two runs, or of two sweep points, against each other",
        "Paired by item: differences with intervals and p-values, and the items that flipped.",
    )
    compare.add_argument(
        "out", metavar="A", type=_path_text, help="an output folder, or a sweep point of it: OUT@temperature=0.7"
    )
    compare.add_argument(
        "other", metavar="B", nargs="?", type=_path_text, help="the other side; left out, A has just two sweep points"
    )
    compare.add_argument("--rows", type=_positive, default=10, metavar="N", help="how many flips to show (10)")
    compare.add_argument(
        "-o", "--output", metavar="FILE", type=_path_text, help="write all flips to FILE.parquet, .csv or .jsonl"
    )
    compare.add_argument("--json", action="store_true", help="print it as one line of JSON, without the flips")

    retry = verb(
        "retry",
        "ask again the rows that a condition chooses",
        "Such as: batchflex retry OUT --where \"status = 'truncated'\" --set max_tokens=4096. Shows first how many rows that is "
        "and what it may cost. An old answer stays until a new one is there, and in OUT/parts after that.",
    )
    retry.epilog = _EXIT_CODES
    retry.add_argument("out", metavar="OUT", type=_path, help="the output folder")
    retry.add_argument(
        "--where", metavar="SQL", required=True, help="a condition over the columns of the results and their scores"
    )
    retry.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[],
        help="a request parameter for these rows (max_tokens=4096), or how to ask (limits.rpm=60); may be repeated",
    )  # fmt: skip
    _add_turn_options(retry)
    retry.add_argument("--dry-run", action="store_true", help="only show what would be asked")
    retry.add_argument("-y", "--yes", action="store_true", help="do not ask for confirmation, as on a terminal")
    _add_metrics_file(retry)
    _add_log_options(retry)
    retry.add_argument("-q", "--quiet", action="store_true", help="no progress and no summary; errors are still said")
    retry.add_argument("--json", action="store_true", help="print the summary as one line of JSON on standard output")

    compact = verb(
        "compact",
        "merge small parts of an output folder, and drop what is old and superseded",
        "The answers stay the same; that is checked, and it may be killed at any moment. Says first what it is going to do.",
    )
    compact.add_argument("out", metavar="OUT", type=_path, help="the output folder")
    compact.add_argument(
        "--older-than", metavar="AGE",
        help="drop answers that others have superseded, and telemetry, if they are older: 30d, 12h (nothing is dropped)",
    )  # fmt: skip
    compact.add_argument("--dry-run", action="store_true", help="only show what would be done")
    compact.add_argument("--json", action="store_true", help="print what was done as one line of JSON")

    schedule = verb(
        "schedule",
        "print what starts a job by itself: a crontab line, systemd units, a Kubernetes CronJob",
        "With absolute paths, a log, the key from a file, and the time zone; ready to install. When it fires next is said on "
        "standard error. Starts nothing, and runs nothing in the background.",
    )
    _add_schedule_options(schedule)

    check = verb(
        "check",
        "send one small request to see that endpoint, key and model work",
        "Of a job file, the endpoint and the model are taken. Prints the limits that the endpoint tells.",
    )
    check.add_argument("spec", nargs="?", metavar="SPEC", type=_path_text, help="a job file (.toml)")
    _add_endpoint_options(check)

    notify = verb(
        "notify",
        "send a test message to those whom a job tells of its runs",
        "By the webhook and the command of [notify], as they would be told of a run. No ping is sent, no metrics file written, "
        "and nothing is asked of a model.",
    )
    notify.add_argument("spec", metavar="JOB", help="a job file (.toml)")
    notify.add_argument("--event", choices=get_args(Occasion), default="failure", help="what is told (failure)")
    notify.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a place in the job file; may be repeated"
    )
    return whole


def _add_schedule_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="JOB", help="a job file (.toml)")
    when = parser.add_mutually_exclusive_group(required=True)
    when.add_argument("--at", metavar="TIMES", help="times of the day: '02:00', '02:00,14:30', 'mon-fri 02:00'")
    when.add_argument("--cron", metavar="EXPRESSION", help="five fields as in a crontab: '0 2 * * 1-5'; or '@daily'")
    parser.add_argument(
        "--as", dest="kind", metavar="KIND", choices=["crontab", "systemd", "k8s"], default="crontab",
        help="'crontab' (default), 'systemd' or 'k8s'",
    )  # fmt: skip
    parser.add_argument(
        "--tz", metavar="ZONE", help="the time zone that the times are in, such as Europe/Berlin (the machine's)"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=_path, help="write the files into this folder instead of printing them"
    )
    parser.add_argument(
        "--options",
        metavar="TEXT",
        default="",
        help="options of the run: --options='--deadline 5h --set limits.rpm=60'",
    )
    parser.add_argument("--json", action="store_true", help="print files, notes and next times as one line of JSON")
    here = parser.add_argument_group("crontab and systemd")
    here.add_argument(
        "--log-file",
        metavar="FILE",
        type=_path_text,
        help="append what the run says to it (crontab: NAME.log; systemd: the journal)",
    )
    here.add_argument(
        "--env-file",
        metavar="FILE",
        type=_path_text,
        help="set the variables in it, a key among them: lines of NAME=VALUE",
    )
    here.add_argument(
        "--keys",
        metavar="DIR",
        help="systemd: the folder with a file for each key, named as its variable (/etc/batchflex)",
    )
    there = parser.add_argument_group("k8s")
    there.add_argument("--image", metavar="NAME", help="the container image, which has the command batchflex")
    there.add_argument(
        "--claim", metavar="NAME", help="the volume claim that holds the working folder (the job's name)"
    )
    there.add_argument(
        "--secret", metavar="NAME", help="the secret that holds the keys, by their variables (the job's name)"
    )


def _add_metrics_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metrics-file",
        metavar="FILE",
        type=_path_text,
        help="write the run's figures to FILE, whose name ends in .prom, for the textfile collector of Prometheus' node_exporter",
    )


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
    parser.add_argument("spec", metavar="SPEC", type=_path_text, help=_SPEC)
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the output folder (runs/NAME); one for each date with 'runs/{name}/{date}'",
    )
    parser.add_argument(
        "--keep-runs", metavar="N", help="of output folders per date keep the N newest; older ones that are finished go"
    )
    _add_endpoint_options(parser)
    group = parser.add_argument_group("job", "each of these wins over the job file")
    group.add_argument("--limit", metavar="N", help="only the first N rows of the input")
    group.add_argument(
        "--since", metavar="WHEN", help="only input files changed since: 24h, 2026-01-31, 2026-01-31T02:00, or 'last', the last "
        "run that finished in the folder of another date"
    )  # fmt: skip
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
    limits.add_argument(
        "--budget-usd", metavar="X", help="dollars at most, by [prices] of the job file or as the endpoint lists"
    )
    limits.add_argument("--deadline", metavar="WHEN", help="send nothing more after this time: 30m, 2h, 1h30m or 06:30")


_ALONE = "--wait="
_MOST = 1_000_000_000  # rows, runs
_LONGEST, _LONGEST_NAME = 4000, 255  # of a path


def _add_turn_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "when another run holds the folder", "without these: exit 4"
    ).add_mutually_exclusive_group()
    group.add_argument(
        "--wait",
        metavar="TIME",
        type=_waiting,
        help="wait until it ends, at most so long (30m, 2h); without TIME, as long as it takes",
    )
    group.add_argument("--skip", action="store_true", help="say so, and exit 0")


def _alone(arguments: Sequence[str]) -> list[str]:
    """``--wait`` takes a time only where what follows looks like one, so that it can stand before the job."""
    found = list(arguments)
    for number, word in enumerate(found):
        if word == "--":
            break
        after = found[number + 1] if number + 1 < len(found) else ""
        if word == "--wait" and not re.fullmatch(r"\d+(\.\d+)?[A-Za-z]*(\d+[A-Za-z]+)*", after):
            found[number] = _ALONE
    return found


def _waiting(text: str) -> float:
    """Seconds."""
    if not text:
        return float("inf")
    from ..config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_log_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("log")
    group.add_argument(
        "--log-file",
        metavar="FILE",
        type=_path_text,
        help="write the log to FILE too; older lines go to FILE.1, FILE.2, …",
    )
    group.add_argument(
        "--log-format",
        choices=["text", "json"],
        help="of the log file, and of standard error where that is no terminal (text)",
    )
    group.add_argument(
        "--log-prompts",
        action="store_const",
        const=True,
        help="what servers say, and what failed rows asked, may be logged",
    )


def log_settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    """What the options say of the log, as dotted places."""
    given = {place: getattr(options, name, None) for name, place in _LOG_PLACES.items()}
    if given["log.file"]:
        given["log.file"] = str(Path(given["log.file"]).absolute())
    return [(place, value) for place, value in given.items() if value is not None]


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("wants names of columns, with commas between them")
    return names


def _path(text: str) -> Path:
    return Path(_path_text(text))


def _path_text(text: str) -> str:
    """What some file system may take."""
    names = [name.encode("utf-8", "surrogatepass") for name in text.split("/")]
    if not text:
        raise argparse.ArgumentTypeError("a path is not empty")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"a path holds no NUL character; found {text!r:.80}")
    if len(text) > _LONGEST or max(map(len, names)) > _LONGEST_NAME:
        raise argparse.ArgumentTypeError(
            f"a path has {_LONGEST:,} characters at most, and {_LONGEST_NAME} bytes in one name; found {text!r:.80}"
        )
    return text


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not 1 <= number <= _MOST:
        raise argparse.ArgumentTypeError(f"wants a whole number from 1 to {_MOST:,}; found {text!r:.80}")
    return number


_LOG_PLACES = {"log_file": "log.file", "log_format": "log.format", "log_prompts": "log.prompts"}
_PLACES = {
    "out": "job.out",
    "keep_runs": "job.keep_runs",
    "on_change": "job.on_change",
    "limit": "input.limit",
    "since": "input.since",
    "concurrency": "limits.concurrency",
    "rpm": "limits.rpm",
    "tpm": "limits.tpm",
    "budget_usd": "limits.budget_usd",
    "deadline": "limits.deadline",
    "metrics_file": "notify.metrics_file",
}
_TEXTS = {"out", "on_change", "deadline", "since", "metrics_file"}


def settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    from ..config import for_another_server, parse_setting

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
    return for_another_server([*found, *log_settings(options)])


def job(options: argparse.Namespace) -> Job:
    import datetime

    from ..config import build, read

    found = settings(options)
    if options.spec is None:
        from ..config import environment_of

        return build({}, found, environment=environment_of({}, found, Path()))
    made = read(options.spec, found, moment=datetime.datetime.now())
    if "\0" in str(made.out):
        raise JobError(f"job.out: a path holds no NUL character; found {str(made.out)!r:.80}")
    return made
