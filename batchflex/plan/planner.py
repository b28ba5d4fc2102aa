"""Items × sweep × samples to identified requests. Pure: no clock, no I/O.

**The key** of a request is a 128-bit BLAKE2b hash of the item's id (if the input names one), the body that is sent and
the sample number. The body's top-level keys are sorted first; inside, order is kept, because the order of a JSON
schema's properties steers what a model writes. ``stream`` is no part of it: how an answer travels does not change what
was asked. An item without an id of its own is identified by its body alone, so that adding a column nobody uses asks
nothing again.

A key never comes twice. Equal requests of different rows are numbered in their order (the second one's id gets ``-1``),
or asked once with ``dedupe``. Sweep points that make the same body of a row are told apart by the point.

**The slot** is what the request is *for*: the item's id, the sweep point and the sample. Two jobs that send different
bodies into the same slot are how a changed job is noticed. A slot never comes twice either: rows that share an id are
numbered in their order. Their keys are not, as long as their bodies differ: moving such rows asks nothing again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..config import Job, combinations
from ..core import Attachment, Item, KeySet, Prefix, Request
from .prefix_order import LONG_BYTES

_encode = msgspec.json.Encoder(enc_hook=str).encode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode
_NO_MODEL = "no model is named: set params.model in the job, --model on the command line, or 'model' in each row"
_REMEMBERED = 10_000  # ids, for an example of one that comes twice
_AHEAD, _MOST_AHEAD = 8, 1_024  # repetitions looked up at once
_MOST_FORMS = 1_000  # of a sweep point that are remembered
_NO_FILES: tuple[Attachment, ...] = ()


class Point(NamedTuple):
    """One combination of swept values. ``label`` is its JSON object, in the order of the sweep."""

    values: dict[str, Any]
    label: str
    variant: int


# Which of some keys have an answer already.
Answered = Callable[[Sequence[bytes]], Sequence[bool]]


class SharedId(NamedTuple):
    """An id that two rows have. ``first`` is ``None`` if that row was not among the ones that are remembered."""

    id: str
    first: int | None
    second: int


def points(job: Job) -> list[Point]:
    """The sweep points of a job in their order; a single empty one if nothing is swept."""
    prompts = job.sweep.variables.get("prompt", [])
    return [
        Point(values, _encode(values).decode(), prompts.index(values["prompt"]) if "prompt" in values else 0)
        for values in combinations(job.sweep.forms)
    ]


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _numbered(key: bytes, number: int) -> bytes:
    return _hash(key + number.to_bytes(8, "little"))


def is_repetition(key: bytes, of: bytes, name: str) -> bool:
    """Whether a key is that of a repetition of the request ``of``: then the row's id, its ``name``, ends in its number."""
    number = name.rpartition("-")[2]
    return number.isascii() and number.isdigit() and len(number) < 19 and _numbered(of, int(number)) == key


def _framed(text: str) -> bytes:
    """The text with its length before it, so that it cannot run into what follows."""
    encoded = text.encode()
    return len(encoded).to_bytes(4, "little") + encoded


_NOBODY = _framed("")


def _coordinates(request: Request) -> tuple[int, int, int]:
    return request.row, request.point, request.sample


class _Form(NamedTuple):
    """How bodies are written where rows set the parameters of these ``names``: their values go into ``text``, in this order.
    ``limit`` and ``model`` are those of all such bodies, unless a value of a row ``decides`` that."""

    text: bytes
    names: tuple[str, ...]
    limit: int | None
    model: str
    decides: bool


class Passed(NamedTuple):
    """Rows of the input that are passed over, as nothing of them is left to be asked for.

    ``rows`` has a byte for each of the first rows, not zero for these; ``seen`` has the keys of their requests and the
    first slot of each. ``requests`` is how many these are.
    """

    rows: bytes
    seen: KeySet
    requests: int = 0


class PlanDiff(NamedTuple):
    """What a plan finds in a folder. ``planned`` is how many requests it has, ``None`` if it was not gone through.

    ``changed`` slots have an answer to a different request; it cost what follows. ``orphans`` are answers that belong to
    no request of the plan. ``shared`` counts those of them whose rows share their id with others, no more for an id than it has
    requests without an answer: if the job has changed, these would be sent differently, too. They took
    ``shared_tokens``, and cost ``shared_cost``.
    """

    planned: int | None
    done: int
    failed_again: int
    changed: int
    changed_tokens: int
    changed_cost: float | None
    orphans: int
    shared: int = 0
    shared_tokens: int = 0
    shared_cost: float | None = None

    @property
    def left(self) -> int | None:
        """Requests still to be asked; ``None`` if that is not known."""
        return None if self.planned is None else self.planned - self.done

    def keeping(self) -> PlanDiff:
        """The same once the answers to changed requests count as done."""
        return self._replace(done=self.done + self.changed, changed=0, orphans=self.orphans - self.changed)


class Planner:
    """Expands the items of one job, in order. ``seen`` must be new for each pass over the input.

    ``seen`` gets the key of each request and the first slot of each item. What comes more than once is counted besides,
    some 150 bytes for each such request or id. A pass that leaves out items (``partial``) begins with the keys and first
    slots of these in ``seen``; the others then are numbered as in a whole pass.

    ``answered`` tells which keys have an answer. A request of an item that had another one in a version before keeps its key of
    then if that has one (``has_former``): it counts, and other requests are numbered as if it were not there. A key of then
    takes a planner of its own, which numbers the requests as they were. In a partial pass it may not know all equal ones; then
    ``is_in_doubt`` tells that a whole pass might find more.
    """

    def __init__(
        self,
        job: Job,
        seen: KeySet,
        default_model: str | None = None,
        *,
        partial: bool = False,
        answered: Answered | None = None,
    ) -> None:
        self.points = points(job)
        self.samples = job.sweep.samples
        self._route = job.route
        self._answered = answered
        self._former = None if answered is None else Planner(job, seen.copy(), default_model, partial=partial)
        self.has_former = self.is_in_doubt = False
        self.shared_id: SharedId | None = None
        self._firsts: dict[bytes, int] = {}
        self._seen = seen
        self._partial = partial
        self._repeats: dict[bytes, int] = {}
        self._ahead: dict[bytes, tuple[int, list[bool]]] = {}
        self._dedupe = job.input.dedupe
        self._numbers_seeds = [self.samples > 1 and "seed" not in point.values for point in self.points]
        self._base = ({"model": default_model} if default_model else {}) | job.params
        self._over = [{k: v for k, v in p.values.items() if k != "prompt"} | job.override for p in self.points]
        self._forms: list[dict[tuple[str, ...], _Form]] = [{} for _ in self.points]
        self._prefixes = _prefixes(
            job, self.points, [over.get("model", self._base.get("model")) for over in self._over]
        )
        self._in_rows = job.groups_prefixes and not job.templates
        self._last_prefix: tuple[Any, Prefix | None] = None, None
        # By the values alone: the order of the variables in [sweep] says nothing about what a point is.
        self._marks = [_encode_sorted(point.values) for point in self.points]
        self._tails = [sample.to_bytes(4, "little") for sample in range(self.samples)]

    @property
    def per_item(self) -> int:
        return len(self.points) * self.samples

    def requests(self, items: Sequence[Item]) -> list[Request]:
        """Every request for these items: by item, then sweep point, then sample.

        With ``dedupe`` a request equal to one already planned is left out; otherwise it gets a key of its own.
        """
        planned = self._expand(items)
        slots = [request.slot for request in planned[:: self.per_item]]
        former = self._formers(items)
        keys = [former.get(_coordinates(r), r).key if former else r.key for r in planned]
        known = self._seen.add([*keys, *slots])
        if not any(known) and not former:
            if len(self._firsts) < _REMEMBERED:
                self._firsts |= {slot: item.row for item, slot in zip(items, slots, strict=True) if item.named}
            return planned
        if self._partial:
            again = {key for key, shared in zip(keys, known, strict=False) if shared}
            self._look_ahead(
                [*again, *{slot for slot, shared in zip(slots, known[len(planned) :], strict=True) if shared}]
            )
        kept = []
        for index, (slot, shared) in enumerate(zip(slots, known[len(planned) :], strict=True)):
            turn = self._count(slot) if shared else 0
            self._note_id(items[index], slot, shared=shared)
            for at in range(index * self.per_item, (index + 1) * self.per_item):
                was = former.get(_coordinates(planned[at]))
                if known[at] and self._dedupe:
                    continue
                if was is None:
                    kept.append(self._distinguished(planned[at], turn, repeated=known[at]))
                else:
                    same = self._distinguished(planned[at], turn, repeated=False)
                    kept.append(msgspec.structs.replace(same, key=was.key, id=was.id))
        return kept

    def _formers(self, items: Sequence[Item]) -> dict[tuple[int, int, int], Request]:
        """By row, sweep point and sample the requests of then that have an answer."""
        others = [
            msgspec.structs.replace(item, contents=(item.former,), former=None)
            for item in items
            if item.former is not None
        ]
        if self._former is None or self._answered is None or not others:
            return {}
        requests = self._former._expand(others) if self._dedupe else self._former.requests(others)
        there = self._answered([request.key for request in requests])
        found = {_coordinates(request): request for request, is_there in zip(requests, there, strict=True) if is_there}
        self.has_former = self.has_former or bool(found)
        if self._partial and not self._dedupe and len(found) < len(requests):
            # Equal rows may have been left out under keys of their own, so that these were numbered otherwise then.
            rows = {row for row, _, _ in found}
            bases = {r.key for r in self._former._expand(item for item in others if item.row not in rows)}
            keys = [_numbered(base, number) for base in bases for number in range(1, _AHEAD + 1)]
            claimed, there = self._former._seen.find(keys), self._answered(keys)
            self.is_in_doubt = self.is_in_doubt or any(a and not c for a, c in zip(there, claimed, strict=True))
        return found

    def _note_id(self, item: Item, slot: bytes, *, shared: bool) -> None:
        if not item.named or self.shared_id is not None:
            return
        if shared:
            self.shared_id = SharedId(item.id, self._firsts.get(slot), item.row)
        elif len(self._firsts) < _REMEMBERED:
            self._firsts[slot] = item.row

    def _count(self, key: bytes) -> int:
        """Which repetition of this key or slot it is: the first number that none before has."""
        number = self._repeats.get(key, 0) + 1
        while self._partial and self._is_taken(key, number):
            number += 1
        self._repeats[key] = number
        return number

    def _is_taken(self, key: bytes, number: int) -> bool:
        """Whether an item that was left out has this repetition."""
        first, taken = self._ahead.get(key, (0, []))
        if not first <= number < first + len(taken):
            step = max(1, min(2 * len(taken), _MOST_AHEAD))
            first, taken = number, self._seen.find([_numbered(key, number + i) for i in range(step)])
            self._ahead[key] = first, taken
        return taken[number - first]

    def _look_ahead(self, keys: list[bytes]) -> None:
        """Look up the next repetitions of all these at once."""
        firsts = [self._repeats.get(key, 0) + 1 for key in keys]
        pairs = list(zip(keys, firsts, strict=True))
        taken = self._seen.find([_numbered(key, first + i) for key, first in pairs for i in range(_AHEAD)])
        self._ahead = {key: (first, taken[_AHEAD * at : _AHEAD * (at + 1)]) for at, (key, first) in enumerate(pairs)}

    def _distinguished(self, request: Request, turn: int, *, repeated: bool) -> Request:
        """``turn`` is how many rows before had the same id; ``repeated`` whether one of any id made the same request."""
        if not (turn or repeated):
            return request
        key, slot, name = request.key, request.slot, request.id
        if turn:
            slot = _numbered(slot, turn)
        if repeated:
            number = self._count(key)
            key = _numbered(key, number)
            name = f"{name}-{number}" if turn else name
        return msgspec.structs.replace(request, key=key, slot=slot, id=name)

    def _expand(self, items: Iterable[Item]) -> list[Request]:
        found: list[Request] = []
        several = len(self.points) > 1
        for item in items:
            framed = _framed(item.id)
            owner = framed if item.named and not self._dedupe else _NOBODY
            made: set[bytes] = set()
            encoded: dict[int, dict[str, bytes]] = {}
            for index, (_, _, variant) in enumerate(self.points):
                mark, fault, content = self._marks[index], item.fault, {}
                prefix, seed, limit, model, files = None, None, None, "", _NO_FILES
                if fault is None:
                    content = item.contents[variant]
                    text, names, limit, model, decides = self._forms[index].get(tuple(content)) or self._form(
                        index, content
                    )
                    if decides:
                        limit, model = self._decided(self._merged(index, content))
                    fault = None if model else _NO_MODEL
                if fault is None:
                    if variant not in encoded:
                        encoded[variant] = {name: _encode(value) for name, value in content.items()}
                    values = encoded[variant]
                    prefix = self._prefix(item, model) if self._in_rows else self._prefixes[index]
                    if self._numbers_seeds[index]:
                        seed = self._merged(index, content).get("seed", 0)
                    files = item.files[variant] if item.files else files
                    body = hashed = text % tuple([values[name] for name in names]) if seed is None else b""
                else:
                    body = _encode(dict(sorted(self._merged(index, content).items())) if content else {})
                    hashed = b"".join((b"fault", framed, _framed(fault), mark))
                for sample, tail in enumerate(self._tails):
                    if seed is not None:
                        values["seed"] = _encode(seed + sample)
                        body = hashed = text % tuple([values[name] for name in names])
                    key = _hash(owner + tail + hashed)
                    if several:
                        key = _hash(key + mark) if key in made else key
                        made.add(key)
                    found.append(
                        Request(
                            key, _hash(framed + tail + mark), item.id, item.row, index, sample, body, limit, item.carry,
                            fault, prefix, None, None, None, model, item.file, item.position, 0, files,
                        )
                    )  # fmt: skip
        return found

    def _merged(self, index: int, content: Mapping[str, Any]) -> dict[str, Any]:
        """The body of a sweep point for a row that adds this, without a seed of its sample."""
        return {**self._base, **content, **self._over[index]}

    def _decided(self, merged: Mapping[str, Any]) -> tuple[int | None, str]:
        """The limit and the model of a body."""
        return self._route.answer_limit(merged), str(merged.get("model") or "")

    def _form(self, index: int, content: Mapping[str, Any]) -> _Form:
        """How the bodies of a sweep point are written for rows that set such parameters."""
        merged, forms = self._merged(index, content), self._forms[index]
        own = content.keys() - self._over[index].keys()
        if self._numbers_seeds[index]:
            merged, own = merged | {"seed": 0}, own | {"seed"}
        parts = [
            _encode(name).replace(b"%", b"%%") + b":" + (b"%b" if name in own else _encode(value).replace(b"%", b"%%"))
            for name, value in sorted(merged.items())
        ]
        if len(forms) >= _MOST_FORMS:
            forms.clear()
        decides = not own.isdisjoint(("model", *self._route.limits))
        names = tuple(sorted(own))
        forms[tuple(content)] = form = _Form(b"{%b}" % b",".join(parts), names, *self._decided(merged), decides)
        return form

    def _prefix(self, item: Item, model: str) -> Prefix | None:
        """How a row that brings its own content begins, if that is such as other rows are likely to have too. Most often it is as
        the row before."""
        start = self._route.beginning(item.contents[0][self._route.field])
        if start is None:
            return None
        if self._last_prefix[0] != (model, start):
            encoded = _encode(start)
            is_long = len(encoded) >= LONG_BYTES
            self._last_prefix = (model, start), Prefix(_hash(_framed(model) + encoded), True) if is_long else None
        return self._last_prefix[1]


def _prefixes(job: Job, swept: Sequence[Point], models: Sequence[Any]) -> list[Prefix | None]:
    """With what the requests of each point of a job with prompts begin; nothing if all of them begin alike."""
    templates = list(job.templates.values())
    kinds = [(str(model), point.variant) for model, point in zip(models, swept, strict=True)]
    if not job.groups_prefixes or not templates or len(set(kinds)) == 1:
        return [None] * len(kinds)
    from .template import beginning

    is_long = [beginning(section) >= LONG_BYTES for section in templates]
    return [Prefix(_hash(_encode([model, variant])), is_long[variant]) for model, variant in kinds]
