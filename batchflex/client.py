"""One attempt: a request to an answer, or to a typed error. The only module that speaks HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import anyio
import httpx
import httpx_sse
import msgspec

from . import __version__, classify, completion, transport
from .endpoint import Endpoint
from .errors import AttemptError
from .model import Answer, Request

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode
_STREAMING = b',"stream":true,"stream_options":{"include_usage":true}}'


class Client:
    """Asks one endpoint. Use as an async context manager.

    ``via`` replaces the transport: any httpx transport does. Nothing is retried here, no redirect is followed, no
    cookie is kept, and the key goes to the endpoint's own address alone. The key never shows in an error.
    """

    def __init__(self, endpoint: Endpoint, *, connections: int = 64, via: httpx.AsyncBaseTransport | None = None) -> None:
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
        self._key = endpoint.key.reveal() if endpoint.key else ""
        self._total = {"timeout": {"connect": endpoint.connect_timeout_s, "read": None}}
        self._last_headers = httpx.Headers()
        self._idle = {"timeout": {"connect": endpoint.connect_timeout_s, "read": endpoint.idle_timeout_s}}

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def attempt(self, request: Request) -> Answer:
        """Send the request once and return its complete answer.

        :raises AttemptError: of the kind that :mod:`batchflex.classify` gives to what happened.
        """
        streamed = self._endpoint.streams(request.max_tokens)
        body = request.body[:-1] + _STREAMING if streamed else request.body
        try:
            return await (self._streamed(body) if streamed else self._whole(body))
        except AttemptError as error:
            raise self._redacted(error) from None
        except TimeoutError:
            raise classify.timed_out(f"no complete answer within {self._endpoint.timeout_s:g} s") from None
        except httpx.ConnectTimeout:
            raise classify.unreachable(
                f"no connection to {self._url.host} within {self._endpoint.connect_timeout_s:g} s"
            ) from None
        except httpx.TimeoutException:
            raise classify.timed_out(f"nothing was heard for {self._endpoint.idle_timeout_s:g} s") from None
        except httpx.ConnectError as error:
            raise self._redacted(classify.unreachable(f"cannot connect: {error}")) from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise self._redacted(classify.cut_short(str(error) or type(error).__name__)) from None

    async def models(self) -> list[str]:
        """The ids that ``GET /models`` lists; empty if the endpoint does not say.

        :raises AttemptError: if the endpoint cannot be reached, does not work (5xx) or refuses the key.
        """
        url = httpx.URL(f"{self._endpoint.base_url}/models")
        try:
            with anyio.fail_after(30):
                response = await self._send("GET", url, b"", self._total)
                raw = await _body(response)
        except (TimeoutError, httpx.TransportError) as error:
            raise self._redacted(classify.unreachable(f"cannot connect: {error or 'no answer in 30 s'}")) from None
        if response.status_code in (401, 403) or response.status_code >= 500:
            raise self._redacted(classify.http_fault(response.status_code, response.headers, raw, time.time()))
        try:
            data = _decode(raw)
            return [str(model["id"]) for model in data["data"]]
        except (msgspec.DecodeError, KeyError, TypeError):
            return []

    async def _send(self, method: str, url: httpx.URL, body: bytes, limits: dict[str, Any]) -> httpx.Response:
        request = httpx.Request(method, url, headers=self._headers, content=body, extensions=limits)
        response = await self._transport.handle_async_request(request)
        response.request = request
        self._last_headers = response.headers
        return response

    @property
    def limits(self) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers of the latest answer, as they came."""
        return {name: value for name, value in self._last_headers.items() if name.startswith("x-ratelimit-")}

    async def _whole(self, body: bytes) -> Answer:
        began = time.perf_counter()
        with anyio.fail_after(self._endpoint.timeout_s):
            response = await self._send("POST", self._url, body, self._total)
            raw = await _body(response)
        latency = time.perf_counter() - began
        if response.status_code != 200:
            raise classify.http_fault(response.status_code, response.headers, raw, time.time())
        return self._read(raw, _object(raw), latency, None)

    def _read(self, raw: bytes, data: dict[str, Any], latency: float, ttft: float | None) -> Answer:
        if fault := classify.error_inside(data, raw, 200, time.time()):
            raise fault
        if self._key and self._key.encode() in raw:
            raw = raw.replace(self._key.encode(), b"***")
            data = _object(raw)
        answer = completion.read(data, raw, http_status=200, latency_s=latency, ttft_s=ttft)
        if answer is None:
            raise classify.empty("the answer has no choices", raw, 200)
        return answer

    async def _streamed(self, body: bytes) -> Answer:
        began = time.perf_counter()
        response = await self._send("POST", self._url, body, self._idle)
        if response.status_code != 200 or "text/event-stream" not in response.headers.get("content-type", ""):
            raw = await _body(response)
            if response.status_code != 200:
                raise classify.http_fault(response.status_code, response.headers, raw, time.time())
            return self._read(raw, _object(raw), time.perf_counter() - began, None)  # it answered unstreamed
        stream = completion.Stream()
        first: float | None = None
        try:
            async for event in httpx_sse.EventSource(response).aiter_sse():
                if event.data == "[DONE]":
                    break
                chunk = _object(event.data.encode())
                if fault := classify.error_inside(chunk, event.data.encode(), 200, time.time()):
                    raise fault
                if stream.feed(chunk) and first is None:
                    first = time.perf_counter()
        except httpx.TransportError:
            # Servers differ in how they hang up: what is complete is complete.
            if stream.finish_reason is None:
                raise
        finally:
            await response.aclose()
        if stream.finish_reason is None:
            raise classify.cut_short("the stream ended before the answer was complete", status=200)
        data = stream.completion()
        latency = time.perf_counter() - began
        return self._read(_encode(data), data, latency, None if first is None else first - began)

    def _redacted(self, error: AttemptError) -> AttemptError:
        if self._key and self._key in error.message:
            error.message = error.message.replace(self._key, "***")
            error.args = (error.message,)
        if self._key and error.body and self._key.encode() in error.body:
            error.body = error.body.replace(self._key.encode(), b"***")
        return error


async def _body(response: httpx.Response) -> bytes:
    try:
        return await response.aread()
    finally:
        await response.aclose()


def _object(raw: bytes, decode: Callable[[bytes], Any] = _decode) -> dict[str, Any]:
    try:
        data = decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise classify.cut_short(f"the answer is not JSON: {classify.describe(raw)[0]}", raw, 200) from None
    if not isinstance(data, dict):
        raise classify.cut_short("the answer is not a JSON object", raw, 200)
    return data
