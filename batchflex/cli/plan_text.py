"""What a job would send, without sending anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from ..attachments import described
from ..config import Job, LimitsSection, changes, unbounded
from ..core import Request, format, one_line
from ..display import run_text
from ..endpoint import Contexts, Prices, TooLong, default_model, model_list_cache, resolve_all
from ..engine import Estimate
from ..plan import AnswerIndex, Plan, require_input
from ..storage import Folder, disk_space, priced_by, writer

_SHOWN_CHANGES = 12
_SHOWN_POINTS = 6
_COUNTED = "1 for 28 × 28 pixels, 4 bytes of text, 800 for a PDF page; models differ"


class _Pass:
    """Counts in one pass over a plan what would be sent. With ``survey`` it also finds what has changed since ``done``."""

    def __init__(
        self,
        plan: Plan,
        done: AnswerIndex,
        limits: LimitsSection,
        prices: Prices,
        contexts: Contexts,
        *,
        survey: bool,
        look: Callable[[Request], object] | None = None,
    ) -> None:
        self.requests = self.faults = self.file_faults = 0
        self.first_file_fault: str | None = None
        self.left = Estimate(prices)
        self.too_long = 0
        self.longest: TooLong | None = None
        self.example: Request | None = None
        self.first_fault: str | None = None
        for block in plan.blocks():
            self.requests += len(block)
            if look is not None:
                for request in block:
                    look(request)
            for request in done.sort_out(block, survey=survey):
                if (fault := request.fault or unbounded(limits, request)) is not None:
                    self.faults += 1
                    self.first_fault = self.first_fault or fault
                elif (fault := request.file_fault) is not None:
                    self.file_faults += 1
                    self.first_file_fault = self.first_file_fault or f"row {request.id}: {fault}"
                else:
                    self.left.add(request)
                    if (long := contexts.too_long(request)) is not None:
                        self.too_long += 1
                        self.longest = self.longest or long
            self.example = self.left.first or self.example or next((r for r in block if r.fault is None), None)


def forecast(
    job: Job, tell: Callable[[str], object] | None = None, look: Callable[[Request], object] | None = None
) -> dict[str, Any]:
    """Compare the whole plan with the output folder. Reads only; needs no key and no network. ``tell`` is called
    with a sentence now and then if that takes long, ``look`` with each request.

    Of the result ``files`` are sentences, if ``input.since`` says which count, and ``notes`` those about the rows.
    ``truncated`` are among the ``done``; ``changed`` counts answers whose requests the job would send differently now,
    ``changed_tokens`` what these took, and ``changes`` are lines. ``forms`` says what is crossed, a line each. Tokens and cost
    are those of what is ``left``: ``prompt_tokens`` an estimate, the others ``None`` without ``max_tokens`` or prices.
    ``files_put_in`` take ``file_tokens`` of these; ``unreadable`` requests have files that cannot be sent. ``prices`` are as in
    ``run.json``, those of endpoints as they were fetched last; ``unpriced`` says whether a budget needs some that are not known
    yet. ``too_long`` prompts surely do not fit; ``longest`` is the first. Disk space is in bytes:
    ``None`` without ``max_tokens`` and answers, and a guess unless ``disk_is_measured``.

    :raises JobError, InputError: if the job or the input is wrong.
    """
    require_input(job)
    endpoints = resolve_all(job, with_key=False)
    for endpoint in endpoints:
        endpoint.require(job.models)
    prices, contexts = model_list_cache.known(job, endpoints)
    plan = Plan(job, default_model(endpoints))
    plan.tell = tell
    folder = Folder(job.out)
    folder.require_format()
    plan.know(folder, remember=False)  # another run may hold it
    unsealed = writer.unsealed(folder)
    done = AnswerIndex(
        folder.parts, job.job.retry_failed, reasks=job.reasks, void=unsealed.void, pending=unsealed.outcomes
    )
    plan.answered = done.holds
    found = _Pass(plan, done, job.limits, prices, contexts, survey=True, look=look)
    diff = done.diff()
    old = folder.read_job() if diff.changed else None
    if diff.changed and job.job.on_change == "keep":
        done.keep_changed()
        found = _Pass(plan, done, job.limits, prices, contexts, survey=False)
    left, example = found.left, found.example
    there = disk_space.free(folder.path)
    finished = found.requests - left.requests - found.faults - found.file_faults
    most = left.completion_tokens_at_most
    row_bytes = None if most is None else disk_space.guessed_row(most / max(1, left.requests), left.carried)
    needed = disk_space.needed(folder, left.requests, finished, row_bytes, job.journal.seal_mb)
    return {
        "job": job.job.name,
        "out": job.bucket or str(job.out),
        "endpoint": " and ".join(endpoint.base_url or endpoint.name for endpoint in endpoints),
        "files": [*filter(None, [plan.files_note]), *plan.growth_note],
        "notes": [*plan.slips(), *plan.notes(), *([] if found.requests else [plan.no_rows_note])],
        "requests": found.requests,
        "done": finished,
        "truncated": done.statuses().get("truncated", 0),
        "left": left.requests,
        "unaskable": found.faults,
        "first_fault": found.first_fault,
        "on_bad_row": job.input.on_bad_row,
        "unreadable": found.file_faults,
        "first_unreadable": found.first_file_fault,
        "changed": diff.changed,
        "changed_tokens": diff.changed_tokens,
        "changes": changes(old, job.resolved()) if old else [],
        "on_change": job.job.on_change,
        "sweep": job.sweep.variables,
        "forms": _forms(job),
        "points": len(plan.labels),
        "samples": job.sweep.samples,
        "max_reasks": job.answer.max_reasks,
        "grow_max_tokens": job.answer.grow_max_tokens,
        "streamed": example is not None and any(e.streams(example.max_tokens) for e in endpoints),
        "example": None if example is None else msgspec.json.decode(described(example.body, example.files)),
        "prompt_tokens": left.prompt_tokens,
        "files_put_in": left.files,
        "file_tokens": left.file_tokens,
        "completion_tokens_at_most": most,
        "cost_at_most": left.cost_at_most,
        "prices": prices.used(),
        "unpriced": bool(left.requests) and job.limits.budget_usd is not None and left.cost_at_most is None,
        "too_long": found.too_long,
        "longest": None if found.longest is None else found.longest.sentence,
        "disk_needed": None if needed is None else needed.total,
        "disk_needed_for_results": None if needed is None else needed.results,
        "disk_is_measured": needed is not None and needed.is_measured,
        "disk_free": None if there is None else there[0],
    }


def _forms(job: Job) -> list[str]:
    """What the sweep combines, a line for each list of points, zip and variable of the grid."""
    swept = job.sweep.forms
    lines = []
    if swept.points:
        shown = "; ".join(_assigned(point) or "(nothing set)" for point in swept.points[:_SHOWN_POINTS])
        more = "; …" if len(swept.points) > _SHOWN_POINTS else ""
        lines.append(f"{format.count(len(swept.points), 'point')}: {shown}{more}")
    if swept.zip:
        lines.append(f"together: {_assigned(swept.zip)}")
    return lines + [_assigned({name: values}) for name, values in swept.grid.items()]


def _assigned(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value!r:.100}" for name, value in values.items())


def _disk(found: Mapping[str, Any]) -> str:
    about = "about" if found["disk_is_measured"] else "up to about"
    needed, for_results = (disk_space.words(found[name]) for name in ("disk_needed", "disk_needed_for_results"))
    text = f"{about} {needed}, {for_results} of it for the table of results"
    if found["disk_free"] is None:
        return text
    enough = "" if found["disk_needed"] < found["disk_free"] else ": that may not suffice"
    return f"{text}; {disk_space.words(found['disk_free'])} are free{enough}"


_ON_CHANGE = {
    "stop": "a run would stop, for on_change is 'stop'; see --on-change",
    "rerun": "they are asked again, for on_change is 'rerun'",
    "keep": "they are kept, for on_change is 'keep'",
}


def text(found: dict[str, Any]) -> str:
    facts = [("requests", f"{found['requests']:,}: {found['done']:,} done already, {found['left']:,} to send")]
    facts += [("files", files.removeprefix("input files ")) for files in found["files"]]
    facts += [("note", note) for note in found["notes"]]
    swept = list(found["forms"])
    swept += [f"{found['points']:,} points in all"] if len(swept) > 1 else []
    swept += [f"{found['samples']} samples each"] if found["samples"] > 1 else []
    facts += [("sweep" if i == 0 else "", line) for i, line in enumerate(swept)]
    if found["changed"]:
        answers = format.count(found["changed"], "answer")
        facts.append(("changed", f"{answers} there came from different requests: {_ON_CHANGE[found['on_change']]}"))
        facts += [("", line) for line in found["changes"][:_SHOWN_CHANGES]]
    if found["truncated"]:
        facts.append(("truncated", run_text.truncated(found["truncated"], found["out"])))
    if found["unaskable"]:
        then = "they become 'failed'" if found["on_bad_row"] == "fail" else "a run would stop"
        rows = format.count(found["unaskable"], "request")
        facts.append(("unaskable", f"{rows}: {then}; the first: {found['first_fault']}"))
    if found["unreadable"]:
        rows = format.count(found["unreadable"], "request")
        is_all = not (found["left"] or found["done"]) and found["on_bad_row"] == "stop"
        then = "a run would stop, as there is no other" if is_all else "they become 'failed'"
        facts.append(
            ("faulty", f"{rows} with a file that cannot be sent: {then}; the first: {found['first_unreadable']}")
        )
    if found["left"]:
        facts += _of_what_is_left(found)
    if found.get("detect"):
        facts += _detectable(found["detect"])
    lines = [f"{found['job']} would ask {found['endpoint']}, and write to {found['out']}"]
    lines += [f"  {name:<9} {fact}" for name, fact in facts]
    if found["example"] is not None:
        lines.append(f"  example   {'(streamed)' if found['streamed'] else ''}".rstrip())
        body = msgspec.json.format(msgspec.json.encode(found["example"]), indent=2).decode()
        lines += [f"    {line}" for line in body.splitlines()]
    return "\n".join(lines)


def _detectable(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """How many rows a difference takes, and what the rows there are can show."""
    chance = f"{format.level(found['power'])} power, two-sided at 5 %, the same rows on both sides"
    yield "detect", f"a difference of {found['difference']:g} ({chance})"
    for each in found["needed"]:
        samples = f" with {format.count(each['samples'], 'sample')} each" if len(found["needed"]) > 1 else ""
        yield "", f"takes {format.count(each['items'], 'row')}{samples}"
    if found["detectable"] is not None:
        samples = f" with {format.count(found['samples'], 'sample')} each" if found["samples"] > 1 else ""
        rows = format.count(found["items"], "row")
        yield "", f"the {rows} of this job{samples} show differences from {found['detectable']:.3g} on"
    clustered = f", times {found['design_effect']:.3g} for clusters" if found["design_effect"] > 1 else ""
    yield "", f"by {found['basis']}{clustered}"
    if found["cluster"] is not None:
        clusters = f"{format.count(found['clusters'], 'cluster')} by {one_line(found['cluster'])}"
        if found["most_alike"] is None:
            yield "", f"the rows are in {clusters}"
        else:
            yield "", f"the rows are in {clusters}, taken as independent of each other here: it takes more of them,"
            yield (
                "",
                f"up to {found['most_alike']:.3g} times as many, the more alike those of a cluster are answered; "
                "say how alike with --icc (0 to 1), or take it from a run, with --like",
            )


def _of_what_is_left(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tokens, cost and disk space that the rest will take."""
    most = found["completion_tokens_at_most"]
    at_most = "no bound on completion: set max_tokens" if most is None else f"at most {most:,} of completion"
    yield "tokens", f"about {found['prompt_tokens']:,} of prompt, {at_most}"
    if found["files_put_in"]:
        files = format.count(found["files_put_in"], "file")
        yield "", f"{found['file_tokens']:,} of them for {files} ({_COUNTED})"
    if found["max_reasks"]:
        yield "", f"and up to {found['max_reasks']} more for each answer that does not fit"
    if found["grow_max_tokens"]:
        yield "", f"and more for answers that are cut off, up to {found['grow_max_tokens']:,} tokens each"
    if found["cost_at_most"] is not None:
        cost, by = format.money(found["cost_at_most"]), priced_by(found["prices"])
        yield "cost", f"{cost} at most, with the prompt as estimated, {by}"
    if found["unpriced"]:
        yield "cost", "no price is known yet: the run asks the endpoint first, and is refused if it lists none"
    if found["too_long"]:
        rows = format.count(found["too_long"], "prompt is", "prompts are")
        yield "too long", f"{rows} for the model; the first: {found['longest']}"
    if found["disk_needed"] is not None:
        yield "disk", _disk(found)
