"""How much room a run needs, and how much is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchflex.storage import disk_space, part_files, results_table
from batchflex.storage.output_folder import Folder
from tests.support.outcomes import outcome

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("wanted", "disk", "left"),
    [
        (None, 500 * GB, 200_000_000),
        (None, GB, 50_000_000),
        (None, 6_000_000, 300_000),
        (0, GB, 0),
        (2_000, GB, 2 * GB),
    ],
)
def test_what_is_left_alone(wanted: float | None, disk: int, left: int) -> None:
    assert disk_space.left_alone(wanted, disk) == left


def test_the_need_is_that_of_the_rows_that_are_left_and_of_the_whole_table() -> None:
    assert disk_space.need(0, 10, 500.0, None, 1 << 20, is_measured=True).total == 0
    assert disk_space.need(1_000, 0, 500.0, None, 1 << 20, is_measured=False) == (500_000, 1 << 20, 500_000, False)
    assert disk_space.need(10, 90, 500.0, 300.0, 1 << 20, is_measured=True) == (5_000, 15_000, 30_000, True)


def test_words() -> None:
    assert [disk_space.words(n) for n in (0, 999, 1_500, 2_340_000, 70.4e9)] == [
        "0 B",
        "999 B",
        "1.5 KB",
        "2.34 MB",
        "70.4 GB",
    ]


def test_rows_that_are_there_tell_more_than_a_guess(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert disk_space.needed(folder, 10, 0, None, 16) is None
    guessed = disk_space.needed(folder, 10, 0, 600.0, 16)
    assert guessed is not None and (guessed.parts, guessed.results, guessed.is_measured) == (6_000, 6_000, False)
    with folder.held():
        part_files.write_part(folder.parts, 1, [outcome(i) for i in range(50)])
        results_table.write_results(folder.results, results_table.assemble(folder.parts, {}, ["{}"]))
    found = disk_space.needed(folder, 50, 50, 600.0, 16)
    assert found is not None and found.is_measured
    assert found.parts == (folder.path / "parts" / part_files.part_name(1)).stat().st_size
    assert found.results == 2 * folder.results.stat().st_size


def test_a_run_is_told_once_and_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path / "not" / "there")
    there = disk_space.free(folder.path)
    assert there is not None and 0 < there[0] <= there[1]
    watch = disk_space.Watch(folder, 100, 1_000.0, 16)
    monkeypatch.setattr(disk_space, "free", lambda path: (150_000_000, 10 * GB))
    assert watch.short() is None
    assert watch.doubt(None, 0) is None
    told = watch.doubt(100_000, 0)
    assert (
        told is not None
        and "takes up to about 234 MB, 100 MB of it for the table of results, and 150 MB are free" in told
    )
    assert watch.doubt(100_000, 0) is None
    monkeypatch.setattr(disk_space, "free", lambda path: (99_000_000, 10 * GB))
    assert (watch.short() or "").endswith("free some space and run the same command again")
    monkeypatch.setattr(disk_space, "free", lambda path: None)
    assert watch.short() is None
