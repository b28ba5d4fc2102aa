"""What a run has done so far, counted: the source of ``run.json``, of progress and of the exit code."""

from __future__ import annotations

import dataclasses
import datetime
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..core import BAD, STATUSES, Message, Outcome, Status, StopReason, Usage, __version__, ident, unquoted
from ..protocol import can_be_void
from .model_substitutes import Substitutes

COUNTS = (
    "requests_sent", "probes", "retries", "rate_limited", "prompt_tokens", "completion_tokens", "reasks",
    "reask_prompt_tokens", "reask_completion_tokens", "cost",
)  # fmt: skip
# What is added up where several processes have a part of a run each.
_SUMMED = (
    *(name for name in COUNTS if name != "cost"), "answered", "in_flight", "backing_off", "outstanding", "stayed", "unstored",
)  # fmt: skip


def timestamp(seconds: float) -> str:
    """A moment in seconds since the epoch as ISO 8601, UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def priced_by(prices: Iterable[Mapping[str, Any]]) -> str:
    """Where the ``prices`` of ``run.json`` came from, in a few words: ``by [prices]``,
    ``by the prices of api.flex.ai on 2026-11-30``."""
    words: dict[str, None] = {}
    for entry in prices:
        of = "[prices]" if entry["from"] == "job" else f"the prices of {entry['endpoint']} on {str(entry['at'])[:10]}"
        words[of] = None
    return f"by {' and '.join(words)}" if words else ""


def sent(state: Mapping[str, Any]) -> str:
    """``12 requests sent, 1 of them a probe``: of a run as ``run.json`` has it."""
    requests, probes = state["requests_sent"], state.get("probes") or 0
    text = f"{requests:,} request{'' if requests == 1 else 's'} sent"
    if not probes:
        return text
    which = "" if requests == 1 else " of them"
    return f"{text}, {probes:,}{which} {'a probe' if probes == 1 else 'probes'}"


class RetryRecord(NamedTuple):
    """What a retry asks again: the rows that fit ``where``, ``fit`` of them; ``asked`` is how many of those the plan has now.
    ``set`` are the parameters of these requests."""

    where: str
    set: dict[str, Any]
    fit: int
    asked: int


class Wait(NamedTuple):
    """What is waited for: ``reason`` is a word, ``message`` a sentence. ``since``
    and ``until`` are seconds since the epoch, ``None`` where it is not known. ``endpoint`` is ``None`` if it is none's."""

    endpoint: str | None
    reason: str
    message: Message
    since: float
    until: float | None = None

    def facts(self, *, quoting: bool) -> dict[str, Any]:
        return {
            "endpoint": self.endpoint,
            "reason": self.reason,
            "message": self.message.text if quoting else self.message.unquoted,
            "since": timestamp(self.since),
            "until": None if self.until is None else timestamp(self.until),
        }


@dataclasses.dataclass(eq=False)
class RunState:
    """Counts of one run.

    ``rows`` are final rows of the whole job by status, those of earlier runs (``done_before``) included; everything else is of
    this run alone. ``planned`` is ``None`` until it is known. ``unstored`` are the answers that came and could not be written,
    ``prices`` gives what answers are priced by, ``binding`` the word for what bounds the run now, ``waiting`` what it waits for,
    ``given_up`` a sentence for each endpoint that is not used any more while others are. ``probes`` of the ``requests_sent`` are
    the run's own. In a retry (``again``) ``outstanding`` rows have an old answer and none of this run; ``stayed`` are those that
    could not be asked and keep it.
    """

    run_id: str
    job: str
    out: str
    started_at: float
    done_before: dataclasses.InitVar[Mapping[str, int]]
    again: RetryRecord | None = None
    rows: dict[str, int] = dataclasses.field(init=False)
    before: int = dataclasses.field(init=False)
    outstanding: int = 0
    stayed: int = 0
    planned: int | None = None
    plan: str | None = None
    results: str = "results.parquet"
    in_flight: int = 0
    backing_off: int = 0
    requests_sent: int = 0
    probes: int = 0
    answered: int = 0
    retries: int = 0
    rate_limited: int = 0
    reasks: int = 0
    reask_prompt_tokens: int = 0
    reask_completion_tokens: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    prices: Callable[[], list[dict[str, Any]]] = list
    stopped_by: StopReason | None = None
    signal: int | None = None
    message: Message | None = None
    first_failure: str | None = None
    unstored: int = 0
    refused_with: int | None = None
    is_void: bool = False
    binding: str | None = None
    waiting: list[Wait] = dataclasses.field(default_factory=list)
    given_up: list[Message] = dataclasses.field(default_factory=list)
    substitutes: Substitutes = dataclasses.field(default_factory=Substitutes)
    _cost_from: set[str] = dataclasses.field(default_factory=set)
    _first_unquoted: str | None = None
    _first_can_be_void: bool = False
    _refused: list[tuple[Status, Status | None]] = dataclasses.field(default_factory=list)

    def __post_init__(self, done_before: Mapping[str, int]) -> None:
        self.rows = {status: done_before.get(status, 0) for status in STATUSES}
        self.outstanding = self.again.asked if self.again is not None else 0
        self.before = self.done

    def snapshot(self) -> dict[str, Any]:
        """What a worker process reports of its part of a run; :meth:`sum_up` puts several together."""
        counted = {name: getattr(self, name) for name in _SUMMED}
        return counted | {
            "rows": dict(self.rows),
            "cost": self.cost,
            "cost_from": set(self._cost_from),
            "substitutes": self.substitutes,
            "first_failure": (self.first_failure, self._first_unquoted, self._first_can_be_void),
            "failures": len(self._refused),
            "waiting": list(self.waiting),
            "given_up": list(self.given_up),
            "binding": self.binding,
            "prices": self.prices(),
        }

    def sum_up(self, before: Mapping[str, int], asked: int, parts: Sequence[Mapping[str, Any]]) -> None:
        """Count what worker processes have reported, beside the rows that were done ``before``. ``asked`` is how many rows a
        retry is about."""
        for name in _SUMMED:
            setattr(self, name, sum(part[name] for part in parts))
        self.outstanding += asked
        self.rows = {status: before.get(status, 0) + sum(part["rows"][status] for part in parts) for status in STATUSES}
        costs = [part["cost"] for part in parts if part["cost"] is not None]
        self.cost = sum(costs) if costs else None
        self._cost_from = set().union(*(part["cost_from"] for part in parts))
        self.substitutes = Substitutes.together(part["substitutes"] for part in parts)
        failures = [part["first_failure"] for part in parts if part["first_failure"][0] is not None]
        if failures and self.first_failure is None:
            self.first_failure, self._first_unquoted, self._first_can_be_void = failures[0]
        elif not failures:
            self.first_failure = self._first_unquoted = None
        self.waiting = list({(wait.endpoint, wait.reason): wait for part in parts for wait in part["waiting"]}.values())
        self.given_up = list({message.text: message for part in parts for message in part["given_up"]}.values())
        bound = Counter(part["binding"] for part in parts if part["binding"] is not None)
        self.binding = bound.most_common(1)[0][0] if bound else None
        prices = {str(entry): entry for part in parts for entry in part["prices"]}
        self.prices = lambda: list(prices.values())

    @property
    def done(self) -> int:
        return sum(self.rows.values()) - self.outstanding

    @property
    def left(self) -> int | None:
        """Rows that have no outcome yet; ``None`` until it is known how many are planned."""
        return None if self.planned is None else self.planned - self.done

    @property
    def exit_code(self) -> int:
        """As the command line's contract has it: 0, 1, 3, 128 and the signal's number, or what nothing sent calls for."""
        if self.refused_with is not None:
            return self.refused_with
        if self.stopped_by == "signal":
            return 128 + (self.signal or signal.SIGINT)
        if self.stopped_by is not None:
            return 3
        return 1 if any(self.rows[status] for status in BAD) or self.stayed else 0

    def _said(self, message: str | None) -> str | None:
        if not self.unstored:
            return message
        return f"{message}. Answers that came and could not be stored, and will be asked for again: {self.unstored}"

    def add(self, outcome: Outcome, stood: Status | None = None, *, stays: bool = False) -> None:
        """A final outcome, in place of one that ``stood`` there, unless that ``stays``."""
        if stood is not None:
            self.outstanding -= 1
            self.stayed += stays
        if not stays:
            if stood is not None:
                self.rows[stood] -= 1
            self.rows[outcome.status] += 1
            if outcome.proof is not None and can_be_void(outcome):
                self._refused.append((outcome.status, stood))
        if outcome.status != "failed":
            self.substitutes.add(outcome.requested_model, outcome.model, outcome.gateway_fallbacks)
        if outcome.status in BAD and self.first_failure is None:
            self._first_can_be_void = can_be_void(outcome)
            self.first_failure = f"{outcome.id}: {outcome.error_message}"
            self._first_unquoted = f"{outcome.id}: {unquoted(outcome)}{ident(outcome.request_id)}"

    @property
    def has_failures(self) -> bool:
        """Whether this run has kept a failure that can be void."""
        return bool(self._refused)

    def void(self) -> None:
        """The failures of this run count for nothing: rows are as they were found, and none fails from now on."""
        self.is_void = True
        for status, stood in self._refused:
            self.rows[status] -= 1
            if stood is not None:
                self.rows[stood] += 1
                self.outstanding += 1
        self._refused.clear()
        if self._first_can_be_void:
            self.first_failure = self._first_unquoted = None
        self.outstanding += self.stayed
        self.stayed = 0

    def add_rejected(self, outcome: Outcome, stood: Status | None = None) -> None:
        """An answer that did not fit and is asked for again; the one that ``stood`` there is superseded."""
        if stood is not None:
            self.outstanding -= 1
            self.rows[stood] -= 1
        self.reasks += 1
        self.reask_prompt_tokens += outcome.prompt_tokens or 0
        self.reask_completion_tokens += outcome.completion_tokens or 0

    def use(self, usage: Usage, cost: float | None) -> None:
        """Tokens and money of one answer, whatever becomes of it: ``cost`` is by prices, if there are any."""
        self.answered += 1
        self.spend(usage, cost)

    def spend(self, usage: Usage, cost: float | None) -> None:
        """Tokens and money, also of an attempt that brought no whole answer."""
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0
        if cost is not None or usage.cost is not None:
            self._cost_from.add("gateway" if cost is None else "prices")
            self.cost = (self.cost or 0.0) + ((usage.cost or 0.0) if cost is None else cost)

    def state(self, now: float, *, ended: bool = False) -> dict[str, Any]:
        """``run.json``. CONTRACT.md gives each field's meaning."""
        status = "running"
        if ended:
            status = {None: "finished", "signal": "interrupted"}.get(self.stopped_by, "stopped")
        return {
            "run_id": self.run_id,
            "job": self.job,
            "status": status,
            "stopped_by": self.stopped_by,
            "message": self._said(None if self.message is None else self.message.text),
            "first_failure": self.first_failure,
            "exit_code": self.exit_code if ended else None,
            "started_at": timestamp(self.started_at),
            "updated_at": timestamp(now),
            "finished_at": timestamp(now) if ended else None,
            "plan": self.plan,
            "planned": self.planned,
            "done": self.done + (self.outstanding if ended else 0),
            "done_before": self.before,
            **{str(status): rows for status, rows in self.rows.items()},
            "in_flight": self.in_flight,
            "binding": None if ended else self.binding,
            "waiting": [] if ended else self.waits(quoting=True),
            "resume_at": self._resume_at() if ended else None,
            "given_up": [message.text for message in self.given_up],
            **{name: getattr(self, name) for name in COUNTS},
            "cost_from": " and ".join(sorted(self._cost_from, reverse=True)) or None,
            "substituted": self.substitutes.rows,
            "prices": self.prices(),
            "retry": self._retried(),
            "out": self.out,
            "results": self.results,
            "version": __version__,
            "pid": os.getpid(),
        }

    def unquoted(self) -> dict[str, Any]:
        """Those fields of :meth:`state` that may have words of a server or of a row, without them."""
        return {
            "message": self._said(None if self.message is None else self.message.unquoted or None),
            "first_failure": self._first_unquoted,
            "given_up": [message.unquoted for message in self.given_up],
        }

    def _resume_at(self) -> str | None:
        """When a run that has stopped for a wait may go on, as far as that was said."""
        ends = [wait.until for wait in self.waiting if wait.reason == "quota" and wait.until is not None]
        return timestamp(min(ends)) if ends and self.stopped_by == "quota" else None

    def waits(self, *, quoting: bool) -> list[dict[str, Any]]:
        """``waiting`` of ``run.json``; unless ``quoting`` without words of a server."""
        return [wait.facts(quoting=quoting) for wait in self.waiting]

    def _retried(self) -> dict[str, Any] | None:
        again = self.again
        if again is None:
            return None
        return {
            "where": again.where,
            "set": again.set,
            "rows": again.fit,
            "asked_again": again.asked - self.outstanding - self.stayed,
            "stayed": self.stayed,
            "gone": again.fit - again.asked,
        }
