"""What keeping answers costs the event loop: a journal that gets rows at an even pace, synced and sealed as in a run.

    python benchmarks/keeping.py FOLDER [ROWS_A_SECOND] [SECONDS]

Prints one line of JSON: ``us_a_row`` of CPU on the loop's thread, less that of the same pace without keeping, and the wall
time of single calls, ``call_p50_us``, ``call_p99_us`` and ``call_max_us``; ``rows`` in the parts at the end.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pyarrow.parquet as pq
from target import COMPLETION

from batchflex.config.sections import JournalSection
from batchflex.core.types import Outcome
from batchflex.storage import part_files
from batchflex.storage.output_folder import Folder
from batchflex.storage.writer import OutcomeWriter

_EVERY_S = 0.005
_SLOTS = 256


def _outcomes(rows: int) -> list[Outcome]:
    said = msgspec.json.decode(COMPLETION)
    content = said["choices"][0]["message"]["content"]
    return [
        Outcome(
            key=f"{i:032x}", slot=f"{i:032x}", id=f"r{i}", row=i, sample=0, status="ok", attempts=1,
            started_at=1_760_000_000_000_000 + i, finished_at=1_760_000_000_400_000 + i,
            endpoint="http://127.0.0.1:8000/v1", run_id="20260101T000000Z-0123ab", content=content,
            finish_reason="stop", model="m", latency_s=0.4, http_status=200, response=COMPLETION.encode(), **said["usage"],
        )
        for i in range(rows)
    ]  # fmt: skip


async def _paced(outcomes: list[Outcome], a_second: int, keep: Callable[[Outcome], None]) -> tuple[float, array[float]]:
    """Seconds of CPU that the loop's thread took, and the seconds of each call."""
    calls = array("d")
    began, before = time.perf_counter(), time.thread_time()
    at = 0
    while at < len(outcomes):
        due = min(len(outcomes), int((time.perf_counter() - began) * a_second))
        for outcome in outcomes[at:due]:
            called = time.perf_counter()
            keep(outcome)
            calls.append(time.perf_counter() - called)
        at = due
        await anyio.sleep(_EVERY_S)
    return time.thread_time() - before, calls


async def measure(path: Path, a_second: int, seconds: int) -> dict[str, float]:
    outcomes, folder = _outcomes(a_second * seconds), Folder(path)
    nothing, _ = await _paced(outcomes, a_second, lambda outcome: None)
    with folder.held():
        keeper = OutcomeWriter(folder, 1, JournalSection(), slots=_SLOTS)
        async with anyio.create_task_group() as beside:
            beside.start_soon(keeper.run)
            spent, calls = await _paced(outcomes, a_second, keeper.keep)
            beside.cancel_scope.cancel()
        await keeper.finish()
    ordered = sorted(calls)
    numbers = part_files.part_numbers(folder.parts)
    return {
        "us_a_row": 1e6 * (spent - nothing) / len(outcomes),
        "call_p50_us": 1e6 * ordered[len(ordered) // 2],
        "call_p99_us": 1e6 * ordered[int(0.99 * len(ordered))],
        "call_max_us": 1e6 * ordered[-1],
        "rows": sum(
            pq.read_metadata(folder.path / "parts" / part_files.part_name(number)).num_rows for number in numbers
        ),
    }


def main() -> None:
    folder, *pace = sys.argv[1:]
    a_second, seconds = (int(text) for text in pace) if pace else (5_000, 10)
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    try:
        import uvloop  # noqa: F401
    except ImportError:
        options = {}
    else:
        options = {"use_uvloop": True}
    print(json.dumps(anyio.run(measure, Path(folder), a_second, seconds, backend_options=options)))


if __name__ == "__main__":
    main()
