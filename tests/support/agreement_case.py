"""Jobs over files that change, for test_agreement.py."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchflex.cli import plan_text
from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.results import view
from batchflex.storage.output_folder import Folder
from tests.support import oracle
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.oracle import Row, Setting


class Input:
    """The files of a job and the rows in them."""

    def __init__(self, folder: Path, shape: str, files: dict[str, list[Row]], *, is_glob: bool) -> None:
        self.folder, self.shape, self.files = folder, shape, files
        folder.mkdir()
        several = str(folder / f"*.{shape}") if is_glob else str(folder)
        self.path = several if len(files) > 1 or is_glob else str(folder / next(iter(files)))
        for name in files:
            self.write(name)

    @property
    def rows(self) -> list[Row]:
        word, first = {"jsonl": ("line", 1), "csv": ("line", 2), "parquet": ("row", 1)}[self.shape]
        return [
            row | {oracle.WHERE: f"{name}, {word} {number}"}
            for name in sorted(self.files)
            for number, row in enumerate(self.files[name], first)
        ]

    def write(self, name: str) -> None:
        path, rows = self.folder / name, self.files[name]
        if self.shape == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
            return
        with path.open("w", newline="") as stream:
            if self.shape == "csv":
                writer = csv.DictWriter(stream, list(rows[0]), delimiter=_mark(name))
                writer.writeheader()
                writer.writerows(rows)
            else:
                stream.writelines(json.dumps(row) + "\n" for row in rows)

    def append(self, name: str, rows: list[Row]) -> None:
        """As a program that adds to a file does, where it can be added to."""
        self.files[name] += rows
        if self.shape == "parquet":
            return self.write(name)
        with (self.folder / name).open("a", newline="") as stream:
            if self.shape == "csv":
                csv.DictWriter(stream, list(rows[0]), delimiter=_mark(name)).writerows(rows)
            else:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
        return None

    def remove(self, name: str) -> list[Row]:
        (self.folder / name).unlink()
        return self.files.pop(name)


def _mark(name: str) -> str:
    """What separates the columns of a CSV file of this name: not all of a job's files are alike."""
    return ";" if name.startswith("d") else ","


class Small:
    """A job over requests ``t001.``, `t002.` and so on, each with its id."""

    def __init__(self, folder: Path, endpoint: CountingEndpoint, rows: int, **setting: Any) -> None:
        texts = [f"t{number:03d}." for number in range(1, rows + 1)]
        self.rows = [{"id": text, "messages": [{"role": "user", "content": text}]} for text in texts]
        self.input = Input(folder / "in", "jsonl", {"a.jsonl": self.rows}, is_glob=False)
        self.setting, self.endpoint, self.out = Setting("jsonl", **setting), endpoint, folder / "out"

    def job(self, on_change: str = "stop", **limits: Any) -> Job:
        tables = self.setting.tables(self.input.path, self.out, self.endpoint.base_url)
        tables["job"]["on_change"] = on_change
        tables["limits"] |= limits
        return build(tables)

    def left(self) -> int:
        """As `plan` tells; a run then asks as many."""
        return int(plan_text.forecast(self.job())["left"])

    def results(self) -> dict[str, str]:
        stored = view.results_of(Folder(self.out))
        return {row["id"]: row["status"] for batch in stored.batches(["id", "status"]) for row in batch.to_pylist()}
