"""Settings that replace values of a job file (``--set``): dotted places with values. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from ..core import JobError
from ..protocol import CHAT
from .endpoint_section import EndpointSection
from .job import AnswerSection, Job
from .sections import JournalSection, LimitsSection, RetrySection

# The tables that do not go into requests, whose keys somebody may take for parameters.
_SECTIONS: dict[str, type[BaseModel]] = {
    "limits": LimitsSection, "retry": RetrySection, "journal": JournalSection, "endpoint": EndpointSection,
    "answer": AnswerSection,
}  # fmt: skip
_LIKE = 0.85
# The tables of a job that say how requests are sent, and do not change them.
_HOW = ("limits", "retry", "prices", "endpoint", "answer", "journal", "storage", "notify", "log")


def places_of(settings: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Settings as Python has them: by dotted place (``{"limits.rpm": 60}``), by table (``{"limits": {"rpm": 60}}``), or by the
    bare name of a request parameter (``{"max_tokens": 64}``), which overrides those of rows.

    :raises JobError: if they are no mapping, or a bare name is that of a key of some table, or is likely misspelt.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise JobError(f"settings: must be a dict, such as {{'limits.rpm': 60}}; found {settings!r:.80}")
    found: list[tuple[str, Any]] = []
    for name, value in (settings or {}).items():
        if not isinstance(name, str) or not name:
            raise JobError(f"settings: a place is text, such as 'limits.rpm'; found {name!r:.80}")
        found += _places(name, value)
    return found


def _places(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if name in Job.model_fields and isinstance(value, Mapping):
        yield from ((f"{name}.{key}", inner) for key, inner in value.items())
    elif "." in name or name in Job.model_fields:
        yield name, value
    elif CHAT.parameters.known(name):
        yield f"override.{name}", value
    elif section := section_of(name):
        raise JobError(f"settings: {name!r} is no request parameter; did you mean '{section}.{name}'?")
    elif near := CHAT.parameters.likely_misspelt(name) or _like(name):
        raise JobError(
            f"settings: there is no {name!r}; did you mean '{near}'? (As it is, it is sent by 'override.{name}')"
        )
    else:
        yield f"override.{name}", value


def _like(name: str) -> str | None:
    """The place of a key that a name is most like."""
    places = {key: f"{section}.{key}" for section, model in _SECTIONS.items() for key in model.model_fields}
    near = difflib.get_close_matches(name, places, n=1, cutoff=_LIKE)
    return places[near[0]] if near else None


def section_of(name: str) -> str | None:
    """The table with a key of this name, if that is not the name of a request parameter."""
    if CHAT.parameters.documented(name):
        return None
    return next((section for section, model in _SECTIONS.items() if name in model.model_fields), None)


def for_another_server(settings: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The settings; if they name another server, those of the job file's own server (key, headers, …) are unset."""
    places = dict(settings)
    if not {"endpoint.name", "endpoint.base_url"} & places.keys():
        return list(settings)
    own: dict[str, Any] = {
        **dict.fromkeys(("name", "base_url", "api_key_env", "api_key_command", "auth_header")),
        "auth": "bearer", "headers": {}, "query": {}, "metrics": "auto",
    }  # fmt: skip
    if places.get("endpoint.name") != "local":
        own["model_path"] = None
    return [*((f"endpoint.{name}", value) for name, value in own.items()), *settings]


def retry_fault(place: str, planned: Job) -> str | None:
    """Why a retry cannot set a place, as a sentence; ``None`` if it can."""
    section, _, name = place.partition(".")
    name = name.split(".")[0]
    if section == "params":
        return f"--set {place}: a retry sets a parameter of its own requests by the bare name: --set {name}=…"
    if place.startswith("answer.choices"):
        return f"--set {place}: that asks for something else; of these requests alone it is set as response_format=…"
    if section in _HOW:
        return None
    if section != "override":
        return (
            f"--set {place}: the plan stays as it is, so a retry cannot set this; it can set request parameters "
            f"(max_tokens=4096) and places in {', '.join(_HOW)}"
        )
    if name in planned.sweep.variables or name == "prompt":
        return (
            f"--set {name}: {name} is swept, so the answer would be filed under a point it does not belong to; "
            f"add a point to the sweep of the job instead, and run that"
        )
    if name == "model" and any(entry.model is not None for entry in planned.endpoints):
        return "--set model: the [[endpoints]] of the job have models of their own, which are sent in its place"
    return None
