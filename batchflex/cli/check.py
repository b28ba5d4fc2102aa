"""Whether an endpoint works: one small request, before a long run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ..config import EndpointsEntry, Job, local, parse_duration
from ..core import BAD, AttemptError, KeyReplaced, Outcome, RunFault, Status, duration, one_line
from ..endpoint import Catalog, Client, Endpoint, ModelInfo, Prices, model_list, model_list_cache, resolve, serving
from ..protocol import RateLimits, failure_text
from ..storage import priced_by, record

_QUESTION = "Reply with the word ok."
_MAX_TOKENS, _MOST_TOKENS = 16, 1024
_SHOWN, _SHOWN_IN_TABLE = 10, 100


class Report(NamedTuple):
    """``text`` is for people, ``facts`` has the same of each endpoint for programs. ``exit_code`` is 0 if an answer came, or none
    was asked for, 1 if it would leave a row ``empty``, else 3."""

    text: str
    exit_code: int
    facts: list[dict[str, Any]]


async def check(job: Job, *, ask: bool = True) -> Report:
    """Ask which models there are, and unless ``ask`` is false send one request to the job's model. The list is kept for plans.

    :raises EndpointError: if the endpoint cannot be set up.
    """
    reports = [await _check(job, entry, ask=ask) for entry in job.endpoint_entries]
    return Report(
        "\n\n".join(report.text for report in reports),
        max(report.exit_code for report in reports),
        [facts for report in reports for facts in report.facts],
    )


async def _check(job: Job, entry: EndpointsEntry, *, ask: bool) -> Report:
    endpoint = resolve(entry, job.environment)
    endpoint.require(job.models)
    limits: list[RateLimits] = []
    async with serving(entry, endpoint) as served, Client(served, connections=1) as client:
        lines = [f"endpoint  {served.name}, {served.base_url} ({_key(served)})"]
        facts: dict[str, Any] = {"name": served.name, "base_url": served.base_url, "key_from": served.key_from}
        facts |= {"reachable": None, "models": [], "model": None, "limits": None, "message": None}
        try:
            models = (await client.models()).catalog
            facts |= {"reachable": True, "models": models.ids}
            model_list_cache.keep(endpoint.base_url, models)
            facts["model"] = model = _model(job, endpoint, models.ids)
            lines += _listed(models, model)
            if models.ids and model is not None and model not in models.ids:
                near = model_list.hint(model, models.ids) or "; name one of them, in params.model or with --model"
                facts["message"] = f"{model!r} is not among its models{near}"
            if not ask:
                return Report("\n".join([*lines, *_prices(job, served, model, models)]), 0, [facts])
            if model is None:
                lines.append("model     none is named: set params.model or --model")
                return Report("\n".join(lines), 3, [facts | {"message": "no model is named"}])
            words, status = await _ask(job, client, model, limits.append)
            lines.append(words)
        except AttemptError as error:
            words = error.message + (f" (HTTP {error.http_status})" if error.http_status else "")
            if isinstance(error, RunFault):
                words = failure_text.advice(error, key_from=client.key_from).text
            lines.append(f"failed    {words}{_wait(error, job)}")
            lines += [f"rule      {error.rule}"] if error.rule is not None else []
            lines += [f"limits    {_limits(limits[-1])}"] if limits else []
            facts |= {"reachable": error.http_status is not None, "message": words}
            return Report("\n".join(lines), 3, [facts])
        lines += _prices(job, served, model, models)
        facts["limits"] = _limits(limits[-1]) if limits else "none reported"
        lines.append(f"limits    {facts['limits']}")
        return Report("\n".join(lines), 1 if status in BAD else 0, [facts])


def _wait(fault: AttemptError, job: Job) -> str:
    """How long the endpoint asks to wait, if it does."""
    if not fault.retry_after_s:
        return ""
    words = f"; it asks to wait {fault.retry_after_s:,.0f} s, until {local(time.time() + fault.retry_after_s)}"
    is_long = fault.retry_after_s > parse_duration(job.limits.max_wait)
    return f"{words}, which is longer than limits.max_wait: a run would stop for it" if is_long else words


def _key(endpoint: Endpoint) -> str:
    """Where its key comes from, and the header it is sent in unless that is the usual one."""
    if endpoint.key is None and endpoint.key_command is None:
        return "no key" if endpoint.key_from is None else f"{endpoint.key_from} in headers or query"
    header = f", in {endpoint.key_header}" if endpoint.key_header != "authorization" else ""
    return f"key from {endpoint.key_from}{header}"


def _model(job: Job, endpoint: Endpoint, models: list[str]) -> str | None:
    only = models[0] if len(models) == 1 else None
    return endpoint.model or next(iter(job.models), None) or endpoint.default_model or only


def _listed(models: Catalog, wanted: str | None) -> Iterator[str]:
    """The models that this key may use: a line each, if the list has more than their names."""
    if not models.models:
        yield "models    the endpoint does not list them"
        return
    missing = ""
    if wanted not in (None, *models.ids):
        missing = f"{wanted!r} is not among them{model_list.hint(wanted, models.ids)}"
    if not any(model.prices or model.context or model.ready is not None for model in models.models):
        shown = ", ".join(one_line(name) for name in models.ids[:_SHOWN])
        more = f" and {len(models.models) - _SHOWN} more" if len(models.models) > _SHOWN else ""
        yield f"models    {shown}{more}{f'; {missing}' if missing else ''}"
        return
    yield f"models    {len(models.models):,}; prices are dollars for a million tokens of prompt, from cache, and of answer"
    ordered = sorted(models.models, key=lambda model: model.id != wanted)[:_SHOWN_IN_TABLE]
    names = [one_line(model.id) for model in ordered]
    width = max(map(len, names))
    for name, model in zip(names, ordered, strict=True):
        yield f"          {name:<{width}}   {_details(model)}".rstrip()
    if len(models.models) > _SHOWN_IN_TABLE:
        yield f"          and {len(models.models) - _SHOWN_IN_TABLE} more"
    if missing:
        yield f"          {missing}"


def _details(model: ModelInfo) -> str:
    """``0.15, 0.075, 0.6   131,072 tokens   not ready``."""
    parts = []
    if (prices := model.prices) is not None:
        cached = "" if prices.cached_input is None else f", {prices.cached_input:.6g}"
        parts.append(f"{prices.input:.6g}{cached}, {prices.output:.6g}")
    if model.context is not None:
        parts.append(f"{model.context:,} tokens")
    if model.ready is not None:
        parts.append("ready" if model.ready else "not ready")
    return "   ".join(parts)


def _prices(job: Job, endpoint: Endpoint, model: str | None, models: Catalog) -> list[str]:
    """The prices that a run would use."""
    prices = Prices(job)
    prices.learn(endpoint.name, models)
    found = None if model is None else prices.of(model, endpoint.name)
    if found is None:
        return []
    cached = "" if found.cached_input is None else f" ({found.cached_input:.6g} from cache)"
    return [f"prices    {found.input:.6g}{cached} and {found.output:.6g}, {priced_by(prices.used())}"]


def _limits(limits: RateLimits) -> str:
    """``"300 requests, 299 left, renewed in 42 s; 60,000 tokens, …"``: each of a window that the server does not name."""
    parts = []
    for each in (limits, *limits.further):
        whose = f" ({each.descriptor})" if each.descriptor else ""
        for unit, level in (("requests", each.requests), ("tokens", each.tokens), ("in flight", each.in_flight)):
            if level is not None:
                limit = "some" if level.limit is None else f"{level.limit:,.0f}"
                left = "" if level.remaining is None else f", {level.remaining:,.0f} left"
                renewed = "" if level.reset_s is None else f", renewed in {level.reset_s:,.3g} s"
                parts.append(f"{limit} {unit}{whose}{left}{renewed}")
    return "; ".join(parts)


async def _ask(job: Job, client: Client, model: str, on_limits: Callable[[RateLimits], None]) -> tuple[str, Status]:
    """Send one small request; return its outcome in words, and the status that a row would have. An answer without text, which
    may have spent its few tokens on reasoning, is requested once more with as many as the job allows."""
    made = await _attempt(job, client, model, _MAX_TOKENS, on_limits)
    own = job.route.answer_limit(job.params | job.override)
    most = _MOST_TOKENS if own is None else min(own, _MOST_TOKENS)
    is_cut = made.status == "truncated" or made.cut_by == "limit"
    if is_cut and most > _MAX_TOKENS and not (made.content or "").strip():
        made = await _attempt(job, client, model, most, on_limits)
    took = f"in {duration(made.latency_s or 0.0)} ({made.prompt_tokens} + {made.completion_tokens} tokens)"
    if made.status == "empty":
        return f"model     {model} answered {took}, but {made.error_message}; a row would be 'empty'", made.status
    said = " ".join((made.content or "").split())[:60]
    remark = {"ok": "", "truncated": "; cut off", "filtered": "; withheld"}
    return f"model     {model} answered {said!r} {took}{remark.get(made.status, '')}", made.status


async def _attempt(job: Job, client: Client, model: str, most: int, on_limits: Callable[[RateLimits], None]) -> Outcome:
    request = job.route.probe(model, words=_QUESTION, most_tokens=most)
    try:
        answer = await client.attempt(request, on_limits, route=job.route)
    except KeyReplaced:
        answer = await client.attempt(request, on_limits, route=job.route)
    frame = record.RowContext("", "", ("{}",), allow_empty=job.answer.allow_empty, route=job.route)
    return record.answered(frame, request, record.Effort(1, 0, 0), answer)
