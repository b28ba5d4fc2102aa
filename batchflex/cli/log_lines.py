"""What a line of a log looks like, as text and as JSON. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

import msgspec

from ..core import Event, json_line, one_line
from ..protocol import conversation

_MOST_MESSAGES = 8
_LONGEST = 500  # characters of one message of a prompt


def text(moment: datetime.datetime, event: Event, message: str) -> str:
    """``TIME LEVEL JOB RUN MESSAGE``, a line for each line of the message."""
    job, run_id = (one_line(name or "-") for name in (event.job, event.run_id))
    head = f"{moment.isoformat(timespec='seconds')} {event.level} {job} {run_id}"
    return "\n".join(f"{head} {one_line(line)}" for line in message.splitlines())


def json(moment: datetime.datetime, event: Event, message: str, more: Mapping[str, Any]) -> str:
    """One object: ``time``, ``level``, ``job``, ``run_id``, ``event``, ``message``, then the facts."""
    line = {
        "time": moment.isoformat(timespec="milliseconds"),
        "level": event.level,
        "job": event.job,
        "run_id": event.run_id,
        "event": event.name,
        "message": one_line(joined(message)),
    }
    data = line | {name: value for name, value in {**event.facts, **more}.items() if name not in line}
    return json_line(data, str).decode()


def joined(message: str) -> str:
    """A message of several lines as one."""
    return "; ".join(line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()).replace(
        ":; ", ": "
    )


def prompt(body: bytes | None) -> dict[str, Any]:
    """The messages of a request, shortened: 8 of them at most, 500 characters of each."""
    if body is None:
        return {}
    messages = conversation(msgspec.json.decode(body))
    shown = [{"role": role, "content": _short(content)} for role, content in messages[-_MOST_MESSAGES:]]
    left = len(messages) - len(shown)
    return {"messages": shown, **({"earlier_messages": left} if left else {})}


def _short(content: Any) -> str:
    said = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"
