"""When a job runs by itself: what to install for it, and when it fires next."""

from __future__ import annotations

import datetime
import getpass
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ..config import EndpointSection, Job, exposed
from ..core import BatchflexError, JobError
from ..endpoint import variables
from . import cron_expression, zones
from .crontab import Clock, crontab
from .kubernetes import Cluster, cron_job
from .launch import Launch, Made, name_of
from .next_times import Keeping, upcoming
from .systemd import units

Kind = Literal["crontab", "systemd", "k8s"]
KINDS: tuple[Kind, ...] = ("crontab", "systemd", "k8s")


class Wanted(NamedTuple):
    """What was asked for. ``run`` are further options of the run; paths are as they were given."""

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


class Scheduled(NamedTuple):
    """What to install, and the times at which it fires next, in the zone that they are meant in."""

    made: Made
    zone: str
    times: list[datetime.datetime]


def schedule(wanted: Wanted, job: Job, now: datetime.datetime) -> Scheduled:
    """What to install for a job. Writes nothing.

    :raises JobError: if the times, the zone or the paths cannot be said, or an option is for another kind.
    """
    _check_options(wanted)
    crons = cron_expression.at(wanted.at) if wanted.at is not None else (cron_expression.parse(wanted.cron or ""),)
    launch = _launch(wanted, job)
    launch.check()
    machine = zones.of_machine() if wanted.tz is None or wanted.kind == "crontab" else ""
    name = wanted.tz or machine
    zone = zones.zone(name)
    keeping: Keeping = "literal"
    if wanted.kind == "crontab":
        clock = Clock(name, machine, frozenset(zones.differences(zone, zones.zone(machine), now)))
        made = crontab(launch, crons, clock)
        keeping = "cron" if clock.ahead == {0} else "literal"
    elif wanted.kind == "systemd":
        made = units(launch, crons, name, str(_absolute(wanted.keys_in or "/etc/batchflex")))
        keeping = "systemd"
    else:
        cluster = Cluster(wanted.image or "", wanted.claim or launch.name, wanted.secret or launch.name)
        made = cron_job(launch, crons, name, cluster)
    return Scheduled(made, name, upcoming(crons, zone, now, keeping))


def write(made: Made, folder: Path) -> list[Path]:
    """The files into ``folder``, those of the same names replaced.

    :raises BatchflexError: if it cannot be written.
    """
    written = [folder / name for name in made.files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in zip(written, made.files.values(), strict=True):
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BatchflexError(f"the schedule cannot be written to {folder}: {error.strerror or error}") from None
    return written


def _check_options(wanted: Wanted) -> None:
    for option, given, kinds in (
        ("--log-file", wanted.log, ("crontab", "systemd")),
        ("--env-file", wanted.env_file, ("crontab", "systemd")),
        ("--keys", wanted.keys_in, ("systemd",)),
        ("--image", wanted.image, ("k8s",)),
        ("--claim", wanted.claim, ("k8s",)),
        ("--secret", wanted.secret, ("k8s",)),
    ):
        if given is not None and wanted.kind not in kinds:
            raise JobError(f"{option} needs --as {' or --as '.join(kinds)}")
    if wanted.kind == "k8s" and not wanted.image:
        raise JobError("--as k8s needs --image NAME: a container image that has the command batchflex")
    if wanted.env_file is not None and wanted.keys_in is not None:
        raise JobError("--env-file and --keys exclude each other")
    if wanted.env_file is not None:
        _check_private(_absolute(wanted.env_file))


def _check_private(path: Path) -> None:
    if not path.is_file():
        raise JobError(f"--env-file {path}: there is no such file")
    if why := exposed(path):
        raise JobError(f"--env-file {path}: {why}")


def _launch(wanted: Wanted, job: Job) -> Launch:
    folder = Path.cwd()
    of_endpoints = (name for entry in _endpoints(job) for name in variables(entry, job.environment))
    keys = dict.fromkeys(filter(None, (*of_endpoints, job.notify.webhook_env, job.notify.ping_env)))
    in_file = [key for key in keys if job.environment.is_in_file(key)]
    if wanted.env_file or wanted.keys_in or wanted.secret:  # then it is these that are to have the keys
        in_file = []
    name = name_of(job.job.name)
    log = (
        str(_absolute(wanted.log)) if wanted.log else str(folder / f"{name}.log") if wanted.kind == "crontab" else None
    )
    # A file that nobody looks at need not have the progress; a journal keeps house itself.
    quiet = ["--quiet"] if log is not None and not {"-q", "--quiet"} & set(wanted.run) else []
    return Launch(
        name=name,
        title=job.job.name,
        program=_program(),
        words=("run", str(_absolute(wanted.spec)), *quiet, *wanted.run),
        folder=str(folder),
        user=getpass.getuser(),
        keys=tuple(key for key in keys if key not in in_file),
        own_file=str(job.environment.file) if in_file else None,
        env_file=str(_absolute(wanted.env_file)) if wanted.env_file else None,
        log=log,
        grace_s=job.limits.grace_s,
    )


def _endpoints(job: Job) -> Iterable[EndpointSection]:
    yield from job.asked
    for score in job.score:
        if score.judge is not None and score.judge.endpoint is not None:
            yield score.judge.endpoint


def _program() -> tuple[str, ...]:
    """The command that runs now."""
    here = shutil.which(sys.argv[0])
    if here is not None and Path(here).name == "batchflex":
        return (str(_absolute(here)),)
    return (sys.executable, "-m", "batchflex")


def _absolute(path: str | Path) -> Path:
    """Symbolic links stay as they are: what they lead to may be replaced."""
    return Path(path).expanduser().absolute()
