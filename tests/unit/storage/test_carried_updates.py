"""What rows carry now, as it is written down beside their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pytest

from batchflex.core.errors import FolderError
from batchflex.core.sorted_keys import key_halves
from batchflex.storage import FolderStore, part_files, places, results_table
from batchflex.storage.carried_updates import OWN, CarriedUpdates, UpdatesWriter, identity
from tests.support.outcomes import assembled, digest, outcome, request


def text(**values: Any) -> str:
    return msgspec.json.encode(values).decode()


def keys(*names: object) -> pl.DataFrame:
    return key_halves([request(name).key for name in names])


def written(
    path: Path, entries: dict[object, str | None], types: pa.Schema | None = None, each: int = 3
) -> CarriedUpdates:
    with UpdatesWriter(path) as writer:
        names = list(entries)
        for begin in range(0, len(names), each):
            some = names[begin : begin + each]
            writer.add(keys(*some), [entries[name] for name in some], types)
        writer.keep("p")
    return CarriedUpdates(path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchflex.storage.carried_updates._GROUP_ROWS", 5)
    monkeypatch.setattr("batchflex.storage.carried_updates._CACHE_BYTES", 300)


@pytest.mark.usefixtures("small")
def test_entries_are_found_by_key_in_any_order(tmp_path: Path) -> None:
    entries: dict[object, str | None] = {number: text(c=number) for number in range(0, 100, 2)} | {50: None}
    found = written(tmp_path / "c.parquet", entries)
    assert len(found) == 50 and found.footer.kinds == {"c": ["int"]}
    asked = [98, 1, 0, 50, 3, 34, 0]
    numbers = found.entries(keys(*asked))
    assert [number == OWN for number in numbers] == [False, True, False, False, True, False, False]
    own = pa.table({"key": asked, "carry": [text(c="own")] * 7})
    now = found.applied(own, numbers).column("carry").to_pylist()
    assert now == [entries.get(name, text(c="own")) for name in asked]
    digests = found.digests(numbers).tolist()
    assert digests[1] == digests[4] == 0 and digests[2] == digests[6] and len({*digests}) == 5
    assert pl.concat(found.batches()).height == 50


def test_its_identity_is_that_of_what_it_holds(tmp_path: Path) -> None:
    ids = [written(tmp_path / f"{n}.parquet", {1: text(c=n // 2), 2: None}).id for n in range(3)]
    assert ids[0] == ids[1] != ids[2]
    assert identity(tmp_path / "2.parquet") == ids[2] and identity(tmp_path / "none") == ""


def test_nothing_is_replaced_unless_it_is_to_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    before = written(path, {1: text(c=1)}).id
    with UpdatesWriter(path) as writer:
        writer.add(keys(2), [text(c=2)] * 1, None)
        writer._flush()
    with pytest.raises(ZeroDivisionError), UpdatesWriter(path) as writer:
        writer.add(keys(2), [text(c=2)], None)
        writer._flush()
        raise ZeroDivisionError
    assert CarriedUpdates(path).id == before
    assert [each.name for each in tmp_path.iterdir()] == ["c.parquet"]


def test_without_entries_there_is_a_file_only_where_positions_are_known(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    for positions in ("p", ""):
        with UpdatesWriter(path) as writer:
            writer.keep(positions)
        assert path.exists() == bool(positions)
        assert len(CarriedUpdates(path)) == 0 and CarriedUpdates(path).id == ""


def test_a_table_has_them_in_place_of_what_was_carried_with_the_answers(tmp_path: Path) -> None:
    parts = FolderStore(tmp_path)
    for part in (1, 2):
        rows = [outcome(n, carry=text(c=n, old="o")) for n in range(part * 10, part * 10 + 4)]
        part_files.write_part(parts, part, rows)
    before = results_table.assemble(parts, {}, ["{}"])
    few = written(tmp_path / "c", {11: text(c=-1, new=True), 22: text(c="two")})
    for options in ({}, {"pending": [outcome(30, carry=text(c=3))]}):
        found = assembled(parts, updates=few, **options)
        assert found["c"].to_pylist()[:8] == ["10", "-1", "12", "13", "20", "21", "two", "23"]
        assert found["new"].to_pylist()[:3] == [None, True, None]
    all_of_two = written(tmp_path / "d", {n: text(c=float(n)) for n in range(20, 24)})
    found = assembled(parts, updates=all_of_two)
    assert found.schema.field("c").type == pa.float64() and found["old"].to_pylist() == ["o"] * 4 + [None] * 4
    whole = written(tmp_path / "e", {n: text(new=n) for n in (*range(10, 14), *range(20, 24))})
    assert assembled(parts, updates=whole).column_names[-1:] == ["new"]
    assert "c" not in assembled(parts, updates=whole).column_names
    assert (
        results_table.assemble(parts, {}, ["{}"], updates=CarriedUpdates(tmp_path / "none")).metadata == before.metadata
    )


def test_of_a_folder_only_the_stretches_with_an_update_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "STRETCH_ROWS", 10)
    parts = FolderStore(tmp_path)
    part_files.write_part(parts, 1, [outcome(n, carry=text(c=n)) for n in range(30)])

    def names(updates: CarriedUpdates | None) -> list[str]:
        return [stretch.name for stretch in results_table.assemble(parts, {}, ["{}"], updates=updates).stretches()]

    before = names(None)
    one, other = (written(tmp_path / f"{n}", {15: text(c=n)}) for n in (1, 2))
    assert [a == b for a, b in zip(before, names(one), strict=True)] == [True, False, True]
    assert [a == b for a, b in zip(names(one), names(other), strict=True)] == [True, False, True]
    reordered = written(tmp_path / "3", {29: text(c=0), 15: text(c=1)})
    assert [a == b for a, b in zip(names(one), names(reordered), strict=True)] == [True, True, False]


def test_a_file_that_breaks_while_it_is_read_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    found = written(path, {n: text(c=digest(n).hex()) for n in range(50)})
    whole = path.read_bytes()
    path.write_bytes(b"\0" * (len(whole) // 2) + whole[len(whole) // 2 :])
    with pytest.raises(FolderError, match=r"remove it, and the next run makes it anew"):
        CarriedUpdates(path).entries(keys(1))
    assert len(found) == 50
