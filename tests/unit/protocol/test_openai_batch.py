"""Exports in the formats of OpenAI's batch API, held against the types of OpenAI's own package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import batchflex
from batchflex.cli import main
from batchflex.protocol import openai_batch
from batchflex.protocol.openai_batch import Ids
from batchflex.storage import part_files
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.lazily import Lazily

openai_types = Lazily("openai.types")

NO_SWEEP = Ids({}, False)
ASKED = {
    "x-good": "ok", "x-cut": "finish_length", "x-hidden": "finish_content_filter", "x-refused": "400_context",
    "x-odd": "422", "x-large": "413", "x-page": "html_200", "x-gone": "close_before",
}  # fmt: skip


def exported(out: Path, *options: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    path = out.parent / "answers.jsonl"
    assert main.main(["results", str(out), "-o", str(path), "--format", "openai-batch", *options]) == 0
    files = path, path.with_name("answers_errors.jsonl")
    good, bad = ([json.loads(line) for line in file.read_text().splitlines()] for file in files)
    return good, bad


def job(target: CountingEndpoint, folder: Path, **more: dict[str, Any]) -> dict[str, Any]:
    return {
        "job": {"out": str(folder / "out")},
        "endpoint": {"base_url": target.base_url},
        "input": {"path": str(folder / "rows.jsonl")},
        "params": {"model": "m"},
        "retry": {"attempts": 1},
        "limits": {"concurrency": 1, "max_failures": 100},
    } | more


def rows(folder: Path, texts: list[str], **more: Any) -> None:
    """Each text is a row's id and question; ``more`` goes into the last."""
    made = [{"id": text, "messages": [{"role": "user", "content": text}]} for text in texts]
    made[-1] |= more
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


@pytest.mark.parametrize("stream", [False, True])
def test_every_line_is_as_openai_has_it(stream: bool, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows(tmp_path, [*ASKED, "x-unfit"], response_format={"type": "json_object"})
    endpoint.knobs(poison=ASKED)
    asked = job(endpoint, tmp_path, endpoint={"base_url": endpoint.base_url, "stream": stream})
    assert batchflex.run(asked).exit_code == 1
    results = {row["id"]: row for row in pl.read_parquet(tmp_path / "out" / "results.parquet").to_dicts()}
    statuses = [results[f"x-{name}"]["status"] for name in ("good", "cut", "hidden", "unfit")]
    assert statuses == ["ok", "truncated", "filtered", "invalid"]

    good, bad = exported(tmp_path / "out")
    assert sorted(line["custom_id"] for line in good + bad) == sorted(results)
    for line in good + bad:
        row = results[line["custom_id"]]
        assert list(line) == ["id", "custom_id", "response", "error"]
        assert line["id"] == f"batch_req_{row['key']}"
    for line in good:
        row = results[line["custom_id"]]
        assert row["status"] != "failed" and line["error"] is None
        assert list(line["response"]) == ["status_code", "request_id", "body"]
        body = openai_types.chat.ChatCompletion.model_validate(line["response"]["body"], strict=True)
        assert body.choices[0].message.content == row["content"]
        assert body.choices[0].finish_reason == row["finish_reason"]
        assert body.usage is not None and body.usage.completion_tokens == row["completion_tokens"]
        assert line["response"]["status_code"] == 200 and isinstance(line["response"]["request_id"], str)
    for line in bad:
        row = results[line["custom_id"]]
        assert row["status"] == "failed" and (line["response"] is None) != (line["error"] is None)
        if line["response"] is None:
            assert line["error"] == {"code": row["error_code"] or row["error_type"], "message": row["error_message"]}
        else:
            assert line["response"]["status_code"] == row["http_status"] >= 400
            told = openai_types.shared.ErrorObject.model_validate(
                line["response"]["body"]["error"] | {"type": str(row["error_type"])}
            )
            assert told.message
    by_id = {line["custom_id"]: line for line in bad}
    assert by_id["x-refused"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert by_id["x-refused"]["response"]["body"] == json.loads(results["x-refused"]["response"])
    assert by_id["x-odd"]["response"]["body"]["error"]["message"] == results["x-odd"]["error_message"]
    assert by_id["x-large"]["response"]["status_code"] == 413
    assert by_id["x-page"]["response"] is None and by_id["x-gone"]["response"] is None


def test_a_folder_gets_files_named_as_openai_does(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows(tmp_path, ["a", "b"])
    run = batchflex.run(job(endpoint, tmp_path))
    (tmp_path / "batches").mkdir()
    command = ["results", str(tmp_path / "out"), "--format", "openai-batch", "--where", "id = 'b'"]
    assert main.main([*command, "-o", f"{tmp_path / 'batches'}/"]) == 0
    stem = f"batch_{run.summary['run_id']}"
    assert sorted(path.name for path in (tmp_path / "batches").iterdir()) == [
        f"{stem}_error.jsonl",
        f"{stem}_output.jsonl",
    ]
    (line,) = (tmp_path / "batches" / f"{stem}_output.jsonl").read_text().splitlines()
    assert json.loads(line)["custom_id"] == "b"
    assert (tmp_path / "batches" / f"{stem}_error.jsonl").read_text() == ""
    assert main.main([*command, "-o", f"{tmp_path / 'nowhere'}/"]) == 2


def test_ids_are_unique_in_a_sweep_with_samples(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows(tmp_path, ["a"])
    swept = {"temperature": [0.0, 0.7], "model": ["m", "n"], "samples": 2}
    batchflex.run(job(endpoint, tmp_path, sweep=swept))
    good, _ = exported(tmp_path / "out")
    assert [line["custom_id"] for line in good] == [
        f"a@temperature={temperature},model={model}#{sample}"
        for temperature in (0, 0.7) for model in "mn" for sample in (0, 1)
    ]  # fmt: skip


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "said"}, "finish_reason": "stop"}
WHOLE = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE], "usage": USAGE}
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def with_choice(**more: Any) -> dict[str, Any]:
    return WHOLE | {"choices": [CHOICE | more]}


def with_message(**more: Any) -> dict[str, Any]:
    return with_choice(message={"role": "assistant", "content": "said"} | more)


@pytest.mark.parametrize(
    "body",
    [
        WHOLE,
        WHOLE | {"service_tier": None, "usage": None, "timings": {"prompt_ms": 2060.18, "cache_n": 0}},
        *(
            {name: value for name, value in WHOLE.items() if name != left_out}
            for left_out in WHOLE
            if left_out != "choices"
        ),
        WHOLE | {"id": None, "object": "chat.completion.chunk", "created": 1.5, "model": None},
        WHOLE | {"usage": {"prompt_tokens": 1}},
        WHOLE | {"usage": USAGE | {"completion_tokens_details": None, "prompt_tokens_details": {"cached_tokens": 0}}},
        *(with_choice(finish_reason=reason) for reason in (None, "eos", "max_tokens", "safety")),
        with_choice(index=None),
        with_choice(logprobs={"content": [{"token": "a", "logprob": -0.5, "bytes": [97]}]}),
        with_message(role=None),
        with_message(content=None, tool_calls=[CALL]),
        with_message(content=None, tool_calls=[CALL | {"id": None, "type": None}]),
        with_message(tool_calls=[CALL | {"function": {"name": "f", "arguments": {"a": 1}}}]),
        with_message(tool_calls=[]),
        with_message(content=[{"type": "text", "text": "said"}]),
        with_message(reasoning_content="hm", refusal=None, annotations=[]),
    ],
)
def test_an_answer_that_is_not_quite_openais_becomes_so(body: dict[str, Any]) -> None:
    line = only(row(response=json.dumps(body)))
    completion = openai_types.chat.ChatCompletion.model_validate(line["response"]["body"], strict=True)
    message = completion.choices[0].message
    assert message.content == ("said" if json.loads(json.dumps(body))["choices"][0]["message"]["content"] else None)
    for name in ("id", "created", "model"):
        if type(body.get(name)) is type(WHOLE[name]):
            assert getattr(completion, name) == body[name], "what is there already stays"
    reason = body["choices"][0]["finish_reason"]
    assert completion.choices[0].finish_reason == {"max_tokens": "length", "safety": "content_filter"}.get(
        reason, "stop"
    )
    assert completion.usage is None or completion.usage.total_tokens == 3


def test_the_servers_request_id_comes_before_that_of_the_answer() -> None:
    assert only(row(response=json.dumps(WHOLE)))["response"]["request_id"] == "c"
    assert only(row(response=json.dumps(WHOLE), request_id="req_1"))["response"]["request_id"] == "req_1"
    refused = row(status="failed", http_status=400, error_type="t", error_message="no", response="[1]")
    assert only(refused)["response"]["request_id"] is None
    told = only(refused | {"request_id": "req_2"})["response"]
    assert told == {
        "status_code": 400, "request_id": "req_2",
        "body": {"error": {"message": "no", "type": "t", "param": None, "code": None}},
    }  # fmt: skip


def row(**values: Any) -> dict[str, Any]:
    known = {"id": "a", "key": "0f", "sample": 0, "status": "ok", "content": "said", "model": "m", "http_status": 200}
    return known | USAGE | values


def only(values: dict[str, Any]) -> dict[str, Any]:
    (made,) = lines([values])
    return made


def lines(made: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    kinds = part_files.COLUMNS | ({"request_id": pa.string()} if "request_id" in made[0] else {})
    schema = pa.schema([(name, kinds[name]) for name in openai_batch.columns(NO_SWEEP, list(kinds))])
    for line, _ in openai_batch.lines(pa.RecordBatch.from_pylist(made, schema), NO_SWEEP):
        assert line.endswith(b"\n") and line.count(b"\n") == 1
        yield json.loads(line)
