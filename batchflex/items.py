"""Raw rows to :class:`~batchflex.model.Item`: which shape a row has, its id, its messages, what it carries along."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from . import params as parameters
from .errors import JobError
from .job import Job
from .model import Item, Row
from .source import Block, Fault
from .template import Prompt, TemplateFault, missing_column

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


class _BadRow(Exception):
    pass


class Itemizer:
    """Turns the blocks of one job's input into items.

    ``columns`` are those of a table input, if known: a template that needs others is refused before any row is read.

    :raises JobError: if a template is wrong, or needs, or the job carries, columns that the table does not have.
    """

    def __init__(self, job: Job, columns: list[str] | None = None) -> None:
        self._id = job.input.id
        self._carry = job.input.carry
        self._prompts = [
            Prompt(section, f"prompts.{name}" if name else "prompt") for name, section in job.templates.items()
        ]
        if columns is not None:
            mistakes = [
                missing_column(name, columns)
                for prompt in self._prompts
                for name in sorted(prompt.columns - set(columns))
            ]
            named = [("input.id", self._id)] if self._id else []
            named += [("input.carry", name) for name in self._carry if self._carry != "*"]
            mistakes += [
                f"{place} names the column {name!r}, which is not there; the columns are: {', '.join(columns)}"
                for place, name in named
                if name not in columns
            ]
            if not self._prompts and "messages" not in columns and "body" not in columns:
                mistakes.append(
                    "the input is a table without a 'messages' column, so the job needs a [prompt] that makes messages "
                    f"of its columns: {', '.join(columns)}"
                )
            if mistakes:
                raise JobError(mistakes)

    def items(self, block: Block) -> list[Item]:
        """One item a row; a row no request can be made of becomes an item with ``fault`` set."""
        return [self._item(block, i, row) for i, row in enumerate(block.rows)]

    def _item(self, block: Block, index: int, row: Row | Fault) -> Item:
        position = block.start + index
        if isinstance(row, Fault):
            digest = hashlib.blake2b(f"{position}:{row.text}".encode(), digest_size=8).hexdigest()
            return Item(position, digest, False, (), None, fault=f"{block.where(index)}: {row.text}")
        identity: str | None = None
        try:
            identity = self._identity(row)
            contents = self._contents(row)
            fault = None
        except (_BadRow, TemplateFault) as error:
            contents, fault = (), f"{block.where(index)}: {error}"
        named = identity is not None
        if identity is None:
            identity = hashlib.blake2b(_encode_sorted(row), digest_size=8).hexdigest()
        return Item(position, identity, named, contents, self._carried(row), fault)

    def _identity(self, row: Row) -> str | None:
        if self._id is not None:
            if self._id not in row:
                raise _BadRow(f"input.id names the column {self._id!r}, which is not there; there are: {', '.join(row)}")
            value = row[self._id]
        else:
            value = row.get("id", row.get("custom_id"))
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise _BadRow(f"an id must be a string or a number; found {value!r:.60}")
        return str(value)

    def _contents(self, row: Row) -> tuple[Row, ...]:
        if self._prompts:
            return tuple({"messages": prompt.render(row)} for prompt in self._prompts)
        if "messages" not in row and "body" in row:
            return (self._batch_body(row),)
        if "messages" in row:
            aside = {"id", "custom_id", self._id, *([] if self._carry == "*" else self._carry)}
            return (_request({k: v for k, v in row.items() if k not in aside and v is not None}),)
        raise _BadRow(f"has neither 'messages' nor 'body', and the job has no [prompt]; there are: {', '.join(row)}")

    def _batch_body(self, row: Row) -> Row:
        url = row.get("url")
        if url is not None and not (isinstance(url, str) and url.rstrip("/").endswith("/chat/completions")):
            raise _BadRow(f"only '/v1/chat/completions' can be asked; the row's url is {url!r:.60}")
        body = row["body"]
        if isinstance(body, str):
            body = _parsed(body, "body")
        if not isinstance(body, dict) or "messages" not in body:
            raise _BadRow("'body' must be an object with 'messages'")
        return _request({k: v for k, v in body.items() if v is not None})

    def _carried(self, row: Row) -> str | None:
        if not self._carry:
            return None
        names = [n for n in row if n != "messages"] if self._carry == "*" else self._carry
        return _encode({name: row.get(name) for name in names}).decode()


def _request(content: dict[str, Any]) -> Row:
    messages = content["messages"]
    if isinstance(messages, str):
        messages = _parsed(messages, "messages")
    if not isinstance(messages, list) or not messages:
        raise _BadRow("'messages' must be a list with at least one message")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise _BadRow(f"each message must be an object with a 'role'; found {message!r:.60}")
    request = {k: v for k, v in content.items() if k not in parameters.TRANSPORT}
    request["messages"] = [_without_filler(m) for m in messages]
    if faults := parameters.faults(request):
        raise _BadRow("; ".join(faults))
    return request


def _parsed(text: str, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise _BadRow(f"{name!r} is a string, but not of JSON: {error}") from None


def _without_filler(message: dict[str, Any]) -> dict[str, Any]:
    """Drop the nulls that a Parquet struct puts where a message has no such field; ``content: null`` means something."""
    if None not in message.values() and not isinstance(message.get("content"), list):
        return message
    return {
        k: [_stripped(part) for part in v] if k == "content" and isinstance(v, list) else v
        for k, v in message.items()
        if v is not None or k == "content"
    }


def _stripped(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _stripped(v) for k, v in value.items() if v is not None}
    return value
