"""The connections themselves, against servers that send exactly these bytes."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import anyio
import httpx
import pytest

from batchflex.endpoint.answer_turns import AnswerTurns
from batchflex.endpoint.connection import AnswerTooLarge, Connection, MetClose, Reader
from batchflex.endpoint.http1 import Connections

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def uvloop(request: pytest.FixtureRequest) -> bool:
    if request.param:
        pytest.importorskip("uvloop")
    return bool(request.param)


@pytest.fixture
def anyio_backend(uvloop: bool) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": uvloop}


class Server:
    """Answers each request with the next of ``answers``, the last one again and again; hangs up after a ``None`` in it, and
    waits so many seconds where there is a number."""

    def __init__(self, *answers: Sequence[bytes | float | None]) -> None:
        self.answers = answers
        self.connections = 0
        self.requests: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                for piece in self.answers[min(len(self.requests), len(self.answers)) - 1]:
                    if piece is None:
                        return
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                        continue
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.001 if len(piece) < 500 else 0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(*answers: Sequence[bytes | float | None], tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(*answers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    host = "localhost" if tls else "127.0.0.1"
    server.url = f"http{'s' if tls else ''}://{host}:{listener.sockets[0].getsockname()[1]}/x"
    try:
        yield server
    finally:
        listener.close()


class Whole(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


async def fetch(
    connections: Connections,
    server: Server,
    body: bytes = b"{}",
    total_s: float = 10.0,
    most_bytes: int = 64 << 20,
    reader: Reader | None = None,
) -> Whole:
    url = httpx.URL(server.url)
    head = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (url.raw_path, len(body))
    origin = connections.server(url)
    used = await connections.fetch(
        origin, head, body, connect_s=5.0, total_s=total_s, most_bytes=most_bytes, reader=reader
    )
    whole = Whole(used.status, used.headers, used.body())
    connections.give_back(origin, used)
    return whole


async def test_one_connection_serves_one_request_after_another() -> None:
    async with serving([OK]) as server, Connections() as connections:
        for _ in range(5):
            assert await fetch(connections, server) == Whole(200, [(b"content-length", b"2")], b"ok")
        assert (server.connections, len(server.requests)) == (1, 5)


async def test_both_ways_of_asking_share_connections() -> None:
    async with serving([OK]) as server, Connections() as connections:
        await fetch(connections, server)
        response = await connections.handle_async_request(httpx.Request("POST", server.url, content=b"{}"))
        assert (response.status_code, response.content) == (200, b"ok")
        assert server.connections == 1


async def test_as_many_connections_as_requests_at_a_time() -> None:
    async with serving([OK]) as server, Connections() as connections:
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(fetch, connections, server)
        assert server.connections <= 20


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        ([b"HTTP/1.1 100 Continue\r\n\r\n", OK], b"ok"),
        ([b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK], b"ok"),
        ([*(OK[i : i + 1] for i in range(len(OK)))], b"ok"),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n", b"3\r\n, a\r\n0\r\n\r\n"], b"ok, a"),
        ([b"HTTP/1.1 200 OK\r\n\r\nuntil ", b"the end", None], b"until the end"),
        ([b"HTTP/1.0 200 OK\r\n\r\nuntil the end", None], b"until the end"),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], b""),
        ([b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: 1\n\n", b"data: 2", None], b"data: 1\n\ndata: 2"),
    ],
)  # fmt: skip
async def test_an_answer_is_whole(sent: list[bytes | None], body: bytes) -> None:
    async with serving(sent) as server, Connections() as connections:
        assert (await fetch(connections, server)).body == body


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ([None], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\nconte", None], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nok", None], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nok", None], httpx.RemoteProtocolError),
        ([b"SSH-2.0-OpenSSH\r\n", None], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], httpx.RemoteProtocolError),
        ([b"HTTP/1.1 200 OK\r\nx: " + 70_000 * b"a" + b"\r\n\r\n"], httpx.RemoteProtocolError),
    ],
)
async def test_an_answer_that_is_none(sent: list[bytes | None], error: type[Exception]) -> None:
    """Nor is it asked again: whether it was sent is not known."""
    async with serving(sent, [OK]) as server, Connections() as connections:
        with pytest.raises(error):
            await fetch(connections, server)
        assert len(server.requests) == 1
        assert (await fetch(connections, server)).body == b"ok"


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\n", b"rubbish", OK])
async def test_what_was_not_asked_for_ends_the_connection_not_the_answer(more: bytes) -> None:
    for together in (True, False):
        async with serving([OK + more] if together else [OK, more], [OK]) as server, Connections() as connections:
            assert (await fetch(connections, server)).body == b"ok"
            await anyio.sleep(0.05)
            assert (await fetch(connections, server)).body == b"ok"
            assert server.connections == 2


@pytest.mark.parametrize("sent", [OK, b""], ids=["an answer", "a close"])
async def test_what_comes_before_a_request_has_gone_is_none_of_its_answer(sent: bytes) -> None:
    async with serving([OK]) as server, Connections() as connections:
        await fetch(connections, server)
        connection = connections.server(httpx.URL(server.url)).take(time.monotonic())
        assert connection is not None
        answer = connection.request(b"POST /x HTTP/1.1\r\ncontent-length: 2\r\n\r\n", b"{}")
        if sent:
            connection.data_received(sent)
        else:
            connection.eof_received()
            connection.connection_lost(None)
        with pytest.raises(httpx.RemoteProtocolError if sent else MetClose):
            await answer
        connection.abort()
        await anyio.sleep(0.05)
        assert len(server.requests) == 1


@pytest.mark.parametrize("close", [b"connection: close\r\n", b""])
async def test_a_connection_that_the_server_closes_is_not_used_again(close: bytes) -> None:
    last: list[bytes | None] = [OK.replace(b"\r\n\r\n", b"\r\n%b\r\n" % close)]
    async with serving(last if close else [*last, None], [OK]) as server, Connections() as connections:
        await fetch(connections, server)
        await anyio.sleep(0.05)
        assert (await fetch(connections, server)).body == b"ok"
        assert server.connections == 2


async def test_the_time_is_up() -> None:
    async with serving([b"HTTP/1.1 200 OK\r\n"], [OK]) as server, Connections() as connections:
        with pytest.raises(TimeoutError):
            await fetch(connections, server, total_s=0.1)
        assert (await fetch(connections, server)).body == b"ok"
        assert server.connections == 2


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with serving([b"HTTP/1.1 200 OK\r\n"], [OK]) as server, Connections() as connections:
        with anyio.move_on_after(0.1):
            await fetch(connections, server)
        assert (await fetch(connections, server)).body == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("size", [10, 100_000, 5_000_000])
async def test_large_requests_and_answers(size: int) -> None:
    body = size * b"x"
    said = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, body)
    async with serving([said]) as server, Connections() as connections:
        for _ in range(2):
            assert (await fetch(connections, server, body)).body == body
        assert [request.endswith(b"\r\n\r\n" + body) for request in server.requests] == [True, True]
        assert server.connections == 1


class Taker:
    """A reader that notes what it is given, and raises when it is given ``bad``."""

    def __init__(self, wait_s: float = 10.0, bad: bytes = b"bad") -> None:
        self.taken: list[bytes] = []
        self.wait_s, self.bad = wait_s, bad
        self.status = 0

    def begin(self, status: int, names: Sequence[bytes], values: Sequence[bytes]) -> None:
        self.status = status

    def take(self, piece: bytes) -> float:
        self.taken.append(piece)
        if self.bad in piece:
            raise LookupError
        return time.monotonic() + self.wait_s


_EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
_CHUNKED = _EVENTS + b"transfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ([_CHUNKED, b"2\r\nab\r\n2\r\ncd\r\n", 0.05, b"2\r\nef\r\n0\r\n\r\n"], [b"abcd", b"ef"]),
        ([_EVENTS + b"\r\nab", 0.05, b"cd", None], [b"ab", b"cd"]),
        ([_EVENTS + b"content-length: 2\r\n\r\nab"], [b"ab"]),
        ([b"HTTP/1.1 500 No\r\ncontent-type: text/event-stream\r\ncontent-length: 2\r\n\r\nab"], []),
        ([OK], []),
    ],
)
async def test_an_event_stream_is_handed_over_as_it_comes(sent: list[bytes | float | None], taken: list[bytes]) -> None:
    """And is not kept."""
    async with serving(sent) as server, Connections() as connections:
        for _ in range(2):
            reader = Taker()
            whole = await fetch(connections, server, reader=reader)
            assert (reader.taken, reader.status) == (taken, 200 if taken else 0)
            assert bool(whole.body) != bool(taken)


async def test_the_reader_says_when_more_has_to_come_and_what_is_wrong() -> None:
    slow, bad = [_CHUNKED + b"2\r\nab\r\n", 5.0], [_CHUNKED + b"3\r\nbad\r\n0\r\n\r\n"]
    async with serving(slow, bad, [OK]) as server, Connections() as connections:
        with pytest.raises(TimeoutError), anyio.fail_after(4):
            await fetch(connections, server, reader=Taker(wait_s=0.1))
        with pytest.raises(LookupError):
            await fetch(connections, server, reader=Taker())
        assert (await fetch(connections, server)).body == b"ok"
        assert server.connections == 3


async def test_a_stream_that_is_waited_for_whole_is_not_held_up() -> None:
    piece = b"data: " + 100_000 * b"x" + b"\n\n"
    sent: list[bytes | None] = [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", *(30 * [piece]), None]
    async with serving(sent) as server, Connections() as connections:
        assert (await fetch(connections, server)).body == 30 * piece


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed one for localhost, with its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    )
    try:
        subprocess.run(
            [*command.split(), "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    (folder / "pem").write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return folder / "pem"


async def test_tls_takes_one_handshake_a_connection(certificate: Path) -> None:
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(certificate)
    handshakes = 0

    def count(*_: object) -> None:
        nonlocal handshakes
        handshakes += 1

    served.sni_callback = count
    trusting = ssl.create_default_context(cafile=str(certificate))
    async with serving([OK], tls=served) as server, Connections(trusting) as connections:
        for _ in range(5):
            assert (await fetch(connections, server)).body == b"ok"
        assert (server.connections, handshakes) == (1, 1)
    make: Callable[[], ssl.SSLContext] = ssl.create_default_context
    async with serving([OK], tls=served) as server, Connections(make()) as connections:
        with pytest.raises(httpx.ConnectError, match="certificate"):
            await fetch(connections, server)
        assert server.requests == []


# --------------------------------------------------------------------------------------------- what a close tells


def test_a_close_that_lies_in_the_socket_is_seen_before_a_request_goes(uvloop: bool) -> None:
    """The event loop has not come round to it yet: the server does not get a request that it will not read."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed, read = threading.Event(), []

        def serve() -> None:
            for _ in range(2):
                connection, _ = listener.accept()
                read.append(connection.recv(65_536))
                connection.sendall(OK)
                connection.close()
                closed.set()

        async def ask_twice() -> int:
            server = Server()
            server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
            async with Connections() as connections:
                await fetch(connections, server)
                closed.wait()  # and nothing else happens on this thread
                threading.Event().wait(0.002)
                await fetch(connections, server)
                return connections.sent_anew

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert anyio.run(ask_twice, backend_options={"use_uvloop": uvloop}) == 0
        thread.join(10)
    assert len(read) == 2 and all(read)


@pytest.mark.parametrize("size", [10, 5_000_000])
def test_a_request_that_met_a_close_is_known_to_be_unread(size: int, uvloop: bool) -> None:
    """The close is there already, and was not looked for: so a request crosses one that is on its way."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            connection.recv(65_536)
            connection.sendall(OK)
            connection.close()
            closed.set()

        async def ask_twice() -> None:
            loop = asyncio.get_running_loop()
            _, used = await loop.create_connection(lambda: Connection(AnswerTurns()), *listener.getsockname())
            head = b"POST /x HTTP/1.1\r\ncontent-length: %d\r\n\r\n"
            await used.request(head % 2, b"{}")
            closed.wait()
            with pytest.raises(MetClose):
                await used.request(head % size, size * b"x")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        anyio.run(ask_twice, backend_options={"use_uvloop": uvloop})
        thread.join(10)


@pytest.mark.parametrize("answers", [[[None]], [[OK], [None]], [[OK], [0.2, None]], [[OK], [b"H", None]]])
async def test_what_a_server_has_read_is_not_sent_again(answers: list[list[bytes | float | None]]) -> None:
    """On a fresh connection as on a used one: it may have been paid for."""
    async with serving(*answers, [OK]) as server, Connections() as connections:
        for _ in answers[1:]:
            await fetch(connections, server)
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(connections, server)
        assert (len(server.requests), connections.sent_anew) == (len(answers), 0)
        assert (await fetch(connections, server)).body == b"ok"


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.03])
async def test_a_server_that_closes_after_each_stream_is_found_out(after_s: float) -> None:
    """Though it promises to keep the connection. No request is lost to that, however long the close takes."""
    async with serving([STREAM, after_s, None]) as server, Connections() as connections:

        async def several() -> None:
            for _ in range(10):
                assert (await fetch(connections, server)).body == b"ok"

        await fetch(connections, server)
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(several)
        assert len(server.requests) == 51 + connections.sent_anew
        assert connections.sent_anew == 0
        assert server.connections == 51


async def test_a_server_that_closes_after_each_answer_is_found_out() -> None:
    async with serving([OK, 0.02, None]) as server, Connections() as connections:
        await fetch(connections, server)
        await anyio.sleep(0.1)
        for _ in range(10):
            assert (await fetch(connections, server)).body == b"ok"
        assert (server.connections, len(server.requests)) == (11, 11)


async def test_one_that_keeps_them_is_believed() -> None:
    async with serving([STREAM]) as server, Connections() as connections:
        for _ in range(10):
            assert (await fetch(connections, server)).body == b"ok"
        assert server.connections == 1


# ---------------------------------------------------------------------------------------------- bounds and lengths


@pytest.mark.parametrize(
    ("given", "body"),
    [
        (b"content-length: 2\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"Content-Length: 2\r\nx: y\r\ncontent-length:2 \r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"content-length: 2, 2\r\n\r\nok", b"ok"),
        (b"content-length: 7\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"transfer-encoding: chunked\r\ncontent-length: 7\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
        (b"content-length: 2\r\ncontent-length: 3\r\n\r\nok", None),
        (b"content-length: 2, 3\r\n\r\nok", None),
        (b"content-length: 2\r\ncontent-length: many\r\n\r\nok", None),
        (b"content-length: -2\r\n\r\nok", None),
    ],
)
async def test_several_lengths(given: bytes, body: bytes | None) -> None:
    """Those that agree are one, and chunks need none (RFC 9112, 6.3); others are refused."""
    said = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n" + given
    for sent in ([said], [said[i : i + 1] for i in range(len(said))]):
        async with serving([*sent, None], [OK]) as server, Connections() as connections:
            if body is None:
                with pytest.raises(httpx.RemoteProtocolError, match="not HTTP"):
                    await fetch(connections, server)
            else:
                assert (await fetch(connections, server)).body == body
            await anyio.sleep(0.05)
            assert (await fetch(connections, server)).body == b"ok"


_PACKED = b"HTTP/1.1 200 OK\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n%b"


async def test_an_answer_is_read_to_its_bound() -> None:
    for size in (1000, 1001):
        said = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (size, size * b"x")
        packed = gzip.compress(size * b"x")
        for sent in (said, _PACKED % (b"gzip", len(packed), packed)):
            async with serving([sent], [OK]) as server, Connections() as connections:
                if size == 1000:
                    assert (await fetch(connections, server, most_bytes=1000)).body == size * b"x"
                    continue
                with pytest.raises(AnswerTooLarge) as caught:
                    await fetch(connections, server, most_bytes=1000)
                assert caught.value.status == 200
                assert (await fetch(connections, server, most_bytes=1000)).body == b"ok"
                assert (server.connections, len(server.requests)) == (2, 2)


async def test_of_an_error_its_beginning_is_enough() -> None:
    """That it is large is no reason to take a passing 503 for a fault of the row."""
    endless = [b"HTTP/1.1 503 Busy\r\n\r\n", *(100 * [100_000 * b"x"])]
    async with serving(endless, [OK]) as server, Connections() as connections:
        whole = await fetch(connections, server)
        assert whole.status == 503
        assert 500_000 < len(whole.body) <= 1 << 20
        assert (await fetch(connections, server)).body == b"ok"


@pytest.mark.parametrize(
    "sent",
    [
        [b"HTTP/1.1 200 OK\r\nx: ", *(50 * [10_000 * b"a"])],
        [b"HTTP/1.1 200 OK\r\n", *(50 * [1_000 * b"a: b\r\n"])],
        50 * [300 * b"HTTP/1.1 103 Early Hints\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx: ", *(50 * [10_000 * b"a"])],
        [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=", *(50 * [10_000 * b"a"])],
    ],
    ids=["one header", "many headers", "hints", "trailer", "chunk extension"],
)
async def test_endless_headers_are_given_up(sent: list[bytes]) -> None:
    async with serving([*sent, 60.0]) as server, Connections() as connections:
        with pytest.raises(httpx.RemoteProtocolError, match="65,536 bytes of headers"):
            await fetch(connections, server)
