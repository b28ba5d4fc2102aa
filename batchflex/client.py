"""One attempt: a request to an answer, or to a typed error. The only module that speaks HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, NamedTuple, cast

import anyio
import httpx
import httpx_sse
import msgspec

from . import __version__, catalog, classify, completion, heads, http1, keychecks, ratelimit, transport
from .catalog import Catalog
from .endpoint import Endpoint
from .errors import AttemptError
from .http1 import Header
from .model import Answer, Request
from .ratelimit import Told

_encode = msgspec.json.Encoder().encode
_STREAMING = b',"stream":true,"stream_options":{"include_usage":true}}'
_MODELS_S = 30.0  # for GET /models
_METRICS_S = 5.0
_USAGE_S = 10.0  # after the finish reason, for the usage
_END_S = 1.0  # after [DONE], for the end of the body, without which the connection cannot be used again


class Listing(NamedTuple):
    """The models that an endpoint lists, and whether it told of rate limits along with them."""

    catalog: Catalog
    tells_limits: bool = False


class Client:
    """Asks one endpoint. Use as an async context manager.

    ``via`` replaces the transport: any httpx transport does. Nothing is retried here, no redirect is followed, no
    cookie is kept, and the key goes to the endpoint's own address alone. It never shows in an error or an answer.
    """

    def __init__(
        self, endpoint: Endpoint, *, connections: int = 64, via: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._endpoint = endpoint
        self._transport = via or transport.choose(endpoint.base_url, connections)
        self._url = httpx.URL(f"{endpoint.base_url}/chat/completions")
        headers = {
            "host": self._url.netloc.decode(),
            "content-type": "application/json",
            "accept-encoding": "identity",
            "user-agent": f"batchflex/{__version__}",
        }
        if endpoint.key:
            headers["authorization"] = f"Bearer {endpoint.key.reveal()}"
        self._headers = httpx.Headers(headers)
        self._head = http1.head_of("POST", self._url, self._headers)
        key = endpoint.key.reveal() if endpoint.key else ""
        self.has_key = bool(key)
        self._key = key if len(key) >= keychecks.SHORTEST else ""
        self._key_in_json = _encode(self._key)[1:-1]
        # Time-outs on single reads do not end an answer that drips, so whole attempts are timed instead.
        self._extensions = {"timeout": {"connect": endpoint.connect_timeout_s, "read": None}}

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def attempt(
        self, request: Request, heard: Callable[[Told], None] | None = None, *, streamed: bool | None = None
    ) -> Answer:
        """Send the request once and return its complete answer. ``heard`` is told what the headers say of rate limits.
        Unless it is said whether it is ``streamed``, that goes by what the endpoint is known to do.

        An unstreamed answer must be complete within ``timeout_s``. Of a streamed one a line must come within each
        ``idle_timeout_s``, and one that belongs to the answer within each ``timeout_s``: a server that only pings is
        given up too.

        :raises AttemptError: of the kind that :mod:`batchflex.classify` gives to what happened.
        """
        streamed = self._endpoint.streams(request.max_tokens) if streamed is None else streamed
        body = request.body if self._endpoint.model is None else _renamed(request.body, self._endpoint.model)
        try:
            return await (self._streamed(body[:-1] + _STREAMING, heard) if streamed else self._whole(body, heard))
        except AttemptError as error:
            raise self._redacted(error) from None
        except TimeoutError as error:
            fault = classify.timed_out(f"no complete answer within {self._endpoint.timeout_s:g} s")
            raise self._named(fault, error) from None
        except httpx.ConnectTimeout:
            raise classify.unreachable(
                f"no connection to {self._url.host} within {self._endpoint.connect_timeout_s:g} s"
            ) from None
        except httpx.ConnectError as error:
            raise self._redacted(classify.unreachable(f"cannot connect: {_words(error)}")) from None
        except httpx.RequestError as error:
            raise self._named(self._redacted(classify.cut_short(_words(error))), error) from None

    async def models(self) -> Listing:
        """What ``GET /models`` lists; nothing if the endpoint does not say.

        :raises AttemptError: if the endpoint cannot be reached, does not work (5xx) or refuses the key.
        """
        url = httpx.URL(f"{self._endpoint.base_url}/models")
        try:
            with anyio.fail_after(_MODELS_S):
                response = await self._send("GET", url, b"")
                raw = await self._body(response)
        except TimeoutError:
            raise classify.timed_out(f"{url} did not answer within {_MODELS_S:g} s") from None
        except httpx.RequestError as error:
            raise self._redacted(classify.unreachable(f"cannot connect: {_words(error)}")) from None
        if response.status_code in (401, 403) or response.status_code >= 500:
            raise self._redacted(classify.http_fault(response.status_code, response.headers, raw, time.time()))
        now = time.time()
        return Listing(catalog.read(raw, now), ratelimit.read(response.headers, now) is not None)

    async def metrics(self) -> str | None:
        """The text of the server's ``/metrics``; ``None`` if it has none. The key is not sent there."""
        url = self._url.copy_with(path="/metrics")
        headers = {name: value for name, value in self._headers.items() if name != "authorization"}
        request = httpx.Request("GET", url, headers=headers, extensions=self._extensions)
        try:
            with anyio.fail_after(_METRICS_S):
                response = await self._transport.handle_async_request(request)
                raw = await self._body(response)
        except (TimeoutError, httpx.RequestError):
            return None
        return raw.decode(errors="replace") if response.status_code == 200 else None

    async def _send(
        self, method: str, url: httpx.URL, body: bytes, heard: Callable[[Told], None] | None = None
    ) -> httpx.Response:
        request = httpx.Request(method, url, headers=self._headers, content=body, extensions=self._extensions)
        response = await self._transport.handle_async_request(request)
        response.request = request
        if heard is not None and heads.glance(response.headers.raw).tells_limits:
            _tell(heard, response.headers)
        return response

    async def _body(self, response: httpx.Response) -> bytes:
        try:
            return self._clean(await response.aread())
        except httpx.RequestError as error:
            vars(error)["headers"] = response.headers.raw
            raise
        finally:
            await response.aclose()

    async def _whole(self, body: bytes, heard: Callable[[Told], None] | None) -> Answer:
        began = time.perf_counter()
        if not isinstance(self._transport, http1.Connections):
            with anyio.fail_after(self._endpoint.timeout_s):
                response = await self._send("POST", self._url, body, heard)
                raw = await self._body(response)
            request_id = self._request_id(response.headers.raw)
            latency_s = time.perf_counter() - began
            return self._unstreamed(response.status_code, response.headers.raw, raw, latency_s, request_id)
        head = b"%bcontent-length: %d\r\n\r\n" % (self._head, len(body))
        status, headers, raw = await self._transport.fetch(
            self._url, head, body, connect_s=self._endpoint.connect_timeout_s, total_s=self._endpoint.timeout_s
        )
        seen = heads.glance(headers)
        if seen.tells_limits and heard is not None:
            _tell(heard, httpx.Headers(headers))
        if seen.is_encoded:
            raw = httpx.Response(status, headers=headers, content=raw).content
        latency_s = time.perf_counter() - began
        return self._unstreamed(status, headers, self._clean(raw), latency_s, self._unless_key(seen.request_id))

    def _unstreamed(
        self, status: int, headers: list[Header], raw: bytes, latency_s: float, request_id: str | None
    ) -> Answer:
        try:
            if status != 200:
                raise classify.http_fault(status, httpx.Headers(headers), raw, time.time())
            answer = completion.regular(raw, http_status=200, latency_s=latency_s, request_id=request_id)
            if answer is not None:
                return answer
            data, raw = _object(raw)
            return _answer(data, raw, latency_s, None, request_id)
        except AttemptError as fault:
            fault.request_id = request_id
            raise

    async def _streamed(self, body: bytes, heard: Callable[[Told], None] | None) -> Answer:
        began = time.perf_counter()
        first: float | None = None
        request_id: str | None = None
        stream = completion.Stream()
        patience = _Patience(self._endpoint.idle_timeout_s, self._endpoint.timeout_s)
        try:
            with patience.scope:
                response = await self._send("POST", self._url, body, heard)
                request_id = self._request_id(response.headers.raw)
                if response.status_code != 200 or "text/event-stream" not in response.headers.get("content-type", ""):
                    raw = await self._body(response)
                    latency_s = time.perf_counter() - began
                    return self._unstreamed(response.status_code, response.headers.raw, raw, latency_s, request_id)
                response.stream = _Lines(response.stream, patience.heard)
                async with aclosing(response), aclosing(httpx_sse.EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        if event.data == "[DONE]":
                            patience.at_most(_END_S)
                        elif event.data:  # without data it is what a comment leaves behind
                            chunk, _ = _object(self._clean(event.data.encode()))
                            patience.progressed()
                            if stream.feed(chunk) and first is None:
                                first = time.perf_counter()
                            if stream.finish_reason is not None:
                                patience.at_most(_USAGE_S)
        except (AttemptError, httpx.RequestError) as error:
            # Servers differ in how they hang up: what is complete is complete.
            if stream.finish_reason is None:
                vars(error)["request_id"] = request_id
                raise
        if stream.finish_reason is None:
            if patience.scope.cancelled_caught:
                fault = classify.timed_out(f"nothing more of the answer within {patience.idle_s:g} s")
            else:
                fault = classify.cut_short("the stream ended before the answer was complete", status=200)
            fault.request_id = request_id
            raise fault
        data = stream.completion()
        raw = self._clean(_encode(data))
        data, raw = _object(raw)
        latency = time.perf_counter() - began
        return _answer(data, raw, latency, None if first is None else first - began, request_id)

    def _clean(self, raw: bytes) -> bytes:
        """The bytes without the key, which a server may repeat."""
        if not self._key:
            return raw
        if b"\\u00" in raw or b"\\/" in raw:  # escapes that need not be: the key might hide in them
            data, raw = completion.decode(raw)
            raw = _encode(data) if data is not None else raw
        return raw.replace(self._key.encode(), b"***").replace(self._key_in_json, b"***")

    def _request_id(self, headers: Sequence[Header]) -> str | None:
        return self._unless_key(heads.glance(headers).request_id)

    def _unless_key(self, request_id: str | None) -> str | None:
        return None if self._key and request_id is not None and self._key in request_id else request_id

    def _named(self, fault: AttemptError, error: Exception) -> AttemptError:
        """The fault with the id of a request that broke off after its headers had come."""
        known = vars(error)
        fault.request_id = known.get("request_id") or self._request_id(known.get("headers", ()))
        return fault

    def _redacted(self, error: AttemptError) -> AttemptError:
        if self._key and self._key in error.message:
            error.message = error.message.replace(self._key, "***")
            error.args = (error.message,)
        return error


class _Patience:
    """How long a stream is waited for: a deadline that what is heard moves on."""

    def __init__(self, idle_s: float, answer_s: float) -> None:
        self.idle_s = idle_s
        self._answer_s = max(idle_s, answer_s)
        self.scope = anyio.CancelScope()
        self.progressed()

    def heard(self) -> None:
        """A line came, if only a comment."""
        self.scope.deadline = min(anyio.current_time() + self.idle_s, self._until)

    def progressed(self) -> None:
        """Something of the answer came."""
        self._until = anyio.current_time() + self._answer_s
        self.heard()

    def at_most(self, seconds: float) -> None:
        """The answer is there; what may follow has so long, in all."""
        self._answer_s = min(self._answer_s, seconds)
        self.progressed()


class _Lines(httpx.AsyncByteStream):
    """The bytes of an event stream; calls ``heard`` for lines. Ends the last event where the server forgot to."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream, heard: Callable[[], None]) -> None:
        self._stream = cast(httpx.AsyncByteStream, stream)
        self._heard = heard

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for data in self._stream:
            if b"\n" in data or b"\r" in data:
                self._heard()
            yield data
        yield b"\n\n"

    async def aclose(self) -> None:
        await self._stream.aclose()


def _tell(heard: Callable[[Told], None], headers: httpx.Headers) -> None:
    """What these headers say of rate limits, if anything."""
    if told := ratelimit.read(headers, time.time()):
        heard(told)


def _renamed(body: bytes, model: str) -> bytes:
    return _encode({**msgspec.json.decode(body, type=dict[str, msgspec.Raw]), "model": model})


def _object(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON object of an answer or of an event, without an error in it, and the bytes that say it."""
    data, raw = completion.decode(raw)
    if data is None:
        raise classify.cut_short(f"the answer is not a JSON object: {classify.describe(raw)[0]}", raw, 200)
    if fault := classify.error_inside(data, raw, 200, time.time()):
        raise fault
    return data, raw


def _answer(data: dict[str, Any], raw: bytes, latency_s: float, ttft_s: float | None, request_id: str | None) -> Answer:
    answer = completion.read(data, raw, http_status=200, latency_s=latency_s, ttft_s=ttft_s, request_id=request_id)
    if answer is None:
        raise classify.empty("the answer has no choices", raw, 200)
    return answer


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
