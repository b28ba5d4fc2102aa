"""The rules between the fields of a job, and between its tables. Pure.

They are checked together with those of single fields, so that all mistakes of a job are reported at once: a rule that reads a
field whose value is wrong stops there (:class:`~batchflex.config.fields.WrongField`), and the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..core import Outcome, Request, bucket_fault
from .durations import parse_duration
from .endpoint_section import HOSTED, EndpointSection, EndpointsEntry, endpoint_name, hosted_at
from .fields import WrongField
from .mistake_messages import Mistake, choice
from .score_sections import ScoreSection, name_mistakes
from .sections import LimitsSection
from .sweep import always_set
from .sweep_checks import sweep_rules

if TYPE_CHECKING:
    from .job import Job

NO_SHARDS = "--shards is for an output folder that all tasks see, as on a shared file system, not for a bucket"
NO_PRICES = "needs [prices]: input and output, in dollars for a million tokens"


def job_mistakes(job: Job) -> list[Mistake]:
    """Every mistake between the fields of a job, which lacks those that are wrong by themselves."""
    mistakes: list[Mistake] = []
    for rule in _rules(job):
        try:
            for mistake in rule:
                mistakes.append(mistake)
        except WrongField:
            continue
    return mistakes


def _rules(job: Job) -> Iterator[Iterator[Mistake]]:
    """The mistakes by each rule. Here itself nothing is read that may be missing, but by ``getattr``."""
    yield _prompts(job)
    yield from sweep_rules(job)
    yield _endpoints(job)
    for place, endpoint in _all_endpoints(job):
        yield _address(place, endpoint)
        yield _access(place, endpoint)
        if isinstance(endpoint, EndpointsEntry):
            yield _model(place, endpoint, job)
    for place, table in (("limits", getattr(job, "limits", None)), *_all_endpoints(job)):
        if isinstance(table, LimitsSection | EndpointsEntry):
            yield _rate(f"{place}.rpm", table, job)
            yield _rate(f"{place}.tpm", table, job)
    scores = getattr(job, "score", ())
    yield name_mistakes(scores)
    for number, score in enumerate(scores):
        yield _column(f"score.{number}", "expected", score, job)
        yield _column(f"score.{number}", "cluster", score, job)
        yield _baseline(f"score.{number}.baseline", score, job)
        yield _judge(f"score.{number}.judge", score)
    yield _price(job, "input")
    yield _price(job, "output")
    yield _budget_in_dollars(job)
    yield _longest_answer(job)
    yield _in_bucket(job)


def _all_endpoints(job: Job) -> Iterator[tuple[str, EndpointSection]]:
    if endpoint := getattr(job, "endpoint", None):
        yield "endpoint", endpoint
    for number, entry in enumerate(getattr(job, "endpoints", ())):
        yield f"endpoints.{number}", entry
    for number, score in enumerate(getattr(job, "score", ())):
        if endpoint := getattr(getattr(score, "judge", None), "endpoint", None):
            yield f"score.{number}.judge.endpoint", endpoint


def _prompts(job: Job) -> Iterator[Mistake]:
    swept = "prompt" in job.sweep.variables
    if job.prompts and not swept:
        yield Mistake("prompts", "sweep.prompt does not name which of these prompts to try")
    if swept and job.prompt is not None:
        yield Mistake("prompt", "[prompt] and sweep.prompt exclude each other; make it one of [prompts.NAME]")


# -------------------------------------------------------------------------------------------------------- endpoints


def _endpoints(job: Job) -> Iterator[Mistake]:
    if "endpoints" in job.model_fields_set and not job.endpoints:
        yield Mistake("endpoints", "is empty; write one [[endpoints]] for each, or leave it out")
    names = [endpoint_name(each.name, each.base_url) for each in job.endpoints]
    for number, name in enumerate(names):
        if name in names[:number]:
            what = f"is the second one called {name!r:.80}; give each a name of its own"
            yield Mistake(f"endpoints.{number}", what)
    own = job.endpoint
    if job.endpoints and any(getattr(own, name) is not None for name in own.model_fields_set):
        what = "[[endpoints]] and an endpoint of its own (also: --base-url) exclude each other"
        yield Mistake("endpoints", what)


def _model(place: str, entry: EndpointsEntry, job: Job) -> Iterator[Mistake]:
    if entry.model is not None and "model" in job.sweep.variables:
        what = "and sweep.model exclude each other: every point would be sent to the one model"
        yield Mistake(f"{place}.model", what)


def _address(place: str, endpoint: EndpointSection) -> Iterator[Mistake]:
    name, base_url = endpoint.name, endpoint.base_url
    known = name == "local" or (name in HOSTED and hosted_at(base_url) != name)
    if name is not None and not known and not base_url:
        there = choice(name, ("local", *HOSTED))
        what = f"no endpoint is named {name!r:.80}; {there}; any other server needs {place}.base_url"
        yield Mistake(f"{place}.name", what)
    if base_url and known:
        what = f"the endpoint {name!r} has an address of its own; leave out either name or base_url"
        yield Mistake(f"{place}.base_url", what)
    if endpoint.model_path and endpoint.is_server:
        yield Mistake(f"{place}.model_path", "is for the endpoint 'local' only")


def _access(place: str, endpoint: EndpointSection) -> Iterator[Mistake]:
    """How a server is asked to let requests in: with which key, in which header."""
    given = [name for name in ("api_key_env", "api_key_command") if getattr(endpoint, name) is not None]
    if not endpoint.is_server:
        for name in ("api_key_command", "auth_header", "headers", "query"):
            if getattr(endpoint, name):
                what = "is for a server: name one, in base_url or name"
                yield Mistake(f"{place}.{name}", what)
        return
    if len(given) > 1:
        yield Mistake(f"{place}.api_key_command", "and api_key_env exclude each other: there is one key")
    if endpoint.auth == "none":
        for name in (*given, "auth_header"):
            if getattr(endpoint, name) is not None:
                yield Mistake(f"{place}.{name}", "and auth = 'none' exclude each other: no key is sent")
        return
    for name in (endpoint.headers or {}) if given else ():
        if name.lower() == endpoint.key_header.lower():
            what = f"would be sent in place of the key that {given[0]} gives; leave out either"
            yield Mistake(f"{place}.headers.{name}", what)


def _rate(place: str, table: LimitsSection | EndpointsEntry, job: Job) -> Iterator[Mistake]:
    """A rate so small that not one request goes within what is waited for at the most would be waited for in silence."""
    longest_s = parse_duration(job.limits.max_wait)
    name = place.rpartition(".")[2]
    rate = getattr(table, name)
    if rate is not None and rate < 60 / longest_s:
        unit = "request" if name == "rpm" else "token"
        yield Mistake(place, f"lets not even one {unit} go in {longest_s:,.0f} s (limits.max_wait); found {rate:g}")


# ----------------------------------------------------------------------------------------------------------- scores


def _column(place: str, key: str, score: ScoreSection, job: Job) -> Iterator[Mistake]:
    """Whether a run's results have the column, or the one before its first point; those of answers can not be foreseen."""
    name, carry = getattr(score, key), job.input.carry
    if name is None or carry == "*" or job.input.path is None:
        return
    swept = job.sweep.variables
    there = {*Outcome.__struct_fields__, *carry, *swept}
    there |= {*(f"input_{column}" for column in carry), *(f"sweep_{variable}" for variable in swept)}
    if not {name, name.partition(".")[0]} & there:
        what = f"the results will have no column {name!r:.80}; if the input has it, name it in input.carry"
        yield Mistake(f"{place}.{key}", what)


def _baseline(place: str, score: ScoreSection, job: Job) -> Iterator[Mistake]:
    """A baseline names swept variables. A job without input only lends its scores to the answers of another."""
    if score.baseline is None or job.input.path is None:
        return
    swept = job.sweep.variables
    if unknown := [name for name in score.baseline if name not in swept]:
        known = choice(unknown[0], list(swept), "swept are") if swept else "nothing is swept"
        yield Mistake(place, f"{unknown[0]!r:.80} is not swept; {known}")


def _judge(place: str, score: ScoreSection) -> Iterator[Mistake]:
    if score.judge is not None and "response_format" in score.judge.params:
        yield Mistake(f"{place}.params.response_format", "is set by batchflex, so that a grade can be read")


# ------------------------------------------------------------------------------------------------ prices and budgets


def _price(job: Job, name: str) -> Iterator[Mistake]:
    """If one is given, though it may be wrong, the other is needed too."""
    prices = job.prices
    if prices is None or getattr(prices, name) is not None:
        return
    if any(getattr(prices, other, "wrong") is not None for other in ("input", "output", "cached_input")):
        yield Mistake(f"prices.{name}", "is missing")


def _budget_in_dollars(job: Job) -> Iterator[Mistake]:
    """It needs prices, of the job or of an endpoint that may list what its models cost: a server, not the local model."""
    if job.limits.budget_usd is None or job.prices is not None:
        return
    if not any(endpoint.is_server for endpoint in (job.endpoint, *job.endpoints)):
        yield Mistake("limits.budget_usd", NO_PRICES)


def _longest_answer(job: Job) -> Iterator[Mistake]:
    if job.prompt is None and not job.prompts:
        return  # the rows bring what is sent
    if {"max_tokens", "max_completion_tokens"} & {*job.params, *job.override, *always_set(job.sweep.forms)}:
        return
    for name in ("budget_usd", "budget_tokens"):
        if getattr(job.limits, name) is not None:
            what = "needs params.max_tokens, so that the dearest answer is known before it is sent"
            yield Mistake(f"limits.{name}", what)


def unbounded(limits: LimitsSection, request: Request) -> str | None:
    """Why no request can be sent under these limits: a budget of tokens or money needs to know the longest answer."""
    if request.max_tokens is not None or request.fault is not None:
        return None
    name = next((name for name in ("budget_usd", "budget_tokens") if getattr(limits, name) is not None), None)
    if name is None:
        return None
    return f"row {request.id!r:.80} has no max_tokens, which limits.{name} needs: give it one, or set params.max_tokens"


def _in_bucket(job: Job) -> Iterator[Mistake]:
    """What is wrong with an output in a bucket, and what cannot be had there."""
    if job.bucket is None:
        return
    if (fault := bucket_fault(job.bucket)) is not None:
        yield Mistake("job.out", fault)
    words = "is for outputs in local folders, as it looks for those of other dates beside this one"
    if job.job.keep_runs:
        yield Mistake("job.keep_runs", f"{words}; let the bucket's own rules remove old objects")
    if job.input.since == "last":
        yield Mistake("input.since", f'"last" {words}; name a moment instead')
