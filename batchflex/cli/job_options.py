"""From the options of the command line to a job."""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import JobError, did_you_mean

if TYPE_CHECKING:
    from ..config import Job

# The options that set something in a section of the job, by the section.
_OPTIONS = {
    "job": ("out", "keep_runs", "on_change"),
    "input": ("limit", "since", "id"),
    "limits": ("concurrency", "rpm", "tpm", "budget_usd", "deadline"),
    "notify": ("metrics_file",),
}
FORMAT = "override.response_format"
_TEXTS = {"out", "on_change", "deadline", "since", "id", "metrics_file"}


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
    """What the options set in the job, as dotted places and values; those of another server unset."""
    from ..config import for_another_server

    return for_another_server([*given_settings(options), *log_settings(options)])


def given_settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    """The same as it was given, without the log."""
    from ..config import parse_setting

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
    return [*found, *_prompt_settings(options)]


def _prompt_settings(options: argparse.Namespace) -> list[tuple[str, Any]]:
    given = {
        f"prompt.{name}": getattr(options, option, None) for name, option in (("user", "prompt"), ("system", "system"))
    }
    found = [(place, text) for place, text in given.items() if text is not None]
    if (carry := getattr(options, "carry", None)) is not None:
        found.append(("input.carry", "*" if carry == ["*"] else carry))
    if (choices := getattr(options, "choices", None)) is not None:
        from ..config import label_schema

        found.append((FORMAT, label_schema(choices)))
    elif (file := getattr(options, "schema", None)) is not None:
        found.append((FORMAT, _format_of(Path(file))))
    return found


def _format_of(file: Path) -> dict[str, Any]:
    """The ``response_format`` for a file that holds a JSON Schema, or such a format itself.

    :raises JobError: if it does not.
    """
    import msgspec

    try:
        found = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        raise JobError(f"--schema {file}: there is no such file{did_you_mean(file)}") from None
    except (OSError, ValueError) as error:
        raise JobError(f"--schema {file}: it is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise JobError(f"--schema {file}: a JSON Schema is an object")
    if found.get("type") == "json_schema" and isinstance(found.get("json_schema"), dict):
        return found
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", file.stem).strip("_")[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": found}}


def as_init(options: argparse.Namespace) -> str | None:
    """The command that writes a job file of the options of a run that has a prompt and none; ``None`` of other runs."""
    from .option_parser import words_for
    from .options import parse

    if is_job_file(options.spec) or options.prompt is None:
        return None
    words = words_for(options.parser, options.words, parse(["init"]).parser)
    return shlex.join(["batchflex", "init", *words])


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
        raise JobError(f"{verb} takes a job file (.toml); found {spec!r}{did_you_mean(spec)}")
