"""What others that people use take for the same rows from the same target; ``make bench-peers`` installs them."""

from __future__ import annotations

import subprocess
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
    Peer("with_saturate", "saturate", 8),
    Peer("with_openai", "openai", 12),
    Peer("with_cookbook", "aiohttp", 2, "in the manner of OpenAI's cookbook"),
    Peer("with_aiohttp", "aiohttp", 2, "as lean as it can be"),
)


def peers(shop: Workshop) -> list[Figure]:
    """CPU of a row beside that of other ways to ask; needs ``make bench-peers``."""
    if missing := [peer.script for peer in _PEERS if not peer.python.exists()]:
        raise Refused(f"not installed: {', '.join(missing)}; `make bench-peers` does that")
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


def _ask(shop: Workshop, target: Running, peer: Peer, rows: int) -> float:
    """µs of CPU a row, of the whole process."""
    source, out = shop.rows(rows), shop.fresh("peer")
    command = [str(peer.python), str(_FOLDER / f"{peer.script}.py"), str(source), target.base_url, str(out)]
    target.reset()
    env = environment()
    del env["PYTHONPATH"]
    spent = measure([*command, str(_CONNECTIONS)], env)
    agree(rows, rows, target, _written(out))
    return 1e6 * spent.cpu_s / rows


def _written(out: Path) -> int:
    lines = 0
    if (answers := out / "answers.jsonl").exists():
        with answers.open() as stream:
            lines = sum(1 for _ in stream)
    return lines + sum(pq.read_metadata(path).num_rows for path in out.glob("part-*.parquet"))
