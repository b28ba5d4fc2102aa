"""Which file a row means, and what is in it: found below the one folder that files may come from, and hashed."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..core import Attachment, AttachmentKind, MissingExtra
from . import documents, images, tokens
from .contents import read
from .errors import FileFault
from .options import Use

_TOKENS_A_PAGE = 800
_CHARS_A_TOKEN = 4
_REMEMBERED = 200_000  # files of which it is known what is in them, some 400 bytes each
_LIBRARIES = {"image": ("PIL", "Pillow"), "pdf_text": ("pypdf", "pypdf")}
_SECOND_NAME = {"image": "an image", "pdf_text": "the text of a PDF document", "file_text": "the text of a file"}


def require(kinds: Collection[str]) -> None:
    """:raises MissingExtra: if what reads files of these kinds is not installed."""
    for kind in kinds:
        module, name = _LIBRARIES.get(kind, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f"the prompt puts in files by | {kind}, which needs {name}; install it with: pip install 'batchflex[files]'"
            )


class FileFacts(msgspec.Struct, frozen=True, gc=False, tag="attached", tag_field="kind"):
    """What is in a file, for a kind of ``use``, as long as its ``signature`` (inode, size, times of modification and change, in
    ns) stays as it is: its hash, its bytes, the size of an image, about how many pages a document has; or what is wrong."""

    path: str
    use: str
    signature: tuple[int, int, int, int]
    sha256: str = ""
    bytes: int = 0
    width: int = 0
    height: int = 0
    pages: int = 0
    fault: str | None = None


class Finder:
    """Finds the files of rows below ``root``, or below the folder of the input that names them, if that is ``None``. Hidden ones
    are not sent, nor is the ``secret`` file, which has keys in it.

    A file is read once as long as it stays as it is. ``read`` are those that were read since it was emptied last, each with the
    time, in ns, when it was looked at before that; ``bytes_read`` are those of all of them.
    """

    def __init__(self, root: Path | None = None, secret: Path | None = None) -> None:
        self._root = root
        self._secret = None if secret is None else secret.resolve()
        self._known: dict[tuple[str, str], FileFacts] = {}
        self._roots: dict[Path, Path] = {}
        self.read: list[tuple[FileFacts, int]] = []
        self.bytes_read = 0

    def know(self, facts: Iterable[FileFacts]) -> None:
        """Take what is known of files from before."""
        self._known |= {(each.path, each.use): each for each in facts}

    def find(self, use: Use, beside: Path) -> Attachment | str:
        """The file of a use, with its hash, or what is wrong with it; of a remote image its URL. ``beside`` is the folder of the
        input. Reads the file; asks no network."""
        try:
            if (url := _remote(use)) is not None:
                return url
            path = self._located(use.path, beside)
            facts = self._facts(path, use)
            if facts.fault is not None:
                raise FileFault(facts.fault)
        except FileFault as fault:
            token = tokens.token_without_file(use)
            return Attachment(token, use.kind, use.path, options=use.options, fault=f"{use.path!r:.200} {fault}")
        return Attachment(
            tokens.token(use, facts.sha256),
            use.kind,
            use.path,
            str(path),
            facts.sha256,
            facts.bytes,
            _tokens(use, facts),
            use.options,
        )

    def _located(self, text: str, beside: Path) -> Path:
        """Where a file is. Links are followed, and have to end below the root as well."""
        folder = self._root or beside
        try:
            root = self._roots.get(folder) or self._roots.setdefault(folder, folder.resolve())
            path = (root / text).resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise FileFault(f"is no path ({error})") from None
        if not path.is_relative_to(root):
            kept = "" if self._root is not None else ", the folder of the input"
            raise FileFault(
                f"is outside of {root}{kept}, and nothing from elsewhere is sent; set input.files to the folder of the files"
            )
        if path == self._secret or any(part.startswith(".") for part in path.relative_to(root).parts):
            raise FileFault("is hidden or holds keys, and is not sent")
        return path

    def _facts(self, path: Path, use: Use) -> FileFacts:
        now = time.time_ns()
        try:
            stat = path.stat()
        except (OSError, ValueError):
            raise FileFault(f"is not there ({path})" if str(path) != use.path else "is not there") from None
        signature = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        place = str(path), use.kind
        before = self._known.get(place)
        if before is not None and before.signature == signature:
            return before
        found = _read(path, use.kind, signature)
        self.bytes_read += found.bytes
        if before is not None or len(self._known) < _REMEMBERED:
            self._known[place] = found
            if found.fault is None:
                self.read.append((found, now))
        return found


def _remote(use: Use) -> str | None:
    """The URL of an image that the server is to fetch; ``None`` of a local file."""
    text = use.path
    scheme = text.partition(":")[0].lower() if "://" in text or text[:5].lower() == "data:" else ""
    if not scheme:
        return None
    if use.kind != "image":
        raise FileFault(f"is remote, and {_SECOND_NAME[use.kind]} is read here; download it first, and name the file")
    is_image = (
        text[:11].lower() == "data:image/" if scheme == "data" else scheme in ("http", "https") and _has_host(text)
    )
    if not is_image:
        raise FileFault("is no address of an image that a server can fetch (http:// or https://); download it first")
    if use.option("max_side") is not None:
        raise FileFault(
            "is fetched by the server, so that it cannot be made smaller here; leave out max_side, or download it first"
        )
    return text


def _has_host(text: str) -> bool:
    try:
        return bool(urlsplit(text).hostname) and text.isprintable() and " " not in text
    except ValueError:
        return False


def _read(path: Path, kind: AttachmentKind, signature: tuple[int, int, int, int]) -> FileFacts:
    """What is in a file. Nothing is decoded."""
    width = height = pages = 0
    try:
        data = read(path)
        if kind == "image":
            width, height = images.size_of(data)
        elif kind == "pdf_text":
            pages = documents.pages_about(data)
    except FileFault as fault:
        return FileFacts(str(path), kind, signature, fault=str(fault))
    return FileFacts(str(path), kind, signature, hashlib.sha256(data).hexdigest(), len(data), width, height, pages)


def _tokens(use: Use, facts: FileFacts) -> int:
    """About how many a file takes: an image by its pixels, a document by its pages, a text by its bytes."""
    if use.kind == "image":
        side = use.option("max_side")
        return images.Size(facts.width, facts.height).within(side if isinstance(side, int) else None).tokens
    chars, pages = use.option("max_chars"), use.option("pages")
    most = (chars if isinstance(chars, int) else documents.MOST_CHARS) // _CHARS_A_TOKEN + 1
    if use.kind == "pdf_text":
        return min(most, _TOKENS_A_PAGE * documents.pages_read(facts.pages, None if pages is None else str(pages)))
    return min(most, facts.bytes // _CHARS_A_TOKEN + 1)
