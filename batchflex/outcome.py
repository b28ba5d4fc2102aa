"""How a request ended, as a row: the only place that decides a row's status. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from .budget import price_usd
from .errors import AttemptError
from .model import Answer, FormatFallback, Outcome, Request, Status
from .reask import carried_on, cut_by, given_up
from .sections import PricesSection
from .structured import Shapes

_TRUNCATED = {"length", "max_tokens"}
_FILTERED = {"content_filter", "safety"}
_NOT_ASKED = Shapes()


class Frame(NamedTuple):
    """What all rows of a run have in common. ``labels`` are the sweep points as JSON objects, by number.

    ``endpoint`` is for rows that were never sent anywhere, ``shapes`` what structured answers are held against.
    """

    run_id: str
    endpoint: str
    labels: tuple[str, ...]
    shapes: Shapes = _NOT_ASKED


class Effort(NamedTuple):
    """What a row took: requests sent for it, when the first began and the last ended (µs since the epoch, UTC), and where.
    ``format_fallback`` is how JSON was asked for in place of a format that the model refused, ``prices``
    are those of the model where it was asked."""

    attempts: int
    started_at: int
    finished_at: int
    endpoint: str | None = None
    format_fallback: FormatFallback | None = None
    prices: PricesSection | None = None


def answered(frame: Frame, request: Request, effort: Effort, answer: Answer) -> Outcome:
    """The row of a complete answer: ``ok``, ``truncated``, ``filtered`` or ``invalid``."""
    status, parsed, complaint = _judge(frame.shapes, request, answer)
    usage = answer.usage
    made = _outcome(
        frame,
        request,
        effort,
        status=status,
        content=answer.content,
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls,
        parsed=parsed,
        finish_reason=answer.finish_reason,
        model=answer.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost=price_usd(effort.prices, usage) if effort.prices else None,
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        http_status=answer.http_status,
        error_type="invalid_answer" if complaint else None,
        error_message=complaint,
        response=answer.response.decode("utf-8", "replace"),
        request_id=answer.request_id,
        cut_by=cut_by(status, answer, request.max_tokens),
        format_fallback=effort.format_fallback,
    )
    return made if request.before is None else carried_on(made, request.before)


def read_anew(outcome: Outcome, parsed: str | None, complaint: str | None) -> Outcome:
    """The row of an answer that is there, judged anew."""
    return msgspec.structs.replace(
        outcome,
        status="ok" if complaint is None else "invalid",
        parsed=parsed,
        error_type="invalid_answer" if complaint else None,
        error_message=complaint,
    )


def failed(frame: Frame, request: Request, effort: Effort, error: AttemptError) -> Outcome:
    """The row of a request that has no answer and gets none; an earlier one that did not fit is kept."""
    made = _outcome(
        frame,
        request,
        effort,
        status="failed",
        http_status=error.http_status,
        error_type=error.error_type,
        error_code=error.error_code,
        error_message=error.message,
        response=None if error.body is None else error.body.decode("utf-8", "replace"),
        request_id=error.request_id,
    )
    return made if request.before is None else given_up(made, request.before)


def unaskable(frame: Frame, request: Request, fault: str, now: int) -> Outcome:
    """The row of an input row that no request can be made of, or none that may be sent."""
    return _outcome(frame, request, Effort(0, now, now), status="failed", error_type="input", error_message=fault)


def stays(request: Request, made: Outcome) -> bool:
    """Whether the answer that there is already remains the row, as asking again has brought none."""
    return request.stands not in (None, "failed") and made.status == "failed"


def _outcome(frame: Frame, request: Request, effort: Effort, status: Status, **fields: Any) -> Outcome:
    return Outcome(
        key=request.key.hex(),
        slot=request.slot.hex(),
        id=request.id,
        row=request.row,
        sample=request.sample,
        status=status,
        attempts=effort.attempts,
        started_at=effort.started_at,
        finished_at=effort.finished_at,
        endpoint=effort.endpoint or frame.endpoint,
        run_id=frame.run_id,
        point=frame.labels[request.point],
        carry=request.carry,
        retried_with=request.retried_with,
        answer_limit=request.max_tokens,
        **fields,
    )


def _judge(shapes: Shapes, request: Request, answer: Answer) -> tuple[Status, str | None, str | None]:
    if answer.finish_reason in _TRUNCATED:
        return "truncated", None, None
    if answer.finish_reason in _FILTERED:
        return "filtered", None, None
    if answer.tool_calls:
        return "ok", None, None
    parsed, complaint = shapes.judge(request.body, answer.content)
    return ("ok" if complaint is None else "invalid"), parsed, complaint
