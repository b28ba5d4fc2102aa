"""Tables of a job file that more than one part of it has: where requests go, within which limits, at what prices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from ..core import Ending
from ..protocol import ROUTES
from . import path_variables
from .durations import Deadline, Duration, Hours
from .job_mistakes import wanted

ConcurrencyLimit = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)], wanted("'auto' or a whole number from 1 to 65536")
]

MaxFailures = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, le=1)],
    wanted("a whole number of rows, or a share such as 0.5"),
]


def http_url(text: str) -> SplitResult | None:
    """The parts of an address of HTTP; ``None`` if it is none, or has spaces in it."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if is_url and text.isprintable() and " " not in text else None


def _without_any(text: str, suffixes: Iterable[str]) -> str:
    for suffix in suffixes:
        text = text.removesuffix(suffix)
    return text


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


_NonEmpty = Annotated[str, Field(min_length=1)]
Command = Annotated[
    _NonEmpty | Annotated[list[_NonEmpty], Field(min_length=1)],
    wanted("a command in quotes, or a list of a program and its arguments"),
]
_Texts = Annotated[dict[str, str], wanted("a table of texts in quotes")]

# A request would break, or mean something else, if these were set to anything but what the client gives them.
_OWN_HEADERS = {
    *("host", "content-length", "content-type", "content-encoding", "accept-encoding", "transfer-encoding", "te", "trailer"),
    *("connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "upgrade", "expect"),
}  # fmt: skip
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def header_fault(name: str) -> str | None:
    """Why a job cannot set this header, as the end of a sentence; ``None`` if it can."""
    if not _HEADER_NAME.fullmatch(name):
        return f"{name!r:.80} is no name of a header"
    if name.lower() in _OWN_HEADERS or name.startswith(":"):
        return f"the header {name!r} is set by batchflex itself: another value would break the request"
    return None


def key_header(auth: object, named: object) -> str:
    """The header that has the key: as it is ``named``, else as ``auth`` has it."""
    return str(named or ("api-key" if auth == "api-key" else "authorization"))


def text_fault(text: str) -> str | None:
    """Why a header or a query cannot have this value, which is not repeated; ``None`` if it can."""
    if text.isascii() and text.isprintable() and text == text.strip():
        return None
    return "may hold printable ASCII characters only, without spaces at its ends"


def _check_texts(texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        try:
            path_variables.expanded(text, dict.fromkeys(path_variables.names(text), "x"))
        except ValueError as error:
            raise ValueError(f"{name!r:.80} {error}") from None
        if fault := text_fault(text):
            raise ValueError(f"the value of {name!r:.80} {fault}")


class EndpointSection(Section):
    name: Annotated[str, Field(min_length=1)] | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    api_key_command: Command | None = None
    auth: Literal["bearer", "api-key", "none"] = "bearer"
    auth_header: Annotated[str, Field(min_length=1)] | None = None
    headers: _Texts | None = None
    query: _Texts | None = None
    stream: Annotated[Literal["auto"] | bool, wanted("'auto', true or false")] = "auto"
    timeout_s: Annotated[float, Field(ge=0.001, le=1e8)] = 600.0
    idle_timeout_s: Annotated[float, Field(ge=0.001, le=1e8)] = 120.0
    connect_timeout_s: Annotated[float, Field(ge=0.001, le=1e8)] = 10.0
    max_answer_mb: Annotated[float, Field(gt=0, le=2048)] = 64.0
    metrics: Annotated[Literal["auto"] | bool, wanted("'auto', true or false")] = "auto"
    model_path: Annotated[str, Field(min_length=1)] | None = None
    n_parallel: Annotated[int, Field(ge=1, le=256)] = 4
    context: Annotated[int, Field(ge=256)] = 2048
    finish_reasons: dict[
        Annotated[str, Field(min_length=1)],
        Annotated[Ending, wanted("'ok', 'truncated', 'filtered' or 'again'")],
    ] = Field(default_factory=dict)

    # What was found may hold a secret in these two, so it is not repeated.

    @pydantic.field_validator("base_url")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = http_url(value)
        if parts is None:
            raise ValueError("must be a URL such as 'https://host/v1' or 'http://127.0.0.1:8000/v1'")
        if "@" in parts.netloc:
            raise ValueError("must be a URL without user or password; put the key into the variable api_key_env names")
        if "?" in value or "#" in value:
            raise ValueError(
                "must be a URL without '?' and '#', for the path of the chat completions is added to it; a key belongs into the "
                "variable that api_key_env names"
            )
        paths = [route.path for route in ROUTES]
        while value != (shorter := _without_any(value.rstrip("/"), paths)):
            value = shorter
        return value

    @pydantic.field_validator("api_key_env")
    @classmethod
    def _is_variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            raise ValueError(
                "must be the name of an environment variable in capitals, such as 'MY_API_KEY', never the key itself"
            )
        return value

    @pydantic.field_validator("auth_header")
    @classmethod
    def _is_header(cls, value: str | None) -> str | None:
        if value is not None and (fault := header_fault(value)):
            raise ValueError(fault)
        return value

    @pydantic.field_validator("headers")
    @classmethod
    def _are_headers(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        seen: set[str] = set()
        for name in value or ():
            if fault := header_fault(name):
                raise ValueError(fault)
            if name.lower() in seen:
                raise ValueError(f"{name!r} is there twice: the names of headers are the same in capitals")
            seen.add(name.lower())
        _check_texts(value or {})
        return value or None

    @pydantic.field_validator("query")
    @classmethod
    def _is_query(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if "" in (value or {}):
            raise ValueError("a parameter needs a name")
        _check_texts(value or {})
        return value or None

    @property
    def variables(self) -> list[str]:
        """The environment variables that its headers and its query are made of."""
        texts = [*(self.headers or {}).values(), *(self.query or {}).values()]
        return list(dict.fromkeys(name for text in texts for name in path_variables.names(text)))

    @property
    def sends_key(self) -> bool:
        """Whether a key is sent, if there is one: not where a header of the job stands in its place."""
        return self.auth != "none" and self.key_header.lower() not in {name.lower() for name in self.headers or ()}

    @property
    def key_header(self) -> str:
        """The header that has the key."""
        return key_header(self.auth, self.auth_header)


class LimitsSection(Section):
    concurrency: ConcurrencyLimit = "auto"
    max_concurrency: Annotated[int, Field(ge=1, le=65_536)] = 1024
    rpm: Annotated[float, Field(gt=0)] | None = None
    tpm: Annotated[float, Field(gt=0)] | None = None
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    budget_tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    budget_requests: Annotated[int, Field(ge=1, le=10**15)] | None = None
    deadline: Deadline | None = None
    active_hours: Hours | None = None
    grace_s: Annotated[float, Field(ge=0, le=1e8)] = 30.0
    on_no_credit: Literal["stop", "wait"] = "stop"
    max_outage: Duration = "10m"
    max_wait: Duration = "1h"
    max_failures: MaxFailures = 0.5
    min_free_disk_mb: Annotated[float, Field(ge=0, le=1e12)] | None = None


class LogSection(Section):
    """Where a run of the command line is told of besides the terminal."""

    file: Annotated[str, Field(min_length=1)] | None = None
    format: Literal["text", "json"] | None = None
    max_mb: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    keep: Annotated[int, Field(ge=1, le=1000)] = 5
    prompts: bool = False


class PricesSection(Section):
    """US dollars for a million tokens."""

    input: Annotated[float, Field(ge=0)]
    output: Annotated[float, Field(ge=0)]
    cached_input: Annotated[float, Field(ge=0)] | None = None


class PricesTable(BaseModel):
    """The prices of a job: of all its models, and in tables named like models those of these alone."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, PricesSection]
    input: Annotated[float, Field(ge=0)] | None = None
    output: Annotated[float, Field(ge=0)] | None = None
    cached_input: Annotated[float, Field(ge=0)] | None = None

    @property
    def of_all(self) -> PricesSection | None:
        """Those of every model without a table of its own."""
        if self.input is None or self.output is None:
            return None
        return PricesSection(input=self.input, output=self.output, cached_input=self.cached_input)

    @property
    def of_models(self) -> dict[str, PricesSection]:
        return dict(self.__pydantic_extra__)
