"""The key is in no file and in no output, whatever a server says; and a job that has one in it is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchflex.config.loader import build
from batchflex.core.errors import JobError
from batchflex.core.redact import redacted
from tests.support.command_line import called, environment, sha1_of_key, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.runs import killed_command

KEY = "sk-VerySecret0123456789"
WORD = "VerySecret"


def everything_in(folder: Path) -> str:
    """The text of every file, unpacked: of Parquet each value and what its footer has."""
    texts = []
    for path in folder.rglob("*"):
        if path.is_file():
            raw = path.read_bytes()
            texts.append(raw.decode("utf-8", "replace"))
            if path.suffix == ".parquet":
                texts.append(pl.read_parquet(path).write_ndjson())
                texts.append(str(pq.read_metadata(path).metadata))
            elif path.suffix == ".gz":
                texts.append(gzip.decompress(raw).decode("utf-8", "replace"))
    assert len(texts) > 4
    return "\n".join(texts)


def job_file(folder: Path, endpoint: CountingEndpoint, *, stream: bool) -> Path:
    """A job of forty rows that scores them, by a judge as well, and writes its report."""
    write_rows(folder / "rows.jsonl", 40)
    path = folder / "job.toml"
    path.write_text(
        f'[job]\nout = "{folder}/out"\n[endpoint]\nbase_url = "{endpoint.base_url}"\nstream = {str(stream).lower()}\n'
        '[input]\npath = "rows.jsonl"\n[params]\nmodel = "m"\n[limits]\nconcurrency = 8\nmax_failures = 40\n'
        "[retry]\nbase_s = 0.01\nattempts = 2\n[journal]\nseal_rows = 10\n"
        '[[score]]\nname = "long"\nkind = "length"\nmin = 3\n'
        '[[score]]\nname = "good"\nkind = "judge"\n[score.judge]\nrubric = "How good? {{ content }}"\n'
    )
    return path


# ---------------------------------------------------------------------------------------------- what a server says


def test_a_placeholder_key_is_no_secret(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1)
    endpoint.knobs(answer="The box is EMPTY.")
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out"]
    assert called("run", rows, *asks, env={"BATCHFLEX_API_KEY": "EMPTY"}).code == 0
    assert table(tmp_path / "out")["content"].to_list() == ["The box is EMPTY."]


def shown(folder: Path, env: dict[str, str]) -> list[str]:
    """What the verbs say of the job and of its folder. Some write files into that."""
    out, said = folder / "out", list[str]()
    verbs: list[tuple[object, ...]] = [
        ("plan", folder / "job.toml"),
        ("check", folder / "job.toml"),
        ("status", out),
        ("status", out, "--json"),
        ("results", out),
        ("results", out, "-o", "-"),
        ("retry", out, "--where", "row < 3"),
        ("retry", out, "--where", "row = 3", "--dry-run", "--json"),
        ("score", out),
        ("report", out, "--json"),
        ("report", out),
        ("run", folder / "job.toml", "--json"),
        *(("results", out, "-o", folder / f"out/x.{kind}") for kind in ("csv", "jsonl", "parquet")),
        ("results", out, "-o", out / "batch.jsonl", "--format", "openai-batch"),
    ]
    for arguments in verbs:
        ended = called("--debug", *arguments, env=env)
        assert ended.code in (0, 1, 3), (arguments, ended)
        said += [ended.out, ended.err]
    return said


@pytest.mark.parametrize("stream", [False, True])
def test_the_key_is_in_no_file_and_in_no_output(
    stream: bool, endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even when the server says it wherever it can: in answers, their ids and models, errors, their types and codes,
    headers. Nor after kill -9, in the journal."""
    endpoint.knobs(key=KEY, echo_key=True, latency_s=0.02, poison={
        "row 1.": "echo_key", "row 2.": "echo_key_error", "row 3.": "500", "row 5.": "stream_error",
    }, faults={"429_ms": 0.1}, retry_after_s=0.01)  # fmt: skip
    path, env = job_file(tmp_path, endpoint, stream=stream), {"BATCHFLEX_API_KEY": KEY}
    with monkeypatch.context() as patched:
        patched.setenv("BATCHFLEX_API_KEY", KEY)
        killed_command(endpoint, 15, "run", path)
    left = everything_in(tmp_path / "out")
    assert (tmp_path / "out" / "journal").exists() and '"content":"echo: row' in left, "the journal is read as it is"
    ended = called("--debug", "run", path, "--json", env=env)
    assert ended.code in (1, 3) and ended.summary["done"] >= 38, ended
    assert endpoint.stats()["keys"] == [sha1_of_key(KEY)]
    results = table(tmp_path / "out")
    assert results["content"][1] == "your header was Bearer ***"
    assert results["error_message"][2] == "bad key: Bearer *** Bearer ***"
    assert "***" in results["model"][0] and "***" in results["response"][0]
    said = [left, ended.out, ended.err]
    if not stream:
        endpoint.knobs(faults={}, latency_s=0.0)
        said += shown(tmp_path, env)
    for text in [everything_in(tmp_path / "out"), *said]:
        assert WORD not in text, text[max(0, text.find(WORD) - 300) :][:600]


@pytest.mark.parametrize(
    "fault", ["401", "402", "404_model", "404_url", "redirect", "echo_key_error", "503", "bad_status_line"]
)
def test_the_key_is_not_in_the_reason_why_a_run_stopped(fault: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    where = f"/elsewhere?key={KEY}"
    endpoint.knobs(echo_key=True, fail_after=0, fail_with=fault, redirect_to=where)
    path, env = job_file(tmp_path, endpoint, stream=False), {"BATCHFLEX_API_KEY": KEY}
    settings = ["--set", "limits.max_outage=1s", "--set", "limits.max_failures=3"]
    ended = called("--debug", "run", path, *settings, env=env)
    assert ended.code == 3, ended
    checked = called("--debug", "check", path, env=env)
    assert checked.code == 3, checked
    for text in (everything_in(tmp_path / "out"), ended.out, ended.err, checked.out, checked.err):
        assert WORD not in text, text[max(0, text.find(WORD) - 300) :][:600]


def test_the_key_of_a_file_is_as_secret(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key=KEY, echo_key=True)
    path = job_file(tmp_path, endpoint, stream=False)
    (tmp_path / ".env").write_text(f"BATCHFLEX_API_KEY={KEY}\n")
    ended = called("--debug", "run", path, env=environment())
    assert ended.code == 0 and endpoint.stats()["keys"] == [sha1_of_key(KEY)]
    assert WORD not in everything_in(tmp_path / "out") + ended.out + ended.err


# ---------------------------------------------------------------------------------------------- keys in a job file

RANDOM = "sk-4f9aVerySecret0123456789"
OWN = "VerySecretOfTheHouse"


@pytest.mark.parametrize(
    ("place", "data"),
    [
        ("endpoint.api_key", {"endpoint": {"api_key": "short"}}),
        ("endpoint.token", {"endpoint": {"token": "short"}}),
        ("endpoint.headers.Authorization", {"endpoint": {"headers": {"Authorization": "short"}}}),
        ("endpoints.0.api_key", {"endpoints": [{"base_url": "http://h/v1", "api_key": "short"}]}),
        ("params.extra_headers.X-Api-Key", {"params": {"extra_headers": {"X-Api-Key": "short"}}}),
        ("override.Authorization", {"override": {"Authorization": "short"}}),
        ("params.user", {"params": {"user": RANDOM}}),
        ("params.user", {"params": {"user": "sk-short123"}}),
        ("params.user", {"params": {"user": "Bearer abcdef123"}}),
        ("params.a.b.1", {"params": {"a": {"b": ["x", f"key: {RANDOM}"]}}}),
        ("sweep.user.1", {"sweep": {"user": ["me", RANDOM]}}),
        ("job.name", {"job": {"name": RANDOM}}),
        ("job.out", {"job": {"out": f"runs/{RANDOM}"}}),
        ("input.path", {"input": {"path": "https://h/x.jsonl?token=short1"}}),
        ("input.path", {"input": {"path": "https://me:short1@h/x.jsonl"}}),
        ("input.path.0", {"input": {"path": ["hf_abcdefghijKLMNOPQRSTabcdefghijKLMN"]}}),
        ("endpoint.base_url", {"endpoint": {"base_url": f"http://h/{RANDOM}/v1"}}),
        ("score.0.judge.endpoint.api_key", {"score": [
            {"name": "s", "kind": "judge", "judge": {"rubric": "r", "endpoint": {"base_url": "http://h/v1", "api_key": "short"}}}
        ]}),
        ("prompt.user", {"prompt": {"user": f"Say {OWN} {{{{ x }}}}"}}),
        ("prompts.a.system", {"prompts": {"a": {"system": OWN, "user": "u"}}, "sweep": {"prompt": ["a"]}}),
        ("answer.json_schema.description", {"answer": {"json_schema": {"description": OWN}}}),
        ("params", {"params": {f"x_{OWN}": 1}}),
        ("endpoint.api_key_env", {"endpoint": {"api_key_env": OWN.upper()}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_key_in_a_job_is_refused(place: str, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_API_KEY", OWN.upper() if place.endswith("_env") else OWN)
    with pytest.raises(JobError) as caught:
        build(data)
    mine = [each for each in caught.value.mistakes if each.startswith(f"{place}: ")]
    assert len(mine) == 1 and "a key does not belong in a job file or on the command line" in mine[0]
    assert "into a file .env beside the job file" in mine[0]
    assert WORD.lower() not in str(caught.value).lower() and "short" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"prompt": {"user": f"Which key is this: {RANDOM}? Authorization: Bearer abc12345 {{{{ x }}}}"}},
        {"input": {"path": "/data/sk-learn-docs-2024/hf_datasets/task-0123456789abcdef/a.jsonl"}},
        {"input": {"path": "0123456789abcdef0123456789abcdef0123456789abcdef.jsonl"}},
        {"params": {"model": "sk-learn-llm-7b", "prompt_cache_key": "job-1", "metadata": {"key": "v"}, "stop": ["token"]}},
        {"params": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {
            "type": "object", "properties": {"api_key": {"type": "string"}, "password": {"type": "string"}}}}}}},
        {"params": {"tools": [{"type": "function", "function": {"name": "f", "description": f"such as {RANDOM}"}}]}},
        {"score": [{"name": "leaks", "kind": "regex", "pattern": "sk-[A-Za-z0-9]{20,}|Bearer abcdef123"}]},
        {"endpoint": {"base_url": "http://h/v1", "api_key_env": "SOME_API_KEY"}},
    ],
    ids=str,
)  # fmt: skip
def test_what_only_speaks_of_keys_is_no_key(data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_API_KEY", OWN)
    monkeypatch.setenv("OTHER_API_KEY", "EMPTY")
    build(data)


def test_nothing_is_sent_for_a_job_with_a_key_in_it(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    path = job_file(tmp_path, endpoint, stream=False)
    plain = path.read_text()
    path.write_text(plain.replace("[params]\n", f'[params]\nuser = "{RANDOM}"\n'))
    path.chmod(0o644)
    for verb in ("run", "plan", "check"):
        refused = called(verb, path)
        assert refused.code == 2 and "params.user: a key does not belong in a job file" in refused.err
        assert (
            f"the file holds a key, and others than its owner may read it; forbid that: chmod 600 {path}" in refused.err
        )
        assert WORD not in refused.err
    path.chmod(0o600)
    assert "chmod" not in called("run", path).err
    path.write_text(plain)
    path.chmod(0o644)
    for setting in (
        f"endpoint.api_key={RANDOM}",
        f"api_key={RANDOM}",
        f"user={RANDOM}",
        "extra.Authorization=Bearer x1234567",
    ):
        refused = called("run", path, "--set", setting)
        assert refused.code == 2 and WORD not in refused.err and "x1234567" not in refused.err
        assert "chmod" not in refused.err, "it is not in the file"
        assert "a key does not belong in a job file or on the command line" in refused.err or setting.startswith(
            "extra"
        )
    assert endpoint.stats()["requests"] == 0 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("no sk-abcdef123456 here", "no *** here"),
        ("AIzaSyA-abc_defghijklmnopqrstuvwxyz12345", "***"),
        ("r8_abcDEF1234567890abcd", "***"),
        ("sent 'Bearer abc.def-123'", "sent 'Bearer ***'"),
        ("GET http://h/x?api_key=abc123def&page=1", "GET http://h/x?api_key=***&page=1"),
        ("http://u:p@h/x", "http://***@h/x"),
        ("the bearer token is missing; see skip-level", "the bearer token is missing; see skip-level"),
    ],
)
def test_what_looks_like_a_key_is_hidden(text: str, left: str) -> None:
    assert redacted(text) == left
