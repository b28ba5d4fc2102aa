"""Words and tables for people: pure functions from what is known to text."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ..config import local
from ..core import STATUSES, count, duration, money, one_line, printable, seconds_between
from ..storage import COLUMNS, priced_by, sent

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    from ..results import Written

_LONG = 60
# What a run has stopped for that stops the next one as well, unless somebody mends it; the message says what.
_TO_MEND = frozenset({"key", "credit", "model", "url", "endpoint", "format", "failures", "input"})
_FILES = 20


def by_status(state: Mapping[str, Any]) -> str:
    """``70 ok, 2 truncated``: every status there is a row of, ``ok`` always."""
    return ", ".join(f"{state[s]:,} {s}" for s in STATUSES if s == "ok" or state.get(s))


def usage(state: Mapping[str, Any]) -> str:
    text = f"{state['prompt_tokens']:,} prompt + {state['completion_tokens']:,} completion tokens"
    if state["cost"] is None:
        return text
    by = " as the gateway says" if state.get("cost_from") == "gateway" else priced_by(state.get("prices") or ())
    return f"{text}, {money(state['cost'])}{f' {by.strip()}' if by else ''}"


def summary(state: Mapping[str, Any]) -> str:
    """How a run ended, in a few lines. ``state`` is ``run.json``."""
    took = seconds_between(state["started_at"], state["finished_at"] or state["updated_at"])
    of = f" of {state['planned']:,}" if state["planned"] is not None else ""
    lines = [
        f"{state['job']}: {state['done']:,}{of} rows done: {by_status(state)}; {state['status']} after {duration(took)}"
    ]
    if state["requests_sent"]:
        lines.append(
            f"  this run: {sent(state)}, {count(state['retries'], 'retry', 'retries')}, "
            f"{state['rate_limited']:,} rate-limited; {usage(state)}"
        )
    if state.get("retry"):
        lines.append(f"  {_retried(state['retry'])}")
    if state["reasks"]:
        tokens = state["reask_prompt_tokens"] + state["reask_completion_tokens"]
        lines.append(
            f"  asked again, as the answer did not fit or was cut off: {state['reasks']:,} times, "
            f"after answers of {tokens:,} tokens"
        )
    if state["first_failure"]:
        lines.append(f"  first failure: {one_line(state['first_failure'])}")
    if state["truncated"]:
        lines.append(f"  {truncated(state['truncated'], state['out'])}")
    if state.get("empty"):
        lines.append(f"  {empty(state['empty'], state['out'])}")
    lines += [f"  {one_line(words)}" for words in _given_up(state)]
    if state["message"]:
        lines.append(f"  stopped by {state['stopped_by']}: {one_line(state['message'])}")
    if state["status"] != "finished":
        lines.append(f"  what was answered is kept; {_how_to_go_on(state)}")
    lines.append(f"  results: {state['out']}/results.parquet")
    return "\n".join(lines)


def _given_up(state: Mapping[str, Any]) -> list[str]:
    """What is used no more while others were, unless that is what the run has stopped for in the end."""
    return [words for words in state.get("given_up", []) if words not in (state["message"] or "")]


def _how_to_go_on(state: Mapping[str, Any]) -> str:
    if state["stopped_by"] in _TO_MEND:
        first = "correct the model" if state["stopped_by"] == "model" else "mend that"
        return f"{first} first, then run the same command again to go on"
    after = f" after {local(state['resume_at'])}" if state.get("resume_at") else ""
    return f"run the same command again{after} to go on"


def truncated(answers: int, out: str) -> str:
    """How many answers were cut off, and what to do about it."""
    command = f"batchflex retry {shlex.quote(out)} --where \"status = 'truncated'\" --set max_tokens=…"
    were = count(answers, "answer was", "answers were")
    return f"{were} cut off by max_tokens; ask {'it' if answers == 1 else 'them'} again with more: {command}"


def empty(answers: int, out: str) -> str:
    """How many answers have no text, why that mostly is, and what to do about it."""
    command = f"batchflex retry {shlex.quote(out)} --where \"status = 'empty'\" --set max_tokens=…"
    have = count(answers, "answer has", "answers have")
    return (
        f"{have} no text: a reasoning model may have spent max_tokens on its reasoning; ask again with more: {command}, or set "
        "answer.grow_max_tokens and run again (answer.allow_empty = true takes such for good)"
    )


def _retried(told: Mapping[str, Any]) -> str:
    """What a retry has done, in a line. ``told`` is ``retry`` of ``run.json``."""
    if not told["rows"]:
        return f"no row fits {one_line(told['where'])}, so none was asked again"
    text = f"asked again: {told['asked_again']:,} of {count(told['rows'], 'row')} that fit {one_line(told['where'])}"
    if told["stayed"]:
        text += f"; {told['stayed']:,} could not be asked again, and keep their old answers"
    return text + (f"; {told['gone']:,} are not in the input any more" if told["gone"] else "")


def status(state: Mapping[str, Any], held: bool) -> str:
    """A run seen from outside. ``held`` tells whether a process holds the folder now."""
    of = f" of {state['planned']:,}" if state["planned"] else ""
    share = f" ({100 * state['done'] // state['planned']} %)" if state["planned"] else ""
    word = state["status"]
    if word == "running" and not held:
        word = "killed: nothing received is lost; run the same command again to go on"
    lines = [
        f"{state['job']} in {state['out']}: {word}",
        f"  rows      {state['done']:,}{of}{share}: {by_status(state)}",
        f"  this run  {sent(state)}, {count(state['retries'], 'retry', 'retries')}, "
        f"{state['rate_limited']:,} rate-limited" + (f", {state['in_flight']:,} in flight" if held else ""),
        f"            {usage(state)}",
        f"  started   {local(state['started_at'])}",
        f"  updated   {local(state['updated_at'])}{_speed(state) if held else ''}",
    ]
    if held and state.get("binding"):
        lines.append(f"  bound by  {state['binding']}")
    if held:
        lines += [f"  waiting   {waiting(told)}" for told in state.get("waiting", [])]
    if state["truncated"]:
        lines.append(f"  truncated {truncated(state['truncated'], state['out'])}")
    if state.get("empty"):
        lines.append(f"  empty     {empty(state['empty'], state['out'])}")
    if state["first_failure"]:
        lines.append(f"  failure   {one_line(state['first_failure'])}")
    lines += [f"  endpoint  {one_line(words)}" for words in _given_up(state)]
    if state["message"]:
        lines.append(f"  stopped   by {state['stopped_by']}: {one_line(state['message'])}")
    if state.get("resume_at"):
        lines.append(f"  goes on   after {local(state['resume_at'])}, when the same command is run again")
    return "\n".join(lines)


def waiting(told: Mapping[str, Any]) -> str:
    """What is waited for, in a line: one of ``waiting`` of ``run.json``."""
    at = "" if told["endpoint"] is None else f"{told['endpoint']}: "
    until = "" if told["until"] is None else f", until {local(told['until'])}"
    return f"{at}{one_line(told['message'])}{until}"


def _speed(state: Mapping[str, Any]) -> str:
    """How fast it has been, and how long it takes at that speed."""
    took = seconds_between(state["started_at"], state["updated_at"])
    rows = state["done"] - state["done_before"]
    if took <= 0 or rows <= 0:
        return ""
    text = f", {rows / took:,.1f} rows/s"
    if state["planned"]:
        text += f", {duration((state['planned'] - state['done']) * took / rows)} left"
    return text


def table(head: pa.Table, rows: int, *, whole: bool = False) -> str:
    """The first of ``rows`` rows as a table that fits a terminal; the ``whole`` of it, or the columns worth showing."""
    import polars as pl

    frame = pl.DataFrame(head)
    chosen = frame if whole else frame.select(_worth_showing(frame))
    cells = pl.col(pl.String).map_elements(lambda text: one_line(text, 2 * _LONG), pl.String)
    cut = chosen.with_columns(cells)
    with pl.Config(
        tbl_rows=frame.height,
        tbl_cols=-1,
        fmt_str_lengths=_LONG,
        tbl_hide_dataframe_shape=True,
        tbl_hide_column_data_types=True,
        tbl_width_chars=160,
        tbl_formatting="UTF8_FULL_CONDENSED",
    ):
        text = printable(str(cut))  # names of columns, and what is nested, too
    return (
        text
        if rows <= frame.height
        else f"{text}\n{frame.height:,} of {rows:,} rows; --rows N shows more, -o FILE writes all"
    )


def written(files: Sequence[Written], of: int, *, is_batch: bool = False) -> str:
    """What an export has written. ``of`` is how many rows there are in all."""
    if is_batch and len(files) == 2:
        good, bad = files
        return f"{count(good.rows, 'answer')} in {good.path}, {count(bad.rows, 'failure')} in {bad.path}"
    rows = sum(each.rows for each in files)
    told = count(rows, "row") if rows == of else f"{rows:,} of {count(of, 'row')}"
    if len(files) == 1:
        return f"{told} in {files[0].path}"
    lines = [f"  {each.rows:,} in {each.path}" for each in files[:_FILES]]
    if len(files) > _FILES:
        lines.append(f"  and {len(files) - _FILES:,} more")
    return "\n".join([f"{told} in {count(len(files), 'file')}", *lines])


def _worth_showing(frame: pl.DataFrame) -> list[str]:
    """The id, sweep and carried columns, the answer, and what went wrong."""
    chosen = ["id", *(n for n in frame.columns if n not in COLUMNS)]
    if frame["sample"].n_unique() > 1:
        chosen.append("sample")
    chosen.append("status")
    if not _in_columns(frame):
        chosen.append("parsed" if frame["parsed"].null_count() < frame.height else "content")
    if frame["error_message"].null_count() < frame.height:
        chosen.append("error_message")
    return [*chosen, "completion_tokens"]


def _in_columns(frame: pl.DataFrame) -> bool:
    """Whether all that the answers of these rows say is in columns of its own."""
    if frame["parsed"].null_count() or not frame.height:
        return False
    answers = [msgspec.json.decode(text) for text in frame["parsed"]]
    return all(isinstance(a, dict) and a and all({n, f"parsed_{n}"} & {*frame.columns} for n in a) for a in answers)
