"""One attempt: a request to an answer, or to a typed error. The only module that speaks HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import NamedTuple, TypeVar, cast

import anyio
import httpx
import msgspec
from pydantic import SecretStr

from ..core import Answer, AttemptError, KeyReplaced, Redactor, Request, RunFault, __version__
from ..protocol import (
    CHAT,
    RateLimits,
    Receipt,
    Route,
    Stream,
    classify,
    model_of,
    rate_limit_headers,
    response_headers,
)
from . import http1, model_list, transport
from .answer_deadline import within
from .connection import Header
from .key_command import KeyCommand, NoKeyError
from .model_list import Catalog
from .provider import Endpoint
from .stream_reader import StreamReader

T = TypeVar("T")
OnLimits = Callable[[RateLimits], None]
Head = tuple[Sequence[bytes], Sequence[bytes]]  # names of headers, and their values
_NO_HEAD: Head = ((), ())
_encode = msgspec.json.Encoder().encode
_MODELS_S = 30.0  # for GET /models
_METRICS_S = 5.0


class Listing(NamedTuple):
    """The models that an endpoint lists, and whether rate limits came along with them."""

    catalog: Catalog
    has_limits: bool = False


class Client:
    """Sends requests of any route to one endpoint. Use as an async context manager.

    ``via`` replaces the transport: any httpx transport does. Nothing is retried here, no redirect is followed, no
    cookie is kept, and the key goes to the endpoint's own address alone. Neither it nor what the environment has put into
    headers and query shows in an error or an answer.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        connections: int = 64,
        via: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._transport = via or transport.choose(endpoint.base_url, connections)
        self._direct = self._transport if isinstance(self._transport, http1.Connections) else None
        self._proxy = None if via else transport.proxy_of(endpoint.base_url)
        self._url = self._at("")
        self._common = httpx.Headers({
            "host": self._url.netloc.decode(),
            "accept-encoding": "identity",
            "user-agent": f"batchflex/{__version__}",
        })  # fmt: skip
        self._keys = None if endpoint.key_command is None else KeyCommand(endpoint.key_command)
        self._secrets = {secret.get_secret_value() for secret in endpoint.secrets}
        self._use(endpoint.key)
        self.key_from = endpoint.key_from
        # Time-outs on single reads do not end an answer that drips, so whole attempts are timed instead.
        self._most_bytes = int(endpoint.max_answer_mb * 2**20)
        self._extensions = {
            "timeout": {"connect": endpoint.connect_timeout_s, "read": None},
            "most_bytes": self._most_bytes,
        }

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def attempt(self, request: Request, on_limits: OnLimits | None = None, *, route: Route = CHAT) -> Answer:
        """As :meth:`send`, for the request of a single row."""
        (answer,) = await self.send(route, (request,), on_limits)
        return answer

    async def send(
        self,
        route: Route,
        rows: Sequence[Request],
        on_limits: OnLimits | None = None,
        *,
        streamed: bool | None = None,
    ) -> list[Answer]:
        """Send one request for these rows, once, and return the complete answer to each. ``on_limits`` is called with what the
        headers say of rate limits. Unless it is said whether it is ``streamed``, that goes by what the endpoint is known to do.

        An unstreamed answer must be complete within ``timeout_s``. Of a streamed one a line must come within each
        ``idle_timeout_s``, and something of the answer within each ``timeout_s``: a server that only pings times out too.

        :raises AttemptError: of the kind that :mod:`batchflex.protocol.classify` gives to what happened: for all of the rows.
        """
        if streamed is None:
            streamed = self._endpoint.streams(rows[0].max_tokens)
        streamed = streamed and route.streams
        body = b""
        try:
            body = route.body(rows, streamed=streamed)
            if self._endpoint.model is not None:
                body = _renamed(body, self._endpoint.model)
            if self._keys is None and not streamed:
                return await self._whole(route, body, rows, on_limits)
            send = self._streamed if streamed else self._whole
            return await self._with_key(lambda: send(route, body, rows, on_limits))
        except AttemptError as error:
            raise self._redacted(self._hinted(error, route, body)) from None
        except TimeoutError as error:
            fault = classify.timed_out(f"no complete answer within {self._endpoint.timeout_s:g} s")
            raise self._named(fault, error) from None
        except httpx.RequestError as error:
            raise self._named(self._redacted(self._fault(error)), error) from None

    def _fault(self, error: httpx.RequestError) -> AttemptError:
        return transport.fault_of(error, self._endpoint, self._url.host, self._proxy)

    def _at(self, path: str) -> httpx.URL:
        query = {name: value.get_secret_value() for name, value in self._endpoint.query}
        url = httpx.URL(f"{self._endpoint.base_url}{path}")
        return url.copy_merge_params(query) if query else url

    def _target(self, route: Route, direct: http1.Connections) -> tuple[http1.Server, bytes]:
        """Where requests of a route go, and their head, but for the length."""
        url = self._at(route.path)
        found = self._targets[route] = direct.server(url), http1.head_of("POST", url, self._headers)
        return found

    def _use(self, key: SecretStr | None) -> None:
        """Send this key from now on."""
        headers = httpx.Headers({**self._common, "content-type": "application/json"})
        headers.update({name: value.get_secret_value() for name, value in self._endpoint.headers})
        if key is not None:
            headers[self._endpoint.key_header] = f"{self._endpoint.key_prefix}{key.get_secret_value()}"
            self._secrets.add(key.get_secret_value())
        self._redactor = Redactor(self._secrets)
        self._hides = bool(self._redactor)
        self._headers = headers
        self._targets: dict[Route, tuple[http1.Server, bytes]] = {}
        self._sent_key = key

    async def _with_key(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send with the key that is good now. Where a command gives it, one that is refused after it was good is replaced.

        :raises KeyReplaced: if that was done: the server has looked at none but the key.
        """
        keys = self._keys
        if keys is None:
            return await send()
        try:
            key = await keys.key()
            if key is not self._sent_key:
                self._use(key)
            try:
                answer = await send()
            except AttemptError as fault:
                refused = isinstance(fault, RunFault) and fault.reason == "key"
                if not refused and fault.http_status is not None:
                    keys.accepted(key)
                if refused and await keys.instead_of(key) is not None:
                    raise classify.key_replaced(fault) from None
                raise
        except NoKeyError as error:
            none = classify.no_key(str(error))
            raise (classify.unreachable(none.message) if keys.has_worked else none) from None
        keys.accepted(key)
        return answer

    async def models(self) -> Listing:
        """What ``GET /models`` lists; nothing if the endpoint does not say.

        :raises AttemptError: if the endpoint cannot be reached, does not work (5xx) or refuses the key.
        """
        try:
            response, raw = await self._with_key(self._listed)
        except KeyReplaced:
            return await self.models()
        except AttemptError as error:
            raise self._redacted(error) from None
        now = time.time()
        return Listing(model_list.read(raw, now), rate_limit_headers.read(response.headers, now) is not None)

    async def _listed(self) -> tuple[httpx.Response, bytes]:
        try:
            with anyio.fail_after(_MODELS_S):
                response = await self._send("GET", self._at("/models"), self._headers)
                raw = await self._body(response)
        except TimeoutError:
            where = f"{self._endpoint.base_url}/models"
            raise classify.timed_out(f"{where} did not answer within {_MODELS_S:g} s") from None
        except httpx.RequestError as error:
            raise self._fault(error) from None
        if response.status_code in (401, 403) or response.status_code >= 500:
            raise classify.http_fault(response.status_code, response.headers, raw, time.time())
        return response, raw

    async def metrics(self) -> str | None:
        """The text of the server's ``/metrics``; ``None`` if it has none. Neither the key nor headers and query of the job are
        sent there."""
        url = self._url.copy_with(path="/metrics", query=None)
        try:
            with anyio.fail_after(_METRICS_S):
                response = await self._send("GET", url, self._common)
                raw = await self._body(response)
        except (TimeoutError, httpx.RequestError):
            return None
        return raw.decode(errors="replace") if response.status_code == 200 else None

    async def _send(self, method: str, url: httpx.URL, headers: httpx.Headers, body: bytes = b"") -> httpx.Response:
        request = httpx.Request(method, url, headers=headers, content=body, extensions=self._extensions)
        response = await self._transport.handle_async_request(request)
        response.request = request
        if response.status_code == 407 and self._proxy is not None:
            await response.aclose()
            raise httpx.ProxyError("407 Proxy Authentication Required")
        if self._direct is None:
            transport.bound(response, self._most_bytes)
        return response

    async def _body(self, response: httpx.Response) -> bytes:
        try:
            return self._clean(await response.aread())
        except httpx.RequestError as error:
            vars(error)["headers"] = response.headers.raw
            raise
        finally:
            await response.aclose()

    async def _fetch(
        self, route: Route, body: bytes, total_s: float, reader: StreamReader | None = None
    ) -> tuple[int, Head, bytes]:
        """Status, headers and body of an answer. An event stream goes to ``reader``, if there is one, and leaves no body."""
        direct = self._direct
        if direct is not None:
            server, begin = self._targets.get(route) or self._target(route, direct)
            connection = await direct.fetch(
                server, b"%bcontent-length: %d\r\n\r\n" % (begin, len(body)), body,
                connect_s=self._endpoint.connect_timeout_s, most_bytes=self._most_bytes, total_s=total_s, reader=reader,
            )  # fmt: skip
            found = connection.status, (connection.names, connection.values), self._clean(connection.body())
            direct.give_back(server, connection)
            return found
        async with within(total_s) as alarm:
            response = await self._send("POST", self._at(route.path), self._headers, body)
            status, head = response.status_code, _split(response.headers.raw)
            is_stream = 200 <= status < 300 and "text/event-stream" in response.headers.get("content-type", "")
            if reader is None or not is_stream:
                return status, head, await self._body(response)
            reader.begin(status, *head)
            async with aclosing(response), aclosing(cast(AsyncGenerator[bytes], response.aiter_bytes())) as pieces:
                async for piece in pieces:
                    alarm.put(reader.take(piece))
            return status, head, b""

    async def _whole(
        self, route: Route, body: bytes, rows: Sequence[Request], on_limits: OnLimits | None
    ) -> list[Answer]:
        began = time.perf_counter()
        status, head, raw = await self._fetch(route, body, self._endpoint.timeout_s)
        seen = response_headers.facts(*head)
        seen = seen if seen is response_headers.NOTHING else self._seen(head, on_limits)
        receipt = Receipt(status, time.perf_counter() - began, None, seen.request_id)
        return self._read(route, raw, head, rows, receipt, seen.gateway)

    def _read(
        self,
        route: Route,
        raw: bytes,
        head: Head,
        rows: Sequence[Request],
        receipt: Receipt,
        gateway: response_headers.Gateway,
        stream: Stream | None = None,
    ) -> list[Answer]:
        """The answers in a body, or in a stream that is complete."""
        try:
            if not 200 <= receipt.http_status < 300:
                raise classify.http_fault(receipt.http_status, _headers(head), raw, time.time())
            if stream is not None:
                raw = self._clean(stream.whole())
            answers = route.answers(raw, rows, receipt, self._endpoint.finish_reasons)
            return answers if gateway is response_headers.NO_GATEWAY else response_headers.credited(answers, gateway)
        except AttemptError as fault:
            fault.request_id = receipt.request_id
            fault.usage = response_headers.spent(route.usage_of(raw) if stream is None else stream.usage, gateway)
            raise

    async def _streamed(
        self, route: Route, body: bytes, rows: Sequence[Request], on_limits: OnLimits | None
    ) -> list[Answer]:
        began, answer_s = time.perf_counter(), self._endpoint.timeout_s
        idle_s = min(self._endpoint.idle_timeout_s, answer_s)
        reader = StreamReader(route, idle_s, answer_s, lambda *head: self._seen(head, on_limits), self._clean)
        try:
            status, head, raw = await self._fetch(route, body, idle_s, reader)
            if not reader.has_begun:
                seen = self._seen(head, on_limits)
                receipt = Receipt(status, time.perf_counter() - began, None, seen.request_id)
                return self._read(route, raw, head, rows, receipt, seen.gateway)
            reader.end()
            if not reader.stream.is_complete:
                raise classify.cut_short("the stream ended before the answer was complete", status=status)
        except (AttemptError, httpx.RequestError, TimeoutError) as caught:
            # Servers differ in how they hang up: what is complete is complete.
            if not reader.stream.is_complete:
                if reader.has_begun:
                    vars(caught)["request_id"] = reader.seen.request_id
                    vars(caught)["usage"] = response_headers.spent(reader.stream.usage, reader.seen.gateway)
                if isinstance(caught, TimeoutError):
                    late = classify.timed_out(f"nothing more of the answer within {idle_s:g} s")
                    raise self._named(late, caught) from None
                raise
        ttft_s = None if reader.first_at is None else reader.first_at - began
        receipt = Receipt(reader.status, time.perf_counter() - began, ttft_s, reader.seen.request_id)
        # What a stream costs is not known when its headers are sent: then 0 says nothing.
        gateway = reader.seen.gateway
        gateway = gateway._replace(cost=None) if gateway.cost == 0 else gateway
        return self._read(route, b"", _NO_HEAD, rows, receipt, gateway, reader.stream)

    def _clean(self, raw: bytes) -> bytes:
        """The bytes without the secrets, which a server may repeat."""
        return self._redactor.clean(raw) if self._hides else raw

    def _seen(self, head: Head, on_limits: OnLimits | None = None) -> response_headers.Facts:
        """What the headers say, without secrets; ``on_limits`` gets what they say of rate limits."""
        seen = response_headers.facts(*head)
        if on_limits is not None and seen.has_limits:
            limits = rate_limit_headers.read(_headers(head), time.time())
            if limits is not None:
                on_limits(limits)
        if not self._hides:
            return seen
        gateway = seen.gateway
        if gateway.deployment is not None:
            gateway = gateway._replace(deployment=self._unless_secret(gateway.deployment))
        return seen._replace(request_id=self._unless_secret(seen.request_id), gateway=gateway)

    def _unless_secret(self, text: str | None) -> str | None:
        """A word of the server's, if there is no secret in it."""
        return None if text is not None and self._redactor.is_in(text) else text

    def _named(self, fault: AttemptError, error: Exception) -> AttemptError:
        """The fault with the id of a request that broke off after its headers had come."""
        known = vars(error)
        fault.request_id = known.get("request_id") or self._seen(_split(known.get("headers", ()))).request_id
        fault.usage = known.get("usage")
        return fault

    def _hinted(self, error: AttemptError, route: Route, body: bytes) -> AttemptError:
        """With the kind of request, and the name that the model has here, if the request has one that it has elsewhere."""
        if isinstance(error, RunFault):
            error.what = route.what
            model = model_of(body) if self._endpoint.is_hosted and error.reason == "model" else ""
            if "/" in model:
                error.message += f" (ids are bare here: {model.rpartition('/')[2]!r} in place of {model!r})"
        return error

    def _redacted(self, error: AttemptError) -> AttemptError:
        error.message = self._redactor.text(error.message)
        error.args = (error.message,)
        return error


def _split(headers: Iterable[Header]) -> Head:
    pairs = list(headers)
    return [name for name, _ in pairs], [value for _, value in pairs]


def _headers(head: Head) -> httpx.Headers:
    return httpx.Headers(list(zip(*head, strict=True)))


def _renamed(body: bytes, model: str) -> bytes:
    return _encode({**msgspec.json.decode(body, type=dict[str, msgspec.Raw]), "model": model})
