"""A nightly job: a few new rows beside millions that were asked before. How long until the first of them is asked, and until the
run has ended, its table made."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from figures import Figure
from finished import finished
from processes import Refused, measure
from targets import Running, own
from workshop import Begun, Workshop, agree

_OLD, _FILES, _NEW = 10_000_000, 200, 1_000
_WITHIN_S = 300.0


def nightly(shop: Workshop) -> list[Figure]:
    """A new file of 1,000 rows in a folder of 200 files, with a table in a folder; takes half an hour and 8 GB."""
    rows = shop.size(_OLD)
    with own() as target:
        inbox = _inbox(shop, rows)
        out = finished(shop, target, inbox)
        told = measure(_command(shop, target, inbox, out))  # makes the table, and writes down how the folder stands
        if not (out / "standing.bin").exists():
            raise Refused("nothing is written down of how the folder stands")
        _add(inbox / "new.jsonl", "n", 0, _NEW)
        whole, fast, slow = [], [], []
        for _ in shop.runs(3):
            tonight = _copy(shop, out)
            target.reset()
            whole.append(measure(_command(shop, target, inbox, tonight)))
            agree(rows + _NEW, _NEW, target, _rows_of_table(tonight))
            fast.append(_begun(shop, target, inbox, _copy(shop, out)))
            without = _copy(shop, out)
            (without / "standing.bin").unlink()
            slow.append(_begun(shop, target, inbox, without))
        (inbox / "new.jsonl").unlink()
    name = f"{rows:,} old rows in {_FILES} files, {_NEW:,} new"
    note = "after a run that has ended"
    later = "after one that was killed, or a retry: all keys are read again"
    return [
        Figure(f"{name}: the whole run", "s", [each.wall_s for each in whole], 10, 5, target=target.name, note=note),
        Figure("CPU of it", "s", [each.cpu_s for each in whole], note=note),
        Figure("its peak", "MB of RSS", [each.peak_mb for each in whole], note=note),
        Figure("first request after start", "s", [each.seconds for each in fast], 5, target=target.name, note=note),
        Figure("peak until then", "MB of RSS", [each.peak_mb for each in fast], note=note),
        Figure(
            "the same, nothing written down", "s", [each.seconds for each in slow], 30, target=target.name, note=later
        ),
        Figure("peak until then", "MB of RSS", [each.peak_mb for each in slow], note=later),
        Figure("the run before: table and all", "s", [told.wall_s]),
    ]


def _command(shop: Workshop, target: Running, inbox: Path, out: Path) -> list[str]:
    return [*shop.command(inbox, out, target.base_url, 256), "--set", "job.results=folder"]


def _rows_of_table(out: Path) -> int:
    return sum(int(file["rows"]) for file in json.loads((out / "results-table.json").read_text())["files"])


def _inbox(shop: Workshop, rows: int) -> Path:
    folder = shop.folder / f"inbox-{rows}"
    if not folder.exists():
        folder.mkdir()
        each = rows // _FILES
        for number in range(_FILES):
            _add(folder / f"{number:04d}.jsonl", "r", number * each, each)
    return folder


def _add(path: Path, letter: str, begin: int, rows: int) -> None:
    text = "Is this review positive or negative? " + "The kettle boils quickly and is quiet. " * 3
    with path.open("w") as stream:
        stream.writelines(
            f'{{"id": "{letter}{i}", "messages": [{{"role": "user", "content": "{i}: {text}"}}]}}\n'
            for i in range(begin, begin + rows)
        )


def _copy(shop: Workshop, out: Path) -> Path:
    """The folder once more. Its large files are never written to, so they are linked."""
    copy = shop.fresh("tonight")
    shutil.copytree(out, copy, copy_function=_linked)
    return copy


def _linked(one: str, other: str) -> None:
    (os.link if Path(one).suffix in (".parquet", ".bin") else shutil.copy2)(one, other)


def _begun(shop: Workshop, target: Running, inbox: Path, out: Path) -> Begun:
    return shop.first_request(target, _command(shop, target, inbox, out), _WITHIN_S)
