"""Which transport reaches an endpoint, as httpx users expect of their environment.

httpx's own pool looks at every connection for each request: with 64 of them that costs 9 ms of CPU a request, with 256
80 ms. So it is used only where a proxy is in between; :mod:`batchflex.http1` otherwise.
"""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator
from typing import cast

import httpx

from .connection import ERROR_BYTES, FIRST_ERROR, AnswerTooLarge
from .content_coding import BodyTooLarge, Unpacker
from .errors import EndpointError
from .http1 import Connections


def choose(base_url: str, connections: int) -> httpx.AsyncBaseTransport:
    """The transport for an endpoint: connections of our own, or httpx's where the environment sets a proxy.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured by both, ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and
    ``NO_PROXY`` by the latter.

    :raises EndpointError: if the proxy is of a kind that cannot be used.
    """
    context = httpx.create_ssl_context() if base_url.startswith("https:") else None  # making one takes 40 ms
    if proxy := proxy_for(base_url):
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        try:
            return httpx.AsyncHTTPTransport(verify=context or True, proxy=proxy, limits=limits)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise EndpointError(f"the proxy that the environment sets cannot be used: {error}") from None
    return Connections(context)


def proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this URL, if any."""
    url = httpx.URL(base_url)
    if urllib.request.proxy_bypass(url.netloc.decode()):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


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
        self._is_error = response.status_code >= FIRST_ERROR
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
                raise AnswerTooLarge(f"the answer has more than {self._most:,} bytes") from None
        except ValueError as error:
            raise httpx.RemoteProtocolError(str(error)) from None

    async def aclose(self) -> None:
        await self._stream.aclose()
