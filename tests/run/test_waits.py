"""Limits that are waited for, with words and an end; and those on what is in flight, which are not waited for."""

from __future__ import annotations

import datetime
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from batchflex.config.dated_path import local
from batchflex.config.sections import LimitsSection
from batchflex.core.message import Message
from batchflex.endpoint.concurrency_limit import ConcurrencyLimit
from batchflex.endpoint.cost import Cost
from batchflex.endpoint.pacer import Pacer
from batchflex.engine.admission import Admission
from batchflex.engine.budget import Budget
from batchflex.engine.endpoint_state import EndpointSlots
from batchflex.engine.gate import Gate
from batchflex.engine.telemetry import waits_of
from batchflex.protocol.rate_limit_headers import Level, RateLimits
from batchflex.storage.run_state import Wait
from tests.support.command_line import begun, called, ended as ending, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.runs import going, options, run, run_job


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize("asked", ["auto", "64"])
def test_as_many_are_in_flight_as_a_key_may_have(
    headers: bool, asked: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(
        litellm=True, most_in_flight=3, latency_s=0.02, jitter_s=0.005, freed_late_s=0.001, limit_headers=headers
    )
    ended = run(endpoint, write_rows(tmp_path / "rows.jsonl", 150), "--concurrency", asked)
    assert (ended.code, ended.summary["ok"]) == (0, 150)
    refused = endpoint.stats()["refused"]
    assert refused == ended.summary["rate_limited"]
    # What was sent before the limit was told is refused too: before the first refusal came, or, where headers tell, before the
    # first answer, if the list of models had vouched for the endpoint by then.
    assert refused <= 15 + (8 if asked == "auto" else 62)


def test_a_wait_that_is_too_long_stops_the_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 40)
    endpoint.knobs(fail_after=20, fail_with="429", retry_after_s=86_400)
    ended = run(endpoint, rows)
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "quota", 0)
    assert ended.summary["ok"] == 20
    assert "max_wait" in ended.summary["message"]
    assert "Rate limit reached" in ended.summary["message"]
    assert ended.summary["waiting"] == [], "a run that has ended waits for nothing"
    assert ended.summary["resume_at"] > ended.summary["finished_at"]
    until = local(ended.summary["resume_at"])
    assert f"the endpoint asks to wait until {until[:10]}" in ended.summary["message"]
    shown = called("status", tmp_path / "out").out
    assert f"  goes on   after {until}, when the same command is run again" in shown and "waiting" not in shown
    endpoint.knobs(fail_after=None, rpm=None)
    again = run(endpoint, rows)
    assert (again.code, again.summary["ok"], again.summary["waiting"]) == (0, 40, [])
    assert again.summary["resume_at"] is None
    assert endpoint.stats()["repeats"] == 0


def test_refusals_without_end_stop_the_run(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(fail_after=20, fail_with="429", retry_after_s=0.2)
    ended = run(endpoint, write_rows(tmp_path / "rows.jsonl", 40), "--set", "limits.max_wait=1")
    assert (ended.code, ended.summary["stopped_by"], ended.summary["failed"]) == (3, "quota", 0)
    assert "has let nothing through for" in ended.summary["message"]


def test_of_several_endpoints_the_others_go_on(
    endpoint: CountingEndpoint, other: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 200)
    endpoint.knobs(fail_after=20, fail_with="429", retry_after_s=86_400)
    other.knobs(latency_s=0.1)
    ended = run_job(
        tmp_path / "job.toml",
        f"""
        [job]
        out = "{tmp_path / "out"}"
        [input]
        path = "{rows}"
        [params]
        model = "m"
        [[endpoints]]
        name = "daily"
        base_url = "{endpoint.base_url}"
        [[endpoints]]
        name = "free"
        base_url = "{other.base_url}"
        """,
    )
    assert (ended["code"], ended["ok"], ended["stopped_by"]) == (0, 200, None)
    (words,) = ended["given_up"]
    assert words.startswith("daily is not used any more: the endpoint asks to wait until ")


def test_what_is_waited_for_is_said(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 40), tmp_path / "out"
    endpoint.knobs(fail_after=20, fail_with="429", retry_after_s=600)
    log = tmp_path / "run.log"
    with begun(*options(endpoint, rows), "--log-file", log, "--log-format", "json") as process:
        state = _once(out, lambda state: bool(state["waiting"]))
        (wait,) = state["waiting"]
        assert (wait["reason"], wait["message"]) == ("quota", "the endpoint asks to wait: Rate limit reached")
        assert wait["until"] > wait["since"]
        assert state["binding"] == "quota"
        shown = called("status", out).out
        assert "the endpoint asks to wait: Rate limit reached, until 20" in shown
        assert json.loads(called("status", out, "--json").out)["waiting"] == [wait]
        process.send_signal(signal.SIGINT)
        assert json.loads(ending(process).out)["waiting"] == []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (paused,) = (line for line in lines if line["event"] == "paused")
    assert paused["reason"] == "quota"
    logged, shown_until = (datetime.datetime.fromisoformat(each["until"]) for each in (paused, wait))
    assert abs(logged - shown_until) < datetime.timedelta(milliseconds=20), "one moment, by a clock that is read twice"
    assert "HTTP 429" in paused["message"] and "Rate limit reached" not in paused["message"]


def _once(out: Path, fits: Any) -> dict[str, Any]:
    """What run.json says once it fits."""
    for _ in range(400):
        if (out / "run.json").exists() and fits(state := json.loads((out / "run.json").read_text())):
            return state
        time.sleep(0.05)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("limit", ["rpm=1e-300", "rpm=0.01", "tpm=1e-9"])
def test_a_rate_that_lets_nothing_go_is_refused(limit: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    ended = run(endpoint, write_rows(tmp_path / "rows.jsonl", 2), "--set", f"limits.{limit}")
    assert ended.code == 2
    assert "limits.max_wait" in ended.err
    assert endpoint.stats()["requests"] == 0


def test_a_small_rate_is_allowed_to_those_who_wait_for_long(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1)
    ended = run(endpoint, rows, "--set", "limits.rpm=0.01", "--set", "limits.max_wait=2h")
    assert (ended.code, ended.summary["ok"]) == (0, 1)


def test_a_row_that_is_refused_alone_lets_the_others_pass(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """It names no time, and there is nothing but its being refused again while others are not to tell whose fault that is."""
    endpoint.knobs(poison={"row 7.": "429_bare"}, latency_s=0.01)
    with going(*options(endpoint, write_rows(tmp_path / "rows.jsonl", 300))):
        state = _once(tmp_path / "out", lambda state: state["ok"] == 299)
        assert state["failed"] == 0


# -------------------------------------------------------------------------------------------------------- what is waited for


def waited_for(
    gate: Gate, now: float, before: list[Wait] | None = None
) -> list[tuple[str | None, str, str, float, float | None]]:
    found = waits_of(gate, now, 1_000_000 + now, before or ())
    if before is not None:
        before[:] = found
    at = [(wait.since - 1_000_000, None if wait.until is None else wait.until - 1_000_000) for wait in found]
    return [(wait.endpoint, wait.reason, wait.message.text, *times) for wait, times in zip(found, at, strict=True)]


class TestWhatIsWaitedFor:
    """The clock is a number that the tests move."""

    def gate(self) -> Gate:
        self.moment = 100.0
        lane = EndpointSlots("here", Pacer(ConcurrencyLimit(8, fixed=True)))
        gate = Gate(Admission([lane], lambda: self.moment), Budget(LimitsSection()), 100, lambda *_: None)
        gate.admission.prove(lane)
        return gate

    def test_nothing(self) -> None:
        assert waited_for(self.gate(), 100.0) == []

    def test_pauses_with_their_words(self) -> None:
        gate = self.gate()
        gate.admission.pause(
            gate.endpoints[0], "outage", Message("it does not answer: 503", "it does not answer"), 600.0
        )
        gate.admission.pause(gate.endpoints[0], "hours", "it is not within the hours", for_s=3_600.0)
        assert waited_for(gate, 130.0) == [
            ("here", "hours", "it is not within the hours", 100.0, 3_700.0),
            ("here", "outage", "it does not answer: 503", 100.0, 700.0),
        ]
        gate.admission.resume(gate.endpoints[0], "hours")
        gate.admission.resume(gate.endpoints[0], "outage")
        assert waited_for(gate, 130.0) == []

    def test_what_a_refusal_asks_for_since_it_came(self) -> None:
        gate, before = self.gate(), list[Wait]()
        attempt = Cost(0, 0, 0, 0.0, sent_at=100.0)
        gate.endpoints[0].pacer.refused(100.0, attempt, 60.0, 0, said=Message("slow down", "HTTP 429"))
        for now in (100.0, 140.0):
            assert waited_for(gate, now, before) == [
                ("here", "quota", "the endpoint asks to wait: slow down", 100.0, 160.0)
            ]
        assert waited_for(gate, 158.0, before) == [], "which is over in a moment"

    def test_a_window_that_its_headers_call_empty(self) -> None:
        gate = self.gate()
        allowance = gate.endpoints[0].pacer.allowance
        allowance.reported(100.0, Cost(0, 0, 0, 0.0, requests_mark=1.0), RateLimits(Level(10, 0, 600.0), None))
        assert allowance.server_wait_s(100.0) == 0, "one request shows whether it is"
        attempt = Cost(0, 0, 0, 0.0, sent_at=100.0)
        allowance.take(100.0, attempt, 8)
        allowance.refused(100.1, attempt, 599.9)
        assert allowance.server_wait_s(100.1) == pytest.approx(599.9)

    def test_as_many_in_flight_as_the_key_may_have(self) -> None:
        gate = self.gate()
        slots = gate.endpoints[0].pacer.allowance.slots
        slots.reported(100.0, 1)
        slots.in_flight += 1
        assert waited_for(gate, 100.0) == [("here", "concurrency", "the key may have 1 in flight", 100.0, None)]

    def test_a_first_answer(self) -> None:
        gate = self.gate()
        lane = gate.endpoints[0]
        lane.proven, lane.in_flight, lane.sent_at = False, 1, 100.0
        assert waited_for(gate, 104.0) == []
        words = "its first answer is awaited before more is sent"
        assert waited_for(gate, 130.0) == [("here", "endpoint", words, 100.0, None)]
