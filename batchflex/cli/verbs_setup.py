"""``init``, ``plan``, ``doctor``, ``check``, ``schedule`` and ``notify``: before the first run. None of them sends a row."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import JobError
from . import output
from .job_options import job_of, require_job_file

if TYPE_CHECKING:
    from ..config import Job


def init(options: argparse.Namespace) -> int:
    from . import init as job_file

    is_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    says_it_all = options.spec is not None and options.prompt is not None
    made = job_file.made(options, _ask if is_terminal and not says_it_all else None)
    job_file.write(made, force=options.force)
    for note in made.notes:
        output.warn(note)
    path = shlex.quote(str(made.path))
    output.say(f"written: {made.path}; look at it, then: batchflex plan {path}, and batchflex run {path}")
    return 0


def _ask(question: str, default: str) -> str:
    """The answer of a person at a terminal, or the default for an empty one."""
    output.say(f"{question}{f' [{default}]' if default else ''}: ", end="")
    line = sys.stdin.readline()
    if not line:
        output.say("")
        raise JobError("the questions were not answered to the end; nothing was written")
    return line.strip() or default


def doctor(options: argparse.Namespace) -> int:
    from . import doctor as examination

    if options.spec is not None:
        require_job_file("doctor", options.spec)
    job, mistakes = None, None
    try:
        job = job_of(options)
    except JobError as error:
        mistakes = error
    names_endpoint = any((options.spec, options.base_url, options.endpoint))
    out = options.out or (job.out if job is not None and options.spec is not None else Path("runs"))
    found = examination.examine(job, out, ask=options.ask, names_endpoint=names_endpoint)
    if mistakes is not None:
        found.problems.extend(examination.lines_of(mistakes))
    elif job is not None:
        found.warnings.extend(job.warnings())
    if options.json:
        ends = {"problems": found.problems, "warnings": found.warnings, "exit_code": found.exit_code}
        output.show_json(found.facts | ends)
    else:
        output.show(examination.text(found))
    return found.exit_code


def plan(options: argparse.Namespace) -> int:
    from ..notify import missing_addresses
    from . import plan_text

    job = job_of(options)
    if job.bucket is not None:
        from ..storage import Folder, remote_output

        if remote := remote_output.of(Folder(job.out), job.bucket, job.storage):
            remote.refresh(if_there=True)
    for warning in (*job.warnings(), *missing_addresses(job)):
        output.warn(warning)
    if any(spec.baseline is not None for spec in job.score):
        from ..scoring import scores_file

        scores_file.require_baselines(job, job.score)
    given = [name for name in ("expect", "like", "icc", "score") if getattr(options, name) is not None]
    if options.detect is None and given:
        raise JobError(f"--{given[0]} goes with --detect, the difference to be found")
    found = plan_text.forecast(job, output.say) if options.detect is None else _with_detectable(options, job)
    if options.json:
        output.show_json(found)
    else:
        output.show(plan_text.text(found))
    return 0


def _with_detectable(options: argparse.Namespace, job: Job) -> dict[str, Any]:
    from ..scoring import planning
    from . import plan_text

    clusters = planning.Clusters.of(job, options.score)
    stated = {"expect": options.expect, "like": options.like, "icc": options.icc, "clusters": clusters}
    planning.require(options.detect, **stated)
    found = plan_text.forecast(job, output.say, clusters.add if clusters is not None else None)
    items = found["requests"] // max(1, found["points"] * found["samples"])
    given = {**stated, "score": options.score, "chance": options.power}
    found["detect"] = planning.detect(options.detect, items, found["samples"], **given)
    return found


def check(options: argparse.Namespace) -> int:
    import anyio

    from ..notify import missing_addresses
    from . import check as endpoint_check

    if options.spec is not None:
        require_job_file("check", options.spec)
    job = job_of(options)
    for warning in (*job.warnings(), *missing_addresses(job)):
        output.warn(warning)
    report = anyio.run(endpoint_check.check, job)
    output.show(report.text)
    return report.exit_code


def notify(options: argparse.Namespace) -> int:
    from ..config import load, parse_setting
    from ..notify import send_test

    require_job_file("notify", options.spec)
    outcomes = send_test(load(options.spec, [parse_setting(text) for text in options.set]), options.event)
    for name, fault in outcomes.items():
        output.show(f"notified by {name}" if fault is None else f"not notified by {name}: {fault}")
    return 3 if any(outcomes.values()) else 0


def schedule(options: argparse.Namespace) -> int:
    import datetime

    from ..schedule import ScheduleOptions, schedule, write
    from .options import parse

    require_job_file("schedule", options.spec)
    try:
        words = shlex.split(options.options)
    except ValueError as error:
        raise JobError(f"--options {options.options!r:.80}: {error}") from None
    job = job_of(parse(["run", options.spec, *words]))
    for warning in job.warnings():
        output.warn(warning)
    given = ScheduleOptions(
        options.kind, Path(options.spec), options.at, options.cron, options.tz, words, options.log_file, options.env_file,
        options.keys, options.image, options.claim, options.secret, options.user, options.shards, options.at_once,
    )  # fmt: skip
    found = schedule(given, job, datetime.datetime.now(datetime.UTC))
    written = [] if options.out is None else write(found.installation, options.out)
    if options.json:
        times = [time.isoformat() for time in found.times]
        output.show_json(
            {"files": found.installation.files, "notes": found.installation.notes, "zone": found.zone, "next": times}
        )
        return 0
    if options.out is None:
        headed = len(found.installation.files) > 1
        texts = [f"# {name}\n{text}" if headed else text for name, text in found.installation.files.items()]
        output.show_exactly("\n".join(texts))
    for path in written:
        output.say(f"written: {path}")
    if found.times:
        output.say(f"next, in {found.zone}:")
    for time in found.times:
        output.say(f"  {time:%a %Y-%m-%d %H:%M %z}")
    for note in found.installation.notes:
        output.say(note)
    return 0
