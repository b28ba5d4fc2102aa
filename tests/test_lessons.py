"""What is learned of a quota that nobody told the job, by simulation."""

from __future__ import annotations

import random
from typing import Any

import pytest

from batchflex.pace import Allowance, Pace
from tests.simulation import Client, Limit, auto


def asked(server: Limit, until: float = 60.0, **more: Any) -> Client:
    return Client(server, Pace(auto()), **more).run(until)


def share_refused(client: Client) -> float:
    return len(client.refusals) / len(client.sent)


@pytest.mark.parametrize("latency_s", [0.05, 0.5])
@pytest.mark.parametrize(("kind", "whole", "least"), [
    ("fixed", False, 0.98), ("fixed", True, 0.96), ("sliding", False, 0.98), ("sliding", True, 0.95), ("bucket", False, 0.98),
])  # fmt: skip
def test_headers(kind: str, whole: bool, least: float, latency_s: float) -> None:
    server = Limit(300, 10, kind, latency_s=latency_s, whole_seconds=whole)
    client = asked(server)
    assert server.used(10, 60) >= least
    assert share_refused(client) <= 0.005
    assert client.pace.allowance.requests.learned_from == "headers"
    assert client.pace.allowance.requests.rate == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize("latency_s", [0.05, 0.5])
@pytest.mark.parametrize("whole", [False, True])
def test_refusals_alone_of_a_fixed_window(latency_s: float, whole: bool) -> None:
    server = Limit(300, 10, headers=False, latency_s=latency_s, whole_seconds=whole)
    client = asked(server, 100)
    assert server.used(10, 100) >= 0.95
    assert share_refused(client) <= 0.015
    assert client.pace.allowance.requests.learned_from == "refusals"
    assert client.pace.allowance.requests.rate == pytest.approx(30, rel=0.05)


def test_refusals_alone_of_a_minute() -> None:
    server = Limit(60, 60, headers=False, latency_s=1.0)
    client = asked(server, 600)
    assert server.used(60, 600) >= 0.95
    assert len(client.refusals) <= 0.02 * len(client.sent)


@pytest.mark.parametrize(("kind", "latency_s"), [("sliding", 0.05), ("bucket", 0.5)])
def test_refusals_alone_of_other_kinds(kind: str, latency_s: float) -> None:
    server = Limit(300, 10, kind, headers=False, latency_s=latency_s)
    client = asked(server, 100)
    assert server.used(10, 100) >= 0.9
    assert share_refused(client) <= 0.04


@pytest.mark.parametrize("seed", range(4))
def test_refusals_that_name_no_time(seed: int) -> None:
    """How long to wait is guessed, and a guess that is too long leaves quota unused: the rate that is found grows quickly."""
    server = Limit(300, 10, headers=False, retry_after=False)
    client = Client(server, Pace(auto(), Allowance(jitter=random.Random(seed)))).run(200)
    assert server.used(20, 200) >= 0.85
    assert server.used(120, 200) >= 0.93
    assert share_refused(client) <= 0.05
    assert client.pace.allowance.requests.rate == pytest.approx(30, rel=0.35)


def test_what_is_hard_to_learn_is_at_least_not_learned_wrong() -> None:
    """A sliding window whose answers take long: what was sent in bursts becomes free in bursts."""
    server = Limit(300, 10, "sliding", headers=False, latency_s=0.5)
    asked(server, 100)
    assert server.used(10, 100) >= 0.7


def test_tokens_by_headers() -> None:
    chance = random.Random(3)
    server = Limit(60_000, 10, of_tokens=True)
    client = asked(server, 100, tokens=lambda: chance.randint(50, 450), max_tokens=500)
    assert server.used(10, 100) >= 0.95
    assert share_refused(client) <= 0.01


def test_refusals_at_random_are_no_quota() -> None:
    client = asked(Limit(1e9, 10, headers=False, random_refusals=0.05, latency_s=0.05), 30)
    assert client.pace.allowance.requests.rate is None
    assert client.rate(5, 30) >= 300


def test_a_quota_that_others_use_too_is_left_to_them() -> None:
    """Half of it goes to somebody else: what is left is spread until the reset, instead of being refused."""
    server = Limit(300, 10)
    client = Client(server, Pace(auto()))
    for moment in range(600):
        client.run(moment / 10)
        for _ in range(moment % 2 + 1):  # 15 a second
            server.arrive(client.now, 1)
    assert server.used(10, 60) >= 0.95
    assert share_refused(client) <= 0.02
