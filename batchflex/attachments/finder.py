"""Which file a row means, and what is in it: found below the one folder that files may come from, and hashed."""

from __future__ import annotations

import hashlib
import importlib.util
import time
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec

from ..core import Attachment, AttachmentKind, MissingExtra
from . import documents, images, tokens
from .contents import read
from .errors import FileFault
from .file_hosts import FileHosts, fault_of_url, host_of, shown
from .options import Use

_TOKENS_A_PAGE = 800
_CHARS_A_TOKEN = 4
_PAGES_OF_REMOTE = 10  # nobody knows before it is there
_TOKENS_OF_REMOTE = _PAGES_OF_REMOTE * _TOKENS_A_PAGE
_REMEMBERED = 200_000  # files of which it is known what is in them, some 400 bytes each
_LIBRARIES = {"image": ("PIL", "Pillow"), "pdf_text": ("pypdf", "pypdf")}


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
    are not sent, nor is the ``secret`` file, which has keys in it. Remote ones are those of ``hosts``.

    A file is read once as long as it stays as it is. ``read`` are those that were read since it was emptied last, each with the
    time, in ns, when it was looked at before that; ``bytes_read`` are those of all of them.
    """

    def __init__(self, root: Path | None = None, secret: Path | None = None, hosts: FileHosts | None = None) -> None:
        self._root = root
        self._hosts = hosts or FileHosts()
        self._secret = None if secret is None else secret.resolve()
        self._known: dict[tuple[str, str], FileFacts] = {}
        self._roots: dict[Path, Path] = {}
        self.read: list[tuple[FileFacts, int]] = []
        self.bytes_read = 0

    def know(self, facts: Iterable[FileFacts]) -> None:
        """Take what is known of files from before."""
        self._known |= {(each.path, each.use): each for each in facts}

    def find(self, use: Use, beside: Path) -> Attachment | str:
        """The file of a use, with its hash, or what is wrong with it; of an image that the server fetches its URL. ``beside`` is
        the folder of the input. Reads the file; asks no network."""
        is_remote = bool(_scheme(use.path))
        name = shown(use.path) if is_remote else use.path
        try:
            if is_remote:
                return use.path if _passed_on(use) else self._remote(use, name)
            path = self._located(use.path, beside)
            facts = self._facts(path, use)
            if facts.fault is not None:
                raise FileFault(facts.fault)
        except FileFault as fault:
            token = tokens.token_without_file(use)
            return Attachment(token, use.kind, name, options=use.options, fault=f"{name!r:.200} {fault}")
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

    def _remote(self, use: Use, name: str) -> Attachment:
        """A file that is fetched when it is sent. Whether it may be is not part of what it is known by."""
        refusal = self._hosts.refusal(*host_of(use.path))
        return Attachment(
            tokens.token_of_url(use),
            use.kind,
            name,
            tokens=_tokens_of_remote(use),
            options=use.options,
            fault=None if refusal is None else f"{name!r:.200} {refusal}",
            url=use.path,
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


def _passed_on(use: Use) -> bool:
    """Whether this is an image that the server is to fetch, or that is in the URL itself.

    :raises FileFault: if it is none, nor what can be fetched here.
    """
    text, scheme = use.path, _scheme(use.path)
    if scheme == "data":
        if use.kind != "image" or text[:11].lower() != "data:image/":
            raise FileFault("is no address of a file; what a data: URL has in it can be put in if it is an image")
        if use.option("max_side") is not None:
            raise FileFault(
                "is in its URL itself, so that it cannot be made smaller; write it into a file, and name that"
            )
        return True
    if (fault := fault_of_url(text)) is not None:
        raise FileFault(f"{fault}; download it first, and name the file")
    return use.kind == "image" and use.option("max_side") is None


def _scheme(text: str) -> str:
    """That of a URL; empty of a path."""
    return text.partition(":")[0].lower() if "://" in text or text[:5].lower() == "data:" else ""


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


def _tokens_of_remote(use: Use) -> int:
    """The same of a file of which nothing is known but its URL: a guess, at most what its options allow."""
    side, chars, pages = use.option("max_side"), use.option("max_chars"), use.option("pages")
    if use.kind == "image":
        return images.Size(side, side).tokens if isinstance(side, int) else 0
    guess = _TOKENS_OF_REMOTE
    if use.kind == "pdf_text" and pages is not None:
        guess = _TOKENS_A_PAGE * documents.pages_read(_PAGES_OF_REMOTE, str(pages))
    return min(guess, chars // _CHARS_A_TOKEN + 1) if isinstance(chars, int) else guess


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
