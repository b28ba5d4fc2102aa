"""What it costs to send from several processes, and to write into a bucket, beside one process and a folder."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from figures import Figure
from processes import Refused, environment, measure, on_core, target_core
from targets import Running, own, quick
from workshop import Workshop, agree

_ROWS = 20_000
_LATENCY_S, _IN_FLIGHT = 0.1, 64
_FOLDER = ["--set", "job.results=folder"]


def processes(shop: Workshop) -> list[Figure]:
    """CPU a row of two processes, and how much faster they are where each may have so many requests in flight."""
    rows = shop.size(_ROWS)
    alone, two, slow, fast = [], [], [], []
    with quick() as target:
        for _ in shop.runs(5):
            alone.append(shop.ask(target, rows, _IN_FLIGHT).cpu_s)
            two.append(shop.ask(target, rows, _IN_FLIGHT, more=["--processes", "2"]).cpu_s)
    with own(_LATENCY_S) as target:
        for _ in shop.runs(2):
            slow.append(shop.ask(target, rows, _IN_FLIGHT).wall_s)
            fast.append(shop.ask(target, rows, 2 * _IN_FLIGHT, more=["--processes", "2"]).wall_s)
        name = target.name
    ratios = [one / other for one, other in zip(two, alone, strict=True)]
    gains = [one / other for one, other in zip(slow, fast, strict=True)]
    what = f"{rows:,} rows, --processes 2 over one process"
    return [
        Figure(what, "× the CPU of a row", ratios, 1.1, target=name),
        Figure(f"{what}, {_IN_FLIGHT} in flight each, {_LATENCY_S:g} s an answer", "× the rows a second", gains, 1.9,
               at_least=True, target=name),
    ]  # fmt: skip


def bucket(shop: Workshop) -> list[Figure]:
    """CPU a row of a run into S3 (moto's server on the second core), over that of one into a folder."""
    rows = shop.size(_ROWS)
    local, remote = [], []
    with quick() as target, _object_server(shop.folder / "copies") as env:
        for number in shop.runs(5):
            local.append(_asked(shop, target, rows, str(shop.fresh("out")), env))
            remote.append(_asked(shop, target, rows, f"s3://bench/runs/{number}", env))
    ratios = [one / other for one, other in zip(remote, local, strict=True)]
    what = f"{rows:,} rows, {_IN_FLIGHT} connections, into S3 over a local folder"
    return [
        Figure(what, "× the CPU of a row", ratios, 1.15, target=target.name),
        Figure("the same, into S3", "µs of CPU a row", [1e6 * each / rows for each in remote], target=target.name),
    ]


def _asked(shop: Workshop, target: Running, rows: int, out: str, env: dict[str, str]) -> float:
    source = shop.rows(rows)
    target.reset()
    command = [*shop.command(source, Path(), target.base_url, _IN_FLIGHT), *_FOLDER]
    command[command.index("--out") + 1] = out
    spent = measure(command, env)
    if "://" in out:
        folder = max(
            Path(env["XDG_STATE_HOME"], "batchflex", "outputs").iterdir(), key=lambda each: each.stat().st_mtime
        )
    else:
        folder = Path(out)
    agree(rows, rows, target, sum(pq.read_metadata(each).num_rows for each in (folder / "results").glob("*.parquet")))
    return spent.cpu_s


@contextmanager
def _object_server(copies: Path) -> Iterator[dict[str, str]]:
    """The environment of a client of a server that has the bucket ``bench``."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        raise Refused("moto_server is not installed; it comes with the development tools")
    command = [program, "-H", "127.0.0.1", "-p", str(port)]
    with on_core(target_core()):
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=bench/20260101/us-east-1/s3/aws4_request"}
                connection.request("PUT", "/bench", headers=signed)
                if connection.getresponse().status == 200:
                    break
            except OSError:
                pass
            time.sleep(0.05)
        else:
            raise Refused("moto's server does not answer")
        yield environment(
            AWS_ACCESS_KEY_ID="bench", AWS_SECRET_ACCESS_KEY="bench-secret", AWS_REGION="us-east-1",
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}", XDG_STATE_HOME=str(copies),
        )  # fmt: skip
    finally:
        server.kill()
        server.wait()
