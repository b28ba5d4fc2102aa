"""Does the endpoint work? One small request, before a long run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from . import classify
from .client import Client
from .endpoint import Endpoint, resolve, serving
from .errors import AttemptError, RunFault
from .job import EndpointsEntry, Job
from .model import Request
from .ratelimit import Told

_QUESTION = [{"role": "user", "content": "Reply with the word ok."}]
_MAX_TOKENS = 16


class Report(NamedTuple):
    """``text`` is for people. ``exit_code`` is 0 if an answer came, else 3."""

    text: str
    exit_code: int


async def check(job: Job) -> Report:
    """Ask which models there are, and send one request to the job's model.

    :raises EndpointError: if the endpoint cannot be set up.
    """
    reports = [await _check(job, entry) for entry in job.asked]
    return Report("\n\n".join(report.text for report in reports), max(report.exit_code for report in reports))


async def _check(job: Job, entry: EndpointsEntry) -> Report:
    endpoint = resolve(entry, job.environment)
    endpoint.require(job.models)
    limits: list[Told] = []
    async with serving(entry, endpoint) as served, Client(served, connections=1) as client:
        key = f"key from {job.environment.origin(served.key_env or '')}" if served.key else "no key"
        lines = [f"endpoint  {served.name}, {served.base_url} ({key})"]
        try:
            models = (await client.models()).ids
            model = _model(job, endpoint, models)
            lines.append(f"models    {_listed(models, model)}")
            if model is None:
                lines.append("model     none is named: set params.model or --model")
                return Report("\n".join(lines), 3)
            lines.append(await _ask(client, model, limits.append))
        except AttemptError as error:
            status = f" (HTTP {error.http_status})" if error.http_status else ""
            words = error.message + status
            if isinstance(error, RunFault):
                words = classify.advice(error, with_key=client.has_key)
            lines.append(f"failed    {words}")
            return Report("\n".join(lines), 3)
        lines.append(f"limits    {_limits(limits[-1]) if limits else 'none told'}")
        return Report("\n".join(lines), 0)


def _model(job: Job, endpoint: Endpoint, models: list[str]) -> str | None:
    return (
        endpoint.model
        or next(iter(job.models), None)
        or endpoint.default_model
        or (models[0] if len(models) == 1 else None)
    )


def _listed(models: list[str], wanted: str | None) -> str:
    if not models:
        return "the endpoint does not list them"
    shown = ", ".join(models[:10]) + (f" and {len(models) - 10} more" if len(models) > 10 else "")
    missing = f"; {wanted!r} is not among them" if wanted and wanted not in models else ""
    return f"{shown}{missing}"


def _limits(told: Told) -> str:
    """``"300 requests, 299 left, renewed in 42 s; 60,000 tokens, …"``: each of a window that the server does not name."""
    parts = []
    for each in (told, *told.further):
        whose = f" ({each.descriptor})" if each.descriptor else ""
        for unit, level in (("requests", each.requests), ("tokens", each.tokens), ("in flight", each.in_flight)):
            if level is not None:
                limit = "some" if level.limit is None else f"{level.limit:,.0f}"
                left = "" if level.remaining is None else f", {level.remaining:,.0f} left"
                renewed = "" if level.reset_s is None else f", renewed in {level.reset_s:,.3g} s"
                parts.append(f"{limit} {unit}{whose}{left}{renewed}")
    return "; ".join(parts)


async def _ask(client: Client, model: str, heard: Callable[[Told], None]) -> str:
    body = msgspec.json.encode({"max_tokens": _MAX_TOKENS, "messages": _QUESTION, "model": model})
    answer = await client.attempt(Request(b"", b"", "check", 0, 0, 0, body, _MAX_TOKENS, None), heard)
    said = " ".join((answer.content or "").split())[:60]
    tokens = f"{answer.usage.prompt_tokens} + {answer.usage.completion_tokens} tokens"
    return f"model     {model} answered {said!r} in {answer.latency_s:.2f} s ({tokens})"
