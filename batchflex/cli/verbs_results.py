"""``results``, ``report`` and ``compact``: what is done with the answers of a folder."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..core import JobError, ending, format, one_line, raising
from . import output
from .process import rare_garbage_collection

if TYPE_CHECKING:
    from ..results import Target, Written
    from ..storage import Folder


def refresh(folder: Folder, *, scores: bool = False) -> None:
    """Bring the carried columns up to date with the input before the results are read. ``scores``: those are made next."""
    from ..results import refresh

    with rare_garbage_collection():
        done = refresh(folder)
    if done.warning is not None:
        output.warn(done.warning)
    if done.note is not None:
        older = "" if scores or not folder.scores_json.exists() else "; the scores are older: batchflex score "
        output.say(f"{done.note}{older}{folder.path if older else ''}")


def results(options: argparse.Namespace) -> int:
    from ..storage import Folder

    folder = Folder(options.out)
    _require_fitting(options)
    refresh(folder)
    if options.reparse:
        _reparse(folder, options.set)
    if options.row is not None:
        return _row(options, folder)
    return _counts(options, folder) if options.counts else _chosen(options, folder)


_OTHERS = {  # what the name of each excludes
    "row": ("counts", "output", "format", "where", "columns", "split_by", "excel"),
    "counts": ("output", "format", "columns", "split_by", "excel"),
}


def _require_fitting(options: argparse.Namespace) -> None:
    """:raises JobError: if options exclude each other."""
    if options.set and not options.reparse:
        raise JobError("--set needs --reparse")
    for name, others in _OTHERS.items():
        given = [other for other in others if getattr(options, other)]
        if getattr(options, name) is not None and given:
            other = "-o" if given[0] == "output" else f"--{given[0].replace('_', '-')}"
            raise JobError(
                f"{other} does not go with --{name}, which prints what it finds; --json prints it for a program"
            )
    if options.counts and len(options.counts) > 2:
        raise JobError(
            f"--counts takes one column, or two; found {len(options.counts)}: {one_line(','.join(options.counts))}"
        )


def _row(options: argparse.Namespace, folder: Folder) -> int:
    from ..results import look_up
    from . import row_text

    found = look_up(folder, options.row)
    if options.json:
        output.show_json({"row": options.row, "found": [row.as_json() for row in found]})
    else:
        output.show(row_text.text(options.row, found, output.width()))
    return 0


def _counts(options: argparse.Namespace, folder: Folder) -> int:
    from ..results import count, matching, selected
    from . import counts_text

    with selected(folder, options.where) as rows:
        columns = [matching([name], rows.about, folder.path, "--counts") for name in options.counts]
        if several := next((found for found in columns if len(found) > 1), None):
            raise JobError(f"--counts takes names of columns, no patterns; that one means {', '.join(several[:5])}")
        found = count(rows, [name for (name,) in columns], options.counts)
        of = rows.of
    if options.json:
        output.show_json({**found.as_json(), "of": of})
    else:
        output.show(counts_text.text(found, options.rows, output.width()))
        if options.where:
            output.say(f"{found.rows:,} of {format.count(of, 'row')} fit {one_line(options.where)}")
    return 0


def _chosen(options: argparse.Namespace, folder: Folder) -> int:
    """Show the rows, or write them."""
    from ..results import export, selected
    from . import results_text

    columns, by = options.columns, options.split_by
    to = _target(options, folder)
    beside = [by] if by else []
    # So that SIGTERM and SIGHUP, too, remove files that are half-written.
    numbers = [number for number in ending() if number != signal.SIGINT]
    exits = raising(numbers, lambda number: SystemExit(128 + number))
    with (
        exits,
        selected(folder, options.where, columns, beside=beside, again=bool(by), plain=options.plain) as rows,
    ):
        if options.where and not rows.rows:
            output.say(f"no row of {rows.of:,} fits {one_line(options.where)}")
        if to is None:
            head = rows.head(options.rows)
            if options.json:
                output.show_json({"rows": rows.rows, "of": rows.of, "shown": export.as_objects(rows, head)})
                return 0
            named = "id" if options.plain else rows.about.id_name
            shown = results_text.table(
                head, rows.rows, rows.about.origins, output.width(), id_name=named, whole=columns is not None
            )
            output.show(shown)
            if options.where and rows.rows:
                output.say(f"{rows.rows:,} of {format.count(rows.of, 'row')} fit {one_line(options.where)}")
            return 0
        written = export.split(rows, by, to, folder) if by else export.write(rows, to, folder, sys.stdout.buffer)
        if options.json:
            output.show_json({"rows": rows.rows, "of": rows.of, "written": [_told(each) for each in written]})
        elif to.path is not None:
            output.say(results_text.written(written, rows.of, is_batch=to.format == export.OPENAI_BATCH))
        else:
            for line in results_text.changed(written):
                output.say(line)
    return 0


def _target(options: argparse.Namespace, folder: Folder) -> Target | None:
    """Where the rows go; ``None`` if they are shown.

    :raises JobError: if the options do not say that, or exclude each other.
    """
    from ..results import export

    columns, by = options.columns, options.split_by
    if options.output is None:
        for option, is_given in (("--split-by", by), ("--format", options.format), ("--excel", options.excel)):
            if is_given:
                end = "" if by else ", or - for standard output"
                raise JobError(f"{option} needs a file: name one with -o{end}")
        return None
    to = export.target(folder, options.output, options.format, excel=options.excel)
    if to.format == export.OPENAI_BATCH and (columns or by):
        option = "--columns" if columns else "--split-by"
        raise JobError(f"{option} does not go with --format openai-batch, whose lines hold whole answers")
    if to.path is None and to.format in ("parquet", "xlsx") and sys.stdout.isatty():
        kind = "Parquet" if to.format == "parquet" else "an Excel workbook"
        raise JobError(f"{kind} cannot be shown on a terminal: name a file with -o, or let a program read it")
    if to.path is None and options.json:
        raise JobError("--json and -o - would both write to standard output; name a file with -o")
    return to


def _told(written: Written) -> dict[str, object]:
    return {"path": str(written.path), "rows": written.rows, "defused": written.defused, "cut": written.cut}


def _reparse(folder: Folder, settings: Sequence[str]) -> None:
    from ..config import parse_setting
    from ..results import reparse

    read, fit, fit_no_more = reparse(folder, [parse_setting(text) for text in settings])
    fits = f"{fit:,} fit now that did not before, {fit_no_more:,} do not fit any more"
    output.say(f"{read:,} answers parsed again: {fits}; nothing was sent")


def report(options: argparse.Namespace) -> int:
    from ..core import MissingExtra
    from ..report import headline, report
    from ..storage import Folder

    folder = Folder(options.out)
    refresh(folder)
    digest = report.read(folder, options.rows)
    written, missing, charts = None, None, []
    try:
        written = report.write(folder, digest, options.output)
        if options.charts is not None:
            charts = report.write_charts(digest, options.charts)
    except MissingExtra as error:  # the summary needs nothing of what is missing
        missing = error
    if options.json:
        lacking = {} if missing is None else {"message": str(missing)}
        output.show_json(report.as_json(digest, written) | lacking)
    else:
        output.show(headline.summary(digest))
        if written is not None:
            output.show(f"  report: {written.path} ({written.size / 1e6:.1f} MB)")
        if charts:
            output.show(f"  charts: {len(charts) // 2} in {options.charts}, each as SVG and PNG")
    if missing is not None:
        raise missing
    return 0


def compact(options: argparse.Namespace) -> int:
    from ..config import parse_age
    from ..results import compact

    before = None
    if options.older_than is not None:
        try:
            before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=parse_age(options.older_than))
        except (ValueError, OverflowError) as error:
            raise JobError(f"--older-than: {error}") from None
    found = []
    with contextlib.ExitStack() as held:
        folders = compact.folders(options.out)
        for folder in folders:
            held.enter_context(folder.held())
        for folder in folders:
            preview = compact.preview(folder, options.older_than, before)
            if not options.json:
                output.show(compact.describe(preview))
            found.append(preview.facts if options.dry_run else compact.carry_out(preview))
            if not options.json and not options.dry_run:
                output.show(compact.describe_done(found[-1]))
    if options.json:
        output.show_json(found[0] | {"dry_run": options.dry_run, "judges": found[1:]})
    return 0


def copy(options: argparse.Namespace) -> int:
    from ..storage import Folder, copying

    source, target = Folder(options.out), Folder(options.other)
    copied = copying.copy(source, target)
    if options.json:
        output.show_json(
            {"from": str(source.path), "to": str(target.path), "files": copied.files, "bytes": copied.bytes}
        )
    else:
        output.say(f"{format.count(copied.files, 'file')}, {copied.bytes / 1e6:,.1f} MB, copied to {target.path}")
    return 0
