"""How long one waits at the beginning: until the first request leaves, and for the help."""

from __future__ import annotations

import sys
from pathlib import Path

from figures import Figure
from processes import Refused, measure
from targets import own
from workshop import Workshop

_TEN_MILLION = 10_000_000
_PATIENCE_S = 120.0


def first(shop: Workshop) -> list[Figure]:
    """From the start of the process to the target's first request."""
    rows = shop.size(_TEN_MILLION)
    one, many = [], []
    with own() as target:
        for _ in shop.runs(5):
            spent = shop.ask(target, 1, 64)
            at = target.stats().first_request_at
            if at is None:
                raise Refused("the target has not noted when it was asked")
            one.append(at - spent.began)
        source = shop.rows(rows, short=True)
        for _ in shop.runs(5):
            out = shop.fresh("out")
            command = shop.command(source, out, target.base_url, 256)
            many.append(shop.first_request(target, command, _PATIENCE_S).seconds)
    return [
        Figure("first request after start, 1 row", "s", one, 0.3, 0.2, target=target.name),
        Figure(f"first request after start, {rows:,} rows of JSONL", "s", many, 1.0, target=target.name,
               note="rows of 250 bytes; then the client is killed"),
    ]  # fmt: skip


def help_text(shop: Workshop) -> list[Figure]:
    """How long ``batchflex --help`` takes."""
    script = Path(sys.executable).with_name("batchflex")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "batchflex"]
    walls = [measure([*command, "--help"]).wall_s for _ in shop.runs(10)]
    return [Figure("batchflex --help", "s", walls, 0.15)]
