"""What a job run leaves when it has ended, and who may watch it until then."""

from __future__ import annotations

import os.path
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..core import FolderError, JobWarning
from ..display import run_text
from ..storage import Folder, RunState

if TYPE_CHECKING:
    import polars as pl


class Observer(Protocol):
    """Watches a run: is called twice a second and when something happens, and must return quickly.

    One that has a method ``event`` too is given an :class:`~batchflex.core.events.Event` in place of each note.
    """

    def tick(self, run_state: RunState) -> None: ...

    def note(self, text: str) -> None:
        """A sentence for whoever watches."""


class Nobody:
    def tick(self, run_state: RunState) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class Run:
    """A run that has ended. ``summary`` is what ``run.json`` holds; CONTRACT.md gives the fields' meaning.

    Of a job with ``[[score]]``, ``scores`` is what ``scores.json`` holds, and ``unscored`` says what is missing there, if
    anything. ``untold`` has a sentence for each entry of ``[notify]`` that failed. ``unquoted`` is ``summary`` without words of a
    server or of a row, for a log.
    """

    def __init__(self, out: Path, summary: dict[str, Any], unquoted: dict[str, Any] | None = None) -> None:
        self.out = out
        self.summary = summary
        self.unquoted = summary if unquoted is None else unquoted
        self.scores: dict[str, Any] | None = None
        self.unscored: str | None = None
        self.untold: list[str] = []

    def __repr__(self) -> str:
        """``<Run finished: 3,000 rows, 45 invalid>``"""
        return f"<Run {run_text.outcome(self.summary)}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from ..display import run_html

        report = Folder(self.out).report
        link = os.path.relpath(report) if report.exists() else None
        return run_html.page(self.summary, self.scores, self.unscored, link)

    @property
    def exit_code(self) -> int:
        """What the command line would exit with: 0 every row answered, 1 some failed, invalid or empty, 3 stopped early, or with
        scores missing."""
        code = int(self.summary["exit_code"])
        return 3 if code in (0, 1) and self.unscored is not None else code

    @property
    def stopped_by(self) -> str | None:
        """Why the run stopped early; ``None`` if it came to its end."""
        return None if self.summary["stopped_by"] is None else str(self.summary["stopped_by"])

    def results(self) -> pl.DataFrame:
        """One row a request, in input order. CONTRACT.md gives the columns.

        Carried columns are those of the input as it is now, as ``batchflex results`` has them; where that cannot be found out, or
        the folder's scores are older then, there is a :class:`~batchflex.JobWarning`.

        :raises FolderError: if the run was stopped so early, or at once, that there is no table.
        """
        import polars as pl

        from ..results import refresh
        from ..storage import ResultsFiles

        folder = Folder(self.out)
        if not ResultsFiles(folder).exists:
            raise FolderError(f"there is no table in {self.out}: {self.summary['message']}")
        done = refresh(folder)
        if done.warning is not None:
            warnings.warn(done.warning, JobWarning, 2)
        if done.note is not None and folder.scores_json.exists():
            warnings.warn(f"{done.note}; the scores are older: batchflex score {self.out}", JobWarning, 2)
        there = ResultsFiles(folder)
        return pl.read_parquet(there.paths, glob=False)
