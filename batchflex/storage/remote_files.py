"""Files that are not on this machine: in buckets here, on the web in :mod:`.web_files`. They have what readers need of a path.

What is read is one state of a file: a range comes only from an object that still has the tag which it had when it was opened.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import tempfile
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import _GeneratorContextManager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ..config import StorageSection
from ..core import scheme_of, url_name, without_signature
from .object_store import ObjectStore
from .ranges import LEAST_BYTES, TAIL_BYTES, RangeFile
from .remote_errors import RemoteError, RemoteNotFound, explaining

_LOOKED_S = 10.0  # what was found out about a file holds so long; a range of a file that has changed meanwhile is refused anyway
_COPIED_AT_ONCE = 1 << 20
_KEPT_BYTES = 64 << 20


class Facts(NamedTuple):
    """What is said of a file without reading it. ``tag`` changes with the content, as far as the server has one; ``modified`` is
    in ns since the epoch."""

    size: int
    tag: str
    modified: int


class RemoteStat(NamedTuple):
    """The same, as :meth:`pathlib.Path.stat` has it: the tag stands for the number of the file."""

    st_size: int
    st_ino: int
    st_mtime_ns: int
    st_ctime_ns: int


class Ends:
    """The beginnings and the ends of files, which are looked at several times: the header of a table, the footer of Parquet. Of
    files that were found together, as far as there is room for them."""

    def __init__(self) -> None:
        self._found: dict[tuple[RemoteFile, Facts, int], bytes] = {}
        self._room = _KEPT_BYTES

    def read(self, file: RemoteFile, facts: Facts, begin: int, end: int, *, of_tail: bool) -> bytes | None:
        """The bytes from ``begin`` to ``end`` if they are all at the beginning, or with ``of_tail`` at the end; else ``None``."""
        first = max(0, facts.size - TAIL_BYTES) if of_tail else 0
        last = facts.size if of_tail else min(LEAST_BYTES, facts.size)
        if begin < first or end > last:
            return None
        if (data := self._found.get((file, facts, first))) is None or len(data) < end - first:
            data = file._read(first, last, facts)
            if len(data) <= self._room:
                self._room -= len(data)
                self._found[file, facts, first] = data
        return data[begin - first : end - first]


class RemoteFile(ABC):
    """One file, by its URL. Two are the same if their URLs are, whatever signs these. Nothing is asked for before it is needed.

    Failures are :class:`OSError`, whose ``strerror`` says what to do.
    """

    def __init__(self, url: str, ends: Ends | None = None) -> None:
        self.url = url
        self._ends = ends or Ends()
        self._shown = without_signature(url)
        self._facts: Facts | None = None
        self._looked_at = 0.0
        self._copy: tuple[Facts, Any] | None = None

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFile) and other._shown == self._shown

    def __hash__(self) -> int:
        return hash(self._shown)

    @property
    def name(self) -> str:
        return url_name(self.url).name

    @property
    def stem(self) -> str:
        return url_name(self.url).stem

    @property
    def suffix(self) -> str:
        return url_name(self.url).suffix

    def absolute(self) -> RemoteFile:
        return self

    def resolve(self) -> RemoteFile:
        return self

    def is_relative_to(self, folder: Path) -> bool:
        return False

    @abstractmethod
    def _look(self) -> Facts:
        """:raises OSError: if there is no such file, or that cannot be found out."""

    @abstractmethod
    def _read(self, begin: int, end: int, facts: Facts) -> bytes:
        """The bytes from ``begin`` to ``end``, which is more.

        :raises OSError: if they cannot be read, or the file is another than one of these facts.
        """

    def facts(self) -> Facts:
        """What was found out not long ago.

        :raises OSError: if there is no such file, or that cannot be found out.
        """
        now = time.monotonic()
        if self._facts is None or now - self._looked_at > _LOOKED_S:
            self._facts, self._looked_at = self._look(), now
        return self._facts

    def stat(self) -> RemoteStat:
        """:raises OSError: as :meth:`facts`."""
        facts = self.facts()
        number = int.from_bytes(hashlib.sha256(facts.tag.encode()).digest()[:7]) if facts.tag else 0
        return RemoteStat(facts.size, number, facts.modified, facts.modified)

    def open(self, mode: str = "rb", buffering: int = -1, *, ahead: bool = True) -> IO[bytes]:
        """Open it to be read. With ``ahead`` more is fetched than is asked for, for whoever reads it in sequence.

        :raises OSError: as :meth:`facts`.
        """
        facts = self.facts()

        def fetch(begin: int, end: int) -> bytes:
            if (kept := self._ends.read(self, facts, begin, end, of_tail=not ahead)) is not None:
                return kept
            return self._read(begin, end, facts)

        raw = RangeFile(fetch, facts.size, ahead=ahead)
        return cast(IO[bytes], raw if buffering == 0 else io.BufferedReader(raw))

    def copied(self) -> Path:
        """A file on this machine that holds the same as long as this object lives: for what can only be read whole.

        :raises OSError: if it cannot be read or written.
        """
        facts = self.facts()
        if self._copy is None or self._copy[0] != facts:
            copy = tempfile.NamedTemporaryFile(prefix="batchflex-", suffix=self.suffix)  # noqa: SIM115 - see below
            weakref.finalize(self, copy.close)  # which removes it
            with self.open(buffering=0) as stream:
                while data := stream.read(_COPIED_AT_ONCE):
                    copy.write(data)
            copy.flush()
            self._copy = facts, copy
        return Path(self._copy[1].name)


# ------------------------------------------------------------------------------------------------------------- buckets


class InputBucket(ObjectStore):
    """The bucket that ``url`` is in, to be read from. ``root`` is its own URL.

    :raises MissingExtra: if obstore is not installed.
    :raises OSError: of each method, a :class:`RemoteError`: it says what to do.
    """

    def __init__(self, url: str, section: StorageSection) -> None:
        scheme, _, rest = url.partition("://")
        name = rest.partition("/")[0]
        self.root = f"{scheme.lower()}://{name}"
        if not name:
            raise RemoteError(url, f"it names no bucket: that is written {scheme}://BUCKET/PATH")
        super().__init__(self.root, section)

    def facts(self, key: str) -> Facts | None:
        """What the store says of an object; ``None`` if there is none."""
        with self._explained("look at", key):
            try:
                return _facts(self._obstore.head(self._store, key))
            except FileNotFoundError:  # also where there is no such bucket, which it says only when it is listed
                next(iter(self._obstore.list(self._store, key, chunk_size=1)), None)
                return None

    def read(self, key: str, begin: int, end: int, tag: str) -> bytes:
        with self._explained("read", key):
            options: dict[str, Any] = {"range": (begin, end)} | ({"if_match": tag} if tag else {})
            return bytes(self._obstore.get(self._store, key, options=options).bytes())

    def under(self, prefix: str) -> Iterator[tuple[str, Facts]]:
        """All objects whose keys begin so. A prefix ends where a part of a path does."""
        with self._explained("list", prefix):
            for block in self._obstore.list(self._store, prefix or None):
                yield from ((each["path"], _facts(each)) for each in block)

    def folder(self, prefix: str) -> list[str]:
        """The names of what lies directly in a "folder"; those of "folders" end with a slash."""
        with self._explained("list", prefix):
            found = self._obstore.list_with_delimiter(self._store, prefix or None)
            keys = [each["path"] for each in found["objects"]] + [f"{each}/" for each in found["common_prefixes"]]
            return sorted(key.removeprefix(prefix) for key in keys if key != prefix)

    def _explained(self, verb: str, name: str = "") -> _GeneratorContextManager[None]:
        return explaining(f"{self.root}/{name}" if name else self.root, scheme_of(self.root))


def _facts(meta: Any) -> Facts:
    changed: datetime.datetime = meta["last_modified"]
    return Facts(meta["size"], meta["e_tag"] or meta["version"] or "", round(changed.timestamp() * 1e6) * 1_000)


class Listing:
    """The objects below a prefix, which are looked at together: that takes one request for a thousand."""

    def __init__(self, bucket: InputBucket, prefix: str) -> None:
        self.bucket = bucket
        self.ends = Ends()
        self._prefix = prefix
        self._looked_at = 0.0
        self._found: dict[str, Facts] = {}

    def all(self) -> dict[str, Facts]:
        """By key; objects that stand for "folders" are none.

        :raises OSError: if the bucket cannot be listed.
        """
        now = time.monotonic()
        if not self._looked_at or now - self._looked_at > _LOOKED_S:
            found = self.bucket.under(self._prefix)
            self._found = {key: facts for key, facts in found if not key.endswith("/")}
            self._looked_at = now
        return self._found


class BucketFile(RemoteFile):
    """An object; one that was found by listing is looked at with the others."""

    def __init__(self, bucket: InputBucket, key: str, listing: Listing | None = None) -> None:
        super().__init__(f"{bucket.root}/{key}", None if listing is None else listing.ends)
        self._bucket, self.key, self._listing = bucket, key, listing

    def _look(self) -> Facts:
        found = self._bucket.facts(self.key) if self._listing is None else self._listing.all().get(self.key)
        if found is None:
            raise RemoteNotFound(str(self), "there is no such object")
        return found

    def _read(self, begin: int, end: int, facts: Facts) -> bytes:
        return self._bucket.read(self.key, begin, end, facts.tag)
