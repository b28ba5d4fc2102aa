"""``plan``, ``check``, ``schedule`` and ``notify``: before the first run. None of them sends a row."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import JobError
from . import output
from .job_options import job_of, require_job_file
from .process import spare_pandas


def plan(options: argparse.Namespace) -> int:
    from ..notify import missing_addresses
    from . import plan_text

    spare_pandas()
    job = job_of(options)
    for warning in (*job.warnings(), *missing_addresses(job)):
        output.warn(warning)
    given = [name for name in ("expect", "like", "score") if getattr(options, name) is not None]
    if options.detect is None and given:
        raise JobError(f"--{given[0]} goes with --detect, the difference to be found")
    found = plan_text.forecast(job)
    if options.detect is not None:
        found["detect"] = _detectable(options, found)
    if options.json:
        output.show_json(found)
    else:
        output.show(plan_text.text(found))
    return 0


def _detectable(options: argparse.Namespace, found: Mapping[str, Any]) -> dict[str, Any]:
    from ..scoring import planning

    items = found["requests"] // max(1, found["points"] * found["samples"])
    given = {"expect": options.expect, "like": options.like, "score": options.score, "chance": options.power}
    return planning.detect(options.detect, items, found["samples"], **given)


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
    import shlex

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
        options.keys, options.image, options.claim, options.secret,
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
    output.say(f"next, in {found.zone}:")
    for time in found.times:
        output.say(f"  {time:%a %Y-%m-%d %H:%M %z}")
    for note in found.installation.notes:
        output.say(note)
    return 0
