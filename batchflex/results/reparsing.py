"""Answers that are there already, parsed again and compared with the job's schema as it is now. Sends nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import polars as pl

from ..config import Job, build
from ..core import BAD, JobError, Outcome, SortedKeys, key_halves
from ..plan import completion_marker, points
from ..protocol import Shapes, requested_format
from ..storage import Folder, part_files, table_files, with_verdict, writer
from .live_table import assemble, has_all_answers, job_of, last_answers, plan_of, rows_of_table

_PART_ROWS = 10_000
_SECTION = "answer."


class Reparsed(NamedTuple):
    """How many answers were ``read``, how many ``fit`` now and did not before, and how many do not ``fit_no_more``."""

    read: int
    fit: int
    fit_no_more: int


def reparse(folder: Folder, settings: Sequence[tuple[str, Any]] = ()) -> Reparsed:
    """Parse the answers of a folder again, with ``settings`` of ``answer`` in place of its job's, and make the table of results.

    An answer with another verdict is sealed again, into a part of its own; of two with one key the last counts.

    :raises FolderBusy: if a run is going on.
    :raises JobError: if a setting is none of ``answer``.
    :raises InputError, EndpointError: if rows bring a ``response_format`` of their own, and the input is not there to tell.
    :raises StorageError: if a part cannot be written.
    """
    if wrong := [place for place, _ in settings if not place.startswith(_SECTION)]:
        raise JobError(f"--reparse reads answers anew and asks nothing: only answer.… can be set, not {wrong[0]}")
    if any(place.startswith("answer.choices") for place, _ in settings):
        raise JobError(
            "--reparse: answer.choices says what is asked; what answers have to fit is set as answer.json_schema"
        )
    folder.require()
    with folder.held():
        job = job_of(folder)
        job = build(job.resolved(), settings)
        is_whole = has_all_answers(folder)
        number = writer.recover(folder)
        known = completion_marker.last_marker(folder)
        shapes = Shapes(job.answer.json_schema, lenient=job.answer.lenient)
        rows = rows_of_table(folder) if is_whole else None
        last = last_answers(folder, [point.label for point in points(job)])
        formats, where = _formats(job, last)
        if rows is not None:
            where = where.join(rows, on=["hi", "lo"], how="semi")
        read = fit = fit_no_more = 0
        changed: list[Outcome] = []
        source: part_files.Footer | None = None
        for footer, outcome, asked in _answers(folder, where):
            read += 1
            made = with_verdict(outcome, *shapes.judge_format(formats[asked], outcome.content))
            if made == outcome:
                continue
            fit += made.status == "ok" != outcome.status
            fit_no_more += made.status == "invalid" != outcome.status
            if source is not None and len(changed) >= _PART_ROWS:
                part_files.write_part(folder.parts, number, changed, source.types)
                number += 1
                changed.clear()
            source = footer
            changed.append(made)
        if source is not None:
            part_files.write_part(folder.parts, number, changed, source.types)
        folder.write_job(job.resolved())
        if is_whole:
            _count(folder, fit - fit_no_more)
        marker = completion_marker.marker_of_present_parts(known, folder, fit - fit_no_more)
        placed = None if rows is None else rows.join(last, on=["hi", "lo"], how="inner", maintain_order="left")
        table = assemble(folder, placed).with_metadata(marker)
        table_files.write(folder, table, as_folder=job.job.results == "folder")
        return Reparsed(read, fit, fit_no_more)


def _formats(job: Job, last: pl.DataFrame) -> tuple[list[bytes | None], pl.DataFrame]:
    """The formats that were asked for, and the ``last`` answers, with the number of the ``format`` of each. Those to requests, or
    of a sweep point, that the job does not have are left out."""
    if job.answer.json_schema is None and not job.templates:
        return _formats_of_plan(job, last)
    over = [dict(point.values) | job.override for point in points(job)]
    asked = [(job.params | values).get("response_format") for values in over]
    formats = [None if each is None else msgspec.json.encode(each) for each in asked]
    return formats, last.with_columns(format="point").filter(pl.col("format") < len(formats))


def _formats_of_plan(job: Job, last: pl.DataFrame) -> tuple[list[bytes | None], pl.DataFrame]:
    """The same of rows that bring their own: from going through the input."""
    there = SortedKeys(last)
    plan = plan_of(job)
    plan.answered = lambda keys: [at >= 0 for at in there.find(key_halves(keys))]
    formats: dict[bytes | None, int] = {None: 0}
    asked = [pl.DataFrame(schema={"hi": pl.UInt64, "lo": pl.UInt64, "format": pl.Int32})]
    for block in plan.blocks():
        numbers = [formats.setdefault(requested_format(request.body), len(formats)) for request in block]
        asked.append(
            key_halves([request.key for request in block]).with_columns(pl.Series("format", numbers, dtype=pl.Int32))
        )
    return list(formats), last.join(pl.concat(asked).unique(["hi", "lo"]), on=["hi", "lo"])


def _answers(folder: Folder, where: pl.DataFrame) -> Iterator[tuple[part_files.Footer, Outcome, int]]:
    """The answers that were read as JSON, or as none, with the number of the format that was asked for."""
    numbers = {int(number): number for number in part_files.part_numbers(folder.parts)}
    for rows in where.sort("part", "at").partition_by("part", maintain_order=True):
        part = numbers[rows["part"][0]]
        footer = part_files.footer(folder.parts, part)
        formats = iter(rows["format"])
        for table in part_files.read_rows(folder.parts, part, rows["at"].to_numpy()):
            for outcome, asked in zip(part_files.outcomes(table), formats, strict=False):
                if outcome.status in ("ok", "invalid") and not outcome.tool_calls:
                    yield footer, outcome, asked


def _count(folder: Folder, more_ok: int) -> None:
    """Let ``run.json`` count the rows as they are now."""
    state = folder.read_state()
    if not state or not more_ok:
        return
    state |= {"ok": state["ok"] + more_ok, "invalid": state["invalid"] - more_ok}
    if state["status"] == "finished":
        state["exit_code"] = 1 if any(state.get(status) for status in BAD) else 0
    folder.write_state(state)
