"""How a request ended, as a row: the only place that decides a row's status. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ..config import PricesSection, cost_usd
from ..core import Answer, AttemptError, Filtered, FormatFallback, Outcome, Proof, Request, Status
from ..protocol import Shapes, carried_on, cut_by, ending_of, given_up

_NOT_ASKED = Shapes()


class RowContext(NamedTuple):
    """What all rows of a run have in common. ``labels`` are the sweep points as JSON objects, by number.

    ``endpoint`` is for rows that were never sent anywhere, ``shapes`` what structured answers are held against. With
    ``allow_empty`` an answer without text is one.
    """

    run_id: str
    endpoint: str
    labels: tuple[str, ...]
    shapes: Shapes = _NOT_ASKED
    allow_empty: bool = False


class Verdict(NamedTuple):
    """How an answer is judged. ``error_type`` and ``complaint`` say what is wrong with it."""

    status: Status
    parsed: str | None = None
    error_type: str | None = None
    complaint: str | None = None


class Effort(NamedTuple):
    """What a row took: requests sent for it, when the first began and the last ended (µs since the epoch, UTC), and where.

    ``model`` is which it asked. ``format_fallback`` is how JSON was
    asked for in place of a format that the model refused, ``prices`` are those of the model where it was asked.
    """

    attempts: int
    started_at: int
    finished_at: int
    endpoint: str | None = None
    model: str | None = None
    format_fallback: FormatFallback | None = None
    prices: PricesSection | None = None


def answered(frame: RowContext, request: Request, effort: Effort, answer: Answer) -> Outcome:
    """The row of a complete answer: any status but ``failed``."""
    status, parsed, error_type, complaint = _judge(frame, request, answer)
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
        cost=usage.cost if effort.prices is None else cost_usd(effort.prices, usage),
        latency_s=answer.latency_s,
        ttft_s=answer.ttft_s,
        http_status=answer.http_status,
        error_type=error_type,
        error_message=complaint,
        response=answer.response.decode("utf-8", "replace"),
        request_id=answer.request_id,
        gateway_cost=usage.cost,
        gateway_deployment=answer.deployment,
        gateway_fallbacks=answer.fallbacks,
        cut_by=None if status == "ok" else cut_by(status, answer, request.max_tokens),
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


def unaskable(frame: RowContext, request: Request, fault: str, now: int) -> Outcome:
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


def _judge(frame: RowContext, request: Request, answer: Answer) -> Verdict:
    """Real text counts, whatever stands beside it: a refusal makes a row ``filtered`` if there is none, or if JSON was asked for
    and the text is not it."""
    ending = answer.ending or ("ok" if answer.finish_reason == "stop" else ending_of(answer.finish_reason))
    if ending == "filtered":
        return Verdict("filtered", None, "refusal" if answer.refusal else None, answer.refusal)
    if ending != "ok":
        return Verdict("truncated")
    if answer.tool_calls:
        return Verdict("ok")
    content = answer.content
    is_blank = not content or content.isspace()
    if is_blank and answer.refusal:
        return Verdict("filtered", None, "refusal", answer.refusal)
    parsed, complaint = frame.shapes.judge(request.body, content)
    if complaint is not None:
        refused = answer.refusal
        return (
            Verdict("filtered", None, "refusal", refused)
            if refused
            else Verdict("invalid", None, "invalid_answer", complaint)
        )
    if is_blank and parsed is None and not frame.allow_empty:
        return Verdict("empty", None, "empty_answer", _nothing(answer))
    return Verdict("ok", parsed)


def _nothing(answer: Answer) -> str:
    tokens = answer.usage.completion_tokens
    if answer.reasoning and not answer.reasoning.isspace():
        spent = "" if tokens is None else f", which took {tokens:,} tokens"
        return f"the answer has no text, only reasoning{spent}: more max_tokens may help"
    return "the answer has no text"
