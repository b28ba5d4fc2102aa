"""As much as can be read of a job file whose job cannot be made: who is to be notified, and where its log is."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core import JobError
from .environment import environment_of
from .job import Job
from .loader import build


def job_of_section(path: Path, section: str, settings: Sequence[tuple[str, Any]], *, with_file: bool = True) -> Job:
    """A job of one section alone, beside its name and its output folder; without ``with_file`` only of what ``settings`` say of
    that section.

    :raises JobError: if these have mistakes, too, or the file cannot be read at all.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise JobError(f"{path} cannot be read: {error}") from None
    job = data.get("job")
    named = {name: job[name] for name in ("name", "out", "env_file") if name in job} if isinstance(job, dict) else {}
    kept = {"job": {"name": path.stem, **named}, section: data.get(section, {}) if with_file else {}}
    given = [(place, value) for place, value in settings if place == "job.out" or place.startswith(f"{section}.")]
    environment = environment_of(kept, given, path.parent, lenient=True)
    return build(kept, given, folder=path.parent, environment=environment)
