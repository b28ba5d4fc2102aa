"""How many requests go to an endpoint before it has answered a row.

The first one goes alone: it is enough to learn that a key, an address or a model is wrong. Where an answer takes long that
would cost a run as much, so an endpoint that lists the job's models is opened sooner. Its list tells that the address and
the model are right. What it may refuse all the same, for a wrong key or want of credit, it refuses in about the time that
the list took, and it gets a few times that; then each step lets eight times as many go. An endpoint that tells of rate
limits is not opened: how many it takes is in its first answer.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from .errors import AttemptError
from .gate import Gate
from .probing import Way

_LEAST_STEP_S = 0.02
_AS_LONG = 3.0
_FACTOR = 8


async def open_early(gate: Gate, way: Way, models: Collection[str]) -> None:
    """Open an endpoint step by step until it has answered a row, if it lists ``models``; else leave it as it is."""
    wanted = {way.endpoint.model} if way.endpoint.model else set(models)
    most = way.lane.pace.concurrency.most
    if not wanted or most <= 1 or way.endpoint.is_hosted:
        return
    began = time.monotonic()
    try:
        listing = await way.client.models()
    except AttemptError:
        return
    if listing.tells_limits or not wanted <= set(listing.ids):
        return
    step_s = max(_LEAST_STEP_S, _AS_LONG * (time.monotonic() - began))
    on_trial = 1
    while on_trial < most:
        await gate.sleep(step_s)
        if way.lane.proven or way.lane.in_flight == 0 or gate.closed:
            return
        on_trial *= _FACTOR
        gate.try_out(way.lane, on_trial)
