"""The same requests asked in the manner of the parallel processor in OpenAI's cookbook: one loop that makes a task of each
request, a queue of those to try again, and each answer appended to the file by itself.

https://github.com/openai/openai-cookbook/blob/main/examples/api_request_parallel_processor.py

python with_cookbook.py REQUESTS.jsonl BASE_URL OUT CONCURRENCY
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

_ATTEMPTS = 5


class Processor:
    """Asks every line of a file."""

    def __init__(self, url: str, answers: Path, session: aiohttp.ClientSession, concurrency: int) -> None:
        self._url = url
        self._answers = answers
        self._session = session
        self._concurrency = concurrency
        self._again: asyncio.Queue[tuple[dict[str, Any], int]] = asyncio.Queue()
        self._in_progress = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def process(self, source: Path) -> None:
        with source.open() as stream:
            lines = iter(stream)
            more = True
            while more or self._in_progress or not self._again.empty():
                while self._in_progress < self._concurrency:
                    if not self._again.empty():
                        row, left = self._again.get_nowait()
                    elif more and (line := next(lines, None)) is not None:
                        row, left = json.loads(line), _ATTEMPTS
                    else:
                        more = False
                        break
                    self._in_progress += 1
                    task = asyncio.create_task(self._call(row, left))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(0.001)

    async def _call(self, row: dict[str, Any], left: int) -> None:
        try:
            async with self._session.post(self._url, json={"model": "m", "messages": row["messages"]}) as response:
                said = await response.json()
            if "error" in said:
                raise ValueError(said["error"])
            with self._answers.open("a") as stream:
                stream.write(json.dumps([row, said]) + "\n")
        except (aiohttp.ClientError, ValueError):
            if left > 1:
                self._again.put_nowait((row, left - 1))
        finally:
            self._in_progress -= 1


async def ask_all(source: Path, base_url: str, out: Path, concurrency: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:
        processor = Processor(f"{base_url}/chat/completions", out / "answers.jsonl", session, concurrency)
        await processor.process(source)


def main() -> None:
    source, base_url, out, concurrency = sys.argv[1:]
    Path(out).mkdir(parents=True)
    asyncio.run(ask_all(Path(source), base_url, Path(out), int(concurrency)))


if __name__ == "__main__":
    main()
