"""A job that is run in parts, each by a command of its own, as the tasks of an array job: on one machine or on several that share
a file system.

Nobody coordinates them. Which requests are a shard's follows from their keys alone, so that all come to the whole job, each once,
whatever else it was divided into before. A shard keeps its answers in a journal of its own, and its parts are those of the whole
job, under numbers that no other takes. What any of them has answered counts as done for all that begin after it.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import anyio
import anyio.to_thread

from ..config import NO_SHARDS, EndpointsEntry, Job, LimitsSection
from ..core import FolderBusy, JobError, Request
from ..engine import Execution, JobRun, Share
from ..plan import Plan, PlanDiff, Prepared
from ..storage import Folder, part_numbers, writer

# Where array schedulers tell a task its number; the second is the least of them.
_VARIABLES = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN"), ("JOB_COMPLETION_INDEX", None), ("AWS_BATCH_JOB_ARRAY_INDEX", None),
)  # fmt: skip
_OTHERS_S, _LOOK_S = 60.0, 0.05


class Shard(NamedTuple):
    """The part ``number``, from 0, ``of`` so many, of which ``at_once`` run at the same time."""

    number: int
    of: int
    at_once: int

    def has(self, request: Request) -> bool:
        return int.from_bytes(request.key[:8], "little") % self.of == self.number

    def divided(self, job: Job) -> Job:
        """The job with its share of the limits: rates and concurrency by those that run at once, budgets by all shards.

        :raises JobError: if less than one request is left.
        """
        budgets = Share(self.number, self.of)
        limits, update = job.limits, self._rates(job.limits, "limits.concurrency")
        if limits.budget_usd is not None:
            update["budget_usd"] = limits.budget_usd / self.of
        for name in ("budget_tokens", "budget_requests"):
            if (budget := getattr(limits, name)) is not None:
                update[name] = _part(budget, budgets, f"limits.{name}")
        update["max_concurrency"] = max(1, limits.max_concurrency // self.at_once)
        entries = [
            entry.model_copy(update=self._rates(entry, f"concurrency of the endpoint {entry.name}"))
            for entry in job.endpoints
        ]
        return job.model_copy(update={"limits": limits.model_copy(update=update), "endpoints": entries})

    def _rates(self, table: LimitsSection | EndpointsEntry, place: str) -> dict[str, Any]:
        """Its share of what a table says that those which run at once have together."""
        found: dict[str, Any] = {
            name: rate / self.at_once for name in ("rpm", "tpm") if (rate := getattr(table, name)) is not None
        }
        if isinstance(table.concurrency, int):
            found["concurrency"] = _part(table.concurrency, Share(self.number % self.at_once, self.at_once), place)
        return found


def _part(whole: int, share: Share, place: str) -> int:
    if whole < share.of:
        raise JobError(f"{place} is {whole:,}, less than one for each of {share.of} shards (--shards, --at-once)")
    return share.part(whole)


def shard_of(of: int, number: int | None, at_once: int | None, variables: Mapping[str, str] = os.environ) -> Shard:
    """The shard that options and the environment name.

    :raises JobError: if they name none, or one that is not there.
    """
    told = "--shard"
    if number is None:
        for name, least in _VARIABLES:
            if (text := variables.get(name, "")).isascii() and text.isdecimal():
                first = variables.get(least or "", "0")
                number, told = int(text) - (int(first) if first.isdecimal() else 0), name
                break
        else:
            names = ", ".join(name for name, _ in _VARIABLES)
            raise JobError(f"--shards {of} needs --shard I, from 0 to {of - 1}, or one of the variables {names}")
    if not 0 <= number < of:
        raise JobError(f"{told} says shard {number}; of --shards {of} there are 0 to {of - 1}")
    if at_once is not None and at_once > of:
        raise JobError(f"--at-once {at_once} is more than --shards {of}")
    return Shard(number, of, at_once or of)


class ShardRun(JobRun):
    """The run of one shard of a job."""

    _whole: Folder

    def __init__(
        self, job: Job, *, shard: Shard, then: Callable[..., Awaitable[None]] | None = None, **named: Any
    ) -> None:
        # Without what follows a run: scores are of the whole.
        super().__init__(shard.divided(job), executed_by=ShardExecution, **named)
        if job.bucket is not None:
            raise JobError(NO_SHARDS)
        self._undivided = job
        self._shard = shard

    @asynccontextmanager
    async def _held(self, whole: Folder) -> AsyncIterator[Folder]:
        self._whole = whole
        with ExitStack() as held:
            await anyio.to_thread.run_sync(self._hold_with_others, held, abandon_on_cancel=True)
            own = whole.shard(self._shard.number, self._shard.of)
            held.enter_context(own.held())
            self._require_one_division()
            yield own

    def _hold_with_others(self, held: ExitStack) -> None:
        """Hold the whole folder together with other shards, once what killed runs have left in their journals has become parts.
        Blocks.

        :raises FolderBusy: if a run of the whole job goes on.
        """
        whole, give_up = self._whole, time.monotonic() + _OTHERS_S
        while True:
            try:
                self._seal_all_that_was_left()
                held.enter_context(whole.held(shared=True))
                break
            except FolderBusy:  # by a run of the whole, or by a shard that seals what was left
                if time.monotonic() > give_up:
                    raise
                time.sleep(_LOOK_S)
        for shard in whole.shards().values():
            with shard.held_if_free() as is_gone:
                if is_gone:
                    writer.seal_all(shard)

    def _seal_all_that_was_left(self) -> None:
        with ExitStack() as alone:
            try:
                alone.enter_context(self._whole.held())
            except FolderBusy:  # others were here before
                return
            writer.recover(self._whole)

    def _require_one_division(self) -> None:
        """:raises FolderBusy: if shards of another division are at work: their requests are also this one's."""
        for (_, of), shard in self._whole.shards().items():
            if of != self._shard.of and shard.is_held():
                raise FolderBusy(
                    f"shards of another division of the job are at work in {self._whole.path}: of {of}, and this one is of "
                    f"{self._shard.of}. Try again when they have ended"
                )

    def _prepared(self, preparing: Callable[[Plan, Folder], Prepared], plan: Plan, folder: Folder) -> Prepared:
        whole, shard = self._whole, self._shard
        if (before := whole.read_job()) is not None:
            folder.write_job(before)  # what the answers that are there came from
        prepared = preparing(plan, folder)
        whole.write_job(self._undivided.resolved())
        # A number above all that are there: whoever asks again for a row has the later answer.
        least = 1 + max([*map(int, part_numbers.part_numbers(whole.parts)), *writer.segments(whole), 0])
        sort_out, blocks = prepared.sort_out, prepared.blocks
        return prepared._replace(
            segment=whole.take_number(least), before={}, passed=0, sort_out=list,
            diff=PlanDiff(0, 0, 0, 0, 0, None, 0) if prepared.finished else None, complete=False,
            blocks=(sort_out([request for request in block if shard.has(request)]) for block in blocks),
        )  # fmt: skip


class ShardExecution(Execution):
    """Sends what is left of a shard. It makes no table: that is made of all shards by whoever reads them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._next_segment = self._another_number
        self.run_state.results = ""
        self._monitor.counts = False  # the plan is that of all shards

    async def _another_number(self) -> int:
        whole = Folder(self._folder.path.parent.parent)
        return await anyio.to_thread.run_sync(whole.take_number, self._prepared.segment + 1)

    async def _finish(self) -> None:
        self.run_state.in_flight = 0
