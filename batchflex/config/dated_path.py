"""An output folder for each date (the placeholders in ``job.out``), and moments as people read them. Pure."""

from __future__ import annotations

import datetime
import re
from typing import NamedTuple

_PIECE = re.compile(r"\{\{|\}\}|\{(?P<field>[^{}]*)\}|(?P<brace>[{}])")
# How each is written, so that names sort as the moments do.
_FORMATS = {"date": "%Y-%m-%d", "time": "%H-%M-%S"}
_DIGITS = {"date": r"\d{4}-\d\d-\d\d", "time": r"\d\d-\d\d-\d\d"}
_KNOWN = ", ".join(f"{{{name}}}" for name in ("name", *_FORMATS))


class Dated(NamedTuple):
    """A path with dates in it. ``pieces`` are texts and fields in turn, a text first."""

    pieces: tuple[str, ...]

    @property
    def has_date(self) -> bool:
        return "date" in self.pieces[1::2]

    @property
    def root(self) -> str:
        """The folder whose entries are named by dates."""
        head, slash, _ = self.pieces[0].rpartition("/")
        return head or slash

    @property
    def glob(self) -> str:
        """A glob pattern, relative to the root, that matches every such path."""
        texts = [re.sub(r"([*?\[])", r"[\1]", text) for text in self.pieces]
        texts[0] = re.sub(r"([*?\[])", r"[\1]", self.pieces[0].rpartition("/")[2])
        for number in range(1, len(texts), 2):
            texts[number] = _DIGITS[self.pieces[number]].replace(r"\d{4}", "????").replace(r"\d", "?")
        return "".join(texts)

    def at(self, moment: datetime.datetime) -> str:
        """The path at a moment."""
        return "".join(
            moment.strftime(_FORMATS[piece]) if number % 2 else piece for number, piece in enumerate(self.pieces)
        )

    def moment_of(self, path: str) -> str | None:
        """Date and time in a path, as text that sorts by time; ``None`` if the path is not one of these."""
        made, seen = "", set[str]()
        for number, piece in enumerate(self.pieces):
            if not number % 2:
                made += re.escape(piece)
            else:
                made += f"(?P={piece})" if piece in seen else f"(?P<{piece}>{_DIGITS[piece]})"
                seen.add(piece)
        found = re.fullmatch(made, path, re.ASCII)
        return None if found is None else " ".join(found[field] for field in _FORMATS if field in seen)


def dated(text: str, name: str) -> Dated:
    """Parse ``job.out``: ``{name}`` is replaced by the job's name, ``{date}`` and ``{time}`` stay fields.

    :raises ValueError: with a sentence, if something else is in braces.
    """
    pieces, end = [""], 0
    for found in _PIECE.finditer(text):
        pieces[-1] += text[end : found.start()]
        end, field = found.end(), found["field"]
        if field == "name":
            pieces[-1] += name
        elif field in _FORMATS:
            pieces += [field, ""]
        elif field is not None or found["brace"]:
            raise ValueError(f"there are {_KNOWN}, and {{{{ and }}}} for braces themselves; found {found[0]!r:.60}")
        else:
            pieces[-1] += found[0][0]
    pieces[-1] += text[end:]
    if "time" in pieces[1::2] and "date" not in pieces[1::2]:
        raise ValueError("{time} alone comes round each day; write {date} before it")
    return Dated(tuple(pieces))


def escaped(text: str) -> str:
    """The text with its braces escaped, so that :func:`dated` gives it back as it is."""
    return text.replace("{", "{{").replace("}", "}}")


def local(moment: float | str) -> str:
    """A moment as people read it: in the machine's time zone, with its offset (``2026-05-03 14:00:05+02:00``).

    ``moment`` is in seconds since the epoch, or in the form of ISO 8601 with a zone, as in ``run.json``.
    """
    if isinstance(moment, str):
        when = datetime.datetime.fromisoformat(moment)
    else:
        when = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return when.astimezone().isoformat(sep=" ", timespec="seconds")
