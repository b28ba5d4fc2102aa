"""Notifications about runs: the table ``[notify]`` of a job file.

The URL of a webhook or of a ping is usually a secret, and a command may contain one: whoever has it can write in somebody's
name. None of the three is repeated in a message, and none is written into the output folder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from .fields import NonEmpty, Section, as_command, http_url, refusing, variable_rule
from .run_outcomes import Occasion

_WORDS = re.compile(r"\{([^{}|]*)\|([^{}|]*)\|([^{}|]*)\}")
_SECRET = {"webhook", "command", "ping"}


def url_fault(url: str) -> str | None:
    """What is wrong with a URL, as the end of a sentence that does not repeat it; ``None`` if nothing is."""
    parts = http_url(url)
    if parts is None or not url.isascii():
        return "must be a URL such as 'https://host/path', without spaces"
    if "@" in parts.netloc:
        return "must be a URL without user or password"
    return None


def ping_fault(url: str) -> str | None:
    """As :func:`url_fault`, for a URL with words for start, success and failure."""
    bare = _WORDS.sub("", url)
    if "{" in bare or "}" in bare:
        return "may hold braces only round three words, for start, success and failure: '{start|success|failure}'"
    return url_fault(bare)


def _metrics_fault(path: str) -> str | None:
    if path.endswith(".prom"):
        return None
    return "must end in '.prom': node_exporter's textfile collector reads no other file"


_Variable = Annotated[str, variable_rule("SLACK_URL", "URL")]
_Arguments = Annotated[list[str], Field(min_length=1)]


class NotifySection(Section):
    """``timeout_s`` limits all deliveries at the end of a run together, retries included."""

    on: list[Occasion] = Field(default=["failure", "stopped", "recovered"])
    webhook: Annotated[Annotated[str, refusing(url_fault)] | None, Field(repr=False)] = None
    webhook_env: _Variable | None = None
    format: Literal["json", "slack"] = "json"
    command: Annotated[Annotated[NonEmpty | _Arguments, as_command] | None, Field(repr=False)] = None
    ping: Annotated[Annotated[str, refusing(ping_fault)] | None, Field(repr=False)] = None
    ping_env: _Variable | None = None
    metrics_file: Annotated[str, refusing(_metrics_fault)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0

    @model_validator(mode="after")
    def _says_each_once(self) -> NotifySection:
        for name in ("webhook", "ping"):
            if getattr(self, name) is not None and getattr(self, f"{name}_env") is not None:
                raise ValueError(f"has either '{name}' or '{name}_env', not both")
        return self

    @property
    def delivers(self) -> bool:
        """Whether there is anything to deliver to."""
        targets = (self.webhook, self.webhook_env, self.command, self.ping, self.ping_env, self.metrics_file)
        return any(target is not None for target in targets)

    def without_secrets(self) -> dict[str, Any]:
        """The part without secrets, for the output folder; empty if that delivers to nobody."""
        plain = self.model_dump(exclude_none=True, exclude=_SECRET)
        return plain if plain.keys() & {"webhook_env", "ping_env", "metrics_file"} else {}


class Address(NamedTuple):
    """The URL of a webhook or a ping. If it cannot be found, the URL is empty and ``fault`` says why."""

    url: str
    fault: str | None = None

    @property
    def shown(self) -> str:
        """The part that messages may show."""
        return f" at {urlsplit(self.url).hostname}" if self.url else ""


def address(section: NotifySection, name: Literal["webhook", "ping"], environ: Mapping[str, str]) -> Address | None:
    """The URL of a section's webhook or ping; ``None`` if it has none."""
    url, variable = getattr(section, name), getattr(section, f"{name}_env")
    if variable is None:
        return None if url is None else Address(url)
    url = environ.get(variable, "").strip()
    if not url:
        return Address("", f"the environment variable {variable}, which notify.{name}_env names, is not set")
    fault = ping_fault(url) if name == "ping" else url_fault(url)
    return Address(url) if fault is None else Address("", f"what the environment variable {variable} holds {fault}")


class Pings(NamedTuple):
    """The URLs of a dead man's switch; ``start`` is ``None`` if there is no ping at the start.

    ``by_path`` is true if the URL had no words of its own: such a service takes a body, as healthchecks.io does.
    """

    start: str | None
    success: str
    failure: str
    by_path: bool


def pings(url: str) -> Pings:
    """``https://host/uuid`` is pinged at ``/start`` and, after a failure, at ``/fail``. ``{run|ok|bad}`` in a URL are the words
    of another kind of service for start, success and failure; without the first there is no ping at the start."""
    found = _WORDS.search(url)
    if found is None:
        base, mark, query = url.partition("?")
        base = base.rstrip("/")
        return Pings(f"{base}/start{mark}{query}", url, f"{base}/fail{mark}{query}", True)
    start, success, failure = (_WORDS.sub(lambda words, n=n: words[n], url) for n in (1, 2, 3))  # type: ignore[misc]
    return Pings(start if found[1] else None, success, failure, False)
