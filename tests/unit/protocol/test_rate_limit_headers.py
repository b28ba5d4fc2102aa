"""Every notation of rate limit headers, and rubbish."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from batchflex.protocol.rate_limit_headers import Level, Limited, RateLimits, read, refused_by

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
    assert told == RateLimits(Level(60, 59, 1.0), Level(150_000, 149_984, 360.0))


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
    assert told == RateLimits(Level(100, 7, 12.0), None)


def test_nothing_told_is_none() -> None:
    assert read({"content-type": "application/json", "x-ratelimit-reset": "3"}, NOW) is None


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30))
def test_rubbish_is_never_an_error(limit: str, remaining: str, reset: str) -> None:
    names = ("limit", "remaining", "reset")
    headers = {f"x-ratelimit-{name}-tokens": text for name, text in zip(names, (limit, remaining, reset), strict=True)}
    told = read(headers, NOW)
    for level in told or ():
        assert level is None or all(value is None or value >= 0 for value in level)


def test_limits_of_a_key_are_read_with_whose_they_are() -> None:
    """As LiteLLM tells them. The strictest comes first; the deployment's own, which does not say whose it is, is further on."""
    told = read(
        {
            "x-ratelimit-api_key-limit-requests": "120",
            "x-ratelimit-api_key-remaining-requests": "30",
            "x-ratelimit-api_key-limit-max_parallel_requests": "10",
            "x-ratelimit-api_key-remaining-max_parallel_requests": "9",
            "x-ratelimit-team-limit-tokens": "100000",
            "x-ratelimit-team-remaining-tokens": "99000",
            "x-ratelimit-limit-requests": "500",
            "x-ratelimit-remaining-requests": "499",
            "llm_provider-x-ratelimit-limit-requests": "500",
        },
        NOW,
    )
    assert told is not None
    assert told[:4] == (Level(120, 30, None, 60.0), None, Level(10, 9, None, 60.0), "api_key")
    assert {each.descriptor: (each.requests, each.tokens) for each in told.further} == {
        "team": (None, Level(100_000, 99_000, None, 60.0)),
        "": (Level(500, 499, None), None),
    }


@pytest.mark.parametrize(("name", "window_s"), [("day", 86_400.0), ("minute", 60.0), ("hour", 3600.0)])
def test_a_header_may_name_its_period(name: str, window_s: float) -> None:
    told = read({f"x-ratelimit-limit-requests-{name}": "1000", f"x-ratelimit-remaining-requests-{name}": "7"}, NOW)
    assert told == RateLimits(Level(1000, 7, None, window_s), None, descriptor=name)


def test_anthropic_names_the_unit_first() -> None:
    told = read({"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "49"}, NOW)
    assert told == RateLimits(Level(50, 49, None), None)


# Words of servers as they are seen in public reports.
@pytest.mark.parametrize(("headers", "message", "code", "means"), [
    ({"rate_limit_type": "max_parallel_requests"}, "Rate limit exceeded", "429", Limited("in_flight")),
    ({"rate_limit_type": "requests", "retry-after": "60"}, "Limit type: requests. Current limit: 120, Remaining: 0", "429",
     Limited("requests")),
    ({}, "Rate limit exceeded for api_key: x. Limit type: max_parallel_requests. Current limit: 10, Remaining: 0", "429",
     Limited("in_flight", 10)),
    ({"x-ratelimit-api_key-limit-max_parallel_requests": "3"}, "Max parallel request limit reached", None,
     Limited("in_flight", 3)),
    ({}, "Limit type: tokens. Current limit: 1000, Remaining: 0", "429", Limited("tokens")),
    ({}, "Max parallel request limit reached. Hit limit for api_key: a. tpm_limit: 10, current_tpm 20", "429", Limited()),
    ({}, "Number of concurrent connections has exceeded your rate limit. Please try again later", None, Limited("in_flight")),
    ({}, "Your account org-e66<ak-f3> request reached max organization concurrency: 1, please try again after 1 seconds", None,
     Limited("in_flight", 1)),
    ({}, "Your account org-e66<ak-f3> request reached organization max RPM: 3, please try again after 1 seconds", None,
     Limited("requests")),
    ({}, "High concurrency usage of this API, please reduce concurrency or contact customer service", "1302",
     Limited("in_flight")),
    ({}, "您当前使用该API的并发数过高，请降低并发，或联系客服增加限额。", "1302", Limited("in_flight")),
    ({}, "Too many concurrent requests. Limit: 5 concurrent requests", None, Limited("in_flight", 5)),
    ({}, "Too many concurrent requests for this model", None, Limited("in_flight")),
    ({}, "Concurrency limit exceeded for account, please retry later", None, Limited("in_flight")),
    ({}, "You have 4 parallel requests running. Please wait for one to end", None, Limited("in_flight", 4)),
    ({}, "Rate limit reached for gpt-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.", "rate_limit_exceeded",
     Limited("tokens")),
    ({}, "Rate limit reached for gpt-x on requests per min (RPM): Limit 3, Used 3, Requested 1.", None, Limited("requests")),
    ({}, "Requests have exceeded token rate limit of your tier. Please retry after 86400 seconds.", "429", Limited("tokens")),
    ({}, "Rate limit reached", "rate_limit_exceeded", Limited()),
])  # fmt: skip
def test_which_limit_a_refusal_is_about(
    headers: dict[str, str], message: str, code: str | None, means: Limited
) -> None:
    assert refused_by(headers, message, "rate_limit_error", code) == means


@given(st.text(max_size=80), st.text(max_size=20))
def test_no_words_of_a_refusal_are_an_error(message: str, code: str) -> None:
    kind, limit = refused_by({}, message, None, code)
    assert limit is None or (kind == "in_flight" and limit >= 1)
