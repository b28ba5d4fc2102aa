"""What a line of a log looks like, as text and as JSON. The message of each record is an :class:`Event`. Pure."""

from __future__ import annotations

import datetime
import logging
from typing import Any

import msgspec

from ..core import Event, json_line, one_line

_MOST_MESSAGES = 8
_LONGEST = 500  # characters of one message of a prompt


class TextFormatter(logging.Formatter):
    """``TIME LEVEL JOB RUN MESSAGE``, a line for each line of the message."""

    def format(self, record: logging.LogRecord) -> str:
        event = event_of(record)
        job, run_id = (one_line(name or "-") for name in (event.job, event.run_id))
        head = f"{_moment(record).isoformat(timespec='seconds')} {event.level} {job} {run_id}"
        return "\n".join(f"{head} {one_line(line)}" for line in event.message.splitlines())


class JsonFormatter(logging.Formatter):
    """One object: ``time``, ``level``, ``job``, ``run_id``, ``event``, ``message``, then the facts, then the request."""

    def format(self, record: logging.LogRecord) -> str:
        event = event_of(record)
        line = {
            "time": _moment(record).isoformat(timespec="milliseconds"),
            "level": event.level,
            "job": event.job,
            "run_id": event.run_id,
            "event": event.name,
            "message": one_line(joined(event.message)),
        }
        more = {**event.facts, **prompt(event.request)}
        return json_line(line | {name: value for name, value in more.items() if name not in line}, str).decode()


def event_of(record: logging.LogRecord) -> Event:
    """The event that a record is about, which stands in place of its message."""
    assert isinstance(record.msg, Event)  # noqa: S101  - else the record is not one of Logs
    return record.msg


def joined(message: str) -> str:
    """A message of several lines as one."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    return "; ".join(lines).replace(":; ", ": ")


def prompt(body: bytes | None) -> dict[str, Any]:
    """The messages of a request, shortened: 8 of them at most, 500 characters of each."""
    if body is None:
        return {}
    messages = msgspec.json.decode(body).get("messages") or []
    shown = [{"role": str(m.get("role")), "content": _short(m.get("content"))} for m in messages[-_MOST_MESSAGES:]]
    left = len(messages) - len(shown)
    return {"messages": shown, **({"earlier_messages": left} if left else {})}


def _short(content: Any) -> str:
    text = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _moment(record: logging.LogRecord) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(record.created).astimezone()
