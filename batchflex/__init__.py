"""batchflex: a batch inference job runner.

>>> import batchflex
>>> run = batchflex.run("job.toml")                                    # doctest: +SKIP
>>> run.results()                                                      # doctest: +SKIP
>>> batchflex.complete(frame, user="Summarise: {{ text }}")            # doctest: +SKIP

Names are imported when they are first used, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.lazy import exports
from .core.version import __version__ as __version__

if TYPE_CHECKING:
    from .api import (
        arun as arun,
        complete as complete,
        retry as retry,
        run as run,
        scores_so_far as scores_so_far,
        stream as stream,
    )
    from .config import loader as _loader
    from .config.job import Job as Job
    from .core.errors import (
        BatchflexError as BatchflexError,
        EndpointError as EndpointError,
        FolderBusy as FolderBusy,
        FolderError as FolderError,
        InputError as InputError,
        JobChanged as JobChanged,
        JobError as JobError,
        JobWarning as JobWarning,
        RunStopped as RunStopped,
        StorageError as StorageError,
    )
    from .core.events import Event as Event
    from .engine.run_result import Observer as Observer, Run as Run
    from .engine.underway import RowStream as RowStream
    from .results.result_row import ResultRow as ResultRow
    from .scoring.comparison import Comparison as Comparison, compare as compare
    from .scoring.data_frames import score as score, summarise as summarise

    load_job = _loader.load

__all__, __getattr__, __dir__ = exports(__name__, {"load_job": ("config.loader", "load")})
