"""The text of PDF documents and of text files; and what has none."""

from __future__ import annotations

import io
import logging

import pypdf
import pytest

from batchflex.attachments import FileFault, documents
from tests.support.files import pdf

PAPER = pdf("First page", "Second page", "", "Fourth page")


def test_the_text_of_a_document() -> None:
    assert documents.pdf_text(PAPER, None, None) == "First page\n\nSecond page\n\nFourth page"
    assert documents.pdf_text(PAPER, "2", None) == "Second page"
    assert documents.pdf_text(PAPER, "1,3-9", None) == "First page\n\nFourth page"
    assert documents.pdf_text(PAPER, None, 7) == "First p"


def test_pages_are_counted_without_reading_a_document() -> None:
    assert documents.pages_about(PAPER) == 4
    assert [documents.pages_read(4, pages) for pages in (None, "2-3", "4-9", "7")] == [4, 2, 1, 0]
    assert documents.pages_about(b"%PDF-1.7 packed" + b"x" * 150_000) == 3


def test_a_document_with_an_empty_password_is_read() -> None:
    assert documents.pdf_text(encrypted(""), None, None) == "Secret"


def encrypted(password: str) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(pdf("Secret")))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    into = io.BytesIO()
    writer.write(into)
    return into.getvalue()


@pytest.mark.parametrize(
    ("data", "pages", "words"),
    [
        (b"no document", None, "is no PDF document"),
        (PAPER[:300], None, "is a damaged PDF document ("),
        (b"%PDF-1.4\n" + b"\xff" * 500, None, "is a damaged PDF document ("),
        (pdf("", ""), None, "is a PDF document without text, a scan perhaps"),
        (pdf("One"), "7-8", "has 1 pages, and none of 7-8"),
        (encrypted("open sesame"), None, "is a PDF document that a password protects"),
    ],
)
def test_a_document_without_text_says_why(data: bytes, pages: str | None, words: str) -> None:
    with pytest.raises(FileFault, match=r".") as raised:
        documents.pdf_text(data, pages, None)
    assert words in str(raised.value)


def test_a_document_that_takes_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_LONGEST_S", 0.0)
    with pytest.raises(FileFault, match="is a PDF document that takes longer than 0 s to read; name its pages"):
        documents.pdf_text(pdf(*["Page"] * 50), None, None)


def test_remarks_on_sloppy_documents_go_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    documents.pdf_text(b"sloppy\n" + PAPER, None, None)
    assert capsys.readouterr().err == ""
    assert logging.getLogger("pypdf").level == logging.NOTSET


@pytest.mark.parametrize(
    ("data", "encoding", "text"),
    [
        (b"plain", None, "plain"),
        ("Grüße \U0001f4c4".encode(), None, "Grüße \U0001f4c4"),
        ("Grüße".encode("utf-8-sig"), None, "Grüße"),
        ("Grüße".encode("utf-16"), None, "Grüße"),
        ("Grüße".encode("utf-32"), None, "Grüße"),
        ("Grüße".encode("cp1252"), "cp1252", "Grüße"),
    ],
)
def test_the_text_of_a_file(data: bytes, encoding: str | None, text: str) -> None:
    assert documents.file_text(data, encoding, None) == text
    assert documents.file_text(data, encoding, 3) == text[:3]


@pytest.mark.parametrize(
    ("data", "encoding", "words"),
    [
        ("Grüße".encode("cp1252"), None, "is not UTF-8 at byte 2; name its encoding: | file_text(encoding='cp1252')"),
        (b"\x81", "cp1252", "is not CP1252 at byte 0; is that its encoding?"),
        (b"\x89PNG\r\n\x1a\n\0\0", None, "is no text file"),
        (b"a\0b", None, "is no text file"),
        (b" \n", None, "is a file without text"),
        (b"x" * 1_000_001, None, "has more than 1,000,000 characters; say how many to send: max_chars=…"),
    ],
)
def test_a_file_without_text_says_why(data: bytes, encoding: str | None, words: str) -> None:
    with pytest.raises(FileFault) as raised:
        documents.file_text(data, encoding, None)
    assert str(raised.value) == words


def test_a_long_file_can_be_cut() -> None:
    assert documents.file_text(b"x" * 1_000_001, None, 10) == "x" * 10
