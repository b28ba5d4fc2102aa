"""A retry: rows of the results that an SQL condition selects are sent again. Another preparation of a run of the same plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..config import Job, build, dated_path, environment_of, for_another_server, path_variables, retry_fault
from ..core import FolderError, InputError, JobError, Request, money, one_line
from ..endpoint import Prices, known, resolve_all
from ..plan import (
    AnswerIndex,
    CarriedPass,
    Held,
    Plan,
    PlanDiff,
    Prepared,
    index_of,
    is_compared,
    keep_positions,
    settled,
)
from ..protocol import Policy
from ..results import Choice, assemble, choose, is_newest, plan_of, refresh
from ..storage import Folder, Layout, RetryRecord, table_files, writer
from .estimate import Estimate

_encode = msgspec.json.Encoder(enc_hook=str).encode
_decode_raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Retry(NamedTuple):
    """``planned`` is the job that the answers came from, ``job`` the same with what is set for this run; ``parameters`` are those
    of these requests alone."""

    planned: Job
    job: Job
    where: str
    parameters: dict[str, Any]

    def prepare(self, plan: Plan, folder: Folder) -> Prepared:
        """As :func:`batchflex.plan.preparation.prepare`: seal the journal, and find the chosen rows in the plan. Blocks."""
        return find(self, plan, folder).prepared


class RetryPreview(NamedTuple):
    """What a retry is going to do: ``summary`` for people, ``facts`` for machines."""

    prepared: Prepared
    summary: str
    facts: dict[str, Any]


def retry_of(out: Path, where: str, settings: Sequence[tuple[str, Any]] = ()) -> Retry:
    """The retry of a folder. ``settings`` are places as ``run --set`` takes them; ``override.NAME`` is a request parameter.

    :raises FolderError: if there is no run in it.
    :raises JobError: if a setting would change the plan, or is wrong.
    """
    folder = Folder(out)
    folder.require()
    data = folder.read_job()
    if data is None:
        raise FolderError(f"{out} has no job.toml: its run has not begun, or was refused")
    here = ("job.out", dated_path.escaped(path_variables.escaped(str(out))))
    environment = environment_of(data, [], Path(), lenient=True)
    planned = build(data, [here], environment=environment)
    if wrong := [words for place, _ in settings if (words := retry_fault(place, planned))]:
        raise JobError(wrong)
    job = build(data, [here, *for_another_server(settings)], environment=environment)
    names = dict.fromkeys(place.split(".")[1] for place, _ in settings if place.startswith("override."))
    return Retry(planned, job, where, {name: job.override[name] for name in names})


class _Selection:
    """The requests of a plan that have a chosen answer, changed as they are to be sent again. What :meth:`add` finds is counted,
    and kept in memory as long as it is little."""

    def __init__(self, retry: Retry, prices: Prices, done: AnswerIndex, marks: bytes | bytearray) -> None:
        self._done = done
        self._marks = marks
        self.found_elsewhere = False  # an answer is to another row than was known
        self._parameters = retry.parameters
        self._route = retry.job.route
        self._raw = {name: msgspec.Raw(_encode(value)) for name, value in retry.parameters.items()}
        self._set_with = _encode(retry.parameters).decode()
        self._numbers_seeds = "seed" in retry.parameters and retry.planned.sweep.samples > 1
        self.estimate = Estimate(prices)
        self.planned = 0
        self._held = Held()

    def add(self, block: list[Request]) -> list[Request]:
        mine = self.sort_out(block)
        self.planned += len(block)
        for request in mine:
            self.estimate.add(request)
        self._held.add(mine)
        return mine

    def prepared(
        self, diff: PlanDiff, begin: Callable[[], Iterator[list[Request]]], passed: int, layout: Layout
    ) -> Prepared:
        """What was found. If that was too much to keep, ``begin`` plans it again, without the ``passed`` requests."""
        others = (diff.planned or 0) - self.estimate.requests
        diff = diff._replace(done=others)
        prepared = Prepared(0, self._done.statuses(), diff, None, self._done, iter(()), layout=layout)
        if self._held.blocks is not None:
            return prepared._replace(blocks=iter(self._held.blocks), passed=others)
        return prepared._replace(blocks=begin(), passed=passed, sort_out=self.sort_out)

    def sort_out(self, requests: Sequence[Request]) -> list[Request]:
        """Those that are to be sent again."""
        marks, found = self._marks, self._done.answers(requests)
        self.found_elsewhere = self.found_elsewhere or self._done.has_elsewhere(requests, found)
        return [
            self._changed(request, at)
            for request, at in zip(requests, found, strict=True)
            if at >= 0 and marks[at]
        ]  # fmt: skip

    def _changed(self, request: Request, at: int) -> Request:
        body, limit, set_with = request.body, request.max_tokens, self._set_with
        if self._raw and request.fault is None:
            merged = _decode_raw(body) | self._raw
            if self._numbers_seeds and request.sample:  # samples keep seeds of their own
                seed = self._parameters["seed"] + request.sample
                merged["seed"] = msgspec.Raw(_encode(seed))
                set_with = _encode(self._parameters | {"seed": seed}).decode()
            body = _encode(dict(sorted(merged.items())))
            limit = self._route.answer_limit(
                {n: msgspec.json.decode(merged[n]) for n in self._route.limits if n in merged}
            )
        return msgspec.structs.replace(
            request, body=body, max_tokens=limit, stands=self._done.status_of(at), retried_with=set_with
        )


def find(retry: Retry, plan: Plan, folder: Folder) -> RetryPreview:
    """Find what a retry sends, in a folder that is held. Seals the journal of a run that was killed; sends nothing. Blocks.

    :raises JobError: if the condition is none.
    :raises InputError: if the input is damaged.
    """
    carry_schema = plan.carry_schema()
    notes = tuple(filter(None, refresh(folder, is_mine=True)))  # the condition is over what the input has now
    plan.know(folder)
    identity = plan.identity()
    segment = writer.recover(folder, carry_schema)
    if not is_newest(folder):
        table_files.write(folder, assemble(folder), as_folder=plan.job.job.results == "folder")
    chosen = choose(folder, retry.where)
    finished = settled(folder, identity, plan.job.input.limit)
    if not chosen.keys.height:
        diff = PlanDiff(finished.planned, finished.planned, 0, 0, 0, None, 0) if finished else None
        prepared = Prepared(segment, chosen.statuses, diff, carry_schema, None, iter(()), complete=True, notes=notes)
        return _preview(retry, chosen, Estimate(Prices(retry.job)), prepared)
    done, layout = index_of(plan, folder, 0, Policy())
    marks = done.mark(chosen.keys)
    prices, _ = known(retry.job, resolve_all(retry.job, with_key=False))
    begin = partial(_Selection, retry, prices, done, marks)
    found = _positioned(begin, plan, done, marks, layout) if is_compared(plan.job, folder) else None
    prepared, estimate = found or _surveyed(begin, plan, folder, done, marks, layout)
    plan.begin()
    prepared = prepared._replace(segment=segment, carry_schema=carry_schema, notes=notes)
    return _preview(retry, chosen, estimate, prepared)


def _positioned(
    begin: Callable[[], _Selection], plan: Plan, done: AnswerIndex, marks: bytearray, layout: Layout
) -> tuple[Prepared, Estimate] | None:
    """Where it is known where all answers are in the plan, only the rows of the chosen ones are planned."""
    finished = done.finished(plan.per_item)
    if not finished or not done.is_located(finished, plan.per_item, is_as_last=plan.is_as_last):
        return None
    rows = done.finished(plan.per_item, bytes(marks))

    def blocks() -> Iterator[list[Request]]:
        return plan.blocks(done.passed(rows, plan.per_item))

    selection = begin()
    for block in blocks():
        selection.add(block)
    if plan.is_in_doubt or selection.found_elsewhere:
        return None
    passed = rows.count(1) * plan.per_item
    diff = done.diff()._replace(planned=passed + selection.planned)
    return selection.prepared(diff, blocks, passed, layout), selection.estimate


def _surveyed(
    begin: Callable[[], _Selection],
    plan: Plan,
    folder: Folder,
    done: AnswerIndex,
    marks: bytearray,
    layout: Layout,
) -> tuple[Prepared, Estimate]:
    """The whole plan is compared with the answers."""
    with CarriedPass(folder, plan, done) as carried:
        done.begin_survey()
        selection = begin()
        for block in plan.blocks():
            done.sort_out(block, survey=True)
            carried.note(block, done.answers(block))
            selection.add(block)
        keep_positions(folder, done, plan.layout())
        diff, kept = done.diff(), 0
        rows: bytes | None = done.finished(plan.per_item, bytes(marks))
        on_change = plan.job.job.on_change
        if diff.changed and on_change != "rerun":  # nobody has said that these answers are to go
            done.keep_changed()
            carried.note_kept(plan)
            kept = diff.changed
            diff = diff.keeping()
            if on_change == "keep":  # they stand for requests of the plan, and may be asked again as these
                rows, selection = None, begin()
                for block in plan.blocks():
                    selection.add(block)
        carried.keep()
    if plan.identity() is None or plan.has_former:  # it might be changed before it is read again; see prepare
        rows = None
    passed = None if rows is None else done.passed(rows, plan.per_item)
    before = 0 if passed is None else passed.requests
    found = selection.prepared(diff, lambda: plan.blocks(passed), before, layout)
    return found._replace(kept=kept), selection.estimate


def _preview(retry: Retry, choice: Choice, found: Estimate, prepared: Prepared) -> RetryPreview:
    asked, fit = found.requests, choice.keys.height
    prepared = prepared._replace(
        again=RetryRecord(retry.where, retry.parameters, fit, asked),
        complete=prepared.complete or not asked,
    )
    facts = {
        "job": retry.job.job.name,
        "out": str(retry.job.out),
        "where": retry.where,
        "set": retry.parameters,
        "of": choice.rows,
        "rows": fit,
        "asked": asked,
        "gone": fit - asked,
        "examples": choice.examples,
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens_at_most": found.completion_tokens_at_most,
        "cost_at_most": found.cost_at_most,
    }
    summary = "\n".join(_lines(facts))
    return RetryPreview(prepared._replace(notes=(*prepared.notes, summary)), summary, facts)


def _lines(facts: Mapping[str, Any]) -> Iterator[str]:
    where = one_line(facts["where"])
    if not facts["rows"]:
        yield f"no row of {facts['of']:,} fits {where}: nothing is sent"
        return
    examples = ", ".join(one_line(example, 80) for example in facts["examples"])
    more = ", …" if facts["rows"] > len(facts["examples"]) else ""
    yield f"retry: {facts['rows']:,} of {facts['of']:,} rows fit {where} ({examples}{more})"
    if facts["gone"]:
        yield f"  gone      {facts['gone']:,} of them: the input does not have them any more; their answers stay as they are"
    if facts["asked"]:
        values = ", ".join(f"{name} = {value!r:.100}" for name, value in facts["set"].items())
        yield f"  set       {values or 'nothing: asked as before'}"
        most = facts["completion_tokens_at_most"]
        bound = f"at most {most:,} of completion" if most is not None else "no bound on completion: set max_tokens"
        yield f"  tokens    about {facts['prompt_tokens']:,} of prompt, {bound}"
        if facts["cost_at_most"] is not None:
            yield f"  cost      {money(facts['cost_at_most'])} at most, with the prompt as estimated"


def preview(retry: Retry) -> RetryPreview:
    """What a retry would do, found without sending anything. Needs no key. Holds the folder meanwhile. Blocks.

    :raises JobError, InputError, FolderError: as the retry itself.
    """
    folder = Folder(retry.planned.out)
    with folder.held():
        try:
            return find(retry, plan_of(retry.planned), folder)
        except InputError as error:
            raise missing_input(retry, error) from None


def missing_input(retry: Retry, error: InputError) -> InputError:
    """What is said when the input is not there any more."""
    if not retry.planned.input.path:
        return InputError(
            f"the rows of {retry.planned.out} came from a frame, which is not kept there; ask them again from Python: "
            "batchflex.retry(OUT, where=…, frame=…)"
        )
    return InputError(
        f"a retry plans the rows anew, so it needs the input of the job, as {retry.planned.out}/job.toml names it "
        f"(relative paths from the present folder): {error}"
    )
