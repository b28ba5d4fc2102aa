"""``score`` and ``compare``: how good the answers are."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path

from ..core import JobError
from . import output
from .process import rare_garbage_collection
from .verbs_results import refresh


def score(options: argparse.Namespace) -> int:
    from ..config import LogSection, load, parse_setting
    from ..display import score_text
    from ..engine import evaluate, on_a_loop
    from ..storage import Folder
    from .logs import Logs

    folder = Folder(options.out)
    folder.require()
    settings = [parse_setting(text) for text in options.set]
    if wrong := [place for place, _ in settings if not place.startswith("score.")]:
        raise JobError(f"score changes nothing but scores: --set score.NAME.KEY=VALUE; found {wrong[0]!r}")
    named = None if options.spec is None else load(options.spec, settings)
    job = evaluate.scored_job(folder, settings if named is None else (), None if named is None else named.environment)
    specs = job.score if named is None else named.score
    for warning in job.environment.warnings(()):
        output.warn(warning)
    if not specs:
        raise JobError(f"there is no [[score]] in {options.spec or folder.job}; name a job file that has some")
    if options.so_far:
        found = evaluate.so_far(options.out, specs)
        if options.json:
            output.show_json(found)
        else:
            output.show(score_text.text(found))
        return 0
    refresh(folder, scores=True)
    with contextlib.closing(Logs(LogSection(), None, quiet=options.quiet)) as observer:
        work = partial(evaluate.evaluate, job, options.out, specs, observer, handle_signals=True)
        with rare_garbage_collection():
            made = on_a_loop(work)
    if options.json:
        output.show_json(made.summary)
    else:
        output.show(score_text.text(made.summary))
    if made.unfinished is not None:
        output.say(made.unfinished)
    return 0 if made.unfinished is None else 3


def compare(options: argparse.Namespace) -> int:
    from ..display import score_text
    from ..results import export
    from ..scoring import compare, comparison_sides

    if options.other is not None:
        (one, a), (two, b) = comparison_sides.side(options.out), comparison_sides.side(options.other)
    else:
        (one, a), (two, b) = comparison_sides.both_of(options.out)
    found = compare(a, b)
    if options.output is not None:
        export.write_frame(found.flips, Path(options.output))
    if options.json:
        output.show_json({"a_is": one, "b_is": two, **found.told})
    else:
        flips = found.flips.head(options.rows).to_dicts()
        output.show(score_text.comparison(found.told, (one, two), flips, found.flips.height))
    return 0
