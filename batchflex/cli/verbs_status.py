"""``status`` and ``history``: how runs are going, and how they went."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from ..core import BatchflexError, format
from ..display import run_text
from ..storage import Folder, line_of_last, shard_states
from . import history as past_runs, history_text, output

_WATCH_EVERY_S = 1.0
_SCORED_EVERY_S = 10.0


def status(options: argparse.Namespace) -> int:
    folder = Folder(options.out)
    folder.require()
    before: object = None
    scores = _Scores(folder)
    remote = None
    if folder.is_copy:
        from ..storage import remote_output  # brings what history does without

        remote = remote_output.of(folder)
    while True:
        held, elsewhere = folder.is_held(), None
        if remote is not None and not held and (elsewhere := remote.holder()) is not None:
            held = True
            remote.refresh()
        state = shard_states.state_of(folder)
        if not state and not (options.watch and held):
            raise BatchflexError(
                f"{options.out} has no run.json: its run has only just begun, was refused, or was killed as it began"
            )
        if options.json:  # one object: with --watch that of its end
            if not (options.watch and held):
                output.show_json(state if held else line_of_last(state))
        elif state and (text := run_text.status(state, held, scores.line(state, held), elsewhere)) != before:
            output.show(text, over=before if isinstance(before, str) else None)
            before = text
        if not options.watch or not held:
            return 0
        time.sleep(_WATCH_EVERY_S)


class _Scores:
    """The line about scores, where a job has some and it is cheap: those that there are, or of few rows those so far."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._line: str | None = None
        self._of: object = None
        self._due = 0.0

    def line(self, state: Mapping[str, Any], held: bool) -> str | None:
        now, of = time.monotonic(), (state.get("run_id"), state["done"], held)
        if of != self._of and (now >= self._due or not held):
            self._line = self._made(state["done"])
            self._of, self._due = of, now + (_SCORED_EVERY_S if held else 0)
        return self._line

    def _made(self, rows: int) -> str | None:
        with contextlib.suppress(BatchflexError):  # whatever is wrong there is said by `score`
            if (self._folder.read_job() or {}).get("score"):
                from ..engine import evaluate
                from ..scoring import score_text

                found = evaluate.at_hand(self._folder, rows)
                return None if found is None else score_text.brief(found)
        return None


def history(options: argparse.Namespace) -> int:
    found = past_runs.read(options.outs)
    for folder, lines in found.unreadable.items():
        count = format.count(lines, "line")
        output.say(f"batchflex: {count} of {folder}/history.jsonl left out: torn, or not put there by batchflex")
    if options.json:
        shown = [msgspec.Raw(run.line) for run in found.runs[-options.last :]]
        left_out = {str(folder): lines for folder, lines in found.unreadable.items()}
        output.show_json({"runs": shown, "of": len(found.runs), "unreadable": left_out})
    else:
        output.show(history_text.text(found, last=options.last, width=output.width()))
    return 0
