"""Bodies that a server compressed although the request forbids it (RFC 9110, 8.4.1): unpacked piece by piece, within a bound."""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

_PIECE = 256 << 10  # unpacked at a time, so that a bomb is noticed before it has gone off
_MOST_CODINGS = 4
_ZSTD_WINDOW_LOG = 23  # 8 MB: more is not allowed in HTTP (RFC 9659)

_Unpack = Callable[[bytes], Iterator[bytes]]


class BodyTooLarge(Exception):
    """A body has more bytes than allowed."""


class Unpacker:
    """The codings of one body undone: ``codings`` is the value of ``Content-Encoding``.

    What is no coding that anybody uses (``utf-8`` was seen) counts as none.

    :raises ValueError: if a coding cannot be undone here, in words that name it.
    """

    def __init__(self, codings: str, most_bytes: int) -> None:
        names = [name for each in codings.split(",") if (name := each.strip().lower()) in (*_KNOWN, *_UNREAD)]
        if len(names) > _MOST_CODINGS:
            raise ValueError(f"the answer is packed {len(names)} times")
        if unread := [name for name in reversed(names) if name in _UNREAD]:
            raise ValueError(f"the answer is packed as {unread[0]!r}, which is not read here")
        self._name = ", ".join(names)
        self._stages = [_KNOWN[name]() for name in reversed(names)]
        self._sizes = [0] * len(names)
        self._most = most_bytes

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What these bytes unpack to.

        :raises BodyTooLarge: if that makes more than ``most_bytes`` in all, in any of the codings.
        :raises ValueError: if they are not packed as they should be.
        """
        pieces: Iterable[bytes] = (data,)
        for number, stage in enumerate(self._stages):
            pieces = self._through(number, stage, pieces)
        try:
            yield from pieces
        except (BodyTooLarge, MemoryError):
            raise
        except Exception as error:  # each library has errors of its own
            raise ValueError(f"the answer is not packed as {self._name}, as it says: {error}"[:300]) from None

    def _through(self, number: int, stage: _Unpack, pieces: Iterable[bytes]) -> Iterator[bytes]:
        for packed in pieces:
            for piece in stage(packed):
                self._sizes[number] += len(piece)
                if self._sizes[number] > self._most:
                    raise BodyTooLarge
                yield piece


def _zlib(wbits: int) -> _Unpack:
    unpacking = zlib.decompressobj(wbits)

    def unpack(data: bytes) -> Iterator[bytes]:
        nonlocal unpacking
        piece = b""
        while data or len(piece) == _PIECE:
            if unpacking.eof:  # a gzip file may have several members, and zeros after the last
                if not data.strip(b"\0"):
                    return
                unpacking = zlib.decompressobj(wbits)
            piece = unpacking.decompress(data, _PIECE)
            data = unpacking.unused_data if unpacking.eof else unpacking.unconsumed_tail
            yield piece

    return unpack


def _deflate() -> _Unpack:
    """With the header of zlib or, as some servers take the name, without."""
    begin, inflate = b"", None

    def unpack(data: bytes) -> Iterator[bytes]:
        nonlocal begin, inflate
        if inflate is None:
            begin += data
            if len(begin) < 2:
                return
            has_header = begin[0] & 15 == 8 and int.from_bytes(begin[:2]) % 31 == 0
            data, inflate = begin, _zlib(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
        yield from inflate(data)

    return unpack


def _brotli() -> _Unpack:
    unpacking = _library("br", "brotli").Decompressor()

    def unpack(data: bytes) -> Iterator[bytes]:
        yield (piece := unpacking.process(data, output_buffer_limit=_PIECE))
        while piece or not unpacking.can_accept_more_data():
            yield (piece := unpacking.process(b"", output_buffer_limit=_PIECE))

    return unpack


def _zstd() -> _Unpack:
    zstd = _library("zstd", "compression.zstd", "backports.zstd")
    options = {zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG}
    unpacking = zstd.ZstdDecompressor(options=options)

    def unpack(data: bytes) -> Iterator[bytes]:
        nonlocal unpacking
        while data or not (unpacking.needs_input or unpacking.eof):
            if unpacking.eof:  # there may be several frames
                unpacking = zstd.ZstdDecompressor(options=options)
            yield unpacking.decompress(data, _PIECE)
            data = unpacking.unused_data if unpacking.eof else b""

    return unpack


def _library(coding: str, *modules: str) -> Any:
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise ValueError(
        f"the answer is packed as {coding!r}, though none was asked for: pip install {modules[-1]} to read it"
    )


_KNOWN: dict[str, Callable[[], _Unpack]] = {
    "gzip": lambda: _zlib(zlib.MAX_WBITS | 16),
    "x-gzip": lambda: _zlib(zlib.MAX_WBITS | 16),
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
_UNREAD = ("compress", "x-compress", "dcb", "dcz", "aes128gcm", "exi", "pack200-gzip")
