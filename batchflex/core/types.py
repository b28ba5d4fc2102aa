"""The nouns of a run: what goes in, what is sent, what comes back, what is kept.

All are frozen :class:`msgspec.Struct`; they carry no behaviour beyond what can be computed from their own fields.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "truncated", "filtered", "empty", "invalid", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "truncated", "filtered", "empty", "invalid", "failed")
# These need somebody's attention: a run with such rows exits with 1.
BAD: frozenset[Status] = frozenset({"empty", "invalid", "failed"})
# How an answer ended, whatever the server calls it; "again" is one that broke off.
Ending = Literal["ok", "truncated", "filtered", "again"]

# Why a request without an answer is itself to blame: see :mod:`batchflex.engine.failure_limit`.
Proof = Literal["words", "answers", "input"]

AttachmentKind = Literal["image", "pdf_text", "file_text"]
CutBy = Literal["limit", "server"]
FormatFallback = Literal["json_object", "prompt"]

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
Row = dict[str, JsonValue]


class Attachment(msgspec.Struct, frozen=True, gc=False):
    """A file that is put into a request when that is sent: not before, and only as it was when it was planned.

    ``token`` stands for it in the body; it holds the ``sha256`` of the file and the ``options`` that shape what is made of it, so
    that these are part of the request's key, and where the file lies is not. ``name`` is what the row calls it, ``path`` where
    it was found, ``size`` its bytes, ``tokens`` about how many tokens it takes. ``fault`` says why it cannot be sent; then nor
    can the request. A remote one has a ``url``, from which it is fetched then; its token holds that, and nothing else is known
    of it.
    """

    token: str
    kind: AttachmentKind
    name: str
    path: str = ""
    sha256: str = ""
    size: int = 0
    tokens: int = 0
    options: tuple[tuple[str, str | int], ...] = ()
    fault: str | None = None
    url: str = ""


class Item(msgspec.Struct, frozen=True, gc=False):
    """One row of the input, ready to be asked.

    ``contents`` holds for each prompt variant what the row adds to the request body: ``messages`` and any parameters of its own;
    ``files`` the files that are put into it, and nothing at all where no prompt has any.
    ``named`` says whether ``id`` is from the input or a hash of the row. ``fault`` is set, and ``contents`` empty, if no request
    can be made of the row. ``former`` is set if an earlier version made another request of the row, under whose key its answer
    may be stored. ``file`` and ``position`` are as in a request.
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
    files: tuple[tuple[Attachment, ...], ...] = ()


class Prefix(msgspec.Struct, frozen=True, gc=False):
    """How a request begins, as far as a server may cache that. Requests with one ``name`` begin alike.

    ``is_long`` says whether it is worth waiting until the server has cached it.
    """

    name: bytes
    is_long: bool


class Request(msgspec.Struct, frozen=True, gc=False):
    """One planned request: what is sent, and under which key its answer is kept.

    ``key`` identifies what is sent, ``slot`` what it is sent for (item, sweep point, sample), whatever is sent; both are 16
    bytes. ``body`` is the JSON object that is sent, without ``stream``. ``max_tokens`` is the limit that the body sets on the
    answer, ``None`` if it sets none. ``fault`` is set if the request cannot be sent. ``prefix`` is how it begins, if that
    matters for the order of requests. ``before`` is the outcome so far, if that answer was rejected or cut off and is to be
    requested again. In a retry ``retried_with`` are the parameters that it has set, as a JSON object, and ``stands`` is the
    status of the present answer, which another answer supersedes but a failure does not. ``model`` is that of the body. ``file``
    identifies the input file of the row together with what the job makes of its rows, and ``position`` is the row's number in
    that file, from 0; both are ``None`` if the rows come from a data frame, or the file cannot be recognised later. ``grown`` is
    how often the request was repeated with more tokens. ``files`` are those whose tokens in the body are replaced when it is
    sent.
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
    files: tuple[Attachment, ...] = ()

    @property
    def file_fault(self) -> str | None:
        """Why a file of it cannot be sent, if one cannot."""
        return next((file.fault for file in self.files if file.fault is not None), None)

    @property
    def file_tokens(self) -> int:
        """About how many tokens its files take."""
        return sum(file.tokens for file in self.files)


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens as the server counted them, and what it says they cost, in US dollars; ``None`` where it said nothing."""

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


class Outcome(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """How one request ended, for good: a row of the result. CONTRACT.md gives each field's meaning. The journal has the fields in
    this order: new ones come last.

    ``response`` are the bytes that came, UTF-8 or not. ``point`` is the sweep point as a JSON object, ``carry`` the carried input
    columns as one. Times are µs since the epoch, UTC. ``proof`` is set of a request that got no answer.
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
    response: bytes | None = None
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
