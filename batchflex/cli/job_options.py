"""From the options of the command line to a job."""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import JobError

if TYPE_CHECKING:
    from ..config import Job

# The options that set something in a section of the job, by the section.
_OPTIONS = {
    "job": ("out", "keep_runs", "on_change"),
    "input": ("limit", "since"),
    "limits": ("concurrency", "rpm", "tpm", "budget_usd", "deadline"),
    "notify": ("metrics_file",),
}
_TEXTS = {"out", "on_change", "deadline", "since", "metrics_file"}


def job_of(options: argparse.Namespace) -> Job:
    """The job that a file and the options make together; of options alone where no file is named.

    :raises JobError: if one of them is wrong.
    """
    from ..config import build, environment_of, read

    given = settings(options)
    if options.spec is None:
        return build({}, given, environment=environment_of({}, given, Path()))
    made = read(options.spec, given, moment=datetime.datetime.now())
    if "\0" in str(made.out):
        raise JobError(f"job.out: a path must not contain a NUL character; found {str(made.out)!r:.80}")
    return made


def settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    """What the options set in the job, as dotted places and values."""
    from ..config import for_another_server, parse_setting

    found = [parse_setting(text) for text in getattr(options, "set", [])]
    for section, names in _OPTIONS.items():
        for name in names:
            place, given = f"{section}.{name}", getattr(options, name, None)
            if given is not None:
                found.append((place, given if name in _TEXTS else parse_setting(f"{place}={given}")[1]))
    if options.model is not None:
        found.append(("override.model", options.model))
    if options.endpoint and options.base_url:
        raise JobError("--endpoint and --base-url exclude each other")
    named = {"name": options.endpoint, "base_url": options.base_url, "api_key_env": options.api_key_env}
    found += [(f"endpoint.{name}", value) for name, value in named.items() if value is not None]
    return for_another_server([*found, *log_settings(options)])


def log_settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    """What the options set in ``[log]``, as :func:`settings`."""
    given = {name: getattr(options, f"log_{name}", None) for name in ("file", "format", "prompts")}
    if given["file"]:
        given["file"] = str(Path(given["file"]).absolute())
    return [(f"log.{name}", value) for name, value in given.items() if value is not None]


def is_job_file(spec: str) -> bool:
    return spec.lower().endswith(".toml")


def require_job_file(verb: str, spec: str) -> None:
    """:raises JobError: if the file is not one of a job."""
    if not is_job_file(spec):
        raise JobError(f"{verb} takes a job file (.toml); found {spec!r}")
