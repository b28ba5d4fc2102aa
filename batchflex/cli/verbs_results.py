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
    from ..results import export, selected
    from ..storage import Folder
    from . import results_text

    folder = Folder(options.out)
    if options.set and not options.reparse:
        raise JobError("--set needs --reparse")
    refresh(folder)
    if options.reparse:
        _reparse(folder, options.set)
    columns, by = options.columns, options.split_by
    to = None if options.output is None else export.target(folder, options.output, options.format)
    if to is None and (options.format or by):
        option = "--split-by" if by else "--format"
        raise JobError(f"{option} needs a file: name one with -o" + ("" if by else ", or - for standard output"))
    if to is not None and to.format == export.OPENAI_BATCH and (columns or by):
        option = "--columns" if columns else "--split-by"
        raise JobError(f"{option} does not go with --format openai-batch, whose lines hold whole answers")
    if to is not None and to.path is None and to.format == "parquet" and sys.stdout.isatty():
        raise JobError("Parquet cannot be shown on a terminal: name a file with -o, or let a program read it")
    beside = [by] if by else []
    # So that SIGTERM and SIGHUP, too, remove files that are half-written.
    numbers = [number for number in ending() if number != signal.SIGINT]
    exits = raising(numbers, lambda number: SystemExit(128 + number))
    with exits, selected(folder, options.where, columns, beside=beside, again=bool(by)) as rows:
        if options.where and not rows.rows:
            output.say(f"no row of {rows.of:,} fits {one_line(options.where)}")
        if to is None:
            output.show(results_text.table(rows.head(options.rows), rows.rows, whole=columns is not None))
            if options.where and rows.rows:
                output.say(f"{rows.rows:,} of {format.count(rows.of, 'row')} fit {one_line(options.where)}")
            return 0
        written = export.split(rows, by, to, folder) if by else export.write(rows, to, folder, sys.stdout.buffer)
        if to.path is not None:
            output.say(results_text.written(written, rows.of, is_batch=to.format == export.OPENAI_BATCH))
    return 0


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
