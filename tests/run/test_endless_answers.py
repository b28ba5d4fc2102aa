"""Servers whose answers have no end: each ends as a failed row, with words, and takes no memory beyond what it may."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.command_line import begun, called, table, write_rows


@contextmanager
def endless(head: bytes, piece: bytes, *, but_for_one_token: bool = True) -> Iterator[str]:
    """A server whose every answer goes on for ever, be it ``but_for_one_token``."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            said = connection.recv(65_536)
            if said.startswith(b"GET"):
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                return
            if but_for_one_token and b'"max_tokens":1,' in said:
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_SHORT), _SHORT)
                )
                return
            connection.sendall(head)
            while True:
                connection.sendall(piece)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listener.accept()[:1], daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


_SHORT = b'{"choices":[{"message":{"content":"ok"},"finish_reason":"stop"}],"usage":{"total_tokens":2}}'
_EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (10_000 * b"a")


@pytest.mark.parametrize(
    ("kind", "piece", "stream"),
    [
        ("application/json", 262_144 * b"x", "false"),
        ("text/event-stream", 20 * _EVENT, "true"),
        ("text/event-stream", 262_144 * b"x", "true"),
    ],
    ids=["body", "events", "line"],
)
def test_an_answer_without_an_end_fails_its_row(kind: str, piece: bytes, stream: str, tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 12), tmp_path / "out"
    settings = ("--set", "endpoint.max_answer_mb=8", "--set", f"endpoint.stream={stream}")
    with endless(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n\r\n" % kind.encode(), piece) as base_url:
        command = ["run", rows, "--base-url", base_url, "--model", "m", "--concurrency", 4, "--out", out, *settings]
        with begun(*command) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            err = "" if process.stderr is None else process.stderr.read()
    assert process.returncode == 1, err
    results = table(out)
    assert set(results["status"]) == {"failed"} and set(results["error_type"]) == {"answer_too_large"}
    assert set(results["error_message"]) == {"the answer has more than 8 MB (endpoint.max_answer_mb)"}
    assert results["attempts"].to_list() == [1] * 12
    assert used.ru_maxrss < 1 << 20, "1 GB, most of it libraries"


def test_where_the_smallest_request_has_no_end_either_the_run_stops(tmp_path: Path) -> None:
    rows, out = write_rows(tmp_path / "rows.jsonl", 12), tmp_path / "out"
    with endless(b"HTTP/1.1 200 OK\r\n\r\n", 262_144 * b"x", but_for_one_token=False) as base_url:
        more = ("--concurrency", 4, "--out", out, "--set", "endpoint.max_answer_mb=1", "--json")
        stopped = called("run", rows, "--base-url", base_url, "--model", "m", *more)
    assert (stopped.code, stopped.summary["stopped_by"], stopped.summary["failed"]) == (3, "failures", 0)
    assert "endpoint.max_answer_mb" in stopped.summary["message"]
