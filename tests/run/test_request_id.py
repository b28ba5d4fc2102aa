"""The id that a server gives a request: found in headers, kept with answers and with failures of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from batchflex.core.errors import AttemptError
from batchflex.endpoint import http1
from batchflex.endpoint.client import Client
from batchflex.endpoint.provider import Endpoint
from batchflex.protocol.response_headers import NO_GATEWAY, read
from batchflex.storage import FolderStore, part_files
from tests.support.command_line import called, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.outcomes import outcome
from tests.unit.endpoint.test_transport import KEY, _request

HEADERS = [
    "x-request-id", "X-Request-ID", "request-id", "x-amzn-RequestId", "CF-RAY", "x-litellm-call-id", "apim-request-id",
    "x-ms-request-id", "Nvcf-ReqId",
]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([], None),
        *(([(name.encode(), b"abc-1")], "abc-1") for name in HEADERS),
        ([(b"cf-ray", b"4"), (b"x-amzn-requestid", b"3"), (b"request-id", b"2"), (b"X-Request-Id", b"1")], "1"),
        ([(b"cf-ray", b"4"), (b"x-request-id", b"")], "4"),
        ([(b"x-request-id", b"of the proxy before it"), (b"x-litellm-call-id", b"5")], "5"),
        ([(b"x-request-id", b"6"), (b"x-litellm-call-id", b"7")], "7"),
        ([(b"x-request-id", b"two words")], None),
        ([(b"x-request-id", "ä".encode())], None),
        ([(b"x-request-id", b"a" * 128)], "a" * 128),
        ([(b"x-request-id", b"a" * 129)], None),
    ],
)
def test_the_id_is_found_among_the_headers(headers: list[tuple[bytes, bytes]], found: str | None) -> None:
    assert read([(b"date", b"now"), *headers]).request_id == found


def test_what_else_headers_tell_is_seen_in_any_case() -> None:
    assert read([(b"X-RateLimit-Limit-Requests", b"1"), (b"Content-Encoding", b"gzip")])[1:2] == (True,)
    assert read([(b"content-type", b"x")]) == (None, False, NO_GATEWAY)


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("via", [lambda: http1.Connections(httpx.create_ssl_context()), httpx.AsyncHTTPTransport])
async def test_every_attempt_has_its_id(endpoint: CountingEndpoint, stream: bool, via: Any) -> None:
    faults = ["400", "429", "500", "empty_choices", "error_200", "not_json", "reset_inside", "truncated_json"]
    endpoint.knobs(request_ids="X-Request-Id", script=["ok", *faults])
    known = Endpoint("test", endpoint.base_url, SecretStr(KEY), stream=stream)
    async with Client(known, via=via()) as client:
        assert (await client.attempt(_request())).request_id == "req-0"
        for number, fault in enumerate(faults, 1):
            with pytest.raises(AttemptError) as caught:
                await client.attempt(_request())
            assert caught.value.request_id == f"req-{number}", fault


@pytest.mark.anyio
async def test_a_key_is_no_id(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(request_ids=f"x-request-id: a-{KEY}-b\r\nx-number")
    async with Client(Endpoint("test", endpoint.base_url, SecretStr(KEY))) as client:
        assert (await client.attempt(_request())).request_id is None


def test_answered_and_failed_rows_have_the_id_of_their_last_attempt(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(request_ids="request-id", script=["ok", "500", "ok", "400"])
    rows, out = write_rows(tmp_path / "rows.jsonl", 3), tmp_path / "out"
    options = ["--base-url", endpoint.base_url, "--model", "m", "--concurrency", 1, "--set", "retry.base_s=0.01"]
    assert called("run", rows, "--out", out, *options).code == 1
    found = pl.read_parquet(out / "results.parquet")
    sent = {record["seq"]: record["status"] for record in endpoint.log()}
    assert all(sent[int(i.removeprefix("req-"))] == s for i, s in found.select("request_id", "http_status").rows())
    assert found["request_id"].n_unique() == 3


def test_a_part_of_an_older_version_has_none(tmp_path: Path) -> None:
    part_files.write_part(FolderStore(tmp_path), 1, [outcome(1, request_id="r")])
    path = tmp_path / part_files.part_name(1)
    old = pq.read_table(path)
    pq.write_table(old.drop_columns(["request_id"]), path)
    assert part_files.read_part(FolderStore(tmp_path), 1)["request_id"].to_pylist() == [None]
