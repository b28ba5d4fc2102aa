"""What asking costs: CPU, the share of the ideal time, memory, TLS, and how long the event loop is away."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from figures import Figure
from processes import Refused, Spent, environment, measure
from target import Stats
from targets import Running, certificate, own, quick
from workshop import Workshop

_MANY = 20_000
_MILLION = 1_000_000


def _us(spent: Spent, rows: int) -> float:
    return 1e6 * spent.cpu_s / rows


def cpu(shop: Workshop) -> list[Figure]:
    """CPU of a whole run without latency, by connections."""
    rows, connections = shop.size(_MANY), (64, 256, 1024, 4096)
    costs: dict[int, list[float]] = {wanted: [] for wanted in connections}
    with quick() as target:
        for _ in shop.runs(3):
            for wanted in connections:
                costs[wanted].append(_us(shop.ask(target, rows, wanted), rows))
        name = target.name
    base = costs[64]
    found = [Figure(f"{rows:,} rows, 64 connections", "µs of CPU a row", base, 200, 110, target=name)]
    for wanted in connections[1:]:
        found.append(Figure(f"{wanted:,} connections", "µs of CPU a row", costs[wanted], target=name))
        ratios = [one / other for one, other in zip(costs[wanted], base, strict=True)]
        found.append(Figure(f"{wanted:,} connections over 64", "× the CPU of a row", ratios, 1.05, 1.0, target=name))
    return found


_LIMITS = [
    word
    for pair in (
        "limits.rpm=100000000",
        "limits.budget_usd=100000",
        "params.max_tokens=1000",
        "prices.m.input=1",
        "prices.m.output=1",
    )
    for word in ("--set", pair)
]


def limited(shop: Workshop) -> list[Figure]:
    """CPU with a rate limit, a budget and a window that finds itself, over that without."""
    rows = shop.size(_MANY)
    without, within = [], []
    with quick() as target:
        for _ in shop.runs(5):
            without.append(_us(shop.ask(target, rows, 64), rows))
            within.append(_us(shop.ask(target, rows, "auto", more=_LIMITS), rows))
    ratios = [one / other for one, other in zip(within, without, strict=True)]
    what = f"{rows:,} rows with rpm, budget_usd and concurrency auto"
    return [
        Figure(f"{what}, over 64 connections without", "× the CPU of a row", ratios, 1.15, target=target.name),
        Figure(what, "µs of CPU a row", within, target=target.name),
    ]


def ideal(shop: Workshop) -> list[Figure]:
    """Rows × latency ÷ connections as a share of the time taken."""
    rows = shop.size(_MANY)
    found = []
    for latency_s, connections, goal, stretch in ((0.2, 256, 99, 99.5), (1.0, 1024, 98.5, 99), (1.0, 4096, 95, 97)):
        best_s = rows * latency_s / connections
        rounds = math.ceil(rows / connections)
        asking, whole, took, alone = [], [], [], []
        with own(latency_s) as target:
            for _ in shop.runs(3):
                spent, stats = _with_stats(shop, target, rows, connections)
                if stats.first_request_at is None or stats.second_request_at is None or stats.last_answer_at is None:
                    raise Refused("the target has not noted when it was asked")
                asking.append(100 * best_s / (stats.last_answer_at - stats.first_request_at))
                alone.append(stats.second_request_at - stats.first_request_at)
                whole.append(100 * best_s / spent.wall_s)
                took.append(1000 * stats.latency_s)
        what = f"{rows:,} rows, {latency_s:g} s × {connections:,}"
        note = (
            f"ideal {best_s:.2f} s; {rounds} whole rounds take {rounds * latency_s:.2f} s = "
            f"{100 * best_s / (rounds * latency_s):.1f} %; the target took {min(took):.0f} to {max(took):.0f} ms an answer; "
            f"the second request came {min(alone):.2f} to {max(alone):.2f} s after the first"
        )
        found.append(Figure(f"{what}, first request to last answer", "% of ideal", asking, goal, stretch,
                            at_least=True, target=target.name, note=note))  # fmt: skip
        found.append(Figure(f"{what}, whole process", "% of ideal", whole, target=target.name))
    return found


def _with_stats(
    shop: Workshop, target: Running, rows: int, connections: int, env: Mapping[str, str] | None = None
) -> tuple[Spent, Stats]:
    spent = shop.ask(target, rows, connections, env)
    return spent, target.stats()


def memory(shop: Workshop) -> list[Figure]:
    """What peak memory grows by with the rows."""
    few, many = shop.size(10_000), shop.size(_MILLION)
    small, large, costs = [], [], []
    with quick() as target:
        for _ in shop.runs(2):
            small.append(shop.ask(target, few, 256).peak_mb)
            spent = shop.ask(target, many, 256)
            large.append(spent.peak_mb)
            costs.append(_us(spent, many))
    grown = [one - other for one, other in zip(large, small, strict=True)]
    return [
        Figure(f"{many:,} rows less {few:,}, 256 connections", "MB of peak RSS", grown, 60, 25, target=target.name),
        Figure(f"{few:,} rows", "MB of peak RSS", small, target=target.name),
        Figure(f"{many:,} rows", "MB of peak RSS, of all processes", large, 220, 180, target=target.name),
        Figure(f"{many:,} rows", "µs of CPU a row", costs, target=target.name),
    ]


def tls(shop: Workshop) -> list[Figure]:
    """Handshakes once a connection, and what encryption adds."""
    rows, connections = shop.size(_MANY), 1024
    made = certificate(shop.folder)
    trusting = environment(SSL_CERT_FILE=str(made.certificate))
    plain, secure, handshakes, opened = [], [], [], []
    with own() as bare, own(tls=made) as encrypted:
        for _ in shop.runs(3):
            plain.append(_us(shop.ask(bare, rows, connections), rows))
            spent, stats = _with_stats(shop, encrypted, rows, connections, trusting)
            secure.append(_us(spent, rows))
            handshakes.append(stats.handshakes)
            opened.append(stats.connections)
    ratios = [one / other for one, other in zip(secure, plain, strict=True)]
    return [
        Figure(f"{rows:,} rows, {connections:,} connections", "handshakes", handshakes, connections,
               target=encrypted.name, note="connections: " + ", ".join(f"{each:,}" for each in opened)),
        Figure("over plain, same server", "× the CPU of a row", ratios, 1.3, target=encrypted.name),
        Figure("TLS", "µs of CPU a row", secure, target=encrypted.name),
        Figure("plain", "µs of CPU a row", plain, target=bare.name),
    ]  # fmt: skip


def stall(shop: Workshop) -> list[Figure]:
    """How late the event loop calls back what is due every 5 ms, and how long the end of the run takes."""
    rows = shop.size(_MILLION)
    source, said = shop.rows(rows), shop.folder / "stalls.json"
    script = str(Path(__file__).with_name("stalls.py"))
    seen = []
    with quick() as target:
        for _ in shop.runs(2):
            out = shop.fresh("out")
            target.reset()
            measure([sys.executable, script, str(source), target.base_url, str(out), "256"], said=said)
            shop.check(target, out, rows)
            seen.append(json.loads(said.read_text()))

    def figure(what: str, phase: str, field: str, goal: float | None = None, note: str | None = None) -> Figure:
        return Figure(what, "ms", [each[phase][field] for each in seen], goal, target=target.name, note=note)

    own_cpu = "how long the loop's own thread computed at most in one such time; the rest it waited for others"
    return [
        figure(f"{rows:,} rows, 256 connections: longest", "asking", "longest_ms", 20),
        figure("the same, its own", "asking", "longest_cpu_ms", note=own_cpu),
        figure("99.9 %", "asking", "p999_ms"),
        figure("longest while the table is made", "table", "longest_ms"),
        Figure("from the last answer to the end, table and all", "s", [each["ending_s"] for each in seen], 2,
               target=target.name),
    ]  # fmt: skip
