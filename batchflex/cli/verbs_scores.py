"""``score`` and ``compare``: how good the answers are."""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path

from ..core import JobError
from . import output
from .process import rare_garbage_collection


def score(options: argparse.Namespace) -> int:
    from ..api import on_a_loop
    from ..config import LogSection, build, environment_of, load, parse_setting
    from ..engine import evaluate
    from ..storage import Folder
    from . import score_text
    from .logs import Logs

    folder = Folder(options.out)
    folder.require()
    settings = [parse_setting(text) for text in options.set]
    if wrong := [place for place, _ in settings if not place.startswith("score.")]:
        raise JobError(f"score changes nothing but scores: --set score.NAME.KEY=VALUE; found {wrong[0]!r}")
    data = folder.read_job()
    if data is None:
        raise JobError(f"{options.out} has no job.toml: its run has not begun, or was refused")
    environment = environment_of(data, [], Path(), lenient=True)
    if options.spec is None:
        job = build(data, settings, environment=environment)
        specs = job.score
    else:
        named = load(options.spec, settings)
        if named.environment.file is not None:
            environment = named.environment
        job, specs = build(data, environment=environment), named.score
    for warning in environment.warnings(()):
        output.warn(warning)
    if not specs:
        raise JobError(f"there is no [[score]] in {options.spec or folder.job}; name a job file that has some")
    with contextlib.closing(Logs(LogSection(), None, quiet=options.quiet)) as observer:
        work = partial(evaluate.evaluate, job, options.out, specs, observer, handle_signals=True)
        with rare_garbage_collection():
            made = on_a_loop(work)
    if options.json:
        output.show_json(made.summary)
    else:
        output.show(score_text.text(made.summary, output.width()))
    if made.unfinished is not None:
        output.say(made.unfinished)
    return 0 if made.unfinished is None else 3


def compare(options: argparse.Namespace) -> int:
    from ..results import export
    from ..scoring import compare, comparison_sides
    from . import score_text

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
        output.show(score_text.comparison(found.told, (one, two), flips, found.flips.height, output.width()))
    return 0
