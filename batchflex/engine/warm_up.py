"""Warm-up: how many requests go to an endpoint before it has answered a row, and what its list of models says.

The first request goes alone: it is enough to learn that a key, an address or a model is wrong. Where answers take long that would
delay a run as long, so an endpoint that lists the job's models is opened sooner: its address and the model are right. A wrong key
or missing credit it refuses in about the time that the list took, and it gets a few times that. An endpoint that sends rate limit
headers is not opened: how many it takes is in its first answer.

A first request that gets no answer for long, not even a refusal, does not keep the others waiting: a few are sent beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence

import anyio
import anyio.lowlevel
import anyio.to_thread
from anyio.abc import TaskGroup

from ..config import NO_PRICES, Job
from ..core import TIMINGS, AttemptError, JobError
from ..endpoint import LOCAL, Catalog, Contexts, Prices, model_list_cache
from .endpoint_state import EndpointState
from .gate import Gate

_MOMENT_S = 0.01
_PRICES_S, _LIST_S = 2.0, 30.0  # that a list is waited for: for prices, and where nothing goes without them
_LEAST_S = 0.02
_AS_LONG = 3.0
_POLL_S = 0.005
_FIRST_WITHIN_S = 1.0
_FEW = 5


async def learn(
    tasks: TaskGroup,
    gate: Gate,
    states: Sequence[EndpointState],
    job: Job,
    prices: Prices,
    contexts: Contexts,
) -> None:
    """Learn prices and the longest prompts from the endpoints' lists of models, else from those that were fetched last, and begin
    to open endpoints that list the job's models. A list that cannot open its endpoint is fetched only if prices are wanted.

    Returns when the lists have come, or after some patience: nothing else is sent meanwhile, so that the time they take is
    theirs.

    :raises JobError: if the budget is in dollars, and a price of the job's models is not known.
    """
    missing = prices.missing(job.models)
    unpriced = bool(missing) or not (prices.are_all_typed or job.models)
    must = bool(missing) and job.limits.budget_usd is not None
    kept = await anyio.to_thread.run_sync(lambda: [model_list_cache.kept(state.endpoint.base_url) for state in states])
    has_prices = [catalog is None or any(model.prices for model in catalog.models) for catalog in kept]
    patience_s = _LIST_S if must else _PRICES_S if unpriced and any(has_prices) else _MOMENT_S

    def use(state: EndpointState, catalog: Catalog) -> None:
        prices.learn(state.endpoint.name, catalog)
        contexts.learn(catalog, state.endpoint.model)

    def on_list(state: EndpointState, catalog: Catalog) -> None:
        use(state, catalog)
        state.catalog = catalog
        if state.endpoint.name != LOCAL:
            tasks.start_soon(anyio.to_thread.run_sync, model_list_cache.keep, state.endpoint.base_url, catalog)

    listed = []
    for state in states:
        tasks.start_soon(_open_late, gate, state)
        if state.catalog.at:  # another job run has fetched it
            on_list(state, state.catalog)
            continue
        wanted = {state.endpoint.model} if state.endpoint.model else set(job.models)
        opens = bool(wanted) and state.pacer.concurrency.most > 1 and not state.endpoint.is_hosted
        if opens or (unpriced and state.endpoint.name != LOCAL):
            listed.append(anyio.Event())
            tasks.start_soon(_consult, gate, state, wanted if opens else None, listed[-1], on_list)
    with anyio.move_on_after(patience_s):
        for event in listed:
            await event.wait()
    for state, catalog in zip(states, kept, strict=True):
        if (latest := state.catalog if state.catalog.at else catalog) is not None:
            use(state, latest)
    if must and (missing := prices.missing(job.models)):
        which = ", ".join(dict.fromkeys(f"{model} at {endpoint}" for endpoint, model in missing))
        raise JobError(f"limits.budget_usd: {NO_PRICES}; no list of models tells the price of {which}. No row was sent")


async def _consult(
    gate: Gate,
    state: EndpointState,
    wanted: Collection[str] | None,
    listed: anyio.Event,
    on_list: Callable[[EndpointState, Catalog], None],
) -> None:
    began = time.monotonic()
    try:
        listing = await state.client.models()
        took_s = time.monotonic() - began
        on_list(state, listing.catalog)
    except AttemptError:
        return
    finally:
        listed.set()
    if wanted is not None and not listing.has_limits and {*wanted} <= {*listing.catalog.ids}:
        await _open(gate, state, took_s)


async def _open(gate: Gate, state: EndpointState, list_took_s: float) -> None:
    refusal_s = max(_LEAST_S, _AS_LONG * list_took_s)
    for _ in range(int(_FIRST_WITHIN_S / _POLL_S)):
        if state.in_flight:
            break
        await gate.sleep(_POLL_S)
    await gate.sleep(refusal_s)
    for _ in range(3):  # so that what has come by now is read
        await anyio.lowlevel.checkpoint()
    if state.in_flight and not (state.proven or gate.backing_off or gate.closed):  # the first one is still out
        gate.admission.try_out(state, state.pacer.concurrency.most)


async def _open_late(gate: Gate, state: EndpointState) -> None:
    began = time.monotonic()
    while not (state.proven or state.closed or gate.closed):
        await gate.sleep(TIMINGS.alone_s / 10)
        if not state.in_flight:
            began = time.monotonic()
        elif time.monotonic() - began >= TIMINGS.alone_s:
            gate.admission.try_out(state, max(_FEW, state.on_trial))
            return
