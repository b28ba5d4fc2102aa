"""A job: its tables, and what follows from them.

The models here and beside it are the reference of the job file: ``docs/job-file.md`` lists every key with its default, and a
test compares the two.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, Field, PrivateAttr, model_validator

from ..attachments import fault_in
from ..core import is_bucket, output_path, without_signature
from ..protocol import CHAT, Model, Policy, Route, pydantic_models, schema_of, unwritable
from . import dated_path, toml
from .choices import choices_fault
from .durations import Since
from .endpoint_section import HOSTED, EndpointSection, EndpointsEntry, hosted_at
from .environment import Environment
from .fields import NonEmpty, Section, as_encoding, as_separator, name_rule, refusing, wanted
from .notify_sections import NotifySection
from .parameter_tables import Parameters, name_fault, schema_fault
from .path_variables import literal
from .score_sections import ScoreSection
from .secrets_check import key_variables
from .sections import JournalSection, LimitsSection, LogSection, PricesTable, RetrySection, StorageSection
from .sweep import SweepSection, always_set

_IN_SINGLE_BRACES = re.compile(r"(?<!\{)\{ ?([A-Za-z_]\w*) ?\}(?!\})")

OnChange = Literal["stop", "rerun", "keep"]


class JobSection(Section):
    name: Annotated[str, name_rule("a name", "._-", 100)] = "job"
    out: NonEmpty | None = None
    keep_runs: Annotated[int, Field(ge=1)] | None = None
    on_change: OnChange = "stop"
    retry_failed: Annotated[int, Field(ge=0, le=1_000_000)] = 3
    report: bool | None = None
    results: Literal["file", "folder"] = "file"
    env_file: NonEmpty | None = None


def _columns_fault(columns: list[str]) -> str | None:
    """Why columns cannot be sent as parameters."""
    if sent := next((name for name in columns if name in ("messages", "body")), None):
        return f"{sent!r} is sent in any case; leave it out"
    return next((why for name in columns if (why := name_fault(name))), None)


class InputSection(Section):
    path: Annotated[NonEmpty | list[NonEmpty], wanted("a path in quotes, or a list of them")] | None = None
    format: Literal["auto", "jsonl", "json", "parquet", "csv", "arrow", "excel"] = "auto"
    separator: Annotated[str, AfterValidator(as_separator)] | None = None
    encoding: Annotated[str, AfterValidator(as_encoding)] | None = None
    sheet: (
        Annotated[NonEmpty | Annotated[int, Field(ge=1)], wanted("the name of a sheet, or its number, from 1")] | None
    ) = None
    id: NonEmpty | None = None
    carry: Annotated[Literal["*"] | list[str], wanted("a list of column names, or '*' for all")] = Field(default=[])
    params: Annotated[list[NonEmpty], wanted("a list of column names"), refusing(_columns_fault)] = Field(default=[])
    files: NonEmpty | None = None
    file_hosts: Annotated[list[NonEmpty], refusing(fault_in)] | None = None
    dedupe: bool = False
    limit: Annotated[int, Field(ge=1)] | None = None
    since: Since | None = None
    on_bad_row: Literal["stop", "fail"] = "stop"


class PromptSection(Section):
    system: str | None = None
    user: NonEmpty | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1), refusing(lambda said: unwritable(said))] | None = (
        None
    )

    @model_validator(mode="after")
    def _says_something(self) -> PromptSection:
        if self.messages is None and self.user is None:
            raise ValueError("a prompt needs 'user' (and perhaps 'system'), or 'messages'")
        if self.messages is not None and (self.user is not None or self.system is not None):
            raise ValueError("a prompt has either 'messages' or 'system' and 'user', not both")
        if self.messages is not None and not all(isinstance(m.get("role"), str) for m in self.messages):
            raise ValueError("each of 'messages' needs a 'role'")
        return self


class AnswerSection(Section):
    """The schema that answers are validated by, and what happens if one does not fit or is cut off."""

    choices: (
        Annotated[
            list[str] | dict[str, list[str]],
            wanted("a list of texts, or a table of such lists by the names of labels"),
            refusing(choices_fault),
        ]
        | None
    ) = None
    max_reasks: Annotated[int, Field(ge=0, le=20)] = 0
    grow_max_tokens: Annotated[int, Field(ge=2)] | None = None
    lenient: bool | None = None
    allow_empty: bool = False
    json_schema: Annotated[dict[str, Any], refusing(schema_fault)] | None = None
    fallback: Literal["json_object", "prompt", "stop"] = "json_object"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a job comes from. Two jobs that differ in this alone are equal."""

    environment: Environment = dataclasses.field(default_factory=Environment, compare=False)
    dated: dated_path.Dated | None = dataclasses.field(default=None, compare=False)
    spec: str | None = dataclasses.field(default=None, compare=False)


class Job(Section):
    """A whole, validated job, made by :func:`~batchflex.load_job`. Each field is a table of the job file."""

    job: JobSection = JobSection()
    endpoint: EndpointSection = EndpointSection()
    endpoints: list[EndpointsEntry] = Field(default=[])
    input: InputSection = InputSection()
    prompt: PromptSection | None = None
    prompts: dict[str, PromptSection] = Field(default={})
    params: Parameters = Field(default={})
    override: Parameters = Field(default={})
    sweep: SweepSection = SweepSection()
    answer: AnswerSection = AnswerSection()
    limits: LimitsSection = LimitsSection()
    prices: PricesTable | None = None
    retry: RetrySection = RetrySection()
    journal: JournalSection = JournalSection()
    storage: StorageSection = StorageSection()
    log: LogSection = LogSection()
    score: list[ScoreSection] = Field(default=[])
    notify: NotifySection = NotifySection()
    _models: tuple[Model, ...] = PrivateAttr(())
    _origin: Origin = PrivateAttr(default_factory=Origin)
    _route: Route = PrivateAttr(default_factory=lambda: CHAT)

    @property
    def environment(self) -> Environment:
        """The variables that keys are read from."""
        return self._origin.environment

    @property
    def dated(self) -> dated_path.Dated | None:
        """The pattern that ``out`` was made from, if there is a folder for each date."""
        return self._origin.dated

    @property
    def spec(self) -> str | None:
        """The path of the job file or of the requests that the job was read from, as it was given."""
        return self._origin.spec

    @property
    def route(self) -> Route:
        """The kind of request that rows become."""
        return self._route

    @property
    def models_by_format(self) -> dict[bytes, pydantic_models.Model]:
        """The pydantic models that were given in place of formats, by the ``response_format`` made of each.

        They are not in ``job.toml``: their validators, beyond the JSON Schema, apply in this process only.
        """
        return {msgspec.json.encode(pydantic_models.response_format(model)): model for model in self._models}

    @property
    def wants_report(self) -> bool:
        """Whether a run writes a report at its end: as ``job.report`` says, else if the job has scores."""
        return bool(self.score) if self.job.report is None else self.job.report

    @property
    def out(self) -> Path:
        """The output folder: ``job.out``, else ``runs/<name>``. Of one in a bucket it is the copy on this machine."""
        return output_path(self.job.out) if self.job.out else Path("runs") / self.job.name

    @property
    def bucket(self) -> str | None:
        """The URL of the output folder, if that is in a bucket."""
        return self.job.out if self.job.out and is_bucket(self.job.out) else None

    @property
    def templates(self) -> dict[str, PromptSection]:
        """Prompt variants by name, in sweep order; a single prompt under ``""``; empty if the rows contain the messages."""
        swept = self.sweep.variables.get("prompt")
        if swept:
            return {name: self.prompts[name] for name in swept}
        return {"": self.prompt} if self.prompt else {}

    @property
    def endpoint_entries(self) -> list[EndpointsEntry]:
        """Where requests go: each of ``[[endpoints]]``, else the one endpoint with the limits of ``[limits]``."""
        limits = self.limits
        own = {name: getattr(limits, name) for name in ("concurrency", "rpm", "tpm")}
        if not self.endpoints:
            return [EndpointsEntry(**self.endpoint.model_dump(), **own)]
        return [e.model_copy(update={n: v for n, v in own.items() if getattr(e, n) is None}) for e in self.endpoints]

    @property
    def reasks(self) -> Policy:
        """Which answers are sent again because they do not fit the schema, or were cut off."""
        answer, streams = self.answer, any(entry.stream == "auto" for entry in self.endpoint_entries)
        return Policy.made(answer.max_reasks, answer.json_schema, answer.grow_max_tokens or 0, streams=streams)

    @property
    def models(self) -> list[str]:
        """The models that the job itself names: in ``[override]``, else in the sweep, else in ``[params]``."""
        if "model" in self.override:
            return [str(self.override["model"])]
        named = list(self.sweep.variables.get("model", ()))
        if "model" not in always_set(self.sweep.forms):
            named += [m for m in (self.params.get("model"),) if m is not None and m not in named]
        return [str(model) for model in named]

    @property
    def names_every_model(self) -> bool:
        """Whether no row can name a model that is not in :attr:`models`."""
        is_set = "model" in self.override or "model" in always_set(self.sweep.forms)
        return is_set or (bool(self.models) and bool(self.templates))

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """The JSON Schemas that the job validates answers by; several if they are swept."""
        if self.answer.json_schema is not None:
            return [self.answer.json_schema]
        name = "response_format"
        swept = [*self.sweep.variables.get(name, ()), self.params.get(name)]
        found = [schema_of(each) for each in ([self.override[name]] if name in self.override else swept)]
        return [schema for schema in found if isinstance(schema, dict)]

    @property
    def groups_prefixes(self) -> bool:
        """Whether requests with the same prefix are sent one after another. By default not to the local model: each of its slots
        caches the last prompt by itself, so that different prompts side by side serve it better."""
        if self.sweep.order == "auto":
            return any(entry.is_server for entry in self.endpoint_entries)
        return self.sweep.order == "prefix"

    def warnings(self) -> list[str]:
        """A sentence for each thing that is valid and yet probably a mistake."""
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
        slips += [
            f"{f'prompts.{name}' if name else 'prompt'}: {{{found[1]}}} in single braces is sent as it stands, and the same for "
            f"every row; a column is written {{{{ {found[1]} }}}}"
            for name, section in self.templates.items()
            if (found := _IN_SINGLE_BRACES.search(text := str(section.model_dump(exclude_none=True).values())))
            and "{{" not in text
            and "{%" not in text
        ]
        own = {name for name in (self.notify.webhook_env, self.notify.ping_env) if name is not None}
        return slips + self.environment.warnings(own | key_variables(self.resolved()))

    def _hosted_models(self) -> dict[tuple[str, str], None]:
        """Pairs of hosted API and model that requests go to."""
        found: dict[tuple[str, str], None] = {}
        for entry in self.endpoint_entries:
            name = hosted_at(entry.base_url) if entry.base_url else entry.name
            if name is not None and name in HOSTED:
                found |= {(name, model): None for model in ([entry.model] if entry.model else self.models)}
        return found

    def resolved(self) -> dict[str, Any]:
        """The job as plain values, with defaults and without nulls: the content of ``job.toml`` in the output folder. Of folders
        that have a date each it describes one."""
        plain = self.model_dump(exclude_none=True)
        plain["job"].pop("keep_runs", None)
        if (path := plain["input"].get("path")) is not None:  # what signs a URL is no part of what it names, and secret
            plain["input"]["path"] = (
                without_signature(path) if isinstance(path, str) else [without_signature(each) for each in path]
            )
        plain["answer"].pop("choices", None)  # params.response_format says it
        if self.sweep.order == "auto":
            del plain["sweep"]["order"]
        if not self.input.params:  # older folders do not have it
            del plain["input"]["params"]
        del plain["endpoint" if self.endpoints else "endpoints"]
        for table in plain.get("endpoints", [plain.get("endpoint")]):
            if not table["finish_reasons"]:
                del table["finish_reasons"]
        plain["storage"] = self.storage.model_dump(exclude_defaults=True)
        for table in ("score", "storage"):
            if not plain[table]:
                del plain[table]
        if notify := self.notify.without_secrets():
            plain["notify"] = notify
        else:
            del plain["notify"]
        return literal(plain)

    def to_toml(self) -> str:
        """:meth:`resolved` as the text of a job file. Unlike other writers it keeps the order inside parameters."""
        return toml.dumps(self.resolved())
