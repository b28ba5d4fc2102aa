"""Raw rows to :class:`~batchflex.core.types.Item`: which shape a row has, its id, its messages, what it carries along.

A row is, in this order: what a function has made messages of; columns for the job's prompt; a request of its own (``messages``
and parameters); a line of an OpenAI batch file (``body``, sent whole); a conversation as ShareGPT has it (``conversations``,
and parameters). Beside ``messages``, known request parameters are sent, and what ``input.params`` names; the id and the columns
named in ``input.carry`` are not, but for documented parameters. Versions before sent every other column too: such a row has its
request of then as ``former``.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..attachments import FileHosts, Finder, Use, require
from ..config import Job
from ..core import Attachment, Item, JobError, Row, nearest
from ..protocol import TRANSPORT, Route
from ..storage import Span, file_at
from . import sharegpt
from .frame_input import Made
from .reading import Fault, Needs
from .source import Block
from .template_faults import TemplateFault, missing_column

if TYPE_CHECKING:
    from .file_filters import Attach
    from .template import Prompt

# Tables hold types that JSON does not have; those that msgspec does not know either become text.
_encode = msgspec.json.Encoder(enc_hook=str).encode
_encode_sorted = msgspec.json.Encoder(enc_hook=str, order="sorted").encode

_SHOWN_COLUMNS = 12


class _BadRow(Exception):
    pass


class Itemizer:
    """Turns the blocks of one job's input into items.

    ``columns`` are those of a table input, if known: a template that needs others is refused before any row is read. With
    ``has_messages`` each row comes with messages that were made of it.

    :raises JobError: if a template is wrong, or needs, or the job carries, columns that the table does not have.
    :raises MissingExtra: if what reads the files that a template puts in is not installed.
    """

    def __init__(self, job: Job, columns: list[str] | None = None, *, has_messages: bool = False) -> None:
        self._has_messages = has_messages
        self._route = job.route
        self._parameters = job.route.parameters
        self._field = job.route.field
        self._takes_conversations = self._field == "messages"
        self._id = job.input.id
        self._carry = job.input.carry
        self._params = frozenset(job.input.params)
        self._prompts: list[Prompt] = []
        mistakes: list[str] = []
        for name, section in job.templates.items():
            from .template import Prompt  # brings Jinja2

            try:
                self._prompts.append(Prompt(section, f"prompts.{name}" if name else "prompt"))
            except JobError as error:
                mistakes += error.mistakes
        if columns is not None and not mistakes:
            mistakes += self._misfits(columns)
        kinds = {kind for prompt in self._prompts for kind in prompt.file_kinds}
        require(kinds)
        self.reads_files = bool(kinds)
        if kinds and job.input.files is not None and not Path(job.input.files).is_dir():
            mistakes.append(f"input.files: there is no folder {job.input.files}")
        root, secret = (None if each is None else Path(each) for each in (job.input.files, job.job.env_file))
        self.finder = Finder(root, secret, FileHosts(job.input.file_hosts))
        self._file_columns = sorted({name for prompt in self._prompts for name in prompt.file_columns})
        self._without_file: dict[str, None] = {}
        if mistakes:
            raise JobError(mistakes, place="the job" if len(mistakes) > 1 else "")
        named = () if self._carry == "*" else self._carry
        self._aside = {"id", "custom_id", self._id, *(n for n in named if not self._parameters.documented(n))}
        # Whether a column of a row that brings its own content is always sent, or never; of others the value decides.
        self._sends = dict.fromkeys(self._aside, False) | dict.fromkeys((self._field, *self._params), True)
        self._left_out: dict[str, None] = {}
        self._ordinary: dict[str, None] = {}
        self._in_bodies: dict[str, None] = {}
        self._noted: set[str | tuple[str, str]] = set()
        others = columns is None or any(not self._is_sent(name) and name not in self._aside for name in columns)
        has_content = columns is None or self._field in columns
        self.may_leave_out = not (self._prompts or has_messages) and has_content and others

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
            f"{place} names the column {name!r}, {_not_there(name, columns, 'the columns are')}"
            for place, name in named
            if name not in columns
        ]
        content = {self._field, "body", *([sharegpt.COLUMN] if self._takes_conversations else [])}
        if not (self._prompts or self._has_messages) and content.isdisjoint(columns):
            mistakes.append(
                f"the input is a table without a {self._field!r} column, so the job needs a [prompt] that makes {self._field} "
                f"of its columns: {', '.join(columns)}"
            )
        return mistakes

    def needs(self, columns: Sequence[str] | None) -> Needs | None:
        """What of the ``columns`` of a table is looked at; ``None`` if that is all of them, or not known."""
        prompts = [prompt.columns for prompt in self._prompts]
        if not prompts or columns is None or self._has_messages or self._carry == "*":
            return None
        if any(prompt.uses_row for prompt in self._prompts):
            return None
        ids = (self._id,) if self._id is not None else tuple(name for name in ("id", "custom_id") if name in columns)
        named = {*ids, *self._params, *self._carry, *self._file_columns}
        return Needs(frozenset(named.union(*(each or () for each in prompts))), ids) if ids else None

    def items(
        self, block: Block, *, former: bool = False, spans: Sequence[Span] = (), beside: Path | None = None
    ) -> list[Item]:
        """One item a row; a row no request can be made of becomes an item with ``fault`` set. With ``former``, each has its
        request of then, where that was another. ``spans`` are those of the block's file, if they are known. ``beside`` is the
        folder that files which rows name are looked for in; without it the current one."""
        attached = _Attached(self.finder, beside or Path()) if self.reads_files else None
        places = [(None, None)] * len(block.rows) if not spans else _places(spans, block.at, block.first)
        return [
            self._item(block, index, row, former, place, attached)
            for index, (row, place) in enumerate(zip(block.rows, places, strict=True))
        ]

    def _item(
        self,
        block: Block,
        index: int,
        row: Row | Fault,
        wants_former: bool,
        place: tuple[int | None, int | None],
        attached: _Attached | None,
    ) -> Item:
        at, (file, position) = block.at[index], place
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
            made = None if block.messages is None else block.messages[index]
            contents = self._contents(row, made, attached, is_table=is_table)
            if wants_former:
                former = self._former(row, contents, is_table=is_table)
        except (_BadRow, TemplateFault) as error:
            fault = _with_place(block, index, error)
        named = identity is not None
        if identity is None:
            identity = _digest(_content(row))
        files = () if attached is None else attached.taken()
        carry = self._carried(row) if self._carry else None
        return Item(at, identity, named, contents, carry, fault, former, file, position, files)

    def _identity(self, row: Row) -> str | None:
        if self._id is not None:
            if self._id not in row:
                raise _BadRow(f"input.id names the column {self._id!r}, {_not_there(self._id, row, 'there are')}")
            value: Any = row[self._id]
        else:
            value = row.get("id")
            if _is_null(value):
                value = row.get("custom_id")
        if isinstance(value, str):
            return str(value) or None
        if _is_null(value):
            return None
        if isinstance(value, bool) or not isinstance(value, str | int | float | decimal.Decimal | datetime.date):
            raise _BadRow(f"an id must be a string or a number; found {value!r:.60}")
        return str(value)

    def _contents(self, row: Row, made: Made | None, attached: _Attached | None, *, is_table: bool) -> tuple[Row, ...]:
        named = {name: row[name] for name in self._params if name in row} if self._params else {}
        if isinstance(made, Fault):
            raise _BadRow(made.text)
        if made is not None:
            asked = {self._field: made, **{name: _without_filler(value) for name, value in named.items()}}
            return (_request(asked, self._route, is_table=False),)
        if self._prompts:
            if self._file_columns:
                without = [
                    name for name in self._file_columns if name in row and (_is_null(row[name]) or row[name] == "")
                ]
                self._without_file |= dict.fromkeys(without)
            rendered = [prompt.render(row, None if attached is None else attached.next()) for prompt in self._prompts]
            if not named:
                return tuple([{self._field: asked} for asked in rendered])
            contents = ({self._field: asked, **named} for asked in rendered)
            return tuple(_request(content, self._route, is_table=is_table) for content in contents)
        if self._takes_conversations and sharegpt.COLUMN in row and not {self._field, "body"} & row.keys():
            row = _with_messages(row, self._field)
        if self._field in row:
            sends = self._sends.get
            content = {
                k: v for k, v in row.items() if (is_sent := sends(k)) or (is_sent is None and self._is_to_send(k, v))
            }
            return (_request(content, self._route, is_table=is_table),)
        if "body" in row:
            body = _batch_body(row, named, self._route, is_table=is_table)
            self._in_bodies.update(dict.fromkeys(body))
            return (body,)
        raise _BadRow(
            f"has neither {self._field!r} nor 'body', and the job has no [prompt]; there are: {', '.join(row)}"
        )

    def _is_to_send(self, name: str, value: Any) -> bool:
        """Whether a column of a row that brings its own content is sent, where that is not always so or never."""
        if _is_null(value):
            return False
        if not (self._parameters.known(name) and self._parameters.is_meant(name, value)):
            if name not in TRANSPORT:
                self._left_out[name] = None
            if not self._parameters.known(name):
                self._sends[name] = False
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
        without = [name for name in self._without_file if (name, "file") not in self._noted]
        if without:
            self._noted.update((name, "file") for name in without)
            found.append(
                f"rows where {_listed(without)} {'is' if len(without) == 1 else 'are'} null or empty are asked without that file"
            )
        return found

    def carried_of(self, columns: Iterable[str]) -> list[str]:
        """Which of these columns are carried along: with ``"*"`` all but what is the request of a row that brings its own."""
        if self._carry != "*":
            return [name for name in columns if name in self._carry]
        own = () if self._prompts else (self._field, "body")
        return [name for name in columns if name not in own]

    def _carried(self, row: Row) -> str:
        names = self.carried_of(row) if self._carry == "*" else self._carry
        return _encode({name: row.get(name) for name in names}).decode()


def _places(spans: Sequence[Span], at: Sequence[int], first: int) -> list[tuple[int | None, int | None]]:
    """The file and the position in it of each row at these places, of which the first of the file is at ``first``."""
    positions = [row - first for row in at]
    if not positions or file_at(spans, positions[0]) != (file := file_at(spans, positions[-1])):
        return [(file_at(spans, position), position) for position in positions]
    return [(file, position) for position in positions]


def _not_there(name: str, columns: Iterable[str], words: str) -> str:
    """``which is not there (did you mean 'text'?); the columns are: id, text``."""
    near = nearest(name, columns := list(columns))
    meant = f" (did you mean {near!r}?)" if near else ""
    return f"which is not there{meant}; {words}: {', '.join(columns)}"


class _Attached:
    """Collects the files of each row, a prompt after the other."""

    def __init__(self, finder: Finder, beside: Path) -> None:
        self._finder, self._beside = finder, beside
        self._of_prompts: list[dict[Attachment, None]] = []

    def next(self) -> Attach:
        """What attaches the files of the next prompt."""
        here: dict[Attachment, None] = {}
        self._of_prompts.append(here)

        def attach(use: Use) -> str:
            found = self._finder.find(use, self._beside)
            if isinstance(found, str):
                return found
            here[found] = None
            return found.token

        return attach

    def taken(self) -> tuple[tuple[Attachment, ...], ...]:
        """The files of a row, by prompt; nothing if it has none."""
        found, self._of_prompts = self._of_prompts, []
        return tuple(map(tuple, found)) if any(found) else ()


def _with_place(block: Block, index: int, why: Fault | Exception) -> str:
    return f"{block.where(index)}: {why.text if isinstance(why, Fault) else why}"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def _content(row: Row) -> bytes:
    """What tells a row without an id from others."""
    try:
        return _encode_sorted(row)
    except UnicodeEncodeError:  # half of a surrogate pair, which only a cell of a frame can hold
        return json.dumps(row, sort_keys=True, default=str).encode()


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
    if len(content) == 1:
        return {route.field: asked}
    request = {
        k: route.parameters.whole(k, _without_filler(v) if is_table else v)
        for k, v in content.items()
        if not _is_null(v) and k not in TRANSPORT
    }
    request[route.field] = asked
    if faults := route.parameters.faults(request):
        raise _BadRow("; ".join(faults))
    return request


def _with_messages(row: Row, field: str) -> Row:
    """A row with a conversation in ShareGPT's form as one with messages."""
    try:
        found: Any = sharegpt.messages(row[sharegpt.COLUMN])
    except ValueError as error:
        raise _BadRow(str(error)) from None
    return {**{name: value for name, value in row.items() if name != sharegpt.COLUMN}, field: found}


def _without_filler(value: Any, keep: str | None = None) -> Any:
    """Drop the nulls that a struct has where this row has no such field; ``content: null`` of a message means something."""
    if isinstance(value, dict):
        return {k: _without_filler(v) for k, v in value.items() if v is not None or k == keep}
    if isinstance(value, list):
        return [_without_filler(v) for v in value]
    return value
