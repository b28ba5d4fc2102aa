"""Texts and bodies of notifications. Pure.

They hold what ``run.json`` holds: counts, ids, the server's words on the first failure. No prompts and no answers.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..config import End, Occasion, is_news
from ..core import STATUSES, json_line, money, one_line, redacted
from ..storage import sent

_MOST_CHARACTERS = 300  # a field of Slack may have 2,000, and one may become five
_SIGNS = {
    "success": ":white_check_mark:",
    "recovered": ":white_check_mark:",
    "failure": ":x:",
    "stopped": ":octagonal_sign:",
    "busy": ":hourglass:",
}


def _short(text: str) -> str:
    """In one line. Of a long text the whole sentences that fit, else the whole words."""
    listed = re.sub(r"(:?)\n\s*- ", lambda found: ": " if found[1] else "; ", redacted(text))  # a list of mistakes
    line = " ".join(one_line(listed, len(listed)).split())
    if len(line) <= _MOST_CHARACTERS:
        return line
    cut = line[:_MOST_CHARACTERS]
    if (ends := cut.rfind(". ")) > _MOST_CHARACTERS // 2:
        return cut[: ends + 1]
    words = cut.rpartition(" ")[0]
    return f"{words if len(words) > _MOST_CHARACTERS // 2 else cut} …"


def headline(event: Occasion | End, summary: Mapping[str, Any]) -> str:
    """How the run went, in a sentence. ``summary`` is ``run.json``, also of a run that was refused before it began."""
    line = _headline(event, summary)
    return line if line.endswith((".", "!", "?", "…")) else f"{line}."


def _headline(event: Occasion | End, summary: Mapping[str, Any]) -> str:
    job, message = one_line(summary["job"]), _short(summary["message"] or "")
    if summary["status"] == "test":
        return f"{job}: {message} of the event '{event}'"
    if event == "busy":
        return f"{job} was not begun: {message}"
    if summary["status"] == "refused":
        return f"{job} failed, and nothing was sent: {message}"
    if event == "recovered":
        return f"{job} is well again: {_rows(summary)}"
    if event == "success" or (event == "failure" and not is_news(summary)):
        return f"{job} succeeded: {_rows(summary)}"
    if event == "failure" and summary["exit_code"] == 1:
        return f"{job} finished with failures: {_rows(summary)}"
    word = "failed" if event == "failure" else event
    by = f" by {summary['stopped_by']}" if event == "stopped" and summary["stopped_by"] else ""
    return f"{job} {word}{by}: {message or _rows(summary)}"


def _rows(summary: Mapping[str, Any]) -> str:
    of = f" of {summary['planned']:,}" if summary["planned"] is not None else ""
    counts = ", ".join(f"{summary[status]:,} {status}" for status in STATUSES if summary.get(status))
    return f"{summary['done']:,}{of} rows" + (f", {counts}" if counts else "")


def facts(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values to show below the headline."""
    if summary["status"] not in ("refused", "test"):
        yield "Rows", _rows(summary)
        tokens = summary["prompt_tokens"] + summary["completion_tokens"]
        cost = "" if summary["cost"] is None else f", {money(summary['cost'])}"
        yield "This run", f"{sent(summary)}, {tokens:,} tokens{cost}"
    began, ended = (datetime.datetime.fromisoformat(summary[name]) for name in ("started_at", "finished_at"))
    yield "Took", str(datetime.timedelta(seconds=round((ended - began).total_seconds())))
    if summary["exit_code"] is not None:
        yield "Exit code", str(summary["exit_code"])
    if summary["first_failure"]:
        yield "First failure", _short(summary["first_failure"])


def as_text(event: Occasion | End, summary: Mapping[str, Any]) -> str:
    """A few lines of plain text, for a dead-man's switch."""
    lines = [headline(event, summary), *(f"{name}: {value}" for name, value in facts(summary))]
    return "\n".join([*lines, f"Output: {one_line(summary['out'])}"]) + "\n"


def as_json(event: Occasion | End, summary: Mapping[str, Any], host: str, **more: Any) -> bytes:
    """The fields of ``run.json``, and the event, the headline and the machine."""
    body = {"event": event, "text": headline(event, summary), "host": host, **more, **summary}
    return json_line(body)


def as_slack(event: Occasion | End, summary: Mapping[str, Any], host: str) -> bytes:
    """The body for a Slack webhook: a text for its own notifications, and blocks for the channel."""
    text = f"{_SIGNS.get(event, '')} {_slack(headline(event, summary))}".strip()
    fields = [{"type": "mrkdwn", "text": f"*{name}*\n{_slack(value)}"} for name, value in facts(summary)]
    where = f"{_slack(one_line(summary['out']))} on {_slack(host)}"
    when = f"run {summary['run_id']}" if summary["run_id"] else summary["started_at"]
    blocks = [
        {"type": "section", "text": {"type": "mrkdwn", "text": text}},
        {"type": "section", "fields": fields},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": f"{where}, {when}"}]},
    ]
    return json_line({"text": text, "blocks": blocks})


def _slack(text: str) -> str:
    """Escaped as Slack wants it: the three characters that mentions and links are made of."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
