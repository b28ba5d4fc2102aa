"""What is sent for a row after an answer that does not fit, or after a refusal of the format that was asked for."""

from __future__ import annotations

from ..core import AttemptError, Event, FormatFallback, Outcome, Request
from ..protocol import BLAMELESS, Policy, Route, failure_text, reask
from .accounting import Accounting
from .endpoint_state import EndpointState
from .engine_member import Member
from .pending_row import PendingRow


class FurtherRequests:
    """Makes the next request of a row, and says what an endpoint does otherwise than asked, once."""

    def __init__(self, reasks: Policy, route: Route, accounting: Accounting, member: Member) -> None:
        self._reasks, self._route = reasks, route
        self._accounting = accounting
        self._emit, self._stop = member.emit, member.stop

    def after_answer(self, row: PendingRow, state: EndpointState, made: Outcome) -> PendingRow | None:
        """What to send after an answer that does not fit or was cut off; ``None`` if it is the last."""
        before, can_stream = row.request.before, state.endpoint.stream == "auto"
        after_cut = before is not None and before.cut_by == "server" and can_stream
        if before is not None and after_cut and state.quirks.streamed(before, made):
            self._note(
                f"{state.endpoint.name}: an answer was cut off at {made.completion_tokens:,} tokens when streamed, too: such "
                "answers stay truncated"
            )
        if made.cut_by == "server" and made.ttft_s is None:
            known = state.quirks.unstreamed_tokens
            if not (can_stream and state.quirks.cut_unstreamed(made)):
                return None
            if known is None:
                self._note(
                    f"{state.endpoint.name} cuts answers that are not streamed at {made.completion_tokens:,} tokens, below their "
                    "max_tokens: from now on longer ones are streamed there, and this one is asked for again"
                )
        request = reask.further(row.planned, made, self._reasks, self._route)
        return None if request is None else self._next(row, request)

    def _next(self, row: PendingRow, request: Request) -> PendingRow:
        """The row again, with another request."""
        further = PendingRow(row.planned, request, self._accounting.cost(request))
        further.started_at, further.sent_before = row.started_at, row.sent_before + row.tries.sent
        return further

    def in_another_format(
        self, row: PendingRow, state: EndpointState, sent_as: FormatFallback | None, fault: AttemptError
    ) -> PendingRow | None:
        """What to send after a refusal of the response format that this was ``sent_as``; ``None`` if the run stops for it."""
        name = f"{state.endpoint.name}: {state.endpoint.model or row.request.model}"
        was = state.quirks.adapted(row.request, self._route)[1]
        instead = state.quirks.refused(row.request, sent_as, fault)
        if instead is None:
            todo = 'answer.fallback is "stop"; with "json_object" or "prompt" it is asked without, and validated here'
            said = failure_text.appended(fault)
            self._stop("format", f"{name} refuses the response_format" + said + f"; {todo}{BLAMELESS}")
            return None
        if instead != was:
            how = "response_format json_object" if instead == "json_object" else "words alone"
            what = f"asked with {how} and the schema in the system message, validated here"
            self._note(f"{name} refuses the response_format; {what}")
        return self._next(row, row.request)

    def _note(self, words: str) -> None:
        self._emit(Event("note", words, level="warning"))
