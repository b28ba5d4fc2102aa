"""What a file is sent as. Reads it, and makes sure that it is what was planned."""

from __future__ import annotations

import base64
import codecs
import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from ..core import Attachment
from . import documents, images
from .errors import FileFault

MOST_BYTES = 64 << 20
_PAGES = ("text/html", "application/xhtml+xml")
_CHANGED = "has changed since it was planned; run the same command again to send it as it is now"


def read(path: Path) -> bytes:
    """A file's bytes.

    :raises FileFault: if it is not there, is no file or cannot be read, is empty or too large.
    """
    try:
        if not path.is_file():
            raise FileFault("is no file" if path.exists() else "is not there")
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise FileFault(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if not data:
        raise FileFault("is empty")
    if len(data) > MOST_BYTES:
        raise FileFault(f"is larger than {MOST_BYTES >> 20} MB, and is not sent")
    return data


class RemoteFile(NamedTuple):
    """What came from the URL of a remote file; ``type`` and ``charset`` are as its server says, empty if it does not."""

    data: bytes
    type: str = ""
    charset: str = ""


def content_of(file: Attachment, fetched: RemoteFile | None = None) -> bytes:
    """What takes the place of a file's token in a body: the data URL of an image, or a text, written as inside of a JSON string.
    Of a remote file that is what was ``fetched``. Blocks.

    :raises FileFault: if the file is not what was planned any more, or cannot be made into that; with its name.
    """
    if file.fault is not None:
        raise FileFault(file.fault)
    try:
        if fetched is not None:
            return _made_of(fetched, file)
        data = read(Path(file.path))
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise FileFault(_CHANGED)
        return _made(data, file)
    except FileFault as fault:
        raise named(file, fault) from None


def named(file: Attachment, fault: FileFault) -> FileFault:
    """What is wrong with a file, as a sentence."""
    return FileFault(f"{file.name!r:.200} {fault}")


def _made_of(fetched: RemoteFile, file: Attachment) -> bytes:
    if fetched.charset and file.kind == "file_text" and not any(name == "encoding" for name, _ in file.options):
        try:
            said = codecs.lookup(fetched.charset).name
            b"".decode(said)
        except (LookupError, ValueError):
            pass  # what is no encoding says nothing
        else:
            if not documents.has_mark(fetched.data):
                file = msgspec.structs.replace(file, options=(*file.options, ("encoding", said)))
    try:
        return _made(fetched.data, file)
    except FileFault as fault:
        is_page = fetched.type in _PAGES and file.kind != "file_text"
        raise FileFault(f"{fault}; its server sent a web page ({fetched.type})" if is_page else str(fault)) from None


def _made(data: bytes, file: Attachment) -> bytes:
    options = dict(file.options)
    match file.kind:
        case "image":
            mime, made = images.encoded(data, _number(options.get("max_side")))
            return f"data:{mime};base64,".encode() + base64.b64encode(made)
        case "pdf_text":
            text = documents.pdf_text(data, _text(options.get("pages")), _number(options.get("max_chars")))
        case "file_text":
            text = documents.file_text(data, _text(options.get("encoding")), _number(options.get("max_chars")))
    return msgspec.json.encode(text)[1:-1]


def _number(value: str | int | None) -> int | None:
    return value if isinstance(value, int) else None


def _text(value: str | int | None) -> str | None:
    return value if isinstance(value, str) else None
