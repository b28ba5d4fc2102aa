"""The same requests asked with the openai SDK as it comes, a semaphore, and JSON lines as output.

python with_openai.py REQUESTS.jsonl BASE_URL OUT CONCURRENCY
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI


async def ask_all(source: Path, base_url: str, out: Path, concurrency: int) -> None:
    slots = asyncio.Semaphore(concurrency)
    with source.open() as stream:
        rows = [json.loads(line) for line in stream]
    async with AsyncOpenAI(base_url=base_url, api_key="none") as client:
        with (out / "answers.jsonl").open("w") as answers:

            async def ask(row: dict[str, Any]) -> None:
                async with slots:
                    said = await client.chat.completions.create(model="m", messages=row["messages"])
                answers.write(json.dumps({"id": row["id"], "response": said.model_dump()}) + "\n")

            await asyncio.gather(*map(ask, rows))


def main() -> None:
    source, base_url, out, concurrency = sys.argv[1:]
    Path(out).mkdir(parents=True)
    asyncio.run(ask_all(Path(source), base_url, Path(out), int(concurrency)))


if __name__ == "__main__":
    main()
