"""Which failures in a folder's parts count for nothing: those of runs that stopped for their rows' sake, and those of earlier
versions whose words mean today that the run was at fault."""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import TYPE_CHECKING

import pyarrow as pa

from ..protocol import REASK_STATUSES, failure_evidence
from . import part_files
from .store import Store

if TYPE_CHECKING:
    import polars as pl

_BRIEF = ["run_id", "proof", "http_status"]
_ERROR = ["http_status", "error_type", "error_code", "error_message", "response"]


class Void:
    """Finds the void failures of parts. Where no request failed, nothing is read but the column that was passed in.

    ``runs`` are those whose failures are void by the journal; those by the footers of parts are added.
    """

    def __init__(self, store: Store, runs: Collection[str] = ()) -> None:
        self._store = store
        self._in_journal = runs

    @functools.cached_property
    def _runs(self) -> list[str]:
        return sorted(part_files.void_runs(self._store).union(self._in_journal))

    @staticmethod
    def may_be_among(statuses: Collection[str]) -> bool:
        """Whether there may be void ones where there are these statuses."""
        return any(status == "failed" or status in REASK_STATUSES for status in statuses)

    def among(self, number: int, status: pl.Series) -> pl.Series | None:
        """A mask of the void ones of a part, whose column ``status`` is given; ``None`` if there is none.

        :raises FolderError: if the part is damaged.
        """
        failed = status == "failed"
        asked = failed | status.is_in(REASK_STATUSES)  # what stays when a request that was asked again failed
        if not asked.any() or not (failed.any() or self._runs):
            return None
        import polars as pl

        at = (asked if self._runs else failed).arg_true()
        brief = pl.DataFrame(self._rows(number, at, _BRIEF)).with_columns(at=at, failed=failed.gather(at))
        is_void = pl.col("run_id").is_in(self._runs) & (pl.col("proof") != "input").fill_null(False)
        of_runs = brief.filter(is_void)["at"]
        unproven = brief.filter(
            ~is_void & pl.col("failed") & pl.col("proof").is_null() & pl.col("http_status").is_not_null()
        )
        gone = of_runs.to_list()
        if unproven.height:
            columns = (column.to_pylist() for column in self._rows(number, unproven["at"], _ERROR).columns)
            errors = zip(unproven["at"], *columns, strict=True)
            gone += [at for at, *error in errors if failure_evidence.is_of_the_run(*error)]
        if not gone:
            return None
        return pl.repeat(False, len(status), dtype=pl.Boolean, eager=True).scatter(gone, True)

    def _rows(self, number: int, at: pl.Series, columns: list[str]) -> pa.Table:
        return pa.concat_tables(part_files.read_rows(self._store, number, at.to_numpy(), columns))
