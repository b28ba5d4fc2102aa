"""Requests to web servers, with redirects and the proxies of the environment.

httpx's client is not used: it writes each URL into the log, and what signs one is secret.
"""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

from ..core import WEB_SCHEMES

if TYPE_CHECKING:
    import httpx

_CONNECT_S, _SILENT_S = 10.0, 60.0
_MOST_REDIRECTS = 10
_REDIRECTS = (301, 302, 303, 307, 308)


class BadRedirect(Exception):
    """A server redirects without end, or to where nothing is to be asked. ``str()`` is a sentence without a subject's address."""


class WebSession:
    """Keeps its connections for the next request."""

    def __init__(self) -> None:
        self._transports: dict[str | None, httpx.HTTPTransport] = {}

    def get(self, url: str, heads: Mapping[str, str]) -> httpx.Response:
        """The answer, without its body, which is to be read and closed. Passwords of the URL are sent to its own host alone.

        :raises httpx.TransportError: if there is none.
        :raises httpx.InvalidURL, ValueError, ImportError: if the address, or a proxy, cannot be asked.
        """
        import httpx

        at = first = httpx.URL(url)
        for _ in range(_MOST_REDIRECTS + 1):
            own = dict(heads)
            if at.userinfo and (at.scheme, at.host, at.port) == (first.scheme, first.host, first.port):
                user, _, password = at.userinfo.partition(b":")
                words = f"{unquote(user.decode())}:{unquote(password.decode())}"
                own["Authorization"] = f"Basic {base64.b64encode(words.encode()).decode()}"
            waits = {"connect": _CONNECT_S, "read": _SILENT_S, "write": _SILENT_S, "pool": _CONNECT_S}
            request = httpx.Request(
                "GET", at.copy_with(userinfo=b"", fragment=None), headers=own, extensions={"timeout": waits}
            )
            reply = self._transport(at).handle_request(request)
            if reply.status_code not in _REDIRECTS or "location" not in reply.headers:
                return reply
            reply.close()
            after = at.join(reply.headers["location"])
            if after.scheme not in WEB_SCHEMES or (at.scheme == "https" and after.scheme == "http"):
                raise BadRedirect(f"its server redirects to an address of {after.scheme}://, which is not followed")
            at = after
        raise BadRedirect("its server redirects without end; see whether the address is right")

    def _transport(self, url: httpx.URL) -> httpx.HTTPTransport:
        import httpx

        proxy = _proxy(url.scheme, url.netloc.decode())
        if proxy not in self._transports:
            self._transports[proxy] = httpx.HTTPTransport(proxy=proxy)
        return self._transports[proxy]

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


def _proxy(scheme: str, host: str) -> str | None:
    """The proxy that the environment sets for a host."""
    if urllib.request.proxy_bypass(host):
        return None
    found = urllib.request.getproxies()
    proxy = found.get(scheme) or found.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"
