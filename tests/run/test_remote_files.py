"""Runs whose prompts put in files that another server has, against an endpoint that keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import batchflex
from batchflex.core import InputError, JobError
from batchflex.endpoint import file_fetcher
from batchflex.endpoint.http1 import Connections
from batchflex.engine import remote_files
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.file_server import FileServer, Reply
from tests.support.files import pdf, picture, sent_image

SAY = "Say what is in it: {{ file | file_text }}"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


class Case:
    """A table of URLs, and a job over it that may ask the servers of this machine."""

    def __init__(self, folder: Path, endpoint: CountingEndpoint, server: FileServer) -> None:
        endpoint.knobs(keep_bodies=True, answer="a thing")
        self.folder, self.endpoint, self.server = folder, endpoint, server
        self.out = folder / "out"

    def job(self, urls: list[str], prompt: str = SAY, **tables: dict[str, Any]) -> Path:
        rows = {"id": [str(number) for number in range(len(urls))], "file": urls}
        pl.DataFrame(rows).write_parquet(self.folder / "rows.parquet")
        data: dict[str, Any] = {
            "job": {"out": str(self.out)},
            "endpoint": {"base_url": self.endpoint.base_url},
            "input": {"path": "rows.parquet", "id": "id", "file_hosts": ["127.0.0.1"]},
            "prompt": {"user": prompt},
            "params": {"model": "m", "max_tokens": 20},
            "retry": {"attempts": 3, "base_s": 0.01},
            "limits": {"concurrency": 4},
        }
        for name, table in tables.items():
            data[name] = {key: value for key, value in (data.get(name, {}) | table).items() if value is not None}
        path = self.folder / "job.toml"
        path.write_text("\n".join(_toml(name, table) for name, table in data.items()))
        return path

    def run(self, paths: list[str], prompt: str = SAY, **tables: dict[str, Any]) -> batchflex.Run:
        return batchflex.run(self.job([self.server.url + path for path in paths], prompt, **tables))

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        table = pl.read_parquet(self.out / "results.parquet")
        return {row["id"]: row for row in table.iter_rows(named=True)}

    def asked(self) -> list[Any]:
        """The contents of the messages that were asked."""
        return [each["body"]["messages"][-1]["content"] for each in self.endpoint.log()]


def _toml(name: str, table: dict[str, Any]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())])


@pytest.fixture
def case(tmp_path: Path, endpoint: CountingEndpoint, server: FileServer, brisk: None) -> Case:
    return Case(tmp_path, endpoint, server)


def test_texts_documents_and_images_are_fetched_and_put_in(case: Case) -> None:
    case.server.files = {
        "/a.txt": b'It says "no".', "/a.pdf": pdf("Page one", "Page two"), "/a.jpg": picture(400, 200),
        "/b.txt": Reply("Zoë".encode("cp1252"), headers={"Content-Type": "text/plain; charset=windows-1252"}),
        "/old.txt": Reply(status=302, headers={"Location": "b.txt"}),
    }  # fmt: skip
    assert case.run(["/a.txt", "/b.txt", "/old.txt"], "{{ file | file_text }}").summary["ok"] == 3
    assert sorted(case.asked()) == ['It says "no".', "Zoë", "Zoë"]
    case.endpoint.reset()
    assert (
        case.run(["/a.pdf"], "{{ file | pdf_text(pages='2') }}", job={"out": str(case.folder / "pdf")}).summary["ok"]
        == 1
    )
    assert case.asked() == ["Page two"]
    case.endpoint.reset()
    assert (
        case.run(["/a.jpg"], "{{ file | image(max_side=64) }}", job={"out": str(case.folder / "image")}).summary["ok"]
        == 1
    )
    assert sent_image(case.asked()[0][0]["image_url"]["url"]).size == (64, 32)


def test_nothing_of_the_endpoint_goes_to_a_server_of_files(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "sk-very-secret-key-1")
    case.server.files = {
        "/a.txt": Reply(b"text", headers={"Set-Cookie": "who=me"}), "/b.txt": b"text",
        "/c.txt": Reply(status=307, headers={"Location": "/a.txt"}),
    }  # fmt: skip
    assert case.run(["/a.txt", "/b.txt", "/c.txt"], endpoint={"api_key_env": "MINE"}).summary["ok"] == 3
    for head in case.server.heads.values():
        assert sorted(head) == ["Accept", "Accept-Encoding", "Host", "User-Agent"]


def test_user_and_password_go_to_their_server_alone_and_are_shown_nowhere(case: Case) -> None:
    with FileServer() as other:
        case.server.files = {
            "/a.txt": b"text", "/b.txt": Reply(status=302, headers={"Location": f"{other.url}/b.txt"}),
            "/gone.txt?token=hidden-value": Reply(status=403),
        }  # fmt: skip
        other.files = {"/b.txt": b"text"}
        at = case.server.url.replace("//", "//jo:p%40ssword1@")
        path = case.job([f"{at}/a.txt", f"{at}/b.txt", f"{at}/gone.txt?token=hidden-value"], log={"file": "log"})
        ended = called("run", path)
        assert ended.code == 1
        assert case.server.heads["/a.txt"]["Authorization"] == "Basic am86cEBzc3dvcmQx"
        assert "Authorization" not in other.heads["/b.txt"]
    failed = case.results["2"]["error_message"]
    assert failed.startswith(f"'{case.server.url.replace('//', '//***@')}/gone.txt?token=***' cannot be fetched")
    shown = [ended.out + ended.err, called("plan", path).out, (case.folder / "log").read_text(), failed]
    shown += [called("results", case.out, "--row", "2").out]
    assert [text for text in shown if "ssword1" in text or "hidden-value" in text] == []


def test_a_file_that_many_rows_name_is_fetched_once(case: Case) -> None:
    case.server.files = {"/a.txt": b"text", "/b.txt": Reply(status=404)}
    ended = case.run(["/a.txt", "/b.txt"] * 3, sweep={"samples": 3})
    assert (ended.summary["ok"], ended.summary["failed"]) == (9, 9)
    assert case.server.asked == {"/a.txt": 1, "/b.txt": 1}


def test_what_is_kept_for_other_rows_is_bounded(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_files, "_KEPT_BYTES", 10)
    case.server.files = {"/a.txt": b"12345", "/b.txt": b"12345", "/c.txt": b"123456"}
    paths = ["/a.txt", "/b.txt", "/a.txt", "/b.txt", "/c.txt", "/c.txt"]
    assert case.run(paths, limits={"concurrency": 1}).summary["ok"] == 6
    assert case.server.asked == {"/a.txt": 1, "/b.txt": 1, "/c.txt": 2}


def test_what_passes_is_tried_again(case: Case) -> None:
    case.server.files = {
        "/a.txt": [Reply(status=503), Reply(status=429, headers={"Retry-After": "0"}), Reply(b"one")],
        "/b.txt": [Reply(b"two" * 9, hangs_up=5), Reply(b"two")],
        "/c.txt": [Reply(status=500), Reply(b"three")],
    }
    assert case.run(["/a.txt", "/b.txt", "/c.txt"]).summary["ok"] == 3
    assert case.server.asked == {"/a.txt": 3, "/b.txt": 2, "/c.txt": 2}
    assert {row["attempts"] for row in case.results.values()} == {1}


def test_what_lasts_fails_its_row_with_the_reason(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_fetcher, "MOST_BYTES", 1 << 20)
    case.server.files = {
        "/no": Reply(status=403), "/empty": b"", "/odd": Reply(status=418), "/large": b"x" * ((1 << 20) + 1),
        "/page": Reply(b"<html>", headers={"Content-Type": "text/html"}), "/broken": Reply(status=500),
        "/loop": Reply(status=302, headers={"Location": "/loop"}),
        "/file": Reply(status=302, headers={"Location": "file:///etc/passwd"}), "/fine": pdf("Fine"),
    }  # fmt: skip
    expected = {
        "/gone": "is not there (HTTP 404)", "/no": "cannot be fetched: its server refuses that (HTTP 403)",
        "/empty": "is empty", "/odd": "cannot be fetched: its server answers HTTP 418",
        "/large": "is larger than 1 MB", "/page": "is no PDF document; its server sent a web page (text/html)",
        "/broken": "cannot be fetched: its server answers HTTP 500, 3 times",
        "/loop": "is redirected more than 5 times",
        "/file": "is redirected to 'file:/etc/passwd', which is no address that a file can be fetched from",
    }  # fmt: skip
    ended = case.run([*expected, "/fine"], "{{ file | pdf_text }}")
    assert (ended.exit_code, ended.summary["failed"], ended.summary["ok"]) == (1, len(expected), 1)
    for number, (path, words) in enumerate(expected.items()):
        row = case.results[str(number)]
        assert row["error_message"].startswith(f"'{case.server.url}{path}' {words}"), row["error_message"]
        assert (row["error_type"], row["attempts"]) == ("file", 0)
    assert case.endpoint.stats()["requests"] == 1


def test_a_failed_row_is_asked_again_by_the_next_run_and_by_a_retry(case: Case) -> None:
    case.server.files = {"/a.txt": Reply(status=500), "/b.txt": Reply(status=404), "/c.txt": b"c"}
    paths = ["/a.txt", "/b.txt", "/c.txt"]
    assert case.run(paths).summary["failed"] == 2
    case.server.files["/a.txt"] = b"a"
    assert case.run(paths).summary["failed"] == 1
    case.server.files["/b.txt"] = b"b"
    assert called("retry", case.out, "--where", "status = 'failed'").code == 0
    assert {row["status"] for row in case.results.values()} == {"ok"}
    assert case.endpoint.stats()["requests"] == 3
    assert case.server.asked["/c.txt"] == 1


def test_a_server_that_is_down_is_waited_for_and_no_row_fails(case: Case) -> None:
    paths = [f"/{number}.txt" for number in range(20)]
    case.server.files = dict.fromkeys(paths, b"text")
    case.server.refuses = 12
    urls = [case.server.url + path for path in paths]
    ended = called("run", case.job(urls, retry={"attempts": 6}, limits={"concurrency": 8}), "--json")
    assert ended.code == 0 and ended.summary["ok"] == 20
    words = "gives none of its files (cannot be fetched: its server answers HTTP 503): rows that want one wait until it does"
    assert f"127.0.0.1 {words}" in ended.err and "127.0.0.1 gives files again" in ended.err


def test_a_server_that_never_answers_fails_its_rows_if_others_do(case: Case) -> None:
    paths = [f"/{number}.txt" for number in range(12)]
    case.server.files = dict.fromkeys(paths, b"text")
    case.server.refuses = 1_000
    with FileServer() as other:
        other.files = {"/x.txt": b"text"}
        urls = [f"{other.url}/x.txt", *(case.server.url + path for path in paths)]
        path = case.job(urls)
        ended = called("run", path, "--json")
        assert ended.code == 1 and (ended.summary["ok"], ended.summary["failed"]) == (1, 12)
        assert case.server.asked.total() < 60
        case.server.refuses = 0
        assert called("run", path, "--json").summary["ok"] == 13
    assert case.endpoint.stats()["requests"] == 13


def test_a_server_that_redirects_to_one_that_is_down_is_not_down(case: Case) -> None:
    with FileServer() as gone:
        pass
    case.server.files = {
        f"/{n}": Reply(status=302, headers={"Location": f"{gone.url}/{n}"}) if n < 8 else b"text" for n in range(12)
    }
    ended = called("run", case.job([case.server.url + path for path in case.server.files]), "--json")
    assert ended.code == 1 and (ended.summary["ok"], ended.summary["failed"]) == (4, 8)
    assert "gives none of its files" not in ended.err


def test_without_any_server_that_answers_the_run_stops_and_goes_on_later(case: Case) -> None:
    with FileServer() as gone:
        pass
    paths = [f"/{number}.txt" for number in range(12)]
    path = case.job([gone.url + path for path in paths])
    ended = called("run", path, "--json")
    assert ended.code == 3 and ended.summary["stopped_by"] == "files"
    assert "12 for 127.0.0.1 (cannot be fetched: cannot connect to 127.0.0.1:" in ended.summary["message"]
    assert "a file could not be had of 127.0.0.1, and is tried again: it cannot be fetched: cannot connect" in ended.err
    assert ended.summary["failed"] == 0
    with FileServer(gone.port) as back:
        back.files = dict.fromkeys(paths, b"text")
        assert called("run", path).code == 0
    assert {row["status"] for row in case.results.values()} == {"ok"}


def test_a_server_that_has_answered_is_waited_for_while_rows_with_other_files_go_on(case: Case) -> None:
    with FileServer() as other:
        other.files = dict.fromkeys((f"/{n}.txt" for n in range(9)), b"text")
        case.server.files = {"/first.txt": b"text", **{f"/{n}.txt": Reply(status=503) for n in range(9)}}
        urls = [case.server.url + path for path in case.server.files] + [other.url + path for path in other.files]
        ended = called("run", case.job(urls, limits={"concurrency": 1, "max_outage": "1s"}), "--json")
    assert ended.code == 3 and ended.summary["stopped_by"] == "files"
    assert (ended.summary["ok"], ended.summary["failed"]) == (10, 0)
    assert ended.summary["message"].startswith("rows are left unanswered, and did not fail")


def test_the_key_has_the_address_and_plan_fetches_nothing(case: Case) -> None:
    case.server.files = {"/a.txt": b"one", "/b.txt": b"two"}
    urls = [case.server.url + path for path in ("/a.txt", "/b.txt")]
    planned = called("plan", case.job(urls))
    assert planned.code == 0 and not case.server.asked
    assert f"<file_text {urls[0]}, fetched when this is sent>" in planned.out
    assert called("run", case.job(urls)).code == 0
    keys = {name: row["key"] for name, row in case.results.items()}
    case.server.files["/a.txt"] = b"what is in it now"
    assert called("run", case.job(urls)).code == 0
    # Who may be asked is no part of what is asked.
    assert called("run", case.job(urls, input={"file_hosts": ["localhost"]})).code == 0
    assert {name: row["key"] for name, row in case.results.items()} == keys
    assert case.server.asked == {"/a.txt": 1, "/b.txt": 1}
    changed = called("run", case.job([urls[0], urls[1] + "?v=2"]))
    assert changed.code == 2 and "1 of 2 requests would now be sent differently" in changed.err


def test_private_addresses_are_asked_only_if_the_job_names_them(case: Case) -> None:
    case.server.files = {"/a.txt": b"text"}
    port = case.server.port
    with pytest.raises(InputError, match=rf"'http://127.0.0.1:{port}/a.txt' is at 127.0.0.1: no public address"):
        case.run(["/a.txt"], input={"file_hosts": None})
    with pytest.raises(InputError, match=r"which is none of the hosts that input.file_hosts names"):
        case.run(["/a.txt"], input={"file_hosts": ["files.example.com"]})
    assert not case.server.asked
    with pytest.raises(JobError, match=r"input.file_hosts: 'http://x/' is no host"):
        case.run(["/a.txt"], input={"file_hosts": ["http://x/"]})
    assert case.run(["/a.txt"], input={"file_hosts": ["*", f"127.0.0.1:{port}"]}).summary["ok"] == 1


def test_what_counts_is_the_address_that_is_connected_to(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that lead to this machine, by DNS or as odd numbers, and redirects to it."""
    look_up = Connections._look_up

    async def lying(self: Connections, loop: Any, host: str, port: int) -> Any:  # as a DNS server of somebody else does
        return await look_up(self, loop, "127.0.0.1" if host in ("evil.example", "fine.example") else host, port)

    monkeypatch.setattr(Connections, "_look_up", lying)
    port = case.server.port
    case.server.files = {
        "/a.txt": b"text", "/to": Reply(status=302, headers={"Location": f"http://evil.example:{port}/a.txt"}),
        "/meta": Reply(status=302, headers={"Location": "http://169.254.169.254/latest/meta-data/"}),
    }  # fmt: skip
    urls = [f"http://{host}:{port}/a.txt" for host in ("evil.example", "2130706433", "0x7f.1", "fine.example")]
    urls += [f"http://fine.example:{port}/to", f"http://fine.example:{port}/meta"]
    ended = batchflex.run(case.job(urls, input={"file_hosts": ["*", "fine.example"]}))
    assert ended.stopped_by is None, ended.summary["message"]
    words = {name: row["error_message"] for name, row in case.results.items()}
    for name in ("0", "1", "2"):
        assert "whose address is 127.0.0.1: no public address" in words[name]
    assert words["3"] is None
    assert "is at evil.example, whose address is 127.0.0.1" in words["4"]
    assert "is redirected to 'http://169.254.169.254/latest/meta-data/', which is at 169.254.169.254" in words["5"]
    assert case.server.asked == {"/a.txt": 1, "/to": 1, "/meta": 1}


def test_a_run_that_is_stopped_fetches_nothing_more(case: Case) -> None:
    case.server.files = {f"/{n}.txt": b"text" for n in range(12)}
    ended = case.run([*case.server.files], limits={"concurrency": 1, "budget_requests": 2})
    assert ended.stopped_by == "budget" and ended.summary["ok"] == 2
    assert sum(case.server.asked.values()) <= 4


def test_the_end_of_a_run_does_not_wait_for_a_file(case: Case) -> None:
    case.server.files = {"/hangs.txt": Reply(hangs=True), "/a.txt": b"text", "/b.txt": b"text"}
    ended = case.run([*case.server.files], limits={"concurrency": 2, "budget_requests": 1})
    assert ended.stopped_by == "budget" and (ended.summary["ok"], ended.summary["failed"]) == (1, 0)


def test_a_proxy_of_the_environment_is_used(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.server.files = {"http://files.example/a.txt": b"text", "http://10.0.0.1/a.txt": b"text"}
    monkeypatch.setenv("http_proxy", case.server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    urls = ["http://files.example/a.txt", "http://10.0.0.1/a.txt"]
    batchflex.run(case.job(urls, input={"file_hosts": None}))
    assert case.results["0"]["status"] == "ok"
    assert "is at 10.0.0.1: no public address" in case.results["1"]["error_message"]
    assert case.server.asked == {"http://files.example/a.txt": 1}
