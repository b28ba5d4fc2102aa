"""Groups of options: those that several verbs share, and those that are many."""

from __future__ import annotations

import argparse

from .option_types import path, path_text, wait_s

_SPEC = (
    "a job file (.toml), or the requests themselves: .jsonl or .parquet (.gz and .zst may follow), a folder "
    "or a quoted pattern of these, each row with 'messages' or in the shape of an OpenAI batch file"
)


def add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", metavar="OUT", type=path, help="the output folder")


def add_set(parser: argparse._ActionsContainer, about: str) -> None:
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help=about)


def add_quiet(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help=about)


def add_json(parser: argparse.ArgumentParser, about: str) -> None:
    parser.add_argument("--json", action="store_true", help=about)


def add_options_of_sending(parser: argparse.ArgumentParser) -> None:
    """What ``run`` and ``retry`` have alike."""
    parser.add_argument(
        "--metrics-file",
        metavar="FILE",
        type=path_text,
        help="write the run's figures to FILE, whose name ends in .prom, for the textfile collector of Prometheus' node_exporter",
    )
    add_log_options(parser)
    add_quiet(parser, "no progress and no summary; errors are still shown")
    add_json(parser, "print the summary as one line of JSON on standard output")


def add_schedule_options(parser: argparse.ArgumentParser) -> None:
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
        "--out", metavar="DIR", type=path, help="write the files into this folder instead of printing them"
    )
    parser.add_argument(
        "--options",
        metavar="TEXT",
        default="",
        help="options of the run: --options='--deadline 5h --set limits.rpm=60'",
    )
    add_json(parser, "print files, notes and next times as one line of JSON")
    here = parser.add_argument_group("crontab and systemd")
    here.add_argument(
        "--log-file",
        metavar="FILE",
        type=path_text,
        help="append the output of the run to it (crontab: NAME.log; systemd: the journal)",
    )
    here.add_argument(
        "--env-file",
        metavar="FILE",
        type=path_text,
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


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
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


def add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC", type=path_text, help=_SPEC)
    parser.add_argument(
        "--out", metavar="DIR", help="the output folder (runs/NAME); one for each date with 'runs/{name}/{date}'"
    )
    parser.add_argument(
        "--keep-runs", metavar="N", help="of output folders per date keep the N newest; older ones that are finished go"
    )
    add_endpoint_options(parser)
    group = parser.add_argument_group("job", "each of these wins over the job file")
    group.add_argument("--limit", metavar="N", help="only the first N rows of the input")
    group.add_argument(
        "--since", metavar="WHEN", help="only input files changed since: 24h, 2026-01-31, 2026-01-31T02:00, or 'last', the last "
        "run that finished in the folder of another date"
    )  # fmt: skip
    add_set(group, "a place in the job file (limits.rpm=60), or a request parameter (max_tokens=4096); may be repeated")
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


def add_lock_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "when another run holds the folder", "without these: exit 4"
    ).add_mutually_exclusive_group()
    group.add_argument(
        "--wait",
        metavar="TIME",
        type=wait_s,
        help="wait until it ends, at most so long (30m, 2h); without TIME, as long as it takes",
    )
    group.add_argument("--skip", action="store_true", help="print that, and exit 0")


def add_log_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("log")
    group.add_argument(
        "--log-file",
        metavar="FILE",
        type=path_text,
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
        help="what servers say, and the prompts of failed rows, may be logged",
    )
