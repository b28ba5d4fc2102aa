"""Sends a short message to an address that is a secret: with a few tries, bounded in time, and never showing the address whole.

It is sent from a thread of its own, beside and after a run, so httpx's own blocking transport serves; that of
:mod:`batchflex.endpoint.http1` belongs to an event loop. httpx's client is not used: it writes each URL into the log.
"""

from __future__ import annotations

import ssl
import threading
import time
from urllib.parse import urlsplit

import httpx
import tenacity

from ..core import __version__, redacted
from ..endpoint import proxy_for

_ATTEMPT_S = 10.0
_ATTEMPTS = 4
_BODY_BYTES = 4096
_WORDS_S = 1.0
_MOST_WORDS = 100
_NEVER = threading.Event()


class _Failed(Exception):
    """A try failed for good; the text is for people, and holds nothing of the address."""


class _Retryable(_Failed):
    """Another try may do."""


def send(
    url: str,
    content: bytes | None,
    content_type: str = "application/json",
    *,
    within_s: float,
    cancelled: threading.Event = _NEVER,
) -> str | None:
    """POST ``content``, or GET without any, until it is taken (2xx); return why it was not, as a sentence.

    Connections that fail, time-outs, 408, 429 and 5xx are tried again, four times in all at most; what a try that timed out
    had brought may so arrive twice. Redirects are not followed. Ends within ``within_s`` (a name that is looked up may take
    longer), and makes no further try once ``cancelled`` is set. Blocks.
    """
    due = time.monotonic() + within_s
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Retryable),
        stop=tenacity.stop_after_attempt(_ATTEMPTS)
        | tenacity.stop_before_delay(within_s)
        | tenacity.stop_when_event_set(cancelled),
        wait=tenacity.wait_exponential(multiplier=min(0.5, within_s / 20), max=8),
        sleep=tenacity.sleep_using_event(cancelled),
        reraise=True,
    )
    try:
        tries(lambda: _try(url, content, content_type, max(0.1, min(_ATTEMPT_S, due - time.monotonic()))))
    except _Failed as fault:
        return str(fault)
    return None


def _try(url: str, content: bytes | None, content_type: str, timeout_s: float) -> None:
    request = httpx.Request(
        "GET" if content is None else "POST",
        url,
        content=content,
        headers={
            "User-Agent": f"batchflex/{__version__}",
            **({} if content is None else {"Content-Type": content_type}),
        },
        extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout_s)},
    )
    try:
        proxy = proxy_for(url)
        with httpx.HTTPTransport(proxy=proxy) as transport:
            response = transport.handle_request(request)
            words = _words(response, url)
            response.close()
    except httpx.TimeoutException:
        raise _Retryable(f"no answer within {timeout_s:.2g} s") from None
    except httpx.ProxyError:
        raise _Retryable("the proxy that the environment sets refuses") from None
    except httpx.ConnectError as error:
        if isinstance(_root(error), ssl.SSLCertVerificationError):
            raise _Failed("its certificate is not good") from None
        if isinstance(_root(error), ssl.SSLError):
            raise _Retryable("no TLS connection can be made") from None
        raise _Retryable(f"it cannot be reached: {_root(error)}") from None
    except httpx.TransportError:
        raise _Retryable("the connection was cut off") from None
    except (httpx.InvalidURL, ImportError, ValueError):  # of a proxy, as the URL itself is checked before
        raise _Failed("the proxy that the environment sets cannot be used") from None
    code = response.status_code
    if not 200 <= code < 300:
        kind = _Retryable if code in (408, 429) or code >= 500 else _Failed
        raise kind(f"it answered HTTP {code}" + (f" ({words})" if words else ""))


def _words(response: httpx.Response, url: str) -> str:
    """The beginning of the server's answer, without any part of the address."""
    body = b""
    if response.status_code >= 300:
        until = time.monotonic() + _WORDS_S
        for piece in response.iter_raw():
            body += piece
            if len(body) >= _BODY_BYTES or time.monotonic() > until:
                break
    text = " ".join(body[:_BODY_BYTES].decode("utf-8", "replace").split())
    return redacted(without(text, url))[:_MOST_WORDS] if text.isprintable() and not text.startswith("<") else ""


def without(text: str, url: str) -> str:
    """The text without the address and the parts of it that may be secret."""
    parts = urlsplit(url)
    pieces = {url, *parts.path.split("/"), *parts.query.replace("=", "&").split("&")}
    for piece in sorted((piece for piece in pieces if len(piece) >= 6), key=len, reverse=True):
        text = text.replace(piece, "***")
    return text


def _root(error: BaseException) -> BaseException:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
