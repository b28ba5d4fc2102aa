"""What others that people use take for the same rows from the same target; ``make bench-peers`` installs them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from figures import Figure
from processes import Refused, environment, measure
from targets import Running, quick
from workshop import Workshop, agree

_ROWS = 20_000
_CONNECTIONS = 64
_FOLDER = Path(__file__).with_name("peers")


class Peer(NamedTuple):
    """A script in ``peers/`` with its requirements beside it. ``goal`` is how many times our CPU it should take."""

    script: str
    package: str
    goal: float
    manner: str = ""

    @property
    def python(self) -> Path:
        return _FOLDER / ".venvs" / self.script / "bin" / "python"

    def version(self) -> str:
        code = f"import importlib.metadata as m; print(m.version({self.package!r}))"
        said = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return f"{self.package} {said.stdout.strip()} {self.manner}".strip()


_PEERS = (
    Peer("with_saturate", "saturate", 12),
    Peer("with_openai", "openai", 20),
    Peer("with_cookbook", "aiohttp", 1.5, "in the manner of OpenAI's cookbook"),
)
_BARE = Peer("with_aiohttp", "aiohttp", 1, "as lean as it can be")


def peers(shop: Workshop) -> list[Figure]:
    """CPU of a row beside that of other ways to ask; needs ``make bench-peers``."""
    _require(_PEERS)
    rows = shop.size(_ROWS)
    ours: list[float] = []
    theirs: dict[Peer, list[float]] = {peer: [] for peer in _PEERS}
    with quick() as target:
        for _ in shop.runs(3):
            ours.append(1e6 * shop.ask(target, rows, _CONNECTIONS).cpu_s / rows)
            for peer in _PEERS:
                theirs[peer].append(_ask(shop, target, peer, rows))
        name = target.name
    found = [Figure(f"batchflex, {rows:,} rows, {_CONNECTIONS} connections", "µs of CPU a row", ours, target=name)]
    for peer, costs in theirs.items():
        version = peer.version()
        found.append(Figure(version, "µs of CPU a row", costs, target=name))
        ratios = [one / other for one, other in zip(costs, ours, strict=True)]
        found.append(Figure(f"{version} over batchflex", "× the CPU", ratios, peer.goal, at_least=True, target=name))
    return found


def bare(shop: Workshop) -> list[Figure]:
    """CPU of a row over that of a bare loop that keeps nothing, one after the other; needs ``make bench-peers``."""
    _require((_BARE,))
    found = []
    with quick() as target:
        for rows, connections, goal, stretch in ((20_000, 64, 0.65, 0.5), (200_000, 256, 0.55, 0.4)):
            rows = shop.size(rows)
            found += _over_bare(shop, target, rows, connections, (goal, stretch), runs=5 if rows < 100_000 else 3)
        found += _over_bare(shop, target, shop.size(_ROWS), _CONNECTIONS, (0.8, None), runs=3, streams=True)
    return found


def _over_bare(
    shop: Workshop,
    target: Running,
    rows: int,
    connections: int,
    goals: tuple[float, float | None],
    *,
    runs: int,
    streams: bool = False,
) -> list[Figure]:
    ours, theirs = [], []
    for _ in shop.runs(runs):
        more = ("--set", "endpoint.stream=true") if streams else ()
        ours.append(1e6 * shop.ask(target, rows, connections, more=more).cpu_s / rows)
        theirs.append(_ask(shop, target, _BARE, rows, connections, *(("stream",) if streams else ())))
    what = f"{rows:,} rows, {connections:,} connections{', streamed, 100 events an answer' if streams else ''}"
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return [
        Figure(f"{what}: over the bare loop", "× its CPU of a row", ratios, *goals, target=target.name),
        Figure("batchflex", "µs of CPU a row", ours),
        Figure(_BARE.version(), "µs of CPU a row", theirs),
    ]


def _require(peers: Sequence[Peer]) -> None:
    if missing := [peer.script for peer in peers if not peer.python.exists()]:
        raise Refused(f"not installed: {', '.join(missing)}; `make bench-peers` does that")


def _ask(shop: Workshop, target: Running, peer: Peer, rows: int, connections: int = _CONNECTIONS, *more: str) -> float:
    """µs of CPU a row, of the whole process."""
    source, out = shop.rows(rows), shop.fresh("peer")
    command = [str(peer.python), str(_FOLDER / f"{peer.script}.py"), str(source), target.base_url, str(out)]
    target.reset()
    env = environment()
    del env["PYTHONPATH"]
    spent = measure([*command, str(connections), *more], env)
    agree(rows, rows, target, _written(out))
    return 1e6 * spent.cpu_s / rows


def _written(out: Path) -> int:
    lines = 0
    if (answers := out / "answers.jsonl").exists():
        with answers.open() as stream:
            lines = sum(1 for _ in stream)
    return lines + sum(pq.read_metadata(path).num_rows for path in out.glob("part-*.parquet"))
