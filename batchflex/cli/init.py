"""A job file of what the command line says, and of what is asked for what it leaves open."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..config import (
    HOSTED,
    LABEL,
    StorageSection,
    build,
    commented,
    environment_of,
    label_schema,
    path_variables,
    tables_of,
)
from ..core import BatchflexError, JobError, count, is_url, one_line, without_signature
from ..plan import InputSample, Prompt, missing_column, sample_of
from . import output
from .job_options import FORMAT, given_settings, is_job_file
from .option_types import as_list, list_of

_INPUTS = (".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson")
_SHOWN = 70
_KINDS = ("labels", "fields", "text")

# Asks a person: the question, and what an empty answer stands for. Returns the answer, which may be empty.
Ask = Callable[[str, str], str]


class JobFile(NamedTuple):
    """``tables`` are those of the job, ``text`` is the file's, ``notes`` are sentences about what was not said and is guessed."""

    path: Path
    tables: dict[str, Any]
    text: str
    notes: list[str]


def made(options: argparse.Namespace, ask: Ask | None) -> JobFile:
    """The job file that the options, the input and, with ``ask``, a person make together. Writes nothing.

    :raises JobError, InputError: if that is no job.
    """
    settings = given_settings(options)
    given = {place for place, _ in settings}
    notes: list[str] = []
    spec = options.spec or _input(ask)
    if is_job_file(spec):
        raise JobError(f"{spec} is a job file already; init makes one for an input")
    sample = sample_of(spec, _said_of_input(settings), _storage(settings))
    if without_signature(spec) != spec:
        notes.append('what signs the address is not written: name a variable that has it all, as path = "${NAME}"')
    if sample.rows and ask is not None:
        output.say(f"  {_described(sample)}")
    if not sample.has_requests and "prompt.user" not in given and "prompt.messages" not in given:
        settings += _prompt(sample, ask, notes, has_format=FORMAT in given)
    if not {"endpoint.base_url", "endpoint.name"} & given and not any(p.startswith("endpoint") for p in given):
        settings += _endpoint(ask, has_model="override.model" in given)
    elif ask is not None and "override.model" not in given and dict(settings).get("endpoint.name") != "local":
        settings += _model(ask)
    path = options.output or _where(spec, ask, force=options.force)
    if fault := _path_fault(path, force=options.force):
        raise JobError(fault)
    tables = _tables(settings, spec, sample, path, is_new="prompt.user" not in given)
    _check(tables, sample, path)
    return JobFile(path, tables, commented(tables, shlex.quote(str(path))), notes)


def write(file: JobFile, *, force: bool) -> None:
    """:raises JobError: if the file is there, unless ``force``.
    :raises BatchflexError: if it cannot be written.
    """
    try:
        with file.path.open("w" if force else "x", encoding="utf-8") as stream:
            stream.write(file.text)
    except FileExistsError:
        raise JobError(f"{file.path} is there by now; nothing was written") from None
    except OSError as error:
        raise BatchflexError(f"{file.path} cannot be written: {error.strerror or error}") from None


# --------------------------------------------------------------------------------------------------- the questions


def _input(ask: Ask | None) -> str:
    """1: which input."""
    if ask is None:
        raise JobError("init needs an input: batchflex init tickets.csv --prompt '… {{ name_of_a_column }}' --model M")
    here = sorted(each.name for each in Path().iterdir() if each.suffix.lower() in _INPUTS and each.is_file())
    while not (found := ask("Input file, folder or pattern", here[0] if here else "")):
        pass
    return found


def _prompt(sample: InputSample, ask: Ask | None, notes: list[str], *, has_format: bool) -> list[tuple[str, Any]]:
    """2 and 3: the column or the prompt, and the kind of answer."""
    column = sample.text_column
    if column is None and ask is None:
        columns = ", ".join(sample.columns)
        raise JobError(
            f"the input has no column of texts to ask about; say what to ask with --prompt. Columns are: {columns}"
        )
    said = column or ""
    while ask is not None:
        said = ask("Column with the text, or the whole prompt with columns in {{ }}", column or "")
        if (fault := _prompt_fault(said, sample)) is None:
            break
        output.say(f"  {fault}")
    found: list[tuple[str, Any]] = []
    label = sample.label_column
    kind: str = "text"
    names: list[str] = []
    if has_format:
        kind = "format"
    elif ask is not None:
        kind, names = _kind(sample, ask, label)
    elif label is not None:
        kind, names = "labels", sample.labels(label)
        notes.append(
            f"the answers are labels, those of the column {label!r}: {as_list(names, ', ')}; --choices names others"
        )
    if kind == "labels":
        found.append((FORMAT, label_schema(names)))
        if label is not None and sample.labels(label) == sorted(names):
            found.append(
                ("score", [{"name": "accuracy", "kind": "exact", "answer": f"parsed.{LABEL}", "expected": label}])
            )
    elif kind == "fields":
        found.append((FORMAT, _fields(names)))
    prompt = said if "{{" in said else _worded(kind, names, said)
    if ask is None:
        notes.append(f"the prompt is a guess, over the column {column!r}: mend it in the file, or say it with --prompt")
    return [("prompt.user", prompt), *found]


def _prompt_fault(said: str, sample: InputSample) -> str | None:
    """Why a column, or a prompt, cannot be asked about, as a sentence."""
    if "{{" not in said:
        return None if said in sample.columns else missing_column(said, sample.columns)
    try:
        (section,) = build({"prompt": {"user": said}}).templates.values()
        missing = Prompt(section, "prompt").missing(sample.columns)
    except JobError as error:
        return str(error)
    return missing_column(missing[0], sample.columns) if missing else None


def _kind(sample: InputSample, ask: Ask, label: str | None) -> tuple[str, list[str]]:
    """3: labels, fields or text; and which."""
    while (kind := ask("Kind of answer: labels, fields or text", "labels" if label else "text")) not in _KINDS:
        output.say("  labels: one of a list; fields: a JSON object; text: whatever the model says")
    if kind == "text":
        return kind, []
    default = as_list(sample.labels(label)) if kind == "labels" and label else ""
    while True:
        try:
            names = list_of(ask(f"Which {kind}, with commas between them", default))
        except ValueError as error:
            output.say(f"  {error}")
            continue
        if len({*names}) == len(names) and len(names) > (kind == "labels"):
            return kind, names
        output.say(f"  {'two labels at least' if kind == 'labels' else 'one field at least'}, each once")


def _endpoint(ask: Ask | None, *, has_model: bool) -> list[tuple[str, Any]]:
    """4: where to send requests, and to which model."""
    if ask is None:
        return []
    names = ("local", *HOSTED)
    while True:
        said = ask(f"Endpoint: a URL such as http://127.0.0.1:8000/v1, or {' or '.join(names)}", "local")
        if said in names or said.startswith(("http://", "https://")):
            break
        output.say("  an address begins with http:// or https://")
    place = "endpoint.base_url" if "://" in said else "endpoint.name"
    return [(place, said), *([] if said == "local" or has_model else _model(ask))]


def _model(ask: Ask) -> list[tuple[str, Any]]:
    while not (model := ask("Model", "")):
        pass
    return [("override.model", model)]


def _where(spec: str, ask: Ask | None, *, force: bool) -> Path:
    """5: the file to write."""
    default = f"{_name(spec)}.toml"
    if ask is None:
        return Path(default)
    while fault := _path_fault(path := Path(ask("Job file to write", default)), force=force):
        output.say(f"  {fault}")
    return path


def _path_fault(path: Path, *, force: bool) -> str | None:
    """Why a job file cannot be written to a path, as a sentence."""
    if not is_job_file(path.name):
        return f"the name of a job file ends in .toml; found {path}"
    if path.exists() and not force:
        return f"{path} is there already; name another file with -o, or replace it with --force"
    return None


# ------------------------------------------------------------------------------------------------------- the job


def _tables(
    settings: Sequence[tuple[str, Any]], spec: str, sample: InputSample, path: Path, *, is_new: bool
) -> dict[str, Any]:
    """The tables of the job. Parameters of a prompt are its own, as no row can have others."""
    has_prompt = any(place.startswith("prompt.") for place, _ in settings)
    placed = [(re.sub(r"^override\.", "params.", place) if has_prompt else place, value) for place, value in settings]
    found = tables_of(placed)
    own: dict[str, Any] = {"path": _relative(spec, path)}
    if sample.id_column is not None and is_new:  # what was asked by the command line alone has no such ids
        own["id"] = sample.id_column
    own |= sample.dialect
    if has_prompt:
        own["carry"] = "*"
    job: dict[str, Any] = {"name": _name(str(path.with_suffix("")))}
    if (there := Path("runs") / _name(spec)).is_dir() and there.name != job["name"]:
        job["out"] = str(there)  # what was asked without a job file
    job |= found.pop("job", {})
    params = found.pop("params", {})
    if "model" in params:
        params = {"model": params.pop("model"), **params}
    tables = path_variables.literal({"input": own})
    tables["input"] |= found.pop("input", {})
    return {"job": job, **tables, **({"params": params} if params else {}), **found}


def _relative(spec: str, path: Path) -> str:
    """The input as the job file names it: from its own folder, unless it is absolute."""
    if is_url(spec):
        return without_signature(spec)
    if Path(spec).is_absolute() or spec.startswith("~"):
        return spec
    return os.path.relpath(spec, path.parent)


def _check(tables: Mapping[str, Any], sample: InputSample, path: Path) -> None:
    """:raises JobError: naming every mistake of the job, or columns of its prompt that are not there."""
    folder = path.parent.absolute()
    job = build(tables, folder=folder, environment=environment_of(tables, (), folder, lenient=True))
    is_asked_of_server = any(entry.is_server and entry.model is None for entry in job.endpoint_entries)
    if is_asked_of_server and not job.models and (job.templates or not _name_models(sample)):
        raise JobError("which model to ask is not said: --model M")
    prompts = [Prompt(section, f"prompts.{name}" if name else "prompt") for name, section in job.templates.items()]
    mistakes = [
        f"{prompt.place}: {missing_column(name, sample.columns)}"
        for prompt in prompts
        for name in prompt.missing(sample.columns)
    ]
    named = [job.input.id] if job.input.id else []
    named += job.input.carry if job.input.carry != "*" else []
    mistakes += [
        missing_column(name, sample.columns) for name in named if sample.columns and name not in sample.columns
    ]
    if mistakes:
        raise JobError(mistakes)


def _name_models(sample: InputSample) -> bool:
    """Whether each row says which model is to be asked."""
    return all("model" in row or "model" in str(row.get("body")) for row in sample.rows)


def _name(spec: str) -> str:
    path = Path(without_signature(spec).partition("?")[0] if is_url(spec) else spec)
    stem = path.name.split(".")[0]
    plain = path.parent.name if any(sign in stem for sign in "*?[") else stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:100] or "job"


def _said_of_input(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    return {place.removeprefix("input."): value for place, value in settings if place.startswith("input.")}


def _storage(settings: Sequence[tuple[str, Any]]) -> StorageSection:
    """What is set of how buckets are reached. What is wrong with that is told when the job is checked."""
    said = tables_of([(place, value) for place, value in settings if place.startswith("storage.")])
    try:
        return StorageSection(**said.get("storage", {}))
    except ValueError:
        return StorageSection()


def _fields(names: Sequence[str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {name: {"type": ["string", "null"]} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "fields", "schema": schema}}


def _worded(kind: str, names: Sequence[str], column: str) -> str:
    """A prompt over one column."""
    shown = f"{{{{ {column} }}}}" if re.fullmatch(r"[A-Za-z_]\w*", column) else f"{{{{ row[{column!r}] }}}}"
    if kind == "labels":
        return f"Which of these is it: {as_list(names, ', ')}?\n\n{shown}"
    if kind == "fields":
        return f"Take from this text, as JSON: {', '.join(names)}. What it does not say is null.\n\n{shown}"
    return shown if kind == "format" else f"Summarise this in one sentence.\n\n{shown}"


def _described(sample: InputSample) -> str:
    first = sample.rows[0]
    cells = ", ".join(f"{one_line(name, 30)}: {one_line(str(first.get(name)), 30)}" for name in sample.columns[:6])
    return f"{count(len(sample.columns), 'column')}; the first row: {cells}"
