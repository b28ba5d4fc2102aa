"""An httpx transport over aiohttp's connections.

httpx's own pool looks at every connection for each request: with 64 of them that costs 9 ms of CPU a request, with 256
80 ms. aiohttp's connector does not. The interface stays httpx's, and so do the exceptions: whatever aiohttp
raises is mapped here, so that a connection that was never made is told from an answer that broke off.

Beside :mod:`batchflex.client` this is the only module that knows httpx, and the only one that knows aiohttp.
"""

from __future__ import annotations

import io
import ssl
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx
from aiohttp import http_exceptions
from yarl import URL

from .errors import EndpointError

_HEADER_BYTES = 64 << 10
_LARGE = 1 << 20  # from here on aiohttp wants a file, which it writes piece by piece


def choose(base_url: str, connections: int) -> httpx.AsyncBaseTransport:
    """The transport for an endpoint: aiohttp's connections, or httpx's own where the environment sets a proxy.

    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` are honoured by both, ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and
    ``NO_PROXY`` by the latter.

    :raises EndpointError: if the proxy is of a kind that cannot be used.
    """
    context = httpx.create_ssl_context() if base_url.startswith("https:") else True  # making one takes 40 ms
    if proxy := proxy_for(base_url):
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        try:
            return httpx.AsyncHTTPTransport(verify=context, proxy=proxy, limits=limits)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise EndpointError(f"the proxy that the environment sets cannot be used: {error}") from None
    return AiohttpTransport(context)


def proxy_for(base_url: str) -> str | None:
    """The proxy that the environment names for this URL, if any."""
    url = httpx.URL(base_url)
    if urllib.request.proxy_bypass(url.netloc.decode()):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if proxy is None or "://" in proxy else f"http://{proxy}"


class AiohttpTransport(httpx.AsyncBaseTransport):
    """Sends each request on an idle connection if there is one, else on a new one; never more than once.

    The number of connections is not limited here: whoever calls bounds the requests in flight. Time-outs are taken from
    the request's ``timeout`` extension (``connect``, ``read``), as httpx sets it. No cookies, no redirects, no
    environment, no decompression: that is httpx's side.
    """

    def __init__(self, ssl_context: ssl.SSLContext | bool = True) -> None:
        self._ssl = ssl_context
        self._session: aiohttp.ClientSession | None = None

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=0,
            ssl=self._ssl,
            ttl_dns_cache=60,
            keepalive_timeout=4.0,  # below the 5 s after which several servers close an idle connection
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=_HEADER_BYTES,
            max_field_size=_HEADER_BYTES,
            skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send, and return as soon as the headers of the answer are there; the body is streamed.

        :raises httpx.ConnectError, httpx.ConnectTimeout: if nothing was sent.
        :raises httpx.ReadError, httpx.ReadTimeout, httpx.RemoteProtocolError: if it may have been.
        """
        if self._session is None:
            self._session = self._open()
        limits = request.extensions.get("timeout", {})
        connect, read = limits.get("connect"), limits.get("read")
        # `connect` takes in the look-up of the name and the TLS handshake.
        timeout = aiohttp.ClientTimeout(total=None, connect=connect, sock_connect=connect, sock_read=read)
        headers = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in request.headers.raw if k.lower() != b"host"]
        body = await request.aread()
        with _mapped():
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=headers,
                data=body if len(body) < _LARGE else io.BytesIO(body),
                allow_redirects=False,
                timeout=timeout,
            )
        return httpx.Response(response.status, headers=list(response.raw_headers), stream=_Body(response))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _mapped():
            async for chunk in self._response.content.iter_any():
                yield chunk

    async def aclose(self) -> None:
        if self._response.content.at_eof() and self._response.content.exception() is None:
            self._response.release()
        else:
            self._response.close()  # what was not read to its end cannot be used again


@contextmanager
def _mapped() -> Iterator[None]:
    """aiohttp's exceptions as httpx's. The order matters: several of aiohttp's are subclasses of each other."""
    try:
        yield
    except aiohttp.ConnectionTimeoutError as error:
        raise httpx.ConnectTimeout(str(error) or "no connection in time") from error
    except (aiohttp.ServerTimeoutError, TimeoutError) as error:
        raise httpx.ReadTimeout(str(error) or "no data in time") from error
    except aiohttp.ClientConnectorError as error:  # DNS, refused, unreachable, TLS
        raise httpx.ConnectError(_words(error)) from error
    except aiohttp.ServerDisconnectedError as error:
        raise httpx.RemoteProtocolError("the server closed the connection without an answer") from error
    except aiohttp.ClientOSError as error:
        raise httpx.ReadError(_words(error)) from error
    except aiohttp.ClientPayloadError as error:
        raise httpx.RemoteProtocolError("the connection broke inside the answer") from error
    except (aiohttp.ClientResponseError, http_exceptions.HttpProcessingError) as error:
        raise httpx.RemoteProtocolError(f"not HTTP: {getattr(error, 'message', error)}"[:300]) from error
    except aiohttp.InvalidURL as error:
        raise httpx.UnsupportedProtocol(f"not a URL that can be asked: {error}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise httpx.NetworkError(_words(error)) from error


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):  # its own words show the memory address of the TLS context
        return f"{error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
    return str(error) or type(error).__name__
