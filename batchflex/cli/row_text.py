"""Everything about one row of the results, for people. Pure."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..core import Outcome, clipped, count, figure, format, money, one_line, text_of
from .results_text import shown

if TYPE_CHECKING:
    from ..results import OneRow

_FEW = 3  # rows that are shown in full
_LINE = 100  # characters of an answer in a list


def text(name: str, rows: Sequence[OneRow], width: int) -> str:
    """The rows that a name means, or a list of them if they are many."""
    if len(rows) > _FEW:
        return _list(name, rows, width)
    return "\n\n".join("\n".join(_lines(row)) for row in rows)


def _list(name: str, rows: Sequence[OneRow], width: int) -> str:
    lines = [f"{count(len(rows), 'row')} fit {one_line(name, 80)}; --row KEY shows one of them:"]
    for row in rows:
        values = row.values
        answer = values["content"] or values["tool_calls"] or values["error_message"] or ""
        lines.append(clipped(f"  {values['key']}  {_what(row)}{values['status']}: {one_line(answer, _LINE)}", width))
    return "\n".join(lines)


def _what(row: OneRow) -> str:
    """Which of the rows of its id it is: ``temperature = 0.7, sample 2, ``."""
    parts = [f"{name} = {one_line(str(text_of(value)), 40)}" for name, value in row.point.items() if value is not None]
    parts += [f"sample {row.values['sample']}"] if row.values["sample"] else []
    return "".join(f"{part}, " for part in parts)


def _lines(row: OneRow) -> Iterator[str]:
    values = row.values
    yield f"{one_line(values['id'])}: {_what(row)}{values['status']}, row {values['row']:,} of the input, key {values['key']}"
    yield from _prompt(row)
    yield from _block("answer", _answer(row))
    yield from _block("reasoning", values["reasoning"])
    yield from _block("tool calls", None if values["tool_calls"] is None else _pretty(values["tool_calls"]))
    if values["error_message"] or values["error_type"]:
        known = (values["http_status"], values["error_type"], values["error_code"])
        kind = " ".join(str(each) for each in known if each is not None)
        yield from _block(f"error ({kind})" if kind else "error", values["error_message"])
    yield from _pairs("carried", [(name, shown(values[name])) for name in row.carried if values[name] is not None])
    scores = [(name.removeprefix("score_"), figure(values[name])) for name in row.scores if values[name] is not None]
    yield from _pairs("scores", scores)
    yield from _pairs("how", list(_facts(values)))
    yield from _tries(row)


def _prompt(row: OneRow) -> Iterator[str]:
    prompt = row.prompt
    if prompt.is_same is None or not prompt.messages:
        yield f"  prompt: not known: {one_line(prompt.why or 'nothing is asked for this row now')}"
        return
    note = "as the input has it now, which is what was answered" if prompt.is_same else (
        "as the input and the job have it now: NOT what was answered, since one of them has changed"
    )  # fmt: skip
    yield f"  prompt ({note})"
    for role, said in prompt.messages:
        yield f"    {one_line(role, 40)}:"
        yield textwrap.indent(said, "      ", lambda line: True)
    asked = ", ".join(f"{name} = {_compact(value)}" for name, value in prompt.request.items())
    if asked:
        yield f"    with {asked}"


def _answer(row: OneRow) -> str | None:
    values = row.values
    return values["content"] if values["parsed"] is None else _pretty(values["parsed"])


def _pretty(text: str) -> str:
    """JSON over several lines; any other text as it is."""
    try:
        return msgspec.json.format(text, indent=2)
    except msgspec.DecodeError:
        return text


def _compact(value: Any) -> str:
    return one_line(msgspec.json.encode(value).decode(), 200)


def _block(title: str, said: str | None) -> Iterator[str]:
    if said is not None:
        yield f"  {title}"
        yield textwrap.indent(said, "    ", lambda line: True)


def _pairs(title: str, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    if pairs:
        yield f"  {title}"
        widest = max(len(name) for name, _ in pairs)
        yield from (f"    {name:<{widest}}  {value}" for name, value in pairs)


def _facts(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    asked = values.get("requested_model")
    other = f" (asked for {asked})" if asked and asked != values["model"] else ""
    yield "model", f"{values['model'] or asked or '–'}{other if values['model'] else ''} at {values['endpoint']}"
    used = [(values[name], word) for name, word in (("prompt_tokens", "prompt"), ("completion_tokens", "completion"))]
    tokens = " + ".join(f"{n:,} {word}" for n, word in used if n is not None)
    if tokens:
        more = [(values["cache_read_input_tokens"], "from cache"), (values["reasoning_tokens"], "reasoning")]
        aside = ", ".join(f"{n:,} {word}" for n, word in more if n)
        yield "tokens", tokens + (f" ({aside})" if aside else "")
    if values["cost"] is not None:
        yield "cost", money(values["cost"])
    if values["finish_reason"] is not None:
        yield "finish reason", values["finish_reason"]
    if values["latency_s"] is not None:
        first = "" if values["ttft_s"] is None else f", first token after {format.latency(values['ttft_s'])}"
        yield "latency", f"{format.latency(values['latency_s'])}{first}"
    yield "asked", f"{_moment(values['started_at'])} to {_moment(values['finished_at'])}, in run {values['run_id']}"
    if values["retried_with"] is not None:
        yield "retried with", values["retried_with"]
    if values["request_id"] is not None:
        yield "request id", values["request_id"]


def _moment(value: Any) -> str:
    return f"{value:%Y-%m-%d %H:%M:%S} UTC"


def _tries(row: OneRow) -> Iterator[str]:
    """How often it was asked, and what came of the earlier times."""
    values = row.values
    sent = count(values["attempts"], "request") + f" in run {values['run_id']}"
    if values["reasks"]:
        sent += f"; asked again {count(values['reasks'], 'time')}, as an answer did not fit or was cut off"
    yield f"  tries: {sent}"
    if len(row.tries) < 2:
        return
    for number, tried in enumerate(row.tries, 1):
        is_this = (tried.run_id, tried.status, tried.content) == (values["run_id"], values["status"], values["content"])
        yield f"    {number}. {_try(tried)}{' (this one)' if is_this and tried is row.tries[-1] else ''}"


def _try(tried: Outcome) -> str:
    ended = datetime.datetime.fromtimestamp(tried.finished_at / 1e6, datetime.UTC)
    said = f", {tried.error_message}" if tried.error_message else ""
    answer = tried.content if tried.content is not None else tried.tool_calls
    return f"{_moment(ended)} {tried.status}, {count(tried.attempts, 'request')}" + one_line(
        said + ("" if answer is None else f": {answer}"), 300
    )
