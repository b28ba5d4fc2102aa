"""The text of files: what a PDF document says, and text files in their encoding."""

from __future__ import annotations

import codecs
import io
import logging
import re
import threading
from collections.abc import Iterable

from .errors import FileFault
from .options import page_ranges

MOST_CHARS = 1_000_000
_PAGE = re.compile(rb"/Type\s*/Page(?![a-zA-Z])")
_BYTES_A_PAGE = 50_000  # where pages are packed away, so that they cannot be counted without reading the document
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_LONGEST_S = 120.0
_BETWEEN_PAGES = "\n\n"


def pages_about(data: bytes) -> int:
    """About how many pages a document has, without reading it.

    :raises FileFault: if it is none.
    """
    _require_pdf(data)
    return len(_PAGE.findall(data)) or max(1, len(data) // _BYTES_A_PAGE)


def pages_read(there: int, pages: str | None) -> int:
    """How many of the pages that there are those named are."""
    return there if pages is None else len(_among(there, pages))


def _require_pdf(data: bytes) -> None:
    if b"%PDF-" not in data[:1024]:
        raise FileFault("is no PDF document")


def pdf_text(data: bytes, pages: str | None, most: int | None) -> str:
    """The text of a document's pages, or of those named; at most so many characters.

    :raises FileFault: if it cannot be read, or has no text.
    """
    _require_pdf(data)
    made: list[str | FileFault] = []

    def make() -> None:
        try:
            made.append(_pdf_text(data, pages, most))
        except FileFault as fault:
            made.append(fault)

    # What is damaged with intent might be read for ever; a thread that does not end holds up neither the run nor its end.
    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    thread.join(_LONGEST_S)
    if not made:
        raise FileFault(
            f"is a PDF document that takes longer than {_LONGEST_S:g} s to read; name its pages: pages='1-20'"
        )
    if isinstance(made[0], FileFault):
        raise made[0]
    return made[0]


def _pdf_text(data: bytes, pages: str | None, most: int | None) -> str:
    from pypdf import PdfReader

    logging.getLogger("pypdf").addHandler(_SILENCE)  # else its remarks on sloppy files go to standard error
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise FileFault("is a PDF document that a password protects; take that off first")
        text = _joined((reader.pages[number].extract_text() for number in _numbers(len(reader.pages), pages)), most)
    except FileFault:
        raise
    except MemoryError:
        raise FileFault("is too large a document for the memory that there is") from None
    except Exception as error:  # there is no end to what a damaged document raises
        if type(error).__name__ == "DependencyError":
            raise FileFault("is a PDF document that is encrypted; take its protection off first") from None
        raise FileFault(f"is a damaged PDF document ({str(error) or type(error).__name__:.100})") from None
    if not text.strip():
        raise FileFault("is a PDF document without text, a scan perhaps; send images of its pages, or run OCR on it")
    return _bounded(text, most)


_SILENCE = logging.NullHandler()


def _numbers(there: int, pages: str | None) -> list[int]:
    if pages is None:
        return list(range(there))
    found = _among(there, pages)
    if not found:
        raise FileFault(f"has {there:,} pages, and none of {pages}")
    return found


def _among(there: int, pages: str) -> list[int]:
    return [number for each in page_ranges(pages) for number in range(there)[each.start : each.stop]]


def _joined(pages: Iterable[str], most: int | None) -> str:
    """The text of pages, until it is long enough."""
    texts: list[str] = []
    length = 0
    for page in pages:
        if text := page.strip():
            texts.append(text)
            length += len(text)
        if length > (MOST_CHARS if most is None else most):
            break
    return _BETWEEN_PAGES.join(texts)


def has_mark(data: bytes) -> bool:
    """Whether a text says by a byte order mark how it is encoded."""
    return any(data.startswith(mark) for mark, _ in _BOMS)


def file_text(data: bytes, encoding: str | None, most: int | None) -> str:
    """The text of a text file, as UTF-8, or as its byte order mark says, or in the encoding given; at most so many characters.

    :raises FileFault: if it is no text in that encoding.
    """
    found = encoding or next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(found)
    except UnicodeDecodeError as error:
        if encoding is None and b"\0" in data[:4096]:
            raise FileFault("is no text file") from None
        todo = "name its encoding: | file_text(encoding='cp1252')" if encoding is None else "is that its encoding?"
        raise FileFault(f"is not {found.upper()} at byte {error.start:,}; {todo}") from None
    if "\0" in text:
        raise FileFault("is no text file")
    if not text.strip():
        raise FileFault("is a file without text")
    return _bounded(text, most)


def _bounded(text: str, most: int | None) -> str:
    text = text.encode("utf-8", "replace").decode()  # halves of characters, which no JSON may have
    if most is not None:
        return text[:most]
    if len(text) > MOST_CHARS:
        raise FileFault(f"has more than {MOST_CHARS:,} characters; say how many to send: max_chars=…")
    return text
