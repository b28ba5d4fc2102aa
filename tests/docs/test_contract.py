"""CONTRACT.md says what the code does: its tables are held against the columns, fields and words there are."""

from __future__ import annotations

import re
import struct
import types
import typing
import zlib
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.attachments import FileFacts
from batchflex.config.loader import build
from batchflex.config.score_sections import specs_of
from batchflex.core.errors import StopReason
from batchflex.core.message import Message
from batchflex.core.types import STATUSES, Outcome
from batchflex.plan import manifest
from batchflex.scoring import scores_file
from batchflex.storage import (
    FolderStore,
    carried_updates,
    journal,
    part_files,
    part_merging,
    results_table as table,
    table_files,
)
from batchflex.storage.output_folder import Folder
from batchflex.storage.run_state import RunState, Wait
from tests.support.outcomes import outcome
from tests.support.paths import ROOT

CONTRACT = (ROOT / "CONTRACT.md").read_text(encoding="utf-8")
TYPES = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "double": pa.float64(),
         "timestamp[us, tz=UTC]": pa.timestamp("us", tz="UTC")}  # fmt: skip


def rows(heading: str, first: str) -> list[list[str]]:
    """The rows of the table under a heading whose first column is ``first``."""
    section = re.split(r"^#+ ", CONTRACT.partition(f"# {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    table = section[section.index(f"| {first} |") :].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" |")] for line in table.strip().splitlines()]
    assert {len(row) for row in cells} == {len(cells[0])}, "a row has too many or too few cells"
    return cells[2:]


def names(heading: str, first: str) -> list[str]:
    return [row[0].strip("`") for row in rows(heading, first)]


def test_columns_of_the_results_are_as_written_in_order_and_type() -> None:
    written = {row[0].strip("`"): TYPES[row[1]] for row in rows("`results.parquet`", "column")}
    assert list(written.items()) == list(part_files.COLUMNS.items())


def test_columns_that_are_never_null_are_those_an_outcome_needs() -> None:
    never = {row[0].strip("`") for row in rows("`results.parquet`", "column") if row[3] == "never"}
    optional = {name for name, kind in typing.get_type_hints(Outcome).items() if type(None) in typing.get_args(kind)}
    assert never == set(part_files.COLUMNS) - optional
    assert all(row[3] for row in rows("`results.parquet`", "column"))


def test_a_part_has_the_columns_of_the_results_and_its_own(tmp_path: Path) -> None:
    part_files.write_part(FolderStore(tmp_path), 1, [outcome(1)])
    schema = pq.read_schema(tmp_path / part_files.part_name(1))
    assert schema.names == [*part_files.COLUMNS, *names("Parts", "column")]
    assert [schema.field(row[0].strip("`")).type for row in rows("Parts", "column")] == [
        *[pa.string()] * 4, pa.int64(), pa.int64(), pa.int32()
    ]  # fmt: skip


def test_updates_of_carried_columns_are_as_written(tmp_path: Path) -> None:
    with carried_updates.UpdatesWriter(tmp_path / "carried.parquet") as writer:
        writer.add(
            pl.DataFrame({"hi": [1], "lo": [2]}, schema_overrides={"hi": pl.UInt64, "lo": pl.UInt64}), ["{}"], None
        )
        writer.keep("")
    schema = pq.read_schema(tmp_path / "carried.parquet")
    written = {row[0].strip("`"): row[1] for row in rows("Carried columns", "column of `carried.parquet`")}
    assert {field.name: str(field.type) for field in schema} == written
    assert {b"batchflex.id", b"batchflex.positions"} <= pq.read_metadata(tmp_path / "carried.parquet").metadata.keys()


def test_every_column_of_a_part_is_a_field_of_an_outcome() -> None:
    assert {*part_files.COLUMNS, *names("Parts", "column")} == set(Outcome.__struct_fields__)


def test_statuses_are_all_there() -> None:
    assert set(names("Statuses", "status")) == set(STATUSES)


def test_fields_of_run_json_are_as_written_in_order_and_type() -> None:
    kinds = {
        "string": str,
        "integer": int,
        "number": float,
        "null": types.NoneType,
        "list of strings": list,
        "list of objects": list,
        "object": dict,
    }
    run_state = RunState("run-1", "job", "out", 0.0, {})
    written = rows("`run.json`", "field")
    for ended in (False, True):
        state = run_state.state(0.0, ended=ended)
        assert [row[0].strip("`") for row in written] == list(state)
        for row in written:
            allowed = tuple(kinds[word] for word in row[1].split(" or "))
            assert isinstance(state[row[0].strip("`")], allowed), row[0]


def test_fields_of_a_wait_are_as_written() -> None:
    facts = Wait("here", "quota", Message("said", "bare"), 0.0, 1.0).facts(quoting=True)
    assert names("What is waited for", "field of a wait") == list(facts)


def test_reasons_to_stop_are_all_there() -> None:
    assert names("Why a run stopped early", "`stopped_by`") == list(typing.get_args(StopReason))


def test_files_of_the_folder_are_as_written(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    parts, segments = folder.path / "parts" / part_files.part_name(1), journal.segment_path(folder.journal, 1)
    with folder.held():
        kept = journal.Journal(folder.journal, 1, reserve_bytes=4096)
        kept.append(outcome(1))
        part_files.write_part(folder.parts, 1, [outcome(1)])
        part_merging.merge(folder.parts, part_files.part_numbers(folder.parts), {})
        table.write_results(folder.results, table.assemble(folder.parts, {}, ["{}"]))
        scores_file.make(folder, build({}), specs_of({"brief": {"kind": "length", "max": 1}}))
        folder.write_state({})
        folder.write_job({})
        folder.add_history({})
        folder.add_telemetry({})
        folder.inputs.touch()
        folder.snapshot.touch()
        folder.positions.touch()
        folder.carried.touch()
        folder.report.touch()
        folder.results_manifest.touch()
        folder.scores_manifest.touch()
        there = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
        kept.close()
    written = {name.replace("NNNNNN", "000001") for name in names("The folder", "name")}
    apart = {"workers/NN/", "shards/IIIII-of-NNNNN/", "shards/numbers/"}
    assert written - {f"{folder.results_folder.name}/", f"{folder.scores_folder.name}/", *apart} == there
    assert folder.worker(0).path.parent == tmp_path / "workers"
    assert folder.shard(3, 64).path == tmp_path / "shards" / "00003-of-00064"
    with folder.held():
        made = table.assemble(folder.parts, {}, ["{}"])
        table_files.write(folder, made, as_folder=True)
    assert folder.results_manifest.stat().st_size and not folder.results.exists()
    assert {path.suffix for path in folder.results_folder.iterdir()} == {".parquet"}
    assert (parts.exists(), segments.exists()) == (True, True)


def test_lines_of_inputs_jsonl_are_as_written() -> None:
    kinds: dict[str, Any] = {
        "file": manifest.Remembered,
        "begun": manifest.Begun,
        "plan": manifest.Planned,
        "since": manifest.Since,
        "dialect": manifest.Sniffed,
        "attached": FileFacts,
    }
    section = CONTRACT[CONTRACT.index("## `inputs.jsonl`") :].split("\n## ")[0]
    for kind, line in kinds.items():
        (row,) = re.findall(rf"(?m)^\| `{kind}` \|.*$", section)
        assert line.__struct_config__.tag == kind
        assert re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", row))[1:] == list(line.__struct_fields__)


def test_fields_of_scores_json_are_as_written_in_order(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with folder.held():
        part_files.write_part(folder.parts, 1, [outcome(1, content="a"), outcome(2, content="b")])
        table.write_results(folder.results, table.assemble(folder.parts, {}, ["{}"]))
        found = scores_file.make(folder, build({}), specs_of({"s": {"kind": "exact", "value": ["a", "b"]}}))
    (point,) = found["points"]
    assert names("`scores.json`", "field") == list(found)
    assert names("`scores.json`", "field of a sweep point") == list(point)
    assert names("`scores.json`", "field of a score") == list(point["scores"]["s"])
    assert pq.read_schema(folder.scores).names == ["key", "score_s"]
    assert names("`scores.parquet`", "column") == ["key", "score_NAME"]


def test_a_record_of_the_journal_is_as_written(tmp_path: Path) -> None:
    section = CONTRACT.partition("# The journal\n")[2].partition("\n## ")[0]
    names_in_order = section.split("```")[1].split()
    assert names_in_order == list(Outcome.__struct_fields__)
    marker = re.search(r"^\| 4 \| `([0-9A-F ]+)`", section, flags=re.MULTILINE)
    assert marker is not None
    kept = journal.Journal(tmp_path, 1)
    kept.append(outcome(16, response=b"raw"))
    kept.void("run-1")
    kept.close()
    data, found = journal.segment_path(tmp_path, 1).read_bytes(), []
    while data:
        assert data[:4] == bytes.fromhex(marker[1])
        checksum, length = struct.unpack("<II", data[4:12])
        body, data = data[12 : 12 + length], data[12 + length :]
        assert zlib.crc32(body) == checksum
        found.append(msgspec.msgpack.decode(body))
    assert found == [list(msgspec.structs.astuple(outcome(16, response=b"raw"))), {"void": "run-1"}]


@pytest.mark.parametrize(
    ("grid", "carry", "expected"),
    [({"model": ["m"]}, "{}", ["sweep_model"]), ({}, '{"id":1}', ["input_id"])],
)
def test_examples_of_names_that_are_taken(
    tmp_path: Path, grid: dict[str, list[str]], carry: str, expected: list[str]
) -> None:
    assert "`model` becomes `sweep_model`" in CONTRACT
    assert "`id` becomes `input_id`" in CONTRACT
    made = table.assemble(FolderStore(tmp_path), grid, ["{}"], pending=[outcome(1, carry=carry)])
    assert made.schema.names[len(part_files.COLUMNS) :] == expected
