"""Between a run and its endpoint: proxies that want a password, refuse, or are not there. Theirs is never a row's fault."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batchflex.core.errors import AttemptError, EndpointError, RunFault, Transient
from batchflex.core.types import Request
from batchflex.endpoint import transport
from batchflex.endpoint.client import Client
from batchflex.endpoint.provider import Endpoint
from tests.support.command_line import batchflex, refused_port, state, write_rows

ODD = "a#b/c?d@e f%g:h"  # as people have passwords
_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
)
_WHOLE = b'{"model":"m","choices":[{"message":{"content":"a"},"finish_reason":"stop"}],"usage":{}}'


class Proxy:
    """Answers whatever comes with the same; ``heads`` are those of the requests."""

    def __init__(self, port: int) -> None:
        self.place = f"127.0.0.1:{port}"
        self.heads: list[bytes] = []

    @property
    def password(self) -> str:
        (line,) = {line for head in self.heads for line in head.split(b"\r\n") if b"proxy-auth" in line.lower()}
        return base64.b64decode(line.split()[-1]).decode()


@contextmanager
def proxy(status: str, body: bytes = b"") -> Iterator[Proxy]:
    listener = socket.create_server(("127.0.0.1", 0))
    found = Proxy(listener.getsockname()[1])

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                said = b""
                while b"\r\n\r\n" not in said:
                    said += connection.recv(65_536)
                found.heads.append(said)
                connection.sendall(
                    b"HTTP/1.1 %b\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
                    % (status.encode(), len(body), body)
                )
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


async def _fault(base_url: str) -> AttemptError:
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}]}'
    async with Client(Endpoint("test", base_url)) as client:
        with pytest.raises(AttemptError) as caught:
            await client.attempt(Request(b"k", b"s", "id", 0, 0, 0, body, None, None))
    return caught.value


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_another_password_is_the_runs_fault(scheme: str, environ: pytest.MonkeyPatch) -> None:
    with proxy("407 Proxy Authentication Required", b"<h1>Cache Access Denied</h1>") as found:
        environ.setenv(f"{scheme.upper()}_PROXY", f"http://me:{ODD}@{found.place}")
        error = await _fault(f"{scheme}://nowhere.invalid/v1")
    assert isinstance(error, RunFault)
    assert (error.reason, error.http_status, error.error_type) == ("key", 407, "proxy")
    assert f"the proxy {found.place} ({scheme.upper()}_PROXY) wants another user or password" in error.message
    assert found.password == f"me:{ODD}"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("403 Forbidden", RunFault),
        ("405 Method Not Allowed", RunFault),
        ("400 Bad Request", RunFault),
        ("429 Too Many Requests", Transient),
        ("500 Internal Server Error", Transient),
        ("502 Bad Gateway", Transient),
        ("503 Service Unavailable", Transient),
        ("504 Gateway Timeout", Transient),
    ],
)
async def test_a_proxy_that_does_not_connect(status: str, kind: type, environ: pytest.MonkeyPatch) -> None:
    with proxy(status) as found:
        environ.setenv("HTTPS_PROXY", found.place)
        error = await _fault("https://nowhere.invalid/v1")
    assert type(error) is kind
    assert found.place in error.message and "HTTPS_PROXY" in error.message and status in error.message
    if isinstance(error, RunFault):
        assert error.reason == "url"
    if isinstance(error, Transient):
        assert (error.error_type, error.blame, error.billed) == ("connect", "endpoint", False)


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("place", ["127.0.0.1:{port}", "nowhere.invalid:3128"])
async def test_a_proxy_that_is_not_there(scheme: str, place: str, environ: pytest.MonkeyPatch) -> None:
    place = place.format(port=refused_port())
    environ.setenv("ALL_PROXY", f"http://me:{ODD}@{place}/")
    error = await _fault(f"{scheme}://127.0.0.2/v1")
    assert isinstance(error, Transient)
    assert (error.error_type, error.blame) == ("connect", "endpoint")
    assert f"cannot connect through the proxy {place} (ALL_PROXY)" in error.message


@pytest.mark.parametrize(
    "given",
    ["gopher://me:{0}@p:1", "http://me:{0}@p:none", "http://me:{0}@", "http://me:{0}@[::1", "me:{0}", "http://me:{0}"],
)
def test_what_is_no_proxy_is_said_without_its_password(given: str, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("ALL_PROXY", given.format("Sesam#1"))
    with pytest.raises(EndpointError, match="the proxy that ALL_PROXY sets cannot be used") as caught:
        transport.choose("http://a/v1", 4)
    assert "Sesam" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://me:a%20b@p:1", "http://me:a%20b@p:1"),
        ("http://me:a b@p:1/", "http://me:a%20b@p:1"),
        ("me:a@b@p:1", "http://me:a%40b@p:1"),
        ("http://me:50%@p:1", "http://me:50%25@p:1"),
        ("http://me@p:1", "http://me@p:1"),
        ("http://me:@p:1", "http://me:@p:1"),
        ("socks5h://me:%FF@p:1", "socks5h://me:%FF@p:1"),
    ],
)
def test_a_password_may_stand_as_it_is(given: str, url: str, environ: pytest.MonkeyPatch) -> None:
    environ.setenv("HTTP_PROXY", given)
    found = transport.proxy_of("http://a/v1")
    assert found is not None
    assert (found.url, str(found)) == (url, "the proxy p:1 (HTTP_PROXY)")


def test_no_row_fails_for_a_proxy_and_its_password_shows_nowhere(tmp_path: Path) -> None:
    rows, out, log = write_rows(tmp_path / "rows.jsonl", 20), tmp_path / "out", tmp_path / "log"
    command = ["run", rows, "--base-url", "http://nowhere.invalid/v1", "--model", "m", "--out", out, "--log-file", log]

    def run(place: str) -> str:
        told = batchflex(*command, "--debug", env={"HTTP_PROXY": f"http://me:Sesam{ODD}@{place}", "NO_PROXY": ""})
        kept = state(out)
        assert (told.code, kept["failed"]) == (3, 0)
        assert place in kept["message"]
        shown = told.out + told.err + log.read_text()
        shown += "".join(path.read_text(errors="replace") for path in out.rglob("*") if path.is_file())
        assert "Sesam" not in shown
        return str(kept["stopped_by"])

    with proxy("407 Proxy Authentication Required", b"no") as found:
        assert run(found.place) == "key"
        assert [head.split()[0] for head in found.heads].count(b"POST") == 1
    with proxy("200 OK", _WHOLE) as found:
        told = batchflex(*command, env={"HTTP_PROXY": f"http://me:{ODD}@{found.place}", "NO_PROXY": ""})
        assert (told.code, state(out)["ok"]) == (0, 20), told.err
        assert found.password == f"me:{ODD}"
