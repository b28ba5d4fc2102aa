"""Server-sent events: from the bytes of a stream to the name and data of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable

_BOM = b"\xef\xbb\xbf"


class Events:
    """Name and data of the events in the bytes of a stream, however these are cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._at_start = True

    def feed(self, piece: bytes) -> Iterable[tuple[str, bytes]]:
        """Those that have ended with this piece."""
        text = self._rest + piece
        if self._at_start:  # a byte order mark before the first event would hide it
            if _BOM.startswith(text):
                self._rest = text
                return ()
            self._at_start, text = False, text.removeprefix(_BOM)
        held = b"\r" if text.endswith(b"\r") else b""  # a line feed may follow
        if b"\r" in text:
            text = text.removesuffix(held).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, rest = text.split(b"\n\n")
        self._rest = rest + held
        return [event for block in blocks if (event := _event(block)) is not None]


def _event(block: bytes) -> tuple[str, bytes] | None:
    """The event that these lines are; ``None`` if they have no data."""
    if block.startswith(b"data: ") and b"\n" not in block:  # as nearly all
        return "", block[6:]
    name, data = "", []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip().decode("utf-8", "replace")
    return (name, b"\n".join(data)) if data else None


def are_events(raw: bytes) -> bool:
    return raw.removeprefix(_BOM).lstrip().startswith((b"data:", b"event:", b":", b"id:"))
