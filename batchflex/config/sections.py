"""Tables of a job file that say how requests are sent and kept: limits, prices (and what an answer costs by them), retries, the
journal, the log. Pure."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PrivateAttr

from ..core import Usage
from .durations import Deadline, Duration, Hours
from .environment import Environment
from .fields import NonEmpty, Section, http_url, refusing, wanted

ConcurrencyLimit = Annotated[
    Literal["auto"] | Annotated[int, Field(ge=1, le=65_536)], wanted("'auto' or a whole number from 1 to 65536")
]
Rate = Annotated[float, Field(gt=0)]
_MaxFailures = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[float, Field(gt=0, le=1)],
    wanted("a whole number of rows, or a share such as 0.5"),
]
_Count = Annotated[int, Field(ge=1, le=10**15)]
_Price = Annotated[float, Field(ge=0)]


def _store_fault(url: str) -> str | None:
    parts = http_url(url)
    if parts is None:
        return (
            "must be the address of an object store, such as 'https://storage.example.com' or 'http://127.0.0.1:9000'"
        )
    return "must be an address alone, without user, password or query" if parts.username or parts.query else None


class LimitsSection(Section):
    concurrency: ConcurrencyLimit = "auto"
    max_concurrency: Annotated[int, Field(ge=1, le=65_536)] = 1024
    rpm: Rate | None = None
    tpm: Rate | None = None
    budget_usd: Annotated[float, Field(gt=0)] | None = None
    budget_tokens: _Count | None = None
    budget_requests: _Count | None = None
    deadline: Deadline | None = None
    active_hours: Hours | None = None
    grace_s: Annotated[float, Field(ge=0, le=1e8)] = 30.0
    on_no_credit: Literal["stop", "wait"] = "stop"
    max_outage: Duration = "10m"
    max_wait: Duration = "1h"
    max_failures: _MaxFailures = 0.5
    min_free_disk_mb: Annotated[float, Field(ge=0, le=1e12)] | None = None


class RetrySection(Section):
    attempts: Annotated[int, Field(ge=1, le=1000)] = 6
    max_s: Annotated[float, Field(gt=0)] = 600.0
    base_s: Annotated[float, Field(gt=0)] = 1.0
    max_wait_s: Annotated[float, Field(gt=0)] = 60.0


class JournalSection(Section):
    sync_s: Annotated[float, Field(gt=0, le=3600)] = 1.0
    seal_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    seal_mb: Annotated[float, Field(gt=0, le=4096)] = 32.0
    upload_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    upload_mb: Annotated[float, Field(gt=0, le=4096)] = 32.0


class StorageSection(Section):
    """How buckets are reached. What is secret comes from the environment, as their own tools take it."""

    endpoint: Annotated[NonEmpty, refusing(_store_fault)] | None = None
    region: NonEmpty | None = None
    options: dict[str, str] = Field(default={})
    lease_s: Annotated[float, Field(ge=1, le=3600)] = 60.0
    _variables: Environment = PrivateAttr(default_factory=Environment)

    @property
    def variables(self) -> Environment:
        """Where credentials are looked for."""
        return self._variables

    def using(self, variables: Environment) -> StorageSection:
        """The same with these variables."""
        made = self.model_copy()
        made._variables = variables
        return made


class LogSection(Section):
    """The log file of a run of the command line, and the format of its log."""

    file: NonEmpty | None = None
    format: Literal["text", "json"] | None = None
    max_mb: Annotated[float, Field(gt=0, le=100_000)] = 10.0
    keep: Annotated[int, Field(ge=1, le=1000)] = 5
    prompts: bool = False


class PricesSection(Section):
    """US dollars for a million tokens."""

    input: _Price
    output: _Price
    cached_input: _Price | None = None


class PricesTable(Section):
    """The prices of a job: of all its models, and in tables named like models those of these alone."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, PricesSection]
    input: _Price | None = None
    output: _Price | None = None
    cached_input: _Price | None = None

    @property
    def of_all(self) -> PricesSection | None:
        """Those of every model without a table of its own."""
        if self.input is None or self.output is None:
            return None
        return PricesSection(input=self.input, output=self.output, cached_input=self.cached_input)

    @property
    def of_models(self) -> dict[str, PricesSection]:
        return dict(self.__pydantic_extra__)


def price_usd(prices: PricesSection, usage: Usage) -> float | None:
    """What an answer cost; ``None`` if the server did not count its tokens."""
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached = min(usage.cache_read_input_tokens or 0, prompt)
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    return ((prompt - cached) * prices.input + cached * cached_price + completion * prices.output) / 1e6


def cost_usd(prices: PricesSection | None, usage: Usage) -> float | None:
    """What an answer cost: by the prices where there are any, else, or without token counts, as a gateway says."""
    price = None if prices is None else price_usd(prices, usage)
    return usage.cost if price is None else price
