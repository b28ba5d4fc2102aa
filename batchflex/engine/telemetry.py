"""What bounds a run now, and what it waits for: for the progress line, ``status`` and ``telemetry.jsonl``. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from typing import Any, Literal

from ..core import Message
from ..storage import RunState, Wait, timestamp
from .admission import Bound
from .endpoint_state import EndpointSlots
from .gate import Gate

Binding = Literal[Bound, "input", "client"]

_BUSY = 0.9
_SOME_S = 5.0  # shorter waits need no words


def binding(bound: Bound | None, *, starved: bool, busy: float) -> Binding:
    """One word for what keeps the run from being faster now.

    ``bound`` is what the gate says, ``starved`` that rows wait for the input, or for their files, to be read, ``busy`` the share
    of the time that the event loop's own thread computes.
    """
    if bound in ("waiting", "quota", "budget"):
        return bound
    if busy >= _BUSY:
        return "client"
    if bound is None:
        return "input" if starved else "endpoint"
    return bound


def waits_of(gate: Gate, now: float, wall: float, before: Iterable[Wait] = ()) -> list[Wait]:
    """All that is waited for; ``wall`` is in seconds since the epoch, ``now`` by the gate's clock. What was waited for ``before``
    began then."""
    found = [_wait(None, "paused", gate.why_paused, wall)] if gate.is_paused else _found(gate, now, wall)
    since = {(wait.endpoint, wait.reason): wait.since for wait in before}
    return [wait._replace(since=since.get((wait.endpoint, wait.reason), wait.since)) for wait in found]


def _found(gate: Gate, now: float, wall: float) -> list[Wait]:
    models = gate.waiting_models()
    used = [endpoint for endpoint in gate.endpoints if not endpoint.closed]
    found = [wait for endpoint in used for wait in _of(endpoint, models, now, wall)]
    if not found and gate.bound == "budget":
        found = [_wait(None, "budget", "what is left of the budget is reserved for what is in flight", wall)]
    elif not found and gate.bound == "quota" and (due_s := gate.due_s(now) or 0.0) > _SOME_S:
        words = "rpm, tpm or a limit that was learned lets nothing go until then"
        found = [_wait(None, "quota", words, wall, wall + due_s)]
    return found


def _of(endpoint: EndpointSlots, models: Set[str], now: float, wall: float) -> Iterator[Wait]:
    allowance, name = endpoint.pacer.allowance, endpoint.name
    for why, reason in sorted(endpoint.pauses.items()):
        until = None if reason.until is None else wall + reason.until - now
        yield Wait(name, why, reason.message, wall + reason.since - now, until)
    if endpoint.pauses:
        return
    slots, server_wait_s = allowance.slots, allowance.server_wait_s(now)
    head, said = "the endpoint asks to wait", allowance.said
    if server_wait_s <= _SOME_S and (models := models - endpoint.without):
        server_wait_s, model = max((endpoint.pacer.server_wait_s(now, model), model) for model in models)
        head, said = f"{head} before more is sent to the model {model}", allowance.refusal_message(model)
    if server_wait_s > _SOME_S:
        words = Message.of(head) + ("" if said is None else Message(f": {said}", f" ({said.unquoted})"))
        yield Wait(name, "quota", words, wall, wall + server_wait_s)
    elif not endpoint.proven and endpoint.in_flight and now - endpoint.sent_at > _SOME_S:
        since = wall + endpoint.sent_at - now
        yield _wait(name, "endpoint", "its first answer is awaited before more is sent", since)
    elif slots.most is not None and slots.in_flight >= slots.most:
        yield _wait(name, "concurrency", f"the key may have {slots.most:,} in flight", wall)


def _wait(endpoint: str | None, reason: str, message: str, since: float, until: float | None = None) -> Wait:
    """One whose sentence has no words of a server."""
    return Wait(endpoint, reason, Message.of(message), since, until)


class Telemetry:
    """Makes samples; rates are of the time since the sample before."""

    def __init__(self, now: float) -> None:
        self._then = now
        self._before = (0, 0, 0, 0)

    def sample(self, now: float, wall: float, run_state: RunState, gate: Gate) -> dict[str, Any]:
        """A line of ``telemetry.jsonl``. CONTRACT.md gives the fields' meaning. ``wall`` is in seconds since the epoch."""
        counts = (run_state.answered, run_state.requests_sent, run_state.rate_limited, run_state.retries)
        answered, sent, refused, retries = (new - old for new, old in zip(counts, self._before, strict=True))
        elapsed = max(1e-9, now - self._then)
        self._then, self._before = now, counts
        return {
            "at": timestamp(wall),
            "run_id": run_state.run_id,
            "binding": run_state.binding,
            "in_flight": gate.in_flight,
            "window": sum(endpoint.window for endpoint in gate.endpoints if not endpoint.closed),
            "backing_off": gate.backing_off,
            "done": run_state.done,
            "answers_per_s": round(answered / elapsed, 3),
            "requests_per_s": round(max(0, sent) / elapsed, 3),
            "refused": refused,
            "retries": max(0, retries),
            "endpoints": [
                {
                    "name": endpoint.name,
                    "in_flight": endpoint.in_flight,
                    "window": endpoint.window,
                    "why": endpoint.pacer.concurrency.last_reason,
                    "requests_per_minute": _per_minute(endpoint.pacer.allowance.rates[0]),
                    "tokens_per_minute": _per_minute(endpoint.pacer.allowance.rates[1]),
                    "paused_for": sorted(endpoint.pauses),
                    "closed": endpoint.closed,
                }
                for endpoint in gate.endpoints
            ],
        }


def _per_minute(rate: float | None) -> float | None:
    return None if rate is None else round(60 * rate, 1)
