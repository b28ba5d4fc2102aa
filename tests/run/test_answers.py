"""What servers say, one file each in ``tests/answers``: read, and served on a socket to a small run.

A file has ``means``, as its README says, ``seen`` (where), ``status``, ``headers``, and ``body`` (JSON) or ``raw`` (text); and
perhaps ``stream`` (the request asks for one), ``max_tokens`` and ``response_format`` of the request, ``content`` of the answer,
``words`` in the row's error, and the ``rule`` that applies. Adding a shape is adding a file.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import polars as pl
import pytest

import batchflex
from batchflex.core.errors import AttemptError, Filtered, NotReady, RateLimited, RowFault, RunFault
from batchflex.core.types import Answer, Request
from batchflex.protocol import chat, classify, failure_rules
from batchflex.protocol.chat_stream import Stream
from batchflex.protocol.loose_json import decode
from batchflex.protocol.route import Receipt
from batchflex.storage import record
from batchflex.storage.record import Effort, RowContext
from tests.support.command_line import write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

FOLDER = ROOT / "tests" / "answers"
CASES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
MEANT = {"stop:credit", "stop:key", "stop:model", "stop:url", "wait", "again"}
MEANT |= {f"row:{status}" for status in ("ok", "truncated", "filtered", "empty", "invalid", "failed")}


def _raw(case: dict[str, Any]) -> bytes:
    return case["raw"].encode() if "raw" in case else msgspec.json.encode(case["body"])


def _body(case: dict[str, Any]) -> dict[str, Any]:
    return {name: case[name] for name in ("max_tokens", "response_format") if name in case}


def _read(case: dict[str, Any]) -> Answer:
    raw, status = _raw(case), case["status"]
    if not 200 <= status < 300:
        raise classify.http_fault(status, httpx.Headers(case.get("headers", {})), raw, 0.0)
    return chat.answer(raw, Receipt(status, 0.5), case.get("max_tokens"))


def _meaning(case: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """What it means, the rule that applied, and the words of the row."""
    try:
        answer = _read(case)
    except AttemptError as fault:
        match fault:
            case RunFault():
                means = f"stop:{fault.reason}"
            case RateLimited() | NotReady():
                means = "wait"
            case Filtered():
                means = "row:filtered"
            case RowFault():
                means = "row:failed"
            case _:
                means = "again"
        return means, fault.rule, fault.message
    request = Request(b"k" * 16, b"s" * 16, "r", 0, 0, 0, msgspec.json.encode(_body(case)), None, None)
    made = record.answered(RowContext("run", "here", ("{}",)), request, Effort(1, 0, 1), answer)
    assert "content" not in case or made.content == case["content"]
    return f"row:{made.status}", None, made.error_message


@pytest.mark.parametrize("name", CASES)
def test_what_it_means(name: str) -> None:
    case = CASES[name]
    assert case["means"] in MEANT and case["seen"]
    means, rule, words = _meaning(case)
    assert means == case["means"], (rule, words)
    assert rule is None or "rule" not in case or rule == case["rule"]
    assert rule is not None or means.startswith("row:")
    assert "words" not in case or words == case["words"]
    if means == "row:filtered" and rule is not None:
        assert words and words != f"HTTP {case['status']} without a message"


def _whole(case: dict[str, Any]) -> bytes:
    """The body of an answer; of a stream, what its events come to."""
    raw = _raw(case)
    if case.get("stream"):
        stream = Stream()
        with contextlib.suppress(AttemptError):
            stream.take_all(raw)
            return stream.whole()
    return raw


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if 200 <= case["status"] < 300])
def test_the_quick_way_of_reading_agrees_with_the_other(name: str) -> None:
    raw = _whole(CASES[name])
    quick = chat.regular(raw, Receipt(200, 0.5))
    data, whole = decode(raw)
    if quick is not None:
        kept = chat.of_object(data, whole, Receipt(200, 0.5))
        assert quick == kept


def test_the_quick_way_reads_most_whole_answers() -> None:
    whole = [_whole(case) for case in CASES.values() if case["means"] == "row:ok"]
    assert sum(chat.regular(raw, Receipt(200, 0.5)) is not None for raw in whole) > len(whole) / 2


def test_every_rule_has_an_answer_that_it_is_for() -> None:
    applied = {_meaning(case)[1] for case in CASES.values()}
    named = {rule.name for rule in failure_rules.RULES if rule.name != "status"}
    assert named <= applied


def test_each_rule_is_told_by_its_name() -> None:
    named = [rule.name for rule in failure_rules.RULES if rule.name != "status"]
    assert len(named) == len(set(named))


# ------------------------------------------------------------------------------------------------------ on a socket


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHFLEX_API_KEY", "FLEXAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", 4)


def _job(case: dict[str, Any], endpoint: CountingEndpoint, rows: Path) -> dict[str, Any]:
    return {
        "job": {"out": str(rows.parent / "out")},
        "input": {"path": str(rows)},
        "params": {"model": "m", **_body(case)},
        "endpoint": {"base_url": endpoint.base_url, "stream": bool(case.get("stream"))},
        "retry": {"base_s": 0.001},
    }


def _served(case: dict[str, Any]) -> dict[str, Any]:
    headers = {**case.get("headers", {})}
    if "retry-after" in headers:
        headers["retry-after"] = "0.02"
    return {"status": case["status"], "headers": headers, **{n: case[n] for n in ("raw", "body") if n in case}}


@pytest.mark.usefixtures("brisk", "no_keys")
@pytest.mark.parametrize("name", CASES)
def test_a_run_that_gets_it(name: str, endpoint: CountingEndpoint, rows: Path) -> None:
    case = CASES[name]
    job, what = _job(case, endpoint, rows), case["means"]
    answer = '{"a": 1}' if "response_format" in case else None
    endpoint.knobs(said=_served(case), answer=answer)
    kind, _, detail = what.partition(":")
    if kind == "stop":
        # Without a list of models the first request goes alone however busy the machine is.
        endpoint.knobs(fail_after=0, fail_with="said", models_form="404")
        stopped = batchflex.run(job)
        assert (stopped.stopped_by, stopped.exit_code, stopped.summary["failed"]) == (detail, 3, 0)
        assert (stopped.summary["done"], endpoint.stats()["requests"]) == (0, 1)
        endpoint.knobs(fail_after=None, models_form="data")
    elif kind == "row":
        endpoint.knobs(poison={"row 0.": "said"})
    else:
        endpoint.knobs(script=["said"])
    run = batchflex.run(job)
    results = run.results()
    assert results["id"].to_list() == [f"r{i}" for i in range(4)]
    assert results["status"].to_list() == [detail if kind == "row" else "ok", "ok", "ok", "ok"]
    assert (run.exit_code, run.stopped_by) == (1 if detail in ("empty", "invalid", "failed") else 0, None)
    if kind == "row":
        # On a busy machine the refusal may come before any answer: then a probe finds out whose fault it is.
        probes = run.summary["probes"]
        assert (endpoint.stats()["requests"] - probes, probes <= 1) == (4, True), "nothing is asked twice"
        _check_row(case, results)
        # A failed row is asked again; a request for one token then tells whether it is the row's, if its words do not.
        assert batchflex.run(job).summary["requests_sent"] in ({1, 2} if detail == "failed" else {0})
    if kind == "wait":
        assert results["attempts"].to_list() == [2, 1, 1, 1] or results["attempts"].sum() == 5


def _check_row(case: dict[str, Any], results: pl.DataFrame) -> None:
    row = results.row(0, named=True)
    assert row["http_status"] == case["status"]
    if "content" in case:
        assert row["content"] == case["content"]
    if "words" in case:
        assert row["error_message"] == case["words"]
    if case["status"] >= 400 or case["means"] in ("row:empty", "row:invalid", "row:failed"):
        assert row["error_message"]
