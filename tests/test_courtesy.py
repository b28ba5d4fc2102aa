"""A thread that works beside the event loop pauses in proportion to what it computed, until somebody waits for it."""

from __future__ import annotations

import time

import pytest

from batchflex.courtesy import Courtesy


class Computed:
    """Stands for the CPU time of a thread."""

    s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.mark.parametrize(("computed_s", "least_s"), [(0.01, 0.03), (0.02, 0.06), (5.0, 0.1)])
def test_it_pauses_three_times_as_long_as_it_computed_and_no_longer_than_a_moment(
    computed_s: float, least_s: float
) -> None:
    clock = Computed()
    courtesy = Courtesy(clock)
    courtesy.begin()
    clock.s += computed_s
    before = time.monotonic()
    courtesy()
    assert least_s <= time.monotonic() - before < 5.0
    before = time.monotonic()
    courtesy()
    assert time.monotonic() - before < 0.02, "nothing was computed since"


def test_in_a_hurry_it_does_not_pause() -> None:
    clock = Computed()
    courtesy = Courtesy(clock)
    courtesy.begin()
    courtesy.hurry()
    before = time.monotonic()
    for _ in range(1_000):
        clock.s += 5.0
        courtesy()
    assert time.monotonic() - before < 10.0
