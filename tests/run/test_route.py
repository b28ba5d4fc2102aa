"""The seam that kinds of requests have in common: what holds for each route there is, and that one with packs of rows fits."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, strategies as st

from batchflex.config import build
from batchflex.core import Answer, Request, Usage
from batchflex.core.errors import RowFault, Transient
from batchflex.core.types import Ending
from batchflex.endpoint import Client, Endpoint
from batchflex.engine import JobRun
from batchflex.protocol import classify
from batchflex.protocol.chat_message import usage
from batchflex.protocol.json_answers import Shapes
from batchflex.protocol.parameters import Parameters
from batchflex.protocol.route import Receipt, Route, Verdict, shares
from batchflex.protocol.routes import ROUTES, conversation
from batchflex.storage import part_files, record
from batchflex.storage.output_folder import Folder
from batchflex.storage.writer import OutcomeWriter
from tests.support.counting_endpoint import CountingEndpoint, vector

pytestmark = pytest.mark.anyio
_encode = msgspec.json.Encoder().encode


class Embeddings(Route):
    """``POST /embeddings`` as a route would have it: up to 64 rows a request, a vector for each."""

    path = "/embeddings"
    what = "embeddings"
    field = "input"
    parameters = Parameters({}, frozenset({"model", "dimensions"}))
    most_rows = 64

    def checked(self, content: Any) -> Any:
        if not isinstance(content, str) or not content:
            raise ValueError("'input' must be a text")
        return content

    def body(self, rows: Sequence[Request], *, streamed: bool = False) -> bytes:
        bodies = [msgspec.json.decode(row.body) for row in rows]
        return _encode({**bodies[0], "input": [body["input"] for body in bodies]})

    def probe(self, model: str, *, like: bytes | None = None, words: str = "ok", most_tokens: int = 1) -> Request:
        body = _encode({"input": words, "model": model})
        return Request(b"", b"", "probe", 0, 0, 0, body, None, None, model=model)

    def answers(
        self, raw: bytes, rows: Sequence[Request], receipt: Receipt, finish_reasons: Mapping[str, Ending]
    ) -> list[Answer]:
        said = msgspec.json.decode(raw)
        vectors = {each["index"]: each["embedding"] for each in said["data"]}
        if sorted(vectors) != list(range(len(rows))):
            raise classify.empty(
                f"{len(rows)} vectors were asked for, and {len(vectors)} came", raw, receipt.http_status
            )
        return [
            Answer(
                _encode(vectors[number]).decode(), None, None, "stop", said["model"], share, _encode(said),
                receipt.http_status, receipt.latency_s, receipt.ttft_s, receipt.request_id,
            )
            for number, share in enumerate(shares(usage(said["usage"]), [len(row.body) for row in rows]))
        ]  # fmt: skip

    def usage_of(self, raw: bytes) -> Usage | None:
        return None

    def verdict(self, answer: Answer, body: bytes, shapes: Shapes, *, allow_empty: bool) -> Verdict:
        return Verdict("ok", answer.content)

    def conversation(self, body: Mapping[str, Any]) -> list[tuple[str, Any]]:
        return [("input", body.get("input"))]


EMBEDDINGS = Embeddings()
TEXTS = ["red", "a longer text in green", "blue 🙂"]


def _row(number: int, text: str) -> Request:
    key = bytes([number]) * 16
    body = _encode({"input": text, "model": "m"})
    return Request(key, key, f"r{number}", number, 0, 0, body, None, None, model="m")


ROWS = [_row(number, text) for number, text in enumerate(TEXTS)]


async def test_a_pack_of_rows_is_one_request_and_a_row_for_each(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer_headers={"x-litellm-response-cost": "0.5"}, keep_bodies=True)
    always_streaming = Endpoint("here", endpoint.base_url, stream=True)
    async with Client(always_streaming) as client:
        answers = await client.send(EMBEDDINGS, ROWS)
    (sent,) = endpoint.log()
    assert sent["body"] == {"input": TEXTS, "model": "m"}
    assert [json.loads(answer.content or "") for answer in answers] == [vector(text) for text in TEXTS]
    assert sum(answer.usage.prompt_tokens or 0 for answer in answers) == sent["prompt_tokens"]
    assert sum(answer.usage.cost or 0.0 for answer in answers) == pytest.approx(0.5)
    context = record.RowContext("run", "here", ("{}",), route=EMBEDDINGS)
    job = build({"job": {"out": str(tmp_path / "out")}, "params": {"model": "m"}})
    folder = Folder(tmp_path / "out")
    with folder.held():
        writer = OutcomeWriter(folder, 1, job.journal, slots=4)
        for row, answer in zip(ROWS, answers, strict=True):
            writer.keep(record.answered(context, row, record.Effort(1, 0, 1, "here", "m"), answer))
        await writer.finish()
    kept = pl.concat([pl.read_parquet(path) for path in sorted((folder.path / "parts").glob("*.parquet"))]).sort("row")
    assert kept["id"].to_list() == ["r0", "r1", "r2"]
    assert kept["status"].to_list() == ["ok"] * 3
    assert [json.loads(text) for text in kept["parsed"]] == [vector(text) for text in TEXTS]
    assert part_files.part_numbers(folder.parts)


async def test_what_a_pack_is_refused_for_is_said_of_all_of_it_and_parts_of_it_can_be_sent(
    endpoint: CountingEndpoint,
) -> None:
    endpoint.knobs(poison={"green": "400_context"})
    async with Client(Endpoint("here", endpoint.base_url)) as client:
        with pytest.raises(RowFault):
            await client.send(EMBEDDINGS, ROWS)
        assert len(await client.send(EMBEDDINGS, ROWS[:1])) == len(await client.send(EMBEDDINGS, ROWS[2:])) == 1
        endpoint.knobs(said={"status": 200, "body": {"data": [], "model": "m", "usage": {}}}, script=["said"])
        with pytest.raises(Transient, match="3 vectors were asked for, and 0 came"):
            await client.send(EMBEDDINGS, ROWS)


async def test_a_run_of_another_route(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"id": f"r{n}", "input": text}) + "\n" for n, text in enumerate([*TEXTS, ""])))
    data = {
        "job": {"out": str(tmp_path / "out")},
        "input": {"path": str(rows), "on_bad_row": "fail"},
        "params": {"model": "m"},
        "endpoint": {"base_url": endpoint.base_url},
    }
    for sent in (3, 0):
        job = build(data)
        job._route = EMBEDDINGS
        run = await JobRun(job).run()
        assert (run.summary["ok"], run.summary["failed"], run.summary["requests_sent"]) == (3, 1, sent)
    results = run.results()
    assert [json.loads(text) for text in results["content"][:3]] == [vector(text) for text in TEXTS]
    assert results["status"].to_list() == ["ok", "ok", "ok", "failed"]
    assert results["error_message"][3].endswith("'input' must be a text")
    assert results["prompt_tokens"][:3].is_not_null().all()


_AMOUNT = st.none() | st.integers(0, 10**9)


@given(_AMOUNT, _AMOUNT, st.none() | st.floats(0, 100), st.lists(st.integers(0, 10**6), min_size=1, max_size=9))
def test_shares_of_a_usage_add_up(
    prompt: int | None, total: int | None, cost: float | None, weights: list[int]
) -> None:
    parts = shares(Usage(prompt_tokens=prompt, total_tokens=total, cost=cost), weights)
    assert len(parts) == len(weights)
    for name, amount in (("prompt_tokens", prompt), ("total_tokens", total)):
        found = [getattr(part, name) for part in parts]
        assert found == [None] * len(weights) if amount is None else (sum(found) == amount and min(found) >= 0)
    if cost is not None:
        assert sum(part.cost or 0.0 for part in parts) == pytest.approx(cost)
    for (one, part), (other, more) in itertools.combinations(zip(weights, parts, strict=True), 2):
        if prompt is not None and one < other:
            assert part.prompt_tokens <= more.prompt_tokens + 1


@pytest.mark.parametrize("route", [*ROUTES, EMBEDDINGS], ids=lambda route: route.what)
def test_every_route_has_what_a_run_needs_of_it(route: Route) -> None:
    assert route.path.startswith("/") and route.most_rows >= 1
    probe = route.probe("m", words="hello")
    sent = msgspec.json.decode(route.body([probe]))
    assert sent["model"] == probe.model == "m" and route.field in sent
    assert route.answer_limit(sent) == probe.max_tokens
    assert [text for _, text in route.conversation(msgspec.json.decode(probe.body))] == ["hello"]
    with pytest.raises(ValueError, match=route.field):
        route.checked(None)


def test_a_body_tells_of_which_route_it_is() -> None:
    assert conversation({"messages": [{"role": "user", "content": "hi"}]}) == [("user", "hi")]
    assert conversation({"other": 1}) == []
