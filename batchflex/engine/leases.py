"""Limits that several engines share, each in a process of its own: units of them are leased from one place.

An engine alone needs none of this: its quotas and budgets are its own. Where ``rpm``, ``tpm`` or a budget are for several, one
place has the limit (:class:`LocalLessor`, made of the same parts), and each engine takes portions from it. However it is reached
is another :class:`Lessor`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

import anyio

from ..endpoint import Spacing, Window
from .budget import GO, WAIT, BudgetLimit, Verdict

_POLL_S = 0.05


class Lease(NamedTuple):
    """Units that may be used for ``for_s`` seconds, from ``waited_s`` after they were asked for, when the lessor had them. ``at``
    is the lessor's own: no clock of one process is compared with another's."""

    units: float
    for_s: float
    at: float = 0.0
    waited_s: float = 0.0


class Lessor(Protocol):
    """Where the units of one limit come from: requests, tokens or dollars."""

    async def ask(self, least: float, units: float) -> Lease | None:
        """So many units, or fewer, but not less than ``least``: waits for them. ``None`` if there will be none any more."""

    async def settle(self, lease: Lease, used: float) -> None:
        """The lease is over. What was ``used`` may be more than was leased, and less than nothing where an earlier one was
        settled with too much."""


class LocalLessor:
    """A limit that is here: requests (:class:`Spacing`), tokens (:class:`Window`), both made with ``lent_s``, or a budget.

    :meth:`grant` decides and waits for nothing; ``clock`` gives seconds and never goes back.
    """

    def __init__(
        self, limit: Spacing | Window | BudgetLimit, lent_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._lent_s = lent_s
        self._clock = clock

    def grant(self, now: float, least: float, units: float) -> Lease | float | None:
        """A lease; or seconds until one may be had, infinite until another is settled; ``None`` for never."""
        limit = self._limit
        if isinstance(limit, BudgetLimit):
            units = max(least, min(units, limit.left))
            verdict = limit.verdict(units)
            if verdict is not GO:
                return None if verdict.stop is not None else verdict.wait_s
            limit.reserve(units)
            return Lease(units, self._lent_s, now)
        units = max(least, min(units, limit.at_once))
        if (wait := limit.wait_s(now, units)) > 0:
            return wait
        limit.take(now, units)
        return Lease(units, self._lent_s, now)

    async def ask(self, least: float, units: float) -> Lease | None:
        began = self._clock()
        while True:
            now = self._clock()
            granted = self.grant(now, least, units)
            if granted is None:
                return None
            if not isinstance(granted, float):
                return granted._replace(waited_s=now - began)
            await anyio.sleep(min(granted, _POLL_S))

    async def settle(self, lease: Lease, used: float) -> None:
        if isinstance(self._limit, BudgetLimit):
            self._limit.settle(lease.units, used)
        else:
            self._limit.correct(self._clock(), lease.at, used - lease.units)


class Leased:
    """Units of one limit in the hands of one engine: admission asks here, and waits for nothing.

    ``portion`` is how many are asked for at a time, ``per_minute`` the whole limit where it is a quota. ``on_lease`` is called
    when there are more.
    """

    def __init__(
        self,
        lessor: Lessor,
        portion: float,
        per_minute: float = 0.0,
        on_lease: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.per_minute = per_minute
        self.is_spent = False
        self._lessor = lessor
        self._portion = portion
        self._on_lease = on_lease
        self._clock = clock
        self._lease: Lease | None = None
        self._left = 0.0
        self._until = float("-inf")
        self._short = 0.0
        self._wanted = anyio.Event()

    def wait_s(self, now: float, units: float = 1.0) -> float:
        """0 if so many may be used now; else they are asked for, and it is infinite until they are there."""
        if units <= self._left and now < self._until:
            return 0.0
        self._short = max(self._short, units)
        self._wanted.set()
        return float("inf")

    def take(self, now: float, units: float = 1.0) -> None:
        self._left -= units

    def correct(self, now: float, sent_at: float, units: float) -> None:
        """So many more were used than taken, or, negative, fewer."""
        self._left -= units

    async def keep(self) -> None:
        """Lease what is wanted, and settle what is over. Runs until cancelled, or until there is nothing more."""
        try:
            while not self.is_spent:
                with anyio.move_on_after(max(0.0, self._until - self._clock()) if self._lease else None):
                    await self._wanted.wait()
                await self._settle()
                await self._wanted.wait()
                self._wanted = anyio.Event()
                short, self._short = self._short, 0.0
                asked_at = self._clock()
                self._lease = await self._lessor.ask(short, max(short, self._portion))
                if self._lease is None:
                    self.is_spent, self._until = True, float("inf")  # what comes back of earlier leases may be used
                else:
                    self._left += self._lease.units
                    self._until = asked_at + self._lease.waited_s + self._lease.for_s
                self._on_lease()
        finally:
            with anyio.CancelScope(shield=True):
                await self._settle()

    async def _settle(self) -> None:
        if (lease := self._lease) is not None:
            used, self._lease, self._left, self._until = lease.units - self._left, None, 0.0, float("-inf")
            await self._lessor.settle(lease, used)


class LeasedBudget(BudgetLimit):
    """A budget of which this engine has a part: ``ceiling`` is what all may spend."""

    def __init__(self, leased: Leased, ceiling: float | None, name: str) -> None:
        super().__init__(ceiling, name)
        self._leased = leased

    def verdict(self, most: float) -> Verdict:
        if self._ceiling is None or self._leased.wait_s(0.0, most) <= 0:
            return GO
        return self.spent_verdict(most) if self._leased.is_spent and not self._reservations else WAIT

    def reserve(self, most: float) -> None:
        super().reserve(most)
        self._leased.take(0.0, most)

    def settle(self, most: float, used: float) -> None:
        super().settle(most, used)
        self._leased.correct(0.0, 0.0, used - most)
