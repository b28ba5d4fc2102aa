"""What a failure of the transport means for an attempt."""

from __future__ import annotations

import httpx

from ..core import AttemptError
from ..protocol import classify
from .connection import AnswerTooLarge
from .provider import Endpoint
from .transport import Proxy


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
