"""Where requests go: the tables ``[endpoint]`` and ``[[endpoints]]``, and the hosted APIs that are known by name. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from ..core import Ending
from ..protocol import ROUTES
from . import path_variables
from .fields import NonEmpty, NonEmptyList, Section, as_command, http_url, refusing, variable_rule, wanted
from .sections import ConcurrencyLimit, Rate

# The hosted APIs that are known by name, each with all its addresses. The first is the one that a name stands for.
HOSTED = {"flexai": ("https://api.flex.ai/v1", "https://tokens.flex.ai/v1")}

# A request would break, or mean something else, if these were set to anything but what the client gives them.
_OWN_HEADERS = {
    *("host", "content-length", "content-type", "content-encoding", "accept-encoding", "transfer-encoding", "te", "trailer"),
    *("connection", "keep-alive", "proxy-connection", "proxy-authorization", "proxy-authenticate", "upgrade", "expect"),
}  # fmt: skip
_ADDED = re.compile(
    rf"(?:/|{'|'.join(re.escape(route.path) for route in ROUTES)})+\Z"
)  # to a URL when requests are sent
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def host_of(base_url: Any) -> str:
    try:
        return (urlsplit(str(base_url)).hostname or "").rstrip(".")
    except ValueError:
        return ""


def hosted_at(base_url: Any) -> str | None:
    """The hosted API whose address this is."""
    host = host_of(base_url)
    return next((name for name, addresses in HOSTED.items() if host in map(host_of, addresses)), None)


def endpoint_name(name: str | None, base_url: str | None) -> str:
    """What an endpoint is called in results: its name, else that of the hosted API or the host, else ``local``."""
    if name or not base_url:
        return name or "local"
    return hosted_at(base_url) or re.sub(r"^https?://", "", base_url).split("/")[0]


def _base_url(url: str) -> str:
    """A URL without what is added to it when requests are sent. Messages do not repeat it: it may hold a secret."""
    parts = http_url(url)
    if parts is None:
        raise ValueError("must be a URL such as 'https://host/v1' or 'http://127.0.0.1:8000/v1'")
    if "@" in parts.netloc:
        raise ValueError("must be a URL without user or password; put the key into the variable api_key_env names")
    if "?" in url or "#" in url:
        raise ValueError(
            "must be a URL without '?' and '#', for the path of the chat completions is added to it; a key belongs into the "
            "variable that api_key_env names"
        )
    return _ADDED.sub("", url)


def _header_fault(name: str) -> str | None:
    if not _HEADER_NAME.fullmatch(name):
        return f"{name!r:.80} is no name of a header"
    if name.lower() in _OWN_HEADERS or name.startswith(":"):
        return f"the header {name!r} is set by batchflex itself: another value would break the request"
    return None


def _headers_fault(headers: Mapping[str, str]) -> str | None:
    seen: set[str] = set()
    for name in headers:
        if fault := _header_fault(name):
            return fault
        if name.lower() in seen:
            return f"{name!r} is there twice: the names of headers are the same in capitals"
        seen.add(name.lower())
    return _texts_fault(headers)


def _query_fault(query: Mapping[str, str]) -> str | None:
    return "a parameter needs a name" if "" in query else _texts_fault(query)


def _texts_fault(texts: Mapping[str, str]) -> str | None:
    for name, text in texts.items():
        try:
            path_variables.expanded(text, dict.fromkeys(path_variables.names(text), "x"))
        except ValueError as error:
            return f"{name!r:.80} {error}"
        if fault := text_fault(text):
            return f"the value of {name!r:.80} {fault}"
    return None


def text_fault(text: str) -> str | None:
    """Why a header or a query parameter cannot have this value, without repeating it; ``None`` if it can."""
    if text.isascii() and text.isprintable() and text == text.strip():
        return None
    return "may hold printable ASCII characters only, without spaces at its ends"


_Texts = Annotated[dict[str, str], wanted("a table of texts in quotes")]
_OrNone = AfterValidator(lambda texts: texts or None)
_Seconds = Annotated[float, Field(ge=0.001, le=1e8)]
_Switch = Annotated[Literal["auto"] | bool, wanted("'auto', true or false")]
_Ending = Annotated[Ending, wanted("'ok', 'truncated', 'filtered' or 'again'")]


class EndpointSection(Section):
    name: NonEmpty | None = None
    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    api_key_env: Annotated[str, variable_rule("MY_API_KEY", "key")] | None = None
    api_key_command: Annotated[NonEmpty | NonEmptyList, as_command] | None = None
    auth: Literal["bearer", "api-key", "none"] = "bearer"
    auth_header: Annotated[NonEmpty, refusing(_header_fault)] | None = None
    headers: Annotated[_Texts, refusing(_headers_fault), _OrNone] | None = None
    query: Annotated[_Texts, refusing(_query_fault), _OrNone] | None = None
    stream: _Switch = "auto"
    timeout_s: _Seconds = 600.0
    idle_timeout_s: _Seconds = 120.0
    connect_timeout_s: _Seconds = 10.0
    max_answer_mb: Annotated[float, Field(gt=0, le=2048)] = 64.0
    metrics: _Switch = "auto"
    model_path: NonEmpty | None = None
    n_parallel: Annotated[int, Field(ge=1, le=256)] = 4
    context: Annotated[int, Field(ge=256)] = 2048
    finish_reasons: dict[NonEmpty, _Ending] = Field(default_factory=dict)

    @property
    def variables(self) -> list[str]:
        """The environment variables that its headers and its query contain."""
        texts = [*(self.headers or {}).values(), *(self.query or {}).values()]
        return list(dict.fromkeys(name for text in texts for name in path_variables.names(text)))

    @property
    def sends_key(self) -> bool:
        """Whether a key is sent, if there is one: not where the job sets that header itself."""
        return self.auth != "none" and self.key_header.lower() not in {name.lower() for name in self.headers or ()}

    @property
    def key_header(self) -> str:
        """The header that carries the key."""
        return self.auth_header or ("api-key" if self.auth == "api-key" else "authorization")

    @property
    def is_server(self) -> bool:
        """Whether requests go to a server, and not to the local model."""
        return bool(self.base_url) or self.name not in (None, "local")


class EndpointsEntry(EndpointSection):
    """One of several endpoints, with a quota and a model name of its own."""

    model: NonEmpty | None = None
    concurrency: ConcurrencyLimit | None = None
    rpm: Rate | None = None
    tpm: Rate | None = None
