"""A further request after an answer that is invalid or was cut off: what is sent, and how the cost is added up. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from ..core import Answer, CutBy, Outcome, Request, Status
from .route import Route

_LONGEST = 10_000  # characters of the answer, or of a schema, that are shown to the model
_NEAR_TOKENS, _NEAR_SHARE = 8, 0.1  # an answer that ends so near to its limit has used it up: servers count differently

REASK_STATUSES = ("truncated", "empty", "invalid")

How = Literal["unfit", "grown", "streamed"]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Policy(NamedTuple):
    """Which answers are followed by a further request.

    An invalid one, up to ``most`` times; ``schema`` is the JSON Schema that answers must fit, if the server does not get it. One
    that was cut off by its limit, with twice as many tokens, up to ``grow_to``; 0 is never. With ``streams`` one that the server
    cut below its limit, as a stream.
    """

    most: int = 0
    schema: str | None = None
    grow_to: int = 0
    streams: bool = False

    @property
    def wants_reasks(self) -> bool:
        return self.most > 0 or self.grow_to > 0 or self.streams

    @classmethod
    def made(cls, most: int, schema: Mapping[str, Any] | None, grow_to: int, *, streams: bool) -> Policy:
        """As a job has it. A very long schema is not shown to the model."""
        text = None if schema is None else _encode(schema).decode()
        return cls(most, text if text is not None and len(text) <= _LONGEST else None, grow_to, streams)

    def reopens(self, rows: Mapping[str, int]) -> bool:
        """Whether a finished job may have something to ask under this policy. ``rows`` counts its rows by their status."""
        unfit = self.most > 0 and rows.get("invalid", 0) > 0
        return unfit or (self.grow_to > 0 and any(rows.get(status, 0) > 0 for status in REASK_STATUSES))


def cut_by(status: Status, answer: Answer, limit: int | None) -> CutBy | None:
    """What cut an answer off: the ``limit`` of its request, or the server although there was more of that left; ``None`` if
    nothing did. An answer that is empty or does not fit was cut off if its tokens were used up, or went into reasoning."""
    if status not in REASK_STATUSES:
        return None
    used = answer.usage.completion_tokens
    used_up = used is not None and limit is not None and used >= limit
    if status == "truncated":
        is_short = used is not None and limit is not None and used + max(_NEAR_TOKENS, _NEAR_SHARE * limit) < limit
        return "server" if is_short else "limit"
    reasoned = bool((answer.reasoning or "").strip()) or bool(answer.usage.reasoning_tokens)
    is_blank = not (answer.content or "").strip()
    return "limit" if used_up or (is_blank and reasoned) else None


def further(request: Request, before: Outcome, policy: Policy, route: Route) -> Request | None:
    """The request that follows an answer that is invalid or was cut off; ``None`` if no further one is allowed.

    ``request`` is the one that was planned, however many were sent before. After an invalid answer the conversation goes on with
    that answer and what is wrong with it. After one that was cut off the request is repeated.
    """
    body, planned = _decode(request.body), request.max_tokens
    retried_with = request.retried_with or before.retried_with
    if request.retried_with is None and retried_with is not None:  # a retry was killed before the answer that fits
        body |= _decode(retried_with)
        planned = route.answer_limit(body)
    how = _how(before, policy, planned)
    if how is None:
        return None
    limit = max(planned or 0, before.answer_limit or 0) or None
    if how == "grown":
        limit = min(2 * (limit or before.completion_tokens or 1), policy.grow_to)
    elif how == "unfit" and not route.replied(body, *_complaint(before, policy)):
        return None
    if limit is not None and limit != planned:
        names = [name for name in route.limits if body.get(name) is not None] or route.limits[:1]
        body |= dict.fromkeys(names, limit)
    grown = _grown(before, planned) + (how == "grown")
    return msgspec.structs.replace(
        request,
        body=_encode(body),
        max_tokens=limit,
        before=before,
        stands=None,
        retried_with=retried_with,
        grown=grown,
    )


def _how(before: Outcome, policy: Policy, planned: int | None) -> How | None:
    """What kind of request follows this answer; ``planned`` is the limit that the plan sets."""
    if before.cut_by == "server":
        return "streamed" if policy.streams and before.ttft_s is None else None
    limit = before.answer_limit or planned or before.completion_tokens
    is_cut = before.cut_by == "limit" or (before.status == "truncated" and before.answer_limit is None)
    if is_cut and policy.grow_to > (limit or 0):
        return "grown"
    return "unfit" if before.status == "invalid" and before.reasks - _grown(before, planned) < policy.most else None


def _grown(before: Outcome, planned: int | None) -> int:
    """How often this was asked again with more tokens, which uses up none of ``max_reasks``. Parts of format 1 do not tell."""
    if before.grown is not None:
        return before.grown
    times, limit = 0, planned or 0
    while 0 < limit < (before.answer_limit or 0) and times < before.reasks:
        limit, times = 2 * limit, times + 1
    return times


def _complaint(before: Outcome, policy: Policy) -> tuple[str, str]:
    """The answer that does not fit, and what is said to it."""
    answer = (before.content or "")[:_LONGEST] or "(no text)"
    complaint = before.error_message or "it does not fit"
    asked = f" (asked {before.reasks + 1} times so far)" if before.reasks else ""  # never the same request twice
    wanted = "the JSON" if policy.schema is None else f"JSON that fits this schema: {policy.schema}"
    return answer, f"Your answer cannot be used: {complaint}. Answer again{asked}, with nothing but {wanted}."


def carried_on(made: Outcome, before: Outcome) -> Outcome:
    """The outcome of a further request after ``before``, with the usage of all answers before it."""
    return msgspec.structs.replace(
        made,
        reasks=before.reasks + 1,
        reask_prompt_tokens=_sum(before.reask_prompt_tokens, before.prompt_tokens),
        reask_completion_tokens=_sum(before.reask_completion_tokens, before.completion_tokens),
        reask_cost=_sum(before.reask_cost, before.cost),
    )


def given_up(made: Outcome, before: Outcome) -> Outcome:
    """The outcome when a further request after ``before`` has failed for good: that answer, and why there is no other."""
    return msgspec.structs.replace(
        before,
        attempts=made.attempts,
        started_at=made.started_at,
        finished_at=made.finished_at,
        run_id=made.run_id,
        proof=made.proof,
        error_message=f"{before.error_message or 'the answer was cut off'}; asking again failed: {made.error_message}",
    )


def _sum(one: float | None, two: float | None) -> float | None:
    return two if one is None else one if two is None else one + two
