"""One connection of HTTP/1.1, parsed by llhttp (httptools).

Errors are httpx's. Answers are bounded: no body, head or trailer takes more memory than is allowed, whatever the server sends.
"""

from __future__ import annotations

import asyncio
import re
import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple, Protocol, cast

import httptools
import httpx

from .answer_deadline import Alarm
from .answer_turns import AnswerTurns
from .content_coding import BodyTooLarge, Unpacker

ANSWER_BYTES = 64 << 20  # of an answer, unless the request says otherwise
FIRST_ERROR = 300  # the first status that comes with no answer
_HEADERS_BYTES = 64 << 10
ERROR_BYTES = 1 << 20  # of an answer that is none: what is wrong is said by then
_COPIED = 64 << 10  # a larger body is not copied to be sent together with its headers
# Of Linux' struct tcp_info: tcpi_bytes_acked, tcpi_bytes_sent, tcpi_bytes_retrans.
_TCP_INFO = struct.Struct("=120xQ72xQQ")
_HUNG_UP = getattr(select, "POLLRDHUP", select.POLLIN) | select.POLLHUP | select.POLLERR

Header = tuple[bytes, bytes]


class Framing(NamedTuple):
    """Where the headers are that say how a body comes: its type, its codings, its chunks. ``has_length`` is whether there is a
    length."""

    has_length: bool
    types: tuple[int, ...]
    codings: tuple[int, ...]
    transfers: tuple[int, ...]


@lru_cache(maxsize=256)
def framing(names: tuple[bytes, ...]) -> Framing:
    """For headers of these names, which are the same from answer to answer, mostly."""
    lower = [name.lower() for name in names]
    kinds = (b"content-type", b"content-encoding", b"transfer-encoding")
    return Framing(
        b"content-length" in lower, *(tuple(at for at, n in enumerate(lower) if n == kind) for kind in kinds)
    )


class AnswerTooLarge(httpx.RemoteProtocolError):
    """The answer, of this ``status``, has more bytes than allowed; the rest of it was not read."""

    def __init__(self, most_bytes: int, status: int) -> None:
        super().__init__(f"the answer has more than {most_bytes:,} bytes")
        self.status = status


class MetClose(httpx.RemoteProtocolError):
    """The server hung up before it had the request."""


class Reader(Protocol):
    """Takes an event stream that is a success, piece by piece as it comes: its status and headers, then what of it is there."""

    def begin(self, status: int, names: Sequence[bytes], values: Sequence[bytes]) -> None: ...

    def take(self, piece: bytes) -> float:
        """Until when more has to come, by the event loop's clock. What it raises ends the answer, as its error."""
        ...


class Connection(asyncio.Protocol):
    """One connection, for one request at a time.

    ``is_complete`` is whether the answer was read to its end, ``streamed`` whether it is an event stream, ``reusable`` whether
    another request may follow, ``keeps`` whether the server had said so and has not hung up since. Bodies are unpacked; ``names``
    and ``values`` of headers are without ``Content-Encoding``. ``when_closed`` is called when the server closes it while it is
    idle: with whether the answer before was streamed, and the seconds since.
    """

    __slots__ = (
        "_alarm", "_chunks", "_framed", "_got_eof", "_has_data", "_has_headers", "_head", "_idle_bytes", "_is_dubious",
        "_loop", "_lost", "_met_close", "_most", "_outgoing", "_parser", "_reader", "_requests", "_size", "_transport",
        "_turns", "_unpacker", "_waiter", "_was_streamed", "_watch", "idle_since", "is_complete", "keeps", "names", "status",
        "streamed", "values", "when_closed",
    )  # fmt: skip

    def __init__(self, turns: AnswerTurns) -> None:
        self._turns = turns
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._watch: select.poll | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._requests = 0
        self._alarm: Alarm | None = None
        self._met_close = self._got_eof = False
        self.idle_since = float("-inf")
        self._was_streamed = False  # the answer before
        self.when_closed: Callable[[bool, float], None] | None = None
        self._most = ANSWER_BYTES
        self._reader: Reader | None = None
        self._outgoing: tuple[bytes, bytes] | None = None  # a request that waits to be sent
        self._loop = asyncio.get_running_loop()
        self._begin()
        self.is_complete = True  # nothing is awaited

    def _begin(self) -> None:
        self.status = self._size = self._idle_bytes = 0
        self.names: list[bytes] = []
        self.values: list[bytes] = []
        self._chunks: list[bytes] = []
        self._head = b""
        self.streamed = self._framed = self._has_headers = self._has_data = False
        self.is_complete = self.keeps = self._is_dubious = False
        self._unpacker: Unpacker | None = None

    @property
    def headers(self) -> list[Header]:
        return list(zip(self.names, self.values, strict=True))

    @property
    def reusable(self) -> bool:
        """Whether the answer was read to its end, and the server keeps the connection open."""
        return (
            self.keeps
            and self.is_complete
            and not self._is_dubious
            and self._transport is not None
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    def has_hung_up(self) -> bool:
        """Whether the server has closed an idle connection, also where the event loop has not come round to that yet."""
        return self._watch is not None and bool(self._watch.poll(0))

    def request(
        self,
        head: bytes,
        body: bytes,
        *,
        due: float | None = None,
        most_bytes: int = ANSWER_BYTES,
        reader: Reader | None = None,
    ) -> asyncio.Future[None]:
        """Send, and tell when the answer is there; ``reader`` has taken it by then, where it is an event stream. After an error,
        which is what the future then brings, :meth:`abort` is to be called.

        :raises TimeoutError: if not all of it has come when it is ``due``, by the event loop's clock, or as the reader says.
        :raises httpx.ReadError, httpx.RemoteProtocolError: if there is none, or it is broken.
        :raises AnswerTooLarge: if it is larger than ``most_bytes``. Of what is no success only the first 1 MB is read.
        """
        self._was_streamed = self.streamed
        self._begin()
        self._requests += 1
        self._most = most_bytes
        self._reader = reader
        if due is not None:
            # Put off from request to request: that costs less than a timer for each.
            if self._alarm is None:
                self._alarm = Alarm(due, self._expire)
            elif due >= self._alarm.due:
                self._alarm.due = due
            else:
                self._alarm.put(due)
        elif self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        # When those that are ready have run: then requests go one right after the other, and wake the server up once.
        self._outgoing = head, body
        self._loop.call_soon(self._send)
        self._waiter = waiter = self._loop.create_future()
        if self._lost is not None:
            waiter.set_exception(self._lost)
        return waiter

    def _send(self) -> None:
        transport: Any = self._transport
        if self._outgoing is None or transport.is_closing():
            return
        (head, body), self._outgoing = self._outgoing, None
        if len(body) <= _COPIED:
            transport.write(head + body)
        else:
            transport.writelines((head, body))

    def body(self) -> bytes:
        """What has come of the body and was not taken yet."""
        chunks, self._chunks = self._chunks, []
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        if self._lost is None or self.is_complete:
            waiter.set_result(None)
        else:
            waiter.set_exception(self._lost)

    def _expire(self) -> None:
        self._alarm = None
        if not self.is_complete:
            self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        if self._lost is None:
            self._lost, self.keeps = error, False
        self._wake()
        self.abort()

    # ------------------------------------------------------------------------------------------ called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        link = transport.get_extra_info("socket")
        if link is not None and link.fileno() >= 0:
            self._watch = select.poll()
            self._watch.register(link.fileno(), _HUNG_UP)

    def data_received(self, data: bytes) -> None:
        if self.is_complete or self._lost is not None or self._outgoing is not None:
            if self._lost is None:
                self._fail(httpx.RemoteProtocolError("the server sent something that was not asked for"))
            return
        self._has_data = True
        self._idle_bytes += len(data)  # counted anew with each piece of a body
        if not self._has_headers:
            self._head = self._head + data if self._head else data
        try:
            if self._is_dubious:
                self._read_lengths(data)
            else:
                self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(httpx.RemoteProtocolError("not HTTP: the server wants another protocol"))
        except httptools.HttpParserError as error:
            self._misread(error)
        except ValueError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))
        if self._has_headers:
            self._head = b""
        if self._reader is not None and self._chunks:
            self._hand_over(self._reader)
        if self._idle_bytes > _HEADERS_BYTES and not self.is_complete:
            self._too_many_headers()

    def _misread(self, error: httptools.HttpParserError) -> None:
        try:
            if self._has_headers or "Content-Length" not in str(error):
                raise error
            self._is_dubious = True
            self._read_lengths()
        except httptools.HttpParserError as caught:
            self._fail(httpx.RemoteProtocolError(f"not HTTP: {str(caught).splitlines()[0]}"[:300]))
        except ValueError as caught:
            self._fail(httpx.RemoteProtocolError(str(caught)))

    def _read_lengths(self, data: bytes = b"") -> None:
        """Parse a head again whose lengths the parser refused, once all of it is there; then ``data`` of its body.

        :raises ValueError: if they differ, or are none.
        """
        if self._has_headers:
            self._parser.feed_data(data)
        elif (mended := _with_one_length(self._head)) is not None:
            self._parser = httptools.HttpResponseParser(self)
            self.names.clear()
            self.values.clear()
            self._parser.feed_data(mended)
            # Chunks with a length beside them: what comes after such an answer is not to be trusted.
            self._is_dubious = b"transfer-encoding" in self._head.lower()

    def eof_received(self) -> None:
        self._got_eof, self.keeps = True, False
        if self._requests > 1 and not self._has_data and self._transport is not None:
            unsent = self._outgoing is not None or self._transport.get_write_buffer_size() > 0
            self._met_close = unsent or self._is_unacknowledged(self._transport.get_extra_info("socket"))

    def _is_unacknowledged(self, link: socket.socket | None) -> bool:
        if link is None or not hasattr(socket, "TCP_INFO"):
            return False
        try:
            info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            return False
        if len(info) < _TCP_INFO.size:
            return False
        acknowledged, sent, sent_again = _TCP_INFO.unpack(info)
        return bool(acknowledged < sent - sent_again)

    def connection_lost(self, error: Exception | None) -> None:
        self.keeps = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._has_headers and not self.is_complete and not self._framed and error is None:
            self.is_complete = True  # a body without a length ends with its connection
        if self._lost is None:
            # With a broken pipe not all of the request went out.
            unsent = self._outgoing is not None or isinstance(error, BrokenPipeError)
            if self._met_close or (self._requests > 1 and not self._has_data and unsent):
                self._lost = MetClose("the server closed the connection as the request was sent")
            elif error is not None:
                self._lost = httpx.ReadError(words(error))
            elif self._has_headers:
                self._lost = httpx.RemoteProtocolError("the connection broke inside the answer")
            else:
                self._lost = httpx.RemoteProtocolError("the server closed the connection without an answer")
        if (self._got_eof or error is not None) and self.when_closed is not None:
            is_idle = self.is_complete
            if is_idle or isinstance(self._lost, MetClose):
                after_s = self._loop.time() - self.idle_since
                self.when_closed(self.streamed if is_idle else self._was_streamed, after_s)
        self._wake()

    # ---------------------------------------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        if self.is_complete:
            # An answer without a request: the next request would get this one.
            raise ValueError("the server sent something that was not asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.names.append(name)
        self.values.append(value)

    def on_headers_complete(self) -> None:
        self.status = status = self._parser.get_status_code()
        if status < 200:
            return
        if len(self._head) > _HEADERS_BYTES and sum(map(len, chain(self.names, self.values))) > _HEADERS_BYTES:
            self._too_many_headers()
        values = self.values
        self._framed, types, codings, transfers = framing(tuple(self.names))
        for at in types:
            self.streamed = self.streamed or b"text/event-stream" in values[at].lower()
        for at in transfers:
            self._framed = self._framed or b"chunked" in values[at].lower()
        self._has_headers = True
        if status >= FIRST_ERROR:
            self._most = min(self._most, ERROR_BYTES)
        if codings:
            named = b",".join(values[at] for at in codings)
            for at in reversed(codings):
                del self.names[at], values[at]
            try:
                self._unpacker = Unpacker(named.decode("latin-1"), self._most)
            except ValueError as error:
                self._fail(httpx.RemoteProtocolError(str(error)))
        if self._reader is not None:
            if self.streamed and status < FIRST_ERROR:
                self._reader.begin(status, self.names, self.values)
            else:
                self._reader = None

    def on_body(self, data: bytes) -> None:
        self._idle_bytes = 0
        if self._lost is not None or self.is_complete:
            return
        try:
            for piece in (data,) if self._unpacker is None else self._unpacker.feed(data):
                self._size += len(piece)
                if self._size > self._most:
                    self._too_large()
                    return
                self._chunks.append(piece)
        except BodyTooLarge:
            self._too_large()
        except ValueError as error:
            self._fail(httpx.RemoteProtocolError(str(error)))

    def _too_many_headers(self) -> None:
        self._fail(httpx.RemoteProtocolError(f"the answer has more than {_HEADERS_BYTES:,} bytes of headers"))

    def _too_large(self) -> None:
        if self.status >= FIRST_ERROR:  # it is an error whatever follows
            self.is_complete = True
            self.abort()
            self._wake()
        else:
            self._chunks.clear()  # the error refers to all this, and is not collected at once
            self._unpacker = None
            self._fail(AnswerTooLarge(self._most, self.status))

    def _hand_over(self, reader: Reader) -> None:
        try:
            due = reader.take(self.body())
        except Exception as error:  # for whoever waits for the answer
            self._fail(error)
        else:
            if self._alarm is not None:
                self._alarm.put(due)

    def on_message_complete(self) -> None:
        if self.status < 200:  # 100 Continue, 103 Early Hints: the answer is still to come
            self.names.clear()
            self.values.clear()
        elif self._lost is None and not self.is_complete:
            if self._reader is not None and self._chunks:
                self._hand_over(self._reader)
                if self._lost is not None:
                    return
            self.is_complete = True
            self.keeps = self._parser.should_keep_alive()
            if (waiter := self._waiter) is not None and not waiter.done():
                self._turns.wake(waiter)


def words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    words = error.strerror if isinstance(error, OSError) else None
    return words or str(error) or type(error).__name__


def _with_one_length(data: bytes) -> bytes | None:
    """What a server sent, with one length where it gave several that agree, and none beside chunks (RFC 9112, 6.3);
    ``None`` if its head is not whole yet.

    :raises ValueError: if the lengths differ, or are none.
    """
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    if re.match(rb"HTTP/1\.[01] 1\d\d", head):  # nothing that an answer to come depends on
        return _with_one_length(rest)
    lines = head.split(b"\r\n")
    lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
    given = {each.strip() for line in lengths for each in line.partition(b":")[2].split(b",")}
    lines = [line for line in lines if line not in lengths]
    if not any(line.lower().startswith(b"transfer-encoding:") for line in lines):
        if len(given) != 1 or not min(given).isdigit():
            said = b", ".join(sorted(given)).decode("latin-1")
            raise ValueError(f"not HTTP: the answer has several content lengths, {said:.100}")
        lines.append(b"content-length: " + given.pop())
    return b"\r\n".join(lines) + blank + rest
