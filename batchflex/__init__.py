"""batchflex: a batch inference job runner.

>>> import batchflex
>>> run = batchflex.run("job.toml")                                    # doctest: +SKIP
>>> run.results()                                                      # doctest: +SKIP
>>> batchflex.complete(frame, user="Summarise: {{ text }}")            # doctest: +SKIP

Names are imported when they are first used, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import arun, complete, retry, run
    from .errors import (
        BatchflexError,
        EndpointError,
        FolderBusy,
        FolderError,
        InputError,
        JobChanged,
        JobError,
        RunStopped,
        StorageError,
    )
    from .events import Event
    from .frames import score, summarise
    from .job import Job
    from .job import load as load_job
    from .pairing import Comparison, compare
    from .runner import Observer, Run

__all__ = [
    "BatchflexError",
    "Comparison",
    "EndpointError",
    "Event",
    "FolderBusy",
    "FolderError",
    "InputError",
    "Job",
    "JobChanged",
    "JobError",
    "Observer",
    "Run",
    "RunStopped",
    "StorageError",
    "arun",
    "compare",
    "complete",
    "load_job",
    "retry",
    "run",
    "score",
    "summarise",
]

_HOMES = {
    "arun": "api",
    "Comparison": "pairing",
    "compare": "pairing",
    "complete": "api",
    "retry": "api",
    "run": "api",
    "score": "frames",
    "summarise": "frames",
    "Event": "events",
    "Job": "job",
    "load_job": "job",
    "Observer": "runner",
    "Run": "runner",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'batchflex' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f".{_HOMES.get(name, 'errors')}", __name__)
    value = getattr(module, "load" if name == "load_job" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
