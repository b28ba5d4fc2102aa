"""HTTP/1.1 on asyncio's protocols: connections that send a request and read its answer, parsed by llhttp (httptools).

Made for many small answers over many connections at once: an answer that is complete when its task wakes up costs one
wake-up, and an idle connection costs nothing. Errors are httpx's: a connection that was never made and an answer that broke off
are different errors.

A request is sent a second time in one case only: the connection had served another before, the server closed it before a byte
of an answer came, and the kernel at the other end has not acknowledged all of the request (``TCP_INFO``). Then no program
can have read it, and it is sent once more, on a fresh connection (RFC 9112, 9.3.1). A server that had the request whole
before it hung up may have worked on it, and may charge for it: that is an attempt that failed.

So that this stays rare, a connection that was idle is checked before it is used again: a close that has arrived costs nothing.
And servers that promise keep-alive but close (llama.cpp after each stream) are detected: after its first stream a connection is
watched for 0.1 s, and where one is closed within a second of an answer, none is reused after such an answer for a minute.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import aiohappyeyeballs
import httpx

from .answer_deadline import within
from .answer_turns import AnswerTurns
from .connection import ANSWER_BYTES, Connection, MetClose, Reader, words

_CONNECT_S = 10.0  # unless the request says otherwise
_JUST_S = 0.001  # a connection that was used so lately is not checked
_IDLE_S = 4.0  # below the 5 s after which several servers close an idle connection
_LOOK_UP_S = 60.0  # how long a name's addresses are remembered
_OTHER_FAMILY_S = 0.25  # until an address of the other family is tried as well (RFC 8305)
_SETTLED_S = 0.1  # a server that closes after each stream has closed by then, mostly
_SOON_S = 1.0  # a close so soon after an answer comes of that
_REMEMBERED_S = 60.0
_CONNECTING = 256  # at a time: more would only wait for each other, and overrun the queue of a listening socket

_Origin = tuple[bytes, bytes, int | None]
# Is called with host, port and an address of the host that would be connected to; raises what it likes if it may not be.
CheckAddress = Callable[[str, int, str], None]


def head_of(method: str, url: httpx.URL, headers: httpx.Headers) -> bytes:
    """The head of a request, without the empty line that ends it."""
    lines = (b"%b: %b\r\n" % header for header in headers.raw)
    return b"%b %b HTTP/1.1\r\n" % (method.encode(), url.raw_path) + b"".join(lines)


class Server:
    """What is known of an origin: its idle connections, the longest idle first, and until when connections are assumed to close
    after an answer, unstreamed and streamed."""

    __slots__ = ("closes_until", "host", "idle", "is_known", "is_tls", "port")

    def __init__(self, url: httpx.URL) -> None:
        self.is_tls = url.scheme == "https"
        self.host, self.port = url.host, url.port or (443 if self.is_tls else 80)
        self.idle: deque[Connection] = deque()
        self.closes_until = [0.0, 0.0]
        self.is_known = False  # whether the first stream was watched

    def take(self, now: float) -> Connection | None:
        """The connection that was idle last, if it can be used. One that was used just now is not checked: its worker goes on."""
        while self.idle:
            connection = self.idle.pop()
            idle_s = now - connection.idle_since
            if connection.keeps and (idle_s < _JUST_S or (idle_s <= _IDLE_S and not connection.has_hung_up())):
                return connection
            connection.abort()
        return None

    async def settled(self, connection: Connection) -> Connection | None:
        """A connection that has had a stream, if it can be used. The first one is watched for a moment before."""
        if not self.is_known:
            self.is_known = True
            self.closes_until[True] = float("inf")  # until that is known
            try:
                await asyncio.sleep(_SETTLED_S)
            except BaseException:
                connection.abort()
                raise
            finally:
                if self.closes_until[True] == float("inf"):
                    self.closes_until[True] = 0.0
            if connection.has_hung_up():
                self.closed(was_streamed=True, after_s=0.0)
        now = asyncio.get_running_loop().time()
        if connection.reusable and now >= self.closes_until[True] and not connection.has_hung_up():
            return connection
        connection.abort()
        return None

    def closed(self, was_streamed: bool, after_s: float) -> None:
        """The server has closed a connection, so long after an answer."""
        if after_s < _SOON_S:
            self.closes_until[was_streamed] = asyncio.get_running_loop().time() + _REMEMBERED_S
            self.is_known = self.is_known or was_streamed

    def close_idle(self, oldest: float) -> None:
        """Close what is idle since then or can be used no more."""
        while self.idle and (self.idle[0].idle_since < oldest or not self.idle[0].reusable):
            self.idle.popleft().abort()


class Connections(httpx.AsyncBaseTransport):
    """A request goes on the connection that was idle last, else on a new one.

    The number of connections is not limited here: the caller bounds the requests in flight. The time to connect is taken from
    the request's ``timeout`` extension (``connect``), as httpx sets it. No cookies, no redirects, no environment.
    ``sent_anew`` counts the requests that met a close and were sent a second time. ``check_address`` sees each address before
    anything connects to it; what it raises goes to the caller.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None, check_address: CheckAddress | None = None) -> None:
        self._ssl = ssl_context
        self._check_address = check_address
        self.sent_anew = 0
        self._servers: dict[_Origin, Server] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._addresses: dict[tuple[str, int], tuple[float, Sequence[aiohappyeyeballs.AddrInfoType]]] = {}
        self._looking_up: dict[tuple[str, int], asyncio.Lock] = {}
        self._connecting = asyncio.Semaphore(_CONNECTING)
        self._turns = AnswerTurns()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return when the answer is there.

        The extension ``most_bytes`` of the request bounds the body, unpacked.

        :raises httpx.ConnectError, httpx.ConnectTimeout: if nothing was sent.
        :raises httpx.ReadError, httpx.RemoteProtocolError: if it may have been.
        :raises AnswerTooLarge: if the body is larger than allowed.
        """
        body = await request.aread()
        head = head_of(request.method, request.url, request.headers) + b"\r\n"
        connect_s = request.extensions.get("timeout", {}).get("connect", _CONNECT_S)
        most_bytes = request.extensions.get("most_bytes", ANSWER_BYTES)
        server = self.server(request.url)
        connection = await self.fetch(server, head, body, connect_s=connect_s, most_bytes=most_bytes)
        response = httpx.Response(connection.status, headers=connection.headers, content=connection.body())
        self.give_back(server, connection)
        return response

    def server(self, url: httpx.URL) -> Server:
        """What is known of the server that this URL leads to."""
        origin = (url.raw_scheme, url.raw_host, url.port)
        found = self._servers.get(origin)
        if found is None:
            found = self._servers[origin] = Server(url)
        return found

    async def fetch(
        self,
        server: Server,
        head: bytes,
        body: bytes,
        *,
        connect_s: float,
        most_bytes: int,
        total_s: float | None = None,
        reader: Reader | None = None,
    ) -> Connection:
        """As :meth:`handle_async_request`, without objects of httpx: ``head`` is sent as it is, before the body. Returns the
        connection that has the answer, which is to be given to :meth:`give_back`. ``reader`` takes an event stream.

        An error that is raised has the headers that came by then as ``headers``.

        :raises TimeoutError: if the answer is not complete within ``total_s``, or more of it not when the ``reader`` says.
        """
        now = time.monotonic()  # as a loop's clock, which stands still while its callbacks run
        due = None if total_s is None else now + total_s
        connection = server.take(now)
        if connection is not None and connection.streamed:
            connection = await server.settled(connection)
        while True:
            if connection is None:
                connection = await self._connect(server, connect_s)
            try:
                await connection.request(head, body, due=due, most_bytes=most_bytes, reader=reader)
            except MetClose:  # so it is none that was just made
                connection.abort()
                connection = None
                self.sent_anew += 1
            except BaseException as error:
                connection.abort()
                vars(error)["headers"] = connection.headers
                raise
            else:
                return connection

    def give_back(self, server: Server, connection: Connection) -> None:
        """A request is over. Its connection is kept for the next one, if it can be."""
        now = time.monotonic()
        if not connection.reusable or now < server.closes_until[connection.streamed]:
            connection.abort()
            return
        connection.idle_since = now
        server.idle.append(connection)
        if self._sweep is None:
            loop = asyncio.get_running_loop()
            self._sweep = loop.call_later(_IDLE_S, self._close_idle, loop)

    def _close_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        for server in self._servers.values():
            server.close_idle(loop.time() - _IDLE_S)
        if any(server.idle for server in self._servers.values()):
            self._sweep = loop.call_later(_IDLE_S / 4, self._close_idle, loop)

    async def _connect(self, server: Server, connect_s: float) -> Connection:
        host, port = server.host, server.port
        loop = asyncio.get_running_loop()
        try:
            async with self._connecting, within(connect_s):
                found = await self._look_up(loop, host, port)
                if self._check_address is not None:
                    for each in found:
                        self._check_address(host, port, str(each[4][0]))
                context = self._ssl if server.is_tls else None
                name = host if context else None
                if only := _only_address(found):  # the loop's own way takes half the time
                    transport, connection = await loop.create_connection(
                        partial(Connection, self._turns), only[0], only[1], ssl=context, server_hostname=name
                    )
                    link = transport.get_extra_info("socket")
                else:
                    link = await aiohappyeyeballs.start_connection(
                        found, happy_eyeballs_delay=_OTHER_FAMILY_S, interleave=1
                    )
                    _, connection = await loop.create_connection(
                        partial(Connection, self._turns), sock=link, ssl=context, server_hostname=name
                    )
                link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        except TimeoutError:
            raise httpx.ConnectTimeout("no connection in time") from None
        except OSError as error:  # DNS, refused, unreachable, TLS
            self._addresses.pop((host, port), None)
            raise httpx.ConnectError(f"{host}:{port}: {words(error)}") from None
        connection.when_closed = server.closed
        return connection

    async def _look_up(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int
    ) -> Sequence[aiohappyeyeballs.AddrInfoType]:
        async with self._looking_up.setdefault((host, port), asyncio.Lock()):
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
        for server in self._servers.values():
            server.close_idle(float("inf"))


def _only_address(found: Sequence[aiohappyeyeballs.AddrInfoType]) -> tuple[str, int] | None:
    """Address and port where there is one, without a scope."""
    if len(found) != 1:
        return None
    address = found[0][4]
    return None if len(address) > 2 and any(address[2:]) else (str(address[0]), int(address[1]))
