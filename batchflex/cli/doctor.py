"""What a job needs, looked at: this Python and its packages, disk, open files, time zone, endpoints and their keys."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from ..config import EndpointsEntry, Job
from ..core import AttemptError, EndpointError, JobError, __version__, is_bucket, one_line
from ..endpoint import LOCAL, Client, resolve
from ..schedule import zone_of_machine
from ..storage import disk_space
from . import check

_SYNCS = 5
_SLOW_SYNC_S = 0.25
_FILES_BESIDE = 64  # that a run has open beside its connections


class Extra(NamedTuple):
    """``packages`` has for each distribution the module that is imported."""

    packages: dict[str, str]
    purpose: str


EXTRAS = {
    "local": Extra({"xllamacpp": "xllamacpp"}, "the model server on this machine"),
    "report": Extra({"altair": "altair", "vl-convert-python": "vl_convert"}, "the charts of reports"),
    "fast": Extra({"uvloop": "uvloop"}, "a quicker event loop"),
    "excel": Extra({"fastexcel": "fastexcel", "xlsxwriter": "xlsxwriter"}, "spreadsheets, read and written"),
    "files": Extra({"pillow": "PIL", "pypdf": "pypdf"}, "images and PDF documents in prompts"),
    "cloud": Extra({"obstore": "obstore", "boto3": "boto3"}, "inputs and outputs in buckets"),
}


class Findings(NamedTuple):
    """``facts`` are for programs, ``lines`` names and texts for people; ``problems`` keep a job from running, ``warnings`` do
    not: a sentence each, with what to do."""

    facts: dict[str, Any]
    lines: list[tuple[str, str]]
    problems: list[str]
    warnings: list[str]

    @property
    def exit_code(self) -> int:
        return 2 if self.problems else 0


def examine(job: Job | None, out: Path, *, ask: bool, names_endpoint: bool) -> Findings:
    """Look at everything; ``job`` is ``None`` if it has mistakes, ``out`` is where answers are to go. Sends a request to a model
    only with ``ask``. Blocks."""
    found = Findings({}, [], [], [])
    _python(found)
    _extras(found, job)
    _time_zone(found)
    _open_files(found, job)
    _disk(found, out, job)
    found.facts["endpoints"] = []
    if job is not None and names_endpoint:
        for entry in job.endpoint_entries:
            _endpoint(found, job, entry, ask=ask)
    elif job is not None:
        found.lines.append(("endpoint", "none is named: look at one with --base-url, --endpoint or a job file"))
    return found


def text(found: Findings) -> str:
    """The findings on a page. Pure."""
    lines = [f"{name:<10}  {words}" for name, words in found.lines]
    if found.problems:
        lines += ["", "to mend:", *(f"  {problem}" for problem in found.problems)]
    if found.warnings:
        lines += ["", "to know:", *(f"  {warning}" for warning in found.warnings)]
    if not found.problems:
        lines += ["", "nothing is in the way of a run"]
    return "\n".join(lines)


def _python(found: Findings) -> None:
    where = Path(__file__).resolve().parent.parent
    found.facts.update({"version": __version__, "python": platform.python_version(), "platform": platform.platform()})
    found.lines.append(("batchflex", f"{__version__}, in {where}"))
    found.lines.append(("Python", f"{platform.python_version()}, {sys.executable}, on {platform.platform(terse=True)}"))


def _extras(found: Findings, job: Job | None) -> None:
    needed = _needed(job)
    facts = {}
    for number, (name, extra) in enumerate(EXTRAS.items()):
        missing = [each for each, module in extra.packages.items() if importlib.util.find_spec(module) is None]
        versions = {each: _version(each) for each in extra.packages if each not in missing}
        how = f"pip install 'batchflex[{name}]'"
        facts[name] = {"installed": not missing, "purpose": extra.purpose, "packages": versions}
        words = "installed" if not missing else f"not installed: {how}"
        found.lines.append(("extras" if not number else "", f"{name:<7} {extra.purpose}: {words}"))
        if missing and name in needed:
            found.problems.append(f"this job needs {extra.purpose}: {how}")
    found.facts["extras"] = facts


def _needed(job: Job | None) -> set[str]:
    """The extras that a job surely needs."""
    if job is None:
        return set()
    needed = {"local"} if job.spec is not None and any(not entry.is_server for entry in job.endpoint_entries) else set()
    paths = [job.input.path] if isinstance(job.input.path, str) else job.input.path or []
    if any(str(path).lower().endswith((".xlsx", ".xls")) for path in paths):
        needed.add("excel")
    if job.bucket is not None or any(map(is_bucket, paths)):
        needed.add("cloud")
    return needed | ({"report"} if job.wants_report else set())


def _version(distribution: str) -> str | None:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(distribution)
    return None


def _time_zone(found: Findings) -> None:
    now = datetime.datetime.now().astimezone()
    try:
        name = zone_of_machine()
    except JobError as error:
        name = ""
        found.warnings.append(f"{error} (schedule needs it)")
    variable = os.environ.get("TZ") or None
    offset = f"{now:%z}"
    found.facts["time_zone"] = {"name": name or None, "utc_offset": offset, "tz_variable": variable}
    here = f"; TZ is {one_line(variable, 40)!r} here, which cron and systemd do not know" if variable else ""
    found.lines.append(("time zone", f"{name or 'unknown'}; it is {now:%Y-%m-%d %H:%M} {offset}{here}"))


def _open_files(found: Findings, job: Job | None) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # the command line has raised the first already
    most = None if soft == resource.RLIM_INFINITY else soft
    found.facts["open_files"] = {"limit": most, "hard": None if hard == resource.RLIM_INFINITY else hard}
    found.lines.append(("open files", "any number" if most is None else f"{most:,} at most"))
    if job is None or most is None:
        return
    wanted = job.limits.max_concurrency if job.limits.concurrency == "auto" else job.limits.concurrency
    if most < wanted + _FILES_BESIDE:
        found.warnings.append(
            f"{most:,} open files are too few for {wanted:,} requests in flight: raise the limit (ulimit -n, LimitNOFILE= of "
            "systemd), or lower limits.max_concurrency"
        )


# ------------------------------------------------------------------------------------------------------------ the disk


def _disk(found: Findings, out: Path, job: Job | None) -> None:
    folder = out.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    there = disk_space.free(folder)
    facts: dict[str, Any] = {"folder": str(out), "free": None, "size": None, "sync_s": None, "locks": None}
    words = []
    if there is not None:
        facts |= {"free": there[0], "size": there[1]}
        words.append(f"{disk_space.words(there[0])} free of {disk_space.words(there[1])}")
        least = disk_space.left_alone(None if job is None else job.limits.min_free_disk_mb, there[1])
        if there[0] <= least:
            found.problems.append(
                f"the disk of {out} has {disk_space.words(there[0])} left, and a run leaves {disk_space.words(least)} alone "
                "(limits.min_free_disk_mb): free some space"
            )
    try:
        facts["sync_s"], facts["locks"] = _tried(folder)
    except OSError as error:
        found.problems.append(
            f"nothing can be written to {folder}: {error.strerror or error}; name a folder with --out"
        )
    else:
        words.append(f"a sync takes {facts['sync_s'] * 1000:,.3g} ms")
        if facts["sync_s"] > _SLOW_SYNC_S:
            found.warnings.append(
                f"a sync takes {facts['sync_s']:,.2g} s in {folder}: a run waits for one each journal.sync_s, so name a folder "
                "on a local disk"
            )
        if not facts["locks"]:
            found.problems.append(
                f"{folder} has no locks of files, so two runs could write there at once; name another --out"
            )
    found.facts["disk"] = facts
    found.lines.append(("disk", f"{out}: {', '.join(words) or 'nothing is known of it'}"))


def _tried(folder: Path) -> tuple[float, bool]:
    """The median time of a sync in a folder, in seconds, and whether files there can be locked. Leaves nothing behind.

    :raises OSError: if nothing can be written there.
    """
    times = []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".batchflex-doctor-") as stream:
        for _ in range(_SYNCS):
            began = time.perf_counter()
            stream.write(b"x" * 4096)
            stream.flush()
            os.fsync(stream.fileno())
            times.append(time.perf_counter() - began)
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            locks = True
        except OSError:
            locks = False
    return sorted(times)[len(times) // 2], locks


# ------------------------------------------------------------------------------------------------------- the endpoint

# As in the facts of a check.
_UNKNOWN: dict[str, Any] = {
    "name": None, "base_url": None, "key_from": None, "reachable": None, "models": [], "model": None, "limits": None,
    "message": None,
}  # fmt: skip


def _endpoint(found: Findings, job: Job, entry: EndpointsEntry, *, ask: bool) -> None:
    alone = job.model_copy(update={"endpoints": [entry]})
    try:
        if not entry.is_server and not ask:  # its server takes seconds to start
            local = resolve(entry, job.environment)
            local.require(job.models)
            found.lines.append(("endpoint", f"{LOCAL}: {local.default_model}; --ask starts it"))
            found.facts["endpoints"].append(_UNKNOWN | {"name": LOCAL, "model": local.default_model})
            return
        report = anyio.run(_checked, alone, ask)
    except EndpointError as error:
        found.problems.append(str(error))
        found.facts["endpoints"].append(_without_key(found, job, entry, str(error)))
        return
    found.facts["endpoints"] += report.facts
    for line in report.text.splitlines():
        name, words = line[:10].strip(), line[10:]
        found.lines.append((name, words))
    limits = [f"{name} {value:,.6g}" for name in ("rpm", "tpm") if (value := getattr(entry, name)) is not None]
    if limits:
        found.lines.append(("ceilings", f"{', '.join(limits)}, of the job"))
    for facts in report.facts:
        if facts["message"] is not None:
            then = "" if facts["reachable"] else "; see that it is started, and that the address is right"
            found.problems.append(f"{facts['name']}: {facts['message']}{then}")
    if report.exit_code == 1:
        found.problems.append("the answer had no text: see above")


async def _checked(job: Job, ask: bool) -> check.Report:
    return await check.check(job, ask=ask)


def _without_key(found: Findings, job: Job, entry: EndpointsEntry, message: str) -> dict[str, Any]:
    """What is known of an endpoint that cannot be set up: whether it is there at all."""
    facts = _UNKNOWN | {"name": entry.name or LOCAL, "base_url": entry.base_url, "message": message}
    with contextlib.suppress(EndpointError):
        endpoint = resolve(entry, job.environment, with_key=False)
        facts |= {"name": endpoint.name, "base_url": endpoint.base_url or None}
        if endpoint.base_url:
            facts["reachable"] = anyio.run(_answers, endpoint)
            there = "it answers" if facts["reachable"] else "it does not answer"
            found.lines.append(("endpoint", f"{endpoint.name}, {endpoint.base_url}: {there}"))
    return facts


async def _answers(endpoint: Any) -> bool:
    async with Client(endpoint, connections=1) as client:
        try:
            await client.models()
        except AttemptError as error:
            return error.http_status is not None
    return True


def lines_of(error: JobError) -> Iterator[str]:
    """Each mistake of a job that could not be read."""
    where = f"{error.place}: " if error.place else ""
    yield from (f"{where}{mistake}" for mistake in error.mistakes)
