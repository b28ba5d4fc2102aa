"""A job file, or a command line, to a validated :class:`Job`.

The models here are the reference of the job file: ``docs/job-file.md`` lists every key with its default, and a test
holds the two together. Nothing here reads input, opens a connection or looks at the clock.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from . import params as parameters
from .errors import JobError

OnChange = Literal["stop", "rerun", "keep"]
Concurrency = Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float) -> float:
    """Seconds in ``"90"``, ``"30s"``, ``"15m"``, ``"2h"``, ``"1d"`` or sums like ``"1h30m"``.

    :raises ValueError: if it is none of these, or not positive.
    """
    if isinstance(text, bool):
        raise ValueError("a duration such as '30s', '15m', '2h' or '1h30m'")
    if isinstance(text, int | float):
        seconds = float(text)
    elif re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        seconds = sum(float(n) * _UNITS[u] for n, _, u in re.findall(r"(\d+(\.\d+)?)([smhd])", text))
    else:
        raise ValueError(f"{text!r} is no duration; write for example '30s', '15m', '2h' or '1h30m'")
    if not 0 < seconds < float("inf"):
        raise ValueError("a duration must be more than 0")
    return seconds


def _check_duration(value: str | float | None) -> str | float | None:
    if value is not None:
        parse_duration(value)
    return value


Duration = Annotated[str | float, AfterValidator(_check_duration)]


class JobSection(_Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)] = "job"
    out: str | None = None
    on_change: OnChange = "stop"
    retry_failed: Annotated[int, Field(ge=0)] = 3


class EndpointSection(_Section):
    name: Annotated[str, Field(min_length=1)] | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    stream: Literal["auto"] | bool = "auto"
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    idle_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    model_path: str | None = None
    n_parallel: Annotated[int, Field(ge=1, le=256)] = 4
    context: Annotated[int, Field(ge=256)] = 2048

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            parts = urlsplit(value)
            port_is_fine = parts.port is None or parts.port > 0
        except ValueError:
            port_is_fine = False
        if not port_is_fine or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a URL such as 'https://host/v1' or 'http://127.0.0.1:8000/v1'")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a URL without user or password; put the key into the variable that api_key_env names")
        if parts.query or parts.fragment:
            raise ValueError("a URL without '?' and '#'; the path of the chat completions is added to it")
        return value.rstrip("/").removesuffix("/chat/completions")

    @pydantic.field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError("the name of an environment variable in capitals, such as 'MY_API_KEY', never the key itself")
        return value


class InputSection(_Section):
    path: str | list[str] | None = None
    format: Literal["auto", "jsonl", "parquet", "csv"] = "auto"
    id: str | None = None
    carry: Literal["*"] | list[str] = Field(default_factory=list)
    dedupe: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    on_bad_row: Literal["stop", "fail"] = "stop"


class PromptSection(_Section):
    system: str | None = None
    user: str | None = None
    messages: list[dict[str, Any]] | None = None

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
    model_config = ConfigDict(extra="allow", frozen=True)
    samples: Annotated[int, Field(ge=1, le=100_000)] = 1

    @property
    def grid(self) -> dict[str, list[Any]]:
        """Each swept variable with its values, in the order of the file."""
        return dict(self.model_extra or {})


class LimitsSection(_Section):
    concurrency: Concurrency = "auto"
    rpm: Annotated[float, Field(gt=0)] | None = None
    tpm: Annotated[float, Field(gt=0)] | None = None
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    budget_requests: Annotated[int, Field(ge=1)] | None = None
    deadline: Duration | None = None
    grace_s: Annotated[float, Field(ge=0)] = 30.0


class PricesSection(_Section):
    """US dollars for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached_input: Annotated[float, Field(ge=0)] | None = None


class RetrySection(_Section):
    attempts: Annotated[int, Field(ge=1, le=1000)] = 6
    max_s: Annotated[float, Field(gt=0)] = 600.0
    base_s: Annotated[float, Field(gt=0)] = 1.0
    max_wait_s: Annotated[float, Field(gt=0)] = 60.0


class JournalSection(_Section):
    sync_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    seal_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    seal_mb: Annotated[float, Field(gt=0, le=4096)] = 16.0


class Job(_Section):
    """A whole job. Each field is a table of the job file."""

    job: JobSection = JobSection()
    endpoint: EndpointSection = EndpointSection()
    input: InputSection = InputSection()
    prompt: PromptSection | None = None
    prompts: dict[str, PromptSection] = Field(default_factory=dict)
    params: dict[str, Any] = Field(default_factory=dict)
    override: dict[str, Any] = Field(default_factory=dict)
    sweep: SweepSection = SweepSection()
    limits: LimitsSection = LimitsSection()
    prices: PricesSection | None = None
    retry: RetrySection = RetrySection()
    journal: JournalSection = JournalSection()

    @property
    def out(self) -> Path:
        """The output folder: ``job.out``, else ``runs/<name>``."""
        return Path(self.job.out) if self.job.out else Path("runs") / self.job.name

    @property
    def templates(self) -> dict[str, PromptSection]:
        """Prompt variants by name, in sweep order; the one prompt under ``""``; empty if rows bring their messages."""
        swept = self.sweep.grid.get("prompt")
        if swept:
            return {name: self.prompts[name] for name in swept}
        return {"": self.prompt} if self.prompt else {}

    def resolved(self) -> dict[str, Any]:
        """The job as plain values, defaults filled in, without nulls: what ``job.toml`` in the folder holds."""
        dumped = _without_nulls(self.model_dump())
        assert isinstance(dumped, dict)
        return dumped


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _without_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(v) for v in value]
    return value


# ------------------------------------------------------------------------------------------------- from text to Job


def load(path: Path, settings: Sequence[tuple[str, Any]] = ()) -> Job:
    """Read a job file; ``settings`` are dotted places with values that replace what the file says.

    Relative paths in the file are taken from the file's own folder.

    :raises JobError: naming every mistake with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise JobError(f"there is no job file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"the job file {path} cannot be read: {error}") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"not valid TOML: {error}", place=str(path)) from None
    section = data.get("job")
    if "job" not in data or (isinstance(section, dict) and "name" not in section):
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "job"
        data["job"] = {"name": name, **(section if isinstance(section, dict) else {})}
    return build(data, settings, place=str(path), lines=_lines(text), folder=path.parent)


def build(
    data: Mapping[str, Any],
    settings: Sequence[tuple[str, Any]] = (),
    *,
    place: str = "",
    lines: Mapping[str, int] | None = None,
    folder: Path | None = None,
) -> Job:
    """Validate a job given as nested values.

    :raises JobError: naming every mistake at once.
    """
    merged: dict[str, Any] = {k: (dict(v) if isinstance(v, Mapping) else v) for k, v in data.items()}
    for dotted, value in settings:
        _put(merged, dotted, value)
    mistakes: list[tuple[str, str]] = []
    job: Job | None = None
    try:
        job = Job.model_validate(merged)
    except pydantic.ValidationError as error:
        mistakes += [_explain(e, merged) for e in error.errors(include_url=False)]
    mistakes += _cross_checks(merged, job)
    if mistakes:
        raise JobError([_placed(where, what, lines or {}) for where, what in mistakes], place=place)
    assert job is not None
    return _absolute(job, folder) if folder is not None else job


def _put(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    at = data
    for name in parents:
        inside = at.setdefault(name, {})
        if not isinstance(inside, dict):
            raise JobError(f"--set {dotted}: '{name}' is a value, not a table")
        at = inside
    at[last] = value


def parse_setting(text: str) -> tuple[str, Any]:
    """``"limits.rpm=60"`` to a place and a value; a bare name means a request parameter, whatever the rows say.

    The value is read as TOML (``0.7``, ``true``, ``["a", "b"]``), else taken as a string.

    :raises JobError: if there is no ``=`` or no name.
    """
    name, equals, raw = text.partition("=")
    name = name.strip()
    if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", name):
        raise JobError(f"--set wants KEY=VALUE, for example --set limits.rpm=60; found {text!r}")
    try:
        value = tomllib.loads(f"v = {raw}")["v"]
    except (tomllib.TOMLDecodeError, KeyError):
        value = raw
    return (name if "." in name else f"override.{name}"), value


def _absolute(job: Job, folder: Path) -> Job:
    def fix(path: str) -> str:
        return str((folder / Path(path).expanduser()).resolve())

    updates: dict[str, Any] = {}
    if job.input.path is not None:
        paths = job.input.path
        fixed = fix(paths) if isinstance(paths, str) else [fix(p) for p in paths]
        updates["input"] = job.input.model_copy(update={"path": fixed})
    if job.endpoint.model_path is not None:
        updates["endpoint"] = job.endpoint.model_copy(update={"model_path": fix(job.endpoint.model_path)})
    return job.model_copy(update=updates) if updates else job


# --------------------------------------------------------------------------------------------------- mistakes, told


def _cross_checks(data: Mapping[str, Any], job: Job | None) -> list[tuple[str, str]]:
    """What no single field can tell. Works on the raw values, so that it also speaks when a field is wrong."""
    found: list[tuple[str, str]] = []

    def table(name: str) -> Mapping[str, Any]:
        value = data.get(name)
        return value if isinstance(value, Mapping) else {}

    for section in ("params", "override"):
        for name, value in table(section).items():
            if name == "messages":
                found.append((f"{section}.messages", "messages come from the input or from [prompt], not from here"))
            elif name in parameters.TRANSPORT:
                found.append((f"{section}.{name}", "set endpoint.stream to true, false or 'auto' instead"))
            elif value is None:
                found.append((f"{section}.{name}", "a parameter needs a value"))
            elif fault := parameters.check(name, value):
                found.append((f"{section}.{name}", fault))
    prompts = table("prompts")
    for name, values in table("sweep").items():
        where = f"sweep.{name}"
        if name == "samples":
            continue
        if not isinstance(values, list) or not values:
            found.append((where, f"must be a list of the values to try; found {values!r:.80}"))
            continue
        if any(values[i] in values[:i] and type(values[i]) is type(values[values.index(values[i])]) for i in range(len(values))):
            found.append((where, f"has the same value twice: {values!r:.80}; for repeated answers set sweep.samples"))
        if name == "prompt":
            for value in values:
                if value not in prompts:
                    near = _nearest(str(value), prompts)
                    have = f"there are: {_listed(prompts)}" if prompts else f"write it as [prompts.{value}]"
                    found.append((where, f"no prompt is named {value!r}{near}; {have}"))
        elif name == "messages" or name in parameters.TRANSPORT:
            found.append((where, "cannot be swept"))
        else:
            found += [(where, fault) for value in values if (fault := parameters.check(name, value))]
    if prompts and "prompt" not in table("sweep"):
        found.append(("prompts", "prompt variants are given, but sweep.prompt does not name the ones to try"))
    if "prompt" in table("sweep") and data.get("prompt") is not None:
        found.append(("prompt", "[prompt] and sweep.prompt exclude each other; make it one of [prompts.NAME]"))
    endpoint, limits = table("endpoint"), table("limits")
    if endpoint.get("name") not in (None, "local", "flexai") and not endpoint.get("base_url"):
        near = _nearest(str(endpoint["name"]), ("local", "flexai"))
        found.append(("endpoint.name", f"{endpoint['name']!r} is none that is known{near}; known are 'local' and "
                                       "'flexai'; any other server needs endpoint.base_url"))
    if endpoint.get("base_url") and endpoint.get("name") in ("local", "flexai"):
        found.append(("endpoint.base_url", f"the endpoint {endpoint['name']!r} has an address of its own; "
                                           "leave out either name or base_url"))
    if endpoint.get("model_path") and endpoint.get("name") != "local" and endpoint.get("base_url"):
        found.append(("endpoint.model_path", "is for the endpoint 'local' only"))
    if limits.get("budget_usd") is not None and data.get("prices") is None:
        found.append(("limits.budget_usd", "needs [prices]: input and output, in dollars for a million tokens"))
    if job is not None and (limits.get("budget_usd") or limits.get("budget_tokens")) and not _bounded(job):
        found.append(("limits", "a budget needs params.max_tokens, so that the dearest answer is known before it is sent"))
    return found


def _bounded(job: Job) -> bool:
    names = ("max_tokens", "max_completion_tokens")
    return any(n in place for n in names for place in (job.params, job.override, job.sweep.grid))


_SECRETIVE = re.compile(r"key|token|secret|password|auth", re.IGNORECASE)


def _explain(error: Any, data: Mapping[str, Any]) -> tuple[str, str]:
    """One pydantic error as (dotted place, sentence)."""
    steps = [s for s in error["loc"] if not (isinstance(s, str) and (s in _UNION_TAGS or "[" in s))]
    where = ".".join(str(s) for s in steps)
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        allowed = _allowed_at(steps[:-1])
        hint = ""
        if steps[-1] in ("api_key", "key", "token") and steps[0] == "endpoint":
            hint = " A key never stands in a job file: put it into an environment variable and name that in api_key_env."
        return where, f"unknown key{_nearest(str(steps[-1]), allowed)}; allowed here: {_listed(allowed)}.{hint}"
    if kind in ("value_error", "assertion_error"):
        said = str(error.get("ctx", {}).get("error", error["msg"]))
        if steps and steps[-1] in ("base_url", "api_key_env"):
            return where, f"must be {said}"  # what was found may hold a secret: not repeated
        return where, said
    if kind == "missing":
        return where, "is missing"
    message = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    shown = "" if _SECRETIVE.search(where) else f"; found {found!r:.80}"
    return where, f"must be {message}{shown}"


_UNION_TAGS = {"int", "float", "str", "bool", "constrained-int", "constrained-str"}


def _allowed_at(steps: Iterable[str | int]) -> list[str]:
    at: type[BaseModel] = Job
    for step in steps:
        field = at.model_fields.get(str(step))
        if field is None:
            return list(PromptSection.model_fields) if at is Job else []
        inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if isinstance(t, type)]
        models = [t for t in inner if issubclass(t, BaseModel)]
        if not models:
            return []
        at = models[0]
    return list(at.model_fields)


def _nearest(name: str, allowed: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _placed(where: str, what: str, lines: Mapping[str, int]) -> str:
    at = where
    while at and at not in lines:
        at = at.rpartition(".")[0]
    line = f"line {lines[at]}, " if at else ""
    return f"{line}{where}: {what}" if where else what


def _lines(text: str) -> dict[str, int]:
    """The line of each dotted key of a TOML text. Approximate inside multi-line values, which it passes over."""
    places: dict[str, int] = {}
    table, fence = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            if fence in line:
                fence = ""
            continue
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$", line):
            table = re.sub(r"\s*\.\s*", ".", header[1]).replace('"', "").replace("'", "")
            places.setdefault(table, number)
        elif key := re.match(r"""\s*([A-Za-z0-9_\-."']+(?:\s*\.\s*[A-Za-z0-9_\-"']+)*)\s*=""", line):
            name = re.sub(r"\s*\.\s*", ".", key[1]).replace('"', "").replace("'", "")
            places.setdefault(f"{table}.{name}" if table else name, number)
            rest = line[key.end() :]
            for mark in ('"""', "'''"):
                if rest.count(mark) % 2:
                    fence = mark
    return places


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two resolved jobs in anything that shapes the requests, as ``place: old → new``."""
    shaping = ("params", "override", "prompt", "prompts", "sweep", "input")
    one, two = (_flat({k: job.get(k, {}) for k in shaping}) for job in (old, new))
    lines = []
    for place in sorted(one.keys() | two.keys()):
        if one.get(place) != two.get(place) and place not in ("input.path", "input.limit", "input.carry"):
            shown = [repr(side[place]) if place in side else "(none)" for side in (one, two)]
            lines.append(f"{place}: {shown[0]:.60} → {shown[1]:.60}")
    return lines


def _flat(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for name, inner in value.items():
            flat |= _flat(inner, f"{place}.{name}" if place else str(name))
        return flat
    return {place: value}
