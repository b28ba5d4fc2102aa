"""The pacer of each endpoint: how many requests may be in flight there, and which quota it shares with others."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..config import EndpointsEntry, Job
from ..endpoint import Allowance, Ceiling, ConcurrencyLimit, Endpoint, Pacer

_OTHER_FILES = 64
_FIRST_WINDOW = 8
# What a limit of requests or tokens a minute is held by: its name in [limits], the endpoint's, and how many.
CeilingOf = Callable[[str, str | None, float | None], float | Ceiling | None]


class Share(NamedTuple):
    """One of several engines that have a job's concurrency together: the engine ``number``, from 0, ``of`` so many."""

    number: int
    of: int

    def part(self, whole: int) -> int:
        """How many of ``whole`` are this engine's; those of all engines come to ``whole``, where that is enough for one each."""
        return max(1, whole // self.of + (self.number < whole % self.of))


ALONE = Share(0, 1)


def pacers_of(
    job: Job, endpoints: Sequence[Endpoint], ceiling: CeilingOf, share: Share = ALONE
) -> tuple[list[Pacer], int, str | None]:
    """One for each endpoint, how many requests all may have in flight, and why that is fewer than the job says, if it is: a
    process may have so many connections. Where several engines have them together, this one gets its ``share``."""
    pairs = list(zip(job.endpoint_entries, endpoints, strict=True))
    windows = [_window(entry, job.limits.max_concurrency, endpoint.slots, share) for entry, endpoint in pairs]
    wanted = sum(window.most for window in windows)
    slots, note = _slots(wanted)
    for window in windows if slots < wanted else ():
        window.at_most(max(1, window.most * slots // wanted))
    allowances = _allowances(job.endpoint_entries, endpoints, ceiling)
    pacers = [
        Pacer(window, allowance, endpoint.model)
        for endpoint, window, allowance in zip(endpoints, windows, allowances, strict=True)
    ]
    return pacers, slots, note


def _window(entry: EndpointsEntry, most: int, slots: int | None, share: Share) -> ConcurrencyLimit:
    """How many requests may be in flight at one endpoint: fixed, or to be found."""
    if isinstance(entry.concurrency, int):
        return ConcurrencyLimit(share.part(entry.concurrency), fixed=True)
    if slots is not None:
        return ConcurrencyLimit(share.part(slots), fixed=True)
    return ConcurrencyLimit(share.part(most), first=share.part(_FIRST_WINDOW))


def _slots(wanted: int) -> tuple[int, str | None]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted + _OTHER_FILES:
        return wanted, None
    note = f"this process may open {soft} files, so at most {soft - _OTHER_FILES} requests go at a time"
    return max(1, soft - _OTHER_FILES), note


def _allowances(
    entries: Sequence[EndpointsEntry], endpoints: Sequence[Endpoint], ceiling: CeilingOf
) -> list[Allowance]:
    """One for each endpoint; those that one server gives to one key share it, with the smallest ceilings set for any."""
    limits: dict[object, list[EndpointsEntry]] = {}
    accounts = [endpoint.account or number for number, endpoint in enumerate(endpoints)]
    for account, entry in zip(accounts, entries, strict=True):
        limits.setdefault(account, []).append(entry)
    made = {
        account: Allowance(
            ceiling("rpm", sharing[0].name, _smallest(entry.rpm for entry in sharing)),
            ceiling("tpm", sharing[0].name, _smallest(entry.tpm for entry in sharing)),
        )
        for account, sharing in limits.items()
    }
    return [made[account] for account in accounts]


def _smallest(ceilings: Iterable[float | None]) -> float | None:
    return min((ceiling for ceiling in ceilings if ceiling is not None), default=None)
