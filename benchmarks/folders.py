"""An output folder as a run leaves it when every row is answered, made without asking.

    python benchmarks/folders.py finish REQUESTS.jsonl BASE_URL OUT
    python benchmarks/folders.py halve OUT HALF      a folder with the first half of another's answers
    python benchmarks/folders.py table ROWS OUT      a folder with nothing but a table of results

The input is planned as a run plans it, and each request gets the load target's answer. Only parts and the job are written; the
table is left for a run to make. What is known here of how batchflex keeps answers is known nowhere else in the benchmarks.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from target import COMPLETION

from batchflex.config.loader import read
from batchflex.core.types import Answer, Request, Usage
from batchflex.plan.plan import Plan
from batchflex.storage import part_files, record
from batchflex.storage.output_folder import Folder

_LATENCY_US = 400_000
_BLOCK = 50_000


def finish(source: Path, base_url: str, out: Path) -> None:
    """Make the folder of a finished job."""
    settings = [("endpoint.base_url", base_url), ("override.model", "m"), ("job.out", str(out))]
    job = read(source, settings)
    plan, folder, answer = Plan(job), Folder(job.out), _answer()
    frame = record.RowContext("20260101T000000Z-0123ab", base_url, plan.labels)
    with folder.held():
        plan.know(folder)
        plan.begin()
        for number, requests in enumerate(_by(job.journal.seal_rows, plan.blocks()), 1):
            now = time.time_ns() // 1000
            effort = record.Effort(1, now - _LATENCY_US, now)
            sealed = [record.answered(frame, request, effort, answer) for request in requests]
            part_files.write_part(folder.parts, number, sealed)
        folder.write_job(job.resolved())


def halve(whole: Path, half: Path) -> None:
    """Make a folder with the first half of the parts of another. Parts are never changed, so they are linked."""
    source, folder = Folder(whole), Folder(half)
    numbers = part_files.part_numbers(source.parts)
    with folder.held():
        for each, there in ((source.job, folder.job), (source.inputs, folder.inputs)):
            shutil.copy(each, there)
        for number in numbers[: len(numbers) // 2]:
            os.link(
                source.path / "parts" / part_files.part_name(number),
                folder.path / "parts" / part_files.part_name(number),
            )


def table(rows: int, out: Path) -> None:
    """Make a folder with a table of results, a tenth of them cut off, and a carried ``label`` of three values."""
    folder, answer = Folder(out), _answer()
    request = Request(bytes(16), bytes(16), "r", 0, 0, 0, b"{}", None, None)
    sealed = record.answered(
        record.RowContext("20260101T000000Z-0123ab", "e", ("{}",)), request, record.Effort(1, 0, 0), answer
    )
    labels = ["positive", "negative", "neutral"]
    with folder.held():
        block = part_files.to_table([sealed] * _BLOCK).select(list(part_files.COLUMNS))
        schema = block.schema.append(pa.field("label", pa.string())).remove_metadata()
        with pq.ParquetWriter(folder.results, schema, compression="zstd") as writer:
            for begin in range(0, rows, _BLOCK):
                numbers = range(begin, min(rows, begin + _BLOCK))
                made = {
                    "id": [f"r{number}" for number in numbers],
                    "row": numbers,
                    "key": [f"{number:032x}" for number in numbers],
                    "status": ["ok" if number % 10 else "truncated" for number in numbers],
                    "completion_tokens": [number % 200 for number in numbers],
                }
                columns = [
                    pa.array(made[f.name], f.type) if f.name in made else block[f.name].slice(0, len(numbers))
                    for f in block.schema
                ]
                columns.append(pa.array([labels[number % 3] for number in numbers]))
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))


def _by(size: int, blocks: Iterator[list[Request]]) -> Iterator[list[Request]]:
    requests = itertools.chain.from_iterable(blocks)
    while batch := list(itertools.islice(requests, size)):
        yield batch


def _answer() -> Answer:
    said = msgspec.json.decode(COMPLETION)
    choice = said["choices"][0]
    return Answer(
        content=choice["message"]["content"],
        reasoning=None,
        tool_calls=None,
        finish_reason=choice["finish_reason"],
        model=said["model"],
        usage=Usage(**said["usage"]),
        response=COMPLETION.encode(),
        http_status=200,
        latency_s=_LATENCY_US / 1e6,
        ttft_s=None,
    )


def main() -> None:
    verb, *given = sys.argv[1:]
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    if verb == "finish":
        finish(Path(given[0]), given[1], Path(given[2]))
    elif verb == "table":
        table(int(given[0]), Path(given[1]))
    else:
        halve(Path(given[0]), Path(given[1]))


if __name__ == "__main__":
    main()
