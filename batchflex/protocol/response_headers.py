"""Headers of an answer other than rate limits: the id that the server gave the request, and what a gateway did. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec

from ..core import Answer, Usage
from .route import shares

# By which a server's people find a request again. That of the server itself comes before that of what stands in front.
_IDS = (
    b"x-litellm-call-id", b"x-request-id", b"request-id", b"x-amzn-requestid", b"apim-request-id", b"x-ms-request-id",
    b"mistral-correlation-id", b"nvcf-reqid", b"x-debug-trace-id", b"x-portkey-trace-id", b"cf-aig-log-id",
    b"x-correlation-id", b"x-trace-id", b"x-amz-cf-id", b"cf-ray",
)  # fmt: skip
_COSTS = (b"x-litellm-response-cost",)
_DEPLOYMENTS = (b"x-litellm-model-id", b"x-ms-deployment-name", b"x-portkey-provider")
_FALLBACKS = (b"x-litellm-attempted-fallbacks", b"cf-aig-step")
_RANK = {name: rank for rank, name in enumerate(_IDS)}
_GATEWAY = {name: at for at, names in enumerate((_COSTS, _DEPLOYMENTS, _FALLBACKS)) for name in names}
_SANE = re.compile(rb"[!-~]{1,128}")
_COST = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,20})?(?:[eE][+-]?[0-9]{1,2})?")
_SMALL = re.compile(rb"[0-9]{1,4}")


class Gateway(NamedTuple):
    """What a gateway says of an answer: what it cost in US dollars, which of several deployments or providers gave it, and how
    many others had been tried for it before. ``None`` where it does not say."""

    cost: float | None = None
    deployment: str | None = None
    fallbacks: int | None = None


NO_GATEWAY = Gateway()


class Facts(NamedTuple):
    """``request_id`` is at most 128 printable characters of ASCII, without spaces; what is no such id is none."""

    request_id: str | None
    has_limits: bool
    gateway: Gateway = NO_GATEWAY


NOTHING, _LIMITS = Facts(None, False), Facts(None, True)


def read(headers: Sequence[tuple[bytes, bytes]]) -> Facts:
    """What is said by headers, whose names may be in any case."""
    return facts([name for name, _ in headers], [value for _, value in headers])


def facts(names: Sequence[bytes], values: Sequence[bytes]) -> Facts:
    """As :func:`read`."""
    ids, of_gateway, tells = _telling(tuple(names))
    if not (ids or of_gateway):
        return _LIMITS if tells else NOTHING
    found = next((values[at] for at in ids if _SANE.fullmatch(values[at])), None)
    said: list[bytes | None] = [None, None, None]
    for at, kind in of_gateway:
        said[kind] = values[at]
    gateway = _gateway(*said) if of_gateway else NO_GATEWAY
    return Facts(found.decode("ascii") if found else None, tells, gateway)


@lru_cache(maxsize=256)
def _telling(names: tuple[bytes, ...]) -> tuple[list[int], list[tuple[int, int]], bool]:
    """Where the ids are, the best first, and what a gateway says; and whether there are limits. Headers have the same names from
    answer to answer, mostly."""
    lower = [name.lower() for name in names]
    ids = sorted((at for at, name in enumerate(lower) if name in _RANK), key=lambda at: _RANK[lower[at]])
    of_gateway = [(at, _GATEWAY[name]) for at, name in enumerate(lower) if name in _GATEWAY]
    return ids, of_gateway, any(b"ratelimit" in name for name in lower)


def _gateway(cost: bytes | None, deployment: bytes | None, fallbacks: bytes | None) -> Gateway:
    """LiteLLM writes the word ``None`` for what it does not know."""
    return Gateway(
        float(cost) if cost is not None and _COST.fullmatch(cost) else None,
        deployment.decode("ascii") if deployment not in (None, b"None") and _SANE.fullmatch(deployment) else None,
        int(fallbacks) if fallbacks is not None and _SMALL.fullmatch(fallbacks) else None,
    )


def credited(answers: list[Answer], gateway: Gateway) -> list[Answer]:
    """The answers with what the gateway says of them in headers, which comes before what may be the words of one behind it."""
    costs: list[float | None] = [gateway.cost] * len(answers)
    if len(answers) > 1 and gateway.cost is not None:
        weights = [answer.usage.total_tokens or 0 for answer in answers]
        costs = [share.cost for share in shares(Usage(cost=gateway.cost), weights)]
    return [
        msgspec.structs.replace(
            answer,
            usage=answer.usage if cost is None else msgspec.structs.replace(answer.usage, cost=cost),
            deployment=answer.deployment if gateway.deployment is None else gateway.deployment,
            fallbacks=gateway.fallbacks,
        )
        for answer, cost in zip(answers, costs, strict=True)
    ]


def spent(usage: Usage | None, gateway: Gateway) -> Usage | None:
    """What a broken answer has taken, as far as it says so itself."""
    if usage is None or gateway.cost is None:
        return usage
    return msgspec.structs.replace(usage, cost=gateway.cost or usage.cost)
