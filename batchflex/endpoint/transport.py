"""Which transport reaches an endpoint, as httpx users expect of their environment, and what its failures mean for an attempt.

httpx's own pool looks at every connection for each request: with 64 of them that costs 9 ms of CPU a request, with 256
80 ms. So it is used only where a proxy is in between; :mod:`batchflex.endpoint.http1` otherwise.
"""

from __future__ import annotations

import os
import re
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from typing import NamedTuple, cast

import httpx

from ..core import AttemptError, EndpointError
from ..protocol import classify
from .connection import ERROR_BYTES, FIRST_ERROR, AnswerTooLarge
from .content_coding import BodyTooLarge, Unpacker
from .http1 import Connections
from .provider import Endpoint


class Proxy(NamedTuple):
    """A proxy of the environment. ``url`` may have a password in it, quoted as a URL wants it; ``str`` of the proxy has not."""

    url: str
    address: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {self.address} ({self.variable})"


def choose(base_url: str, connections: int) -> httpx.AsyncBaseTransport:
    """The transport for an endpoint: connections of our own, or httpx's where the environment sets a proxy.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured by both, ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and
    ``NO_PROXY`` by the latter.

    :raises EndpointError: if the proxy is of a kind that cannot be used.
    """
    context = httpx.create_ssl_context() if base_url.startswith("https:") else None  # making one takes 40 ms
    if proxy := proxy_of(base_url):
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        try:
            if not proxy.address:
                raise ValueError
            return httpx.AsyncHTTPTransport(verify=context or True, proxy=proxy.url, limits=limits)
        except ImportError:
            raise EndpointError(f"{proxy} wants a package that is not here: pip install 'httpx[socks]'") from None
        except (ValueError, httpx.InvalidURL):  # whose words may have the password in them
            raise EndpointError(
                f"the proxy that {proxy.variable} sets cannot be used: it must be a URL such as http://proxy.example:3128, with "
                "http, https, socks5 or socks5h before ://"
            ) from None
    return Connections(context)


def proxy_for(base_url: str) -> str | None:
    """The URL of the proxy that the environment names for this URL, if any."""
    return None if (proxy := proxy_of(base_url)) is None else proxy.url


def proxy_of(base_url: str) -> Proxy | None:
    """The proxy that the environment names for this URL, if any.

    User and password may be written as they are: whatever stands before the last ``@`` is theirs.
    """
    url = httpx.URL(base_url)
    if urllib.request.proxy_bypass(url.netloc.decode()):
        return None
    proxies = urllib.request.getproxies()
    given = proxies.get(url.scheme) or proxies.get("all")
    if given is None:
        return None
    names = (f"{url.scheme}_proxy", f"{url.scheme}_PROXY".upper(), "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if os.environ.get(name) == given), "the settings of this system")
    scheme, separator, rest = given.partition("://") if "://" in given else ("http", "://", given)
    login, at, address = rest.strip().rpartition("@")
    address = re.split(r"[/?#\s]", address, maxsplit=1)[0]
    user, colon, password = login.partition(":")
    return Proxy(f"{scheme}{separator}{_quoted(user)}{colon}{_quoted(password)}{at}{address}", address, variable)


def _quoted(text: str) -> str:
    """As it stands in a URL, whether it was quoted already or not."""
    return urllib.parse.quote(urllib.parse.unquote_to_bytes(text), safe="")


def bound(response: httpx.Response, most_bytes: int) -> None:
    """Have the body of an answer unpacked and bounded, as :class:`Connections` do by themselves."""
    codings = ",".join(response.headers.get_list("content-encoding"))
    response.headers.pop("content-encoding", None)
    response.stream = _Bounded(response, codings, most_bytes)


class _Bounded(httpx.AsyncByteStream):
    """A body as it is read, unpacked and bounded."""

    def __init__(self, response: httpx.Response, codings: str, most_bytes: int) -> None:
        self._stream = cast(httpx.AsyncByteStream, response.stream)
        self._codings = codings
        self._status = response.status_code
        self._is_error = self._status >= FIRST_ERROR
        self._most = min(most_bytes, ERROR_BYTES) if self._is_error else most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            unpacker = Unpacker(self._codings, self._most)
            async for data in self._stream:
                for piece in unpacker.feed(data):
                    size += len(piece)
                    if size > self._most:
                        raise BodyTooLarge
                    yield piece
        except BodyTooLarge:
            if not self._is_error:  # else it is an error whatever follows
                raise AnswerTooLarge(self._most, self._status) from None
        except ValueError as error:
            raise httpx.RemoteProtocolError(str(error)) from None

    async def aclose(self) -> None:
        await self._stream.aclose()


def fault_of(error: httpx.RequestError, endpoint: Endpoint, host: str, proxy: Proxy | None) -> AttemptError:
    """The error of an attempt that failed so. ``proxy`` is that of the environment, if there is one before the ``host``."""
    words = str(error) or type(error).__name__
    if isinstance(error, AnswerTooLarge):
        most = f"the answer has more than {endpoint.max_answer_mb:g} MB (endpoint.max_answer_mb)"
        return classify.too_large(most, error.status)
    if isinstance(error, httpx.ConnectTimeout):
        return classify.unreachable(f"no connection to {host} within {endpoint.connect_timeout_s:g} s")
    if isinstance(error, httpx.ConnectError):
        through = "" if proxy is None else f" through {proxy}"
        return classify.unreachable(f"cannot connect{through}: {words}")
    if isinstance(error, httpx.ProxyError):
        return _proxy_fault(words, host, str(proxy or "the proxy"))
    return classify.cut_short(words)


def _proxy_fault(words: str, host: str, proxy: str) -> AttemptError:
    """A proxy did not connect to the endpoint; ``words`` begin with the status that it gave, if it gave one."""
    status = int(words[:3]) if words[:3].isdigit() else None
    if status == 407:
        return classify.proxy_refuses(f"{proxy} wants another user or password (HTTP 407): correct them there", 407)
    if status is not None and status < 500 and status not in (408, 425, 429):
        return classify.proxy_refuses(
            f"{proxy} does not connect to {host} (HTTP {words}): name another, or the host in NO_PROXY", status
        )
    return classify.unreachable(f"{proxy} cannot connect to {host}: {words}")
