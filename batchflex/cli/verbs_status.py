"""``status`` and ``history``: how runs are going, and how they went."""

from __future__ import annotations

import argparse
import time

from ..core import BatchflexError, format, printable_json
from ..storage import Folder, line_of_last
from . import history as past_runs, history_text, output, run_text

_WATCH_EVERY_S = 1.0


def status(options: argparse.Namespace) -> int:
    folder = Folder(options.out)
    folder.require()
    before: object = None
    while True:
        held = folder.is_held()
        state = folder.read_state()
        if not state and not (options.watch and held):
            raise BatchflexError(
                f"{options.out} has no run.json: its run has only just begun, was refused, or was killed as it began"
            )
        if state and options.json:
            if (seen := state if held else line_of_last(state)) != before:
                output.show_json(seen)
                before = seen
        elif state and (text := run_text.status(state, held)) != before:
            output.show(text, over=before if isinstance(before, str) else None)
            before = text
        if not options.watch or not held:
            return 0
        time.sleep(_WATCH_EVERY_S)


def history(options: argparse.Namespace) -> int:
    found = past_runs.read(options.outs)
    for folder, lines in found.unreadable.items():
        count = format.count(lines, "line")
        output.say(f"batchflex: {count} of {folder}/history.jsonl left out: torn, or not put there by batchflex")
    if options.json:
        output.show_lines(printable_json(run.line) for run in found.runs[-options.last :])
    else:
        output.show(history_text.text(found, last=options.last, width=output.width()))
    return 0
