"""What the columns of a folder's results are: which came from the input, which hold JSON, and what its ids are called there."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from ..core import BatchflexError
from ..storage import COLUMNS, JSON_COLUMNS, Folder, Origins, ResultsFiles, declared, layout_of, part_files
from .live_table import job_of
from .view import Made, Stored


class Columns:
    """``id_name`` is what the ids are called in the input, and so in what is exported; ``id`` where the job does not say, or the
    results have another column of that name."""

    def __init__(self, folder: Folder, results: Stored | Made) -> None:
        self._folder, self._results = folder, results
        self.names: list[str] = results.schema.names
        self.id_name = _id_name(folder, self.names)

    @functools.cached_property
    def origins(self) -> Origins:
        """Where the columns come from that are none of the fixed ones. Of a table of an early version that takes reading the
        footers of all parts; where they are not there, or the job is not, all count as carried."""
        if isinstance(self._results, Made):
            return self._results.origins
        if (found := ResultsFiles(self._folder).origins) is not None:
            return found
        with contextlib.suppress(BatchflexError):
            return _by_parts(self._folder)
        return Origins([], [name for name in self._results.own if name not in COLUMNS], [], [])

    @property
    def structured(self) -> frozenset[str]:
        """The columns of strings that hold JSON."""
        return frozenset([*JSON_COLUMNS, *self.origins.json])

    def own(self, name: str) -> str:
        """The column that a name means: the one of the ids also by what they are called in the input."""
        return "id" if name == self.id_name and name not in self.names else name

    def known(self) -> list[str]:
        """All names that mean a column."""
        return self.names if self.id_name in self.names else [*self.names, self.id_name]


def _id_name(folder: Folder, names: Sequence[str]) -> str:
    data: Any = {}
    with contextlib.suppress(BatchflexError):  # a table may be read without its job
        data = folder.read_job() or {}
    section = data.get("input")
    name = section.get("id") if isinstance(section, Mapping) else None
    return name if isinstance(name, str) and name not in names else "id"


def _by_parts(folder: Folder) -> Origins:
    job = job_of(folder)
    _reading = folder.parts.reading()  # so that no part is merged away meanwhile
    footers = [part_files.footer(folder.parts, number) for number in part_files.part_numbers(folder.parts)]
    return layout_of(footers, job.sweep.variables, (), (), declared(job.schemas)).origins
