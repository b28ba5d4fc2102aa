"""The nouns of a run: what goes in, what is sent, what comes back, what is kept.

All are frozen :class:`msgspec.Struct`; they carry no behaviour beyond what can be computed from their own fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "truncated", "filtered", "empty", "invalid", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "truncated", "filtered", "empty", "invalid", "failed")
# What a row that ends so needs: somebody's attention. A run with such rows exits with 1.
BAD: frozenset[Status] = frozenset({"empty", "invalid", "failed"})
# How an answer ended, whatever word the server has for it; "again" is one that broke off.
Ending = Literal["ok", "truncated", "filtered", "again"]

# Why a request that got no answer is itself to blame for it: see :mod:`batchflex.engine.failure_limit`.
Proof = Literal["words", "answers", "input"]

CutBy = Literal["limit", "server"]
FormatFallback = Literal["json_object", "prompt"]

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
Row = dict[str, JsonValue]


class Item(msgspec.Struct, frozen=True, gc=False):
    """One row of the input, ready to be asked.

    ``contents`` holds for each prompt variant what the row brings to the request body: ``messages`` and any
    parameters of its own. ``named`` tells whether ``id`` came from the input or is a hash of the row.
    ``fault`` is set, and ``contents`` empty, when no request can be made of the row. ``former`` is set where a version before
    made another request of the row, under whose key it may have its answer. ``file`` and ``position`` are as in a request.
    """

    row: int
    id: str
    named: bool
    contents: tuple[Row, ...]
    carry: str | None
    fault: str | None = None
    former: Row | None = None
    file: int | None = None
    position: int | None = None


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """How a request begins, as far as a server may keep that for others. Those of one ``name`` begin alike.

    ``is_long`` tells whether it is worth waiting until the server has it.
    """

    name: bytes
    is_long: bool


class Request(msgspec.Struct, frozen=True, gc=False):
    """One planned request: what is sent, and under which key its answer is kept.

    ``key`` identifies what is sent, ``slot`` the place it fills (item, sweep point, sample) whatever is sent there;
    both are 16 bytes. ``body`` is the JSON object that goes out, without ``stream``. ``max_tokens`` is the limit the
    body sets on the answer, ``None`` if it sets none. ``fault`` is set when the request cannot be sent. ``prefix`` is what it
    begins with, if that matters for the order of requests. ``before`` is set when the answer that there is did not
    fit, or was cut off, and is to be asked for again. In a retry ``retried_with`` are the parameters it has set, as a JSON
    object, and ``stands`` is the status of the answer that there is already: it is superseded by another, not by a failure.
    ``model`` is which the body names. ``file`` stands for the input file of the row and for what the job makes of its rows, and
    ``position`` is where in that file the row is, from 0; ``None`` of a frame, and where the file cannot be known
    again. ``grown`` is how often it was asked again with more tokens.
    """

    key: bytes
    slot: bytes
    id: str
    row: int
    point: int
    sample: int
    body: bytes
    max_tokens: int | None
    carry: str | None
    fault: str | None = None
    prefix: Prefix | None = None
    before: Outcome | None = None
    stands: Status | None = None
    retried_with: str | None = None
    model: str = ""
    file: int | None = None
    position: int | None = None
    grown: int = 0


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the server counted them, and what it says they cost, in US dollars; ``None`` where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: float | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A complete answer to one attempt. ``response`` is the raw JSON (of a stream: put together to the same shape),
    ``request_id`` what the server called the attempt, if it said; ``deployment`` and ``fallbacks`` are what a gateway says of
    where it came from. ``refusal`` are the model's words where it refused in place of answering. ``ending`` is set where the
    finish reason alone does not tell how the answer ended."""

    content: str | None
    reasoning: str | None
    tool_calls: str | None
    finish_reason: str | None
    model: str | None
    usage: Usage
    response: bytes
    http_status: int
    latency_s: float
    ttft_s: float | None
    request_id: str | None = None
    deployment: str | None = None
    fallbacks: int | None = None
    refusal: str | None = None
    ending: Ending | None = None


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How one request ended, for good: a row of the result. CONTRACT.md gives each field's meaning.

    ``point`` is the sweep point as a JSON object, ``carry`` the carried input columns as one. Times are µs since
    the epoch, UTC. ``proof`` is set of a request that got no answer.
    """

    key: str
    slot: str
    id: str
    row: int
    sample: int
    status: Status
    attempts: int
    started_at: int
    finished_at: int
    endpoint: str
    run_id: str
    content: str | None = None
    reasoning: str | None = None
    tool_calls: str | None = None
    parsed: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: float | None = None
    latency_s: float | None = None
    ttft_s: float | None = None
    http_status: int | None = None
    error_type: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    response: str | None = None
    reasks: int = 0
    reask_prompt_tokens: int | None = None
    reask_completion_tokens: int | None = None
    reask_cost: float | None = None
    retried_with: str | None = None
    request_id: str | None = None
    requested_model: str | None = None
    gateway_cost: float | None = None
    gateway_deployment: str | None = None
    gateway_fallbacks: int | None = None
    answer_limit: int | None = None
    cut_by: CutBy | None = None
    format_fallback: FormatFallback | None = None
    point: str = "{}"
    carry: str | None = None
    proof: Proof | None = None
    file: int | None = None
    position: int | None = None
    grown: int | None = None
