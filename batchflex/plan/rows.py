"""Raw rows to :class:`~batchflex.core.types.Item`: which shape a row has, its id, its messages, what it carries along.

A row is, in this order: columns for the job's prompt; a request of its own (``messages`` and parameters); a line of an
OpenAI batch file (``body``, sent whole). Beside ``messages``, known request parameters are sent, and what ``input.params``
names; the id and the columns named in ``input.carry`` are not, but for documented parameters. Versions before sent every other
column too: such a row has its request of then as ``former``.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from ..config import Job
from ..core import Item, JobError, Row
from ..protocol import TRANSPORT, Route
from ..storage import Span, file_at
from .formats import Fault
from .source import Block
from .template import Prompt, TemplateFault, missing_column

# Tables hold types that JSON does not have; those that msgspec does not know either become text.
_encode = msgspec.json.Encoder(enc_hook=str).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=str, order="sorted").encode

_SHOWN_COLUMNS = 12


class _BadRow(Exception):
    pass


class Itemizer:
    """Turns the blocks of one job's input into items.

    ``columns`` are those of a table input, if known: a template that needs others is refused before any row is read.

    :raises JobError: if a template is wrong, or needs, or the job carries, columns that the table does not have.
    """

    def __init__(self, job: Job, columns: list[str] | None = None) -> None:
        self._route = job.route
        self._parameters = job.route.parameters
        self._field = job.route.field
        self._id = job.input.id
        self._carry = job.input.carry
        self._params = frozenset(job.input.params)
        self._prompts: list[Prompt] = []
        mistakes: list[str] = []
        for name, section in job.templates.items():
            try:
                self._prompts.append(Prompt(section, f"prompts.{name}" if name else "prompt"))
            except JobError as error:
                mistakes += error.mistakes
        if columns is not None and not mistakes:
            mistakes += self._misfits(columns)
        if mistakes:
            raise JobError(mistakes, place="the job" if len(mistakes) > 1 else "")
        named = () if self._carry == "*" else self._carry
        self._aside = {"id", "custom_id", self._id, *(n for n in named if not self._parameters.documented(n))}
        self._left_out: dict[str, None] = {}
        self._ordinary: dict[str, None] = {}
        self._in_bodies: dict[str, None] = {}
        self._noted: set[str] = set()
        others = columns is None or any(not self._is_sent(name) and name not in self._aside for name in columns)
        has_content = columns is None or self._field in columns
        self.may_leave_out = not self._prompts and has_content and others

    def _misfits(self, columns: list[str]) -> list[str]:
        mistakes = [
            f"{prompt.place}: {missing_column(name, columns)}"
            for prompt in self._prompts
            for name in prompt.missing(columns)
        ]
        named = [("input.id", self._id)] if self._id else []
        named += [("input.carry", name) for name in self._carry if self._carry != "*"]
        named += [("input.params", name) for name in sorted(self._params)]
        mistakes += [
            f"{place} names the column {name!r}, which is not there; the columns are: {', '.join(columns)}"
            for place, name in named
            if name not in columns
        ]
        if not self._prompts and self._field not in columns and "body" not in columns:
            mistakes.append(
                f"the input is a table without a {self._field!r} column, so the job needs a [prompt] that makes {self._field} "
                f"of its columns: {', '.join(columns)}"
            )
        return mistakes

    def items(self, block: Block, *, former: bool = False, spans: Sequence[Span] = ()) -> list[Item]:
        """One item a row; a row no request can be made of becomes an item with ``fault`` set. With ``former``, each has its
        request of then, where that was another. ``spans`` are those of the block's file, if they are known."""
        return [self._item(block, i, row, former, spans) for i, row in enumerate(block.rows)]

    def _item(self, block: Block, index: int, row: Row | Fault, wants_former: bool, spans: Sequence[Span]) -> Item:
        at = block.at[index]
        position = at - block.first if spans else None
        file = None if position is None else file_at(spans, position)
        if isinstance(row, Fault):
            name = _digest(f"{at}:{row.text}".encode())
            return Item(at, name, False, (), None, _with_place(block, index, row), None, file, position)
        identity: str | None = None
        contents: tuple[Row, ...] = ()
        former: Row | None = None
        fault: str | None = None
        is_table = block.lines is None
        try:
            identity = self._identity(row)
            contents = self._contents(row, is_table=is_table)
            if wants_former:
                former = self._former(row, contents, is_table=is_table)
        except (_BadRow, TemplateFault) as error:
            fault = _with_place(block, index, error)
        named = identity is not None
        if identity is None:
            identity = _digest(_encode_sorted(row))
        return Item(at, identity, named, contents, self._carried(row), fault, former, file, position)

    def _identity(self, row: Row) -> str | None:
        if self._id is not None:
            if self._id not in row:
                raise _BadRow(
                    f"input.id names the column {self._id!r}, which is not there; there are: {', '.join(row)}"
                )
            value: Any = row[self._id]
        else:
            value = row.get("id")
            if _is_null(value):
                value = row.get("custom_id")
        if _is_null(value) or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float | decimal.Decimal | datetime.date):
            raise _BadRow(f"an id must be a string or a number; found {value!r:.60}")
        return str(value)

    def _contents(self, row: Row, *, is_table: bool) -> tuple[Row, ...]:
        named = {name: row[name] for name in self._params if name in row}
        if self._prompts:
            return tuple(
                _request({self._field: prompt.render(row), **named}, self._route, is_table=is_table) if named
                else {self._field: prompt.render(row)}
                for prompt in self._prompts
            )  # fmt: skip
        if self._field in row:
            content = {k: v for k, v in row.items() if self._is_to_send(k, v)}
            return (_request(content, self._route, is_table=is_table),)
        if "body" in row:
            body = _batch_body(row, named, self._route, is_table=is_table)
            self._in_bodies.update(dict.fromkeys(body))
            return (body,)
        raise _BadRow(
            f"has neither {self._field!r} nor 'body', and the job has no [prompt]; there are: {', '.join(row)}"
        )

    def _is_to_send(self, name: str, value: Any) -> bool:
        """Whether a column of a row that brings its own content is sent."""
        if name in self._params or name == self._field:
            return True
        if name in self._aside or _is_null(value):
            return False
        if not (self._parameters.known(name) and self._parameters.is_meant(name, value)):
            if name not in TRANSPORT:
                self._left_out[name] = None
            return False
        if self._parameters.is_ordinary(name) and not self._parameters.documented(name):
            self._ordinary[name] = None
        return True

    def _is_sent(self, name: str) -> bool:
        """Whether a column of this name is sent whatever its value is."""
        is_parameter = self._parameters.known(name) and not self._parameters.is_ordinary(name)
        return is_parameter or name in (self._field, *self._params) or name in TRANSPORT

    def _former(self, row: Row, contents: tuple[Row, ...], *, is_table: bool) -> Row | None:
        """The request that commit eae3bc5 made of a row, with all columns, if that was another."""
        if self._prompts or self._field not in row:
            return None
        was = {k: v for k, v in row.items() if k not in self._aside}
        if not any(k not in contents[0] and k not in TRANSPORT and not _is_null(v) for k, v in was.items()):
            return None
        if self._parameters.faults({k: v for k, v in was.items() if not _is_null(v)}):
            return None  # it was refused
        return _request(was, self._route, is_table=is_table)

    def slips(self) -> list[str]:
        """A sentence for each parameter of the rows so far that is probably misspelt, and was not named before."""
        in_bodies = [name for name in self._in_bodies if name not in self._noted]
        self._noted.update(in_bodies)
        misspelt = ((name, self._parameters.likely_misspelt(name)) for name in in_bodies)
        return [
            f"a row's body has {name!r}, which is not a documented parameter; did you mean {parameter!r}? It is sent as it is"
            for name, parameter in misspelt
            if parameter
        ]

    def notes(self) -> list[str]:
        """What is to be said of the columns of the rows so far, and was not said before: a sentence for each kind."""
        left = [name for name in self._left_out if name not in self._noted]
        sent = [name for name in self._ordinary if name not in self._noted]
        self._noted.update(left, sent)
        found = []
        if left:
            near = ((name, self._parameters.likely_misspelt(name)) for name in left)
            meant = "".join(f"; did you mean {parameter!r} by {name!r}?" for name, parameter in near if parameter)
            found.append(
                f"not sent, as no request parameters: {_listed(left)} beside {self._field!r}{meant} "
                "(input.params names columns to send, input.carry those to carry into the results)"
            )
        if sent:
            found.append(
                f"sent as request parameters, by their names: {_listed(sent)} beside {self._field!r} "
                "(what is meant for something else stays here if input.carry names it)"
            )
        return found

    def _carried(self, row: Row) -> str | None:
        if not self._carry:
            return None
        names = [n for n in row if n not in (self._field, "body")] if self._carry == "*" else self._carry
        return _encode({name: row.get(name) for name in names}).decode()


def _with_place(block: Block, index: int, why: Fault | Exception) -> str:
    return f"{block.where(index)}: {why.text if isinstance(why, Fault) else why}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _is_null(value: Any) -> bool:
    """A NaN is the null of a table's numbers."""
    return value is None or (isinstance(value, float) and value != value)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name!r:.60}" for name in names[:_SHOWN_COLUMNS])
    more = len(names) - _SHOWN_COLUMNS
    words = "the column" if len(names) == 1 else "the columns"
    return f"{words} {shown} and {more} more" if more > 0 else f"{words} {shown}"


def _batch_body(row: Row, named: Row, route: Route, *, is_table: bool) -> Row:
    url = row.get("url")
    if url is not None and not (isinstance(url, str) and url.rstrip("/").endswith(route.path)):
        raise _BadRow(f"only '/v1{route.path}' can be asked; the row's url is {url!r:.60}")
    body: Any = row["body"]
    if isinstance(body, str):
        try:
            body, is_table = msgspec.json.decode(body), False
        except (msgspec.DecodeError, RecursionError) as error:
            raise _BadRow(f"'body' is a string, but not of JSON: {error}") from None
    if not isinstance(body, dict) or route.field not in body:
        raise _BadRow(f"'body' must be an object with {route.field!r}")
    return _request(body | named, route, is_table=is_table)


def _request(content: dict[str, Any], route: Route, *, is_table: bool) -> Row:
    """What a row brings to the request body. A null parameter is one that the row does not set."""
    asked = content[route.field]
    if is_table and isinstance(asked, list):
        asked = [_without_filler(each, keep="content") for each in asked]
    try:
        asked = route.checked(asked)
    except ValueError as error:
        raise _BadRow(str(error)) from None
    request = {
        k: route.parameters.whole(k, _without_filler(v) if is_table else v)
        for k, v in content.items()
        if not _is_null(v) and k not in TRANSPORT
    }
    request[route.field] = asked
    if faults := route.parameters.faults(request):
        raise _BadRow("; ".join(faults))
    return request


def _without_filler(value: Any, keep: str | None = None) -> Any:
    """Drop the nulls that a struct has where this row has no such field; ``content: null`` of a message means something."""
    if isinstance(value, dict):
        return {k: _without_filler(v) for k, v in value.items() if v is not None or k == keep}
    if isinstance(value, list):
        return [_without_filler(v) for v in value]
    return value
