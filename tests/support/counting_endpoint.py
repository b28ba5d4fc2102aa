"""A counting OpenAI-compatible endpoint on a real socket, in a process of its own, with knobs for every fault.

In a test (or take the fixture ``endpoint`` of conftest.py)::

    with CountingEndpoint(latency_s=0.01, faults={"500": 0.1, "reset_inside": 0.05}) as endpoint:
        endpoint.base_url                     # "http://127.0.0.1:PORT/v1"; also .port and .control
        endpoint.knobs(script=["429", "ok"])  # change any knob at any time (see Knobs); the others stay
        endpoint.stats()                      # totals: see Counter.stats
        endpoint.log()                        # a dict for each request, in order of arrival: see Counter.arrived
        endpoint.reset()                      # forget counts, log and attempts; the knobs stay
        endpoint.stop()                       # also done by `with`
        endpoint.kill()                       # die as a server does; CountingEndpoint(port=endpoint.port) is the next

What a request gets, the first that applies: ``down``, no ``credit``, ``script``, a wrong ``key``, ``most_in_flight``,
``rpm`` and ``tpm``, ``fail_after``, ``poison``, ``n``, ``faults``. Then it waits for one of ``slots``.

By hand: ``python -m tests.support.counting_endpoint [--port 0] [--knobs '{"rpm": 60}'] [--forever]`` prints one line of JSON
with ``base_url`` and ``control``. The process ends when its standard input does: it never outlives its parent, but it
outlives a run that is killed. ``body_hash(body)`` is the identity of a request in the log; it ignores ``stream``.

Fault names: ``sorted(FAULTS)``, and ``said`` for the answer that the knob of that name holds. Control over HTTP on the
same port: ``POST /control/knobs`` (a JSON object of some knobs), ``POST /control/reset``, ``POST /control/anew``,
``GET /control/stats``, ``GET /control/log``. Besides ``/v1/chat/completions`` there are ``POST /v1/embeddings`` (for each of
``input`` its :func:`vector`, the last first), ``GET /v1/models`` and, with the knob ``metrics``, ``GET /metrics``.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import datetime
import email.utils
import gc
import hashlib
import http.client
import itertools
import json
import math
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec

from tests.support.paths import ROOT
from tests.support.rate_limits import Rate, Slots

run: Any = asyncio.run
with contextlib.suppress(ImportError):
    from uvloop import run

_encode = msgspec.json.Encoder(order="deterministic").encode
_fast = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclasses.dataclass
class Knobs:
    """How the endpoint behaves. Every field is JSON."""

    latency_s: float = 0.0  # before an answer; refusals (4xx) come at once
    jitter_s: float = 0.0  # up to so much more, the same for the same request and attempt
    answer: str | None = None  # the content of each answer; else "echo: " and the last user message
    unfit: float = 0.0  # so large a share of the requests, by body, gets `unfit_answer` in its place
    unfit_answer: str = '{"label": "neither"}'
    answer_bytes: int | None = None  # pad the content to so many bytes
    tokens: int | None = None  # completion_tokens to report; else the number of words
    tokens_spread: float = 0.0  # completion_tokens differ by so large a share, up or down, by body; at least 1
    obey_max_tokens: bool = False  # cut the content to max_tokens words, with finish_reason "length"
    unstreamed_cap: int | None = (
        None  # cut the content of an answer that is not streamed to so many words, with "length"
    )
    cap: int | None = None  # cut the content of every answer so
    streams: bool = True  # else what is asked for as a stream comes whole
    reasoning: str | None = None  # message.reasoning_content
    think: int = (
        0  # a request with max_tokens of no more than this gets reasoning, no content, and "stop"; see `thought`
    )
    thought: str = "let me think"  # the reasoning then
    refuse_formats: list[str] = dataclasses.field(default_factory=list)  # types of response_format that get 400
    refuse_models: list[str] = dataclasses.field(default_factory=list)  # by these models alone, if there are any
    tool_calls: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # {"id", "name", "arguments": "…"} each
    usage: str = "with_last"  # "with_last" chunk of a stream, "after" it in a chunk without choices, or "none" at all
    request_ids: str | None = None  # the header that names each answer's request "req-SEQ", such as "x-request-id"
    header_bytes: int = 0  # so large a header comes with each answer
    # the fault "said": status, headers, and a body (JSON), or raw (text, as of a stream), or repeat (text, again and again)
    said: dict[str, Any] = dataclasses.field(default_factory=dict)
    echo: bool = False  # every refusal of ours repeats the Authorization header and the whole body
    key: str | None = None  # refuse any other key with 401
    key_lives: int | None = None  # each key that begins with `key` is good for so many completions, then gets 401
    answer_headers: dict[str, str] = dataclasses.field(default_factory=dict)  # come with each answer and refusal
    answered_by: dict[str, str] = dataclasses.field(
        default_factory=dict
    )  # substring of the body -> model of the answer
    more_usage: dict[str, Any] = dataclasses.field(default_factory=dict)  # beside the counts of tokens
    echo_key: bool = (
        False  # say the key in headers, in ids and names of answers, in types and codes of errors, as a model
    )
    # which requests fail
    script: list[str] = dataclasses.field(default_factory=list)  # for the first requests to arrive, whatever they are
    fail_after: int | None = None  # after so many good answers, everything fails with `fail_with`
    fail_with: str = "503"
    poison: dict[str, str] = dataclasses.field(default_factory=dict)  # substring of the body -> fault, for ever
    faults: dict[str, float] = dataclasses.field(default_factory=dict)  # fault -> share of the requests, 0..1
    fault_attempts: int = 3  # at most so many of `faults` for one body
    seed: int = 0
    retry_after_s: float = 1.0  # what 429, 429_date, 429_ms, 503_retry_after ask for
    redirect_to: str = "/elsewhere/v1/chat/completions"
    down: str | None = None  # every request gets this fault, without latency and slot; nothing is generated
    # rate limits: in each window `rpm` requests, and `tpm` tokens of prompts and the answers that they will have
    rpm: int | None = None
    tpm: int | None = None
    window_s: float = 60.0
    limit_kind: str = "fixed"  # or "sliding", "bucket", "from_first"
    burst: int | None = None  # the size of the bucket of requests; else rpm. That of tokens is tpm
    limit_headers: bool = True  # x-ratelimit-*; Retry-After comes anyway
    reset_format: str = "unix"  # of x-ratelimit-reset-*: or "unix_ms", "iso", "seconds", "duration"
    retry_after_exact: bool = True  # of 429_limit: to the millisecond; else rounded up to a second
    # as a LiteLLM proxy does: headers of the `api_key` without a reset, none on refusals, which ask for a whole window
    litellm: bool = False
    # other limits
    slots: int | None = None  # so many are answered at a time, the others wait in order; refusals (4xx) take none
    most_in_flight: int | None = (
        None  # "429_bare", or with `litellm` "429_parallel", for one that finds so many in flight
    )
    freed_late_s: float = 0.0  # what has ended is counted among these for so long
    credit: int | None = None  # so many more answers can begin; each takes 1 on arrival, at 0 everything gets "402"
    # what GET /v1/models lists: ids, or whole entries
    models: list[str | dict[str, Any]] = dataclasses.field(default_factory=lambda: ["m"])
    models_form: str = "data"  # how: in "data", or as a bare "list"; "404": not at all
    models_latency_s: float = 0.0
    metrics: str | None = None  # GET /metrics as "vllm" or "llamacpp" has it, of the slots
    queued: int | None = None  # how many wait, as that says, whatever there is
    # streams
    piece: int = 6  # characters in a content delta
    crlf: bool = False
    comments: bool = False  # ": ping" before each event
    no_space: bool = False  # "data:{…}"
    split: int | None = None  # so many bytes at a time, through the middle of characters
    events_per_write: int = 1
    gap_s: float = 0.0  # between writes
    no_done: bool = False
    tool_index: bool = True
    hang_up: str = "clean"  # how a stream ends: or "close", "reset", without the end that HTTP asks for
    keep_log: bool = True
    keep_bodies: bool = False  # the log has what was asked, too, as "body"


def _error(status: int, message: str, kind: str | None = None, code: str | None = None) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


_RATE = ("Rate limit reached", "rate_limit_error", "rate_limit_exceeded")
_HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>"
REFUSALS: dict[str, tuple[int, Any]] = {
    "400": _error(400, "the request is malformed", "invalid_request_error"),
    # Words that no runner knows: they may be about whoever asks.
    "400_hold": _error(400, "This account is on hold since 3 May", "account_error", "400"),
    "400_context": _error(
        400, "the maximum context length is 2048 tokens", "invalid_request_error", "context_length_exceeded"
    ),
    "401": _error(401, "Incorrect API key provided", "authentication_error", "invalid_api_key"),
    "402": _error(402, "Insufficient credit", "billing_error", "insufficient_quota"),
    "403": _error(403, "This key has no access", "permission_error"),
    "404_model": _error(404, "The model `m` does not exist", "invalid_request_error", "model_not_found"),
    "404_url": (404, {"detail": "Not Found"}),
    "408": _error(408, "Request timeout", "timeout_error"),
    "409": _error(409, "Conflict", "conflict_error"),
    "413": (413, _HTML.format("413 Request Entity Too Large")),
    "422": (422, {"detail": [{"loc": ["body", "top_p"], "msg": "must be at most 1", "type": "value_error"}]}),
    "429": _error(429, *_RATE),
    "429_date": _error(429, *_RATE),
    "429_ms": _error(429, *_RATE),
    "429_bare": _error(429, *_RATE),
    "429_limit": _error(429, *_RATE),  # what `rpm` and `tpm` answer
    "429_parallel": _error(429, *_RATE),
    "429_quota": _error(429, "You exceeded your current quota", "insufficient_quota", "insufficient_quota"),
    "500": _error(500, "Internal error", "server_error"),
    "500_json_429": _error(500, "litellm.RateLimitError: upstream is busy", "throttling_error", "429"),
    "502_html": (502, _HTML.format("502 Bad Gateway")),
    "503": _error(503, "Overloaded", "server_error"),
    "503_retry_after": _error(503, "Overloaded", "server_error"),
    "504": (504, _HTML.format("504 Gateway Time-out")),
    "529": _error(529, "Overloaded", "overloaded_error"),
    "redirect": (307, ""),
    "n": _error(400, "n must be 1", "invalid_request_error"),  # what n > 1 gets
    # what `refuse_formats` answers
    "format": _error(400, "This model does not support the requested response_format type", "invalid_request_error"),
    "echo_key_error": (400, None),
    # 200, yet no answer
    "not_json": (200, "I am not JSON"),
    "html_200": (200, _HTML.format("Please log in")),
    "empty_choices": (200, {"id": "e", "object": "chat.completion", "model": "m", "choices": []}),
    "no_choices": (200, {"id": "e", "object": "chat.completion", "model": "m"}),
    "error_200": (200, _error(500, "upstream failed", "server_error")[1]),
}
# A whole answer, with something about it.
ANSWERS = {"ok", "empty_content", "finish_length", "finish_content_filter", "echo_key"}
# An answer, or what looks like the beginning of one, that goes wrong on the wire.
WIRE = {
    *("reset_before", "close_before", "reset_inside", "close_inside", "truncated_json", "bad_status_line", "bad_chunk"),
    *("hang", "hang_inside", "drip", "pings", "stream_cut", "stream_error"),
}
GENERATED = ANSWERS | WIRE
FAULTS = (REFUSALS.keys() | GENERATED) - {"ok"}
# The notations of x-ratelimit-reset-*, of the time now and the seconds until then.
RESETS: dict[str, Callable[[float, float], str]] = {
    "unix": lambda now, wait: f"{math.ceil(now + wait)}",
    "unix_ms": lambda now, wait: f"{math.ceil((now + wait) * 1000)}",
    "iso": lambda now, wait: (
        f"{datetime.datetime.fromtimestamp(math.ceil(now + wait), datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    ),
    "seconds": lambda now, wait: f"{wait:.3f}",
    "duration": lambda now, wait: f"{wait * 1000:.0f}ms",
}
Step = bytes | float | str  # write these, wait so many seconds, hang up in this way


def vector(text: str) -> list[float]:
    """The embedding of a text: four numbers that no other text has."""
    return [byte / 256 for byte in hashlib.sha1(text.encode()).digest()[:4]]


def body_hash(body: bytes | str | dict[str, Any]) -> str:
    """The identity of a request in the log: SHA-1 over its JSON with sorted keys, ``stream*`` left out."""
    data = dict(body) if isinstance(body, dict) else _decode(body)
    data.pop("stream", None)
    data.pop("stream_options", None)
    return hashlib.sha1(_encode(data)).hexdigest()


class Totals:
    """What was asked and answered since the last reset. A request counts where it arrived, however late it ends."""

    def __init__(self) -> None:
        self.requests = self.connections = self.in_flight = self.max_in_flight = self.good = self.abandoned = 0
        self.refused = self.tokens = 0
        self.keys: set[str] = set()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.asked: collections.Counter[str] = collections.Counter()
        self.faulted: collections.Counter[str] = collections.Counter()
        self.answered: collections.Counter[str] = collections.Counter()
        self.elsewhere: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.first_at = 0.0
        self.by_second: list[list[int]] = []

    def second(self, now: float) -> list[int]:
        """The row of this second in ``by_second``. To be asked for before ``in_flight`` changes."""
        rows, number = self.by_second, int(now - self.first_at)
        if not rows or rows[-1][0] < number:
            if self.in_flight:
                rows += ([idle, 0, 0, 0, self.in_flight] for idle in range(rows[-1][0] + 1, number))
            rows.append([number, 0, 0, 0, self.in_flight])
        return rows[-1]

    def came(self, outcome: str, now: float) -> None:
        refused = outcome in REFUSALS and REFUSALS[outcome][0] == 429
        self.first_at = self.first_at or now
        row = self.second(now)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.outcomes[outcome] += 1
        self.refused += refused
        row[1] += 1
        row[3] += refused
        row[4] = max(row[4], self.in_flight)

    def went(self) -> None:
        self.second(time.time())
        self.in_flight -= 1


@dataclasses.dataclass(slots=True)
class Request:
    """One that has arrived, and what it is due."""

    record: dict[str, Any]  # see Counter.arrived
    reply: dict[str, Any] | None  # the completion, if one is generated
    tokens: int  # of that, or with `tpm` of the one that is refused
    at_once: bool  # without latency and slot
    paid: bool  # took 1 of `credit`
    totals: Totals


class Counter:
    """What was asked and answered, and what the next request is due."""

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs
        self.rates = {"requests": Rate(), "tokens": Rate()}
        self.slots: Slots[Connection] = Slots()
        self.taken = 0  # in flight and not refused
        self.ended_at: collections.deque[float] = collections.deque(maxlen=10_000)
        self.reset()
        self.heed()

    def reset(self) -> None:
        self.totals = Totals()
        self.script = collections.deque(self.knobs.script)
        self.key_uses: collections.Counter[str] = collections.Counter()
        for rate in self.rates.values():
            rate.forget()

    def heed(self) -> None:
        """The knobs were changed."""
        knobs, now = self.knobs, time.time()
        self.rates["requests"].agree(knobs.rpm, knobs.window_s, knobs.limit_kind, knobs.burst, now)
        self.rates["tokens"].agree(knobs.tpm, knobs.window_s, knobs.limit_kind, None, now)
        self.slots.most = knobs.slots
        self.call_next()

    def control(self, what: str, raw: bytes) -> tuple[int, Any]:
        if what == "knobs":
            for name, value in (given := _decode(raw)).items():
                setattr(self.knobs, name, value)
            if "script" in given:
                self.script = collections.deque(self.knobs.script)
            self.heed()
            return 200, dataclasses.asdict(self.knobs)
        if what == "anew":
            vars(self.knobs).update(vars(Knobs()))
            self.heed()
        if what in ("anew", "reset"):
            self.reset()
        return (200, self.totals.records) if what == "log" else (200, self.stats())

    def stats(self) -> dict[str, Any]:
        """``requests``; ``good``: whole answers; ``outcomes`` by name; ``in_flight`` and ``max_in_flight``, the refused
        and the queued among them; ``connections`` that brought a request; ``bodies`` asked; ``answered`` bodies;
        ``repeats``: good answers to a body that had one already; ``abandoned``: good answers that were begun and that
        the client did not wait for; ``keys``: SHA-1 of each Authorization header seen; ``elsewhere``: method and path
        of each request that was no chat completion; ``refused``: those with status 429; ``tokens``: of prompt and
        completion of every answer that was begun, also of those cut on the wire or abandoned: what is billed.

        ``by_second``: ``[seconds since the first request, arrivals, good answers, refused, most in flight]`` for each
        second; one with nothing in flight is left out. ``running`` and ``waiting``: those that have a slot (without
        ``slots``: that would have one) and those in the queue, whatever was reset.
        """
        totals = self.totals
        if totals.in_flight:
            totals.second(time.time())
        names = ("requests", "good", "in_flight", "max_in_flight", "connections", "abandoned", "elsewhere", "outcomes")
        return {name: getattr(totals, name) for name in (*names, "refused", "tokens", "by_second")} | {
            "bodies": len(totals.asked),
            "answered": len(totals.answered),
            "repeats": totals.answered.total() - len(totals.answered),
            "keys": sorted(totals.keys),
            "running": self.slots.running,
            "waiting": len(self.slots.queue),
        }

    def metrics(self) -> str:
        running, waiting = self.slots.running, len(self.slots.queue)
        if self.knobs.queued is not None:
            waiting = self.knobs.queued
        if self.knobs.metrics == "vllm":
            used = running / self.slots.most if self.slots.most else 0.0
            gauges: list[tuple[str, str, float]] = [
                ("vllm:num_requests_running", "Number of requests in model execution batches.", float(running)),
                ("vllm:num_requests_waiting", "Number of requests waiting to be processed.", float(waiting)),
                ("vllm:gpu_cache_usage_perc", "GPU KV-cache usage. 1 means 100 percent usage.", min(1.0, used)),
            ]
        else:
            gauges = [
                ("llamacpp:requests_processing", "Number of requests processing.", running),
                ("llamacpp:requests_deferred", "Number of requests deferred.", waiting),
            ]
        labels = '{model_name="m"}' if self.knobs.metrics == "vllm" else ""
        return "".join(f"# HELP {n} {told}\n# TYPE {n} gauge\n{n}{labels} {value}\n" for n, told, value in gauges)

    def draw(self, *what: object) -> float:
        digest = hashlib.sha1(repr((self.knobs.seed, *what)).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def arrived(self, raw: bytes, body: dict[str, Any], authorization: str | None, conn: int | None) -> Request:
        """Count a request. Its record:

        ``seq`` (from 0), ``at``, ``conn``, ``hash`` (see :func:`body_hash`), ``attempt`` (of that body, from 0),
        ``stream``, ``key`` (SHA-1 of the Authorization header), ``outcome`` (``ok`` or the fault), ``status`` (``None``
        if there was no whole answer), ``answered_at`` (when its last byte was with the kernel; ``None`` if never),
        ``open`` (whether the connection was open then), ``later`` (another request came on that connection: so the
        client has read this answer), ``in_flight`` (how many were, with this one, when it came), ``tokens`` (billed for
        it; 0 if its answer never began), ``unfit`` (it got ``unfit_answer``), ``prompt_tokens``, ``headers`` (by their
        names in lower case) and ``query`` (as it was sent). Times are seconds since the epoch.
        """
        knobs, totals, now = self.knobs, self.totals, time.time()
        name = body_hash(body)
        key = None if authorization is None else hashlib.sha1(authorization.encode()).hexdigest()
        if key is not None:
            totals.keys.add(key)
        seq, attempt = totals.requests, totals.asked[name]
        totals.requests += 1
        totals.asked[name] += 1

        refusal = self.refusal(authorization)
        outcome, drawn = (refusal, False) if refusal is not None else self.fate(raw, body, name, attempt)
        reply = None
        if outcome in GENERATED or knobs.tpm is not None:
            reply = self.reply(body, name, outcome, authorization)
        tokens = reply["usage"]["total_tokens"] if reply is not None else 0
        if refusal is None and not self.admits(tokens, now):
            outcome, drawn = "429_limit", False
        if drawn:
            totals.faulted[name] += 1
        if outcome not in GENERATED:
            reply = None
        paid = False
        if reply is not None:
            if knobs.usage == "none":
                reply["usage"] = None
            if knobs.credit is not None and knobs.down is None:
                knobs.credit -= 1
                paid = True

        totals.came(outcome, now)
        record = {"seq": seq, "at": now, "conn": conn, "hash": name, "attempt": attempt, "key": key}
        record |= {"stream": bool(body.get("stream")), "outcome": outcome, "status": None, "answered_at": None}
        said = reply["choices"][0]["message"]["content"] if reply is not None and "choices" in reply else None
        record |= {"unfit": said == knobs.unfit_answer}
        record |= {"open": False, "later": False, "in_flight": totals.in_flight, "tokens": 0}
        record |= {"prompt_tokens": 0 if not (reply and reply["usage"]) else reply["usage"]["prompt_tokens"]}
        if knobs.keep_bodies:
            record["body"] = body
        if knobs.keep_log:
            totals.records.append(record)
        status = knobs.said["status"] if outcome == "said" else REFUSALS[outcome][0] if outcome in REFUSALS else 200
        at_once = knobs.down is not None or 400 <= status < 500
        self.taken += not at_once
        return Request(record, reply, tokens, at_once, paid, totals)

    def begun(self, request: Request) -> float:
        """It has its slot: what is generated is billed. The seconds that this takes."""
        knobs, record = self.knobs, request.record
        if request.reply is not None:
            record["tokens"] = request.tokens
            request.totals.tokens += request.tokens
        late = self.draw(record["hash"], record["attempt"], "late") if knobs.jitter_s else 0.0
        return knobs.latency_s + knobs.jitter_s * late

    def ended(self, request: Request, connection: Connection) -> None:
        request.totals.went()
        if request.at_once:
            return
        self.taken -= 1
        self.ended_at.append(time.time())
        if self.slots.leave(connection) and request.paid and self.knobs.credit is not None:
            self.knobs.credit += 1  # what waited never began
        self.call_next()

    def call_next(self) -> None:
        if self.slots.queue:
            for connection in self.slots.due():  # not at once: each may make room for another
                asyncio.get_running_loop().call_soon(connection.start)

    def refusal(self, authorization: str | None) -> str | None:
        """What this request gets whatever it asks."""
        knobs = self.knobs
        if knobs.down is not None:
            return knobs.down
        if knobs.credit is not None and knobs.credit < 1:
            return "402"
        if self.script:
            return self.script.popleft()
        if self.refuses(authorization):
            return "401"
        if knobs.most_in_flight is not None:
            now = time.time()
            while self.ended_at and self.ended_at[0] <= now - knobs.freed_late_s:
                self.ended_at.popleft()
            if self.taken + len(self.ended_at) >= knobs.most_in_flight:
                return "429_parallel" if knobs.litellm else "429_bare"
        return None

    def fate(self, raw: bytes, body: dict[str, Any], name: str, attempt: int) -> tuple[str, bool]:
        """What this request gets if the rate limits admit it, and whether it was drawn from ``faults``."""
        knobs = self.knobs
        if knobs.fail_after is not None and self.totals.good >= knobs.fail_after:
            return knobs.fail_with, False
        for part, fault in knobs.poison.items():
            if part.encode() in raw:
                return fault, False
        if (body.get("n") or 1) > 1:
            return "n", False
        asked = (body.get("response_format") or {}).get("type")
        if asked in knobs.refuse_formats and body.get("model") in (knobs.refuse_models or [body.get("model")]):
            return "format", False
        if knobs.faults and self.totals.faulted[name] < knobs.fault_attempts:
            left_over = self.draw(name, attempt)
            for fault, share in knobs.faults.items():
                left_over -= share
                if left_over < 0:
                    return fault, True
        return "ok", False

    def refuses(self, authorization: str | None, *, counts: bool = True) -> bool:
        key, lives = self.knobs.key, self.knobs.key_lives
        if key is None:
            return False
        if lives is None:
            return authorization != f"Bearer {key}"
        self.key_uses[str(authorization)] += counts
        return self.key_uses[str(authorization)] > lives or not str(authorization).startswith(f"Bearer {key}")

    def admits(self, tokens: int, now: float) -> bool:
        """Charge both rates, or neither."""
        requests, of_tokens = self.rates.values()
        if not (requests.fits(1, now) and of_tokens.fits(tokens, now)):
            return False
        requests.charge(1, now)
        of_tokens.charge(tokens, now)
        return True

    def headers(self, outcome: str, tokens: int) -> str:
        knobs, now = self.knobs, time.time()
        if knobs.litellm and self.limited:
            return self.of_key(outcome)
        lines: dict[str, object] = {}
        waits: list[tuple[float, float]] = []
        for (name, rate), units in zip(self.rates.items(), (1, tokens), strict=True):
            if rate.most is None:
                continue
            wait = rate.fits_in(units, now) if outcome == "429_limit" else 0.0
            waits.append((wait, reset := max(wait, rate.more_in(now))))
            if knobs.limit_headers:
                lines[f"x-ratelimit-limit-{name}"] = rate.most
                lines[f"x-ratelimit-remaining-{name}"] = rate.left(now)
                lines[f"x-ratelimit-reset-{name}"] = RESETS[knobs.reset_format](now, reset)
        if outcome == "429_limit" and waits:
            # From a script it may come though all would fit.
            wait = max(wait for wait, _ in waits) or max(reset for _, reset in waits)
            exact = f"{math.ceil(wait * 1000) / 1000:.3f}"
            lines["retry-after"] = exact if knobs.retry_after_exact else math.ceil(wait)
        elif outcome in ("429", "503_retry_after"):
            lines["Retry-After"] = f"{knobs.retry_after_s:g}"
        elif outcome == "429_date":
            lines["Retry-After"] = email.utils.formatdate(now + knobs.retry_after_s, usegmt=True)
        elif outcome == "429_ms":
            lines["retry-after-ms"] = f"{knobs.retry_after_s * 1000:g}"
        elif outcome == "redirect":
            lines["Location"] = knobs.redirect_to
        if knobs.header_bytes:
            lines["x-large"] = "h" * knobs.header_bytes
        return "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    @property
    def limited(self) -> bool:
        return self.knobs.most_in_flight is not None or any(rate.most is not None for rate in self.rates.values())

    def of_key(self, outcome: str) -> str:
        """As a LiteLLM proxy's headers."""
        knobs, now = self.knobs, time.time()
        lines: dict[str, object] = {}
        if outcome in ("429_limit", "429_parallel"):
            kind = "max_parallel_requests" if outcome == "429_parallel" else "requests"
            reset = datetime.datetime.fromtimestamp(now + knobs.window_s, datetime.UTC)
            lines = {"retry-after": f"{knobs.window_s:g}", "rate_limit_type": kind, "reset_at": f"{reset:%F %T} UTC"}
        elif outcome in GENERATED and knobs.limit_headers:
            levels = {name: (rate.most, rate.left(now)) for name, rate in self.rates.items()}
            parallel = knobs.most_in_flight
            levels["max_parallel_requests"] = (parallel, max(0, (parallel or 0) - self.taken))
            for name, (most, left) in levels.items():
                if most is not None:
                    lines[f"x-ratelimit-api_key-limit-{name}"] = most
                    lines[f"x-ratelimit-api_key-remaining-{name}"] = left
        return "".join(f"{name}: {value}\r\n" for name, value in lines.items())

    def reply(self, body: dict[str, Any], name: str, outcome: str, authorization: str | None) -> dict[str, Any]:
        """The completion that this request gets when nothing goes wrong on the wire, or the vectors for its ``input``."""
        knobs = self.knobs
        if "input" in body:
            vectors = [{"object": "embedding", "index": n, "embedding": vector(t)} for n, t in enumerate(body["input"])]
            tokens = sum(len(text) for text in body["input"]) // 4 + 1
            return {
                "object": "list",
                "data": vectors[::-1],
                "model": body.get("model"),
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        said = [m.get("content") for m in body.get("messages", ()) if m.get("role") == "user"]
        content: str | None = knobs.answer if knobs.answer is not None else f"echo: {said[-1] if said else ''}"
        assert content is not None
        if self.draw(name, "unfit") < knobs.unfit:
            content = knobs.unfit_answer
        if knobs.answer_bytes is not None:
            content += " x" * ((knobs.answer_bytes - len(content.encode()) + 1) // 2)
        finish = {"finish_length": "length", "finish_content_filter": "content_filter"}.get(outcome, "stop")
        limit = body.get("max_tokens")
        if knobs.obey_max_tokens and limit is not None and len(content.split()) > limit:
            content, finish = " ".join(content.split()[:limit]), "length"
        for most in (knobs.cap, None if body.get("stream") else knobs.unstreamed_cap):
            if most is not None and len(content.split()) > most:
                content, finish = " ".join(content.split()[:most]), "length"
        thinks = limit is not None and limit <= knobs.think
        if thinks:
            content, finish = "", "stop"
        if outcome == "empty_content":
            content = ""
        elif outcome == "echo_key":
            content = f"your header was {authorization}"
        words = knobs.tokens if knobs.tokens is not None else len(content.split())
        if knobs.tokens_spread:
            words = max(1, round(words * (1 + knobs.tokens_spread * (2 * self.draw(name, "tokens") - 1))))
            if knobs.obey_max_tokens and limit is not None:
                words = min(words, limit)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if knobs.reasoning is not None or thinks:
            message["reasoning_content"] = knobs.thought if thinks else knobs.reasoning
        if knobs.tool_calls:
            message["content"], finish = None, "tool_calls"
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in knobs.tool_calls
            ]
        prompt = sum(len(str(m.get("content"))) for m in body.get("messages", ())) // 4 + 1
        echoed = f" {authorization}" if knobs.echo_key else ""
        by = next((model for word, model in knobs.answered_by.items() if word in str(said)), body.get("model"))
        return {
            "id": f"chatcmpl-{self.totals.requests}{echoed}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": f"{by}{echoed}" if echoed else by,
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}
            | knobs.more_usage,
        }

    def events(self, reply: dict[str, Any], outcome: str) -> list[bytes]:
        """The same completion as the events of a stream."""
        knobs, message = self.knobs, reply["choices"][0]["message"]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        for name, text in (
            ("reasoning_content", message.get("reasoning_content") or ""),
            ("content", message["content"] or ""),
        ):
            deltas += [{name: text[i : i + knobs.piece]} for i in range(0, len(text), knobs.piece)]
        for number, call in enumerate(message.get("tool_calls", ())):
            index = {"index": number} if knobs.tool_index else {}
            arguments = call["function"]["arguments"]
            head = {"name": call["function"]["name"], "arguments": ""}
            deltas.append({"tool_calls": [{**index, "id": call["id"], "type": "function", "function": head}]})
            for i in range(0, len(arguments), knobs.piece):
                part = {"arguments": arguments[i : i + knobs.piece]}
                deltas.append({"tool_calls": [{**index, "function": part}]})
        head = {n: reply[n] for n in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
        chunks = [{**head, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
        if outcome == "stream_error":
            chunks[len(chunks) // 2 :] = [REFUSALS["500"][1]]
        elif outcome == "stream_cut":
            del chunks[len(chunks) // 2 :]
        else:
            last = {"index": 0, "delta": {}, "finish_reason": reply["choices"][0]["finish_reason"]}
            chunks.append({**head, "choices": [last]})
            if knobs.usage == "with_last":
                chunks[-1]["usage"] = reply["usage"]
            elif knobs.usage == "after":
                chunks.append({**head, "choices": [], "usage": reply["usage"]})
        end, space = b"\r\n" if knobs.crlf else b"\n", b"" if knobs.no_space else b" "
        ping = b": ping" + end + end if knobs.comments else b""
        events = [ping + b"data:" + space + _fast(chunk) + end + end for chunk in chunks]
        if not knobs.no_done and outcome != "stream_cut":
            events.append(b"data:" + space + b"[DONE]" + end + end)
        return events


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, one request at a time. An answer is a generator of bytes, pauses and hang-ups."""

    transport: asyncio.Transport

    def __init__(self, counter: Counter) -> None:
        self.counter, self.knobs = counter, counter.knobs
        self.buffer = b""
        self.number: int | None = None
        self.authorization: str | None = None
        self.request: Request | None = None
        self.record: dict[str, Any] | None = None  # of the request, until that is answered
        self.before: dict[str, Any] | None = None
        self.steps: Iterator[Step] = iter(())
        self.full = False  # a step waits until all is with the kernel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.transport.set_write_buffer_limits(high=0)  # what is written is with the kernel, or resume_writing will say

    def connection_lost(self, error: Exception | None) -> None:
        if self.record is not None and self.request is not None:
            begun = self.record["outcome"] in ANSWERS and self.record["tokens"] > 0
            self.request.totals.abandoned += begun and self.record["answered_at"] is None
            self.finish()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.record is None:
            self.next()

    def next(self) -> None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            if self.buffer[:1] == b"\x16":  # TLS, which is not spoken here
                self.transport.close()
            return
        line, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in lines)}
        end += 4 + int(headers.get("content-length", 0))
        if len(self.buffer) < end:
            return
        raw, self.buffer = (
            self.buffer.partition(b"\r\n\r\n")[2][: int(headers.get("content-length", 0))],
            self.buffer[end:],
        )
        place, _, query = line.rpartition(" ")[0].partition("?")
        self.authorization = headers.get("authorization")
        if " /control/" in place:
            return self.say(*self.counter.control(place.rpartition("/")[2], raw))
        if self.number is None:
            self.number = self.counter.totals.connections
            self.counter.totals.connections += 1
        if self.before is not None:
            self.before["later"] = True
        if place in ("POST /v1/chat/completions", "POST /v1/embeddings"):
            return self.begin(raw, headers.get("authorization"), headers, query)
        self.counter.totals.elsewhere.append(place)
        if place == "GET /metrics" and self.knobs.metrics is not None:
            return self.say(200, self.counter.metrics())
        if place != "GET /v1/models":
            return self.say(*REFUSALS["404_url"])
        if self.counter.refuses(headers.get("authorization"), counts=False):
            return self.say(*REFUSALS["401"])
        echoed = [str(self.authorization)] if self.knobs.echo_key else []
        if self.knobs.models_form == "404":
            return self.say(*REFUSALS["404_url"])
        named = [model if isinstance(model, dict) else {"id": model} for model in (*self.knobs.models, *echoed)]
        listed = [{"object": "model", **model} for model in named]
        said = {"object": "list", "data": listed} if self.knobs.models_form == "data" else listed
        if self.knobs.models_latency_s:
            asyncio.get_running_loop().call_later(self.knobs.models_latency_s, self.say, 200, said)
        else:
            self.say(200, said)

    def begin(self, raw: bytes, authorization: str | None, headers: dict[str, str], query: str) -> None:
        body = _decode(raw)
        self.request = request = self.counter.arrived(raw, body, authorization, self.number)
        self.record = request.record
        self.record |= {"headers": headers, "query": query}
        if request.reply is None:
            self.steps = self.refused(authorization, raw)
        else:
            self.steps = (
                self.streamed(request.reply)
                if body.get("stream") and self.knobs.streams
                else self.unstreamed(request.reply)
            )
        if request.at_once:
            self.play()
        elif self.counter.slots.take(self):
            self.start()

    def start(self) -> None:
        """There is a slot for the request."""
        if self.record is not None and self.request is not None:  # or the client went meanwhile
            self.steps = itertools.chain([self.counter.begun(self.request)], self.steps)
            self.play()

    def whole(self, status: int, said: Any, outcome: str = "") -> bytes:
        kind = "application/json" if not isinstance(said, str) else "text/html" if "<" in said else "text/plain"
        raw = said.encode() if isinstance(said, str) else _fast(said)
        return self.head(status, kind, f"content-length: {len(raw)}", outcome) + raw

    def head(self, status: int, kind: str, length: str, outcome: str) -> bytes:
        first = f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}\r\ncontent-type: {kind}\r\n"
        tokens = 0 if self.request is None else self.request.tokens
        if self.knobs.request_ids is not None and self.record is not None:
            first += f"{self.knobs.request_ids}: req-{self.record['seq']}\r\n"
        first += "".join(f"{name}: {value}\r\n" for name, value in self.knobs.answer_headers.items())
        if self.knobs.echo_key:
            first += f"x-request-id: {self.authorization}\r\nserver: {self.authorization}\r\n"
        return f"{first}{self.counter.headers(outcome, tokens)}{length}\r\n\r\n".encode()

    def say(self, status: int, said: Any) -> None:
        self.transport.write(self.whole(status, said))
        if self.buffer:
            self.next()

    def refused(self, authorization: str | None, raw: bytes) -> Iterator[Step]:
        assert self.record is not None
        outcome = self.record["outcome"]
        if outcome == "said":
            yield from self.said(self.knobs.said)
            return
        status, said = REFUSALS[outcome]
        if outcome == "echo_key_error":
            said = _error(400, f"bad key: {authorization}", "invalid_request_error")[1]
        if outcome == "429_parallel":
            words = f"Limit type: max_parallel_requests. Current limit: {self.knobs.most_in_flight}, Remaining: 0"
            said = _error(429, f"Rate limit exceeded for api_key: k. {words}", "rate_limit_error", "429")[1]
        if self.knobs.echo and isinstance(said, dict) and "error" in said:
            message = f"{said['error']['message']}; you sent {authorization} and {raw.decode()}"
            said = {"error": {**said["error"], "message": message}}
        if self.knobs.echo_key and isinstance(said, dict) and "error" in said:
            told = {name: f"{said['error'][name]} {authorization}" for name in ("message", "type", "code")}
            said = {"error": said["error"] | told}
        self.record["status"] = status
        yield self.whole(status, said, outcome)

    def said(self, given: dict[str, Any]) -> Iterator[Step]:
        """An answer as it was given, whatever it is."""
        assert self.record is not None
        self.record["status"] = status = given["status"]
        repeated = given.get("repeat")
        raw = given["raw"].encode() if "raw" in given else b"" if repeated else _fast(given.get("body"))
        headers = {"content-type": "application/json", **given.get("headers", {})}
        headers |= {"transfer-encoding": "chunked"} if repeated else {"content-length": str(len(raw))}
        first = f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}\r\n"
        yield (first + "".join(f"{name}: {value}\r\n" for name, value in headers.items())).encode() + b"\r\n" + raw
        while repeated:
            yield _chunk(repeated.encode())
            yield 0.02

    def unstreamed(self, reply: dict[str, Any]) -> Iterator[Step]:
        assert self.record is not None
        outcome, raw = self.record["outcome"], _fast(reply)
        cut = raw if outcome in ANSWERS else raw[: len(raw) // 2]
        told = len(cut) if outcome == "truncated_json" else 10**9 if outcome == "drip" else len(raw)
        head = self.head(200, "application/json", f"content-length: {told}", outcome)
        if outcome in ANSWERS or outcome == "truncated_json":
            self.record["status"] = 200
            yield head + cut
        else:
            yield from self.broken(outcome, head, cut)

    def streamed(self, reply: dict[str, Any]) -> Iterator[Step]:
        assert self.record is not None
        outcome, knobs = self.record["outcome"], self.knobs
        head = self.head(200, "text/event-stream", "transfer-encoding: chunked", outcome)
        events = self.counter.events(reply, outcome)
        if outcome in WIRE - {"stream_cut", "stream_error", "truncated_json"}:
            yield from self.broken(outcome, head, _chunk(b"".join(events[: len(events) // 2])))
            return
        self.record["status"] = 200
        if outcome == "truncated_json":
            events[len(events) // 2] = b'data: {"choices": [\n\n'
        size = knobs.split or knobs.events_per_write
        units = b"".join(events) if knobs.split else events
        yield head
        for i in range(0, len(units), size):
            yield _chunk(units[i : i + size] if isinstance(units, bytes) else b"".join(units[i : i + size]))
            yield knobs.gap_s
        if knobs.hang_up == "clean":
            yield b"0\r\n\r\n"
        else:
            yield knobs.hang_up

    def broken(self, outcome: str, head: bytes, half: bytes) -> Iterator[Step]:
        """What goes wrong on the wire."""
        kind, _, where = outcome.partition("_")
        if outcome == "bad_status_line":
            yield b"SSH-2.0-OpenSSH_9.9\r\n\r\n"
        elif outcome == "bad_chunk":
            yield self.head(200, "application/json", "transfer-encoding: chunked", outcome) + b"zz\r\n{}\r\n"
        elif where == "inside" or kind == "stream":
            yield head + half
        elif kind in ("drip", "pings"):
            streamed = b"text/event-stream" in head
            piece = (b": ping\n\n" if kind == "pings" else b"x") if streamed else b" "
            yield head
            while True:
                yield _chunk(piece) if streamed else piece
                yield 0.05
        if kind != "hang":
            yield "reset" if kind == "reset" else "close"
        yield math.inf

    def play(self) -> None:
        """Take the next steps of the answer."""
        if self.record is None:  # the client went meanwhile
            return
        for step in self.steps:
            if isinstance(step, bytes):
                self.transport.write(step)
                if self.transport.get_write_buffer_size():
                    self.full = True
                    return  # resume_writing goes on
            elif isinstance(step, str):
                if self.record["outcome"] in ANSWERS:
                    self.settle()
                # Late, so that the client reads what was sent before it notices.
                late = 0.0 if self.record["outcome"].endswith("_before") else 0.03
                asyncio.get_running_loop().call_later(late, self.hang_up, step)
                self.steps = iter([math.inf])
                return
            elif step == math.inf:
                return
            elif step > 0:
                asyncio.get_running_loop().call_later(step, self.play)
                return
        self.settle()
        self.finish()
        if self.buffer:
            self.next()

    def settle(self) -> None:
        """The last byte is with the kernel."""
        assert self.record is not None and self.request is not None
        now = time.time()
        self.record["answered_at"], self.record["open"] = now, not self.transport.is_closing()
        if self.record["outcome"] in ANSWERS:
            totals = self.request.totals
            totals.good += 1
            totals.second(now)[2] += 1
            totals.answered[self.record["hash"]] += 1

    def resume_writing(self) -> None:
        if self.full:  # and not before its time, because what was written before this request has gone
            self.full = False
            self.play()

    def hang_up(self, how: str) -> None:
        if how == "reset" and not self.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        self.transport.close()

    def finish(self) -> None:
        assert self.request is not None
        self.before, self.record = self.record, None
        self.counter.ended(self.request, self)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve(port: int, knobs: Knobs) -> None:
    counter = Counter(knobs)
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(counter), "127.0.0.1", port, backlog=8192
    )
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    os.write(1, b'{"base_url": "%s/v1", "control": "%s/control"}\n' % (url.encode(), url.encode()))
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description="A counting OpenAI-compatible endpoint.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--knobs", default="{}", help="some knobs as a JSON object")
    parser.add_argument("--forever", action="store_true", help="do not end with standard input")
    given = parser.parse_args()
    if not given.forever:

        def watch() -> None:
            while sys.stdin.buffer.read(4096):
                pass
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    run(serve(given.port, Knobs(**json.loads(given.knobs))))


class CountingEndpoint:
    """The endpoint in a process of its own, ended by ``stop()``, by ``with``, or with this process."""

    def __init__(self, *, port: int = 0, **knobs: Any) -> None:
        command = [sys.executable, "-m", "tests.support.counting_endpoint", "--port", str(port)]
        command += ["--knobs", json.dumps(_checked(knobs))]
        # A session of its own: a Ctrl-C that a test sends to a run's group must not reach it.
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        self.base_url: str = said["base_url"]
        self.control: str = said["control"]
        self.port = int(self.base_url.rpartition(":")[2].partition("/")[0])
        self._asking = threading.Lock()
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def __enter__(self) -> CountingEndpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def knobs(self, **knobs: Any) -> None:
        """Set these; the others stay. A ``script`` begins with the next request."""
        self._ask("POST", "knobs", _checked(knobs))

    def stats(self) -> dict[str, Any]:
        """See :meth:`Counter.stats`."""
        return dict(self._ask("GET", "stats"))

    def log(self) -> list[dict[str, Any]]:
        """A dict for each request; see :meth:`Counter.arrived`."""
        return list(self._ask("GET", "log"))

    def asked_again(self) -> list[dict[str, Any]]:
        """Requests for an answer that the client is known to have received before: another request came on that connection."""
        log = [record for record in self.log() if record["outcome"] == "ok"]
        received = {record["hash"]: record["seq"] for record in log if record["later"]}
        return [record for record in log if record["seq"] > received.get(record["hash"], 1 << 60)]

    def reset(self) -> None:
        """Forget counts, log, attempts and the rate limits' windows; the knobs stay, and so does what is in a slot."""
        self._ask("POST", "reset")

    def anew(self) -> None:
        """As it is without any knobs set, and with nothing counted."""
        self._ask("POST", "anew")

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._connection.close()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def kill(self) -> None:
        """SIGKILL: every connection is lost and the port refuses others, until another takes it with ``port``."""
        self._process.kill()
        self.stop()

    def _ask(self, method: str, what: str, body: dict[str, Any] | None = None) -> Any:
        with self._asking:
            try:
                self._connection.request(method, f"/control/{what}", json.dumps(body or {}))
                return json.loads(self._connection.getresponse().read())
            except BaseException:
                self._connection.close()
                raise


def _checked(knobs: dict[str, Any]) -> dict[str, Any]:
    asked = {
        knobs.get("fail_with", "ok"),
        knobs.get("down") or "ok",
        *knobs.get("faults", ()),
        *knobs.get("script", ()),
        *knobs.get("poison", {}).values(),
    }
    wrong = asked - FAULTS - {"ok", "said"} | knobs.keys() - {field.name for field in dataclasses.fields(Knobs)}
    wrong |= {knobs.get("down")} & ANSWERS
    if wrong:
        raise ValueError(f"no such knob or fault: {sorted(wrong)}")
    return knobs


if __name__ == "__main__":
    main()
