"""Whether an answer is the JSON that was asked for, and fits."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from batchflex.protocol.json_answers import Shape, Shapes, unusable

LABEL = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "sure": {"type": "number", "maximum": 1}},
    "required": ["label"],
    "additionalProperties": False,
}


def asking(response_format: Any) -> bytes:
    return msgspec.json.encode({"model": "m", "response_format": response_format})


@pytest.mark.parametrize("content", ['{"label":"good"}', ' {"label": "bad", "sure": 0.5}\n'])
def test_what_fits_is_parsed(content: str) -> None:
    judged = Shape(LABEL).judge(content)
    assert judged.complaint is None and judged.parsed is not None
    assert json.loads(judged.parsed) == json.loads(content)
    assert " " not in judged.parsed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"label": "ugly"}', ['label: "ugly" is not one of "good" or "bad"']),
        ("{}", ['"label" is a required property']),
        ('{"label": "good", "sure": 2, "why": 1}', ["sure: 2 is greater than", "'why' was unexpected"]),
        ('["good"]', ["is not of type"]),
        ("good", ["is not JSON"]),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(content: str, words: list[str]) -> None:
    judged = Shape(LABEL).judge(content)
    assert judged.parsed is None
    assert judged.complaint is not None and all(each in judged.complaint for each in words), judged.complaint


def test_a_place_inside_lists_and_objects() -> None:
    schema = {"properties": {"a": {"items": {"properties": {"b": {"type": "integer"}}}}}}
    assert "a[1].b: " in str(Shape(schema).judge('{"a": [{"b": 1}, {"b": "x"}]}').complaint)


def test_a_complaint_is_not_endless() -> None:
    schema = {"items": {"type": "integer"}}
    assert len(str(Shape(schema).judge(json.dumps(["x" * 500] * 100)).complaint)) < 1_100


WRAPPED = [
    'Here you are:\n```json\n{"label": "good"}\n```\nAnything else?',
    '```\n{"label": "good"}\n```',
    'The label is {"label": "good"}, I think.',
    '<think>{"label": "bad"}? No.</think>\n{"label": "good"}',
    'First {"label": "ugly"}, no: {"label": "good"}',
    'As in [1] and {that}: {"label": "good"}',
]


@pytest.mark.parametrize("content", WRAPPED)
def test_json_among_prose_is_found_if_that_is_wanted(content: str) -> None:
    assert Shape(LABEL).judge(content).parsed is None
    assert Shape(LABEL).judge(content, lenient=True) == ('{"label":"good"}', None)


CHOICE = {"type": "object", "properties": {"label": {"type": "string", "enum": ["billing", "Bug", "e.g. both"]}}}


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ("billing", "billing"), (" Billing.\n", "billing"), ('"bug"', "Bug"), ("**BUG**", "Bug"), ("`e.g. both`.", "e.g. both"),
        ("<think>Bug?</think> billing", "billing"), ('{"label": "Bug"}', "Bug"), ('```json\n{"label": "Bug"}\n```', "Bug"),
    ],
)  # fmt: skip
def test_a_label_may_be_answered_by_its_text_alone(content: str, label: str) -> None:
    """Servers that know no ``response_format`` answer so. What is said of it is not, nor is a text of another shape."""
    for lenient in (None, True):
        judged = Shape(CHOICE).judge(content, lenient=lenient)
        assert judged.complaint is None and json.loads(str(judged.parsed)) == {"label": label}
    assert (Shape(CHOICE).judge(content, lenient=False).complaint is None) == (content == '{"label": "Bug"}')


@pytest.mark.parametrize("content", ["billing or bug", "bill", "", "It is billing.", '{"label": "bug"}', "other"])
def test_what_is_no_choice_is_no_label(content: str) -> None:
    assert Shape(CHOICE).judge(content, lenient=True).parsed is None


def test_choices_that_differ_in_case_alone_are_not_guessed() -> None:
    shape = Shape({"properties": {"label": {"enum": ["us", "US", "other"]}}, "type": "object"})
    assert shape.judge("US").parsed is None
    assert shape.judge("Other").parsed == '{"label":"other"}'


def test_of_what_does_not_fit_the_longest_is_complained_of() -> None:
    complaint = Shape(LABEL).judge('Say {} or {"label": "ugly"}.', lenient=True).complaint
    assert '"ugly"' in str(complaint)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_any_json_is_found_behind_prose(value: Any) -> None:
    judged = Shape(LABEL).judge(f"So: {json.dumps({'label': 'good'})} {json.dumps(value)}", lenient=True)
    assert judged.parsed == '{"label":"good"}'


@given(st.text(alphabet='{}[]",:ab1 `\n<think>/\\', max_size=60))
def test_no_text_is_more_than_a_complaint(content: str) -> None:
    for lenient in (False, True):
        judged = Shape(LABEL).judge(content, lenient=lenient)
        assert (judged.parsed is None) != (judged.complaint is None)


@pytest.mark.parametrize(
    ("response_format", "content", "is_ok"),
    [
        ({"type": "json_object"}, "{}", True),
        ({"type": "json_object"}, "[]", False),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "[]", True),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": LABEL}}, '{"label":"good"}', True),
        ({"type": "json_schema", "json_schema": {"name": "x", "schema": LABEL}}, "{}", False),
        ({"type": "json_object", "schema": LABEL}, "{}", False),
        ({"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}, "{}", True),
        ({"type": "text"}, "prose", True),
    ],
)
def test_the_format_that_the_request_asks_for_is_what_counts(response_format: Any, content: str, is_ok: bool) -> None:
    assert (Shapes().judge(asking(response_format), content).complaint is None) == is_ok


def test_a_schema_of_the_job_holds_for_every_answer() -> None:
    shapes = Shapes(LABEL)
    for body in (b'{"model":"m"}', asking({"type": "json_object"})):
        assert shapes.judge(body, '{"label":"good"}').parsed == '{"label":"good"}'
        assert shapes.judge(body, "{}").complaint is not None


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "objekt"}, '"objekt"'),
        ({"$ref": "http://127.0.0.1:9/schema.json"}, "Retrieval is disabled"),
        ({"$ref": "file:///etc/passwd"}, "Retrieval is disabled"),
        ([], "a JSON Schema is a table, not a list"),
    ],
)
def test_a_schema_that_cannot_be_used_says_why(schema: Any, words: str) -> None:
    assert words in str(unusable(schema))
    assert unusable(LABEL) is None
