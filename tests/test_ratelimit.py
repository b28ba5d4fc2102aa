"""Every notation of rate limit headers, and rubbish."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchflex.ratelimit import Level, read

NOW = 1_700_000_000.0


def test_requests_and_tokens_are_told_apart() -> None:
    told = read(
        {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "1s",
            "x-ratelimit-limit-tokens": "150000",
            "x-ratelimit-remaining-tokens": "149984",
            "x-ratelimit-reset-tokens": "6m0s",
        },
        NOW,
    )
    assert told == (Level(60, 59, 1.0), Level(150_000, 149_984, 360.0))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1700000030", 30.0),
        ("1700000030500", 30.5),
        ("1699999990", 0.0),
        ("30", 30.0),
        ("0.25", 0.25),
        ("120ms", 0.12),
        ("6m0s", 360.0),
        ("1h2m3.5s", 3723.5),
        ("2023-11-14T22:13:50Z", 30.0),
        ("2023-11-14T23:13:50+01:00", 30.0),
        ("2023-11-14T22:13:50", None),
        ("soon", None),
        ("nan", None),
        ("-5", None),
        ("", None),
        (None, None),
    ],
)
def test_a_reset_in_any_notation(text: str | None, seconds: float | None) -> None:
    headers = {"x-ratelimit-limit-requests": "10"} | ({} if text is None else {"x-ratelimit-reset-requests": text})
    told = read(headers, NOW)
    assert told is not None
    assert told.requests is not None
    assert told.requests.reset_s == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("prefix", ["x-ratelimit-", "ratelimit-"])
def test_a_suffix_may_be_missing(prefix: str) -> None:
    told = read({f"{prefix}limit": "100, 100;w=60", f"{prefix}remaining": "7", f"{prefix}reset": "12"}, NOW)
    assert told == (Level(100, 7, 12.0), None)


def test_nothing_told_is_none() -> None:
    assert read({"content-type": "application/json", "x-ratelimit-reset": "3"}, NOW) is None


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_rubbish_is_never_an_error(limit: str, remaining: str, reset: str) -> None:
    names = ("limit", "remaining", "reset")
    headers = {f"x-ratelimit-{name}-tokens": text for name, text in zip(names, (limit, remaining, reset), strict=True)}
    told = read(headers, NOW)
    for level in told or ():
        assert level is None or all(value is None or value >= 0 for value in level)
