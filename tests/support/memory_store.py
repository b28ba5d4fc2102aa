"""A store in memory: the second one, which shows that parts need nothing that only a folder has."""

from __future__ import annotations

import contextlib
import io
import weakref
from collections.abc import Iterable, Iterator
from typing import IO

import pyarrow as pa


class MemoryStore:
    """As :class:`batchflex.storage.Store` says."""

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._objects: dict[str, bytes] = {}
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()

    def __str__(self) -> str:
        return self._name

    def list(self) -> dict[str, int]:
        return {name: len(data) for name, data in self._objects.copy().items()}

    def get(self, name: str) -> bytes:
        try:
            return self._objects[name]
        except KeyError:
            raise FileNotFoundError(2, "No such object", name) from None

    def open(self, name: str) -> pa.NativeFile:
        return pa.BufferReader(self.get(name))

    @contextlib.contextmanager
    def put(self, name: str) -> Iterator[IO[bytes]]:
        stream = io.BytesIO()
        yield stream
        self._objects[name] = stream.getvalue()

    @contextlib.contextmanager
    def put_if_absent(self, name: str) -> Iterator[IO[bytes]]:
        stream = io.BytesIO()
        yield stream
        data = stream.getvalue()
        if self._objects.setdefault(name, data) is not data:  # at once, whoever else writes it
            raise FileExistsError(17, "There is such an object", name)

    def delete(self, names: Iterable[str]) -> bool:
        if self._readers:
            return False
        for name in names:
            self._objects.pop(name, None)
        return True

    def reading(self) -> object:
        self._readers.add(reader := _Reader())
        return reader

    def prepare(self) -> None:
        """It is there already."""


class _Reader:
    pass
