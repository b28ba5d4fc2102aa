"""The same requests asked in a loop over aiohttp as lean as one writes it by hand: uvloop, workers that share the input, JSON
lines as output, and a garbage collection that leaves alone what was there at the start.

python with_aiohttp.py REQUESTS.jsonl BASE_URL OUT CONCURRENCY
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path

import aiohttp
import uvloop


async def ask_all(source: Path, base_url: str, out: Path, concurrency: int) -> None:
    url = f"{base_url}/chat/completions"
    with source.open() as stream, (out / "answers.jsonl").open("w") as answers:
        lines = iter(stream)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

            async def work() -> None:
                for line in lines:
                    row = json.loads(line)
                    async with session.post(url, json={"model": "m", "messages": row["messages"]}) as response:
                        response.raise_for_status()
                        said = await response.json()
                    answers.write(json.dumps({"id": row["id"], "response": said}) + "\n")

            await asyncio.gather(*(work() for _ in range(concurrency)))


def main() -> None:
    source, base_url, out, concurrency = sys.argv[1:]
    Path(out).mkdir(parents=True)
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(ask_all(Path(source), base_url, Path(out), int(concurrency)))


if __name__ == "__main__":
    main()
