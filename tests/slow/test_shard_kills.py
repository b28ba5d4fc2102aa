"""Sixteen tasks of an array job, killed and started twice: every row is there once, and nothing received is asked again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from tests.support.command_line import begun, called, ended, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint


def test_sixteen_tasks_of_which_three_are_killed_and_two_run_twice(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "in.jsonl", 1_600), tmp_path / "out"
    endpoint.knobs(latency_s=0.02)
    chance = random.Random(4)
    tasks = [*range(16), 3, 9]
    chance.shuffle(tasks)

    def arguments(number: int) -> list[object]:
        small = ["--set", "journal.seal_rows=20"]
        return [
            "run", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", out, "--concurrency", 8,
            "--shards", 16, "--shard", number, "--at-once", 4, *small,
        ]  # fmt: skip

    codes: dict[int, list[int]] = {number: [] for number in range(16)}
    killed: list[int] = []
    while tasks:
        some, tasks = tasks[:6], tasks[6:]
        with ExitStack() as stack:
            processes: list[tuple[int, subprocess.Popen[str]]] = []
            for number in some:
                processes.append((number, stack.enter_context(begun(*arguments(number)))))
                time.sleep(chance.uniform(0, 0.1))
            before = endpoint.stats()["good"]
            wait_until(lambda least=before: endpoint.stats()["good"] > least + 60, "answers")
            number, process = processes[-1]
            os.kill(process.pid, signal.SIGKILL)
            killed.append(number)
            for number, process in processes:
                codes[number].append(ended(process).code)
    again = [number for number, found in codes.items() if 0 not in found]
    assert set(again) <= set(killed), (codes, killed)
    shown = called("status", out).out
    assert f"{16 - len(again)} of 16 finished" in shown, shown
    for number in again:
        assert called(*arguments(number)).code == 0
    assert "16 of 16 finished" in called("status", out).out
    assert endpoint.asked_again() == []
    assert called("results", out, "-o", tmp_path / "answers.parquet").code == 0
    found = pl.read_parquet(tmp_path / "answers.parquet")
    assert found["row"].to_list() == list(range(1_600)) and set(found["status"]) == {"ok"}
    assert all(code in (0, 4, -9) for found in codes.values() for code in found), codes
