"""Tables of a job file that more than one part of it has: where requests go, within which limits, at what prices."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from .mistakes import wanted
from .spans import Deadline, Duration, Hours

Concurrency = Annotated[
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


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class EndpointSection(Section):
    name: Annotated[str, Field(min_length=1)] | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    stream: Annotated[Literal["auto"] | bool, wanted("'auto', true or false")] = "auto"
    timeout_s: Annotated[float, Field(gt=0)] = 600.0
    idle_timeout_s: Annotated[float, Field(gt=0)] = 120.0
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    model_path: Annotated[str, Field(min_length=1)] | None = None
    n_parallel: Annotated[int, Field(ge=1, le=256)] = 4
    context: Annotated[int, Field(ge=256)] = 2048

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
        while value != (shorter := value.rstrip("/").removesuffix("/chat/completions")):
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


class LimitsSection(Section):
    concurrency: Concurrency = "auto"
    max_concurrency: Annotated[int, Field(ge=1, le=65_536)] = 1024
    rpm: Annotated[float, Field(gt=0)] | None = None
    tpm: Annotated[float, Field(gt=0)] | None = None
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    budget_requests: Annotated[int, Field(ge=1)] | None = None
    deadline: Deadline | None = None
    active_hours: Hours | None = None
    grace_s: Annotated[float, Field(ge=0)] = 30.0
    on_no_credit: Literal["stop", "wait"] = "stop"
    max_outage: Duration = "10m"
    max_wait: Duration = "1h"
    max_failures: MaxFailures = 0.5
    min_free_disk_mb: Annotated[float, Field(ge=0)] | None = None


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
