"""Inputs of all shapes, as files and jobs: what their requests are known by is pinned in ``keys.json``.

``python -m tests.golden.cases`` prints the keys that the code at hand gives to them. Those in ``keys.json`` are what commit
eae3bc5 gave; they are never made anew, only cases are added.
"""

from __future__ import annotations

import datetime
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from batchflex.config.loader import build
from batchflex.core.types import Request
from batchflex.plan.plan import Plan
from batchflex.plan.planner import Answered


class Case(NamedTuple):
    """``files`` by name: text, or rows of a Parquet table. ``job`` takes them from ``input.path``, filled in where it is left out."""

    job: dict[str, Any]
    files: dict[str, str | list[dict[str, Any]]]


def _lines(*rows: dict[str, Any]) -> dict[str, str | list[dict[str, Any]]]:
    return {"in.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)}


def _ask(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


_M = {"model": "m"}
_TABLE = 'review_id,text,stars\na1,Good café,5\na2,"Bad, very",1\na3,,3\n'
_FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "label", "schema": {"type": "object", "properties": {"z": {"type": "string"}, "a": {}}}},
}
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
_BESIDE = [
    _ask("a", label="x"), _ask("a", label="y"), _ask("a", label="x"), _ask("a"), _ask("b", label="x", id="r"), _ask("a", label="y"),
    _ask("b", label="x", id="r"), _ask("b", label="x", id="s"), _ask("b", id="r"), _ask("c", label="z", temperature=0.5),
]  # fmt: skip

CASES: dict[str, Case] = {
    "messages with ids": Case({"params": _M}, _lines(_ask("one", id="r1"), _ask("two", id=2), _ask("three", id="r3"))),
    "messages without ids, some of them equal": Case(
        {"params": _M}, _lines(_ask("one"), _ask("one"), _ask("two"), _ask("one"))
    ),
    "ids that come twice": Case(
        {"params": _M}, _lines(_ask("one", id="r"), _ask("two", id="r"), _ask("one", id="r"), _ask("one", id="s"))
    ),
    "equal requests asked once": Case(
        {"params": _M, "input": {"dedupe": True}}, _lines(_ask("one", id="a"), _ask("one", id="b"), _ask("two"))
    ),
    "parameters in rows": Case(
        {"params": {"model": "m", "temperature": 0.5, "max_tokens": 9}},
        _lines(
            _ask("one", temperature=0, top_p=1, seed=None),
            _ask("two", temperature=1.0, model="other", stop=["\n"], top_k=5),
            _ask("three", chat_template_kwargs={"enable_thinking": False}, tools=[_TOOL], tool_choice="auto"),
        ),
    ),
    "other columns beside messages": Case(
        {"params": _M},
        _lines(
            _ask("one", id="a", source="web", label="good", meta={"page": 1}),
            _ask("two", source="web", label="bad"),
            _ask("two", source="mail", label="bad"),
            _ask("two", source="web", label="bad"),
        ),
    ),
    "other columns, carried": Case(
        {"params": _M, "input": {"carry": ["label", "temperature"]}},
        _lines(_ask("one", id="a", label="x", split="dev", temperature=0.3), _ask("two", label="y", split="test")),
    ),
    "all carried": Case({"params": _M, "input": {"carry": "*"}}, _lines(_ask("one", id="a", label="x", n_votes=3))),
    "equal but for other columns": Case({"params": _M}, _lines(*_BESIDE)),
    "equal but for other columns, asked once": Case({"params": _M, "input": {"dedupe": True}}, _lines(*_BESIDE)),
    "equal but for other columns, samples and a sweep": Case(
        {"params": _M, "sweep": {"samples": 2, "temperature": [0, 1]}}, _lines(*_BESIDE)
    ),
    "an id by another name": Case(
        {"params": _M, "input": {"id": "ticket"}}, _lines(_ask("one", id="a", ticket=7), _ask("two", ticket="x-1"))
    ),
    "lines of a batch file": Case(
        {"params": {"temperature": 0}},
        _lines(
            {"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions", "body": {**_M, **_ask("one")}},
            {"custom_id": "c2", "body": {"model": "m2", **_ask("two", max_tokens=3, metadata={"k": "v"}, odd=1)}},
        ),
    ),
    "several turns, images and odd characters": Case(
        {"params": _M},
        _lines(
            {
                "id": "é\u2028",
                "messages": [
                    {"role": "system", "content": "Be brief. 🙂"},
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]},
                    {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
                    {"role": "tool", "tool_call_id": "t", "content": "\"\\\u0000"},
                ],
            }
        ),
    ),
    "a prompt over a table": Case(
        {"input": {"id": "review_id", "carry": ["stars"]}, "params": _M, "prompt": {"system": "Label.", "user": "{{ text or '-' }} {{ row['stars'] }}"}},
        {"in.csv": _TABLE},
    ),
    "a prompt without an id": Case(
        {"params": _M, "prompt": {"user": "Is it good? {{ text }}"}}, {"in.csv": "text,unused\na,1\nb,2\na,3\n"}
    ),
    "prompts, models and temperatures swept": Case(
        {
            "params": {"model": "m", "max_tokens": 5, "response_format": _FORMAT},
            "prompts": {"long": {"user": "Long: {{ text }}"}, "short": {"messages": [{"role": "user", "content": "{{ text }}"}]}},
            "sweep": {"prompt": ["short", "long"], "temperature": [0, 0.0, 1], "model": ["m", "n"]},
        },
        {"in.csv": "id,text\n1,x\n2,y\n"},
    ),
    "samples": Case({"params": {"model": "m", "seed": 10}, "sweep": {"samples": 3}}, _lines(_ask("one", id="a"), _ask("b", seed=5))),
    "zip and points": Case(
        {"params": _M, "sweep": {"zip": {"temperature": [0, 1], "top_p": [0.5, 1.0]}, "points": [{"model": "p", "seed": 3}], "samples": 2}},
        _lines(_ask("one", id="a")),
    ),
    "sweep points that make the same": Case(
        {"params": _M, "prompts": {"a": {"user": "{{ x }}"}, "b": {"user": "{{ x or '' }}"}}, "sweep": {"prompt": ["a", "b"]}},
        _lines({"x": "one", "id": "a"}, {"x": "one"}),
    ),
    "overridden": Case(
        {"params": {"model": "m", "temperature": 0.1}, "override": {"model": "o", "temperature": 0}}, _lines(_ask("one", id="a", temperature=1))
    ),
    "Parquet of messages": Case(
        {"params": _M},
        {
            "in.parquet": [
                {"id": "p1", "messages": [{"role": "user", "content": "a", "name": "n"}], "max_tokens": 5, "temperature": 0.5},
                {"id": "p2", "messages": [{"role": "user", "content": "b", "name": None}], "max_tokens": None, "temperature": None},
            ]
        },
    ),
    "Parquet with types that JSON does not have": Case(
        {"params": _M, "input": {"id": "n", "carry": "*"}, "prompt": {"user": "{{ n }} {{ day }} {{ share }}"}},
        {"in.parquet": [{"n": 1, "day": datetime.date(2026, 1, 31), "share": 0.1}, {"n": 2, "day": datetime.date(2026, 2, 1), "share": 2.0}]},
    ),
    "several files": Case(
        {"params": _M}, {"a.jsonl": '{"messages":[{"role":"user","content":"x"}]}\n', "b.ndjson": '{"messages": [{"role": "user", "content": "x"}]}\n\n{"messages": [{"role": "user", "content": "y"}], "id": "b"}\n'}
    ),
    "rows no request can be made of": Case(
        {"params": _M, "input": {"on_bad_row": "fail"}},
        {"in.jsonl": '{"id": "a", "messages": [{"role": "user", "content": "x"}]}\n{"id": "b"}\nnot json\n{"id": "c", "messages": []}\n'},
    ),
    "a model of the endpoint's own": Case({"params": {"temperature": 1.0}}, _lines(_ask("one", id="a"))),
}  # fmt: skip


def planned(case: Case, folder: Path, answered: Answered | None = None) -> list[Request]:
    """The requests of a case, whose files are written into ``folder``. ``answered`` tells which keys have an answer there."""
    for name, content in case.files.items():
        if isinstance(content, str):
            (folder / name).write_text(content, encoding="utf-8")
        else:
            pl.DataFrame(content).write_parquet(folder / name)  # pyarrow before 24 sorts the keys of objects
    paths = {"path": [str(folder / name) for name in case.files]}
    job = build({**case.job, "input": paths | case.job.get("input", {})})
    plan = Plan(job, "the-local-model")
    plan.answered = answered
    return [request for block in plan.blocks() for request in block]


def pinned(requests: list[Request]) -> Iterator[list[Any]]:
    """What is pinned of each request."""
    for request in requests:
        yield [request.id, request.row, request.point, request.sample, request.key.hex(), request.slot.hex()]


if __name__ == "__main__":
    made = {}
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            made[name] = list(pinned(planned(case, Path(folder))))
    text = ",\n".join(
        f"{json.dumps(name)}: [\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]"
        for name, rows in made.items()
    )
    sys.stdout.write(f"{{\n{text}\n}}\n")
