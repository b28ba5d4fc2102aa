"""Headers of an answer other than rate limits: the id that the server gave the request, and what a gateway did. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def read(headers: Sequence[tuple[bytes, bytes]]) -> Facts:
    """One pass over the headers, whose names may be in any case."""
    best, found, tells = len(_IDS), b"", False
    of_gateway: list[bytes | None] | None = None
    for name, value in headers:
        name = name.lower()
        if name in _RANK:
            if _RANK[name] < best and _SANE.fullmatch(value):
                best, found = _RANK[name], value
        elif name in _GATEWAY:
            of_gateway = of_gateway or [None, None, None]
            of_gateway[_GATEWAY[name]] = value
        elif b"ratelimit" in name:
            tells = True
    gateway = NO_GATEWAY if of_gateway is None else _gateway(*of_gateway)
    return Facts(found.decode("ascii") if found else None, tells, gateway)


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
