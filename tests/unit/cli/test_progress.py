"""What people see of a run: on a terminal, in a log, at the end."""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import msgspec
import pyarrow as pa
import pytest

from batchflex.cli import logs, results_text
from batchflex.config.dated_path import local
from batchflex.config.sections import LogSection
from batchflex.core.message import Message
from batchflex.core.types import Outcome, Usage
from batchflex.display import progress, run_text
from batchflex.storage.part_files import COLUMNS
from batchflex.storage.results_columns import Origins
from batchflex.storage.run_state import RunState

STARTED = 1_760_000_000.0


def row(status: str, id: str = "r1", message: str | None = None) -> Outcome:
    made = Outcome(
        key="", slot="", id=id, row=0, sample=0, status="ok", attempts=1, started_at=0, finished_at=0,
        endpoint="e", run_id="r", error_message=message,
    )  # fmt: skip
    return msgspec.structs.replace(made, status=status)


def run_state(planned: int | None = 2_000, ok: int = 500, failed: int = 2, before: int = 0) -> RunState:
    made = RunState("run-1", "label-reviews", "runs/label-reviews", STARTED, {"ok": before})
    made.planned = planned
    for _ in range(ok):
        made.add(row("ok"))
        made.use(Usage(100, 20, 120), None)
    for i in range(failed):
        made.add(row("failed", f"r{i}", "HTTP 500: no"))
    made.in_flight = 64
    made.requests_sent = ok + failed
    return made


def ended(made: RunState, took_s: float = 65.0) -> dict[str, Any]:
    return made.state(STARTED + took_s, ended=True)


# ------------------------------------------------------------------------------------------------------------- Lines

HEAD = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d info label-reviews run-1 "


def lines_to(stream: TextIO, every_s: float = 0, *, quiet: bool = False) -> logs.Logs:
    return logs.Logs(LogSection(), None, quiet=quiet, stream=stream, every_s=every_s)


class TestLines:
    def test_a_line_has_its_time_and_what_there_is_to_know(self) -> None:
        stream = io.StringIO()
        lines = lines_to(stream)
        made = run_state()
        made.cost, made.backing_off = 1.5, 3
        lines.tick(made)
        [line] = stream.getvalue().splitlines()
        assert re.fullmatch(
            HEAD + r"502 of 2,000 rows \(25 %\), [\d,.]+ rows/s, "
            r"64 in flight, 2 failed, 60\.0k tokens, 3 waiting to retry, \$1\.50, \S+( s)? left",
            line,
        )

    def test_without_a_plan_there_is_no_share_and_no_end(self) -> None:
        stream = io.StringIO()
        lines_to(stream).tick(run_state(planned=None))
        assert re.search(r"run-1 502 rows, [\d,.]+ rows/s, 64 in flight", stream.getvalue())
        assert "left" not in stream.getvalue()

    def test_before_anything_is_done_no_end_is_guessed(self) -> None:
        stream = io.StringIO()
        lines_to(stream).tick(run_state(ok=0, failed=0, before=40))
        assert "40 of 2,000 rows (2 %), 0.0 rows/s" in stream.getvalue()
        assert "left" not in stream.getvalue()

    def test_what_is_not_quite_all_is_not_called_all(self) -> None:
        stream = io.StringIO()
        lines_to(stream).tick(run_state(planned=1_000_000, ok=0, failed=0, before=999_999))
        assert "(99 %)" in stream.getvalue()

    def test_lines_come_now_and_then_only(self) -> None:
        stream = io.StringIO()
        lines = lines_to(stream, logs.LINE_EVERY_S)
        for _ in range(100):
            lines.tick(run_state(ok=1))
        assert stream.getvalue() == ""
        lines.note("resuming")
        lines.close()
        assert stream.getvalue().endswith(" resuming\n")

    def test_every_line_of_a_note_is_timed_and_none_has_control_characters(self) -> None:
        stream = io.StringIO()
        lines_to(stream).note("one\ntwo \x1b[31mred\x1b[0m\a\r\nthree\tfour")
        lines = stream.getvalue().splitlines()
        assert [line.partition(" - - ")[2] for line in lines] == ["one", "two  [31mred [0m", "three four"]
        assert all(character.isprintable() for line in lines for character in line)


# --------------------------------------------------------------------------------------------------------------- Bar


@contextmanager
def terminal(columns: int = 200) -> Iterator[tuple[TextIO, list[str]]]:
    """A stream that is a terminal, and what has been written to it, complete once the context is left."""
    import fcntl
    import struct
    import termios

    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    shown: list[str] = []

    def read() -> None:
        while True:
            try:
                data = os.read(reader, 4096)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            shown.append(data.decode())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with os.fdopen(writer, "w", encoding="utf-8") as stream:
            yield stream, shown
    finally:
        thread.join(10)
        os.close(reader)


class TestBar:
    def test_it_shows_what_is_done_planned_in_flight_failed_and_the_tokens(self) -> None:
        with terminal() as (stream, shown):
            bar = progress.Bar(stream)
            made = run_state(ok=0, failed=0, before=100)
            bar.tick(made)
            for _ in range(500):
                made.add(row("ok"))
                made.use(Usage(100, 20, 120), 0.001)
            made.add(row("failed"))
            bar.tick(made)
            bar.close()
        text = "".join(shown)
        assert "label-reviews" in text
        assert "100/2000" in text
        assert "601/2000" in text
        assert "64 in flight, 1 failed, 60.0k tokens, $0.5000" in text

    def test_the_total_may_become_known_later(self) -> None:
        with terminal() as (stream, shown):
            bar = progress.Bar(stream)
            made = run_state(planned=None, ok=5)
            bar.tick(made)
            made.planned = 70
            bar.tick(made)
            bar.close()
        assert "7/70" in "".join(shown)

    def test_notes_stand_above_the_bar(self) -> None:
        with terminal() as (stream, shown):
            bar = progress.Bar(stream)
            bar.note("before\x1b[2J")
            bar.tick(run_state())
            bar.note("meanwhile")
            bar.close()
            bar.note("after")
        lines = "".join(shown).replace("\r\n", "\n").split("\n")
        assert lines[0] == "before [2J"
        assert any(line.endswith("meanwhile") for line in lines)
        assert any(line.endswith("after") for line in lines)

    def test_it_leaves_nothing_behind(self) -> None:
        with terminal() as (stream, shown):
            bar = progress.Bar(stream)
            bar.tick(run_state())
            bar.close()
        assert "".join(shown).rpartition("\r")[0].rpartition("\r")[2].strip() == ""

    def test_a_terminal_that_is_gone_ends_no_run(self) -> None:
        reader, writer = os.openpty()
        with os.fdopen(writer, "w") as stream:
            bar, early = progress.Bar(stream), progress.Bar(stream)
            bar.tick(run_state())
            os.close(reader)
            with pytest.raises(OSError, match="Input/output error"):
                os.write(stream.fileno(), b"x")
            bar.tick(run_state())
            bar.note("meanwhile")
            bar.close()
            early.note("before there is a bar")
            early.tick(run_state())
            early.close()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())  # for what closing still writes
            os.close(null)

    def test_closing_one_that_has_shown_nothing(self) -> None:
        progress.Bar(io.StringIO()).close()


def test_a_terminal_gets_a_bar_and_anything_else_lines() -> None:
    stream = io.StringIO()
    with terminal() as (screen, shown):
        for each in (screen, stream):
            observer = lines_to(each)
            observer.tick(run_state())
            observer.note("something")
            observer.close()
    assert "502/2000" in "".join(shown) and "info label-reviews" not in "".join(shown)
    assert [re.sub(HEAD, "", line)[:9] for line in stream.getvalue().splitlines()] == ["502 of 2,", "something"]


def test_quiet_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with terminal() as (screen, shown):
        for each in (screen, stream):
            quiet = lines_to(each, quiet=True)
            quiet.tick(run_state())
            quiet.note("something")
            quiet.close()
    assert (shown, stream.getvalue(), capfd.readouterr()) == ([], "", ("", ""))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (60_240, "60.2k"), (1_500_000, "1.5M"), (2_000_000_000, "2.0G")],
)
def test_tokens_are_shown_in_short(number: int, text: str) -> None:
    made = run_state(ok=0, failed=0)
    made.completion_tokens = number
    stream = io.StringIO()
    lines_to(stream).tick(made)
    assert f" {text} tokens" in stream.getvalue()


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (0.84, "0.8 s"), (9.94, "9.9 s"), (9.96, "10 s"), (12.4, "12 s"), (59.4, "59 s"), (59.6, "1:00"),
        (60, "1:00"), (185, "3:05"), (3_599.6, "1:00:00"), (7_201, "2:00:01"), (360_000, "100:00:00"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert run_text.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 retries"), (1, "1 retry"), (2, "2 retries"), (12_345, "12,345 retries")]
)
def test_count(number: int, text: str) -> None:
    assert run_text.count(number, "retry", "retries") == text


@pytest.mark.parametrize(("usd", "text"), [(0.0012, "$0.0012"), (1.0, "$1.00"), (12_345.678, "$12,345.68")])
def test_money(usd: float, text: str) -> None:
    assert run_text.money(usd) == text


class TestSummary:
    def test_a_finished_run(self) -> None:
        assert run_text.summary(ended(run_state(planned=72, ok=72, failed=0))) == (
            "label-reviews: 72 of 72 rows done: 72 ok; finished after 1:05\n"
            "  this run: 72 requests sent, 0 retries, 0 rate-limited; 7,200 prompt + 1,440 completion tokens\n"
            "  results: runs/label-reviews/results.parquet"
        )

    def test_failures_truncated_rows_and_cost_are_told(self) -> None:
        made = run_state(planned=10, ok=7, failed=2)
        made.add(row("truncated"))
        made.retries, made.cost = 1, 0.25
        text = run_text.summary(ended(made, 2.0))
        assert "10 of 10 rows done: 7 ok, 1 truncated, 2 failed; finished after 2.0 s" in text
        assert "1 retry, 0 rate-limited" in text
        assert "completion tokens, $0.2500" in text
        assert "first failure: r0: HTTP 500: no" in text
        assert "1 answer was cut off by max_tokens" in text

    @pytest.mark.parametrize(("stopped_by", "status"), [("budget", "stopped"), ("signal", "interrupted")])
    def test_a_run_that_was_stopped_says_why_and_how_to_go_on(self, stopped_by: Any, status: str) -> None:
        made = run_state()
        made.stopped_by, made.message = stopped_by, Message.of("because")
        text = run_text.summary(ended(made))
        assert f"502 of 2,000 rows done: 500 ok, 2 failed; {status} after 1:05" in text
        assert f"stopped by {stopped_by}: because" in text
        assert "run the same command again to go on" in text

    def test_a_run_that_sent_nothing_does_not_count_requests(self) -> None:
        text = run_text.summary(ended(run_state(planned=5, ok=0, failed=0, before=5)))
        assert text.splitlines()[0] == "label-reviews: 5 of 5 rows done: 5 ok; finished after 1:05"
        assert "this run" not in text

    def test_what_a_server_said_stays_on_its_line(self) -> None:
        made = run_state(ok=1, failed=0)
        made.add(row("failed", "r9", "a\nb\x1b[2J" + "x" * 5_000))
        [line] = [line for line in run_text.summary(ended(made)).splitlines() if "first failure" in line]
        assert line.startswith("  first failure: r9: a b [2Jxxx")
        assert len(line) < 600


class TestStatus:
    def test_a_run_in_progress(self) -> None:
        assert run_text.status(run_state().state(STARTED + 10), held=True) == (
            "label-reviews in runs/label-reviews: running\n"
            "  rows      502 of 2,000 (25 %): 500 ok, 2 failed\n"
            "  this run  502 requests sent, 0 retries, 0 rate-limited, 64 in flight\n"
            "            50,000 prompt + 10,000 completion tokens\n"
            f"  started   {local(STARTED)}\n"
            f"  updated   {local(STARTED + 10)}, 50.2 rows/s, 30 s left\n"
            "  failure   r0: HTTP 500: no"
        )

    def test_a_run_that_nobody_holds_was_killed(self) -> None:
        state = run_state(planned=None).state(STARTED)
        assert run_text.status(state, held=False).splitlines()[:2] == [
            "label-reviews in runs/label-reviews: killed: nothing received is lost; run the same command again to go on",
            "  rows      502: 500 ok, 2 failed",
        ]

    def test_a_stopped_run_says_why(self) -> None:
        made = run_state()
        made.stopped_by, made.message = "deadline", Message.of("the deadline has come")
        text = run_text.status(ended(made), held=False)
        assert ": stopped\n" in text
        assert text.endswith("  stopped   by deadline: the deadline has come")


class TestTable:
    def table(self, **columns: list[Any]) -> pa.Table:
        number = len(next(iter(columns.values())))
        data = {name: pa.nulls(number, kind) for name, kind in COLUMNS.items()}
        data["sample"] = pa.array([0] * number, pa.int32())
        for name, values in columns.items():
            data[name] = pa.array(values, COLUMNS.get(name))
        return pa.table(data)

    def shown(self, table: pa.Table, rows: int | None = None, width: int = 120) -> str:
        carried = [name for name in table.column_names if name not in COLUMNS]
        return results_text.table(table, table.num_rows if rows is None else rows, Origins([], carried, [], []), width)

    def head(self, table: pa.Table, rows: int | None = None) -> list[str]:
        text = self.shown(table, rows)
        return [cell.strip() for cell in text.splitlines()[1].strip("│").split("┆")]

    def test_it_shows_the_id_what_was_carried_and_the_answer(self) -> None:
        table = self.table(id=["a", "b"], status=["ok", "ok"], content=["good", "bad"], stars=[5, 1])
        assert self.head(table) == ["id", "content", "status", "stars"]
        text = self.shown(table)
        assert "good" in text and "bad" in text and "rows" not in text

    def test_samples_and_errors_are_shown_where_there_are_any(self) -> None:
        table = self.table(
            id=["a", "a"], sample=[0, 1], status=["ok", "failed"], content=["x", None], error_message=[None, "no"]
        )
        assert self.head(table) == ["id", "sample", "status", "content", "error_message"]

    def test_it_says_when_there_is_more(self) -> None:
        text = self.shown(self.table(id=["a"], status=["ok"], content=["x"]), 2_000_000)
        assert text.splitlines()[-1] == "1 of 2,000,000 rows; --rows N shows more, -o FILE writes all"

    def test_it_fits_a_terminal_and_has_no_control_characters(self) -> None:
        words = "first\nsecond \x1b[31m" + "word " * 200
        table = self.table(id=["a", "b"], status=["ok"] * 2, content=[words] * 2, carried=[words] * 2)
        for width in (30, 60, 100):
            text = self.shown(table, width=width)
            assert "\x1b" not in text
            assert max(map(len, text.splitlines()[:6])) <= width

    def test_no_rows(self) -> None:
        assert self.head(self.table(id=[])) == ["id", "status"]
