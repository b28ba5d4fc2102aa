"""How a run is going and how it went, for people. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ..config import local
from ..core import BAD, STATUSES, count, duration, format, money, one_line, seconds_between, short
from ..storage import RunState, priced_by, sent

# Reasons to stop that would stop the next run as well, until somebody fixes what the message says.
_TO_FIX = frozenset({"key", "credit", "model", "url", "endpoint", "format", "failures", "input"})


def rows_done(done: int, planned: int | None) -> str:
    """``1,200 of 2,000``, or ``1,200`` if the whole is not known."""
    return f"{done:,}" if planned is None else f"{done:,} of {planned:,}"


def by_status(state: Mapping[str, Any]) -> str:
    """``70 ok, 2 truncated``: every status there is a row of, ``ok`` always."""
    return ", ".join(f"{state[s]:,} {s}" for s in STATUSES if s == "ok" or state.get(s))


def outcome(state: Mapping[str, Any]) -> str:
    """``finished: 3,000 rows, 45 invalid``, ``stopped by credit: 1,200 of 3,000 rows``: how a run ended and every row that is not
    ``ok``, in a few words."""
    word = state["status"]
    if word == "stopped":
        word += f" by {state['stopped_by']}"
    planned, done = state["planned"], state["done"]
    rows = count(done, "row") if planned in (None, done) else f"{done:,} of {count(planned, 'row')}"
    return f"{word}: {', '.join([rows, *not_ok(state)])}"


def not_ok(state: Mapping[str, Any]) -> list[str]:
    """``["2 truncated", "45 invalid"]``."""
    return [f"{state[s]:,} {s}" for s in STATUSES if s != "ok" and state.get(s)]


def usage(state: Mapping[str, Any]) -> str:
    text = f"{state['prompt_tokens']:,} prompt + {state['completion_tokens']:,} completion tokens"
    if state["cost"] is None:
        return text
    by = " as the gateway says" if state.get("cost_from") == "gateway" else priced_by(state.get("prices") or ())
    return f"{text}, {money(state['cost'])}{f' {by.strip()}' if by else ''}"


def summary(state: Mapping[str, Any]) -> str:
    """How a run ended, in a few lines. ``state`` is ``run.json``."""
    took = seconds_between(state["started_at"], state["finished_at"] or state["updated_at"])
    lines = [
        f"{state['job']}: {rows_done(state['done'], state['planned'])} rows done: {by_status(state)}; "
        f"{state['status']} after {duration(took)}"
    ]
    if state["requests_sent"]:
        lines.append(f"  this run: {_requests(state)}; {usage(state)}")
    if state.get("retry"):
        lines.append(f"  {_retried(state['retry'])}")
    if state["reasks"]:
        tokens = state["reask_prompt_tokens"] + state["reask_completion_tokens"]
        reasks = f"{state['reasks']:,} times, after answers of {tokens:,} tokens"
        lines.append(f"  asked again, as the answer did not fit or was cut off: {reasks}")
    if state["first_failure"]:
        lines.append(f"  first failure: {one_line(state['first_failure'])}")
    if state["truncated"]:
        lines.append(f"  {truncated(state['truncated'], state['out'])}")
    if state.get("empty"):
        lines.append(f"  {empty(state['empty'], state['out'])}")
    if state.get("invalid"):
        lines.append(f"  {invalid(state['invalid'], state['out'])}")
    lines += [f"  {one_line(words)}" for words in _disabled(state)]
    if state["message"]:
        lines.append(f"  stopped by {state['stopped_by']}: {one_line(state['message'])}")
    if state["status"] != "finished":
        lines.append(f"  what was answered is kept; {how_to_go_on(state)}")
    if results := state.get("results", "results.parquet"):  # a shard has none of its own
        lines.append(f"  results: {state['out']}/{results}")
    return "\n".join(lines)


def _disabled(state: Mapping[str, Any]) -> list[str]:
    """Endpoints and models that were disabled while others went on, unless that is what has stopped the run in the end."""
    return [words for words in state.get("given_up", []) if words not in (state["message"] or "")]


def how_to_go_on(state: Mapping[str, Any], run_again: str = "run the same command again") -> str:
    if state["stopped_by"] in _TO_FIX:
        first = "correct the model" if state["stopped_by"] == "model" else "fix that"
        return f"{first} first, then {run_again} to go on"
    after = f" after {local(state['resume_at'])}" if state.get("resume_at") else ""
    return f"{run_again}{after} to go on"


def truncated(answers: int, out: str) -> str:
    """How many answers were cut off, and what to do about it."""
    command = f"batchflex retry {shlex.quote(out)} --where \"status = 'truncated'\" --set max_tokens=…"
    return f"{cut_off(answers)}: {command}"


def cut_off(answers: int) -> str:
    were = count(answers, "answer was", "answers were")
    return f"{were} cut off by max_tokens; ask {'it' if answers == 1 else 'them'} again with more"


def empty(answers: int, out: str) -> str:
    """How many answers have no text, why that mostly is, and what to do about it."""
    command = f"batchflex retry {shlex.quote(out)} --where \"status = 'empty'\" --set max_tokens=…"
    return (
        f"{without_text(answers)}: {command}, or set "
        "answer.grow_max_tokens and run again (answer.allow_empty = true takes such for good)"
    )


def invalid(answers: int, out: str) -> str:
    """How many answers do not fit, which no later run asks again by itself, and what to do about it."""
    do = count(answers, "answer does", "answers do")
    command = f"batchflex retry {shlex.quote(out)} --where \"status = 'invalid'\""
    return f"{do} not fit; ask {'it' if answers == 1 else 'them'} again: {command}"


def without_text(answers: int) -> str:
    have = count(answers, "answer has", "answers have")
    return f"{have} no text: a reasoning model may have spent max_tokens on its reasoning; ask again with more"


def _retried(retry: Mapping[str, Any]) -> str:
    """What a retry has done, in a line. ``retry`` is that of ``run.json``."""
    if not retry["rows"]:
        return f"no row fits {one_line(retry['where'])}, so none was asked again"
    text = f"asked again: {retry['asked_again']:,} of {count(retry['rows'], 'row')} that fit {one_line(retry['where'])}"
    if retry["stayed"]:
        text += f"; {retry['stayed']:,} could not be asked again, and keep their old answers"
    return text + (f"; {retry['gone']:,} are not in the input any more" if retry["gone"] else "")


def progress(run_state: RunState, rate: float, *, quoting: bool) -> str:
    """How far a run is, in a line; ``rate`` is in rows a second."""
    share = f" ({format.done_percent(run_state.done, run_state.planned)})" if run_state.planned else ""
    text = f"{rows_done(run_state.done, run_state.planned)} rows{share}, {format.fixed(rate, 1)} rows/s, "
    text += facts(run_state, quoting=quoting)
    if run_state.planned and rate > 0:
        text += f", {duration((run_state.planned - run_state.done) / rate)} left"
    return text


def facts(run_state: RunState, *, quoting: bool) -> str:
    """What is in flight, failed or bad otherwise, tokens, what bounds the run and what it waits for, cost. Only with ``quoting``
    in the words of servers."""
    bad = [f"{n:,} {status}" for status, n in run_state.rows.items() if status == "failed" or (n and status in BAD)]
    text = f"{run_state.in_flight} in flight, {', '.join(bad)}, "
    text += f"{short(run_state.prompt_tokens + run_state.completion_tokens)} tokens"
    if run_state.binding:
        text += f", bound by {run_state.binding}"
    if run_state.backing_off:
        text += f", {run_state.backing_off} waiting to retry"
    if run_state.cost is not None:
        text += f", {money(run_state.cost)}"
    for wait in run_state.waits(quoting=quoting)[:1]:
        text += f"; waits: {waiting(wait)}"
    return text


def status(state: Mapping[str, Any], held: bool, scores: str | None = None, elsewhere: str | None = None) -> str:
    """``state`` is ``run.json``; ``held`` says whether a process holds the folder now, perhaps on a machine ``elsewhere``;
    ``scores`` is a line about them."""
    share = f" ({format.done_percent(state['done'], state['planned'])})" if state["planned"] else ""
    word, shards = state["status"], state.get("shards")
    by = "" if shards else f"by {state['stopped_by']}: "
    if word == "running" and not held:
        word = "killed: nothing received is lost; run the same command again to go on"
    if word == "running" and elsewhere:
        word = f"running on {elsewhere}, as it was uploaded last"
    in_flight = f", {state['in_flight']:,} in flight" if held else ""
    facts: list[tuple[str, Any]] = [
        ("rows", f"{rows_done(state['done'], state['planned'])}{share}: {by_status(state)}"),
        ("shards", shards and _shards(shards)),
        ("this run", _requests(state) + in_flight),
        ("", usage(state)),
        ("started", local(state["started_at"])),
        ("updated", f"{local(state['updated_at'])}{_speed(state) if held else ''}"),
        ("scores", scores and one_line(scores)),
        ("bound by", held and state.get("binding")),
        *(("waiting", held and waiting(wait)) for wait in state.get("waiting", [])),
        ("truncated", state["truncated"] and truncated(state["truncated"], state["out"])),
        ("empty", state.get("empty") and empty(state["empty"], state["out"])),
        ("failure", state["first_failure"] and one_line(state["first_failure"])),
        *(("endpoint", one_line(words)) for words in _disabled(state)),
        ("stopped", state["message"] and f"{by}{one_line(state['message'])}"),
    ]
    if state.get("resume_at"):
        facts.append(("goes on", f"after {local(state['resume_at'])}, when the same command is run again"))
    return "\n".join(
        [f"{state['job']} in {state['out']}: {word}", *(f"  {name:<9} {fact}" for name, fact in facts if fact)]
    )


def _shards(shards: Mapping[str, Any]) -> str:
    more = [
        f"{count} {word}"
        for word, count in (
            ("at work", shards["running"]), ("stopped", len(shards["stopped"])), ("not begun", len(shards["not_begun"])),
        )
        if count
    ]  # fmt: skip
    return ", ".join([f"{shards['finished']} of {shards['of']} finished", *more])


def _requests(state: Mapping[str, Any]) -> str:
    return f"{sent(state)}, {count(state['retries'], 'retry', 'retries')}, {state['rate_limited']:,} rate-limited"


def waiting(wait: Mapping[str, Any]) -> str:
    """One of ``waiting`` of ``run.json``, in a line."""
    at = "" if wait["endpoint"] is None else f"{wait['endpoint']}: "
    until = "" if wait["until"] is None else f", until {local(wait['until'])}"
    return f"{at}{one_line(wait['message'])}{until}"


def _speed(state: Mapping[str, Any]) -> str:
    """How fast it has been, and how long it takes at that speed."""
    took = seconds_between(state["started_at"], state["updated_at"])
    rows = state["done"] - state["done_before"]
    if took <= 0 or rows <= 0:
        return ""
    text = f", {format.fixed(rows / took, 1)} rows/s"
    if state["planned"]:
        text += f", {duration((state['planned'] - state['done']) * took / rows)} left"
    return text
