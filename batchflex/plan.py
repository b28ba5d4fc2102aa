"""Items × sweep × samples to identified requests. Pure: no clock, no I/O.

**The key** of a request is a 128-bit BLAKE2b hash of the item's id (if the input names one), the body that is sent and
the sample number. The body's top-level keys are sorted first; inside, order is kept, because the order of a JSON
schema's properties steers what a model writes. ``stream`` is no part of it: how an answer travels does not change what
was asked. An item without an id of its own is identified by its body alone, so that adding a column nobody uses asks
nothing again; equal requests are numbered.

**The slot** is what the request is *for*: the item's id, the sweep point and the sample. Two jobs that send different
bodies into the same slot are how a changed job is noticed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from .job import Job
from .model import Item, Request

_encode = msgspec.json.Encoder().encode


class Point(NamedTuple):
    """One combination of swept values. ``label`` is its JSON object, in the order of the sweep."""

    values: dict[str, Any]
    label: str
    variant: int


class Seen(Protocol):
    """Remembers 16-byte keys."""

    def add(self, keys: Sequence[bytes]) -> list[bool]:
        """Which of ``keys`` were there already, in this call's order; all are there afterwards."""
        ...


def points(job: Job) -> list[Point]:
    """The grid of the sweep, the last variable moving fastest; a single empty point if nothing is swept."""
    grid = job.sweep.grid
    names = list(grid)
    prompts = grid.get("prompt", [])
    found = []
    for combination in itertools.product(*grid.values()):
        values = dict(zip(names, combination, strict=True))
        variant = prompts.index(values["prompt"]) if "prompt" in values else 0
        found.append(Point(values, _encode(values).decode(), variant))
    return found


class Planner:
    """Expands the items of one job, in order. ``seen`` must be new for each pass over the input."""

    def __init__(self, job: Job, seen: Seen, default_model: str | None = None) -> None:
        self.points = points(job)
        self.samples = job.sweep.samples
        self._seen = seen
        self._repeats: dict[bytes, int] = {}
        self._dedupe = job.input.dedupe
        self._numbers_seeds = self.samples > 1 and "seed" not in job.sweep.grid
        self._base = ({"model": default_model} if default_model else {}) | job.params
        self._over = [{k: v for k, v in p.values.items() if k != "prompt"} | job.override for p in self.points]

    @property
    def per_item(self) -> int:
        return len(self.points) * self.samples

    def requests(self, items: Sequence[Item]) -> list[Request]:
        """Every request for these items: by item, then sweep point, then sample.

        With ``dedupe`` a request equal to one already planned is left out; otherwise it gets a key of its own.
        """
        planned = [request for item in items for request in self._expand(item)]
        known = self._seen.add([r.key for r in planned])
        if not any(known):
            return planned
        kept = []
        for request, repeated in zip(planned, known, strict=True):
            if not repeated:
                kept.append(request)
            elif not self._dedupe:
                kept.append(self._numbered(request))
        return kept

    def _numbered(self, request: Request) -> Request:
        number = self._repeats[request.key] = self._repeats.get(request.key, 0) + 1
        mark = number.to_bytes(8, "little")
        return msgspec.structs.replace(
            request,
            key=hashlib.blake2b(request.key + mark, digest_size=16).digest(),
            slot=hashlib.blake2b(request.slot + mark, digest_size=16).digest(),
            id=f"{request.id}-{number}",
        )

    def _expand(self, item: Item) -> list[Request]:
        found = []
        blake = hashlib.blake2b
        named = item.id.encode() if item.named and not self._dedupe else b""
        prefix = len(named).to_bytes(4, "little") + named
        slot_prefix = item.id.encode() + b"\0"
        for index, point in enumerate(self.points):
            if item.fault is not None:
                fault: str | None = item.fault
                merged: dict[str, Any] = {}
            else:
                merged = {**self._base, **item.contents[point.variant], **self._over[index]}
                fault = None if merged.get("model") else (
                    "no model is named: set params.model in the job, --model on the command line, or 'model' in each row"
                )
            limit = merged.get("max_completion_tokens", merged.get("max_tokens"))
            body = _encode(dict(sorted(merged.items())))
            for sample in range(self.samples):
                if self._numbers_seeds and fault is None:
                    merged["seed"] = merged.get("seed", 0) + (1 if sample else 0)
                    body = _encode(dict(sorted(merged.items())))
                tail = sample.to_bytes(4, "little")
                hashed = body if fault is None else b"fault\0" + item.id.encode() + fault.encode()
                key = blake(prefix + tail + hashed, digest_size=16).digest()
                slot = blake(slot_prefix + point.label.encode() + tail, digest_size=16).digest()
                found.append(
                    Request(key, slot, item.id, item.row, index, sample, body, limit, item.carry, fault)
                )
        return found
