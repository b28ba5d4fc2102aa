"""A job file, or a command line, to a validated :class:`~batchflex.config.job.Job`.

Nothing here reads input or opens a connection; the clock is read only for an output folder with a date in its name, when no
moment is given.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import re
import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from ..core import JobError, Redactor, did_you_mean, is_bucket, is_url, redacted, url_name, without_signature
from ..protocol import CHAT, HALF, halves_in, pydantic_models
from . import dated_path, path_variables, toml
from .choices import put_choices
from .environment import Environment, environment_of, exposed
from .fields import WrongField
from .job import Job, Origin
from .job_checks import job_mistakes
from .missing_files import absent_input, absent_inputs
from .mistake_messages import KEY_HINT, Mistake, choice, explained, found, sentences
from .partial_job import validated
from .score_sections import ScoreSection
from .secrets_check import key_mistakes, key_variables
from .settings import places_of, section_of

REQUEST_FILES = (".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".arrow", ".feather", ".ipc")
_TABLES = (".csv", ".tsv", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


def read(spec: str | Path, settings: Sequence[tuple[str, Any]] = (), *, moment: datetime.datetime | None = None) -> Job:
    """The job at a path: a job file (``.toml``), or the requests themselves, also a folder or pattern of files.

    A table (.csv) will do where ``settings`` have a prompt: the results have all of its columns then. Keys may be in a file
    ``.env``: beside the job file, else in the current folder. ``moment`` is the date of an output folder that has one in its
    name; the current time if left out.

    :raises JobError: if it is neither, or naming every mistake.
    """
    if is_url(str(spec)):
        return _of_url(str(spec), settings, moment)
    path = Path(spec)
    if path.suffix.lower() == ".toml":
        return load(path, settings, moment=moment)
    plain = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if plain.endswith(_TABLES) and not _has_prompt(settings):
        raise JobError(
            absent_input(str(path))
            or f"{path} is a table, and needs a prompt made of its columns: --prompt '… {{{{ name_of_a_column }}}}', or a job "
            f"file (.toml) with one, which this writes: batchflex init {shlex.quote(str(path))}"
        )
    if not path.is_dir() and not plain.endswith((*REQUEST_FILES, *_TABLES)):
        raise JobError(
            absent_input(str(path))
            or f"{path} is neither a job file (.toml) nor requests: {', '.join(REQUEST_FILES)} (.gz and .zst may follow), "
            f"nor a table to ask about with --prompt: {', '.join(_TABLES)}; nor a folder or pattern of such files"
        )
    stem = path.name.split(".")[0]
    name = path.parent.name if any(c in stem for c in "*?[") else stem
    return _of_input(name, str(path), settings, moment, str(spec))


def _of_url(url: str, settings: Sequence[tuple[str, Any]], moment: datetime.datetime | None) -> Job:
    """The job of requests, or of a table, in a bucket or on the web."""
    path, shown = url_name(url), without_signature(url)
    plain = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if plain.endswith(".toml"):
        raise JobError(f"a job file is read from this machine: copy {shown} here")
    if plain.endswith(_TABLES) and not _has_prompt(settings):
        raise JobError(
            f"{shown} is a table, and needs a prompt made of its columns: --prompt '… {{{{ name_of_a_column }}}}', or a job "
            "file (.toml) with one"
        )
    stem = path.name.split(".")[0]
    parts = [part for part in url.partition("://")[2].rstrip("/").split("/")[1:-1] if not any(c in part for c in "*?[")]
    name = (parts[-1] if parts else "") if any(c in stem for c in "*?[") else stem
    return _of_input(name, url, settings, moment, shown)


def _has_prompt(settings: Sequence[tuple[str, Any]]) -> bool:
    return any(place.startswith("prompt.") for place, _ in settings)


def _of_input(
    name: str, path: str, settings: Sequence[tuple[str, Any]], moment: datetime.datetime | None, spec: str
) -> Job:
    """The job that asks an input, without a job file."""
    carried = {"carry": "*"} if _has_prompt(settings) else {}
    data = path_variables.literal({"job": {"name": _name_from(name)}, "input": {"path": path, **carried}})
    return build(data, settings, environment=environment_of(data, settings, Path()), moment=moment, spec=spec)


def _name_from(text: str) -> str:
    """A job name made from the name of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "job"


def load(
    path: str | Path,
    settings: Sequence[tuple[str, Any]] | Mapping[str, Any] = (),
    *,
    moment: datetime.datetime | None = None,
) -> Job:
    """Read a job file; ``settings`` are dotted places with values that replace those of the file, or a mapping as
    :func:`~batchflex.run` takes it. A file ``.env`` beside it is read too, if there is one.

    Relative paths in the file are resolved against the file's folder, those in ``settings`` against the current one.

    :raises JobError: naming every mistake with its line.
    """
    path, settings = Path(path), places_of(settings) if isinstance(settings, Mapping) else settings
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise JobError(f"there is no job file {path}{did_you_mean(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"the job file {path} cannot be read: {error}") from None
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise JobError(f"not valid TOML: {error}", place=str(path)) from None
    section = data.get("job", {})
    if isinstance(section, dict):
        name = _name_from(path.stem)
        data["job"] = {"name": name, **section}
    environment = environment_of(data, settings, path.parent)
    return build(
        data, settings, place=str(path), text=text, folder=path.parent,
        environment=environment, moment=moment, spec=str(path),
    )  # fmt: skip


def job_of_section(path: Path, section: str, settings: Sequence[tuple[str, Any]], *, with_file: bool = True) -> Job:
    """As much as can be read of a job file with mistakes: one section, beside its name and its output folder; without
    ``with_file`` only what ``settings`` say of that section.

    :raises JobError: if these have mistakes, too, or the file cannot be read at all.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise JobError(f"{path} cannot be read: {error}") from None
    job = data.get("job")
    named = {name: job[name] for name in ("name", "out", "env_file") if name in job} if isinstance(job, dict) else {}
    kept = {"job": {"name": path.stem, **named}, section: data.get(section, {}) if with_file else {}}
    given = [(place, value) for place, value in settings if place == "job.out" or place.startswith(f"{section}.")]
    environment = environment_of(kept, given, path.parent, lenient=True)
    return build(kept, given, folder=path.parent, environment=environment)


def build(
    data: Mapping[str, Any],
    settings: Sequence[tuple[str, Any]] = (),
    *,
    place: str = "",
    text: str = "",
    folder: Path | None = None,
    environment: Environment | None = None,
    moment: datetime.datetime | None = None,
    spec: str | None = None,
) -> Job:
    """Validate a job given as nested values; ``text`` is the content of the file they were read from, if any, and ``place`` its
    name. A pydantic model in place of a ``response_format`` means one that asks for its JSON.

    Variables in paths, and keys, are looked up in ``environment``, or in that of the process. ``folder`` is what relative paths
    are resolved against. A date in ``job.out`` is that of ``moment``, or the current one. ``spec`` is the path that the job was
    read from, as a command would name it.

    :raises JobError: naming every mistake at once.
    """
    models: list[pydantic_models.Model] = []
    environment = environment or Environment()
    merged: dict[str, Any] = {name: _plain(value, models) for name, value in data.items()}
    for dotted, value in settings:
        _put(merged, dotted, _plain(value, models, dotted.rpartition(".")[2]))
    CHAT.parameters.make_whole(merged)
    outside = [dotted for dotted, _ in settings]
    mistakes = put_choices(merged) + path_variables.expand(merged, environment)
    if folder is not None:
        _make_absolute(merged, outside, folder)
    job, errors = validated(merged)
    folders = None
    if job is not None:
        with contextlib.suppress(WrongField):
            folders, of_folder = _output(job, outside)
            mistakes += of_folder
        mistakes += job_mistakes(job)
    mistakes += [explained(error, Job) for error in errors]
    known = {mistake.place for mistake in mistakes}
    mistakes += [Mistake(at, HALF) for at in halves_in(merged) if at not in known]
    secrets = environment.secrets(key_variables(merged))
    mistakes = _with_keys(mistakes, key_mistakes(merged, secrets))
    if mistakes or job is None:
        if not any(mistake.place.startswith("input.path") for mistake in mistakes):
            mistakes += absent_inputs(merged)
        lines = [Redactor(secrets).text(each) for each in sentences(mistakes, toml.key_lines(text), outside)]
        in_file = any(KEY_HINT in what and at not in outside for at, what in mistakes)
        if place and in_file and (open_ := exposed(Path(place))):
            lines.append(f"the file holds a key, and {open_}")
        raise JobError(lines, place=place)
    own = {} if folders is None else {"out": folders.at(moment or datetime.datetime.now())}
    own |= {} if environment.file is None else {"env_file": str(environment.file)}
    if "out" in own and is_bucket(str(own["out"])) and "results" not in job.job.model_fields_set:
        own["results"] = "folder"  # whose files are uploaded once, not anew with each row
    scores = [_beside(each, folder) if folder is not None and each.is_function else each for each in job.score]
    storage = job.storage.using(environment)
    job = job.model_copy(update={"job": job.job.model_copy(update=own), "score": scores, "storage": storage})
    job._models = tuple(models)
    job._origin = Origin(environment, folders if folders is not None and folders.has_date else None, spec)
    return job


def changed(job: Job, settings: Sequence[tuple[str, Any]]) -> Job:
    """A job with other values in some places.

    :raises JobError: naming every mistake at once.
    """
    data = job.resolved() | {"notify": job.notify.model_dump(exclude_none=True)}
    if job.input.path is not None:  # with what signs a URL, which is left out of what is written
        data["input"]["path"] = path_variables.literal({"input": {"path": job.input.path}})["input"]["path"]
    places = {place for place, _ in settings}
    if "answer.choices" in places and job.answer.choices is not None:
        del data["params"]["response_format"]
    made = build(data, settings, environment=job.environment, spec=job.spec)
    if job.dated is not None and "job.out" not in places:
        made = made.model_copy(update={"job": made.job.model_copy(update={"keep_runs": job.job.keep_runs})})
        made._origin = dataclasses.replace(made._origin, dated=job.dated)
    made._models, made._route = (*job._models, *made._models), job.route
    return made


def _output(job: Job, outside: Sequence[str]) -> tuple[dated_path.Dated | None, list[Mistake]]:
    """The output folder as a pattern of dates, and what is wrong with it."""
    section, folders = job.job, None
    if section.out is not None:
        try:
            folders = dated_path.dated(_home(section.out), section.name)
        except ValueError as error:
            return None, [Mistake("job.out", str(error))]
    # A folder that the command line names wins over those of the file, which are kept as they are.
    is_bounded = section.keep_runs is not None and ("job.out" not in outside or "job.keep_runs" in outside)
    if not is_bounded or (folders is not None and folders.has_date):
        return folders, []
    what = (
        'there is but one output folder; name one for each date in job.out ("runs/{name}/{date}"). '
        "What lies in a single folder is made small by: batchflex compact OUT"
    )
    return folders, [Mistake("job.keep_runs", what)]


def _home(path: str) -> str:
    if is_bucket(path):
        return path.rstrip("/")
    try:
        return str(Path(path).expanduser() if path.startswith("~") else Path(path))
    except (RuntimeError, ValueError):  # no such home: reported when the folder is made
        return path


def _with_keys(mistakes: list[Mistake], keys: list[Mistake]) -> list[Mistake]:
    """All mistakes, one for each place: that it holds a key comes first, unless it is a URL with a message of its own."""
    known = {m.place for m in mistakes if KEY_HINT in m.what or m.place.endswith(".base_url")}
    keys = [m for m in keys if not any(m.place == place or m.place.startswith(f"{place}.") for place in known)]
    places = {m.place for m in keys}
    return [m for m in mistakes if m.place not in places] + keys


def _plain(value: Any, models: list[pydantic_models.Model], name: str = "") -> Any:
    """A copy, with the types that TOML has. Pydantic models in it are added to ``models`` and replaced by their formats."""
    if isinstance(value, Mapping):
        return {key: _plain(inner, models, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, models) for inner in value]
    if pydantic_models.is_model(value):
        models.append(value)
        return pydantic_models.schema(value) if name == "json_schema" else pydantic_models.response_format(value)
    return str(value) if isinstance(value, PurePath) else value


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    at = data
    for number, name in enumerate(parents):
        inside = at.setdefault(name, {})
        if name == "score" and not number and isinstance(inside, list):
            inside = {str(each.get("name")): each for each in inside if isinstance(each, dict)}
            if parents[1:2] and parents[1] not in inside:
                raise JobError(f"--set {dotted}: there is no score {parents[1]!r}; {choice(parents[1], list(inside))}")
        if not isinstance(inside, dict):
            raise JobError(f"--set {dotted}: '{name}' is a value, not a table")
        at = inside
    at[last] = value


def tables_of(settings: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The tables of a job file that say what dotted places with values say.

    :raises JobError: if one of the places is within a value.
    """
    tables: dict[str, Any] = {}
    for dotted, value in settings:
        _put(tables, dotted, value)
    return tables


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse ``"limits.rpm=60"`` into a place and a value; a bare name means a request parameter, which overrides those of rows.

    The value is read as TOML (``0.7``, ``true``, ``["a", "b"]``), else taken as a string.

    :raises JobError: if there is no ``=`` or no name, or the name is that of a limit and would be sent to the server.
    """
    name, equals, raw = text.partition("=")
    name = name.strip()
    if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
        raise JobError(redacted(f"--set wants KEY=VALUE, for example --set limits.rpm=60; {found(text)}"))
    try:
        read = tomllib.loads(f"v = {raw}")
    except (ValueError, RecursionError):
        read = {}
    value = read["v"] if read.keys() == {"v"} else raw  # a line break in it may have begun another key
    is_text = name.startswith(("endpoint.headers.", "endpoint.query."))
    if isinstance(value, datetime.date | datetime.time) or (is_text and not isinstance(value, str)):
        value = raw
    if "." not in name and (section := section_of(name)):
        raise JobError(f"--set {name}: that is no request parameter; write --set {section}.{name}=…")
    return (name if "." in name else f"override.{name}"), value


def _make_absolute(data: dict[str, Any], outside: Collection[str], folder: Path) -> None:
    """Resolve the relative paths of a job against ``folder``, in place; those that settings gave, against the current folder."""
    inputs = [place for place in path_variables.PLACES if place not in ("job.out", "job.env_file")]
    given = [place for place in outside if place in inputs]
    path_variables.each_path(data, lambda _, path: _absolute(path, Path.cwd()), given)
    path_variables.each_path(data, lambda _, path: _absolute(path, folder), inputs)


def _absolute(path: str, folder: Path) -> str:
    if not path or "://" in path:
        return path
    try:
        return str((folder / Path(path).expanduser()).resolve())
    except (RuntimeError, ValueError, OSError):  # no such home, a loop of links: reported when the file is opened
        return path


def _beside(score: ScoreSection, folder: Path) -> ScoreSection:
    """The score, with its function in the folder of the job file."""
    return score.model_copy(update={"folder": str((folder / (score.folder or "")).resolve())})
