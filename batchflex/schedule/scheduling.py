"""What to install so that a job runs by itself, and when it runs next."""

from __future__ import annotations

import datetime
import getpass
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..config import NO_SHARDS, EndpointSection, Job, exposed
from ..core import BatchflexError, JobError, did_you_mean
from ..endpoint import variables
from . import cron_expression, zones
from .crontab import Clock, crontab
from .kubernetes import Cluster, cron_job
from .launch import Installation, Launch, safe_name
from .next_times import ClockRule, upcoming
from .slurm import array
from .systemd import units

Kind = Literal["crontab", "systemd", "k8s", "slurm"]
KINDS: tuple[Kind, ...] = ("crontab", "systemd", "k8s", "slurm")


class ScheduleOptions(NamedTuple):
    """The options of the verb, with paths as given. ``run`` are further options of the run."""

    kind: Kind
    spec: Path
    at: str | None = None
    cron: str | None = None
    tz: str | None = None
    run: Sequence[str] = ()
    log: str | None = None
    env_file: str | None = None
    keys_in: str | None = None
    image: str | None = None
    claim: str | None = None
    secret: str | None = None
    of_user: bool = False
    shards: int | None = None
    at_once: int | None = None


class Scheduled(NamedTuple):
    """What to install, and the times of the next runs, in the zone that they are meant in."""

    installation: Installation
    zone: str
    times: list[datetime.datetime]


def schedule(options: ScheduleOptions, job: Job, now: datetime.datetime) -> Scheduled:
    """What to install for a job. Writes nothing.

    :raises JobError: if that scheduler cannot express the times, the zone or the paths, or an option is for another one.
    """
    _check_options(options)
    if options.shards is not None and job.bucket is not None:
        raise JobError(NO_SHARDS)
    if options.kind == "slurm":
        launch = _launch(options, job)
        launch.check()
        return Scheduled(array(launch, options.shards or 1, options.at_once), zones.zone_of_machine(), [])
    crons = cron_expression.at(options.at) if options.at is not None else (cron_expression.parse(options.cron or ""),)
    launch = _launch(options, job)
    launch.check()
    machine = zones.zone_of_machine() if options.tz is None or options.kind == "crontab" else ""
    name = options.tz or machine
    zone = zones.zone(name)
    rule: ClockRule = "literal"
    if options.kind == "crontab":
        clock = Clock(name, machine, frozenset(zones.differences(zone, zones.zone(machine), now)))
        installation = crontab(launch, crons, clock)
        rule = "cron" if clock.ahead == {0} else "literal"
    elif options.kind == "systemd":
        keys_in = options.keys_in or ("~/.config/batchflex" if options.of_user else "/etc/batchflex")
        installation = units(launch, crons, name, str(_absolute(keys_in)), of_user=options.of_user)
        rule = "systemd"
    else:
        cluster = Cluster(
            options.image or "", options.claim or launch.name, options.secret or launch.name, options.shards,
            options.at_once,
        )  # fmt: skip
        installation = cron_job(launch, crons, name, cluster)
    return Scheduled(installation, name, upcoming(crons, zone, now, rule))


def write(installation: Installation, folder: Path) -> list[Path]:
    """Write the files into ``folder``, and replace those of the same names.

    :raises BatchflexError: if it cannot be written.
    """
    written = [folder / name for name in installation.files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(written, installation.files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BatchflexError(f"the schedule cannot be written to {folder}: {error.strerror or error}") from None
    return written


def _check_options(options: ScheduleOptions) -> None:
    for option, given, kinds in (
        ("--log-file", options.log, ("crontab", "systemd")),
        ("--user", options.of_user or None, ("systemd",)),
        ("--keys", options.keys_in, ("systemd",)),
        ("--image", options.image, ("k8s",)),
        ("--claim", options.claim, ("k8s",)),
        ("--secret", options.secret, ("k8s",)),
        ("--shards", options.shards, ("k8s", "slurm")),
        ("--at-once", options.at_once, ("k8s", "slurm")),
        ("--at", options.at, ("crontab", "systemd", "k8s")),
        ("--cron", options.cron, ("crontab", "systemd", "k8s")),
        ("--tz", options.tz, ("crontab", "systemd", "k8s")),
    ):
        if given is not None and options.kind not in kinds:
            raise JobError(f"{option} needs --as {' or --as '.join(kinds)}")
    if options.kind == "slurm" and options.shards is None:
        raise JobError("--as slurm needs --shards N: how many tasks the array has")
    if options.kind != "slurm" and options.at is None and options.cron is None:
        raise JobError("schedule needs --at TIMES, such as --at 02:00, or --cron EXPRESSION")
    if options.at_once is not None and options.at_once > (options.shards or 0):
        raise JobError(f"--at-once {options.at_once} needs --shards N, and not fewer of them")
    if options.kind == "k8s" and not options.image:
        raise JobError("--as k8s needs --image NAME: a container image that has the command batchflex")
    if options.env_file is not None and options.keys_in is not None:
        raise JobError("--env-file and --keys exclude each other")
    if options.env_file is not None:
        _check_private(_absolute(options.env_file))


def _check_private(path: Path) -> None:
    if not path.is_file():
        raise JobError(f"--env-file {path}: there is no such file{did_you_mean(path)}")
    if why := exposed(path):
        raise JobError(f"--env-file {path}: {why}")


def _launch(options: ScheduleOptions, job: Job) -> Launch:
    folder = Path.cwd()
    of_endpoints = (name for entry in _endpoints(job) for name in variables(entry, job.environment))
    keys = dict.fromkeys(filter(None, (*of_endpoints, job.notify.webhook_env, job.notify.ping_env)))
    in_file = [key for key in keys if job.environment.is_in_file(key)]
    if options.env_file or options.keys_in or options.secret:  # which are to hold the keys
        in_file = []
    name = safe_name(job.job.name)
    log = options.log or (str(folder / f"{name}.log") if options.kind == "crontab" else None)
    # In a file nobody watches the progress, and it would grow; the journal of systemd limits itself.
    of_array = [] if options.shards is None else ["--shards", str(options.shards)]
    of_array += [] if options.at_once is None else ["--at-once", str(options.at_once)]
    quiet = (
        ["--quiet"] if (log is not None or options.kind == "slurm") and not {"-q", "--quiet"} & set(options.run) else []
    )
    return Launch(
        name=name,
        title=job.job.name,
        program=_program(),
        words=("run", str(_absolute(options.spec)), *quiet, *options.run, *of_array),
        folder=str(folder),
        user=getpass.getuser(),
        keys=tuple(key for key in keys if key not in in_file),
        own_file=str(job.environment.file) if in_file else None,
        env_file=str(_absolute(options.env_file)) if options.env_file else None,
        log=str(_absolute(log)) if log else None,
        job_log=job.log.file,
        grace_s=job.limits.grace_s,
    )


def _endpoints(job: Job) -> Iterable[EndpointSection]:
    yield from job.endpoint_entries
    for score in job.score:
        if score.judge is not None and score.judge.endpoint is not None:
            yield score.judge.endpoint


def _program() -> tuple[str, ...]:
    """The command of batchflex that is running."""
    here = shutil.which(sys.argv[0])
    if here is not None and Path(here).name == "batchflex":
        return (str(_absolute(here)),)
    return (sys.executable, "-m", "batchflex")


def _absolute(path: str | Path) -> Path:
    """Symbolic links are not resolved: their targets may be replaced."""
    return Path(path).expanduser().absolute()
