"""How well a run keeps to what an endpoint allows, and finds what it can give: each case a whole run of the command line.

    python benchmarks/pace.py                      every case, some 12 minutes
    python benchmarks/pace.py quota-headers auto   those whose names begin so

The endpoint is the tests' own, in a process of its own; what it counted is what is printed, beside the goal. Figures are of
one run each, so on a busy machine repeat them.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.counting_endpoint import CountingEndpoint

Case = Callable[[Path], None]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[name] = function
        return function

    return add


def say(name: str, goal: str, figure: str) -> None:
    print(f"| {name} | {goal} | {figure} |", flush=True)


def write_rows(path: Path, rows: int, text: str = "is this one positive or negative?") -> Path:
    with path.open("w") as stream:
        for i in range(rows):
            stream.write(
                json.dumps({"id": f"r{i}", "messages": [{"role": "user", "content": f"row {i}: {text}"}]}) + "\n"
            )
    return path


def command(rows: Path, out: Path, base_url: str, *more: str) -> list[str]:
    start = [sys.executable, "-m", "batchflex", "run", str(rows), "--base-url", base_url, "--model", "m"]
    return [*start, "--out", str(out), "--quiet", "--json", *more]


def run(folder: Path, endpoint: CountingEndpoint, rows: int, *more: str, for_s: float = 600.0) -> dict[str, Any]:
    """The summary of a run, which is interrupted after ``for_s``."""
    folder.mkdir(exist_ok=True)
    source = folder / f"{rows}.jsonl"
    if not source.exists():
        write_rows(source, rows)
    return finish(start(command(source, folder / "out", endpoint.base_url, *more)), for_s)


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str], for_s: float = 600.0) -> dict[str, Any]:
    try:
        said, _ = process.communicate(timeout=for_s)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, _ = process.communicate(timeout=90)
    return dict(json.loads(said)) | {"code": process.returncode}


def later(seconds: float, action: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(seconds, action)
    timer.daemon = True
    timer.start()
    return timer


def at_window(window_s: float) -> None:
    """Wait for the beginning of a fixed window, less the time that a run takes to start."""
    time.sleep((window_s - 0.6 - time.time()) % window_s)


def by_window(log: list[dict[str, Any]], window_s: float, units: Callable[[dict[str, Any]], float]) -> list[float]:
    """What was answered by windows of the clock."""
    begin = math.floor(log[0]["at"] / window_s)
    sums = [0.0] * (math.floor(log[-1]["at"] / window_s) - begin + 1)
    for record in log:
        if record["outcome"] == "ok":
            sums[math.floor(record["at"] / window_s) - begin] += units(record)
    return sums


def quota(name: str, goal: str, folder: Path, limit: float, knobs: dict[str, Any], *, tokens: bool = False) -> None:
    with CountingEndpoint(window_s=10.0, latency_s=0.2, **knobs) as endpoint:
        at_window(10.0)
        run(folder, endpoint, 20_000, for_s=51.5)
        log, refused = endpoint.log(), endpoint.stats()["refused"]
    sums = by_window(log, 10.0, lambda record: record["tokens"] if tokens else 1.0)
    sums = [s for s in sums if s][:5]
    shares = [100 * s / limit for s in sums]
    rest = sum(shares[1:]) / max(1, len(shares) - 1)
    windows = " ".join(f"{share:.1f}" for share in shares)
    say(name, goal, f"{rest:.1f} % used from the second window on ({windows}); {refused} of {len(log)} refused = "
        f"{100 * refused / len(log):.2f} %")  # fmt: skip


@case("quota-headers")
def _(folder: Path) -> None:
    quota("300 in 10 s, headers", "≥ 98 % used, ≤ 0.5 % refused", folder, 300, {"rpm": 300})


@case("quota-headers-sliding")
def _(folder: Path) -> None:
    quota("the same, sliding window", "(none)", folder, 300, {"rpm": 300, "limit_kind": "sliding"})


@case("quota-headers-bucket")
def _(folder: Path) -> None:
    quota("the same, bucket of 100", "(none)", folder, 300, {"rpm": 300, "limit_kind": "bucket", "burst": 100})


@case("quota-refusals")
def _(folder: Path) -> None:
    quota("300 in 10 s, only 429 with Retry-After", "≥ 90 % used, ≤ 3 % refused", folder, 300,
          {"rpm": 300, "limit_headers": False})  # fmt: skip


@case("quota-tokens")
def _(folder: Path) -> None:
    quota("60,000 tokens in 10 s, answers of 20 to 180 tokens", "≥ 95 % used, ≤ 1 % refused", folder, 60_000,
          {"tpm": 60_000, "tokens": 100, "tokens_spread": 0.8}, tokens=True)  # fmt: skip


@case("concurrency")
def _(folder: Path) -> None:
    with CountingEndpoint(latency_s=0.05, jitter_s=0.1, faults={"503": 0.05}, keep_log=False) as endpoint:
        run(folder, endpoint, 4_000, "--concurrency", "64", "--set", "retry.base_s=0.05")
        seen = endpoint.stats()
    say(
        "concurrency = 64", "at most 64 in flight", f"{seen['max_in_flight']} in flight at most, {seen['good']} answers"
    )


def rates(endpoint: CountingEndpoint) -> list[list[int]]:
    return list(endpoint.stats()["by_second"])


def of_key(name: str, folder: Path, parallel: int, latency_s: float, **knobs: Any) -> None:
    """A key that may have so many in flight, at a proxy such as LiteLLM, which frees a slot a moment after the answer."""
    with CountingEndpoint(
        latency_s=latency_s, keep_log=False
    ) as endpoint:  # what so many deliver where nothing limits them
        run(
            folder / f"free {name}",
            endpoint,
            20_000,
            "--concurrency",
            str(parallel),
            "--set",
            "limits.grace_s=2",
            for_s=12,
        )
        seconds = rates(endpoint)[3:9]
        best = sum(row[2] for row in seconds) / len(seconds)
    with CountingEndpoint(
        litellm=True, most_in_flight=parallel, latency_s=latency_s, freed_late_s=0.001, keep_log=False, **knobs
    ) as endpoint:
        run(folder / name, endpoint, int(parallel / latency_s * 45), "--set", "limits.grace_s=2", for_s=40)
        seen, seconds = endpoint.stats(), [row for row in rates(endpoint) if 15 <= row[0] < 35]
    rate = sum(row[2] for row in seconds) / max(1, len(seconds))
    say(f"a key for {parallel} in flight × {1000 * latency_s:.0f} ms, {name}", "≥ 95 % from the 15th second on, ≤ 2 % refused",
        f"{rate:.1f}/s = {100 * rate / best:.1f} % of {best:.1f}/s; {seen['refused']} of {seen['requests']} refused = "
        f"{100 * seen['refused'] / seen['requests']:.2f} %")  # fmt: skip


@case("key-parallel")
def _(folder: Path) -> None:
    of_key("told in headers", folder, 10, 0.5)
    of_key("told in refusals", folder, 10, 0.5, limit_headers=False)
    of_key("told in headers", folder, 3, 0.05)
    of_key("told in refusals", folder, 3, 0.05, limit_headers=False)


@case("key-rpm")
def _(folder: Path) -> None:
    with CountingEndpoint(litellm=True, rpm=120, limit_kind="from_first", latency_s=0.3) as endpoint:
        run(folder, endpoint, 2_000, "--set", "limits.grace_s=2", for_s=245)
        log, refused = endpoint.log(), endpoint.stats()["refused"]
    windows: list[list[float]] = []
    for at in (record["at"] for record in log if record["outcome"] == "ok"):
        if not windows or at >= windows[-1][0] + 60:
            windows.append([])
        windows[-1].append(at)
    shown = " ".join(f"{len(window) / 1.2:.1f}" for window in windows[:-1])
    say("a key for 120 a minute, windows from the first request on", "≥ 97 % of each full window",
        f"{shown} %; {refused} of {len(log)} refused")  # fmt: skip


@case("auto-slots")
def _(folder: Path) -> None:
    for slots in (8, 128, 800):
        best = slots / 0.2
        figures = []
        for fixed in (None, slots + max(2, slots // 8)):
            with CountingEndpoint(latency_s=0.2, slots=slots, keep_log=False) as endpoint:
                more = () if fixed is None else ("--concurrency", str(fixed))
                rows = min(150_000, int(best * 40))
                run(folder / f"{slots}-{fixed}", endpoint, rows, *more, "--set", "limits.grace_s=2", for_s=32)
                seconds = rates(endpoint)
            late = [row[2] for row in seconds if 15 <= row[0] < 29]
            figures.append((sum(late) / max(1, len(late)), max((row[4] for row in seconds), default=0)))
        (rate, most), (fixed_rate, _) = figures
        say(f"auto, {slots} slots of 200 ms", "≥ 90 % of the best from the 15th second on, in flight ≤ 1.6 c",
            f"{rate:,.0f}/s = {100 * rate / best:.0f} % of {best:,.0f}/s (a fixed {slots + max(2, slots // 8)}: "
            f"{fixed_rate:,.0f}/s); in flight at most {most} = {most / slots:.2f} c")  # fmt: skip


@case("auto-unlimited")
def _(folder: Path) -> None:
    walls = {}
    for wanted in ("64", "128", "256", "auto"):
        with CountingEndpoint(latency_s=0.1, keep_log=False) as endpoint:
            began = time.perf_counter()
            ended = run(folder / wanted, endpoint, 6_000, "--concurrency", wanted)
            walls[wanted] = time.perf_counter() - began
            if ended["ok"] != 6_000:
                raise SystemExit(f"not all rows were answered: {ended}")
    best = min(wall for wanted, wall in walls.items() if wanted != "auto")
    shown = ", ".join(f"{wanted}: {wall:.2f} s" for wanted, wall in walls.items())
    say("6,000 rows × 100 ms, unlimited", "≤ 1.3 × the best fixed ≤ 256", f"{walls['auto'] / best:.2f} × ({shown})")


@case("auto-follows")
def _(folder: Path) -> None:
    with CountingEndpoint(latency_s=0.2, slots=128, keep_log=False) as endpoint:
        later(25.6, lambda: endpoint.knobs(slots=64))
        later(50.6, lambda: endpoint.knobs(slots=128))
        run(folder, endpoint, 60_000, "--set", "limits.grace_s=2", for_s=76)
        seconds = rates(endpoint)

    def seen(begin: int, end: int) -> tuple[float, int]:
        rows = [row for row in seconds if begin <= row[0] < end]
        return sum(row[2] for row in rows) / max(1, len(rows)), max((row[4] for row in rows), default=0)

    parts = [(seen(15, 25), 128), (seen(40, 50), 64), (seen(65, 74), 128)]
    shown = [
        f"{rate:.0f}/s = {100 * rate / (5 * slots):.0f} %, in flight at most {most / slots:.2f} c"
        for (rate, most), slots in parts
    ]
    say("128 slots, 64 after 25 s, 128 after 50 s", "follows within 15 s", "; ".join(shown))


@case("outage")
def _(folder: Path) -> None:
    for fault in ("503", "reset_before"):
        # Some variation: in lockstep as many as are in flight would be sent at the very moment when it goes down.
        with CountingEndpoint(latency_s=0.15, jitter_s=0.1) as endpoint:
            moments = []

            def down(fault: str | None, endpoint: CountingEndpoint = endpoint, moments: list[float] = moments) -> None:
                endpoint.knobs(down=fault)
                moments.append(time.time())

            later(8, lambda fault=fault: down(fault))
            later(38, lambda: down(None))
            ended = run(folder / fault, endpoint, 8_000, "--concurrency", "64", for_s=120)
            log = endpoint.log()
        begin, end = moments
        during = sum(begin <= record["at"] < end for record in log)
        full = next(
            (s for s in range(100) if sum(end + s / 10 <= r["at"] < end + s / 10 + 1 for r in log) >= 0.95 * 64 / 0.2),
            None,
        )
        after = "never" if full is None else f"after {full / 10} s"
        say(f"outage of 30 s ({fault})", "≤ 10 sent, none failed, full rate within 5 s",
            f"{during} sent, {ended['failed']} failed, {ended['ok']} ok, full rate {after}")  # fmt: skip


@case("useless")
def _(folder: Path) -> None:
    for fault, most in (("500", 60), ("401", 1), ("404_model", 1), ("400", 60)):
        with CountingEndpoint(fail_after=0, fail_with=fault) as endpoint:
            ended = run(folder / fault, endpoint, 1_000, "--set", "retry.base_s=0.05", for_s=120)
            say(f"{fault} on every row", f"stopped with ≤ {most} requests",
                f"{endpoint.stats()['requests']} requests, exit {ended['code']}, stopped_by {ended['stopped_by']}")  # fmt: skip


@case("credit")
def _(folder: Path) -> None:
    with CountingEndpoint(latency_s=0.05, jitter_s=0.05, credit=500) as endpoint:
        first = run(folder, endpoint, 1_000, "--concurrency", "64")
        refused = endpoint.stats()["outcomes"].get("402", 0)
        endpoint.knobs(credit=100_000)
        again = run(folder, endpoint, 1_000, "--concurrency", "64")
        say("credit ends after 500 answers", "exit 3, 500 ok, ≤ 64 refused, none failed; then finishes",
            f"exit {first['code']}, {first['ok']} ok, {refused} refused, {first['failed']} failed; then exit {again['code']}, "
            f"{again['ok']} ok, {endpoint.stats()['repeats']} asked twice")  # fmt: skip


@case("budget")
def _(folder: Path) -> None:
    faults = {"500": 0.02, "503": 0.02, "reset_before": 0.01, "close_inside": 0.01, "truncated_json": 0.01}
    with CountingEndpoint(latency_s=0.02, tokens=100, tokens_spread=0.5, faults=faults) as endpoint:
        ended = run(folder, endpoint, 30_000, "--concurrency", "64", "--set", "retry.base_s=0.05",
                    "--set", "limits.budget_tokens=1000000", "--set", "max_tokens=150")  # fmt: skip
        billed = endpoint.stats()["tokens"]
    how = f"exit {ended['code']}, stopped_by {ended['stopped_by']}, {ended['ok']:,} ok"
    say("budget of 1,000,000 tokens, failures mixed in", "spent ≤ budget, ≥ 97 % used",
        f"the server counted {billed:,} tokens, {how}")  # fmt: skip


@case("two-endpoints")
def _(folder: Path) -> None:
    knobs = {"window_s": 10.0, "latency_s": 0.1}
    with CountingEndpoint(rpm=500, **knobs) as large, CountingEndpoint(rpm=100, **knobs) as small:
        rows = write_rows(folder / "rows.jsonl", 2_200)
        job = folder / "job.toml"
        job.write_text(
            f'[input]\npath = "{rows}"\n[params]\nmodel = "m"\n[job]\nout = "{folder / "out"}"\n'
            f'[[endpoints]]\nname = "large"\nbase_url = "{large.base_url}"\n'
            f'[[endpoints]]\nname = "small"\nbase_url = "{small.base_url}"\n'
        )
        at_window(10.0)
        died: list[float] = []

        def die() -> None:
            died.append(time.time())
            large.kill()

        logs: list[list[dict[str, Any]]] = []
        later(30.4, lambda: logs.append(large.log()))
        later(30.6, die)
        ended = finish(start([sys.executable, "-m", "batchflex", "run", str(job), "--quiet", "--json"]), 300)
        small_log = small.log()
    shares = [
        [100 * s / limit for s in by_window(log, 10.0, lambda _: 1.0)]
        for log, limit in ((logs[0], 500), (small_log, 100))
    ]
    shown = "; ".join(" ".join(f"{share:.0f}" for share in of) for of in shares)
    say("500 and 100 in 10 s, the larger dies after 30 s", "all answered, each ≥ 95 % used while it lives",
        f"{ended['ok']} of 2,200 ok, {ended['failed']} failed; % by window: large {shown.replace('; ', ', small ')}")  # fmt: skip


def main() -> None:
    wanted = sys.argv[1:]
    chosen = {name: run_ for name, run_ in CASES.items() if not wanted or any(name.startswith(w) for w in wanted)}
    if not chosen:
        raise SystemExit(f"no such case; there are {', '.join(CASES)}")
    print("| case | goal | figure |\n| --- | --- | --- |")
    for name, run_ in chosen.items():
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            run_(Path(folder))


if __name__ == "__main__":
    main()
