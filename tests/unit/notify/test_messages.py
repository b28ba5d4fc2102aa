"""What is told of a run and how it is sent: events, words, bodies, tries, commands."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchflex.config.loader import build
from batchflex.config.notify_sections import pings
from batchflex.config.run_outcomes import end_of, event_of, last_trouble, went_well
from batchflex.core import shell_command
from batchflex.core.errors import JobError
from batchflex.notify import deliveries, messages, webhook
from batchflex.storage.run_state import RunState
from tests.support.lazily import Lazily
from tests.support.recorder import Recorder

slack_blocks = Lazily("slack_sdk.models.blocks")

DEFAULT = ("failure", "stopped", "recovered")
NEVER = threading.Event()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Recorder() as made:
        yield made


# ---------------------------------------------------------------------------------------------------------- events


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ({"status": "finished", "exit_code": 0}, "success"),
        ({"status": "finished", "exit_code": 1}, "failure"),
        ({"status": "refused", "exit_code": 2}, "failure"),
        ({"status": "stopped", "exit_code": 3, "stopped_by": "credit"}, "stopped"),
        ({"status": "stopped", "exit_code": 3, "stopped_by": "error"}, "failure"),
        ({"status": "refused", "exit_code": 3}, "stopped"),  # the folder takes nothing
        ({"status": "busy", "exit_code": 4}, "busy"),
        ({"status": "refused", "exit_code": 4}, "busy"),
        ({"status": "skipped", "exit_code": 0}, "skipped"),
        ({"status": "interrupted", "exit_code": 130}, "interrupted"),
        ({"status": "interrupted", "exit_code": 143}, "stopped"),
        ({"status": "killed", "exit_code": None}, "killed"),
        ({"status": "running", "exit_code": None}, "killed"),
    ],
)
def test_how_a_run_ended(state: dict[str, Any], end: str) -> None:
    assert end_of(state) == end


LINES = {
    "good": {"status": "finished", "exit_code": 0},
    "bad": {"status": "finished", "exit_code": 1, "first_failure": "r1: no"},
    "quiet": {"status": "finished", "exit_code": 1, "first_failure": None},  # rows that were bad before are left
    "stopped": {"status": "stopped", "exit_code": 3, "stopped_by": "key"},
    "busy": {"status": "busy", "exit_code": 4},
    "skipped": {"status": "skipped", "exit_code": 0},
    "Ctrl-C": {"status": "interrupted", "exit_code": 130},
    "killed": {"status": "killed", "exit_code": None},
    "own": {"status": "finished", "exit_code": 0, "run_id": "own"},
    "slow": {"status": "finished", "exit_code": 0, "run_id": "slow"},
}


@pytest.mark.parametrize(
    ("history", "unfinished", "trouble"),
    [
        ("", None, None),
        ("own", None, None),
        ("good own", None, None),
        ("good bad own", None, "rows"),
        ("bad quiet own", None, "rows"),  # the rows are bad still
        ("bad good own", None, None),
        ("bad busy skipped Ctrl-C own", None, "rows"),
        ("good killed own", None, "run"),
        ("bad stopped own", None, "run"),
        ("bad stopped quiet own", None, "rows"),
        ("good own bad", None, None),  # a later one, which took the folder meanwhile
        ("good own", "slow", "run"),  # it was going on by run.json and left no line
        ("bad slow own", "slow", None),  # it was going on, was waited for, and has ended
    ],
)
def test_what_was_wrong_before_a_run(history: str, unfinished: str | None, trouble: str | None) -> None:
    assert last_trouble([LINES[word] for word in history.split()] if history else [], "own", unfinished) == trouble


@pytest.mark.parametrize(
    ("line", "before", "on", "event"),
    [
        ("good", None, DEFAULT, None),
        ("good", None, ("success",), "success"),
        ("good", "rows", DEFAULT, "recovered"),
        ("good", "run", DEFAULT, "recovered"),
        ("good", "run", ("success", "recovered"), "recovered"),  # once, not both
        ("good", "run", ("success",), "success"),
        ("good", "run", ("failure",), None),
        ("bad", "rows", DEFAULT, "failure"),  # each run is told of
        ("bad", "run", DEFAULT, "failure"),
        ("quiet", "rows", DEFAULT, None),  # that was told by the run that got them
        ("quiet", None, DEFAULT, None),
        ("quiet", "run", DEFAULT, "recovered"),  # from what had stopped it
        ("quiet", "run", ("failure", "success"), None),
        ("stopped", None, DEFAULT, "stopped"),
        ("stopped", None, ("failure",), None),
        ("busy", None, DEFAULT, None),
        ("busy", None, ("busy",), "busy"),
        ("skipped", "run", ("success", "recovered", "busy"), None),
        ("Ctrl-C", None, ("success", "failure", "stopped", "recovered", "busy"), None),
    ],
)
def test_what_is_told(line: str, before: Any, on: Any, event: str | None) -> None:
    assert event_of(LINES[line], before, on) == event


@pytest.mark.parametrize(("line", "well"), [("good", True), ("quiet", True), ("bad", False), ("stopped", False)])
def test_bad_rows_of_earlier_runs_are_no_fault_of_a_run(line: str, well: bool) -> None:
    assert went_well(LINES[line]) is well


# ------------------------------------------------------------------------------------------------- the job file


def test_the_urls_of_a_switch() -> None:
    plain = pings("https://hc-ping.com/uuid/?rid=1")
    assert plain == ("https://hc-ping.com/uuid/start?rid=1", "https://hc-ping.com/uuid/?rid=1",
                     "https://hc-ping.com/uuid/fail?rid=1", True)  # fmt: skip
    words = pings("https://cronitor.link/p/K/J?state={run|complete|fail}")
    assert words[:3] == tuple(f"https://cronitor.link/p/K/J?state={word}" for word in ("run", "complete", "fail"))
    assert pings("https://kuma/api/push/T?status={|up|down}")[:3] == (
        None, "https://kuma/api/push/T?status=up", "https://kuma/api/push/T?status=down",
    )  # fmt: skip
    assert pings("https://h/beat{||/fail}")[:3] == (None, "https://h/beat", "https://h/beat/fail")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"webhook": "ftp://h/SECRET"}, "notify.webhook: must be a URL"),
        ({"webhook": "hooks.slack.com/SECRET"}, "notify.webhook: must be a URL"),
        ({"webhook": "https://u:SECRET@h/"}, "notify.webhook: a URL with a key in it does not belong in a job file"),
        ({"webhook": "https://u@h/"}, "notify.webhook: must be a URL without user"),
        ({"ping": "https://h/?token=SECRETSECRET"}, "and name that in notify.ping_env"),
        (
            {"command": "curl -H 'Authorization: Bearer SECRET123'"},
            "an environment variable, which the command can read",
        ),
        ({"webhook": ["https://h/SECRET"]}, "notify.webhook: must be text in quotes"),
        ({"webhook": "https://h/SECRET", "webhook_env": "NAME"}, "notify: has either 'webhook' or 'webhook_env'"),
        ({"webhook_env": "https://h/SECRET"}, "notify.webhook_env: must be the name of an environment variable"),
        ({"ping": "https://h/{a|b}SECRET"}, "notify.ping: may hold braces only round three words"),
        ({"ping": {"SECRET": 1}}, "notify.ping: must be text in quotes"),
        ({"command": ["curl", {"SECRET": 1}]}, "notify.command: must be a command in quotes, or a list"),
        ({"command": ""}, "notify.command: must be a command"),
        ({"metrics_file": "m.txt"}, "notify.metrics_file: must end in '.prom'"),
        ({"on": ["fail"]}, "notify.on.0: must be 'success', 'failure', 'stopped', 'recovered' or 'busy'; found 'fail'"),
        ({"on": "failure"}, "notify.on: must be a list"),
        ({"timeout_s": 0}, "notify.timeout_s: must be more than 0"),
        ({"url": "https://h/SECRET"}, "notify.url: unknown key"),
    ],
)
def test_mistakes_are_told_without_what_may_be_secret(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError) as caught:
        build({"notify": wrong})
    assert said in str(caught.value) and "SECRET" not in str(caught.value)


def test_what_may_be_secret_is_neither_written_nor_shown() -> None:
    secret = {"webhook": "https://h/SECRET", "ping": "https://h/SECRET", "command": "curl https://h/SECRET"}
    job = build({"notify": secret})
    assert "notify" not in job.resolved() and "SECRET" not in repr(job)
    named = build({"notify": {**secret, "metrics_file": "/m.prom", "on": ["success"]}})
    again = build(named.resolved())
    assert "SECRET" not in named.to_toml()
    assert (again.notify.metrics_file, again.notify.on, again.notify.webhook) == ("/m.prom", ["success"], None)


# -------------------------------------------------------------------------------------------------------- words


def summary(**given: Any) -> dict[str, Any]:
    run_state = RunState("20260101T020000Z-abc", "nightly", "runs/nightly", 1_800_000_000.0, {"ok": 998, "failed": 2})
    run_state.planned = 1_000
    return {**run_state.state(1_800_000_061.0, ended=True), **given}


@pytest.mark.parametrize(
    ("event", "given", "line"),
    [
        ("success", {}, "nightly succeeded: 1,000 of 1,000 rows, 998 ok, 2 failed."),
        ("recovered", {}, "nightly is well again: 1,000 of 1,000 rows, 998 ok, 2 failed."),
        ("failure", {"exit_code": 1, "first_failure": "r1: no"},
         "nightly finished with failures: 1,000 of 1,000 rows, 998 ok, 2 failed."),
        ("failure", {"exit_code": 2, "status": "refused", "message": "there is\nno input"},
         "nightly failed, and nothing was sent: there is no input."),
        ("failure", {"exit_code": 3, "message": "an unexpected fault"}, "nightly failed: an unexpected fault."),
        ("stopped", {"stopped_by": "credit", "message": "no credit is left"}, "nightly stopped by credit: no credit is left."),
        ("busy", {"message": "another run holds x"}, "nightly was not begun: another run holds x."),
        ("stopped", {"message": "key sk-abcdefgh12345 refused", "stopped_by": "key"}, "nightly stopped by key: key *** refused."),
        ("stopped", {"message": "why? ask!", "stopped_by": "key"}, "nightly stopped by key: why? ask!"),
        ("failure", {"exit_code": 2, "status": "refused", "message": "job.toml has 2 mistakes:\n  - a: b\n  - c: d"},
         "nightly failed, and nothing was sent: job.toml has 2 mistakes: a: b; c: d."),
    ],
)  # fmt: skip
def test_headlines(event: Any, given: dict[str, Any], line: str) -> None:
    assert messages.headline(event, summary(**given)) == line


@pytest.mark.parametrize(
    ("message", "end"),
    [
        ("The key is refused. " * 30, "refused."),
        ("the key " * 80, " …"),
        ("x" * 500, "xxx …"),
    ],
)
def test_a_long_message_ends_with_a_sentence_or_a_word(message: str, end: str) -> None:
    line = messages.headline("failure", summary(exit_code=3, message=message))
    assert line.endswith(end) and len(line) < 350


@pytest.mark.parametrize("event", ["success", "failure", "stopped", "recovered", "busy", "interrupted"])
@pytest.mark.parametrize("status", ["finished", "refused"])
def test_slack_takes_the_blocks_whatever_stands_in_them(event: Any, status: str) -> None:
    told = summary(
        status=status,
        message="<!channel> & " * 500,
        first_failure="r1: " + "&" * 5_000,
        cost=1.5,
        stopped_by="budget",
    )
    body = json.loads(messages.as_slack(event, told, "host<1>"))
    assert body.keys() == {"text", "blocks"}
    blocks = slack_blocks.Block.parse_all(body["blocks"])
    for block, sent in zip(blocks, body["blocks"], strict=True):
        assert block is not None and block.to_dict() == sent  # checks lengths and numbers as Slack does
    assert "<" not in messages.as_slack(event, told, "host<1>").decode()


def test_the_json_is_the_summary_and_a_little_more() -> None:
    told = summary()
    body = json.loads(messages.as_json("success", told, "here"))
    assert {name: body.pop(name) for name in ("event", "text", "host")} == {
        "event": "success", "text": messages.headline("success", told), "host": "here",
    }  # fmt: skip
    assert body == told


# ------------------------------------------------------------------------------------------------------ webhooks


def test_a_webhook_is_tried_again_until_it_takes_the_message(recorder: Recorder) -> None:
    recorder.script = [500, 503]
    assert webhook.send(f"{recorder.url}/hook", b"{}", within_s=4) is None
    assert [(got.method, got.path, got.body) for got in recorder.got] == [("POST", "/hook", b"{}")] * 3
    assert recorder.got[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(("code", "tries"), [(404, 1), (400, 1), (302, 1), (429, 4), (500, 4)])
def test_only_what_may_pass_is_tried_again(recorder: Recorder, code: int, tries: int) -> None:
    recorder.script, recorder.echo = [code] * 9, b"no_service /T0SECRET/B0SECRET"
    recorder.headers = {"Location": f"{recorder.url}/elsewhere"}
    fault = webhook.send(f"{recorder.url}/T0SECRET/B0SECRET?token=QSECRET", b"{}", within_s=1)
    assert fault == f"it answered HTTP {code} (no_service /***/***)"
    assert len(recorder.got) <= tries and recorder.paths() == ["/T0SECRET/B0SECRET?token=QSECRET"] * len(recorder.got)
    assert tries == 1 or len(recorder.got) > 1


def test_a_webhook_that_hangs_or_is_gone_is_cancelled(recorder: Recorder) -> None:
    recorder.script = [0] * 9
    assert webhook.send(f"{recorder.url}/SECRET", b"{}", within_s=0.5) == "no answer within 0.5 s"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/SECRET"
        assert str(webhook.send(url, b"{}", within_s=0.5)).startswith("it cannot be reached: ")


def test_no_log_has_the_address(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        webhook.send(f"{recorder.url}/services/T0SECRET", b"{}", within_s=2)
    assert recorder.paths() == ["/services/T0SECRET"]
    assert "T0SECRET" not in caplog.text


# ------------------------------------------------------------------------------------------------------ commands


def test_a_command_is_told_on_its_standard_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = f"cat > {tmp_path}/told; echo $BATCHFLEX_TEXT > {tmp_path}/text; echo noise; echo noise >&2"
    assert shell_command.run(command, b'{"a": 1}', {"BATCHFLEX_TEXT": "a; b $c"}, 10, NEVER) is None
    assert (tmp_path / "told").read_bytes() == b'{"a": 1}'
    assert (tmp_path / "text").read_text() == "a; b $c\n"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("echo all is well; echo it is broken >&2; exit 7", "it exited with 7: it is broken"),
        ("echo key=sk-abcdefgh12345; exit 1", "it exited with 1: key=***"),
        ("false", "it exited with 1"),
        ("kill -9 $$", "it was ended by SIGKILL"),
        (["/no/such/program"], "it cannot be started: No such file or directory"),
        (["echo", "; exit 3"], None),
        ([sys.executable, "-c", "import sys; sys.exit(len(sys.stdin.read()))"], "it exited with 4"),
    ],
)
def test_what_is_said_of_a_command_that_fails(command: Any, fault: str | None) -> None:
    assert shell_command.run(command, b"four", {}, 10, NEVER) == fault


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "child = subprocess.Popen(['sleep', '60']); open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(60)"
    )
    pid_file = tmp_path / "pid"
    fault = shell_command.run([sys.executable, "-c", program, str(pid_file)], b"", {}, 0.6, NEVER)
    assert fault == "it had not ended after 0.6 s, and was killed"
    stat = Path(f"/proc/{pid_file.read_text()}/stat")
    give_up = time.monotonic() + 10
    while stat.exists() and stat.read_text().split()[2] != "Z":
        assert time.monotonic() < give_up, "the child lives"
        time.sleep(0.01)


def test_deliveries_that_raise_or_never_end_reach_nobody() -> None:
    def raises(cancelled: threading.Event) -> str | None:
        raise RuntimeError("SECRET")

    outcomes = deliveries.deliver({"a": raises, "b": lambda _: None, "c": lambda _: "why"}, 1)
    assert outcomes == {"a": "an unexpected fault of batchflex itself: RuntimeError", "b": None, "c": "why"}
