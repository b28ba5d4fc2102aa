"""How many requests go to an endpoint before it has answered a row.

The first one goes alone: it is enough to learn that a key, an address or a model is wrong. Where an answer takes long that
would cost a run as much, so an endpoint that lists the job's models is opened sooner. Its list tells that the address and
the model are right. What it may refuse all the same, for a wrong key or want of credit, it refuses in about the time that
the list took, and it gets a few times that. An endpoint that tells of rate limits is not opened: how many it takes is in
its first answer.

A first request that gets no answer at all, be it a refusal, for long does not keep the others waiting: a few are sent beside it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .errors import AttemptError
from .gate import Gate
from .probing import Way

_MOMENT_S = 0.01
_LEAST_S = 0.02
_AS_LONG = 3.0
_LOOK_S = 0.005
_FIRST_WITHIN_S = 1.0
_ALONE_S, _FEW = 10.0, 5


async def open_early(tasks: TaskGroup, gate: Gate, ways: Sequence[Way], models: Collection[str]) -> None:
    """Begin to open the endpoints that list ``models``; the others stay as they are until they have answered a row.

    Returns when the lists have come, or after a moment: nothing else is sent meanwhile, so that the time they take is theirs.
    """
    listed = []
    for way in ways:
        tasks.start_soon(_open_late, gate, way)
        wanted = {way.endpoint.model} if way.endpoint.model else set(models)
        if wanted and way.lane.pace.concurrency.most > 1 and not way.endpoint.is_hosted:
            listed.append(anyio.Event())
            tasks.start_soon(_open, gate, way, wanted, listed[-1])
    with anyio.move_on_after(_MOMENT_S):
        for event in listed:
            await event.wait()


async def _open(gate: Gate, way: Way, wanted: set[str], listed: anyio.Event) -> None:
    lane, began = way.lane, time.monotonic()
    try:
        listing = await way.client.models()
    except AttemptError:
        return
    finally:
        listed.set()
    if listing.tells_limits or not wanted <= set(listing.ids):
        return
    refusal_s = max(_LEAST_S, _AS_LONG * (time.monotonic() - began))
    for _ in range(int(_FIRST_WITHIN_S / _LOOK_S)):
        if lane.in_flight:
            break
        await gate.sleep(_LOOK_S)
    await gate.sleep(refusal_s)
    for _ in range(3):  # so that what has come by now is read
        await anyio.lowlevel.checkpoint()
    if lane.in_flight and not (lane.proven or gate.backing_off or gate.closed):  # the first one is still out
        gate.try_out(lane, lane.pace.concurrency.most)


async def _open_late(gate: Gate, way: Way) -> None:
    lane, began = way.lane, time.monotonic()
    while not (lane.proven or lane.closed or gate.closed):
        await gate.sleep(_ALONE_S / 10)
        if not lane.in_flight:
            began = time.monotonic()
        elif time.monotonic() - began >= _ALONE_S:
            gate.try_out(lane, max(_FEW, lane.on_trial))
            return
