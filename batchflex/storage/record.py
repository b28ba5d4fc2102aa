"""How a request ended, as a row. The status of an answered one is its route's verdict. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ..config import PricesSection, cost_usd
from ..core import Answer, AttemptError, Filtered, FormatFallback, Outcome, Proof, Request, Status
from ..protocol import CHAT, Route, Shapes, carried_on, cut_by, given_up

_NOT_ASKED = Shapes()


class RowContext(NamedTuple):
    """What all rows of a run have in common. ``labels`` are the sweep points as JSON objects, by number. ``endpoint`` is for rows
    that were never sent anywhere, ``shapes`` are the schemas of structured answers. With ``allow_empty`` an answer may have no
    text."""

    run_id: str
    endpoint: str
    labels: tuple[str, ...]
    shapes: Shapes = _NOT_ASKED
    allow_empty: bool = False
    route: Route = CHAT


class Effort(NamedTuple):
    """What a row took: requests sent for it, when the first began and the last ended (µs since the epoch, UTC), to which
    ``endpoint`` and ``model``, at which ``prices``. ``format_fallback`` is how JSON was asked for in place of a format that the
    model refused."""

    attempts: int
    started_at: int
    finished_at: int
    endpoint: str | None = None
    model: str | None = None
    format_fallback: FormatFallback | None = None
    prices: PricesSection | None = None


def answered(frame: RowContext, request: Request, effort: Effort, answer: Answer) -> Outcome:
    """The row of a complete answer: any status but ``failed``."""
    verdict = frame.route.verdict(answer, request.body, frame.shapes, allow_empty=frame.allow_empty)
    status = verdict.status
    usage = answer.usage
    made = _outcome(
        frame,
        request,
        effort,
        status=status,
        content=answer.content,
        reasoning=answer.reasoning,
        tool_calls=answer.tool_calls,
        parsed=verdict.parsed,
        finish_reason=answer.finish_reason,
        model=answer.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        cache_read_input_tokens=usage.cache_read_input_tokens,
        cache_creation_input_tokens=usage.cache_creation_input_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost=usage.cost if effort.prices is None else cost_usd(effort.prices, usage),
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        http_status=answer.http_status,
        error_type=verdict.error_type,
        error_message=verdict.complaint,
        response=answer.response.decode("utf-8", "replace"),
        request_id=answer.request_id,
        gateway_cost=usage.cost,
        gateway_deployment=answer.deployment,
        gateway_fallbacks=answer.fallbacks,
        cut_by=None if status == "ok" else cut_by(status, answer, request.max_tokens),
        format_fallback=effort.format_fallback,
    )
    return made if request.before is None else carried_on(made, request.before)


def with_verdict(outcome: Outcome, parsed: str | None, complaint: str | None) -> Outcome:
    """The row of an answer that is there, with another verdict."""
    return msgspec.structs.replace(
        outcome,
        status="ok" if complaint is None else "invalid",
        parsed=parsed,
        error_type="invalid_answer" if complaint else None,
        error_message=complaint,
    )


def failed(
    frame: RowContext, request: Request, effort: Effort, error: AttemptError, proof: Proof = "answers"
) -> Outcome:
    """The row of a request that has no answer and gets none, ``filtered`` if that is for its content; an earlier answer that
    did not fit is kept. ``proof`` is why that is the row's own fault."""
    is_filtered = isinstance(error, Filtered)
    made = _outcome(
        frame,
        request,
        effort,
        status="filtered" if is_filtered else "failed",
        http_status=error.http_status,
        error_type=error.error_type,
        error_code=error.error_code,
        error_message=error.message,
        response=None if error.body is None else error.body.decode("utf-8", "replace"),
        request_id=error.request_id,
        proof=None if is_filtered else proof,
    )
    return made if request.before is None else given_up(made, request.before)


def unsendable(frame: RowContext, request: Request, fault: str, now: int) -> Outcome:
    """The row of an input row that no request can be made of, or none that may be sent."""
    return _outcome(
        frame, request, Effort(0, now, now), status="failed", error_type="input", error_message=fault, proof="input"
    )


def stays(request: Request, made: Outcome) -> bool:
    """Whether the answer that there is already remains the row, as asking again has brought none."""
    return request.stands not in (None, "failed") and made.latency_s is None


def _outcome(frame: RowContext, request: Request, effort: Effort, status: Status, **fields: Any) -> Outcome:
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
        requested_model=(effort.model or None) if effort.attempts else None,
        answer_limit=request.max_tokens,
        file=request.file,
        position=request.position,
        grown=None if request.before is None else request.grown,
        **fields,
    )
