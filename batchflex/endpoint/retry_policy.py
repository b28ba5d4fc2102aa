"""Which failures are worth another attempt, how often, and after what wait.

A rate limit or an outage costs neither an attempt nor time: it is no fault of the row, and :mod:`batchflex.engine.admission`
holds back all requests to that endpoint. Everything else transient is tried again after an exponentially growing wait with full
jitter, or the wait the server asked for, until ``retry.attempts`` or ``retry.max_s`` is spent.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast

import msgspec

from ..config import RetrySection
from ..core import AttemptError, Deferred, Transient

T = TypeVar("T")


class Tries(msgspec.Struct):
    """What one row has used up: ``sent`` requests, ``spent`` attempts that count, ``seconds`` in attempts and waits.

    ``latest_s`` is how long the latest attempt took.
    """

    sent: int = 0
    spent: int = 0
    seconds: float = 0.0
    latest_s: float = 0.0

    def count(self, seconds: float, *, costs: bool) -> None:
        self.sent += 1
        self.latest_s = seconds
        if costs:
            self.spent += 1
            self.seconds += seconds

    def forgive(self) -> None:
        """What was used up so far does not count: the endpoint was to blame."""
        self.spent = 0
        self.seconds = 0.0


def costs(fault: AttemptError) -> bool:
    """Whether a failure uses up one of the attempts, and of the time, that a row has."""
    return not isinstance(fault, Deferred)


def exhausted(fault: AttemptError, tries: Tries, policy: RetrySection) -> bool:
    """Whether this failure was the last one allowed."""
    if not costs(fault):
        return False
    return tries.spent >= policy.attempts or (tries.spent > 1 and tries.seconds >= policy.max_s)


def is_last(tries: Tries, policy: RetrySection) -> bool:
    """Whether the next attempt, if it counts and takes as long as the latest, is the last one allowed, and not the first."""
    enough = tries.spent >= policy.attempts - 1 or tries.seconds + tries.latest_s >= policy.max_s
    return tries.spent > 0 and enough


def wait_s(fault: AttemptError, tries: Tries, policy: RetrySection, jitter: Callable[[], float]) -> float:
    """Seconds until the next attempt. ``jitter`` gives numbers from 0 to 1."""
    if isinstance(fault, Deferred):
        return fault.wait_s
    longest = min(policy.max_wait_s, policy.base_s * 2.0 ** min(max(0, tries.spent - 1), 32))
    wait = longest * jitter()
    if isinstance(fault, Transient) and fault.retry_after_s is not None:
        wait = max(wait, fault.retry_after_s)
    return min(wait, max(0.0, policy.max_s - tries.seconds))


async def persist(
    attempt: Callable[[], Awaitable[T]],
    first: Transient,
    tries: Tries,
    policy: RetrySection,
    sleep: Callable[[float], Awaitable[None]],
    jitter: Callable[[], float] = random.random,
) -> T:
    """Try again after a first failure until an attempt succeeds, and return what it gives.

    ``attempt`` counts itself in ``tries``. ``sleep`` may return early.

    :raises AttemptError: the last failure, or the first that is not :class:`~batchflex.core.errors.Transient`.
    """
    import tenacity  # a run in which nothing fails does without it

    failed_before = [first]

    async def once() -> T:
        if failed_before:
            raise failed_before.pop()
        return await attempt()

    async def rest(seconds: float) -> None:
        tries.seconds += seconds
        await sleep(seconds)

    def fault(state: tenacity.RetryCallState) -> Transient:
        return cast(Transient, state.outcome and state.outcome.exception())

    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(Transient),
        stop=lambda state: exhausted(fault(state), tries, policy),
        wait=lambda state: wait_s(fault(state), tries, policy, jitter),
        sleep=rest,
        reraise=True,
    )
    return await retrying(once)
