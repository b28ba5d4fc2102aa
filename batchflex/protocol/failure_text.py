"""What went wrong, in sentences for whoever runs a job. Pure.

Each is a :class:`~batchflex.core.message.Message`: the words of a server stand apart in it.
"""

from __future__ import annotations

from typing import Any

from ..core import AttemptError, Message, RunFault, StopReason, brief, named
from .classify import KEY_COMMAND, NO_KEY, PROXY

_ADVICE: dict[StopReason, tuple[str, str]] = {
    "key": ("the endpoint refuses the key", ""),
    "credit": ("the credit is spent", "top up"),
    "model": (
        "the endpoint does not have the model",
        "correct params.model, sweep.model or --model; `batchflex check` lists what there is",
    ),
    "url": ("there are no {} at this address", "correct the base URL; it mostly ends in /v1"),
}


def silence(fault: AttemptError, tried: int) -> Message:
    """A sentence on an endpoint of which nothing whole has come: after ``tried`` attempts at one row it failed likewise to answer
    a request for one token."""
    begins = fault.http_status is not None and 200 <= fault.http_status < 300
    what = "gives no whole answer" if begins else "does not answer"
    return f"the endpoint {what}: " + why(fault) + f" (after {tried} attempts at one row)"


def why(fault: AttemptError) -> Message:
    """What went wrong, in the server's words where it said any."""
    return Message(fault.message, unquoted(fault))


def appended(fault: AttemptError, more: str = "") -> Message:
    """As :func:`why`, to follow what was made of it: in the server's words after a colon, else in brackets."""
    return Message(f": {fault.message}{more}", f" ({unquoted(fault)})")


def unquoted(fault: AttemptError) -> str:
    """What went wrong, without the server's words."""
    return brief(fault.http_status, fault.error_type, fault.error_code, fault.message)


def facts(fault: AttemptError) -> dict[str, Any]:
    """What is known of a failure, for a log."""
    names = ("http_status", "error_type", "error_code", "request_id", "rule")
    return named({name: getattr(fault, name) for name in names})


def advice(fault: RunFault, *, key_from: str | None) -> Message:
    """A sentence for whoever runs the job. ``key_from`` is where the key came from, ``None`` if none was sent."""
    if fault.error_type == "api_key_command":
        return Message(fault.message, NO_KEY) + "; run that command by hand to see why"
    if fault.error_type == PROXY:
        return Message.of(fault.message)
    head, todo = _ADVICE[fault.reason]
    if (fault.rule or "").startswith("model_denied"):
        head = "the endpoint does not let this key use the model"
        todo = "name another in params.model, sweep.model or --model (`batchflex check` lists them), or have the key allowed"
    if fault.reason == "key" and key_from is not None:
        is_printed = key_from == KEY_COMMAND
        todo = f"the key came from {key_from}: {'see that it prints a valid key' if is_printed else 'set a valid key there'}"
    elif fault.reason == "key":
        head = "the endpoint wants a key, and none was sent"
        todo = "set BATCHFLEX_API_KEY (a file .env beside the job file will do), or name a variable with --api-key-env"
    return head.format(fault.what) + appended(fault, f" (HTTP {fault.http_status})") + f"; {todo}"
