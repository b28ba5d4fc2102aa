"""What no single field of a job can tell: mistakes between fields, and in the tables whose keys are free.

Works on the values as they were given, so that these mistakes are told together with those of single fields.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from ..core import Outcome, Request
from ..protocol import CHAT, TRANSPORT, unsayable
from . import sweep
from .durations import parse_duration
from .job_mistakes import KEY_HINT, Mistake, choice, names_a_key
from .schema_checks import check_format, check_schema
from .sections import LimitsSection, key_header
from .sweep_checks import check_sweep

_Table = Mapping[str, Any]
_MAX_WAIT = LimitsSection.model_fields["max_wait"].default

NO_PRICES = "needs [prices]: input and output, in dollars for a million tokens"


def cross_checks(data: _Table) -> list[Mistake]:
    """Every mistake of a job that :class:`~batchflex.config.job.Job` does not see by itself."""

    def table(name: str) -> _Table:
        value = data.get(name)
        return value if isinstance(value, Mapping) else {}

    forms = sweep.forms(table("sweep"))
    swept = sweep.variables(forms).keys()
    mistakes = _check_params("params", table("params")) + _check_params("override", table("override"))
    mistakes += _check_prompts(data, table("prompts"), swept) + _check_columns(table("input"))
    mistakes += check_sweep(table("sweep"), table("prompts"), table("override"))
    mistakes += _check_endpoint("endpoint", table("endpoint")) + _check_endpoints(
        data.get("endpoints"), table("endpoint"), swept
    )
    mistakes += check_schema("answer.json_schema", table("answer").get("json_schema"))
    mistakes += _check_scores(data.get("score"), table("input"), swept)
    limits, prices = table("limits"), table("prices")
    mistakes += _check_rates(limits, data.get("endpoints"))
    if {"input", "output", "cached_input"} & prices.keys():
        mistakes += [Mistake(f"prices.{name}", "is missing") for name in ("input", "output") if name not in prices]
    if limits.get("budget_usd") is not None and data.get("prices") is None and not _lists_prices(data):
        mistakes.append(Mistake("limits.budget_usd", NO_PRICES))
    rows_decide = data.get("prompt") is None and not table("prompts")
    if not rows_decide and not {"max_tokens", "max_completion_tokens"} & {
        *table("params"),
        *table("override"),
        *sweep.always_set(forms),
    }:
        mistakes += [
            Mistake(f"limits.{name}", "needs params.max_tokens, so that the dearest answer is known before it is sent")
            for name in ("budget_usd", "budget_tokens")
            if limits.get(name) is not None
        ]
    return mistakes


def _lists_prices(data: _Table) -> bool:
    """Whether an endpoint may tell what its models cost: a server, not the local model."""
    entries = [data.get("endpoint"), *(data["endpoints"] if isinstance(data.get("endpoints"), list) else [])]
    tables = [entry for entry in entries if isinstance(entry, Mapping)]
    return any(entry.get("base_url") or entry.get("name") not in (None, "local") for entry in tables)


def _check_rates(limits: _Table, endpoints: Any) -> list[Mistake]:
    """A rate so small that not one request goes within what is waited for at the most would be waited for in silence."""
    try:
        longest_s = parse_duration(limits.get("max_wait", _MAX_WAIT))
    except ValueError:
        return []  # that is told by itself
    each = endpoints if isinstance(endpoints, list) else []
    tables = {
        "limits": limits,
        **{f"endpoints.{n}": table for n, table in enumerate(each) if isinstance(table, Mapping)},
    }
    mistakes = []
    for place, table in tables.items():
        for name, unit in (("rpm", "request"), ("tpm", "token")):
            rate = table.get(name)
            if isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate < 60 / longest_s:
                what = f"lets not even one {unit} go in {longest_s:,.0f} s (limits.max_wait); found {rate:g}"
                mistakes.append(Mistake(f"{place}.{name}", what))
    return mistakes


def _check_params(section: str, table: _Table) -> list[Mistake]:
    mistakes = []
    for name, value in table.items():
        place = f"{section}.{name}"
        if name == CHAT.field:
            mistakes.append(Mistake(place, "messages come from the input or from [prompt], not from here"))
        elif name in TRANSPORT:
            mistakes.append(Mistake(place, "set endpoint.stream to true, false or 'auto' instead"))
        elif names_a_key(str(name)):
            mistakes.append(Mistake(place, KEY_HINT))
        elif why := unsayable(value) or CHAT.parameters.out_of_range(name, value):
            mistakes.append(Mistake(place, why))
        elif name == "response_format":
            mistakes += check_format(place, value)
    return mistakes


def _check_columns(given: _Table) -> list[Mistake]:
    """The columns that are to be sent as parameters."""
    names = given.get("params")
    mistakes = []
    for name in names if isinstance(names, list) else ():
        if name in (CHAT.field, "body"):
            mistakes.append(Mistake("input.params", f"{name!r} is what is asked, and sent in any case; leave it out"))
        elif name in TRANSPORT:
            mistakes.append(Mistake("input.params", "set endpoint.stream to true, false or 'auto' instead"))
        elif isinstance(name, str) and names_a_key(name):
            mistakes.append(Mistake("input.params", KEY_HINT))
    return mistakes


def _check_prompts(data: _Table, prompts: _Table, swept: Collection[str]) -> list[Mistake]:
    mistakes = []
    for place, prompt in [("prompt", data.get("prompt")), *((f"prompts.{n}", p) for n, p in prompts.items())]:
        messages = prompt.get("messages") if isinstance(prompt, Mapping) else None
        if messages is not None and (why := unsayable(messages)):
            mistakes.append(Mistake(f"{place}.messages", why))
    if prompts and "prompt" not in swept:
        mistakes.append(Mistake("prompts", "sweep.prompt does not name which of these prompts to try"))
    if "prompt" in swept and data.get("prompt") is not None:
        mistakes.append(
            Mistake("prompt", "[prompt] and sweep.prompt exclude each other; make it one of [prompts.NAME]")
        )
    return mistakes


def _check_endpoints(endpoints: Any, endpoint: _Table, swept: Collection[str]) -> list[Mistake]:
    if not isinstance(endpoints, list):
        return []
    if not endpoints:
        return [Mistake("endpoints", "is empty; write one [[endpoints]] for each, or leave it out")]
    tables = [each for each in endpoints if isinstance(each, Mapping)]
    mistakes = [m for number, each in enumerate(tables) for m in _check_endpoint(f"endpoints.{number}", each)]
    if any(value is not None for value in endpoint.values()):
        mistakes.append(
            Mistake("endpoints", "[[endpoints]] and an endpoint of its own (also: --base-url) exclude each other")
        )
    names = [endpoint_name(each.get("name"), each.get("base_url")) for each in tables]
    mistakes += [
        Mistake(f"endpoints.{number}", f"is the second one called {name!r:.80}; give each a name of its own")
        for number, name in enumerate(names)
        if name in names[:number]
    ]
    mistakes += [
        Mistake(
            f"endpoints.{number}.model",
            "and sweep.model exclude each other: every point would be sent to the one model",
        )
        for number, each in enumerate(tables)
        if each.get("model") is not None and "model" in swept
    ]
    return mistakes


# The hosted APIs that are known by name, each with all its addresses. The first is the one that a name stands for.
HOSTED = {"flexai": ("https://api.flex.ai/v1", "https://tokens.flex.ai/v1")}


def host_of(base_url: Any) -> str:
    try:
        return (urlsplit(str(base_url)).hostname or "").rstrip(".")
    except ValueError:
        return ""


def hosted_at(base_url: Any) -> str | None:
    """The hosted API whose address this is."""
    host = host_of(base_url)
    return next((name for name, addresses in HOSTED.items() if host in map(host_of, addresses)), None)


def endpoint_name(name: Any, base_url: Any) -> str:
    """What an endpoint is called where it answers: its name, else that of the hosted API or the host, else ``local``."""
    if name or not base_url:
        return str(name or "local")
    return hosted_at(base_url) or re.sub(r"^https?://", "", str(base_url)).split("/")[0]


def _check_endpoint(place: str, endpoint: _Table) -> list[Mistake]:
    name, base_url = endpoint.get("name"), endpoint.get("base_url")
    known = name == "local" or (str(name) in HOSTED and hosted_at(base_url) != name)
    mistakes = _check_access(place, endpoint)
    if name is not None and not known and not base_url:
        there = choice(str(name), ("local", *HOSTED))
        what = f"no endpoint is named {name!r:.80}; {there}; any other server needs {place}.base_url"
        mistakes.append(Mistake(f"{place}.name", what))
    if base_url and known:
        what = f"the endpoint {name!r} has an address of its own; leave out either name or base_url"
        mistakes.append(Mistake(f"{place}.base_url", what))
    if endpoint.get("model_path") and (base_url or name not in (None, "local")):
        mistakes.append(Mistake(f"{place}.model_path", "is for the endpoint 'local' only"))
    return mistakes


def _check_access(place: str, endpoint: _Table) -> list[Mistake]:
    """How a server is asked to let requests in: with which key, in which header."""
    given = [name for name in ("api_key_env", "api_key_command") if endpoint.get(name) is not None]
    if not endpoint.get("base_url") and endpoint.get("name") in (None, "local"):
        names = ("api_key_command", "auth_header", "headers", "query")
        what = "is for a server that is asked by its address: name it, in base_url or name"
        return [Mistake(f"{place}.{name}", what) for name in names if endpoint.get(name)]
    mistakes = []
    if len(given) > 1:
        mistakes.append(Mistake(f"{place}.api_key_command", "and api_key_env exclude each other: there is one key"))
    if endpoint.get("auth") == "none":
        mistakes += [
            Mistake(f"{place}.{name}", "and auth = 'none' exclude each other: no key is sent")
            for name in (*given, "auth_header")
            if endpoint.get(name) is not None
        ]
        return mistakes
    headers, own = endpoint.get("headers"), key_header(endpoint.get("auth"), endpoint.get("auth_header"))
    for name in headers if isinstance(headers, Mapping) and given else ():
        if str(name).lower() == own.lower():
            what = f"would be sent in place of the key that {given[0]} gives; leave out either"
            mistakes.append(Mistake(f"{place}.headers.{name}", what))
    return mistakes


def _check_scores(scores: Any, given: _Table, swept: Collection[str]) -> list[Mistake]:
    if not isinstance(scores, list):
        return []
    has_input = given.get("path") is not None
    tables = {f"score.{number}": each for number, each in enumerate(scores) if isinstance(each, Mapping)}
    names = [each.get("name") for each in tables.values()]
    mistakes = [
        Mistake(f"{place}.name", f"is the second score called {each.get('name')!r:.80}; give each a name of its own")
        for number, (place, each) in enumerate(tables.items())
        if each.get("name") is not None and each.get("name") in names[:number]
    ]
    for place, each in tables.items():
        expected, carry = each.get("expected"), given.get("carry", [])
        if (
            has_input
            and isinstance(expected, str)
            and isinstance(carry, list)
            and not _will_be_there(expected, carry, swept)
        ):
            what = f"the results will have no column {expected!r:.80}; if the input has it, name it in input.carry"
            mistakes.append(Mistake(f"{place}.expected", what))
        judge = each.get("judge")
        if isinstance(judge, Mapping):
            mistakes += _check_judge(f"{place}.judge", judge)
    return mistakes


def _will_be_there(name: str, carry: list[Any], swept: Collection[str]) -> bool:
    """Whether a run's results have this column, or the one before its first point; those of answers can not be foreseen."""
    there = {*Outcome.__struct_fields__, *map(str, carry), *(f"input_{column}" for column in carry)}
    there |= {*map(str, swept), *(f"sweep_{variable}" for variable in swept)}
    return name in there or name.partition(".")[0] in there


def _check_judge(place: str, judge: _Table) -> list[Mistake]:
    def inside(name: str) -> _Table:
        value = judge.get(name)
        return value if isinstance(value, Mapping) else {}

    mistakes = [m._replace(place=f"{place}.{m.place}") for m in _check_params("params", inside("params"))]
    mistakes += _check_endpoint(f"{place}.endpoint", inside("endpoint"))
    if "response_format" in inside("params"):
        mistakes.append(Mistake(f"{place}.params.response_format", "is set by batchflex, so that a grade can be read"))
    return mistakes


def unbounded(limits: LimitsSection, request: Request) -> str | None:
    """Why no request can be sent under these limits: a budget of tokens or money needs to know the longest answer."""
    if request.max_tokens is not None or request.fault is not None:
        return None
    name = next((name for name in ("budget_usd", "budget_tokens") if getattr(limits, name) is not None), None)
    if name is None:
        return None
    return f"row {request.id!r:.80} has no max_tokens, which limits.{name} needs: give it one, or set params.max_tokens"
