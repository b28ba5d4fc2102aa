"""Which transport reaches an endpoint, as httpx users expect of their environment.

httpx's own pool looks at every connection for each request: with 64 of them that costs 9 ms of CPU a request, with 256
80 ms. So it is used only where a proxy is in between; :mod:`batchflex.http1` otherwise.
"""

from __future__ import annotations

import urllib.request

import httpx

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
