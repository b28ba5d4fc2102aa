"""What keeping answers costs while a run goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from figures import Figure
from processes import Refused, measure
from workshop import Workshop

_A_SECOND = 5_000


def journal(shop: Workshop) -> list[Figure]:
    """CPU of the event loop's thread for each row that is kept."""
    seconds = 2 if shop.quick else 10
    said, seen = shop.folder / "kept.json", []
    script = str(Path(__file__).with_name("keeping.py"))
    for _ in shop.runs(3):
        measure([sys.executable, script, str(shop.fresh("kept")), str(_A_SECOND), str(seconds)], said=said)
        seen.append(json.loads(said.read_text()))
        if seen[-1]["rows"] != _A_SECOND * seconds:
            raise Refused(f"{_A_SECOND * seconds:,} rows were kept and {seen[-1]['rows']:,} are in the parts")
    pace = f"{_A_SECOND:,} rows/s for {seconds} s"
    return [
        Figure(f"{pace}: loop thread", "µs of CPU a row", [each["us_a_row"] for each in seen], 15,
               note="less that of the same pace without keeping"),
        Figure("one call, median", "µs", [each["call_p50_us"] for each in seen]),
        Figure("one call, 99 %", "µs", [each["call_p99_us"] for each in seen]),
        Figure("one call, longest", "µs", [each["call_max_us"] for each in seen]),
    ]  # fmt: skip
