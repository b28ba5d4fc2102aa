"""How the output folders beside this file were made, by commit eae3bc5: ``python -m tests.golden.make FOLDER`` there.

``beside`` is of a run that its budget stopped half-way. Each other is of a run that was killed when all that its input has now
was answered: some answers are in parts, some in a journal that is not sealed. The row that was in flight then has been taken
out of the input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.support.counting_endpoint import CountingEndpoint

LABELS = """\
[job]
name = "labels"
retry_failed = 0
[input]
path = "in.csv"
id = "n"
carry = ["stars"]
[prompt]
system = "Label it."
user = "{{ text }}"
[params]
model = "m"
max_tokens = 20
[params.response_format]
type = "json_schema"
json_schema = { name = "label", schema = { type = "object", properties = { label = { enum = ["good", "bad"] } }, required = ["label"] } }
[answer]
max_reasks = 1
[sweep]
temperature = [0, 1.0]
[journal]
seal_rows = 9
"""
REQUESTS = """\
[job]
name = "requests"
retry_failed = 0
[input]
path = "in.jsonl"
carry = ["label"]
[params]
model = "m"
[journal]
seal_rows = 5
"""

BESIDE = """\
[job]
name = "beside"
[input]
path = "in.jsonl"
[params]
model = "m"
[sweep]
samples = 2
"""


def main(root: Path) -> None:
    texts = ["fine", "poor", "refused", "so so", "cut off", "great", "bad", "dull", "odd"]
    table = ["n,text,stars", *(f"{n},{text},{n % 5}" for n, text in enumerate(texts))]
    requests = [
        {"id": f"r{n}" if n % 3 else None, "messages": [{"role": "user", "content": text}], "source": f"s{n % 2}", "label": text[0]}
        for n, text in enumerate([*texts, *texts[:4]])
    ]  # fmt: skip
    _make(root / "labels", LABELS, "in.csv", table, "9,HANG,0", {"answer": '{"label": "good"}', "unfit": 0.3})
    lines = [json.dumps(row) for row in requests]
    last = json.dumps({"id": "last", "messages": [{"role": "user", "content": "HANG"}], "label": "?"})
    _make(root / "requests", REQUESTS, "in.jsonl", lines, last, {})
    beside = [
        {"id": name, "messages": [{"role": "user", "content": text}], "label": label}
        for name, text, label in [
            (None, "a", "x"), (None, "a", "y"), ("r", "b", "x"), (None, "a", "x"), (None, "a", None), ("r", "b", "x"), ("s", "b", "y"),
        ]
    ]  # fmt: skip
    # Half of it was answered: the run stopped at its budget.
    _make(root / "beside", BESIDE, "in.jsonl", [json.dumps(row) for row in beside], "", {}, budget=7)


def _make(
    folder: Path, job: str, name: str, lines: list[str], last: str, knobs: dict[str, object], budget: int | None = None
) -> None:
    folder.mkdir(parents=True)
    (folder / "job.toml").write_text(job)
    (folder / name).write_text("\n".join([*lines, last]) + "\n")
    poison = {"refused": "400", "cut off": "finish_length", "HANG": "hang"}
    with CountingEndpoint(poison=poison, latency_s=0.3, **knobs) as endpoint:
        command = [
            sys.executable,
            "-m",
            "batchflex.cli",
            "run",
            "job.toml",
            "--out",
            "out",
            "--base-url",
            endpoint.base_url,
            "--concurrency",
            "3",
        ]
        if budget is not None:
            command += ["--set", f"limits.budget_requests={budget}"]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        run = subprocess.Popen(command, cwd=folder, env=environment)
        hanging = 2 if name == "in.csv" else 1
        while budget is None and (
            endpoint.stats()["in_flight"] != hanging or not (folder / "out" / "run.json").exists()
        ):
            time.sleep(0.1)
        if budget is None:
            time.sleep(2.0)  # for what is answered to be written, and what is full to be sealed
            run.kill()
        run.wait()
    (folder / name).write_text("\n".join(lines) + "\n")
    for file in ("run.json", "inputs.jsonl", "job.toml"):
        path = folder / "out" / file
        path.write_text(
            path.read_text().replace(f"{folder.resolve()}/", "").replace(endpoint.base_url, "http://127.0.0.1/v1")
        )
    (folder / "out" / "journal" / "reserve").unlink(missing_ok=True)
    (folder / "out" / ".lock").unlink(missing_ok=True)
    for file in ("results.parquet", "history.jsonl", "telemetry.jsonl"):  # what lies in the folder says all
        (folder / "out" / file).unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
