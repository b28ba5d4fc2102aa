"""A counting OpenAI-compatible endpoint on a real socket, in a process of its own, with knobs for every fault.

In a test (or take the fixture ``endpoint`` of conftest.py)::

    with CountingEndpoint(latency_s=0.01, faults={"500": 0.1, "reset_inside": 0.05}) as endpoint:
        endpoint.base_url                     # "http://127.0.0.1:PORT/v1"; also .port and .control
        endpoint.knobs(script=["429", "ok"])  # change any knob at any time (see Knobs); the others stay
        endpoint.stats()                      # totals: see Counter.stats
        endpoint.log()                        # a dict for each request, in order of arrival: see Counter.arrived
        endpoint.reset()                      # forget counts, log and attempts; the knobs stay
        endpoint.stop()                       # also done by `with`

By hand: ``python -m tests.counting_endpoint [--port 0] [--knobs '{"rpm": 60}'] [--forever]`` prints one line of JSON
with ``base_url`` and ``control``. The process ends when its standard input does: it never outlives its parent, but it
outlives a run that is killed. ``body_hash(body)`` is the identity of a request in the log; it ignores ``stream``.

Fault names: ``sorted(FAULTS)``. Control over HTTP on the same port: ``POST /control/knobs`` (a JSON object of some
knobs), ``POST /control/reset``, ``GET /control/stats``, ``GET /control/log``.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

run: Any = asyncio.run
with contextlib.suppress(ImportError):
    from uvloop import run

_ROOT = Path(__file__).resolve().parent.parent
_encode = msgspec.json.Encoder(order="deterministic").encode
_fast = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclasses.dataclass
class Knobs:
    """How the endpoint behaves. Every field is JSON."""

    latency_s: float = 0.0  # before an answer; refusals (4xx) come at once
    jitter_s: float = 0.0  # up to so much more, the same for the same request and attempt
    answer: str | None = None  # the content of each answer; else "echo: " and the last user message
    answer_bytes: int | None = None  # pad the content to so many bytes
    tokens: int | None = None  # completion_tokens to report; else the number of words
    obey_max_tokens: bool = False  # cut the content to max_tokens words, with finish_reason "length"
    reasoning: str | None = None  # message.reasoning_content
    tool_calls: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # {"id", "name", "arguments": "…"} each
    usage: str = "with_last"  # "with_last" chunk of a stream, "after" it in a chunk without choices, or "none" at all
    header_bytes: int = 0  # so large a header comes with each answer
    key: str | None = None  # refuse any other key with 401
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
    # a rate limit: `rpm` requests in each window
    rpm: int | None = None
    window_s: float = 60.0
    limit_kind: str = "fixed"  # or "sliding", "bucket"
    burst: int | None = None  # the size of the bucket; else rpm
    reset_format: str = "unix"  # of x-ratelimit-reset-requests: or "seconds", "duration"
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


def _error(status: int, message: str, kind: str | None = None, code: str | None = None) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": kind, "param": None, "code": code}}


_RATE = ("Rate limit reached", "rate_limit_error", "rate_limit_exceeded")
_HTML = "<html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>"
REFUSALS: dict[str, tuple[int, Any]] = {
    "400": _error(400, "the request is malformed", "invalid_request_error"),
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
    "429_limit": _error(429, *_RATE),  # what `rpm` answers
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
FAULTS = (REFUSALS.keys() | ANSWERS | WIRE) - {"ok"}
Step = bytes | float | str  # write these, wait so many seconds, hang up in this way


def body_hash(body: bytes | str | dict[str, Any]) -> str:
    """The identity of a request in the log: SHA-1 over its JSON with sorted keys, ``stream*`` left out."""
    data = dict(body) if isinstance(body, dict) else _decode(body)
    data.pop("stream", None)
    data.pop("stream_options", None)
    return hashlib.sha1(_encode(data)).hexdigest()


class Counter:
    """What was asked and answered, and what the next request is due."""

    def __init__(self, knobs: Knobs) -> None:
        self.knobs = knobs
        self.reset()

    def reset(self) -> None:
        self.requests = self.connections = self.in_flight = self.max_in_flight = self.good = self.abandoned = 0
        self.keys: set[str] = set()
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.asked: collections.Counter[str] = collections.Counter()
        self.faulted: collections.Counter[str] = collections.Counter()
        self.answered: collections.Counter[str] = collections.Counter()
        self.elsewhere: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.script = collections.deque(self.knobs.script)
        self.admitted: collections.deque[float] = collections.deque()
        self.bucket, self.filled_at = float("inf"), 0.0

    def control(self, what: str, raw: bytes) -> tuple[int, Any]:
        if what == "knobs":
            for name, value in (given := _decode(raw)).items():
                setattr(self.knobs, name, value)
            if "script" in given:
                self.script = collections.deque(self.knobs.script)
            return 200, dataclasses.asdict(self.knobs)
        if what == "reset":
            self.reset()
        return (200, self.records) if what == "log" else (200, self.stats())

    def stats(self) -> dict[str, Any]:
        """``requests``; ``good``: whole answers; ``outcomes`` by name; ``in_flight`` and ``max_in_flight``;
        ``connections`` that brought a request; ``bodies`` asked; ``answered`` bodies; ``repeats``: good answers to a
        body that had one already; ``abandoned``: good answers that the client did not wait for; ``keys``: SHA-1 of
        each Authorization header seen; ``elsewhere``: method and path of each request that was no chat completion.
        """
        names = ("requests", "good", "in_flight", "max_in_flight", "connections", "abandoned", "elsewhere", "outcomes")
        return {name: getattr(self, name) for name in names} | {
            "bodies": len(self.asked),
            "answered": len(self.answered),
            "repeats": self.answered.total() - len(self.answered),
            "keys": sorted(self.keys),
        }

    def draw(self, *what: object) -> float:
        digest = hashlib.sha1(repr((self.knobs.seed, *what)).encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48

    def arrived(
        self, raw: bytes, body: dict[str, Any], authorization: str | None, conn: int | None
    ) -> tuple[dict[str, Any], float]:
        """The record of a request, and the seconds until its answer.

        ``seq`` (from 0), ``at``, ``conn``, ``hash`` (see :func:`body_hash`), ``attempt`` (of that body, from 0),
        ``stream``, ``key`` (SHA-1 of the Authorization header), ``outcome`` (``ok`` or the fault), ``status`` (``None``
        if there was no whole answer), ``answered_at`` (when its last byte was with the kernel; ``None`` if never),
        ``open`` (whether the connection was open then), ``later`` (another request came on that connection: so the
        client has read this answer). Times are seconds since the epoch.
        """
        name = body_hash(body)
        key = None if authorization is None else hashlib.sha1(authorization.encode()).hexdigest()
        if key is not None:
            self.keys.add(key)
        attempt = self.asked[name]
        outcome = self.outcome(raw, body, name, attempt, authorization)
        record: dict[str, Any] = {
            "seq": self.requests,
            "at": time.time(),
            "conn": conn,
            "hash": name,
            "attempt": attempt,
            "key": key,
        }
        record |= {"stream": bool(body.get("stream")), "outcome": outcome, "status": None, "answered_at": None}
        record |= {"open": False, "later": False}
        self.requests += 1
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.asked[name] += 1
        self.outcomes[outcome] += 1
        if self.knobs.keep_log:
            self.records.append(record)
        late = self.draw(name, attempt, "late") if self.knobs.jitter_s else 0.0
        return record, self.knobs.latency_s + self.knobs.jitter_s * late

    def outcome(self, raw: bytes, body: dict[str, Any], name: str, attempt: int, authorization: str | None) -> str:
        """What this request gets."""
        knobs = self.knobs
        if self.script:
            return self.script.popleft()
        if self.refuses(authorization):
            return "401"
        if knobs.rpm is not None:
            left, _ = self.limit(now := time.time())
            if left < 1:
                return "429_limit"
            self.admitted.append(now)
            self.bucket -= 1
        if knobs.fail_after is not None and self.good >= knobs.fail_after:
            return knobs.fail_with
        for part, fault in knobs.poison.items():
            if part.encode() in raw:
                return fault
        if (body.get("n") or 1) > 1:
            return "n"
        if knobs.faults and self.faulted[name] < knobs.fault_attempts:
            left_over = self.draw(name, attempt)
            for fault, share in knobs.faults.items():
                left_over -= share
                if left_over < 0:
                    self.faulted[name] += 1
                    return fault
        return "ok"

    def refuses(self, authorization: str | None) -> bool:
        return self.knobs.key is not None and authorization != f"Bearer {self.knobs.key}"

    def limit(self, now: float) -> tuple[int, float]:
        """How many requests may come now, and the seconds until there are more."""
        knobs, most = self.knobs, self.knobs.rpm or 0
        if knobs.limit_kind == "bucket":
            rate = most / knobs.window_s
            self.bucket = min(float(knobs.burst or most), self.bucket + (now - self.filled_at) * rate)
            self.filled_at = now
            return int(self.bucket), max(0.0, (1 - self.bucket) / rate)
        begin = now - now % knobs.window_s if knobs.limit_kind == "fixed" else now - knobs.window_s
        while self.admitted and self.admitted[0] < begin:
            self.admitted.popleft()
        oldest = begin if knobs.limit_kind == "fixed" or not self.admitted else self.admitted[0]
        return most - len(self.admitted), oldest + knobs.window_s - now

    def headers(self, outcome: str) -> str:
        knobs, now = self.knobs, time.time()
        lines: dict[str, object] = {}
        if knobs.rpm is not None:
            left, wait = self.limit(now)
            resets = {"unix": f"{math.ceil(now + wait)}", "seconds": f"{wait:.3f}", "duration": f"{wait * 1000:.0f}ms"}
            lines["x-ratelimit-limit-requests"] = knobs.rpm
            lines["x-ratelimit-remaining-requests"] = left
            lines["x-ratelimit-reset-requests"] = resets[knobs.reset_format]
            if outcome == "429_limit":
                lines["retry-after"] = math.ceil(wait * 1000) / 1000
        if outcome in ("429", "503_retry_after"):
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

    def reply(self, body: dict[str, Any], outcome: str, authorization: str | None) -> dict[str, Any]:
        """The completion that this request gets when nothing goes wrong on the wire."""
        knobs = self.knobs
        said = [m.get("content") for m in body.get("messages", ()) if m.get("role") == "user"]
        content: str | None = knobs.answer if knobs.answer is not None else f"echo: {said[-1] if said else ''}"
        assert content is not None
        if knobs.answer_bytes is not None:
            content += " x" * ((knobs.answer_bytes - len(content.encode()) + 1) // 2)
        finish = {"finish_length": "length", "finish_content_filter": "content_filter"}.get(outcome, "stop")
        limit = body.get("max_tokens")
        if knobs.obey_max_tokens and limit is not None and len(content.split()) > limit:
            content, finish = " ".join(content.split()[:limit]), "length"
        if outcome == "empty_content":
            content = ""
        elif outcome == "echo_key":
            content = f"your header was {authorization}"
        words = knobs.tokens if knobs.tokens is not None else len(content.split())
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if knobs.reasoning is not None:
            message["reasoning_content"] = knobs.reasoning
        if knobs.tool_calls:
            message["content"], finish = None, "tool_calls"
            message["tool_calls"] = [
                {"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}}
                for c in knobs.tool_calls
            ]
        prompt = sum(len(str(m.get("content"))) for m in body.get("messages", ())) // 4 + 1
        return {
            "id": f"chatcmpl-{self.requests}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.get("model"),
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": None
            if knobs.usage == "none"
            else {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words},
        }

    def events(self, reply: dict[str, Any], outcome: str) -> list[bytes]:
        """The same completion as the events of a stream."""
        knobs, message = self.knobs, reply["choices"][0]["message"]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        for name, text in (("reasoning_content", knobs.reasoning or ""), ("content", message["content"] or "")):
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
        self.record: dict[str, Any] | None = None  # being answered
        self.before: dict[str, Any] | None = None
        self.steps: Iterator[Step] = iter(())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        self.transport.set_write_buffer_limits(high=0)  # what is written is with the kernel, or resume_writing will say

    def connection_lost(self, error: Exception | None) -> None:
        if self.record is not None:
            self.counter.abandoned += self.record["outcome"] in ANSWERS and self.record["answered_at"] is None
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
        place = line.rpartition(" ")[0]
        if " /control/" in place:
            return self.say(*self.counter.control(place.rpartition("/")[2], raw))
        if self.number is None:
            self.number = self.counter.connections
            self.counter.connections += 1
        if self.before is not None:
            self.before["later"] = True
        if place == "POST /v1/chat/completions":
            return self.begin(raw, headers.get("authorization"))
        self.counter.elsewhere.append(place)
        if place != "GET /v1/models":
            return self.say(*REFUSALS["404_url"])
        if self.counter.refuses(headers.get("authorization")):
            return self.say(*REFUSALS["401"])
        self.say(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

    def begin(self, raw: bytes, authorization: str | None) -> None:
        self.knobs = self.counter.knobs
        body = _decode(raw)
        self.record, wait = self.counter.arrived(raw, body, authorization, self.number)
        outcome = self.record["outcome"]
        if outcome in REFUSALS:
            status, said = REFUSALS[outcome]
            if outcome == "echo_key_error":
                said = _error(400, f"bad key: {authorization}", "invalid_request_error")[1]
            self.record["status"] = status
            self.steps = iter([wait if status < 400 or status >= 500 else 0.0, self.whole(status, said, outcome)])
        else:
            reply = self.counter.reply(body, outcome, authorization)
            self.steps = itertools.chain([wait], self.streamed(reply) if body.get("stream") else self.unstreamed(reply))
        self.play()

    def whole(self, status: int, said: Any, outcome: str = "") -> bytes:
        kind = "application/json" if not isinstance(said, str) else "text/html" if "<" in said else "text/plain"
        raw = said.encode() if isinstance(said, str) else _fast(said)
        return self.head(status, kind, f"content-length: {len(raw)}", outcome) + raw

    def head(self, status: int, kind: str, length: str, outcome: str) -> bytes:
        first = f"HTTP/1.1 {status} {http.client.responses.get(status, 'Unknown')}\r\ncontent-type: {kind}\r\n"
        return f"{first}{self.counter.headers(outcome)}{length}\r\n\r\n".encode()

    def say(self, status: int, said: Any) -> None:
        self.transport.write(self.whole(status, said))
        if self.buffer:
            self.next()

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
        assert self.record is not None
        self.record["answered_at"], self.record["open"] = time.time(), not self.transport.is_closing()
        if self.record["outcome"] in ANSWERS:
            self.counter.good += 1
            self.counter.answered[self.record["hash"]] += 1

    def resume_writing(self) -> None:
        self.play()

    def hang_up(self, how: str) -> None:
        if how == "reset" and not self.transport.is_closing():
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        self.transport.close()

    def finish(self) -> None:
        self.before, self.record = self.record, None
        self.counter.in_flight -= 1


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

    def __init__(self, **knobs: Any) -> None:
        command = [sys.executable, "-m", "tests.counting_endpoint", "--knobs", json.dumps(_checked(knobs))]
        # A session of its own: a Ctrl-C that a test sends to a run's group must not reach it.
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        self.base_url: str = said["base_url"]
        self.control: str = said["control"]
        self.port = int(self.base_url.rpartition(":")[2].partition("/")[0])

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

    def reset(self) -> None:
        """Forget counts, log, attempts and the rate limit's windows; the knobs stay."""
        self._ask("POST", "reset")

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(10)

    def _ask(self, method: str, what: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, f"/control/{what}", json.dumps(body or {}))
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


def _checked(knobs: dict[str, Any]) -> dict[str, Any]:
    asked = {
        knobs.get("fail_with", "ok"),
        *knobs.get("faults", ()),
        *knobs.get("script", ()),
        *knobs.get("poison", {}).values(),
    }
    wrong = asked - FAULTS - {"ok"} | knobs.keys() - {field.name for field in dataclasses.fields(Knobs)}
    if wrong:
        raise ValueError(f"no such knob or fault: {sorted(wrong)}")
    return knobs


if __name__ == "__main__":
    main()
