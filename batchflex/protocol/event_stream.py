"""Server-sent events: from the bytes of a stream to the name and data of each. Pure."""

from __future__ import annotations

from collections.abc import Iterator

_BOM = b"\xef\xbb\xbf"


class Events:
    """Name and data of the events in the bytes of a stream, however these are cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._at_start = True
        self._name, self._data = "", list[bytes]()

    def feed(self, piece: bytes) -> Iterator[tuple[str, bytes]]:
        """Those that have ended with this piece."""
        text = self._rest + piece
        if self._at_start:  # a byte order mark before the first event would hide it
            if _BOM.startswith(text):
                self._rest = text
                return
            self._at_start, text = False, text.removeprefix(_BOM)
        held = b"\r" if text.endswith(b"\r") else b""  # a line feed may follow
        if b"\r" in text:
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = text.split(b"\n")
        self._rest = rest + held
        for line in lines:
            field, _, value = line.partition(b":")
            if field == b"data":
                self._data.append(value.removeprefix(b" "))
            elif field == b"event":
                self._name = value.strip().decode("utf-8", "replace")
            elif not line:
                name, data = self._name, self._data
                self._name, self._data = "", []
                if data:
                    yield name, b"\n".join(data)


def are_events(raw: bytes) -> bool:
    return raw.removeprefix(_BOM).lstrip().startswith((b"data:", b"event:", b":", b"id:"))
