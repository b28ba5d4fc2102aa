"""HTTP/1.1 on asyncio's protocols: connections that send a request and read its answer, parsed by llhttp (httptools).

Made for many small answers over many connections at once: an answer that is whole when it is looked at costs one wake-up, and an
idle connection costs nothing. Errors are httpx's, so that a connection that was never made is told from an answer that
broke off. Nothing is ever sent twice.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, cast

import aiohappyeyeballs
import httptools
import httpx

_HEADERS_BYTES = 64 << 10
_IDLE_S = 4.0  # below the 5 s after which several servers close an idle connection
_LOOK_UP_S = 60.0  # how long a name's addresses are remembered
_OTHER_FAMILY_S = 0.25  # until an address of the other family is tried as well (RFC 8305)
_MOST_UNREAD = 1 << 20  # of a streamed body, before the server is made to wait
_CONNECTING = 256  # at a time: more would only wait for each other, and overrun the queue of a listening socket
_COPIED = 64 << 10  # a larger body is not copied to be sent together with its headers

Header = tuple[bytes, bytes]
_Origin = tuple[bytes, bytes, int | None]


class Connection(asyncio.Protocol):
    """One connection, for one request at a time.

    :meth:`ask` returns when the answer is whole, or, where it is an event stream, when its headers are there; then
    :meth:`more` gives the rest. ``reusable`` tells whether another request may follow.
    """

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._asked = False
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self._chunks: deque[bytes] = deque()
        self._headers_bytes = self._unread = 0
        self._streamed = self._framed = self._has_headers = self._complete = self._keep = self._paused = False

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end, and the server keeps the connection open."""
        return (
            self._complete
            and self._keep
            and self._lost is None
            and self._transport is not None
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    @property
    def is_whole(self) -> bool:
        return self._complete

    async def ask(self, head: bytes, body: bytes, read_s: float | None) -> None:
        """Send, and wait for the answer.

        :raises httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError: if there is none, or it is broken.
        """
        transport = cast(asyncio.Transport, self._transport)
        self._begin()
        self._asked = True
        if len(body) <= _COPIED:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        while not (self._complete or (self._streamed and self._has_headers)):
            await self._news(read_s)

    async def rest(self) -> bytes:
        """The whole body.

        :raises httpx.ReadError, httpx.RemoteProtocolError: if it is broken.
        """
        pieces = []
        while (piece := await self.more(None)) is not None:
            pieces.append(piece)
        return b"".join(pieces)

    def body(self) -> bytes:
        """What has come of the body and was not taken yet."""
        chunks, self._chunks, self._unread = self._chunks, deque(), 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def more(self, read_s: float | None) -> bytes | None:
        """The next of the body; ``None`` at its end.

        :raises httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError: if it is broken.
        """
        while not self._chunks:
            if self._complete:
                return None
            await self._news(read_s)
        return self.body()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    async def _news(self, read_s: float | None) -> None:
        if self._lost is not None:
            raise self._lost
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            if read_s is None:
                await self._waiter
            else:
                async with asyncio.timeout(read_s):
                    await self._waiter
        except TimeoutError:
            raise httpx.ReadTimeout("no data in time") from None
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def expire(self) -> None:
        """Nothing more is waited for: whoever waits gets a ``TimeoutError``."""
        self._broke(TimeoutError())

    def _broke(self, error: Exception) -> None:
        if self._lost is None:
            self._lost = error
        self._wake()
        self.abort()

    # ------------------------------------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._asked or self._complete:
            self._broke(httpx.RemoteProtocolError("the server sent something that was not asked for"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._broke(httpx.RemoteProtocolError("not HTTP: the server wants another protocol"))
        except httptools.HttpParserError as error:
            self._broke(httpx.RemoteProtocolError(f"not HTTP: {str(error).splitlines()[0]}"[:300]))

    def connection_lost(self, error: Exception | None) -> None:
        if self._has_headers and not self._complete and not self._framed and error is None:
            self._complete = True  # a body without a length ends with its connection
        if self._lost is None:
            if error is not None:
                self._lost = httpx.ReadError(_words(error))
            elif self._has_headers:
                self._lost = httpx.RemoteProtocolError("the connection broke inside the answer")
            else:
                self._lost = httpx.RemoteProtocolError("the server closed the connection without an answer")
        self._wake()

    # ---------------------------------------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        if self._complete:
            # One answer more than was asked for: the next request would be given this one.
            raise ValueError("the server sent something that was not asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_bytes += len(name) + len(value)
        if self._headers_bytes > _HEADERS_BYTES:
            raise ValueError(f"more than {_HEADERS_BYTES} bytes of headers")
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            return
        for name, value in self.headers:
            lower = name.lower()
            if lower == b"content-length" or (lower == b"transfer-encoding" and b"chunked" in value.lower()):
                self._framed = True
            elif lower == b"content-type" and b"text/event-stream" in value.lower():
                self._streamed = True
        self._has_headers = True
        if self._streamed:
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        if self._streamed:
            self._unread += len(data)
            if self._unread > _MOST_UNREAD and not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
            self._wake()

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self.headers.clear()
            return
        self._keep = self._parser.should_keep_alive()
        self._complete = True
        self._wake()


def head_of(method: str, url: httpx.URL, headers: httpx.Headers) -> bytes:
    """The head of a request, without the empty line that ends it."""
    lines = (b"%b: %b\r\n" % header for header in headers.raw)
    return b"%b %b HTTP/1.1\r\n" % (method.encode(), url.raw_path) + b"".join(lines)


class Whole(NamedTuple):
    """A complete answer, its body as it was sent."""

    status: int
    headers: list[Header]
    body: bytes


class Connections(httpx.AsyncBaseTransport):
    """A request goes on the connection that was idle last, else on a new one.

    The number of connections is not limited here: whoever calls bounds the requests in flight. Time-outs are taken from
    the request's ``timeout`` extension (``connect``, ``read``), as httpx sets it. No cookies, no redirects, no environment.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl = ssl_context
        self._idle: dict[_Origin, deque[tuple[float, Connection]]] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._addresses: dict[tuple[str, int], tuple[float, Sequence[aiohappyeyeballs.AddrInfoType]]] = {}
        self._looking_up = asyncio.Lock()
        self._connecting = asyncio.Semaphore(_CONNECTING)

    async def fetch(
        self, url: httpx.URL, head: bytes, body: bytes, *, connect_s: float | None, total_s: float
    ) -> Whole:
        """As :meth:`handle_async_request`, without objects of httpx: ``head`` is sent as it is, before the body.

        An error that is raised has the headers that came by then as ``headers``.

        :raises TimeoutError: if the answer is not complete within ``total_s``.
        """
        loop = asyncio.get_running_loop()
        due = loop.time() + total_s
        origin = (url.raw_scheme, url.raw_host, url.port)
        connection = self._take(origin) or await self._connect(url, connect_s)
        timer = loop.call_at(due, connection.expire)
        try:
            await connection.ask(head, body, None)
            content = await connection.rest()
        except BaseException as error:
            connection.abort()
            vars(error)["headers"] = connection.headers
            raise
        finally:
            timer.cancel()
        whole = Whole(connection.status, connection.headers, content)
        self.give_back(origin, connection)
        return whole

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return when the answer is there; of an event stream when its headers are.

        :raises httpx.ConnectError, httpx.ConnectTimeout: if nothing was sent.
        :raises httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError: if it may have been.
        """
        limits = request.extensions.get("timeout", {})
        read_s = limits.get("read")
        url = request.url
        origin = (url.raw_scheme, url.raw_host, url.port)
        body = await request.aread()
        head = head_of(request.method, url, request.headers) + b"\r\n"
        connection = self._take(origin) or await self._connect(url, limits.get("connect"))
        try:
            await connection.ask(head, body, read_s)
            if not connection.is_whole:
                stream = _Rest(connection, self, origin, read_s)
                return httpx.Response(connection.status, headers=connection.headers, stream=stream)
        except BaseException:
            connection.abort()
            raise
        answer = connection.body()
        response = httpx.Response(connection.status, headers=connection.headers, content=answer)
        self.give_back(origin, connection)
        return response

    def give_back(self, origin: _Origin, connection: Connection) -> None:
        """A request is over. Its connection is kept for the next one, if it can be."""
        if not connection.reusable:
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        self._idle.setdefault(origin, deque()).append((loop.time(), connection))
        if self._sweep is None:
            self._sweep = loop.call_later(_IDLE_S, self._close_idle, loop)

    def _take(self, origin: _Origin) -> Connection | None:
        idle = self._idle.get(origin)
        oldest = asyncio.get_running_loop().time() - _IDLE_S
        while idle:
            since, connection = idle.pop()
            if connection.reusable and since >= oldest:
                return connection
            connection.abort()
        return None

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        oldest = loop.time() - _IDLE_S
        self._sweep = None
        for idle in self._idle.values():
            while idle and (idle[0][0] < oldest or not idle[0][1].reusable):
                idle.popleft()[1].abort()
        if any(self._idle.values()):
            self._sweep = loop.call_later(_IDLE_S / 4, self._close_idle, loop)

    async def _connect(self, url: httpx.URL, connect_s: float | None) -> Connection:
        host, port = url.host, url.port or (443 if url.scheme == "https" else 80)
        loop = asyncio.get_running_loop()
        try:
            async with self._connecting, asyncio.timeout(connect_s):
                found = await self._look_up(loop, host, port)
                context = self._ssl if url.scheme == "https" else None
                name = host if context else None
                if only := _only_address(found):  # the loop's own way takes half the time
                    transport, connection = await loop.create_connection(
                        Connection, only[0], only[1], ssl=context, server_hostname=name
                    )
                    link = transport.get_extra_info("socket")
                else:
                    link = await aiohappyeyeballs.start_connection(
                        found, happy_eyeballs_delay=_OTHER_FAMILY_S, interleave=1
                    )
                    _, connection = await loop.create_connection(
                        Connection, sock=link, ssl=context, server_hostname=name
                    )
                link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as error:  # DNS, refused, unreachable, TLS
            self._addresses.pop((host, port), None)
            raise httpx.ConnectError(f"{host}:{port}: {_words(error)}") from None
        return connection

    async def _look_up(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int
    ) -> Sequence[aiohappyeyeballs.AddrInfoType]:
        async with self._looking_up:
            known = self._addresses.get((host, port))
            if known is None or known[0] < loop.time():
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                self._addresses[host, port] = known = loop.time() + _LOOK_UP_S, found
        return known[1]

    async def aclose(self) -> None:
        """Close the idle connections; those in use close with their requests."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        for idle in self._idle.values():
            while idle:
                idle.pop()[1].abort()


def _only_address(found: Sequence[aiohappyeyeballs.AddrInfoType]) -> tuple[str, int] | None:
    """Address and port where there is one, without a scope."""
    if len(found) != 1:
        return None
    address = found[0][4]
    return None if len(address) > 2 and any(address[2:]) else (str(address[0]), int(address[1]))


class _Rest(httpx.AsyncByteStream):
    """The body of an answer that is still coming."""

    def __init__(self, connection: Connection, connections: Connections, origin: _Origin, read_s: float | None) -> None:
        self._connection = connection
        self._connections = connections
        self._origin = origin
        self._read_s = read_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := await self._connection.more(self._read_s)) is not None:
            yield data

    async def aclose(self) -> None:
        self._connections.give_back(self._origin, self._connection)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    words = error.strerror if isinstance(error, OSError) else None
    return words or str(error) or type(error).__name__
