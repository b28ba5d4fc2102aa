"""Settings that replace values of a job file (``--set``): dotted places with values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .job import Job

# The tables of a job that say how requests are sent, and do not change them.
_HOW = ("limits", "retry", "prices", "endpoint", "answer", "journal", "notify", "log")


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
