"""Fetches files that rows name from other servers: not from the endpoint, and with nothing that is the endpoint's.

No key, no cookie and no header of the job goes there. Who may be asked :class:`~batchflex.attachments.FileHosts` says, of each
name and, after it was looked up, of each address, also after each redirect.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from contextlib import AsyncExitStack
from typing import NamedTuple

import anyio
import httpx

from ..attachments import MOST_BYTES, FileFault, FileHosts, RemoteFile, fault_of_url, shown
from ..core import Transient, __version__
from ..protocol import classify, retry_after
from . import http1
from .connection import AnswerTooLarge
from .http1 import Connections
from .transport import bound, proxy_of

CONNECT_S, TOTAL_S = 10.0, 120.0
_MOST_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_AGAIN = {408, 425, 429}  # and whatever is 500 or more
_UNAVAILABLE = {429, 502, 503, 504}
_MOST_ORIGINS = 1_000  # whose connections and addresses are remembered
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_.:-]{1,40})", re.IGNORECASE)
_COMMON = {"User-Agent": f"batchflex/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}


class FetchFailed(Exception):
    """No file came, and another try may bring it. The text is a sentence that does not name the file.

    ``fault`` is the same for :mod:`batchflex.endpoint.retry_policy`. ``status`` is that of an answer, if there was one; without
    one, or with one of 429, 502, 503 and 504, nothing may be had of the host at present. ``no_such_name`` is whether there is no
    host of this name, ``redirected`` whether all that is about another host, which the first one has redirected to.
    """

    redirected = False

    def __init__(
        self, words: str, *, status: int | None = None, no_such_name: bool = False, after_s: float | None = None
    ) -> None:
        super().__init__(words)
        self.fault: Transient = classify.unfetched_file(words, after_s)
        self.status, self.no_such_name = status, no_such_name

    @property
    def is_of_host(self) -> bool:
        """Whether the next file of this host would fail likewise."""
        return not self.redirected and (self.status is None or self.status in _UNAVAILABLE)


class FileRefused(FileFault):
    """The server answered, and gives no file that can be sent."""


class _Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class FileFetcher:
    """Gets files by HTTP, on connections of its own. Belongs to one event loop."""

    def __init__(self, hosts: FileHosts) -> None:
        self._hosts = hosts
        self._ssl: ssl.SSLContext | None = None
        self._direct: Connections | None = None
        self._origins: set[tuple[str, int]] = set()

    async def fetch(self, url: str) -> RemoteFile:
        """Get the file at a URL, once; redirects are followed.

        :raises FileFault: if there is none, it is too large, or it may not be fetched; with a sentence that does not name it.
        :raises FetchFailed: if another try may bring it.
        """
        login: str | None = None
        at, redirects = url, 0
        while True:
            target = self._checked(at, is_redirect=redirects > 0)
            if not redirects and target.userinfo:
                login = base64.b64encode(f"{target.username}:{target.password}".encode()).decode()
            try:
                whole = await self._get(target, login)
                headers = httpx.Headers(whole.headers)
                if whole.status not in _REDIRECTS or "location" not in headers:
                    return _file(whole, headers)
            except FetchFailed as failure:
                failure.redirected = redirects > 0
                raise
            redirects += 1
            if redirects > _MOST_REDIRECTS:
                raise FileRefused(f"is redirected more than {_MOST_REDIRECTS} times")
            at = _joined(target, headers["location"])
            if login is not None and _origin(httpx.URL(at)) != _origin(target):
                login = None  # it was for that server alone

    def _checked(self, url: str, *, is_redirect: bool) -> httpx.URL:
        """:raises FileFault: if nothing is fetched from there."""
        fault = fault_of_url(url)
        if fault is None:
            try:
                target = httpx.URL(url)
            except (httpx.InvalidURL, ValueError):
                fault = "is no address that a file can be fetched from (http:// or https://)"
            else:
                fault = self._hosts.refusal(*_origin(target)[1:])
        if fault is None:
            return target
        raise FileFault(f"is redirected to {shown(url)!r:.200}, which {fault}" if is_redirect else fault)

    async def _get(self, url: httpx.URL, login: str | None) -> _Answer:
        head = {"Host": url.netloc.decode("ascii"), **_COMMON, **({"Authorization": f"Basic {login}"} if login else {})}
        try:
            if (proxy := proxy_of(str(url.copy_with(userinfo=b"")))) is not None:
                return await self._through(proxy.url, url, head)
            connections = await self._connections(url)
            server = connections.server(url)
            connection = await connections.fetch(
                server, http1.head_of("GET", url, httpx.Headers(head)) + b"\r\n", b"",
                connect_s=CONNECT_S, total_s=TOTAL_S, most_bytes=MOST_BYTES,
            )  # fmt: skip
            answer = _Answer(connection.status, connection.headers, connection.body())
            connections.give_back(server, connection)
            return answer
        except AnswerTooLarge:
            raise FileRefused(f"is larger than {MOST_BYTES >> 20} MB, and is not sent") from None
        except TimeoutError:
            raise FetchFailed(f"cannot be fetched: it was not there within {TOTAL_S:g} s") from None
        except httpx.ConnectTimeout:
            raise FetchFailed(f"cannot be fetched: no connection to {url.host} within {CONNECT_S:g} s") from None
        except (httpx.RequestError, ImportError, ValueError) as error:
            raise _meaning(error, url.host) from None

    async def _connections(self, url: httpx.URL) -> Connections:
        if self._ssl is None and url.scheme == "https":
            self._ssl = await anyio.to_thread.run_sync(httpx.create_ssl_context)
            self._direct = None
        origin = _origin(url)[1:]
        if self._direct is None or (origin not in self._origins and len(self._origins) >= _MOST_ORIGINS):
            await self.aclose()
            self._origins = set()
            self._direct = Connections(self._ssl, self._check_address)
        self._origins.add(origin)
        return self._direct

    def _check_address(self, host: str, port: int, address: str) -> None:
        if (fault := self._hosts.refusal_of_address(host, address, port)) is not None:
            raise FileFault(fault)

    async def _through(self, proxy: str, url: httpx.URL, head: dict[str, str]) -> _Answer:
        """By a proxy of the environment, which looks the name up itself: whom it may reach is its own affair."""
        timeouts = {"connect": CONNECT_S, "read": TOTAL_S, "write": CONNECT_S, "pool": CONNECT_S}
        async with AsyncExitStack() as stack:
            with anyio.fail_after(TOTAL_S):
                transport = await stack.enter_async_context(httpx.AsyncHTTPTransport(proxy=proxy))
                request = httpx.Request(
                    "GET", url.copy_with(userinfo=b""), headers=head, extensions={"timeout": timeouts}
                )
                response = await transport.handle_async_request(request)
                bound(response, MOST_BYTES)
                return _Answer(response.status_code, response.headers.raw, await response.aread())

    async def aclose(self) -> None:
        """Close the connections that are idle; those in use close with their requests."""
        if self._direct is not None:
            await self._direct.aclose()


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or (443 if url.scheme == "https" else 80)


def _joined(url: httpx.URL, location: str) -> str:
    """Where a redirect leads. A user in it is not taken along."""
    try:
        return str(url.copy_with(userinfo=b"").join(location).copy_with(fragment=None, userinfo=b""))
    except (httpx.InvalidURL, ValueError):
        raise FileFault("is redirected to what is no address") from None


def _file(whole: _Answer, headers: httpx.Headers) -> RemoteFile:
    status = whole.status
    if status in _AGAIN or status >= 500:
        after_s = retry_after(headers, time.time())
        raise FetchFailed(f"cannot be fetched: its server answers HTTP {status}", status=status, after_s=after_s)
    if status in (401, 403, 407):
        raise FileRefused(f"cannot be fetched: its server refuses that (HTTP {status})")
    if status in (404, 410):
        raise FileRefused(f"is not there (HTTP {status})")
    if status != 200:
        raise FileRefused(f"cannot be fetched: its server answers HTTP {status}")
    if not whole.body:
        raise FileRefused("is empty")
    kind = headers.get("content-type", "")
    charset = _CHARSET.search(kind)
    return RemoteFile(whole.body, kind.partition(";")[0].strip().lower()[:60], charset[1] if charset else "")


def _meaning(error: Exception, host: str) -> Exception:
    """What it means that a connection failed."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(causes) < 10:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if fault := next((each for each in causes if isinstance(each, FileFault)), None):
        return fault
    if any(isinstance(each, ssl.SSLCertVerificationError) for each in causes):
        return FileFault(f"cannot be fetched: the certificate of {host} is not good")
    words = str(error) or type(error).__name__
    if isinstance(error, httpx.ProxyError):
        return FetchFailed(f"cannot be fetched: the proxy that the environment sets says {words:.100}")
    if isinstance(error, httpx.ConnectError):
        is_unknown = any(isinstance(each, socket.gaierror) and each.errno == socket.EAI_NONAME for each in causes)
        return FetchFailed(f"cannot be fetched: cannot connect to {words}", no_such_name=is_unknown)
    if isinstance(error, httpx.RequestError):
        return FetchFailed(f"cannot be fetched: the connection to {host} was cut off ({words:.100})")
    return FileFault(f"cannot be fetched: {words:.100}")
