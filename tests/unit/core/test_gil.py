"""A thread that works beside the event loop pauses in proportion to what it computed, until somebody waits for it."""

from __future__ import annotations

import pytest

from batchflex.core.gil import GilYield, pause_s


@pytest.mark.parametrize(
    ("computed_s", "pause"), [(0.0, 0.0), (0.003, 0.0), (0.01, 0.03), (0.02, 0.06), (0.05, 0.1), (5.0, 0.1)]
)
def test_the_pause_is_three_times_as_long_as_what_was_computed_and_no_longer_than_a_moment(
    computed_s: float, pause: float
) -> None:
    assert pause_s(computed_s) == pytest.approx(pause)


def test_in_a_hurry_there_is_no_pause() -> None:
    computed_s = 0.0
    courtesy = GilYield(lambda: computed_s)
    courtesy.begin()
    computed_s = 0.01
    assert courtesy.due_s() == pytest.approx(0.03)
    courtesy.hurry()
    assert courtesy.due_s() == 0.0
    courtesy.relax()
    assert courtesy.due_s() == pytest.approx(0.03)
    courtesy()
    assert courtesy.due_s() == 0.0, "nothing was computed since the pause"
