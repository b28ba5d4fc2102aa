"""CSV files that grow keep the dialect that they were first read in; files of other kinds that have changed ask what is new."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pytest

from batchflex.config.job import Job
from batchflex.core.types import Request
from batchflex.plan.csv_dialect import Dialect
from batchflex.plan.manifest import Inputs
from batchflex.plan.preparation import Prepared
from batchflex.storage.output_folder import Folder
from tests.unit.plan.test_manifest import job_of, night


def job(folder: Path, user: str = "{{ text }}", **given: Any) -> Job:
    return job_of(folder, prompt={"user": user}, input={"path": str(folder / "in"), **given})


def asked(folder: Path, user: str = "{{ text }}", **given: Any) -> tuple[Prepared, list[str]]:
    found, requests = night(job(folder, user, **given))
    return found, [told(request) for request in requests]


def told(request: Request) -> str:
    return request.fault or str(json.loads(request.body)["messages"][0]["content"])


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in" / "tickets.csv"


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "out" / "inputs.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "cp932"])
def test_rows_that_are_appended_are_asked_and_no_others(inbox: Path, tmp_path: Path, encoding: str) -> None:
    texts = ["あい、う", "か"] if encoding == "cp932" else ["Grüße, a", "für"]
    inbox.write_text(f"id;text\n1;{texts[0]}\n2;plain, b\n", encoding=encoding)
    assert asked(tmp_path)[1] == [texts[0], "plain, b"]
    with inbox.open("ab") as stream:
        stream.write(f"3;{texts[1]}\n4;c, d\n".encode(encoding.removesuffix("-sig")))
    found, new = asked(tmp_path)
    assert new == [texts[1], "c, d"]
    assert any(note.startswith("tickets.csv: separated by ';'") for note in found.notes)
    assert not any("has changed" in note for note in found.notes)
    assert asked(tmp_path)[1] == []
    (line,) = lines(tmp_path, "dialect")
    assert line["separator"] == ";" and codecs.lookup(line["encoding"]) == codecs.lookup(encoding.removesuffix("-sig"))


def test_appended_rows_cannot_make_another_file_of_what_was_read(inbox: Path, tmp_path: Path) -> None:
    inbox.write_text("a;b,c\n1;2,x\n")
    user = "{{ row['a;b'] }}|{{ c }}"
    assert asked(tmp_path, user, on_bad_row="fail")[1] == ["1;2|x"]
    with inbox.open("a") as stream:
        stream.write("1;2\n" * 20 + "3;4,y\n")  # now all but two rows have a semicolon, and no comma
    _, new = asked(tmp_path, user, on_bad_row="fail")
    assert new[-1] == "3;4|y" and all("has 1 cells, the header 2" in fault for fault in new[:-1])


def test_utf16_grows_too(inbox: Path, tmp_path: Path) -> None:
    inbox.write_text("id,text\n1,ä\n", encoding="utf-16")
    assert asked(tmp_path)[1] == ["ä"]
    with inbox.open("ab") as stream:
        stream.write("2,ö\n".encode("utf-16-le"))
    found, new = asked(tmp_path)
    assert new == ["ö"] and any("has changed since it was read" in note for note in found.notes)


def test_a_dialect_that_has_changed_is_said(inbox: Path, tmp_path: Path) -> None:
    inbox.write_text("id;text\n1;a, b\n")
    assert asked(tmp_path)[1] == ["a, b"]
    inbox.write_bytes("id|text\n1|a, b\n2|für\n".encode("cp1252"))
    found, new = asked(tmp_path)
    assert new == ["für"]
    said = "tickets.csv was separated by ';' in utf-8, and is separated by '|' in windows-1252 now"
    assert any(note.startswith(said) for note in found.notes), found.notes
    assert len(lines(tmp_path, "dialect")) == 2


def test_what_the_job_says_of_a_file_is_remembered_apart(inbox: Path, tmp_path: Path) -> None:
    inbox.write_text("id;text\n1;a\n")
    assert asked(tmp_path)[1] == ["a"]
    assert asked(tmp_path, separator=";")[1] == []
    assert asked(tmp_path, encoding="utf-8")[1] == []
    assert [line["said"] for line in lines(tmp_path, "dialect")] == [[None, None], [";", None], [None, "utf-8"]]
    assert asked(tmp_path)[1] == []


def test_a_file_that_a_version_before_has_read_has_commas_still(inbox: Path, tmp_path: Path) -> None:
    inbox.write_text("id;text\n1;a\n")
    user = "{{ row['id;text'] }}"
    assert asked(tmp_path, user, separator=",")[1] == ["1;a"]
    inputs = Folder(tmp_path / "out").inputs
    inputs.write_text("".join(line + "\n" for line in inputs.read_text().splitlines() if "dialect" not in line))
    seems = Dialect(";", "utf-8")
    memory = Inputs(Folder(tmp_path / "out"))
    assert memory.dialect(inbox, inbox.read_bytes(), seems, (None, None)) == Dialect(",", "utf-8")
    inbox.write_text("id;text\n9;a\n")
    assert memory.dialect(inbox, inbox.read_bytes(), seems, (None, None)) is None
    assert memory.dialect(tmp_path / "other.csv", b"", seems, (None, None)) is None


def test_packed_files_have_a_dialect_too(inbox: Path, tmp_path: Path) -> None:
    path = inbox.with_name("tickets.csv.zst")
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write("id;text\n1;für\n2;a, b\n".encode("cp1252"))
    assert asked(tmp_path)[1] == ["für", "a, b"]
    assert asked(tmp_path)[1] == []


def test_a_workbook_and_a_list_that_have_grown(inbox: Path, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (["id", "text"], [1, "a"], [2, "b"]):
        book.active.append(row)
    book.save(inbox.with_name("a.xlsx"))
    table = [{"id": i, "text": f"json {i}"} for i in range(3)]
    inbox.with_name("b.json").write_text(json.dumps(table))
    assert asked(tmp_path)[1] == ["a", "b", "json 0", "json 1", "json 2"]
    book.active.append([3, "c"])
    book.save(inbox.with_name("a.xlsx"))
    inbox.with_name("b.json").write_text(json.dumps([*table, {"id": 3, "text": "json 3"}]))
    found, new = asked(tmp_path)
    assert new == ["c", "json 3"]
    assert [note.split()[0] for note in found.notes if "rows are looked up one by one" in note] == ["a.xlsx", "b.json"]
    assert asked(tmp_path)[1] == []
