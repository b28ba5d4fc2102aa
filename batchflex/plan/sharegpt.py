"""Conversations as ShareGPT has them, ``[{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]``, to messages. Pure.

What the model said at the end of a conversation is what is to be made anew, and is left out: in such data each of them ends in an
answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

COLUMN = "conversations"
_ROLES = {
    "human": "user", "user": "user", "prompter": "user",
    "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant", "model": "assistant", "bot": "assistant",
    "bing": "assistant", "bard": "assistant",
    "system": "system", "developer": "developer",
}  # fmt: skip
_FORMS = (("from", "value"), ("role", "content"))
_decode = msgspec.json.Decoder().decode


def messages(conversation: Any) -> list[dict[str, Any]]:
    """The messages up to the last turn that is not the model's. Turns may also have ``role`` and ``content``, and the list may be
    text in JSON.

    :raises ValueError: if that is no such conversation, or nothing is left of it.
    """
    if isinstance(conversation, str):
        try:
            conversation = _decode(conversation)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"{COLUMN!r} is a string, but not of JSON: {error}") from None
    if not isinstance(conversation, list) or not conversation:
        raise ValueError(f"{COLUMN!r} must be a list with at least one turn")
    found = [_message(turn, number) for number, turn in enumerate(conversation, 1)]
    while found and found[-1]["role"] == "assistant":
        del found[-1]
    if not any(message["role"] == "user" for message in found):
        raise ValueError(f"{COLUMN!r} has no turn of a human to be answered")
    return found


def _message(turn: Any, number: int) -> dict[str, Any]:
    for who, what in _FORMS:
        if isinstance(turn, Mapping) and isinstance(turn.get(who), str) and isinstance(turn.get(what), str):
            role = _ROLES.get(turn[who].lower())
            if role is None:
                raise ValueError(
                    f"turn {number} of {COLUMN!r} is from {turn[who]!r:.40}, which is no role of a chat; "
                    f"known are {', '.join(_ROLES)}"
                )
            return {"role": role, "content": turn[what]}
    raise ValueError(
        f"each turn of {COLUMN!r} must have 'from' and 'value' as text; found {turn!r:.60} (turn {number})"
    )
