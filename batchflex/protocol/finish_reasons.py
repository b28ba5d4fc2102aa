"""How an answer ended, in the words of any server: the one table of finish reasons. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..core import Answer, Ending
from . import classify


def _ended(**words: str) -> dict[str, Ending]:
    return {word: ending for ending, named in words.items() for word in named.split()}  # type: ignore[misc]  # the names of arguments are plain text to mypy


# What servers call it, in lower case and with "_" for "-". Any other word is an answer that came to its end.
ENDINGS = _ended(
    ok="stop end_turn stop_sequence eos eos_token complete completed tool_calls tool_call tool_use function_call",
    truncated="length max_tokens max_length max_output_tokens max_completion_tokens model_length token_limit length_limit "
    "context_length context_length_exceeded context_window_exceeded model_context_window_exceeded error_limit repetition",
    filtered="content_filter content_filtered safety recitation sensitive refusal prohibited_content blocklist spii language "
    "image_safety image_prohibited_content error_toxic guardrail_intervened guardrails moderation blocked flagged risk",
    again="error abort aborted cancel cancelled canceled user_cancel timeout time_limit network_error connection_error "
    "upstream_error server_error internal_error provider_error engine_error failed interrupted overloaded preempted "
    "insufficient_system_resource malformed_function_call malformed_response unexpected_tool_call",
)
NO_WORDS: Mapping[str, Ending] = {}


def plain_word(word: str) -> str:
    """A finish reason as :data:`ENDINGS` has it: ``FINISH_REASON_MAX-TOKENS`` is ``max_tokens``."""
    word = word.strip().lower().replace("-", "_").replace(" ", "_")
    return word.removeprefix("finishreason.").removeprefix("finish_reason_")


def ending_of(finish_reason: str | None, own: Mapping[str, Ending] = NO_WORDS) -> Ending:
    """How an answer ended that has this finish reason; ``own`` are words of the endpoint, each a :func:`plain_word`."""
    if finish_reason is None or (finish_reason == "stop" and not own):
        return "ok"
    word = plain_word(finish_reason)
    return own.get(word) or ENDINGS.get(word, "ok")


def ended(answer: Answer, max_tokens: int | None, own: Mapping[str, Ending] = NO_WORDS) -> Answer:
    """The answer, with its ending where the finish reason alone does not determine it.

    One without a finish reason is truncated if it is as long as the request allows.

    :raises Transient: if it broke off.
    """
    reason, tokens = answer.finish_reason, answer.usage.completion_tokens
    if not reason:
        is_cut = max_tokens is not None and tokens is not None and tokens >= max_tokens
        return msgspec.structs.replace(answer, ending="truncated") if is_cut else answer
    ending = ending_of(reason, own)
    if ending == "again":
        words = f"the answer broke off: the server gives {reason!r} as its finish reason"
        raise classify.broke_off(words, answer.response, answer.http_status)
    return msgspec.structs.replace(answer, ending=ending) if own else answer
