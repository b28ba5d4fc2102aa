"""What a scheduler starts, and what it is told besides. Pure; every path in it is absolute."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..core import JobError, printable


class Launch(NamedTuple):
    """One job as a scheduler starts it.

    ``name`` is fit for files, units and Kubernetes objects. ``program`` is the command of batchflex that runs now, ``words``
    what follows it. ``keys`` are the environment variables whose keys it is to be given, or the secret addresses of
    whom it tells; further ones it finds by itself in ``own_file``. ``grace_s`` is how long the
    run may take to end when it is told to.
    """

    name: str
    title: str
    program: tuple[str, ...]
    words: tuple[str, ...]
    folder: str
    user: str
    keys: tuple[str, ...] = ()
    own_file: str | None = None
    env_file: str | None = None
    log: str | None = None
    grace_s: float = 30.0

    def check(self) -> None:
        """:raises JobError: if a word has characters that no line of a schedule can have."""
        for word in (*self.program, *self.words, self.folder, self.env_file or "", self.log or ""):
            if printable(word) != word or {*word} & {*"\n\t"}:
                raise JobError(f"{word!r:.120} has characters that cannot stand in a schedule; give it another name")

    def key_notes(self) -> list[str]:
        return [] if self.own_file is None else [f"key: the run finds it in {self.own_file}"]


class Made(NamedTuple):
    """What is to be installed, by the names of its files, and what to tell the person who does it."""

    files: dict[str, str]
    notes: list[str]


def name_of(title: str) -> str:
    """A name of small letters, digits and hyphens, of 40 characters at most."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return plain or "job"
