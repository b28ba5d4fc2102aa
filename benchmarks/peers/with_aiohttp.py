"""The same requests asked in a loop over aiohttp as lean as one writes it by hand: uvloop, workers that share the input, JSON
lines as output, and a garbage collection that leaves alone what was there at the start.

python with_aiohttp.py REQUESTS.jsonl BASE_URL OUT CONCURRENCY [stream]
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
import uvloop


async def whole(response: aiohttp.ClientResponse) -> Any:
    return await response.json()


async def streamed(response: aiohttp.ClientResponse) -> Any:
    """The text of all events, and what the last of them say."""
    texts, said = [], {}
    async for line in response.content:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            for choice in event["choices"]:
                texts.append(choice["delta"].get("content") or "")
                said["finish_reason"] = choice["finish_reason"]
            said["usage"] = event.get("usage")
    return said | {"content": "".join(texts)}


async def ask_all(source: Path, base_url: str, out: Path, concurrency: int, *, streams: bool) -> None:
    read, more = (streamed, {"stream": True, "stream_options": {"include_usage": True}}) if streams else (whole, {})
    url = f"{base_url}/chat/completions"
    with source.open() as stream, (out / "answers.jsonl").open("w") as answers:
        lines = iter(stream)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

            async def work() -> None:
                for line in lines:
                    row = json.loads(line)
                    async with session.post(url, json={"model": "m", "messages": row["messages"], **more}) as response:
                        response.raise_for_status()
                        said = await read(response)
                    answers.write(json.dumps({"id": row["id"], "response": said}) + "\n")

            await asyncio.gather(*(work() for _ in range(concurrency)))


def main() -> None:
    source, base_url, out, concurrency, *how = sys.argv[1:]
    Path(out).mkdir(parents=True)
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    uvloop.run(ask_all(Path(source), base_url, Path(out), int(concurrency), streams=how == ["stream"]))


if __name__ == "__main__":
    main()
