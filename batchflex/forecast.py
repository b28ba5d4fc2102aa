"""What a job would send, found without sending anything."""

from __future__ import annotations

from typing import Any

import msgspec

from . import keep, render
from .endpoint import resolve
from .feed import Plan
from .folder import Folder
from .job import Job
from .model import Request, Usage
from .pace import price_usd
from .resume import Done

_BYTES_PER_TOKEN = 4  # of prose in Latin script; other scripts take more tokens


def forecast(job: Job) -> dict[str, Any]:
    """Go through the whole plan and hold it against the output folder. Reads; writes nothing, needs no key, no network.

    The result has ``requests``, ``done``, ``left``, ``unaskable``, ``first_fault``, ``sweep``, ``samples``, ``example`` (a body
    in full), ``prompt_tokens`` (an estimate, of what is left), ``completion_tokens_at_most`` and ``cost_at_most`` (``None``
    without ``max_tokens``, or without prices).

    :raises JobError, InputError: if the job or the input is wrong.
    """
    endpoint = resolve(job.endpoint, with_key=False)
    plan = Plan(job, endpoint.default_model)
    folder = Folder(job.out)
    done = Done(folder.parts, job.job.retry_failed)
    unsealed = {outcome.key for outcome in keep.unsealed(folder)}
    requests = left = faults = prompt_bytes = completion = 0
    bounded = True
    example: Request | None = None
    first_fault: str | None = None
    for block in plan.blocks():
        requests += len(block)
        for request in done.sort_out(block):
            if request.fault is not None:
                faults += 1
                first_fault = first_fault or request.fault
            elif request.key.hex() not in unsealed:
                left += 1
                example = example or request
                prompt_bytes += len(request.body)
                bounded = bounded and request.max_tokens is not None
                completion += request.max_tokens or 0
        example = example or next((r for r in block if r.fault is None), None)
    prompt = prompt_bytes // _BYTES_PER_TOKEN
    cost = price_usd(job.prices, Usage(prompt, completion)) if job.prices and bounded else None
    return {
        "job": job.job.name,
        "out": str(job.out),
        "endpoint": endpoint.base_url or endpoint.name,
        "requests": requests,
        "done": requests - left - faults,
        "left": left,
        "unaskable": faults,
        "first_fault": first_fault,
        "sweep": job.sweep.grid,
        "samples": job.sweep.samples,
        "streamed": example is not None and endpoint.streams(example.max_tokens),
        "example": None if example is None else msgspec.json.decode(example.body),
        "prompt_tokens": prompt,
        "completion_tokens_at_most": completion if bounded else None,
        "cost_at_most": cost,
    }


def text(found: dict[str, Any]) -> str:
    """A forecast for people."""
    lines = [
        f"{found['job']} would ask {found['endpoint']}, and write to {found['out']}",
        f"  requests  {found['requests']:,}: {found['done']:,} done already, {found['left']:,} to send",
    ]
    grid = [f"{name} = {values!r:.100}" for name, values in found["sweep"].items()]
    if found["samples"] > 1:
        grid.append(f"{found['samples']} samples each")
    lines += [f"  {'sweep' if i == 0 else '':<9} {line}" for i, line in enumerate(grid)]
    if found["unaskable"]:
        lines.append(f"  unaskable {render.count(found['unaskable'], 'row')}, the first: {found['first_fault']}")
    if found["left"]:
        most = found["completion_tokens_at_most"]
        lines.append(
            f"  tokens    about {found['prompt_tokens']:,} of prompt, "
            + (f"at most {most:,} of completion" if most is not None else "no bound on completion: set max_tokens")
        )
        if found["cost_at_most"] is not None:
            lines.append(f"  cost      {render.money(found['cost_at_most'])} at most, with the prompt as estimated")
    if found["example"] is not None:
        lines.append(f"  example   {'(streamed)' if found['streamed'] else ''}".rstrip())
        body = msgspec.json.format(msgspec.json.encode(found["example"]), indent=2).decode()
        lines += [f"    {line}" for line in body.splitlines()]
    return "\n".join(lines)
