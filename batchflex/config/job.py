"""A job file, or a command line, to a validated :class:`Job`.

The models here are the reference of the job file: ``docs/job-file.md`` lists every key with its default, and a test
holds the two together. Nothing here reads input or opens a connection; the clock is looked at only for an output folder
with a date in its name, when no moment is given.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import msgspec
import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ..core import JobError, Redactor, redacted
from ..protocol import CHAT, HALF, Model, Policy, Route, halves_in, pydantic_models, schema_of
from . import dated_path, path_variables, toml
from .durations import Since
from .environment import Environment, environment_of, exposed, is_called_a_key
from .job_checks import HOSTED, cross_checks, hosted_at
from .job_mistakes import KEY_HINT, Mistake, choice, explained, found, sentences, wanted
from .notify_sections import NotifySection
from .score_sections import ScoreSection
from .secrets_check import key_mistakes
from .sections import ConcurrencyLimit, EndpointSection, LimitsSection, LogSection, PricesTable, Section
from .sweep import Forms, always_set, variables

OnChange = Literal["stop", "rerun", "keep"]
# -------------------------------------------------------------------------------------------------------- the tables


def _check_name(name: str) -> str:
    if len(name) > 100 or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ValueError(
            "a name may hold letters, digits, '.', '_' and '-', begins with a letter or a digit, and has at most 100 "
            f"characters; {found(name)}"
        )
    return name


class JobSection(Section):
    name: Annotated[str, AfterValidator(_check_name)] = "job"
    out: Annotated[str, Field(min_length=1)] | None = None
    keep_runs: Annotated[int, Field(ge=1)] | None = None
    on_change: OnChange = "stop"
    retry_failed: Annotated[int, Field(ge=0, le=1_000_000)] = 3
    report: bool | None = None
    env_file: Annotated[str, Field(min_length=1)] | None = None


_Path = Annotated[str, Field(min_length=1)]


class EndpointsEntry(EndpointSection):
    """One of several endpoints, with a quota and a model name of its own."""

    model: Annotated[str, Field(min_length=1)] | None = None
    concurrency: ConcurrencyLimit | None = None
    rpm: Annotated[float, Field(gt=0)] | None = None
    tpm: Annotated[float, Field(gt=0)] | None = None


class InputSection(Section):
    path: Annotated[_Path | list[_Path], wanted("a path in quotes, or a list of them")] | None = None
    format: Literal["auto", "jsonl", "parquet", "csv"] = "auto"
    id: Annotated[str, Field(min_length=1)] | None = None
    carry: Annotated[Literal["*"] | list[str], wanted("a list of column names, or '*' for all")] = Field(
        default_factory=list
    )
    params: Annotated[list[Annotated[str, Field(min_length=1)]], wanted("a list of column names")] = Field(
        default_factory=list
    )
    dedupe: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    since: Since | None = None
    on_bad_row: Literal["stop", "fail"] = "stop"


class PromptSection(Section):
    system: str | None = None
    user: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _says_something(self) -> PromptSection:
        if self.messages is None and self.user is None:
            raise ValueError("a prompt needs 'user' (and perhaps 'system'), or 'messages'")
        if self.messages is not None and (self.user is not None or self.system is not None):
            raise ValueError("a prompt has either 'messages' or 'system' and 'user', not both")
        if self.messages is not None and not all(isinstance(m.get("role"), str) for m in self.messages):
            raise ValueError("each of 'messages' needs a 'role'")
        return self


class SweepSection(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    samples: Annotated[int, Field(ge=1, le=100_000)] = 1
    zip: dict[str, Any] | None = None
    points: list[dict[str, Any]] | None = None
    order: Literal["auto", "prefix", "row"] = "auto"

    @property
    def forms(self) -> Forms:
        """What is swept: the grid (every other key of the table), zip and points."""
        return Forms(self.model_extra or {}, self.zip or {}, self.points or [])

    @property
    def variables(self) -> dict[str, list[Any]]:
        """Each swept variable with its distinct values, in order of first appearance: those of points, of zip, of the grid."""
        return variables(self.forms)


class AnswerSection(Section):
    """What structured answers are held against, and what happens when one does not fit or is cut off."""

    max_reasks: Annotated[int, Field(ge=0, le=20)] = 0
    grow_max_tokens: Annotated[int, Field(ge=2)] | None = None
    lenient: bool = False
    allow_empty: bool = False
    json_schema: dict[str, Any] | None = None
    fallback: Literal["json_object", "prompt", "stop"] = "json_object"


class RetrySection(Section):
    attempts: Annotated[int, Field(ge=1, le=1000)] = 6
    max_s: Annotated[float, Field(gt=0)] = 600.0
    base_s: Annotated[float, Field(gt=0)] = 1.0
    max_wait_s: Annotated[float, Field(gt=0)] = 60.0


class JournalSection(Section):
    sync_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    seal_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    seal_mb: Annotated[float, Field(gt=0, le=4096)] = 16.0


@dataclasses.dataclass(frozen=True)
class _Origin:
    """Where a job comes from; no part of what it is."""

    environment: Environment = dataclasses.field(default_factory=Environment, compare=False)
    dated: dated_path.Dated | None = dataclasses.field(default=None, compare=False)
    spec: str | None = dataclasses.field(default=None, compare=False)


class Job(Section):
    """A whole job. Each field is a table of the job file. Made by :func:`load` or :func:`build`, which check it all."""

    job: JobSection = JobSection()
    endpoint: EndpointSection = EndpointSection()
    endpoints: list[EndpointsEntry] = Field(default_factory=list)
    input: InputSection = InputSection()
    prompt: PromptSection | None = None
    prompts: dict[str, PromptSection] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)
    override: dict[str, Any] = Field(default_factory=dict)
    sweep: SweepSection = SweepSection()
    answer: AnswerSection = AnswerSection()
    limits: LimitsSection = LimitsSection()
    prices: PricesTable | None = None
    retry: RetrySection = RetrySection()
    journal: JournalSection = JournalSection()
    log: LogSection = LogSection()
    score: list[ScoreSection] = Field(default_factory=list)
    notify: NotifySection = NotifySection()
    _models: tuple[Model, ...] = PrivateAttr(())
    _origin: _Origin = PrivateAttr(default_factory=lambda: _Origin())
    _route: Route = PrivateAttr(default_factory=lambda: CHAT)

    @property
    def environment(self) -> Environment:
        """The variables that keys are looked for in."""
        return self._origin.environment

    @property
    def dated(self) -> dated_path.Dated | None:
        """What ``out`` was made of, if it is another folder each date."""
        return self._origin.dated

    @property
    def spec(self) -> str | None:
        """The job file or the requests that the job was read from, as they were named."""
        return self._origin.spec

    @property
    def route(self) -> Route:
        """The kind of request that rows become."""
        return self._route

    @property
    def models_by_format(self) -> dict[bytes, pydantic_models.Model]:
        """The pydantic models that the job was given in place of formats, by the ``response_format`` that stands for each.

        They are not in the job file: what they demand beyond their JSON Schema holds in this process only.
        """
        return {msgspec.json.encode(pydantic_models.response_format(model)): model for model in self._models}

    @property
    def wants_report(self) -> bool:
        """Whether a run that has ended writes its report: if ``job.report`` says so, else if it has scores to show."""
        return bool(self.score) if self.job.report is None else self.job.report

    @property
    def out(self) -> Path:
        """The output folder: ``job.out``, else ``runs/<name>``."""
        return Path(self.job.out) if self.job.out else Path("runs") / self.job.name

    @property
    def templates(self) -> dict[str, PromptSection]:
        """Prompt variants by name, in sweep order; the one prompt under ``""``; empty if rows bring their messages."""
        swept = self.sweep.variables.get("prompt")
        if swept:
            return {name: self.prompts[name] for name in swept}
        return {"": self.prompt} if self.prompt else {}

    @property
    def asked(self) -> list[EndpointsEntry]:
        """Where requests go: each of ``[[endpoints]]``, else the one endpoint with the limits of ``[limits]``."""
        limits = self.limits
        own = {name: getattr(limits, name) for name in ("concurrency", "rpm", "tpm")}
        if not self.endpoints:
            return [EndpointsEntry(**self.endpoint.model_dump(), **own)]
        return [e.model_copy(update={n: v for n, v in own.items() if getattr(e, n) is None}) for e in self.endpoints]

    @property
    def reasks(self) -> Policy:
        """What is asked again of answers that do not fit, or were cut off."""
        answer, streams = self.answer, any(entry.stream == "auto" for entry in self.asked)
        return Policy.made(answer.max_reasks, answer.json_schema, answer.grow_max_tokens or 0, streams=streams)

    @property
    def models(self) -> list[str]:
        """The models that the job itself names: overridden, else swept, else of ``[params]``."""
        if "model" in self.override:
            return [str(self.override["model"])]
        named = list(self.sweep.variables.get("model", ()))
        if "model" not in always_set(self.sweep.forms):
            named += [m for m in (self.params.get("model"),) if m is not None and m not in named]
        return [str(model) for model in named]

    @property
    def names_every_model(self) -> bool:
        """Whether no row can bring another model than :attr:`models`."""
        is_set = "model" in self.override or "model" in always_set(self.sweep.forms)
        return is_set or (bool(self.models) and bool(self.templates))

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The JSON Schemas that the job itself holds its answers against; several if they are swept."""
        if self.answer.json_schema is not None:
            return [self.answer.json_schema]
        name = "response_format"
        swept = [*self.sweep.variables.get(name, ()), self.params.get(name)]
        found = [schema_of(each) for each in ([self.override[name]] if name in self.override else swept)]
        return [schema for schema in found if isinstance(schema, dict)]

    @property
    def groups_prefixes(self) -> bool:
        """Whether requests that begin alike are sent near each other. Not to the local model, if the job leaves it open: each
        of its slots keeps the last prompt for itself, so that those of different prompts side by side serve it better."""
        if self.sweep.order == "auto":
            return any(entry.base_url or entry.name not in (None, "local") for entry in self.asked)
        return self.sweep.order == "prefix"

    def warnings(self) -> list[str]:
        """A sentence for each thing that is allowed and yet probably a slip."""
        sections = {"params": self.params, "override": self.override, "sweep": self.sweep.variables}
        judges = {n: score.judge for n, score in enumerate(self.score) if score.judge is not None}
        sections |= {f"score.{n}.judge.params": judge.params for n, judge in judges.items()}
        slips = [
            f"{section}.{name} is not a documented parameter; did you mean '{near}'? It is sent as it is"
            for section, names in sections.items()
            for name in names
            if (near := self.route.parameters.likely_misspelt(name)) and not (section == "sweep" and name == "prompt")
        ]
        slips += [
            f"the model {model!r} has an organisation before its name; at {name} ids are bare: {model.rpartition('/')[2]!r}"
            for name, model in self._hosted_models()
            if "/" in model
        ]
        own = {name for name in (self.notify.webhook_env, self.notify.ping_env) if name is not None}
        return slips + self.environment.warnings(own | _key_variables(self.resolved()))

    def _hosted_models(self) -> dict[tuple[str, str], None]:
        """What is asked of hosted APIs: the name of each with that of the model."""
        found: dict[tuple[str, str], None] = {}
        for entry in self.asked:
            name = hosted_at(entry.base_url) if entry.base_url else entry.name
            if name is not None and name in HOSTED:
                found |= {(name, model): None for model in ([entry.model] if entry.model else self.models)}
        return found

    def resolved(self) -> dict[str, Any]:
        """The job as plain values, defaults filled in, without nulls: what ``job.toml`` in the folder holds. It stands for this
        output folder, so it says nothing of those of other dates."""
        plain = self.model_dump(exclude_none=True)
        plain["job"].pop("keep_runs", None)
        if self.sweep.order == "auto":
            del plain["sweep"]["order"]
        if not self.input.params:  # older folders do not have it
            del plain["input"]["params"]
        del plain["endpoint" if self.endpoints else "endpoints"]
        for table in plain.get("endpoints", [plain.get("endpoint")]):
            if not table["finish_reasons"]:
                del table["finish_reasons"]
        if not self.score:
            del plain["score"]
        if kept := self.notify.kept():
            plain["notify"] = kept
        else:
            del plain["notify"]
        return literal(plain)

    def to_toml(self) -> str:
        """:meth:`resolved` as the text of a job file. Unlike other writers it keeps the order inside parameters."""
        return toml.dumps(self.resolved())


# ------------------------------------------------------------------------------------------------- from text to Job


REQUEST_FILES = (".jsonl", ".ndjson", ".parquet", ".pq")
_TABLES = (".csv", ".tsv")


def literal(data: dict[str, Any]) -> dict[str, Any]:
    """The tables of a job, changed so that :func:`build` takes their paths as they are."""
    path_variables.each_path(
        data, lambda place, text: path_variables.escaped(dated_path.escaped(text) if place == "job.out" else text)
    )
    return data


def read(spec: str | Path, settings: Sequence[tuple[str, Any]] = (), *, moment: datetime.datetime | None = None) -> Job:
    """The job that a path stands for: a job file (``.toml``), or the requests themselves, also a folder or pattern of files.

    Keys may be in a file ``.env``: beside a job file, else in the present folder. ``moment`` is that of an output folder with a
    date in its name; without it, now.

    :raises JobError: if it is neither, or naming every mistake.
    """
    path = Path(spec)
    if path.suffix.lower() == ".toml":
        return load(path, settings, moment=moment)
    plain = path.name.lower().removesuffix(".gz").removesuffix(".zst")
    if plain.endswith(_TABLES):
        raise JobError(
            f"{path} is a table, and needs a prompt made of its columns: write a job file (.toml) with\n"
            f'  [input]\n  path = "{path}"\n  [prompt]\n  user = "... {{{{ name_of_a_column }}}}"'
        )
    if not path.is_dir() and not plain.endswith(REQUEST_FILES):
        raise JobError(
            f"{path} is neither a job file (.toml) nor requests: {', '.join(REQUEST_FILES)} (.gz and .zst may follow), "
            "or a folder or pattern of such files"
        )
    stem = path.name.split(".")[0]
    name = _name_from(path.parent.name if any(c in stem for c in "*?[") else stem)
    data = literal({"job": {"name": name}, "input": {"path": str(path)}})
    environment = environment_of(data, settings, Path())
    return build(data, settings, environment=environment, moment=moment, spec=str(spec))


def _name_from(text: str) -> str:
    """What a file or folder name gives as the name of a job."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:100] or "job"


def load(path: str | Path, settings: Sequence[tuple[str, Any]] = (), *, moment: datetime.datetime | None = None) -> Job:
    """Read a job file; ``settings`` are dotted places with values that replace what the file says. A file ``.env`` beside it is
    read too, if there is one.

    Relative paths in the file are taken from the file's own folder, those in ``settings`` from the present one.

    :raises JobError: naming every mistake with its line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise JobError(f"there is no job file {path}") from None
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
    """Validate a job given as nested values; ``text`` is the file they were read from, if any. A pydantic model stands for
    the ``response_format`` that asks for its JSON.

    Variables in its paths are those of the ``environment``, as are keys; without it, those of the process. A date in ``job.out``
    is that of ``moment``; without it, of now. ``spec`` is what the job was read from, as a command would name it.

    :raises JobError: naming every mistake at once.
    """
    met: list[pydantic_models.Model] = []
    environment = environment or Environment()
    merged: dict[str, Any] = {name: _plain(value, met) for name, value in data.items()}
    for dotted, value in settings:
        _put(merged, dotted, _plain(value, met, dotted.rpartition(".")[2]))
    CHAT.parameters.make_whole(merged)
    outside = [dotted for dotted, _ in settings]
    mistakes = path_variables.expand(merged, environment)
    folders, wrong = _output(merged, outside, moment)
    mistakes += wrong
    if folder is not None:
        # Relative paths of these are not the file's.
        given = [dotted for dotted in outside if dotted in path_variables.PLACES]
        path_variables.each_path(merged, lambda at, path: str(_absolute_at(at, path, Path.cwd())), given)
    if environment.file is not None and isinstance(merged.setdefault("job", {}), dict):
        merged["job"]["env_file"] = str(environment.file)
    job: Job | None = None
    mistakes += cross_checks(merged)
    try:
        job = Job.model_validate(merged)
    except pydantic.ValidationError as error:
        mistakes += [explained(e, Job) for e in error.errors(include_url=False)]
    told_of = {mistake.place for mistake in mistakes}
    mistakes += [Mistake(at, HALF) for at in halves_in(merged) if at not in told_of]
    secrets = environment.secrets(_key_variables(merged))
    mistakes = _with_keys(mistakes, key_mistakes(merged, secrets))
    if mistakes or job is None:
        told = [Redactor(secrets).text(each) for each in sentences(mistakes, toml.key_lines(text), outside)]
        in_file = any(KEY_HINT in what and at not in outside for at, what in mistakes)
        if place and in_file and (open_ := exposed(Path(place))):
            told.append(f"the file holds a key, and {open_}")
        raise JobError(told, place=place)
    job._models, job._origin = tuple(met), _Origin(environment, folders, spec)
    return _absolute(job, folder) if folder is not None else job


def _output(
    data: dict[str, Any], outside: Sequence[str], moment: datetime.datetime | None
) -> tuple[dated_path.Dated | None, list[Mistake]]:
    """Put the folder of the moment into ``job.out``; what it was made of, if there are others."""
    section = data.get("job")
    if not isinstance(section, dict):
        return None, []
    folders, out = None, section.get("out")
    if isinstance(out, str) and out:
        try:
            folders = dated_path.dated(_home(out), str(section.get("name", "job")))
        except ValueError as error:
            return None, [Mistake("job.out", str(error))]
        section["out"] = folders.at(moment or datetime.datetime.now())
    if folders is not None and folders.has_date:
        return folders, []
    # A folder that the command line names wins over those of the file, which are kept as they are.
    if section.get("keep_runs") is None or ("job.out" in outside and "job.keep_runs" not in outside):
        return None, []
    what = (
        'there is but one output folder; name one for each date in job.out ("runs/{name}/{date}"). '
        "What lies in a single folder is made small by: batchflex compact OUT"
    )
    return None, [Mistake("job.keep_runs", what)]


def _home(path: str) -> str:
    try:
        return str(Path(path).expanduser() if path.startswith("~") else Path(path))
    except (RuntimeError, ValueError):  # no such home: told when the folder is made
        return path


def _key_variables(data: Mapping[str, Any]) -> set[str]:
    """Every variable that ``api_key_env`` names, and those called like keys that a header or a query is made of."""
    found, left = set(), [data]
    while left:
        here: Any = left.pop()
        if isinstance(here, Mapping):
            left += here.values()
            if isinstance(name := here.get("api_key_env"), str):
                found.add(name)
            for texts in (here.get("endpoint"), *_tables(here.get("endpoints"))):
                found |= {name for text in _sent(texts) for name in path_variables.names(text) if is_called_a_key(name)}
        elif isinstance(here, list):
            left += here
    return found


def _tables(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _sent(endpoint: Any) -> list[str]:
    """The texts of an endpoint's headers and of its query."""
    tables = (endpoint.get(name) for name in ("headers", "query")) if isinstance(endpoint, Mapping) else ()
    return [text for table in tables if isinstance(table, Mapping) for text in table.values() if isinstance(text, str)]


def _with_keys(mistakes: list[Mistake], keys: list[Mistake]) -> list[Mistake]:
    """All of them, each place told once: that a key stands there comes first, unless it is the wrong part of an address."""
    told = {m.place for m in mistakes if KEY_HINT in m.what or m.place.endswith(".base_url")}
    keys = [m for m in keys if not any(m.place == place or m.place.startswith(f"{place}.") for place in told)]
    places = {m.place for m in keys}
    return [m for m in mistakes if m.place not in places] + keys


def _plain(value: Any, met: list[pydantic_models.Model], name: str = "") -> Any:
    """A copy that nobody else changes, of the types that TOML gives. Pydantic models in it are added to ``met``."""
    if isinstance(value, Mapping):
        return {key: _plain(inner, met, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, met) for inner in value]
    if pydantic_models.is_model(value):
        met.append(value)
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


def parse_setting(text: str) -> tuple[str, Any]:
    """``"limits.rpm=60"`` to a place and a value; a bare name means a request parameter, whatever the rows say.

    The value is read as TOML (``0.7``, ``true``, ``["a", "b"]``), else taken as a string.

    :raises JobError: if there is no ``=`` or no name, or the name is one of a limit and would be sent to the server instead.
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
    if "." not in name and not CHAT.parameters.documented(name) and (section := _section_of(name)):
        raise JobError(f"--set {name}: that is no request parameter; write --set {section}.{name}=…")
    return (name if "." in name else f"override.{name}"), value


def _section_of(name: str) -> str | None:
    """The table of a job file that alone has a key of this name, among those a request knows nothing of."""
    sections: dict[str, type[BaseModel]] = {
        "limits": LimitsSection, "retry": RetrySection, "journal": JournalSection, "endpoint": EndpointSection,
    }  # fmt: skip
    return next((section for section, fields in sections.items() if name in fields.model_fields), None)


def _absolute_at(place: str, value: Any, folder: Path) -> Any:
    if place in ("job.out", "job.env_file"):
        return value
    if isinstance(value, list | tuple):
        return [_absolute_at(place, one, folder) for one in value]
    if not isinstance(value, str | PurePath) or not str(value) or "://" in str(value):
        return value
    try:
        return str((folder / Path(value).expanduser()).resolve())
    except (RuntimeError, ValueError, OSError):  # no such home, a loop of links: told when the file is opened
        return str(value)


def _absolute(job: Job, folder: Path) -> Job:
    path = _absolute_at("input.path", job.input.path, folder)

    def placed(endpoint: EndpointSection) -> EndpointSection:
        model_path = _absolute_at("endpoint.model_path", endpoint.model_path, folder)
        return endpoint.model_copy(update={"model_path": model_path})

    def scored(score: ScoreSection) -> ScoreSection:
        if not score.is_function:
            return score
        return score.model_copy(update={"folder": str((folder / (score.folder or "")).resolve())})

    metrics_file = _absolute_at("notify.metrics_file", job.notify.metrics_file, folder)
    return job.model_copy(
        update={
            "notify": job.notify.model_copy(update={"metrics_file": metrics_file}),
            "score": [scored(score) for score in job.score],
            "input": job.input.model_copy(update={"path": path}),
            "log": job.log.model_copy(update={"file": _absolute_at("log.file", job.log.file, folder)}),
            "endpoint": placed(job.endpoint),
            "endpoints": [placed(endpoint) for endpoint in job.endpoints],
        }
    )
