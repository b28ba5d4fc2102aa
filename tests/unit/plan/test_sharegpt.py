"""Conversations in the form of ShareGPT become messages, up to the answer that is to be made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.config.loader import build
from batchflex.plan import sharegpt
from batchflex.plan.plan import Plan

ASKED = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "A joke."},
]
WHOLE = [*ASKED, {"from": "human", "value": "A joke."}, {"from": "gpt", "value": "No."}]


def test_the_last_answer_is_what_is_to_be_made() -> None:
    assert sharegpt.messages(WHOLE) == sharegpt.messages(WHOLE[:-1]) == MESSAGES
    assert sharegpt.messages([*WHOLE, {"from": "bard", "value": "And another."}]) == MESSAGES
    assert sharegpt.messages(json.dumps(WHOLE)) == MESSAGES
    assert sharegpt.messages(MESSAGES) == MESSAGES
    assert sharegpt.messages([{"role": "User", "content": "Hi", "id": 3}]) == [{"role": "user", "content": "Hi"}]


@pytest.mark.parametrize(
    ("conversation", "told"),
    [
        ([], "must be a list with at least one turn"),
        ({}, "must be a list with at least one turn"),
        ("[", "is a string, but not of JSON"),
        (["Hi"], r"each turn .* must have 'from' and 'value' as text; found 'Hi' \(turn 1\)"),
        ([{"from": "human", "value": None}], "must have 'from' and 'value'"),
        (
            [*ASKED, {"from": "observation", "value": "{}"}],
            "turn 4 of 'conversations' is from 'observation', which is no role",
        ),
        (ASKED[2:], "has no turn of a human to be answered"),
        (ASKED[:1], "has no turn of a human to be answered"),
    ],
)
def test_what_is_no_conversation(conversation: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sharegpt.messages(conversation)


def bodies(path: Path, **sections: Any) -> list[dict[str, Any]]:
    job = build(
        {"input": {"path": str(path)}, "params": {"model": "m"}, "job": {"out": str(path) + "-out"}, **sections}
    )
    return [json.loads(request.body) for block in Plan(job).blocks() for request in block if request.fault is None]


def test_rows_with_conversations_are_asked(tmp_path: Path) -> None:
    table = [{"id": "c1", "conversations": WHOLE, "seed": 3, "source": "x"}, {"id": "c2", "conversations": WHOLE[:2]}]
    lines, parquet = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    lines.write_text("".join(json.dumps(row) + "\n" for row in table))
    pq.write_table(pa.Table.from_pylist(table), parquet)
    assert bodies(lines) == bodies(parquet)
    assert bodies(lines)[0] == {"model": "m", "messages": MESSAGES, "seed": 3}
    prompt = {"user": "Sum up: {{ conversations[1].value }}"}
    assert bodies(lines, prompt=prompt)[0]["messages"][0]["content"] == "Sum up: Hi"


def test_messages_and_bodies_come_first(tmp_path: Path) -> None:
    own = [{"role": "user", "content": "own"}]
    path = tmp_path / "a.jsonl"
    path.write_text(
        json.dumps({"messages": own, "conversations": WHOLE})
        + "\n"
        + json.dumps({"body": {"messages": own}, "conversations": WHOLE})
    )
    assert [body["messages"] for body in bodies(path)] == [own, own]
