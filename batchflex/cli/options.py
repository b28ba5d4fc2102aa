"""The options of each verb, written as ``--help`` shows them."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from ..config import Occasion
from ..core import __version__
from .option_parser import Parser, refuse_unknown
from .option_types import (
    above_0,
    correlation,
    folder,
    from_0,
    labels,
    names,
    path,
    path_text,
    positive,
    schedule_kind,
    share,
    wait_s,
)

_ABOUT = """\
Ask a language model many questions, and get a Parquet table of the answers.

  batchflex run requests.jsonl --base-url http://127.0.0.1:8000/v1 --model m
  batchflex run tickets.csv --prompt 'Which team? {{ text }}' --choices billing,bug,other --model m
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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options as given, by default those of the process; ``verb`` is the verb's name, ``words`` are all as they were given.

    :raises CommandLineError: if they are wrong.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, unknown = parser(words[0] if words else None).parse_known_args(words)
    if unknown:
        refuse_unknown(options.parser, unknown)
    options.words = words
    return options


def parser(verb: str | None = None) -> argparse.ArgumentParser:
    """With the options of all verbs, or of one alone, if there is such a verb: to make all of them takes a tenth of the time
    until the first request."""
    whole = Parser(prog="batchflex", description=_ABOUT, epilog=_EXIT_CODES)
    whole.add_argument("--version", action="version", version=f"batchflex {__version__}")
    whole.add_argument("--debug", action="store_true", help=_DEBUG)
    verbs = _Verbs(whole, verb)
    _add_verbs_of_runs(verbs)
    _add_verbs_of_answers(verbs)
    _add_verbs_of_setting_up(verbs)
    return whole if verbs.has_some else parser()


class _Unused:
    """Stands for the parser of a verb that is not asked for, and for all parts of it."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self


class _Verbs:
    """Makes the parser of each verb, or of ``only`` one."""

    def __init__(self, whole: argparse.ArgumentParser, only: str | None = None) -> None:
        self._added_to = whole.add_subparsers(title="verbs", metavar="VERB", required=True)
        self._only = only
        self.has_some = False

    def add(
        self,
        name: str,
        brief: str,
        more: str = "",
        table: str = "",
        settings: Mapping[str, Any] = {},
        epilog: str | None = None,
    ) -> Any:
        if self._only not in (None, name):
            return _Unused()
        self.has_some = True
        about = f"{brief[0].upper()}{brief[1:]}.\n\n{textwrap.fill(more, 100)}".strip()
        added = self._added_to.add_parser(name, help=brief, description=about, epilog=epilog)
        added.set_defaults(verb=name, parser=added)
        added.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=_DEBUG)
        _add(added, table, settings)
        return added


_TYPES = {"FILE": path_text, "SPEC": path_text, "OUT": folder}  # by metavar
_SETTINGS: dict[str, dict[str, Any]] = {
    "set": {"action": "append", "default": []},
    "log_prompts": {"action": "store_const", "const": True},
}


def _add(to: argparse._ActionsContainer | _Unused, table: str, settings: Mapping[str, Any] = {}) -> None:
    """Add what a table lists: in each line the names of an option, its metavar (or choices in braces; none of a flag), and after
    two spaces its help, which may go on in indented lines. ``settings`` are further ones for argparse, by name."""
    if isinstance(to, _Unused):
        return
    for line in re.sub(r"\n +", " ", textwrap.dedent(table).strip()).splitlines():
        usage, about = re.split("  +", line, maxsplit=1)
        flags = [word.rstrip(",") for word in usage.split() if word.startswith("-")]
        others = [word for word in usage.split() if not word.startswith("-")]
        named = flags or [others.pop(0)]
        given: dict[str, Any] = {"help": about}
        if not others:
            given["action"] = "store_true"
        elif others[0].startswith("{"):
            given["choices"] = others[0].strip("{}").split(",")
        else:
            given |= {"metavar": others[0], "type": _TYPES.get(others[0])}
        name = named[-1].lstrip("-").replace("-", "_")
        to.add_argument(*named, **given | _SETTINGS.get(name, {}) | settings.get(name, {}))


# -------------------------------------------------------------------------------------------- what several verbs have


def _add_job_options(parser: argparse.ArgumentParser, **of_spec: Any) -> None:
    _add(parser, """
        spec SPEC      a job file (.toml), or the input itself: .jsonl, .parquet or .csv (.gz and .zst may follow), a folder or a
                       quoted pattern of these. Rows have 'messages', or the shape of an OpenAI batch file; or --prompt makes
                       requests of their columns
        --out DIR      the output folder (runs/NAME); one for each date with 'runs/{name}/{date}'
        --keep-runs N  of output folders per date keep the N newest; older ones that are finished go
    """, {"spec": of_spec})  # fmt: skip
    _add_endpoint_options(parser)
    _add_prompt_options(parser)
    _add(parser.add_argument_group("job", "each of these wins over the job file"), """
        --limit N         only the first N rows of the input
        --since WHEN      only input files changed since: 24h, 2026-01-31, 2026-01-31T02:00, or 'last', the last run that finished
                          in the folder of another date
        --set KEY=VALUE   a place in the job file (limits.rpm=60), or a request parameter (max_tokens=4096); may be repeated
        --on-change WHAT  if the job changed since the answers in the folder: 'stop' and say so (default), 'rerun' what changed,
                          'keep' the old answers
    """)  # fmt: skip
    _add(parser.add_argument_group("limits"), """
        --concurrency N|auto  requests in flight at most (auto)
        --rpm N               requests a minute at most
        --tpm N               tokens a minute at most
        --budget-usd X        dollars at most, by [prices] of the job file or as the endpoint lists
        --deadline WHEN       send nothing more after this time: 30m, 2h, 1h30m or 06:30
    """)  # fmt: skip


def _add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    _add(parser.add_argument_group("endpoint"), """
        --endpoint NAME         'local' (a small model on this machine, the default) or 'flexai'
        --base-url URL          any OpenAI-compatible server, for example http://127.0.0.1:8000/v1
        --api-key-env VARIABLE  the environment variable that holds the key (with --base-url: BATCHFLEX_API_KEY)
        --model M               the model to ask, whatever the job or the rows say
    """)  # fmt: skip


def _add_prompt_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompt", "for an input without a job file, or in place of what that says")
    _add(group, """
        --prompt TEXT  what to ask of each row, with its columns in braces: 'Which team? {{ text }}'
        --system TEXT  the system message, likewise
        --id COLUMN    the column that tells rows apart when the input changes (id)
        --carry A,B,…  columns that the results have beside the answers; '*' for all, as without a job file
    """, {"carry": {"type": names}})  # fmt: skip
    _add(group.add_mutually_exclusive_group(), """
        --choices A,B,…  the answer is one of these, in the column 'label' of the results
        --schema FILE    the answer is JSON that fits the JSON Schema in this file; each field becomes a column
    """, {"choices": {"type": labels}})  # fmt: skip


def _add_lock_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("when another run holds the folder", "without these: exit 4")
    _add(group.add_mutually_exclusive_group(), """
        --wait TIME  wait until it ends, at most so long (30m, 2h); without TIME, as long as it takes
        --skip       print that, and exit 0
    """, {"wait": {"type": wait_s}})  # fmt: skip


def _add_sending_options(parser: argparse.ArgumentParser) -> None:
    _add(parser, """
        --processes N        send the rows from so many processes of this machine; limits hold for all of them together
        --metrics-file FILE  write the run's figures to FILE, whose name ends in .prom, for the textfile collector of Prometheus'
                             node_exporter
    """, {"processes": {"type": positive}})  # fmt: skip
    _add(parser.add_argument_group("log"), """
        --log-file FILE           write the log to FILE too; older lines go to FILE.1, FILE.2, …
        --log-format {text,json}  of the log file, and of standard error where that is no terminal (text)
        --log-prompts             what servers say, and the prompts of failed rows, may be logged
    """)  # fmt: skip
    _add(parser, """
        -q, --quiet  no progress and no summary; errors are still shown
        --json       print the summary as one line of JSON on standard output
    """)  # fmt: skip


# ----------------------------------------------------------------------------------------------------------- the verbs


def _add_verbs_of_runs(verbs: _Verbs) -> None:
    run = verbs.add(
        "run", "ask everything that has no answer yet", "Progress goes to standard error.", epilog=_EXIT_CODES
    )
    _add_job_options(run)
    _add_lock_options(run)
    _add_sending_options(run)
    _add(run.add_argument_group("as one task of an array job", "on machines that share a file system"), """
        --shards N   run one of so many parts of the job; together they ask everything, each request once
        --shard I    which one, from 0; else as SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX or AWS_BATCH_JOB_ARRAY_INDEX say
        --at-once K  how many of them run at the same time (all): rates and concurrency are divided by that
    """, {"shards": {"type": positive}, "shard": {"type": from_0}, "at_once": {"type": positive}})  # fmt: skip
    plan = verbs.add(
        "plan", "show what would be sent, and send nothing",
        "Counts, the sweep, one request in full, an estimate of tokens and cost, and what is done already. No network.",
    )  # fmt: skip
    _add_job_options(plan)
    _add(plan.add_argument_group("what its rows can show", "of two sides that answer the same rows"), """
        --detect X   how many rows it takes to find a difference of X between the scores of two sides (0.02), and the smallest one
                     that the rows there are can show
        --expect P   the accuracy that is expected of both sides (0.5, which takes most rows)
        --like OUT   or: take the variance from the scores of an earlier run, or a sweep point of it: OUT@prompt=bare
        --icc R      how alike rows of one cluster are, where the score names a cluster: 0 not at all, 1 all the same
        --score NAME  of that run, this score (its first); without --like, the one of the job whose cluster counts
        --power P    the probability to find such a difference (0.8)
    """, {
        "detect": {"type": above_0}, "expect": {"type": share}, "icc": {"type": correlation}, "like": {"type": path_text},
        "power": {"type": share, "default": 0.8},
    })  # fmt: skip
    _add(plan, "--json  print it as one line of JSON")
    verbs.add("status", "show how a run is going, or how it ended", table="""
        out OUT  the output folder
        --watch  show it again every second until the run ends
        --json   print run.json as one line
    """)  # fmt: skip
    verbs.add(
        "history", "show how past runs went",
        "A line for each: when, how long, rows, tokens, spend, and how it ended; the oldest first. Also those that were killed, "
        "refused, or found another run at work.", """
        outs OUT  the output folder; or several, a folder of such, or a quoted pattern
        --last N  how many to show (20)
        --json    print them as lines of JSON
    """, {"outs": {"type": path_text, "nargs": "+"}, "last": {"type": positive, "default": 20}})  # fmt: skip


def _add_verbs_of_answers(verbs: _Verbs) -> None:
    verbs.add(
        "results", "show the answers, or write them to a file",
        "Also of a run in progress or interrupted. The whole table is OUT/results.parquet, or OUT/results/ if the job says "
        "so.", """
        out OUT            the output folder
        -o, --output FILE  write them to FILE.parquet, .csv, .tsv, .jsonl, .json (.gz or .zst may follow these but the first) or
                           .xlsx; - is standard output
        --format {parquet,csv,tsv,jsonl,json,xlsx,openai-batch}  what to write, whatever the name of the file is; on standard
                           output jsonl by default. openai-batch: the lines of an OpenAI batch output file, failures in
                           FILE_errors.jsonl; of a folder, in files named as OpenAI does
        --excel            CSV and TSV for a spreadsheet: its encoding is told, and nothing in it is taken for a formula
        --plain            name the ids 'id', whatever they are called in the input, and leave JSON in JSON text
        --row ID           everything about one row: its id, or its key, or its number in the input
        --counts A[,B]     how often each value of a column is there, of two each pair
        --where SQL        only rows that a condition chooses, over the columns of the results and their scores
        --columns A,B,…    only these columns, in this order; patterns such as parsed_* too
        --split-by COLUMN  with -o: a file for each value of this column, FILE-VALUE.parquet
        --reparse          parse the stored answers again, by [answer] of the job; sends nothing
        --set KEY=VALUE    with --reparse: a place in [answer], such as answer.lenient=true; may be repeated
        --rows N           how many rows to show, or of --counts values (20)
        --json             print what is shown, or what was written, as one line of JSON
    """, {"columns": {"type": names}, "counts": {"type": names}, "rows": {"type": positive, "default": 20}})  # fmt: skip
    verbs.add(
        "score", "score the answers of a folder, again or in another way",
        "By the [[score]] tables of the folder's job, or of another job file. No row is sent again; a judge is asked only for "
        "grades that are missing.", """
        out OUT            the output folder
        spec JOB           a job file (.toml) whose [[score]] tables to take
        --so-far           the scores of what is answered by now, also while a run goes on; writes nothing, asks no judge
        --set KEY=VALUE    a place in a score (score.accuracy.ignore_case=true); may be repeated
        --cluster COLUMN   rows with the same value there are not independent of each other (questions of one passage); as
                           'cluster' in each [[score]]
        --baseline POINT   the sweep point to compare the others with: variable=value,… (the one that scores highest); as
                           'baseline' in each [[score]]
        -o, --output FILE  write them as a table: FILE.tex (LaTeX with booktabs) or .md for people; .csv, .parquet or .jsonl with
                           every figure
        -q, --quiet        no progress of a judge
        --json             print scores.json as one line
    """, {"spec": {"nargs": "?", "type": path_text}, "output": {"type": path}})  # fmt: skip
    verbs.add(
        "report", "write OUT/report.html and show a summary",
        "One page with scores, charts and a searchable sample of rows, which opens anywhere and loads nothing. Also of a run in "
        "progress.", """
        out OUT            the output folder
        -o, --output FILE  where to write the page (OUT/report.html)
        --rows N           rows of the random sample in the page (200)
        --charts DIR       write each chart as SVG and PNG into this folder, too
        --json             print the summary as one line of JSON
    """, {"output": {"type": path}, "charts": {"type": path}, "rows": {"type": positive, "default": 200}})  # fmt: skip
    settings = {"out": {"type": path_text}, "other": {"type": path_text, "nargs": "?"}}
    verbs.add(
        "compare", "compare the scores of two runs, or of two sweep points",
        "Paired by item: differences with intervals and p-values, and the items that flipped.", """
        out A              an output folder, or a sweep point of it: OUT@temperature=0.7
        other B            the other one; may be left out if A has just two sweep points
        --rows N           how many flips to show (10)
        --on A,B,…         only how far both give the same in these columns of the results, such as a field of their JSON: share
                           and Cohen's kappa; needs no scores
        --cluster COLUMN   items with the same value there are not independent of each other; as 'cluster' in [[score]]
        -o, --output FILE  write the comparison as a table to FILE.tex or .md, or all flips to FILE.parquet, .csv, .tsv, .jsonl,
                           .json or .xlsx
        --json             print it as one line of JSON, without the flips
    """, {**settings, "on": {"type": names}, "output": {"type": path}, "rows": {"type": positive, "default": 10}})  # fmt: skip
    retry = verbs.add(
        "retry", "ask again the rows that a condition chooses",
        "Such as: batchflex retry OUT --where \"status = 'truncated'\" --set max_tokens=4096. Shows first how many rows that is "
        "and what it may cost. An old answer stays until a new one is there, and in OUT/parts after that.", """
        out OUT          the output folder
        --where SQL      a condition over the columns of the results and their scores
        --set KEY=VALUE  a request parameter for these rows (max_tokens=4096), or how to ask (limits.rpm=60); may be repeated
    """, {"where": {"required": True}}, _EXIT_CODES)  # fmt: skip
    _add_lock_options(retry)
    _add(retry, """
        --dry-run  only show what would be asked
        -y, --yes  do not ask for confirmation, as on a terminal
    """)  # fmt: skip
    _add_sending_options(retry)
    verbs.add(
        "compact", "merge small parts of an output folder, and drop what is old and superseded",
        "The answers stay the same; that is checked, and it may be killed at any moment. Shows first what it is going to do.", """
        out OUT           the output folder
        --older-than AGE  drop answers that others have superseded, and telemetry, if they are older: 30d, 12h (nothing is
                          dropped)
        --dry-run         only show what would be done
        --json            print what was done as one line of JSON
    """)  # fmt: skip
    verbs.add(
        "copy", "copy an output folder to another place, as into a bucket or out of one",
        "All that is in it, so that runs go on there. The place is new, or has what a copy that was cut off has brought.", """
        out OUT    the output folder
        other OUT  the place: a path, or s3://BUCKET/PATH, gs://… or az://…
        --json     print what was copied as one line of JSON
    """)  # fmt: skip


def _add_verbs_of_setting_up(verbs: _Verbs) -> None:
    init = verbs.add(
        "init", "write a commented job file",
        "Asks five questions, with defaults found by looking at the input, for what the options leave open: which input, prompt, "
        "kind of answer, endpoint and model, and where to write. Asks nothing where the options say it all, or standard input is "
        "no terminal. Sends nothing.",
    )  # fmt: skip
    _add_job_options(init, nargs="?")
    _add(init, """
        -o, --output FILE  the job file to write (NAME.toml, by the name of the input)
        --force            replace the file if it is there
    """, {"output": {"type": path}})  # fmt: skip
    doctor = verbs.add(
        "doctor", "see that everything is in place: Python, extras, disk, endpoint, key, limits",
        "One page, with what to do about whatever is not. Fetches the endpoint's list of models, which is free, and sends "
        "nothing else, unless --ask. The exit code is 2 if something would keep a job from running.", """
        spec JOB   a job file (.toml)
        --out DIR  the output folder to look at
        --ask      send one small request, too, which shows the limits that the endpoint reports
        --json     print it as one line of JSON
    """, {"spec": {"nargs": "?", "type": path_text}, "out": {"type": path}})  # fmt: skip
    _add_endpoint_options(doctor)
    schedule = verbs.add(
        "schedule", "print what starts a job by itself: a crontab line, systemd units, a Kubernetes CronJob, a Slurm array",
        "With absolute paths, a log, the key from a file, and the time zone; ready to install. When it fires next is printed to "
        "standard error. Starts nothing, and runs nothing in the background.",
        "spec JOB  a job file (.toml)",
    )  # fmt: skip
    _add(schedule.add_mutually_exclusive_group(), """
        --at TIMES         times of the day: '02:00', '02:00,14:30', 'mon-fri 02:00'
        --cron EXPRESSION  five fields as in a crontab: '0 2 * * 1-5'; or '@daily'
    """)  # fmt: skip
    kinds = {
        "dest": "kind",
        "choices": ["crontab", "systemd", "k8s", "slurm"],
        "default": "crontab",
        "type": schedule_kind,
    }
    _add(schedule, """
        --as KIND       'crontab' (default; also 'cron'), 'systemd', 'k8s', or 'slurm' for a script to submit
        --tz ZONE       the time zone that the times are in, such as Europe/Berlin (the machine's)
        --out DIR       write the files into this folder instead of printing them
        --options TEXT  options of the run: --options='--deadline 5h --set limits.rpm=60'
        --json          print files, notes and next times as one line of JSON
    """, {"as": kinds, "out": {"type": path}, "options": {"default": ""}})  # fmt: skip
    _add(schedule.add_argument_group("crontab and systemd"), """
        --log-file FILE  append the output of the run to it (crontab: NAME.log; systemd: the journal)
        --env-file FILE  set the variables in it, a key among them: lines of NAME=VALUE; of k8s, those of a secret made of it
        --keys DIR       systemd: the folder with a file for each key, named as its variable (/etc/batchflex; with --user
                         ~/.config/batchflex)
        --user           systemd: units of your own, which need no root, in place of the system's
    """)  # fmt: skip
    _add(schedule.add_argument_group("k8s"), """
        --image NAME   the container image, which has the command batchflex
        --claim NAME   the volume claim that holds the working folder (the job's name)
        --secret NAME  the secret that holds the keys, by their variables (the job's name)
    """)  # fmt: skip
    _add(schedule.add_argument_group("k8s and slurm"), """
        --shards N   as an array of so many tasks, each with a part of the job
        --at-once K  how many of them run at the same time (all)
    """, {"shards": {"type": positive}, "at_once": {"type": positive}})  # fmt: skip
    check = verbs.add(
        "check", "send one small request to see that endpoint, key and model work",
        "Of a job file, the endpoint and the model are taken. Prints the limits that the endpoint reports.",
        "spec SPEC  a job file (.toml)", {"spec": {"nargs": "?"}},
    )  # fmt: skip
    _add_endpoint_options(check)
    verbs.add(
        "notify", "send a test message to those whom a job notifies",
        "By the webhook and the command of [notify], as after a run. No ping is sent, no metrics file written, and nothing is "
        "asked of a model.", f"""
        spec JOB         a job file (.toml)
        --event {{{','.join(get_args(Occasion))}}}  the event to report (failure)
        --set KEY=VALUE  a place in the job file; may be repeated
    """, {"event": {"default": "failure"}})  # fmt: skip
