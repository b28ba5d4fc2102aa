"""The same requests asked by saturate, with a fixed window, and with parts of 1,000 rows in place of its 10.

python with_saturate.py REQUESTS.jsonl BASE_URL OUT CONCURRENCY
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saturate import Fixed, pump


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as stream:
        yield from map(json.loads, stream)


def request(row: dict[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": row["messages"]}


def answer(row: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    choice = said["choices"][0]
    return {"content": choice["message"]["content"], "finish_reason": choice["finish_reason"], **said["usage"]}


def main() -> None:
    source, base_url, out, concurrency = sys.argv[1:]
    stats = pump(
        rows(Path(source)),
        request,
        answer,
        base_url,
        out,
        window=Fixed(int(concurrency)),
        flush_every=1_000,
        id_key="id",
    )
    sys.exit(1 if stats.rows_failed else 0)


if __name__ == "__main__":
    main()
