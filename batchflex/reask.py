"""Asking again when an answer does not fit: what is said to the model, and how what that cost is carried along. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from .job import AnswerSection
from .model import Outcome, Request
from .params import answer_limit

_LONGEST = 10_000  # characters of the answer, or of a schema, that are shown to the model

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Policy(NamedTuple):
    """How often is asked again at most. ``schema`` is what answers must fit, as JSON, if the server is not told of it."""

    most: int = 0
    schema: str | None = None


def policy(answer: AnswerSection) -> Policy:
    """That of a job."""
    schema = None if answer.json_schema is None else _encode(answer.json_schema).decode()
    return Policy(answer.max_reasks, schema if schema is not None and len(schema) <= _LONGEST else None)


def further(request: Request, before: Outcome, policy: Policy) -> Request | None:
    """The request that follows an answer that does not fit; ``None`` if the answer fits, or no further one is allowed.

    ``request`` is the one that was planned: the conversation goes on from its messages with the last answer and what is
    wrong with it, however often it was asked before.
    """
    if before.status != "invalid" or before.reasks >= policy.most:
        return None
    body, limit = _decode(request.body), request.max_tokens
    retried_with = request.retried_with or before.retried_with
    if request.retried_with is None and retried_with is not None:  # a retry was killed before the answer that fits
        body |= _decode(retried_with)
        limit = answer_limit(body)
    answer = (before.content or "")[:_LONGEST] or "(no text)"
    complaint = before.error_message or "it does not fit"
    asked = f" (asked {before.reasks + 1} times so far)" if before.reasks else ""  # never the same request twice
    wanted = "the JSON" if policy.schema is None else f"JSON that fits this schema: {policy.schema}"
    body["messages"] = [
        *body["messages"],
        {"role": "assistant", "content": answer},
        {
            "role": "user",
            "content": f"Your answer cannot be used: {complaint}. Answer again{asked}, with nothing but {wanted}.",
        },
    ]
    return msgspec.structs.replace(
        request, body=_encode(body), max_tokens=limit, before=before, stands=None, retried_with=retried_with
    )


def carried_on(made: Outcome, before: Outcome) -> Outcome:
    """The outcome of asking again after ``before``, with what all answers before it took."""
    return msgspec.structs.replace(
        made,
        reasks=before.reasks + 1,
        reask_prompt_tokens=_sum(before.reask_prompt_tokens, before.prompt_tokens),
        reask_completion_tokens=_sum(before.reask_completion_tokens, before.completion_tokens),
        reask_cost=_sum(before.reask_cost, before.cost),
    )


def given_up(made: Outcome, before: Outcome) -> Outcome:
    """What is kept when asking again after ``before`` has failed for good: that answer, and why there is no other."""
    return msgspec.structs.replace(
        before,
        attempts=made.attempts,
        started_at=made.started_at,
        finished_at=made.finished_at,
        run_id=made.run_id,
        proof=made.proof,
        error_message=f"{before.error_message}; asking again failed: {made.error_message}",
    )


def _sum(one: float | None, two: float | None) -> float | None:
    return two if one is None else one if two is None else one + two
