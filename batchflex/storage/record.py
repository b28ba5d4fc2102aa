"""How a request ended, as a row. The status of an answered one is its route's verdict. Pure."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from ..config import PricesSection, cost_usd
from ..core import Answer, AttemptError, Filtered, FormatFallback, Outcome, Proof, Request, Usage
from ..protocol import CHAT, Route, Shapes, Verdict, carried_on, cut_by, given_up

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


class Effort(msgspec.Struct, frozen=True, gc=False):
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
    made = _outcome(frame, request, effort, answer, verdict)
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
    made = msgspec.structs.replace(
        _outcome(frame, request, effort, _NONE, Verdict("filtered" if is_filtered else "failed")),
        http_status=error.http_status,
        error_type=error.error_type,
        error_code=error.error_code,
        error_message=error.message,
        response=error.body,
        request_id=error.request_id,
        proof=None if is_filtered else proof,
    )
    return made if request.before is None else given_up(made, request.before)


def unsendable(frame: RowContext, request: Request, fault: str, now: int) -> Outcome:
    """The row of an input row that no request can be made of, or none that may be sent."""
    made = _outcome(frame, request, Effort(0, now, now), _NONE, Verdict("failed", None, "input", fault))
    return msgspec.structs.replace(made, proof="input")


def stays(request: Request, made: Outcome) -> bool:
    """Whether the answer that there is already remains the row, as asking again has brought none."""
    return request.stands not in (None, "failed") and made.latency_s is None


_NONE = Answer(None, None, None, None, None, Usage(), None, None, None, None)  # type: ignore[arg-type]  # nothing came


def _outcome(frame: RowContext, request: Request, effort: Effort, answer: Answer, verdict: Verdict) -> Outcome:
    """In the order of the fields, as names take seven times as long."""
    usage, status = answer.usage, verdict.status
    return Outcome(
        request.key.hex(), request.slot.hex(), request.id, request.row, request.sample, status,
        effort.attempts, effort.started_at, effort.finished_at, effort.endpoint or frame.endpoint, frame.run_id,
        answer.content, answer.reasoning, answer.tool_calls, verdict.parsed, answer.finish_reason, answer.model,
        usage.prompt_tokens, usage.completion_tokens, usage.total_tokens,
        usage.cache_read_input_tokens, usage.cache_creation_input_tokens, usage.reasoning_tokens,
        usage.cost if effort.prices is None else cost_usd(effort.prices, usage),
        answer.latency_s, answer.ttft_s, answer.http_status, verdict.error_type, None, verdict.complaint, answer.response,
        0, None, None, None, request.retried_with,  # reasks
        answer.request_id, (effort.model or None) if effort.attempts else None,
        usage.cost, answer.deployment, answer.fallbacks, request.max_tokens,
        None if status == "ok" else cut_by(status, answer, request.max_tokens), effort.format_fallback,
        frame.labels[request.point], request.carry, None, request.file, request.position,
        None if request.before is None else request.grown,
    )  # fmt: skip
