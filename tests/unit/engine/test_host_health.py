"""Whether a server of files is there, decided from what came of the files that were asked for."""

from __future__ import annotations

from batchflex.engine.host_health import HostHealth


def fail(health: HostHealth, files: int, now: float = 0.0, *, others: bool = False) -> list[bool]:
    return [health.failed(f"{number}", now, others_answer=others) for number in range(files)]


def test_five_different_files_in_a_row_and_no_fewer_show_that_it_is_down() -> None:
    health = HostHealth(600, 6)
    assert fail(health, 4) + fail(health, 4) == [False] * 8 and not health.is_down
    assert health.answered() is False
    assert fail(health, 4) == [False] * 4
    assert health.failed("4", 0.0, others_answer=False) is True and health.is_down


def test_while_it_is_down_one_file_at_a_time_is_tried_at_growing_distances() -> None:
    health = HostHealth(600, 100)
    fail(health, 5)
    waits = []
    now = 0.0
    for _ in range(12):
        waits.append(wait := health.wait_s(now))
        now += wait
        assert health.wait_s(now) < 1e-6
        health.begins(now)
        assert health.wait_s(now) > 0
        health.failed("0", now, others_answer=False)
    assert [round(each, 1) for each in waits[:6]] == [3.6, 5.4, 8.1, 12.2, 18.2, 27.3]
    assert {round(each, 1) for each in waits[6:]} == {30.0}
    assert health.answered() is True
    assert not health.is_down and health.wait_s(now) == 0.0


def test_one_that_has_answered_is_waited_for_so_long_and_its_rows_are_not_to_blame() -> None:
    health = HostHealth(600, 2)
    health.answered()
    fail(health, 5, others=True)
    for now in (100.0, 300.0, 599.0):
        health.begins(now)
        fail(health, 1, now, others=True)
        assert health.verdict is None
    fail(health, 1, 600.0, others=True)
    assert health.verdict == "run"


def test_one_that_never_has_is_tried_a_few_times_and_its_rows_are_to_blame_if_others_answer() -> None:
    for others, verdict in ((True, "row"), (False, "run")):
        health = HostHealth(600, 2)
        fail(health, 9, others=others)  # those that were under way already
        assert health.verdict is None
        for _ in range(2):
            health.begins(1.0)
            fail(health, 1, 1.0, others=others)
        assert health.verdict == verdict
