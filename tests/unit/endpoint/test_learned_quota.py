"""What is learned of a quota that nobody told the job, by simulation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from batchflex.endpoint.concurrency_limit import ConcurrencyLimit
from batchflex.endpoint.pacer import Allowance, Pacer
from batchflex.protocol.rate_limit_headers import Level
from tests.support.simulation import Altered, Choosing, Client, Filling, Limit, Proxy, auto


def asked(server: Limit | Proxy, until: float = 60.0, **more: Any) -> Client:
    return Client(server, Pacer(auto()), **more).run(until)


def share_refused(client: Client) -> float:
    return len(client.refusals) / len(client.sent)


@pytest.mark.parametrize("latency_s", [0.05, 0.5])
@pytest.mark.parametrize(("kind", "whole", "least"), [
    ("fixed", False, 0.98), ("fixed", True, 0.96), ("sliding", False, 0.98), ("sliding", True, 0.85), ("bucket", False, 0.98),
])  # fmt: skip
def test_headers(kind: str, whole: bool, least: float, latency_s: float) -> None:
    server = Limit(300, 10, kind, latency_s=latency_s, whole_seconds=whole)
    client = asked(server)
    assert server.used(10, 60) >= least
    assert share_refused(client) <= 0.005
    assert client.pacer.allowance.requests.learned_from == "headers"
    assert client.pacer.allowance.requests.rate == pytest.approx(30, rel=0.05)


@pytest.mark.parametrize("latency_s", [0.05, 0.5])
@pytest.mark.parametrize("whole", [False, True])
def test_refusals_alone_of_a_fixed_window(latency_s: float, whole: bool) -> None:
    server = Limit(300, 10, headers=False, latency_s=latency_s, whole_seconds=whole)
    client = asked(server, 100)
    assert server.used(10, 100) >= 0.95
    assert share_refused(client) <= 0.015
    assert client.pacer.allowance.requests.learned_from == "refusals"
    assert client.pacer.allowance.requests.rate == pytest.approx(30, rel=0.05)


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
    client = Client(server, Pacer(auto(), Allowance(jitter=random.Random(seed)))).run(200)
    assert server.used(20, 200) >= 0.85
    assert server.used(120, 200) >= 0.93
    assert share_refused(client) <= 0.05
    assert client.pacer.allowance.requests.rate == pytest.approx(30, rel=0.35)


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
    assert client.pacer.allowance.requests.rate is None
    assert client.rate(5, 30) >= 300


def test_a_quota_that_others_use_too_is_left_to_them() -> None:
    """Half of it goes to somebody else: what is left is spread until the reset, instead of being refused."""
    server = Limit(300, 10)
    client = Client(server, Pacer(auto()))
    for moment in range(600):
        client.run(moment / 10)
        for _ in range(moment % 2 + 1):  # 15 a second
            server.arrive(client.now, 1)
    assert server.used(10, 60) >= 0.95
    assert share_refused(client) <= 0.02


# ------------------------------------------------------------------------------------------------ what resets mean, and whose
# limits


@pytest.mark.parametrize("latency_s", [0.05, 0.5, 5.0])
def test_a_key_of_a_proxy_uses_each_window(latency_s: float) -> None:
    """Limits without a reset, windows that begin with the first request, refusals that always ask for a whole window."""
    server = Proxy(rpm=120, latency=latency_s)
    client = asked(server, 600)
    first, *others = server.full_windows(
        600
    )  # in the first one the number in flight grows, some 10 s a step at 5 s an answer
    assert min(others) >= 0.97 * 120
    assert first >= (0.97 if latency_s < 1 else 0.9) * 120
    assert not client.refusals
    assert client.rate(60, 600) >= 0.97 * 2


def test_refusals_that_always_name_a_whole_window_are_seen_through() -> None:
    server = Proxy(rpm=120, latency=0.5, headers=False)
    client = asked(server, 900)
    assert client.rate(300, 900) >= 0.93 * 2
    assert share_refused(client) <= 0.02


def test_a_window_that_is_known_is_waited_for_and_not_what_the_refusal_names() -> None:
    """Somebody else uses the key, too, so that it is spent before its window ends."""
    server = Proxy(rpm=120, latency=0.1)
    client = Client(server, Pacer(auto()))
    for moment in range(1, 300):
        client.run(float(moment))
        if moment >= 130 and moment % 60 == 25:
            for _ in range(40):
                server.arrive(client.now, 1)
    assert min(server.full_windows(300)) >= 0.97 * 120


@pytest.mark.parametrize("of_tokens", [False, True])
def test_a_reset_that_tells_when_a_bucket_is_full(of_tokens: bool) -> None:
    server = Filling(36_000 if of_tokens else 360, 60, "bucket", of_tokens=of_tokens)
    client = asked(server, 240, max_tokens=100)
    assert server.used(60, 240) >= 0.97
    assert share_refused(client) <= 0.02


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket"])
def test_a_reset_of_minutes_where_a_second_is_enough(kind: str) -> None:
    server = Limit(120, 60, kind)
    client = Client(Altered(server, lambda level: level._replace(reset_s=360.0), 1.0), Pacer(auto())).run(240)
    assert server.used(60, 240) >= 0.97
    assert share_refused(client) <= 0.02


@pytest.mark.parametrize(("kind", "window_s", "least"), [
    ("fixed", 60, 0.98), ("sliding", 60, 0.98), ("bucket", 60, 0.98), ("fixed", 10, 0.8), ("sliding", 10, 0.9), ("bucket", 10,
    0.9), ("fixed", 1, 0.4), ("sliding", 1, 0.3), ("bucket", 1, 0.5),
])  # fmt: skip
def test_headers_without_a_reset(kind: str, window_s: int, least: float) -> None:
    """Windows are taken for a minute; that they are shorter is found out."""
    server = Limit(5 * window_s, window_s, kind)
    client = Client(Altered(server, lambda level: level._replace(reset_s=None)), Pacer(auto())).run(240)
    assert server.used(60, 240) >= least
    assert share_refused(client) <= 0.02


def two_models(one: Limit, other: Limit) -> Client:
    """Rows of two models by turns; which limit holds goes by the model."""
    turns = itertools.cycle("ab")
    client = Client(Choosing(lambda: one if client.asking == "a" else other), Pacer(auto()), model=lambda: next(turns))
    return client.run(300)


@pytest.mark.parametrize("make", [
    lambda limit: Limit(limit, 60), lambda limit: Limit(limit, 60, "sliding"), lambda limit: Filling(limit, 60, "bucket"),
])  # fmt: skip
def test_limits_of_two_models_are_kept_apart(make: Callable[[float], Limit]) -> None:
    one, other = make(300), make(300)
    client = two_models(one, other)
    assert min(one.used(60, 300), other.used(60, 300)) >= 0.97
    assert share_refused(client) <= 0.02
    one, other = make(300), make(100)
    client = two_models(one, other)  # as the rows take turns, the smaller limit is the one for both
    assert other.used(60, 300) >= 0.97
    assert client.pacer.allowance.rates[0] == pytest.approx(400 / 60, rel=0.1)


@pytest.mark.parametrize("make", [
    lambda: Limit(300, 60), lambda: Limit(300, 60, "sliding"), lambda: Limit(300, 60, "bucket"), lambda: Filling(300, 60,
    "bucket"),
])  # fmt: skip
def test_a_limit_that_two_models_share_is_one(make: Callable[[], Limit]) -> None:
    shared = make()
    client = two_models(shared, shared)
    assert shared.used(60, 300) >= 0.97
    assert share_refused(client) <= 0.02
    assert client.pacer.allowance.rates[0] == pytest.approx(5.0, rel=0.1)


def test_the_jobs_own_limit_is_one_for_all_models() -> None:
    turns = itertools.cycle("ab")
    one, other = Limit(300, 60), Limit(200, 60)
    server = Choosing(lambda: one if client.asking == "a" else other)
    client = Client(server, Pacer(auto(), Allowance(rpm=120)), model=lambda: next(turns))
    client.run(300)
    assert client.rate(60, 300) == pytest.approx(2.0, rel=0.02)
    assert client.pacer.allowance.rates[0] == 2.0


@pytest.mark.parametrize("limits", [(500, 100), (600, 300, 100)])
def test_limits_of_changing_deployments_are_dropped(limits: tuple[int, ...]) -> None:
    """Headers that say of nobody whose they are, of whichever deployment has answered; none of them refuses."""
    chance = random.Random(1)
    servers = [
        Altered(Limit(1e9, 60), lambda level, limit=limit: level._replace(limit=limit, remaining=limit - 1))
        for limit in limits
    ]
    client = Client(Choosing(lambda: chance.choice(servers)), Pacer(ConcurrencyLimit(16, fixed=True))).run(20)
    assert client.pacer.allowance.requests.rate is None
    assert client.rate(10, 20) >= 100


def test_what_is_left_that_goes_to_and_fro_is_of_different_deployments() -> None:
    chance = random.Random(1)
    servers = [Altered(Limit(1e9, 60), lambda level, left=left: Level(500, left - 1, 30.0)) for left in (480.0, 90.0)]
    client = Client(Choosing(lambda: chance.choice(servers)), Pacer(ConcurrencyLimit(16, fixed=True))).run(20)
    assert client.rate(15, 20) >= 100


def test_headers_that_never_change_are_none() -> None:
    client = Client(
        Altered(Limit(1e9, 60), lambda level: Level(100, 100, 60.0)), Pacer(ConcurrencyLimit(16, fixed=True))
    ).run(120)
    assert client.rate(110, 120) >= 100


def test_a_second_refusal_in_a_known_window_is_waited_for_no_longer_than_the_first() -> None:
    """What was let through in between shows that the window's end was right."""
    server = Proxy(rpm=120, latency=0.1)
    client = Client(server, Pacer(auto()))
    for moment in range(1, 360):
        client.run(float(moment))
        if moment >= 60 and moment % 60 == 57:
            for _ in range(10):
                server.arrive(client.now, 1)
    assert len(client.refusals) >= 3
    assert client.rate(60, 360) >= 0.97 * 110 / 60
