"""When so many rows have failed that a run ends."""

from __future__ import annotations

import json
from typing import Any

import pytest

from batchflex.config.loader import build
from batchflex.core.errors import AttemptError
from batchflex.core.types import STATUSES
from batchflex.engine.failure_limit import Failures
from batchflex.protocol.classify import http_fault, is_about_request
from batchflex.protocol.failure_evidence import are_alike
from tests.support.outcomes import outcome


def verdicts(most: int | float, *rows: str | dict[str, Any]) -> list[str | None]:
    """What is said after each row; ``failed`` ones fail differently from each other."""
    failures = Failures(most)
    said = [
        failures.add(outcome(n, **({"status": row, "error_type": f"error {n}"} if isinstance(row, str) else row)))
        for n, row in enumerate(rows)
    ]
    return [words and words.text for words in said]


def ends_at(most: int | float, *rows: str | dict[str, Any]) -> int | None:
    """After how many rows the run should end."""
    said = verdicts(most, *rows)
    return next((n for n, words in enumerate(said, 1) if words), None)


def alike(**fields: Any) -> dict[str, Any]:
    known = {"status": "failed", "http_status": 400, "error_type": "invalid_request_error", "error_code": "x"}
    return known | {"error_message": "no such thing"} | fields


INPUT = {"status": "failed", "attempts": 0, "error_type": "input", "error_message": "the row has no text"}


# -------------------------------------------------------------------------------------------------------------- a count


@pytest.mark.parametrize("most", [0, 1, 5])
def test_a_count_may_be_reached_and_not_passed(most: int) -> None:
    assert ends_at(most, *["failed"] * most, *["ok"] * 1_000) is None
    assert ends_at(most, *["failed"] * (most + 1)) == most + 1
    assert ends_at(most, *["ok"] * 1_000, *["failed"] * (most + 1)) == 1_001 + most


def test_a_whole_one_is_a_count_and_no_share() -> None:
    assert ends_at(1, "failed", "ok", "failed") == 3


# -------------------------------------------------------------------------------------------------------------- a share


def test_a_share_holds_once_50_rows_are_final() -> None:
    assert ends_at(0.5, "ok", *["failed"] * 48) is None
    assert ends_at(0.5, "ok", *["failed"] * 49) == 50
    assert ends_at(0.5, *["ok"] * 25, *["failed"] * 25) is None
    assert ends_at(0.5, *["ok"] * 24, *["failed"] * 26) == 50
    assert ends_at(0.1, *["ok"] * 900, *["failed"] * 101) == 1_001


def test_no_row_that_is_answered_ends_a_run() -> None:
    assert ends_at(0.5, *["failed"] * 40, *["ok"] * 10, "failed") == 51
    assert ends_at(0.5, *["failed"] * 40, *["ok"] * 42, "failed", *["ok"] * 100) is None
    assert ends_at(0.01, *["failed", *["ok"] * 99] * 20) == 101


def test_a_share_that_is_kept_never_ends_a_run() -> None:
    assert ends_at(0.1, *[*["ok"] * 9, "failed"] * 200) is None


@pytest.mark.parametrize("status", [status for status in STATUSES if status != "failed"])
def test_only_failed_rows_count(status: str) -> None:
    assert ends_at(0, *[status] * 100) is None
    assert ends_at(0.01, *[status] * 100) is None


def test_one_never_ends_a_run() -> None:
    assert ends_at(1.0, *["failed"] * 100) is None
    assert ends_at(1.0, *[alike()] * 100) is None


# ---------------------------------------------------------------------------------------------------------- all alike


@pytest.mark.parametrize("most", [0.5, 0.99, 20, 10_000])
def test_the_first_20_that_fail_alike_are_enough(most: int | float) -> None:
    assert ends_at(most, *[alike()] * 30) == 20


@pytest.mark.parametrize("place", [0, 7, 18, 19])
@pytest.mark.parametrize(
    "other",
    [
        {"status": "ok"}, {"status": "invalid"}, alike(http_status=422), alike(error_type="other"),
        alike(error_code="y"), alike(error_code=None),
    ],
)  # fmt: skip
def test_one_of_them_that_is_different_is_enough_to_go_on(place: int, other: dict[str, Any]) -> None:
    rows = [alike()] * 49
    rows[place] = other
    assert ends_at(10_000, *rows) is None
    assert ends_at(0.99, *rows) is None


def test_words_may_differ() -> None:
    assert ends_at(0.5, *[alike(error_message=f"no row {n}") for n in range(20)]) == 20


def test_later_ones_may_fail_alike() -> None:
    assert ends_at(10_000, "ok", *[alike()] * 1_000) is None


# ------------------------------------------------------------------------------------------------------ faults of input


def test_rows_that_no_request_can_be_made_of_count_for_nothing() -> None:
    assert ends_at(0, *[INPUT] * 1_000) is None
    assert ends_at(0.01, *[INPUT] * 1_000) is None
    assert ends_at(0, *[INPUT] * 10, "failed") == 11
    # They are no final rows of a share, and neither like nor unlike the others.
    assert ends_at(0.5, *[INPUT] * 49, "failed") is None
    assert ends_at(0.5, *[INPUT] * 60, "ok", *["failed"] * 49) == 110
    assert ends_at(0.5, *[INPUT, alike()] * 20) == 40


def test_a_server_may_call_its_own_errors_as_faults_of_input_are_called() -> None:
    refused = INPUT | {"attempts": 1}
    assert ends_at(0, refused) == 1
    assert ends_at(0.5, *[refused] * 30) == 20
    assert ends_at(0.5, "ok", *[refused] * 49) == 50


# --------------------------------------------------------------------------------------------------------------- words


def test_the_words_tell_how_many_and_the_latest_error() -> None:
    assert verdicts(1, alike(), "ok", alike(error_message="gone", http_status=404))[-1] == (
        "2 of 3 rows failed (limits.max_failures is 1); the latest: gone"
    )
    assert verdicts(0.5, *["ok"] * 1_000, *["failed"] * 1_001)[-1] == (
        "1,001 of 2,001 rows failed (limits.max_failures is 0.5); the latest: error 2000"
    )
    assert verdicts(0.5, *[alike()] * 20)[-1] == "the first 20 rows failed with the same error: no such thing"


def test_a_run_that_goes_on_is_told_again() -> None:
    said = verdicts(0, "failed", "ok", "failed")
    assert said[0]
    assert said[1] is None
    assert said[2]


@pytest.mark.parametrize("most", [0, 1, 5, 0.5, 1.0])
def test_a_job_keeps_whether_it_is_a_count_or_a_share(most: int | float) -> None:
    kept = build({"limits": {"max_failures": most}}).limits.max_failures
    assert (kept, type(kept)) == (most, type(most))


# -------------------------------------------------------------------------------------------------------------- proof


def refused(message: str = "", status: int = 400, **error: Any) -> AttemptError:
    return http_fault(status, {}, json.dumps({"error": {"message": message, **error}}).encode(), 0.0)


@pytest.mark.parametrize(
    "fault",
    [
        refused("the maximum context length is 2048 tokens"),
        refused("too much", code="context_length_exceeded"),
        refused("the prompt is too long: 9,000 tokens"),
        refused("max_tokens must be at least 16"),
        refused("nothing known", param="response_format"),
        refused("filtered by the content management policy"),
        http_fault(413, {}, b"<html>Request Entity Too Large</html>", 0.0),
        http_fault(422, {}, b'{"detail": [{"loc": ["body", "top_p"], "msg": "must be at most 1"}]}', 0.0),
    ],
    ids=lambda fault: fault.message,
)
def test_words_about_what_is_in_a_request(fault: AttemptError) -> None:
    assert is_about_request(fault)


@pytest.mark.parametrize(
    "fault",
    [
        refused("the request is malformed", type="invalid_request_error"),
        refused("This account is on hold"),
        refused("Budget has been exceeded! Current cost: 5.0012, Max budget: 5.0", type="budget"),
        refused("no such thing", param="model"),
        refused("no such thing", param="None"),
        refused("the month's tokens are used up"),
        http_fault(422, {}, b'{"detail": [{"loc": ["header", "authorization"], "msg": "missing"}]}', 0.0),
        http_fault(422, {}, b'{"detail": "no"}', 0.0),
        http_fault(400, {}, b"[]", 0.0),
        http_fault(400, {}, b"", 0.0),
    ],
    ids=lambda fault: fault.message,
)
def test_words_that_may_be_about_whoever_asks(fault: AttemptError) -> None:
    assert not is_about_request(fault)


def test_the_same_refusal_but_for_numbers_and_ids() -> None:
    spent = refused("Spent $5.0012 of $5.00, request req-1a2b")
    assert are_alike(spent, refused("Spent $5.0018 of $5.00, request req-77ff"))
    assert not are_alike(spent, refused("Spent $5.0012 of $5.00, request req-1a2b", code="x"))
    assert not are_alike(spent, refused("Spent $5.0012 of $5.00, request req-1a2b", status=422))
    assert not are_alike(spent, refused("the image of row 7 cannot be read"))


# ----------------------------------------------------------------------------------------------- answers that do not fit


@pytest.mark.parametrize(
    ("rows", "doubted_at"),
    [
        (["invalid"] * 100, [20]),
        (["failed", *["invalid"] * 100], [21]),
        (["ok", *["invalid"] * 100], []),
        ([*["invalid"] * 19, "ok", "invalid"], []),
        (["invalid"] * 19, []),
    ],
)
def test_it_is_told_once_that_no_answer_fits(rows: list[Any], doubted_at: list[int]) -> None:
    failures = Failures(0.5)
    told = []
    for n, status in enumerate(rows, 1):
        made = outcome(n, status=status, error_message="quoted words")
        failures.add(made)
        if words := failures.doubt(made):
            told.append(n)
            assert "answers are all invalid, the latest: quoted words. If" in words.text
            assert "answers are all invalid. If" in words.unquoted
    assert told == doubted_at
