"""Attempts over real sockets: each fault, stream and connection, over our own connections and over httpx's."""

from __future__ import annotations

import contextlib
import functools
import gzip
import json
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio
import brotli
import httpx
import pytest
from pydantic import SecretStr

from batchflex.core.errors import AttemptError, RateLimited, RowFault, RunFault, Transient
from batchflex.core.types import Answer, Request, Usage
from batchflex.endpoint import http1, queue_metrics, stream_reader
from batchflex.endpoint.client import Client
from batchflex.endpoint.provider import Endpoint
from batchflex.protocol.rate_limit_headers import RateLimits
from tests.support.counting_endpoint import ANSWERS, FAULTS, CountingEndpoint

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.anyio
KEY = 'sk-Sesam/+"oeffne"=='  # with characters that JSON may or must escape
TEXT = 'Größe: 👩🏽‍🔬\u2028 \r\n and "quotes"'

Via = Callable[[], httpx.AsyncBaseTransport]


@pytest.fixture(params=["http1", "http1-uvloop", "httpx"])
def stack(request: pytest.FixtureRequest) -> str:
    if request.param.endswith("uvloop"):
        pytest.importorskip("uvloop")
    return str(request.param)


@pytest.fixture
def anyio_backend(stack: str) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": stack.endswith("uvloop")}


@functools.cache
def _trusted(stack: str) -> ssl.SSLContext:
    """Making one takes as long as some ten attempts."""
    return httpx.create_ssl_context()


@pytest.fixture
def via(stack: str) -> Via:
    if stack.startswith("http1"):
        return lambda: http1.Connections(_trusted(stack))
    return lambda: httpx.AsyncHTTPTransport(verify=_trusted(stack))


def _request(text: str = TEXT, **fields: Any) -> Request:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode()
    return Request(b"k", b"s", "id", 0, 0, 0, body, fields.get("max_tokens"), None)


def _client(base_url: str, via: Via | None, **options: Any) -> Client:
    endpoint = Endpoint("test", base_url, SecretStr(KEY), **{"timeout_s": 30.0, "idle_timeout_s": 30.0, **options})
    return Client(endpoint, via=via() if via else None)


async def _fault(client: Client, request: Request | None = None) -> AttemptError:
    with pytest.raises(AttemptError) as caught:
        await client.attempt(request or _request())
    return caught.value


# --------------------------------------------------------------------------------------------------------- faults


class Expected(NamedTuple):
    kind: type[AttemptError]
    error_type: str
    status: int | None
    detail: str | None = None  # the reason of a RunFault, the blame of a Transient
    retry_after_s: float | None = None


_BROKEN = Expected(Transient, "bad_answer", None, "endpoint")
_ODD = Expected(Transient, "bad_answer", 200, "endpoint")
_LATE = Expected(Transient, "timeout", None, "endpoint")
EXPECTED = {
    "400": Expected(RowFault, "invalid_request_error", 400),
    "400_context": Expected(RowFault, "invalid_request_error", 400),
    "401": Expected(RunFault, "authentication_error", 401, "key"),
    "402": Expected(RunFault, "billing_error", 402, "credit"),
    "403": Expected(RunFault, "permission_error", 403, "key"),
    "404_model": Expected(RunFault, "invalid_request_error", 404, "model"),
    "404_url": Expected(RunFault, "http_404", 404, "url"),
    "408": Expected(Transient, "timeout_error", 408, "row"),
    "409": Expected(Transient, "conflict_error", 409, "row"),
    "413": Expected(RowFault, "http_413", 413),
    "422": Expected(RowFault, "http_422", 422),
    "429": Expected(RateLimited, "rate_limit_error", 429, "endpoint", 30.0),
    "429_date": Expected(RateLimited, "rate_limit_error", 429, "endpoint", 30.0),
    "429_ms": Expected(RateLimited, "rate_limit_error", 429, "endpoint", 30.0),
    "429_bare": Expected(RateLimited, "rate_limit_error", 429, "endpoint"),
    "429_limit": Expected(RateLimited, "rate_limit_error", 429, "endpoint"),
    "429_parallel": Expected(RateLimited, "rate_limit_error", 429, "endpoint"),
    "429_quota": Expected(RunFault, "insufficient_quota", 429, "credit"),
    "500": Expected(Transient, "server_error", 500, "row"),
    "500_json_429": Expected(RateLimited, "throttling_error", 500, "endpoint"),
    "502_html": Expected(Transient, "http_502", 502, "endpoint"),
    "503": Expected(Transient, "server_error", 503, "endpoint"),
    "503_retry_after": Expected(Transient, "server_error", 503, "endpoint", 30.0),
    "504": Expected(Transient, "http_504", 504, "endpoint"),
    "529": Expected(Transient, "overloaded_error", 529, "endpoint"),
    "n": Expected(RowFault, "invalid_request_error", 400),
    "format": Expected(RowFault, "invalid_request_error", 400),
    "400_hold": Expected(RowFault, "account_error", 400),
    "echo_key_error": Expected(RowFault, "invalid_request_error", 400),
    "redirect": Expected(RunFault, "http_307", 307, "url"),
    "reset_before": _BROKEN,
    "close_before": _BROKEN,
    "reset_inside": _BROKEN,
    "close_inside": _BROKEN,
    "bad_status_line": _BROKEN,
    "bad_chunk": _BROKEN,
    "truncated_json": _ODD,
    "not_json": _ODD,
    "html_200": _ODD,
    "empty_choices": Expected(Transient, "empty_answer", 200, "row"),
    "no_choices": Expected(Transient, "empty_answer", 200, "row"),
    "error_200": Expected(Transient, "server_error", 200, "row"),
    "hang": _LATE,
    "hang_inside": _LATE,
    "drip": _LATE,
    "pings": _LATE,
    "stream_cut": _BROKEN,
    "stream_error": _BROKEN,
}
STREAMED = EXPECTED | {"stream_cut": _ODD, "stream_error": Expected(Transient, "server_error", 200, "row")}


def test_every_fault_is_tested() -> None:
    assert set(EXPECTED) | ANSWERS == FAULTS | {"ok"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("fault", sorted(EXPECTED))
async def test_a_fault_means(fault: str, stream: bool, via: Via, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=[fault], retry_after_s=30.0)
    expected = (STREAMED if stream else EXPECTED)[fault]
    limits = {"timeout_s": 0.3, "idle_timeout_s": 0.25} if expected is _LATE else {}
    with anyio.fail_after(20):
        async with _client(endpoint.base_url, via, stream=stream, **limits) as client:
            error = await _fault(client)
            again = await client.attempt(_request()) if expected is not _LATE else None
    assert (type(error), error.error_type, error.http_status) == expected[:3]
    if isinstance(error, RunFault):
        assert error.reason == expected.detail
    if isinstance(error, Transient):
        assert error.blame == expected.detail
    if expected.retry_after_s is None:
        assert error.retry_after_s is None
    else:
        assert error.retry_after_s == pytest.approx(expected.retry_after_s, abs=2)
    assert error.message
    assert KEY not in f"{error!r} {error.message} {error.body!r} {error.error_type} {error.error_code}"
    assert again is None or again.content == f"echo: {TEXT}"
    assert endpoint.stats()["requests"] == (1 if again is None else 2)  # sent once, whatever happened


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("kind", "content", "finish"),
    [
        ("ok", f"echo: {TEXT}", "stop"),
        ("empty_content", "", "stop"),
        ("finish_length", f"echo: {TEXT}", "length"),
        ("finish_content_filter", f"echo: {TEXT}", "content_filter"),
        ("echo_key", "your header was Bearer ***", "stop"),
    ],
)
async def test_a_whole_answer(
    kind: str, content: str, finish: str, stream: bool, via: Via, endpoint: CountingEndpoint
) -> None:
    endpoint.knobs(script=[kind])
    async with _client(endpoint.base_url, via, stream=stream) as client:
        answer = await client.attempt(_request())
    assert (answer.content, answer.finish_reason, answer.model, answer.http_status) == (content, finish, "m", 200)
    assert answer.latency_s > 0
    assert answer.usage.prompt_tokens
    assert KEY not in json.dumps(json.loads(answer.response), ensure_ascii=False).replace("\\", "")
    assert b"\n" not in answer.response
    assert (answer.ttft_s is not None) == (stream and kind != "empty_content")


@pytest.mark.parametrize("escape", [json.dumps, lambda text: "".join(f"\\u{ord(c):04x}" for c in text).join('""')])
@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request"])
async def test_an_escaped_key_is_hidden_too(via: Via, escape: Callable[[str], str], status: str) -> None:
    said = escape(f"it is {KEY} and that's it").replace("/", "\\/")
    if status.startswith("200"):
        body = f'{{"choices":[{{"message":{{"content":{said}}}}}]}}'
    else:
        body = f'{{"error":{{"message":{said},"type":{said},"code":{said}}}}}'
    with _raw_server(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()) as url:
        async with _client(url, via) as client:
            try:
                shown = (await client.attempt(_request())).response.decode()
            except RowFault as error:
                shown = f"{error} {error.error_type} {error.error_code} {(error.body or b'').decode()}"
    assert "it is ***" in shown
    assert "Sesam" not in shown


async def test_a_redirect_is_not_followed(via: Via, endpoint: CountingEndpoint, other: CountingEndpoint) -> None:
    endpoint.knobs(script=["redirect"], redirect_to=f"{other.base_url}/chat/completions")
    async with _client(endpoint.base_url, via) as client:
        error = await _fault(client)
    assert other.base_url in error.message
    assert other.stats()["connections"] == 0
    assert len(endpoint.stats()["keys"]) == 1


# -------------------------------------------------------------------------------------------------------- streams


QUIRKS: list[dict[str, Any]] = [
    {},
    {"crlf": True},
    {"comments": True},
    {"comments": True, "crlf": True, "split": 3},
    {"split": 1},
    {"split": 7, "no_space": True},
    {"events_per_write": 5},
    {"events_per_write": 1000},
    {"no_done": True},
    {"usage": "after"},
    {"usage": "none"},
    {"hang_up": "close"},
    {"hang_up": "reset", "no_done": True},
    {"reasoning": "Hmm, schön…"},
    {"tool_calls": [{"id": "a", "name": "f", "arguments": '{"x": "é"}'}, {"id": "b", "name": "g", "arguments": "{}"}]},
    {"tool_calls": [{"id": "a", "name": "f", "arguments": '{"x": 1}'}, {"id": "b", "name": "g", "arguments": ""}]}
    | {"tool_index": False},
]


@pytest.mark.parametrize("quirk", QUIRKS, ids=lambda quirk: "-".join(quirk) or "plain")
async def test_a_streamed_answer_is_the_unstreamed_one(
    quirk: dict[str, Any], via: Via, endpoint: CountingEndpoint
) -> None:
    endpoint.knobs(**quirk)
    async with (
        _client(endpoint.base_url, via, stream=False) as plain,
        _client(endpoint.base_url, via, stream=True) as streaming,
    ):
        whole, streamed = await plain.attempt(_request()), await streaming.attempt(_request())
    assert _told(streamed) == _told(whole)
    message = [json.loads(answer.response)["choices"][0]["message"] for answer in (whole, streamed)]
    assert message[0] == message[1]
    assert [record["stream"] for record in endpoint.log()] == [False, True]


def _told(answer: Answer) -> tuple[Any, ...]:
    return answer.content, answer.reasoning, answer.tool_calls, answer.finish_reason, answer.model, answer.usage


def _events(*data: str, end: str = "\n\n") -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"
    return (head + "".join(f"data: {each}{end}" for each in data)).encode()


_TEXT_EVENT = '{"choices":[{"index":0,"delta":{"content":"a"}}]}'
_LAST_EVENT = '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    "sent",
    [
        _events(_TEXT_EVENT, _LAST_EVENT).rstrip(),
        _events(_TEXT_EVENT, _LAST_EVENT) + b'data: {"usage": {',
        _events(_TEXT_EVENT, _LAST_EVENT) + b'data: {"error": {"message": "afterwards"}}\n\n',
        _events(_TEXT_EVENT, _LAST_EVENT, "[DONE]", "[DONE]"),
        _events(_TEXT_EVENT) + b"id: 7\nevent: message\n\n: ping\n\nretry: 5\n\ndata: %s\n\n" % _LAST_EVENT.encode(),
        _events(_TEXT_EVENT, _LAST_EVENT, end="\r\r"),
    ],
    ids=["no blank line at the end", "cut after the end", "error after the end", "done twice", "no data", "CR"],
)
async def test_what_is_complete_is_complete(sent: bytes, via: Via) -> None:
    with _raw_server(sent) as url:
        async with _client(url, via, stream=True) as client:
            answer = await client.attempt(_request())
    assert (answer.content, answer.finish_reason, answer.usage) == ("a", "stop", Usage())


async def test_a_stream_that_stays_open_after_its_end_is_left(via: Via, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_reader, "_END_S", 0.1)
    with _raw_server(_events(_TEXT_EVENT, _LAST_EVENT, "[DONE]"), hold_s=15) as url, anyio.fail_after(10):
        async with _client(url, via, stream=True) as client:
            assert (await client.attempt(_request())).content == "a"


async def test_pings_are_a_sign_of_life(via: Via) -> None:
    head, answer = _events(), _events(_TEXT_EVENT, _LAST_EVENT).removeprefix(_events())
    with _raw_server(head, *[b": ping\n\n"] * 20, answer, gap_s=0.03) as url:
        async with _client(url, via, stream=True, idle_timeout_s=0.4) as client:
            assert (await client.attempt(_request())).content == "a"


async def test_an_unstreamed_answer_to_a_streamed_request_is_read(via: Via) -> None:
    body = b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    with _raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as url:
        async with _client(url, via, stream=True) as client:
            answer = await client.attempt(_request())
    assert (answer.content, answer.ttft_s) == ("a", None)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]),
    "deflate": zlib.compress,
    "Deflate": lambda data: zlib.compress(data, wbits=-15),  # without a header, as some take it
    "br": brotli.compress,
    "zstd": lambda data: zstd.compress(data[:20]) + zstd.compress(data[20:]),
    "gzip, br": lambda data: brotli.compress(gzip.compress(data)),
    "identity": bytes,
    "utf-8": bytes,  # seen, and no coding at all
}


def _packed(coding: str, body: bytes, stream: bool) -> bytes:
    kind = "text/event-stream" if stream else "application/json"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Encoding: {coding}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("coding", PACKED)
async def test_a_compressed_answer_is_read(coding: str, stream: bool, via: Via) -> None:
    """Though none is asked for."""
    said = f"data: {_TEXT_EVENT}\n\ndata: {_LAST_EVENT}\n\n" if stream else '{"choices":[{"message":{"content":"a"}}]}'
    sent = _packed(coding, PACKED[coding](said.encode()), stream)
    for pieces in ([sent], [sent[: len(sent) - 25], sent[len(sent) - 25 :]]):
        with _raw_server(*pieces, gap_s=0.01) as url:
            async with _client(url, via, stream=stream) as client:
                assert (await client.attempt(_request())).content == "a"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        ("gzip", b"{}", "not packed as gzip, as it says"),
        ("br", b"{}{}{}", "not packed as br, as it says"),
        ("zstd", b"{}{}{}", "not packed as zstd, as it says"),
        ("compress", b"{}", "packed as 'compress', which is not read here"),
        ("gzip, " * 9, b"{}", "packed 9 times"),
    ],
)
async def test_what_cannot_be_unpacked_is_named(coding: str, body: bytes, words: str, stream: bool, via: Via) -> None:
    with _raw_server(_packed(coding, body, stream)) as url:
        async with _client(url, via, stream=stream) as client:
            error = await _fault(client)
    assert (type(error), error.error_type) == (Transient, "bad_answer")
    assert words in error.message


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("coding", ["identity", "gzip", "br", "zstd"])
async def test_an_answer_that_is_too_large_fails_its_row(coding: str, stream: bool, via: Via) -> None:
    """Also one that is small until it is unpacked, and one whose only line does not end."""
    body = (b"data: " if stream else b"") + (2 << 20) * b" "
    with _raw_server(_packed(coding, PACKED[coding](body), stream)) as url:
        async with _client(url, via, stream=stream, max_answer_mb=1.0) as client:
            error = await _fault(client)
    assert (type(error), error.error_type, error.http_status, error.billed) == (RowFault, "answer_too_large", 200, True)
    assert error.message == "the answer has more than 1 MB (endpoint.max_answer_mb)"


@pytest.mark.parametrize("status", [*range(520, 528), 530, 598, 599])
async def test_every_other_5xx_is_the_endpoints(status: int, via: Via) -> None:
    with _raw_server(b"HTTP/1.1 %d Odd\r\nContent-Length: 19\r\n\r\n<h1>error %d</h1>.." % (status, status)) as url:
        async with _client(url, via) as client:
            error = await _fault(client)
    assert (type(error), error.error_type, error.http_status) == (Transient, f"http_{status}", status)
    assert isinstance(error, Transient)
    assert error.blame == "endpoint"


async def test_long_answers_are_streamed_where_they_would_be_cut(via: Via, endpoint: CountingEndpoint) -> None:
    async with _client(endpoint.base_url, via, unstreamed_max_tokens=2048) as client:
        await client.attempt(_request(max_tokens=2048))
        await client.attempt(_request(max_tokens=2049))
        await client.attempt(_request())
    assert [record["stream"] for record in endpoint.log()] == [False, True, True]
    assert endpoint.stats()["bodies"] == 3


# ---------------------------------------------------------------------------------------------------- connections


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_connections_are_used_again(stream: bool, via: Via, endpoint: CountingEndpoint) -> None:
    async with _client(endpoint.base_url, via, stream=stream) as client:
        for number in range(10):
            await client.attempt(_request(f"{number}"))
        assert endpoint.stats()["connections"] == 1

        async def several() -> None:
            for number in range(5):
                await client.attempt(_request(f"{number}"))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(several)
    stats = endpoint.stats()
    assert stats["requests"] == 50
    assert stats["connections"] <= 8
    assert stats["in_flight"] == 0


async def test_a_request_is_never_sent_twice_by_the_transport(via: Via, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=["ok", "close_before", "ok", "reset_before"])
    async with _client(endpoint.base_url, via) as client:
        await client.attempt(_request())
        await _fault(client)  # on the connection that had just worked
        await client.attempt(_request())
        await _fault(client)
    assert endpoint.stats()["requests"] == 4


async def test_cancelling_many_leaves_a_working_client(via: Via, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=["hang", "hang_inside", "ok", "drip"] * 10, latency_s=20)
    async with _client(endpoint.base_url, via, stream=True) as client:
        with anyio.move_on_after(0.5) as scope:
            async with anyio.create_task_group() as tasks:
                for number in range(40):
                    tasks.start_soon(client.attempt, _request(f"{number}"))
        assert scope.cancelled_caught
        endpoint.knobs(latency_s=0.0, script=[])
        with anyio.fail_after(10):
            while endpoint.stats()["in_flight"]:  # noqa: ASYNC110 - it counts in another process
                await anyio.sleep(0.02)
            assert (await client.attempt(_request("after"))).content == "echo: after"


async def test_large_headers_requests_and_answers(via: Via, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(header_bytes=40_000, answer_bytes=5_000_000)
    async with _client(endpoint.base_url, via) as client:
        answer = await client.attempt(_request("x" * 3_000_000))
    assert answer.content is not None
    assert len(answer.content) >= 5_000_000


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_limits_and_models_are_told(stream: bool, via: Via, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(rpm=7, key=KEY)
    told: list[RateLimits] = []
    async with _client(endpoint.base_url, via, stream=stream) as client:
        listing = await client.models()
        assert (listing.catalog.ids, listing.has_limits) == (["m"], True)
        await client.attempt(_request(), told.append)
        (first,) = told
        assert first.requests is not None
        assert (first.requests.limit, first.requests.remaining, first.tokens) == (7, 6, None)
        assert first.requests.reset_s is not None
        assert 0 <= first.requests.reset_s <= 60
        await client.attempt(_request())  # nobody listens
        for number in range(5):
            await client.attempt(_request(f"{number}"), told.append)
        assert [each.requests and each.requests.remaining for each in told[1:]] == [4, 3, 2, 1, 0]
        with pytest.raises(RateLimited):
            await client.attempt(_request("one more"), told.append)
        assert len(told) == 7
        assert told[-1].requests is not None
        assert (told[-1].requests.limit, told[-1].requests.remaining) == (7, 0)
        endpoint.knobs(key="another")
        with pytest.raises(RunFault):
            await client.models()


async def test_without_limits_nothing_is_told(via: Via, endpoint: CountingEndpoint) -> None:
    told: list[RateLimits] = []
    async with _client(endpoint.base_url, via) as client:
        await client.attempt(_request(), told.append)
    assert told == []


class _Recorder(httpx.AsyncBaseTransport):
    """Keeps each request that goes through it."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.requests: list[httpx.Request] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_metrics_are_read_without_the_key(via: Via, endpoint: CountingEndpoint) -> None:
    recorder = _Recorder(via())
    async with _client(endpoint.base_url, lambda: recorder) as client:
        assert await client.metrics() is None
        endpoint.knobs(metrics="vllm", key=KEY)
        text = await client.metrics()
        assert text is not None
        assert queue_metrics.waiting(text) == 0
        assert (await client.attempt(_request())).content is not None
    *asked, attempt = recorder.requests
    assert [request.url.path for request in asked] == ["/metrics"] * 2
    for request in asked:
        assert KEY.encode() not in b"".join(name + value for name, value in request.headers.raw)
        assert "authorization" not in request.headers
    assert attempt.headers["authorization"] == f"Bearer {KEY}"


async def test_a_server_that_is_not_there_has_no_metrics(via: Via) -> None:
    async with _client(f"http://127.0.0.1:{_unused_port()}/v1", via) as client:
        assert await client.metrics() is None


# -------------------------------------------------------------------------------------------------- no connection


def _unused_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _raw_server(*answer: bytes, gap_s: float = 0.0, hold_s: float = 0.0) -> Iterator[str]:
    """Gives these bytes to one connection, then hangs up. Yields the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            said = b""
            while b"\r\n\r\n" not in said or not said.endswith(b"}"):
                said += connection.recv(65_536)
            for piece in answer:
                connection.sendall(piece)
                time.sleep(gap_s)
            ended.wait(hold_s)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        ended.set()
        thread.join(10)
        listener.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("where", ["refused", "no such host", "no TLS", "hangs up", "resets", "alert"])
async def test_no_connection(where: str, stream: bool, via: Via, endpoint: CountingEndpoint) -> None:
    url = {
        "refused": lambda: contextlib.nullcontext(f"http://127.0.0.1:{_unused_port()}/v1"),
        "no such host": lambda: contextlib.nullcontext("http://nowhere.invalid/v1"),
        "no TLS": lambda: contextlib.nullcontext(endpoint.base_url.replace("http:", "https:")),
        "hangs up": lambda: _no_tls(b""),
        "resets": lambda: _no_tls(None),
        "alert": lambda: _no_tls(bytes([21, 3, 3, 0, 2, 2, 112])),  # fatal: unrecognized_name
    }[where]
    with url() as address:
        await _cannot_connect(address, stream, via)


@contextmanager
def _no_tls(said: bytes | None) -> Iterator[str]:
    """Answers each handshake with this, or a reset."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        if said is None:
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        else:
                            connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


async def _cannot_connect(url: str, stream: bool, via: Via) -> None:
    async with _client(url, via, stream=stream, connect_timeout_s=5.0) as client:
        error = await _fault(client)
        assert (type(error), error.error_type, error.http_status) == (Transient, "connect", None)
        assert isinstance(error, Transient)
        assert error.blame == "endpoint"
        assert " at 0x" not in error.message
        with pytest.raises(Transient) as caught:
            await client.models()
        assert caught.value.error_type == "connect"


async def test_a_connection_that_is_not_accepted_in_time(via: Via) -> None:
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as listener,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for filler in (first, second):  # the kernel's queue of one or two is full
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        with anyio.fail_after(20):
            async with _client(url, via, connect_timeout_s=0.3, timeout_s=10.0) as client:
                error = await _fault(client)
    assert error.error_type == "connect"
