"""Inputs in buckets of a real S3 server and on the web: read as files of this machine are, and found to be as they were."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.config import StorageSection
from batchflex.core import InputError
from batchflex.plan.source import Source
from batchflex.storage import RemoteFile, object_store, web_files
from tests.support.command_line import batchflex as in_a_process, called, table
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.object_server import Bucket, Unreliable, as_machine, machine
from tests.support.web_server import WebServer, relay, web_server

SIGNED = "X-Amz-Credential=AKIAEXAMPLE00&X-Amz-Signature=5ec2e7ba5eba11c0ffee0123456789abcdef"
SIGNATURE = "5ec2e7ba5eba11c0ffee"


@pytest.fixture(autouse=True)
def _here(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(object_store, "_RETRIED_S", 1)
    monkeypatch.setattr(web_files, "_FIRST_WAIT_S", 0.01)
    with as_machine(tmp_path / "home", bucket.server.url):
        yield


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


def lines(rows: range) -> bytes:
    said = ({"id": f"r{n}", "messages": [{"role": "user", "content": f"row {n}"}]} for n in rows)
    return b"".join(json.dumps(each).encode() + b"\n" for each in said)


def packed(frame: pl.DataFrame, how: str) -> bytes:
    stream = io.BytesIO()
    getattr(frame, how)(stream)
    return stream.getvalue()


def put(bucket: Bucket, **objects: bytes) -> None:
    for key, data in objects.items():
        bucket.server.client().put_object(Bucket=bucket.name, Key=key, Body=data)


def place(bucket: Bucket, key: str, data: bytes) -> None:
    put(bucket, **{key: data})


def run(spec: object, endpoint: CountingEndpoint, out: Path, *more: object, verb: str = "run") -> Any:
    return called(verb, spec, "--base-url", endpoint.base_url, "--model", "m", "--out", out, *more)


TABLE = pl.DataFrame({"id": [f"r{n}" for n in range(20)], "text": [f"text {n}" for n in range(20)]})
PROMPT = ("--prompt", "{{ text }}")
FORMATS: dict[str, bytes] = {
    "rows.jsonl": lines(range(20)),
    "rows.jsonl.gz": gzip.compress(lines(range(20))),
    "rows.jsonl.zst": bytes(pa.compress(lines(range(20)), codec="zstd", asbytes=True)),
    "list.json": b"[" + b",".join(lines(range(20)).splitlines()) + b"]",
    "t.csv": TABLE.write_csv().encode(),
    "t.csv.gz": gzip.compress(TABLE.write_csv(separator=";").encode()),
    "t.parquet": packed(TABLE, "write_parquet"),
    "t.arrow": packed(TABLE, "write_ipc"),
    "t.arrows": packed(TABLE, "write_ipc_stream"),
    "t.xlsx": packed(TABLE, "write_excel"),
}


@pytest.mark.parametrize("where", ["bucket", "web", "web without ranges"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format(
    bucket: Bucket, web: WebServer, endpoint: CountingEndpoint, tmp_path: Path, where: str, name: str
) -> None:
    place(bucket, f"data/{name}", FORMATS[name])
    web.files[f"/data/{name}"] = FORMATS[name]
    web.whole = where == "web without ranges"
    url = f"s3://{bucket.name}/data/{name}" if where == "bucket" else f"{web.url}/data/{name}"
    ended = run(url, endpoint, tmp_path / "out", *(PROMPT if name.startswith("t.") else ()))
    assert ended.code == 0, ended
    found = table(tmp_path / "out")
    assert found["id"].to_list() == [f"r{n}" for n in range(20)]
    assert found["content"].str.contains("text 3" if name.startswith("t.") else "row 3").sum() == 1
    ended = run(url, endpoint, tmp_path / "out", *(PROMPT if name.startswith("t.") else ()))
    assert ended.code == 0 and endpoint.stats()["requests"] == 20, "nothing is asked twice"


def test_answers_have_the_keys_that_they_have_from_a_local_file(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    for name in ("rows.jsonl", "t.parquet", "t.csv"):
        more = PROMPT if name.startswith("t.") else ()
        (tmp_path / name).write_bytes(FORMATS[name])
        place(bucket, name, FORMATS[name])
        assert run(tmp_path / name, endpoint, tmp_path / "out" / name, *more).code == 0
        before = endpoint.stats()["requests"]
        assert run(f"s3://{bucket.name}/{name}", endpoint, tmp_path / "out" / name, *more).code == 0
        assert endpoint.stats()["requests"] == before


# --------------------------------------------------------------------------------------------- folders and patterns


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("data/", "a b c/d c/e.jsonl x"),
        ("data", "a b c/d c/e.jsonl x"),
        ("data/*.jsonl", "a b x"),
        ("data/[ab].jsonl", "a b"),
        ("data/**/[a-e].jsonl", "a b c/d c/e.jsonl"),
        ("data/c/*", "d e.jsonl"),
        ("data/.h*.jsonl", ".hidden"),
        ("*/c/d.jsonl", "c/d"),
        ("data/b.jsonl", "b"),
        ("odd [1].jsonl", "odd"),
        ("", "a b c/d c/e.jsonl x odd"),
    ],
)
def test_which_objects_are_input(bucket: Bucket, path: str, names: str) -> None:
    """By name, without what is hidden and without outputs; the rules are those of folders."""
    for key in (
        "data/a.jsonl", "data/b.jsonl", "data/c/d.jsonl", "data/c/e.jsonl", "data/.hidden.jsonl", "data/.git/f.jsonl",
        "data/readme.md", "data/out/run.json", "data/out/parts/000001.parquet", "data/out/x.jsonl", "data/x.jsonl",
        "data-2/z.md", "odd [1].jsonl",
    ):  # fmt: skip
        place(bucket, key, b'{"id": 1}\n')
    found = [str(file).partition(bucket.name + "/")[2] for file, _ in Source(f"s3://{bucket.name}/{path}").files]
    wanted = {name: f"data/{name}.jsonl" for name in ("a", "b", "x", "c/d", ".hidden")}
    wanted |= {
        "odd": "odd [1].jsonl",
        "d": "data/c/d.jsonl",
        "e.jsonl": "data/c/e.jsonl",
        "c/e.jsonl": "data/c/e.jsonl",
    }
    assert found == [wanted[name] for name in names.split()]


def test_local_remote_and_web_files_in_one_list(
    bucket: Bucket, web: WebServer, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    place(bucket, "b/1.jsonl", lines(range(5, 10)))
    place(bucket, "b/2.jsonl.gz", gzip.compress(lines(range(10, 15))))
    web.files["/w.jsonl"] = lines(range(15, 20))
    (tmp_path / "here.jsonl").write_bytes(lines(range(5)))
    job = tmp_path / "job.toml"
    job.write_text(
        f'[input]\npath = ["here.jsonl", "s3://{bucket.name}/b/", "{web.url}/w.jsonl", "s3://{bucket.name}/b/1.jsonl"]\n'
    )
    assert run(job, endpoint, tmp_path / "out").code == 0
    assert table(tmp_path / "out")["id"].to_list() == [f"r{n}" for n in range(20)], "each once"


def test_a_data_set_that_was_saved_in_a_bucket(bucket: Bucket) -> None:
    data = FORMATS["t.arrows"]
    state = json.dumps({"_data_files": [{"filename": "data-0.arrow"}]}).encode()
    for key, content in (
        ("ds/state.json", state), ("ds/dataset_info.json", b"{}"), ("ds/data-0.arrow", data), ("ds/cache-1.arrow", data)
    ):  # fmt: skip
        place(bucket, key, content)
    source = Source(f"s3://{bucket.name}/ds/")
    assert [file.name for file, _ in source.files] == ["data-0.arrow"]
    place(bucket, "ds/dataset_dict.json", b"{}")
    with pytest.raises(InputError, match=r"data set of several splits"):
        Source(f"s3://{bucket.name}/ds/")


# ----------------------------------------------------------------------------------------------- what has been read


def test_an_unchanged_object_is_known_without_reading_it(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    place(bucket, "rows.jsonl", lines(range(2000)))
    job = {
        "job": {"out": str(tmp_path / "out")}, "input": {"path": f"s3://{bucket.name}/rows.jsonl"},
        "endpoint": {"base_url": endpoint.base_url}, "params": {"model": "m"},
    }  # fmt: skip
    batchflex.run(job)
    with Unreliable(bucket.server) as proxy:
        batchflex.run(job | {"storage": {"endpoint": proxy.url}})
        assert {method for method, _ in proxy.seen} == {"HEAD"}
    assert endpoint.stats()["requests"] == 2000


def test_an_object_that_has_grown_a_beginning_that_was_changed_and_one_that_was_written_again(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    url = f"s3://{bucket.name}/rows.jsonl"
    place(bucket, "rows.jsonl", lines(range(10)))
    assert run(url, endpoint, tmp_path / "out").code == 0
    place(bucket, "rows.jsonl", lines(range(15)))
    assert run(url, endpoint, tmp_path / "out").code == 0
    assert endpoint.stats()["requests"] == 15
    place(bucket, "rows.jsonl", lines(range(15)))
    assert run(url, endpoint, tmp_path / "out").code == 0
    assert endpoint.stats()["requests"] == 15
    place(bucket, "rows.jsonl", lines(range(3, 18)))
    ended = run(url, endpoint, tmp_path / "out", "--on-change", "rerun")
    assert ended.code == 0 and "rows.jsonl has changed since it was read" in ended.err
    assert endpoint.stats()["requests"] == 18 and len(table(tmp_path / "out")) == 15


def test_a_run_that_was_interrupted_goes_on(bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    place(bucket, "rows.jsonl", lines(range(30)))
    url = f"s3://{bucket.name}/rows.jsonl"
    assert run(url, endpoint, tmp_path / "out", "--set", "limits.budget_requests=12").code == 3
    assert run(url, endpoint, tmp_path / "out").code == 0
    assert endpoint.stats()["requests"] == 30 and len(table(tmp_path / "out")) == 30


def test_an_object_that_is_replaced_between_looking_and_reading(bucket: Bucket) -> None:
    place(bucket, "rows.jsonl", lines(range(50_000)))
    source = Source(f"s3://{bucket.name}/rows.jsonl")
    blocks = source.blocks(1_000)
    assert len(next(blocks).rows) == 1_000
    place(bucket, "rows.jsonl", lines(range(50_001)))
    with pytest.raises(
        InputError, match=r"rows.jsonl cannot be read on after row \d+: it has changed while it was read; run"
    ):
        list(blocks)


# --------------------------------------------------------------------------------------------------- how it is read


def test_of_parquet_only_what_is_needed_is_fetched(bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """The footer; of the row groups that have rows to be asked the columns that the prompt, the id and input.carry name."""
    rows, groups = 2_000, 10
    frame = pa.table({
        "id": [f"r{n}" for n in range(rows)], "text": [f"text {n}" for n in range(rows)], "stars": list(range(rows)),
        "blob": [os.urandom(2_000) for _ in range(rows)],
    })  # fmt: skip
    stream = io.BytesIO()
    pq.write_table(frame, stream, row_group_size=rows // groups, compression="none")
    place(bucket, "t.parquet", stream.getvalue())
    total = len(stream.getvalue())
    job = tmp_path / "job.toml"
    job.write_text(
        f'[input]\npath = "s3://{bucket.name}/t.parquet"\ncarry = ["stars"]\n[prompt]\nuser = "{{{{ text }}}}"\n'
    )
    with relay(bucket.server.port) as counter:
        through = ("--set", f"storage.endpoint={counter.url}")
        ended = run(job, endpoint, tmp_path / "out", "--limit", 400, *through)
        assert ended.code == 0, ended
        assert counter.bytes < 150_000 < 0.1 * total, "two row groups of ten, and of these three columns of four"
        assert run(job, endpoint, tmp_path / "out", *through).code == 0
        assert counter.bytes < 0.1 * total, "and all of these columns"
        place(bucket, "t.parquet", stream.getvalue())
        before = counter.bytes
        ended = run(job, endpoint, tmp_path / "out", *through)
        assert ended.code == 0 and "has changed" not in ended.err, "written again, it has the same tag"
        assert counter.bytes - before < 150_000 and endpoint.stats()["requests"] == rows
    assert table(tmp_path / "out")["stars"].to_list() == list(range(rows))
    with relay(bucket.server.port) as counter:
        assert run(f"s3://{bucket.name}/t.parquet", endpoint, tmp_path / "2", "--prompt", "{{ text }}", "--limit", 1,
                   "--set", f"storage.endpoint={counter.url}").code == 0  # fmt: skip
        assert counter.bytes < 1.5 * total, "all columns are carried then"
    whole = [row for block in Source(f"s3://{bucket.name}/t.parquet").blocks() for row in block.rows]
    assert whole == frame.to_pylist()


def test_rows_without_an_id_are_known_by_all_of_their_columns(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    """So that columns are left out only where the file tells that all of its rows have ids: keys do not depend on it."""
    frame = pl.DataFrame({"id": ["a", None, "", "d"], "text": ["same"] * 4, "more": [1, 2, 3, 4]})
    (tmp_path / "t.parquet").write_bytes(packed(frame, "write_parquet"))
    (tmp_path / "t.jsonl").write_bytes(packed(frame, "write_ndjson"))
    place(bucket, "t.parquet", packed(frame, "write_parquet"))
    found = []
    for at in (tmp_path / "t.parquet", tmp_path / "t.jsonl", f"s3://{bucket.name}/t.parquet"):
        job = tmp_path / "job.toml"
        job.write_text(f'[input]\npath = "{at}"\n[prompt]\nuser = "{{{{ text }}}}"\n')
        assert run(job, endpoint, tmp_path / f"out{len(found)}").code == 0
        found.append(table(tmp_path / f"out{len(found)}").select("id", "key").rows())
    assert found[0] == found[1] == found[2]


def test_memory_does_not_grow_with_the_file(bucket: Bucket) -> None:
    line = lines(range(1)).rstrip() + b" " * 2_000 + b"\n"
    place(bucket, "large.jsonl", line * 40_000)
    tracemalloc.start()
    try:
        assert sum(len(block.rows) for block in Source(f"s3://{bucket.name}/large.jsonl").blocks()) == 40_000
        assert tracemalloc.get_traced_memory()[1] < 40e6, "of 82 MB"
    finally:
        tracemalloc.stop()


def test_a_beginning_costs_little(bucket: Bucket) -> None:
    place(bucket, "t.csv", b"id,text\n" + b"1,abcdefgh\n" * 1_000_000)
    with relay(bucket.server.port) as counter:
        source = Source(f"s3://{bucket.name}/t.csv", storage=StorageSection(endpoint=counter.url))
        assert source.columns() == ["id", "text"] and counter.bytes < 2e6


# ------------------------------------------------------------------------------------------------------------- the web


def test_without_ranges_a_file_is_fetched_once(web: WebServer, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    web.files["/t.csv"] = TABLE.write_csv().encode()
    for web.whole, web.has_length, web.has_tags in ((True, True, True), (True, False, True), (True, False, False)):
        out = tmp_path / f"{web.has_length}{web.has_tags}"
        for _ in range(2):
            web.sent = 0
            assert run(f"{web.url}/t.csv", endpoint, out, *PROMPT).code == 0
            assert len(table(out)) == 20
    assert endpoint.stats()["requests"] == 60


def test_a_file_that_is_too_large_to_be_fetched_whole(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_files, "LARGEST_COPY", 1_000)
    web.whole = True
    web.files["/t.jsonl"] = lines(range(100))
    for web.has_length in (True, False):
        with pytest.raises(
            InputError, match=r"sends no parts of it, and at 0.0 GB it is too large.*copy it to this machine"
        ):
            Source(f"{web.url}/t.jsonl")


def test_addresses_that_redirect_fail_for_a_moment_or_break_off(web: WebServer) -> None:
    web.files["/t.jsonl"] = lines(range(100))
    web.redirects["/moved"] = f"{web.url}/t.jsonl"
    web.redirects["/moved.jsonl"] = "/t.jsonl"
    web.status = [503, 429, 500]
    web.cuts = [100]
    source = Source(f"{web.url}/moved.jsonl")
    assert sum(len(block.rows) for block in source.blocks()) == 100
    web.files["/empty.jsonl"] = b""
    assert list(Source(f"{web.url}/empty.jsonl").blocks()) == []


def test_redirects_that_are_not_followed(web: WebServer) -> None:
    web.redirects |= {
        "/round.jsonl": "/round.jsonl",
        "/file.jsonl": "ftp://127.0.0.1/x",
        "/list.jsonl": "file:///etc/passwd",
    }
    with pytest.raises(InputError, match=r"round.jsonl cannot be read: its server redirects without end"):
        Source(f"{web.url}/round.jsonl")
    for name, scheme in (("file", "ftp"), ("list", "file")):
        with pytest.raises(InputError, match=rf"redirects to an address of {scheme}://, which is not followed"):
            Source(f"{web.url}/{name}.jsonl")


def test_user_and_password_go_to_their_own_host_alone(web: WebServer) -> None:
    web.files["/t.jsonl"] = lines(range(1))
    with web_server() as other:
        other.redirects["/t.jsonl"] = f"{web.url}/t.jsonl"
        at = other.url.replace("://", "://ada:open-sesame-77@")
        source = Source(f"{at}/t.jsonl")
        assert len(next(source.blocks()).rows) == 1
        assert "sesame" not in str(source.files[0][0])
        assert all(heads.get("Authorization", "").startswith("Basic ") for heads in other.heads)
        assert not any("Authorization" in heads for heads in web.heads)


def test_no_log_has_what_signs_an_address(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    web.files["/t.jsonl"] = lines(range(1))
    caplog.set_level(0)
    assert len(next(Source(f"{web.url}/t.jsonl?{SIGNED}").blocks()).rows) == 1
    assert SIGNATURE not in caplog.text


def test_a_web_file_that_changes_is_noticed(web: WebServer, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    for web.has_tags in (True, False):
        out = tmp_path / f"{web.has_tags}"
        web.files["/t.jsonl"] = lines(range(10))
        assert run(f"{web.url}/t.jsonl", endpoint, out).code == 0
        web.files["/t.jsonl"] = lines(range(12))
        assert run(f"{web.url}/t.jsonl", endpoint, out).code == 0
        assert len(table(out)) == 12
    assert endpoint.stats()["requests"] == 24


@pytest.mark.parametrize("how", ["command line", "variable", "job file"])
def test_what_signs_an_address_is_shown_and_written_nowhere(
    web: WebServer, endpoint: CountingEndpoint, tmp_path: Path, how: str
) -> None:
    web.files["/t.jsonl"] = lines(range(5))
    url, out, said = f"{web.url}/t.jsonl?{SIGNED}", tmp_path / "out", ""
    spec: object = url
    if how != "command line":
        spec = tmp_path / "job.toml"
        written = "${SIGNED_URL}" if how == "variable" else url
        (tmp_path / "job.toml").write_text(f'[input]\npath = "{written}"\n')
        os.environ["SIGNED_URL"] = url
    for verb in ("plan", "run", "run"):
        ended = run(spec, endpoint, out, verb=verb)
        assert ended.code == 0, ended
        said += ended.out + ended.err
    url2 = url.replace("5ec2e7ba", "00000000")  # signed anew
    if how == "command line":
        assert run(url2, endpoint, out).code == 0
    assert endpoint.stats()["requests"] == 5
    assert any(SIGNATURE in path for path, _ in web.asked)
    web.files.clear()
    for web.status in ([404] * 3, [403] * 3, [401] * 3):
        ended = run(spec, endpoint, tmp_path / "new")
        assert ended.code == 2 and "t.jsonl" in ended.err
        said += ended.out + ended.err
    assert "signs the address may have expired" in said
    left = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for text in (said.encode(), left):
        assert SIGNATURE.encode() not in text and b"AKIAEXAMPLE" not in text
    assert f'path = "{web.url}/t.jsonl"' in (out / "job.toml").read_text()


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_faults_are_sentences_and_nothing_is_asked(
    bucket: Bucket, web: WebServer, endpoint: CountingEndpoint, tmp_path: Path, verb: str
) -> None:
    place(bucket, "data/rows.jsonl", lines(range(3)))
    web.files["/there.jsonl"] = b"x"
    name, more = bucket.name, ("--set", "storage.endpoint=http://127.0.0.1:9")
    for spec, words, options in (
        (f"s3://{name}-none/rows.jsonl", f"cannot be read: there is no bucket {name}-none; see whether", ()),
        (f"s3://{name}/data/row.jsonl", f"there is no input s3://{name}/data/row.jsonl.*did you mean s3://{name}/data/rows", ()),
        (f"s3://{name}/other/", f"there is no input s3://{name}/other/.*{name}/ has data/", ()),
        (f"s3://{name}/data/*.csv", f"no object matches the input path .*; s3://{name}/data/ has rows.jsonl", PROMPT),
        (f"s3://{name}/data/rows.jsonl", "cannot be read: the store cannot be reached; see whether storage.endpoint", more),
        (f"s3://{name}/data/rows.jsonl", "no option 'colour'|refuses", ("--set", "storage.options={colour='red'}")),
        (f"{web.url}/none.jsonl", r"cannot be read: there is no such file \(status 404\); see whether the address", ()),
        ("http://127.0.0.1:9/x.jsonl", r"its server cannot be reached \(ConnectError\); see whether the address", ()),
        ("ftp://127.0.0.1/x.jsonl", r"ftp:// is not read; copy it here", ()),
        ("s3:///x.jsonl", "names no bucket", ()),
        (f"{web.url}/job.toml", "a job file is read from this machine", ()),
        (f"s3://{name}/data/t.csv", "is a table, and needs a prompt", ()),
    ):  # fmt: skip
        ended = run(spec, endpoint, tmp_path / "out", *options, verb=verb)
        assert ended.code == 2, (spec, ended)
        assert re.search(words, ended.err.replace("\n", " ")), (words, ended.err)
        assert "Traceback" not in ended.err and "testing-secret" not in ended.err
    assert endpoint.stats()["requests"] == 0


def test_access_that_is_denied_and_a_store_that_fails(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(bucket, "rows.jsonl", lines(range(3)))
    url, count = f"s3://{bucket.name}/rows.jsonl", itertools.count(1)
    with Unreliable(bucket.server) as proxy:
        through = ("--set", f"storage.endpoint={proxy.url}")
        said = {403: "cannot be read: access is denied", 500: "the store answers with status 500", 401: "credentials"}
        for status, words in said.items():
            proxy.fault = lambda method, path, status=status: status
            ended = run(url, endpoint, tmp_path / "out", *through)
            assert ended.code == 2 and words in ended.err, ended
        monkeypatch.setattr(object_store, "_RETRIED_S", 30)
        proxy.fault = lambda method, path: 503 if next(count) % 3 else None
        assert run(url, endpoint, tmp_path / "out", *through).code == 0


def test_without_credentials_and_without_the_package(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(bucket, "rows.jsonl", lines(range(3)))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = run(f"s3://{bucket.name}/rows.jsonl", endpoint, tmp_path / "out")
    assert ended.code == 2 and "no credentials were found; set AWS_ACCESS_KEY_ID" in ended.err, ended
    (tmp_path / "obstore").mkdir()
    (tmp_path / "obstore" / "__init__.py").write_text("raise ImportError\n")
    env = machine(tmp_path, bucket.server.url) | {"PYTHONPATH": str(tmp_path)}
    ended = in_a_process(
        "plan", f"s3://{bucket.name}/rows.jsonl", "--base-url", endpoint.base_url, "--model", "m", env=env
    )
    assert ended.code == 2 and "pip install 'batchflex[cloud]'" in ended.err and "Traceback" not in ended.err


# --------------------------------------------------------------------------------------------------------- other verbs


def test_every_verb_that_reads_an_input(
    bucket: Bucket, web: WebServer, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    place(bucket, "t.csv", TABLE.write_csv().encode())
    url = f"s3://{bucket.name}/t.csv"
    job = tmp_path / "job.toml"
    job.write_text(
        f'[input]\npath = "{url}"\n[prompt]\nuser = "{{{{ text }}}}"\n[params]\nmodel = "m"\n'
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n'
    )
    ended = called("plan", job, "--out", tmp_path / "out")
    assert ended.code == 0 and "20" in ended.out + ended.err
    assert called("check", job).code == 0
    ended = called("doctor", job)
    assert "cloud" in ended.out
    ended = called(
        "init",
        url,
        "--prompt",
        "{{ text }}",
        "--model",
        "m",
        "--base-url",
        endpoint.base_url,
        "-o",
        tmp_path / "new.toml",
    )
    assert ended.code == 0 and f'path = "{url}"' in (tmp_path / "new.toml").read_text(), ended
    assert called("run", tmp_path / "new.toml", "--out", tmp_path / "out", "--limit", "5").code == 0
    ended = called("results", tmp_path / "out")
    assert ended.code == 0
    assert called("retry", tmp_path / "out", "--where", "id = 'r1'").code == 0
    tables = {"input": {"path": url}, "prompt": {"user": "{{ text }}"}, "endpoint": {"base_url": endpoint.base_url}}
    made = {"job": {"out": str(tmp_path / "2")}, "params": {"model": "m"}, **tables}
    assert batchflex.run(made).exit_code == 0


def test_several_processes_read_an_object_as_one_does(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    place(bucket, "rows.jsonl", lines(range(300)))
    for _ in range(2):
        ended = in_a_process(
            "run", f"s3://{bucket.name}/rows.jsonl", "--base-url", endpoint.base_url, "--model", "m", "--out",
            tmp_path / "out", "--processes", 2, env=machine(tmp_path, bucket.server.url),
        )  # fmt: skip
        assert ended.code == 0, ended
    assert len(table(tmp_path / "out")) == 300 == endpoint.stats()["requests"]


def test_results_are_shown_while_the_store_cannot_be_reached(
    bucket: Bucket, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    place(bucket, "t.csv", TABLE.write_csv().encode())
    assert run(f"s3://{bucket.name}/t.csv", endpoint, tmp_path / "out", *PROMPT).code == 0
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    for row in ((), ("--row", "r3")):
        ended = called("results", tmp_path / "out", *row)
        assert ended.code == 0 and "text 3" in ended.out and "Traceback" not in ended.err, ended


def test_a_remote_file_is_the_same_whatever_signs_it(web: WebServer) -> None:
    one, two = (web_files.WebFile(f"{web.url}/a%20b.jsonl.gz?{query}") for query in (SIGNED, "X-Amz-Signature=other"))
    assert one == two and hash(one) == hash(two) and isinstance(one, RemoteFile)
    assert (one.name, one.suffix, one.stem) == ("a b.jsonl.gz", ".gz", "a b.jsonl")
    assert SIGNATURE not in f"{one} {one!r}" and one.absolute() is one
    assert str(web_files.WebFile(f"{web.url}/x?format=csv&id=7")).endswith("/x?format=csv&id=7")
