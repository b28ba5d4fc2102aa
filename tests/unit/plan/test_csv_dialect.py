"""CSV as people have it: which separator, which encoding, and what a file says that is neither."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.core.errors import InputError
from batchflex.plan.csv_dialect import Dialect, sniffed
from batchflex.plan.formats import Settings
from batchflex.plan.reading import Fault
from batchflex.plan.source import Source


def source(path: Path, **settings: Any) -> Source:
    return Source(str(path), Settings(**settings))


def rows(path: Path, **settings: Any) -> list[Any]:
    return [row for block in source(path, **settings).blocks(10) for row in block.rows]


# ------------------------------------------------------------------------------------------------------- separators

SEPARATORS = {
    "a,b\n1,2\n": ",",
    "id;text\n1;hello, world\n2;x\n": ";",
    "id\ttext\n1\ta,b\n": "\t",
    "id|text\n1|a;b\n": "|",
    "a;b;c\n": ";",
    "a;b;c": ";",
    "id;text\r1;2\r": ";",
    "id;text\r\n1;2\r\n": ";",
    # a separator in texts, in quotes, in the header
    "id,text\n1,a;b\n": ",",
    "id,a;b\n1,x;y\n2,p;q\n": ",",
    '"id";"text"\n"1";"a;b, c"\n': ";",
    'id;text\n1;"x\ny;z"\n': ";",
    '"a\nb";"c"\n1;2\n': ";",
    '"x;y\nz",b\n1,2\n': ",",
    "Name, first name;Age\nMiller, Jo;34\nX, Y;3\n": ";",
    # commas that are decimal
    "price;count\n2,50;3,5\n": ";",
    "id;price,eur;text\n1;2,50;x\n2;3,40;y\n": ";",
    # rows that do not fit
    "id,text\n1,hello, world\n2,a, b, c\n": ",",
    "id;text\n1;a\n2;b;c\n3;d\n": ";",
    "id,title,notes;tags\n" + "1,a,b;c\n" * 8 + "2,a,b,x;c\n": ",",
    'id,text\n1,"x\n': ",",
    # one column
    "text\nhello, world\na, b, c\n": "",
    "text\nhello\n": ",",
    'text\n"hello" you, there\nx\n': "\n",
    'text\n"hello" you\nx\n': "\n",
    'text\n"hello, you\nx': ",",
    "Question (a|b)\nfoo\nbar\n": ",",
    "": ",",
    "\n": ",",
}


@pytest.mark.parametrize(("text", "separator"), SEPARATORS.items(), ids=[repr(text[:30]) for text in SEPARATORS])
def test_the_separator_is_told_from_the_beginning(text: str, separator: str) -> None:
    assert sniffed(text.encode(), ",", is_whole=True) == Dialect(separator, "utf-8")


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(
    table=st.integers(2, 5).flatmap(
        lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=8)
    ),
    mark=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    packed=st.booleans(),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_stands_in_the_cells_of_a_table_comes_back(
    tmp_path: Path, table: list[list[str]], mark: str, encoding: str, packed: bool
) -> None:
    header = [f"column {number}" for number in range(len(table[0]) if table else 2)]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=mark, quoting=csv.QUOTE_ALL).writerows([header, *table])
    data = text.getvalue().encode(encoding)
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(data) if packed else data)
    assert rows(path) == [dict(zip(header, row, strict=True)) for row in table]


def test_a_tsv_has_tabs_unless_its_header_has_something_else() -> None:
    assert sniffed(b"a\tb,c\n1\t2\n", "\t", is_whole=True).separator == "\t"
    assert sniffed(b"a,b\n1,2\n", "\t", is_whole=True).separator == ","


def test_a_long_beginning_that_is_cut_anywhere_says_the_same() -> None:
    text = ("id;text\n" + "".join(f'{i};"a, b\nfür"\n' for i in range(400))).encode()
    assert {sniffed(text[:size], ",") for size in range(8, len(text), 7)} == {Dialect(";", "utf-8")}


def test_files_with_other_separators_are_read_and_said(tmp_path: Path) -> None:
    for name, mark in (("a.csv", ";"), ("b.csv", "|"), ("c.csv", "\t"), ("d.tsv", "\t"), ("e.csv", ",")):
        (tmp_path / name).write_text(f'id{mark}text\n1{mark}"x{mark} y, z"\n')
        assert rows(tmp_path / name) == [{"id": "1", "text": f"x{mark} y, z"}]
    (tmp_path / "f.csv").write_text("text\nhello, world\n")
    assert rows(tmp_path / "f.csv") == [{"text": "hello, world"}]
    (tmp_path / "g.csv").write_text("id;text\n1;x\n")
    assert source(tmp_path).notes() == [
        "a.csv and 1 more: separated by ';' (input.separator says otherwise)",
        "b.csv: separated by '|' (input.separator says otherwise)",
        "c.csv: separated by tabs (input.separator says otherwise)",
        "f.csv: read as one column (input.separator says otherwise)",
    ]


def test_what_the_job_says_holds_and_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("a;b,c\n1;2,für\n".encode("latin-1"))
    told = source(path, separator=",", encoding="latin-1")
    assert told.notes() == [] and told.columns() == ["a;b", "c"]
    assert rows(path, separator=",", encoding="latin-1") == [{"a;b": "1;2", "c": "für"}]
    assert rows(path, encoding="cp437")[0]["c"] == "fⁿr"


def test_excels_first_line_names_the_separator_and_is_no_header(tmp_path: Path) -> None:
    for packing in ("", ".gz"):
        path = tmp_path / f"a.csv{packing}"
        data = "\ufeffsep=|\r\nid|text\r\n1|a;b\r\nx\r\n".encode()
        path.write_bytes(gzip.compress(data) if packing else data)
        (block,) = source(path).blocks()
        assert block.rows == [{"id": "1", "text": "a;b"}, Fault("has 1 cells, the header 2")]
        assert block.lines == [3, 4]


# -------------------------------------------------------------------------------------------------------- encodings

TEXTS = {
    "Die Lieferung kam verspätet, schöne Grüße aus München": "cp1252 latin-1 mac_roman",
    "für": "cp1252",
    "Où êtes-vous allés à Noël ? C'est déjà payé": "cp1252 mac_roman",
    "¿Dónde está el baño? ¡Mañana será otro día!": "cp1252",
    "12 € – a “quoted” word": "cp1252",
    "Þetta er gott, takk fyrir það á morgun": "cp1252",
    "Proszę o zwrot pieniędzy, zażółć gęślą jaźń, dziękuję": "cp1250",
    "Příliš žluťoučký kůň, zboží přišlo poškozené": "cp1250",
    "Jó idő, hűvös nő, köszönöm szépen": "cp1250",
    "Доставка была быстрой, спасибо. Не работает кнопка": "cp1251 koi8_r",
    "Η παράδοση ήταν γρήγορη, ευχαριστώ": "cp1253",
    "Teşekkürler, çok hızlı geldi. Işık güzel değil": "cp1254",
    "המשלוח הגיע מהר תודה רבה": "cp1255",
    "كان التوصيل سريعا شكرا جزيلا": "cp1256",
    "จัดส่งเร็วมาก ขอบคุณครับ": "cp874",
    "配送がとても遅かったです。残念でした": "cp932 euc_jp utf-16 utf-32",
    "テスト in a sentence that is English otherwise": "cp932",
    "快递非常慢,但是质量很好": "gb18030",
    "快遞非常慢,但是品質很好,謝謝": "big5",
    "배송이 너무 느렸어요 실망입니다": "cp949",
    "schöne Grüße, only some of it beyond ASCII": "utf-16 utf-16-le utf-16-be utf-8-sig utf-8",
}
CASES = [(text, encoding) for text, encodings in TEXTS.items() for encoding in encodings.split()]


@pytest.mark.parametrize("times", [1, 40])
@pytest.mark.parametrize(("text", "encoding"), CASES, ids=[f"{encoding}-{text[:8]}" for text, encoding in CASES])
def test_texts_in_other_encodings_are_read_as_they_were_written(
    tmp_path: Path, text: str, encoding: str, times: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(("id;text\n" + f"1;{text}\n" * times).encode(encoding))
    assert rows(path) == [{"id": "1", "text": text}] * times


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
def test_the_last_line_tells_too(tmp_path: Path, end: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(f"id;text\n1;für{end}".encode("cp1252"))
    assert rows(path) == [{"id": "1", "text": "für"}]


def test_the_encoding_is_said(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_bytes("id;text\n1;Grüße\n".encode("cp1252"))
    assert source(path).notes() == [
        "tickets.csv: separated by ';', read as windows-1252 (input.separator and input.encoding say otherwise)"
    ]
    path.write_bytes("id,text\n1,テスト\n".encode("cp932"))
    assert source(path).notes() == ["tickets.csv: read as shift_jis (input.encoding says otherwise)"]
    for plain in (b"id,text\n1,a\n", codecs.BOM_UTF8 + "id,text\n1,ü\n".encode(), b""):
        path.write_bytes(plain)
        assert source(path).notes() == []


def test_a_file_that_is_mostly_utf8_stays_so_and_broken_lines_are_the_fault_of_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,n\nfür,1\nGrüße,2\n".encode() + "für,3\n".encode("cp1252"))
    assert [isinstance(row, Fault) for row in rows(path)] == [False, False, True]


def test_what_is_beyond_the_beginning_is_an_error_with_its_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\n" + b"plain text that goes on,1\n" * 12_000 + "schöne Grüße,2\n".encode("cp1252"))
    found = [(block.where(i), row) for block in source(path).blocks() for i, row in enumerate(block.rows)]
    where, fault = found[-1]
    assert where == "a.csv, line 12002" and len(found) == 12_001
    assert isinstance(fault, Fault) and fault.text.startswith(
        "not valid UTF-8: the byte 0xf6 after 'sch'; save the file"
    )
    assert rows(path, encoding="windows-1252")[-1] == {"text": "schöne Grüße", "n": "2"}


def test_bytes_that_the_encoding_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"text,n\nGr\xfc\xdfe,1\nan \x81 here,2\n")
    (first, second) = rows(path, encoding="cp1252")
    assert first == {"text": "Grüße", "n": "1"}
    assert isinstance(second, Fault) and second.text == (
        "not valid windows-1252: the byte 0x81 after 'an '; name the encoding that the file is in with input.encoding, "
        "or save it as UTF-8"
    )
    path.write_bytes("text,n\na,1\n".encode("utf-16-le") + b"\x00\xd8a\x00")
    with pytest.raises(InputError, match=r"a\.csv, line \d: not valid utf-16-le: the byte 0x"):
        rows(path, encoding="utf-16-le")
    path.write_bytes(b"\x81text,n\na,1\n")
    with pytest.raises(InputError, match=r"a\.csv, line 1: not valid windows-1252"):
        rows(path, encoding="cp1252")


# ----------------------------------------------------------------------------------------------------- hostile files


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a;b\n", []),
        (b"a;b", []),
        (b"a;b\n1;\x00x\n", [{"a": "1", "b": "\0x"}]),
        (b"a;b\r1;2\r3;4", [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]),
        (
            b"a;b\n1;2;3\n4\n5;6\n",
            [Fault("has 3 cells, the header 2"), Fault("has 1 cells, the header 2"), {"a": "5", "b": "6"}],
        ),
        (b"a;b\n1;" + b"x" * 500_000 + b"\n2;y\n", [{"a": "1", "b": "x" * 500_000}, {"a": "2", "b": "y"}]),
        (b"\n\na;b\n\n1;2\n", "has no header"),
        (b"sep=;\n", "has no header"),
        (b"a;b;a\n1;2;3\n", "two columns have the same name, 'a'"),
        (b'a;b\n1;"x\n2;y\n', r"line 2: unexpected end of data: a quote that opens a cell of this row is never closed"),
        (b'text\na, b\n"x" y\n"z"\n', [{"text": "a, b"}, {"text": '"x" y'}, {"text": '"z"'}]),
        (b'text\na, b\n"x\ny"\n', [{"text": "a, b"}, {"text": "x\ny"}]),
        (
            b"text\na, b\n" * 100 + b"c\n" * 30_000 + b'"x" y\n',
            "the end of the line expected after '\"': within a cell in quotes",
        ),
        (b'a;b\n1;"x"y\n', "line 2: ';' expected after '\"'"),
        (b"\x00\xff\xfe\x01binary\x80", "a.csv"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_hostile_files(tmp_path: Path, data: bytes, found: Any) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            list(rows(tmp_path / "a.csv"))
            raise InputError("a.csv had no rows that it should not have")
    else:
        assert rows(tmp_path / "a.csv") == found


def test_a_beginning_that_is_long_and_has_nothing_in_it_is_quick_to_judge(tmp_path: Path) -> None:
    """No pattern may go through it again and again."""
    for data in (b'"' * 300_000, b";" * 300_000, b"a" * 300_000, b"\r" * 300_000, b"\xfc" * 300_000, b"\0" * 300_000):
        assert sniffed(data, ",").encoding
