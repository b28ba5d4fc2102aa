"""What was asked in rows of the results, made anew from the input as it is now: prompts are not stored with the answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ..attachments import described
from ..core import EndpointError, InputError, JobError, KeySet, Request
from ..plan import Passed, Plan, is_repetition
from ..protocol import conversation

MOST_ROWS = 1_000_000  # of an input that are looked through; to pass over them takes a second


class Place(NamedTuple):
    """A row of the results by what it is for: its id, the number of its sweep point, the sample. ``point`` is ``None`` where that
    is not known any more."""

    id: str
    point: int | None
    sample: int


class Now(NamedTuple):
    """What would be asked for a row now. ``is_same`` is whether it is what was answered, as the key tells. Where no request can
    be made of the row now, ``fault`` says why."""

    body: bytes
    is_same: bool
    fault: str | None


def of_keys(plan: Plan, rows: Mapping[bytes, int]) -> dict[bytes, bytes]:
    """The bodies of requests, by key, as far as the input still yields them; ``rows`` are the numbers of their rows."""
    found: dict[bytes, bytes] = {}
    plan.answered = lambda keys: [key in rows for key in keys]
    with contextlib.suppress(InputError, JobError, EndpointError):  # the input has changed, or is gone
        for request in _requests(plan, {row for row in rows.values() if row < MOST_ROWS}):
            if request.key in rows:
                found[request.key] = described(request.body, request.files)
    return found


def of_row(plan: Plan, row: int, places: Mapping[bytes, Place]) -> dict[bytes, Now]:
    """What would be asked now for rows of the results that are of one ``row`` of the input, by their keys; those for which
    nothing would be are left out. Where another item is at that row now, the item is sought by its id, among the first million
    rows.

    :raises InputError, JobError: if the input is not there any more, or does not fit the job.
    """
    plan.answered = lambda keys: [key in places for key in keys]
    here = list(_requests(plan, {row}))
    found = _matched(here, places)
    ids = {request.id for request in here}
    moved = {k: place for k, place in places.items() if k not in found and not ids & {place.id, _unnumbered(place.id)}}
    return found | _matched(_first(plan), moved) if moved else found


def _unnumbered(name: str) -> str:
    """The id of which this one, of an equal row, is the repetition with the number at its end."""
    return name.rpartition("-")[0]


def _matched(requests: Iterable[Request], places: Mapping[bytes, Place]) -> dict[bytes, Now]:
    left = dict(places)
    found = {}
    for request in requests:
        for key, place in list(left.items()):
            is_same = request.key == key or is_repetition(key, request.key, place.id)
            if is_same or _is_for(request, place):
                found[key] = Now(described(request.body, request.files), is_same, request.fault or request.file_fault)
                del left[key]
        if not left:
            break
    return found


def _is_for(request: Request, place: Place) -> bool:
    return (request.id, request.point, request.sample) == (place.id, place.point, place.sample)


def _requests(plan: Plan, rows: set[int]) -> Iterator[Request]:
    """Those of these rows of the input."""
    if not rows:
        return
    last = max(rows)
    passed = bytearray(b"\1" * (last + 1))
    for row in rows:
        passed[row] = 0
    for block in plan.blocks(Passed(bytes(passed), KeySet())):
        yield from block
        if block and block[-1].row >= last:
            return


def _first(plan: Plan) -> Iterator[Request]:
    for block in plan.blocks():
        yield from block
        if block and block[-1].row >= MOST_ROWS:
            return


def spoken(body: bytes) -> list[tuple[str, str]]:
    """Who says what in a request: roles and texts. What is no text is named in brackets."""
    return [(role, "\n".join(_texts(said))) for role, said in conversation(msgspec.json.decode(body))]


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    for part in content if isinstance(content, list) else ():
        kind = part.get("type", "?") if isinstance(part, Mapping) else "?"
        yield str(part["text"]) if kind == "text" and "text" in part else _named(kind, part)


def _named(kind: Any, part: Any) -> str:
    """A part that is no text; an image by its name or address."""
    image = part.get(kind) if isinstance(part, Mapping) else None
    url = image.get("url") if isinstance(image, Mapping) else None
    if not isinstance(url, str) or url.startswith("data:"):
        return f"[{kind}]"
    return url if url.startswith("<") else f"[{kind} {url}]"
