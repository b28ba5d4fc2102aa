"""``score`` and ``compare``: how good the answers are."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import JobError
from . import output
from .process import rare_garbage_collection
from .verbs_results import refresh

if TYPE_CHECKING:
    from ..config import ScoreSection
    from ..scoring import paper_tables
    from ..storage import Folder


def score(options: argparse.Namespace) -> int:
    from ..config import LogSection, load, parse_setting
    from ..engine import evaluate, on_a_loop
    from ..scoring import score_text, scores_file
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
    specs = [_with_options(spec, options) for spec in specs]
    if options.baseline is not None:
        scores_file.require_baselines(job, specs)
    if options.output is not None:
        _require_table(options.output, folder, ("md", "tex", "csv", "parquet", "jsonl"))
    if options.so_far:
        found = evaluate.so_far(options.out, specs)
        if options.output is not None:
            _write_scores(found, options.output)
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
    if options.output is not None:
        _write_scores(made.summary, options.output)
    if options.json:
        output.show_json(made.summary)
    else:
        output.show(score_text.text(made.summary, output.width()))
    if made.unfinished is not None:
        output.say(made.unfinished)
    return 0 if made.unfinished is None else 3


def _with_options(spec: ScoreSection, options: argparse.Namespace) -> ScoreSection:
    update: dict[str, Any] = {} if options.cluster is None else {"cluster": options.cluster}
    if options.baseline is not None:
        update["baseline"] = dict(_pair(pair) for pair in options.baseline.split(","))
    return spec.model_copy(update=update)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise JobError(f"--baseline takes a sweep point, such as prompt=bare,temperature=0; found {text!r:.80}")
    return name.strip(), value.strip()


def _require_table(path: Path, folder: Folder, kinds: Sequence[str]) -> None:
    """Before anything is made."""
    from ..results import export

    if path.suffix.lower().removeprefix(".") not in kinds:
        raise JobError(f"-o {path}: the name should end in .{', .'.join(kinds)}")
    export.require_place(path)
    if folder.owns(path):
        raise JobError(f"{path} is a file that the runs of {folder.path} keep; choose another name")


def _write_scores(found: dict[str, Any], path: Path) -> None:
    from ..results import export
    from ..scoring import paper_tables

    if (form := _form(path)) is not None:
        _write(paper_tables.scores(found, form), path)
    else:
        export.write_frame(paper_tables.frame(found), path)
    output.say(f"wrote {path}")


def _form(path: Path) -> paper_tables.Form | None:
    """How a table for people is written, by the name of its file."""
    forms: dict[str, paper_tables.Form] = {".md": "md", ".tex": "tex"}
    return forms.get(path.suffix.lower())


def _write(text: str, path: Path) -> None:
    from ..results import export
    from ..storage import replaced, storing

    export.require_place(path)
    with storing(path), replaced(path) as stream:
        stream.write(text.encode("utf-8", "replace"))


def _agreement(options: argparse.Namespace) -> int:
    """How far two folders have the same values in some columns; no scores are needed."""
    from ..scoring import agreement_on, comparison_sides, score_text

    if options.other is None:
        raise JobError("--on compares two folders, or two sweep points: name both, A and B")
    if options.output is not None:
        raise JobError("-o writes scores and flips, which --on has none of; --json prints what it finds")
    names = (options.out, options.other)
    one, two = (comparison_sides.labels_of(name, options.on, options.cluster) for name in names)
    found = agreement_on(one.frame, two.frame, options.on, cluster=options.cluster, by=one.swept)
    if options.json:
        output.show_json({"a_is": one.name, "b_is": two.name, **found})
    else:
        output.show(score_text.agreement(found, names))
    return 0


def _bring_up_to_date(names: Sequence[str]) -> None:
    """Sides are compared by labels as the input has them now, and scores of these. Nothing is sent."""
    from ..engine import evaluate, on_a_loop
    from ..scoring import comparison_sides
    from ..storage import Folder

    for path in comparison_sides.folders_of(names):
        folder = Folder(path)
        if folder.exists():
            refresh(folder, scores=True)
            with rare_garbage_collection():
                if on_a_loop(partial(evaluate.again, folder)):
                    output.say(f"the scores in {path} were older than its results: made anew")


def compare(options: argparse.Namespace) -> int:
    from ..results import export
    from ..scoring import compare, comparison_sides, paper_tables, score_text

    cluster = options.cluster
    if options.on is not None:
        return _agreement(options)
    _bring_up_to_date([options.out, *([] if options.other is None else [options.other])])
    if options.other is not None:
        one, two = (comparison_sides.side(name, cluster) for name in (options.out, options.other))
    else:
        one, two = comparison_sides.both_of(options.out, cluster)
    found = compare(one.frame, two.frame, cluster=cluster or one.cluster, by=one.swept)
    names = (one.name, two.name)
    if options.output is not None and (form := _form(options.output)) is not None:
        _write(paper_tables.comparison(found.told, names, form, one.shares | two.shares), options.output)
    elif options.output is not None:
        export.write_frame(found.flips, options.output)
    for words in comparison_sides.uneven(one, two):
        output.say(words)
    if options.json:
        output.show_json({"a_is": one.name, "b_is": two.name, **found.told})
    else:
        flips = found.flips.head(options.rows).to_dicts()
        output.show(score_text.comparison(found.told, names, flips, found.flips.height, output.width()))
    return 0
