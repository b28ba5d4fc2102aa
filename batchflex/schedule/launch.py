"""What a scheduler starts. Pure; every path in it is absolute."""

from __future__ import annotations

import re
from typing import NamedTuple

from ..core import JobError, printable


class Launch(NamedTuple):
    """One job as a scheduler starts it.

    ``name`` is fit for files, units and Kubernetes objects. ``program`` is the command of batchflex that is running, ``words``
    are its arguments. ``keys`` are the environment variables that it needs, with keys and with addresses of notifications;
    others it finds by itself in ``own_file``. ``log`` gets what the run says, ``job_log`` is the log that the job keeps itself.
    ``grace_s`` is how long the run may take to end when it is stopped.
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
    job_log: str | None = None
    grace_s: float = 30.0

    def check(self) -> None:
        """:raises JobError: if a word has characters that no line of a schedule can have."""
        for word in (*self.program, *self.words, self.folder, self.env_file or "", self.log or ""):
            if printable(word) != word or {*word} & {*"\n\t"}:
                raise JobError(f"{word!r:.120} has characters that cannot stand in a schedule; give it another name")

    def log_note(self, output: str) -> str:
        """Where the log is: the one that the job keeps, if it does. ``output`` is where the scheduler puts what the run says."""
        if self.job_log is None or self.job_log == output:
            return f"log: {output}"
        return f"log: {self.job_log} (log.file of the job); what goes wrong before there is one: {output}"

    def key_notes(self) -> list[str]:
        return [] if self.own_file is None else [f"key: the run finds it in {self.own_file}"]


class Installation(NamedTuple):
    """The files to install, by their names, and notes for the person who does it."""

    files: dict[str, str]
    notes: list[str]


def safe_name(title: str) -> str:
    """The title in lower-case letters, digits and hyphens, in at most 40 characters."""
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-")
    return plain or "job"
