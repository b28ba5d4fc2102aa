"""Rows of every shape to items, through real files; templates; and whose fault a row that cannot be asked is."""

import datetime
import decimal
import json
from pathlib import Path

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchflex.config.job import PromptSection
from batchflex.config.loader import build
from batchflex.core.errors import JobError
from batchflex.core.types import Item
from batchflex.plan.rows import Itemizer
from batchflex.plan.source import Source
from batchflex.plan.template import Prompt, TemplateFault

HELLO = [{"role": "user", "content": "hello"}]
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
    ]},
    {"role": "assistant", "content": None, "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{\"at\": null}"}},
    ]},
    {"role": "tool", "tool_call_id": "c1", "content": "a cat", "name": "look"},
    {"role": "assistant", "content": "A cat."},
    {"role": "user", "content": "Sure?"},
]  # fmt: skip


def items(path: Path, **job) -> list[Item]:
    source = Source(str(path))
    itemizer = Itemizer(build(job), source.columns())
    return [item for block in source.blocks() for item in itemizer.items(block)]


def item_of(tmp_path: Path, row: dict, **job) -> Item:
    path = tmp_path / "in.jsonl"
    path.write_bytes(msgspec.json.encode(row) + b"\n")
    (item,) = items(path, **job)
    return item


def asked(item: Item) -> dict:
    assert item.fault is None
    (content,) = item.contents
    return content


def fault(tmp_path: Path, row: dict, **job) -> str:
    item = item_of(tmp_path, row, **job)
    assert item.contents == () and item.fault is not None
    return item.fault


# ------------------------------------------------------------------------------------------ requests of their own


def test_messages_and_parameters_pass_untouched(tmp_path):
    row = {"messages": TURNS, "temperature": 0.5, "guided_json": {"a": None}, "top_k": 3, "stop": None}
    item = item_of(tmp_path, {"id": "x", **row})
    assert (item.id, item.named, item.row, item.carry) == ("x", True, 0, None)
    assert asked(item) == {"messages": TURNS, "temperature": 0.5, "guided_json": {"a": None}, "top_k": 3}


def test_messages_as_a_string_of_json(tmp_path):
    assert asked(item_of(tmp_path, {"messages": json.dumps(TURNS)})) == {"messages": TURNS}


def test_how_an_answer_travels_is_no_part_of_the_request(tmp_path):
    assert asked(item_of(tmp_path, {"messages": HELLO, "stream": True, "stream_options": {}})) == {"messages": HELLO}


@pytest.mark.parametrize("body_as_text", [False, True])
def test_the_openai_batch_shape(tmp_path, body_as_text):
    body = {"model": "m", "messages": TURNS, "max_tokens": 5, "stream": True}
    row = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions"}
    item = item_of(tmp_path, {**row, "body": json.dumps(body) if body_as_text else body})
    assert item.id == "r-1" and item.named
    assert asked(item) == {"model": "m", "messages": TURNS, "max_tokens": 5}
    assert "only '/v1/chat/completions' can be asked" in fault(tmp_path, {**row, "url": "/v1/embeddings", "body": body})
    assert "'body' must be an object with 'messages'" in fault(tmp_path, {**row, "body": {"input": "x"}})


STRUCT = pa.struct([
    ("role", pa.string()),
    ("content", pa.string()),
    ("tool_calls", pa.list_(pa.struct([
        ("id", pa.string()), ("type", pa.string()),
        ("function", pa.struct([("name", pa.string()), ("arguments", pa.string())])), ("index", pa.int64()),
    ]))),
    ("tool_call_id", pa.string()),
    ("name", pa.string()),
])  # fmt: skip
TOOL_TURNS = [{**turn, "content": "What is it?"} if isinstance(turn["content"], list) else turn for turn in TURNS]


def test_structs_of_parquet_lose_only_their_filler(tmp_path):
    """A struct has every field in every message; what a message does not say is null there."""
    pq.write_table(
        pa.table({"id": ["a"], "messages": pa.array([TOOL_TURNS], pa.list_(STRUCT))}), tmp_path / "a.parquet"
    )
    pl.DataFrame({"id": ["a"], "messages": [TOOL_TURNS]}, strict=False).write_parquet(tmp_path / "b.parquet")
    for name in ("a", "b"):
        (item,) = items(tmp_path / f"{name}.parquet")
        assert asked(item) == {"messages": TOOL_TURNS}
        assert item.id == "a"


def test_messages_in_a_frame():
    source = Source(None, frame=pl.DataFrame({"id": [7], "messages": [TOOL_TURNS], "seed": [3]}, strict=False))
    (block,) = source.blocks()
    (item,) = Itemizer(build({}), source.columns()).items(block)
    assert asked(item) == {"messages": TOOL_TURNS, "seed": 3}
    assert item.id == "7"


def test_image_parts_in_parquet(tmp_path):
    turns = [TURNS[1], {"role": "user", "content": [{"type": "text", "text": "And now?"}]}]
    pq.write_table(pa.Table.from_pylist([{"messages": turns}]), tmp_path / "in.parquet")
    (item,) = items(tmp_path / "in.parquet")
    assert asked(item) == {"messages": turns}


def test_parameters_in_parquet(tmp_path):
    kind, other = {"type": "text", "x": None}, {"type": "json_object", "x": 1}
    turns, hello = json.dumps(TURNS), json.dumps(HELLO)
    rows = [
        {"messages": turns, "temperature": 0.5, "max_tokens": 3, "response_format": kind},
        {"messages": hello, "temperature": None, "max_tokens": None, "response_format": None},
        {"messages": hello, "temperature": float("nan"), "max_tokens": 7, "response_format": other},
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "in.parquet")
    one, two, three = items(tmp_path / "in.parquet")
    assert asked(one) == {"messages": TURNS, "temperature": 0.5, "max_tokens": 3, "response_format": {"type": "text"}}
    assert asked(two) == {"messages": HELLO}
    assert asked(three) == {"messages": HELLO, "max_tokens": 7, "response_format": other}


def test_whole_numbers_written_as_floats(tmp_path):
    """As pandas writes a column of integers in which some are missing."""
    columns = {
        "messages": [json.dumps(HELLO)] * 2,
        "max_tokens": [64.0, None],
        "seed": [None, 3.0],
        "temperature": [1.0, 0.0],
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "in.parquet")
    one, two = items(tmp_path / "in.parquet")
    assert repr(asked(one)) == repr({"messages": HELLO, "max_tokens": 64, "temperature": 1.0})
    assert repr(asked(two)) == repr({"messages": HELLO, "seed": 3, "temperature": 0.0})
    body = {"messages": HELLO, "max_completion_tokens": 2e3, "top_logprobs": 5.0, "n": 1.0, "top_k": 20.0}
    found = asked(item_of(tmp_path, {"body": body}))
    assert repr(list(found.values())[1:]) == "[2000, 5, 1, 20.0]"
    for wrong in (64.5, -1.0):
        assert "max_tokens must be a whole number, 1 or more" in fault(
            tmp_path, {"messages": HELLO, "max_tokens": wrong}
        )


def test_columns_named_in_the_job_are_sent_whatever_the_rows_are(tmp_path):
    job = {"input": {"params": ["seed", "odd"], "carry": ["odd"]}}
    row = {"messages": HELLO, "odd": {"a": 1}, "other": 2, "seed": None}
    item = item_of(tmp_path, row, **job)
    assert asked(item) == {"messages": HELLO, "odd": {"a": 1}} and json.loads(item.carry) == {"odd": {"a": 1}}
    with_body = {"body": {"messages": HELLO, "else": 1}, "seed": 4, "other": 2}
    assert asked(item_of(tmp_path, with_body, **job)) == {"messages": HELLO, "else": 1, "seed": 4}
    prompted = item_of(tmp_path, {"text": "hello", "seed": 4, "top_k": 2}, prompt={"user": "{{ text }}"}, **job)
    assert asked(prompted) == {"messages": HELLO, "seed": 4}
    assert "seed must be a whole number; found 'x'" in fault(
        tmp_path, {"text": "a", "seed": "x"}, prompt={"user": "{{ text }}"}, **job
    )
    pl.DataFrame({"messages": [json.dumps(HELLO)]}).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(JobError, match=r"input\.params names the column 'odd', which is not there"):
        items(tmp_path / "in.parquet", **job)


@pytest.mark.parametrize(
    ("name", "sent", "stays"),
    [
        ("user", "u1", 17), ("metadata", {"a": "b"}, {"a": 1}), ("store", True, "Berlin"), ("priority", 3, "high"),
        ("regex", "a+", ["a"]), ("echo", False, "?"), ("prediction", {"type": "content", "content": "x"}, "positive"),
        ("reasoning", {"effort": "low"}, "because"), ("thinking", {"type": "enabled"}, "hm"), ("models", ["a"], "a"),
        ("provider", {"order": ["x"]}, "openai"), ("usage", {"include": True}, {"total_tokens": 3}), ("verbosity", "low", "7"),
    ],
)  # fmt: skip
def test_a_column_that_cannot_be_the_parameter_of_its_name_is_none(tmp_path, name, sent, stays):
    assert asked(item_of(tmp_path, {"messages": HELLO, name: sent})) == {"messages": HELLO, name: sent}
    assert asked(item_of(tmp_path, {"messages": HELLO, name: stays})) == {"messages": HELLO}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"messages": HELLO, "temperature": 3}, "temperature must be a number from 0 to 2; found 3"),
        (
            {"messages": HELLO, "n": 2},
            "n must be 1 (a row holds one answer; for several answers to one prompt set sweep",
        ),
        ({"messages": HELLO, "n": 2, "top_p": 9}, "; top_p must be a number from 0 to 1; found 9"),
        ({"messages": HELLO, "seed": "1"}, "seed must be a whole number; found '1'"),
        ({"messages": []}, "'messages' must be a list with at least one message"),
        ({"messages": None}, "'messages' must be a list with at least one message"),
        ({"messages": "hello"}, "'messages' is a string, but not of JSON"),
        ({"messages": "[" * 100_000}, "'messages' is a string, but not of JSON"),
        ({"messages": [{"content": "x"}]}, "each message must be an object with a 'role'; found {'content': 'x'}"),
        ({"messages": ["x"]}, "each message must be an object with a 'role'; found 'x'"),
        ({"text": "x", "n": 3}, "has neither 'messages' nor 'body', and the job has no [prompt]; there are: text, n"),
        ({"id": [1], "messages": HELLO}, "an id must be a string or a number; found [1]"),
        ({"id": True, "messages": HELLO}, "an id must be a string or a number; found True"),
    ],
)
def test_a_row_that_cannot_be_asked_says_where_and_why(tmp_path, row, told):
    said = fault(tmp_path, row)
    assert said.startswith("in.jsonl, line 1: ")
    assert told in said


def test_a_line_that_cannot_be_read_is_an_item_too(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"messages": \n{"messages": \n')
    one, two = items(tmp_path / "in.jsonl")
    assert one.fault == "in.jsonl, line 1: not valid JSON: Input data was truncated"
    assert one.id != two.id


# ---------------------------------------------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"id": "a"}, "a"), ({"id": 7}, "7"), ({"id": 0}, "0"), ({"custom_id": "c"}, "c"),
        ({"id": "a", "custom_id": "c"}, "a"), ({"id": None, "custom_id": "c"}, "c"),
    ],
)  # fmt: skip
def test_the_id_of_a_row(tmp_path, row, told):
    item = item_of(tmp_path, {"messages": HELLO, **row})
    assert (item.id, item.named) == (told, True)
    assert asked(item) == {"messages": HELLO}


def test_a_row_without_id_has_a_hash_of_its_content(tmp_path):
    one = item_of(tmp_path, {"messages": HELLO, "top_k": 1})
    assert not one.named and len(one.id) == 16
    assert item_of(tmp_path, {"top_k": 1, "messages": HELLO}).id == one.id
    assert item_of(tmp_path, {"top_k": 2, "messages": HELLO}).id != one.id
    for empty in (None, ""):
        assert not item_of(tmp_path, {"messages": HELLO, "id": empty}).named


def test_the_id_column_can_be_named(tmp_path):
    item = item_of(tmp_path, {"messages": HELLO, "key": 5, "id": "other"}, input={"id": "key"})
    assert item.id == "5"
    assert asked(item) == {"messages": HELLO}
    assert "input.id names the column 'key', which is not there; there are: messages" in fault(
        tmp_path, {"messages": HELLO}, input={"id": "key"}
    )


def test_ids_of_a_table(tmp_path):
    frame = pl.DataFrame(
        {
            "number": [1, None],
            "price": [decimal.Decimal("12345678901234567890"), None],
            "day": [datetime.date(2026, 1, 5), None],
            "real": [1.5, float("nan")],
            "text": ["x", "y"],
        }
    )
    frame.write_parquet(tmp_path / "in.parquet")
    for column, told in (("number", "1"), ("price", "12345678901234567890"), ("day", "2026-01-05"), ("real", "1.5")):
        one, two = items(tmp_path / "in.parquet", input={"id": column}, prompt={"user": "{{ text }}"})
        assert (one.id, one.named, two.named) == (told, True, False)


# --------------------------------------------------------------------------------------------------- carried along


def test_carried_columns_are_not_sent_unless_they_are_parameters(tmp_path):
    row = {"messages": HELLO, "label": "x", "temperature": 1, "top_k": 3}
    item = item_of(tmp_path, row, input={"carry": ["label", "temperature", "gone"]})
    assert json.loads(item.carry) == {"label": "x", "temperature": 1, "gone": None}
    assert asked(item) == {"messages": HELLO, "temperature": 1, "top_k": 3}


def test_everything_can_be_carried(tmp_path):
    item = item_of(tmp_path, {"id": "a", "messages": HELLO, "label": "x"}, input={"carry": "*"})
    assert json.loads(item.carry) == {"id": "a", "label": "x"}
    row = {"custom_id": "a", "body": {"messages": HELLO}, "label": "x"}
    assert json.loads(item_of(tmp_path, row, input={"carry": "*"}).carry) == {"custom_id": "a", "label": "x"}


def test_any_type_of_a_table_can_be_carried(tmp_path):
    table = pa.table(
        {
            "text": ["x"],
            "at": pa.array([0], pa.timestamp("ns", "UTC")),
            "took": pa.array([1], pa.duration("us")),
            "price": [decimal.Decimal("1.50")],
            "raw": [b"\xff"],
            "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
            "nan": [float("nan")],
            "big": pa.array([2**64 - 1], pa.uint64()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    (item,) = items(tmp_path / "in.parquet", input={"carry": "*"}, prompt={"user": "{{ text }}"})
    assert json.loads(item.carry) == {
        "text": "x", "at": "1970-01-01T00:00:00Z", "took": "PT0.000001S", "price": "1.50", "raw": "/w==",
        "map": [["a", 1]], "nan": None, "big": 2**64 - 1,
    }  # fmt: skip


def test_a_faulty_row_is_carried_along_too(tmp_path):
    item = item_of(tmp_path, {"id": "a", "messages": [], "label": "x"}, input={"carry": ["label"]})
    assert item.id == "a" and item.fault is not None and json.loads(item.carry) == {"label": "x"}


# -------------------------------------------------------------------------------------------------------- tables


def test_a_table_and_a_template(tmp_path):
    (tmp_path / "in.csv").write_text('id,text,stars\n7,"fine, thanks",5\n8,meh,2\n')
    prompt = {"system": "You label reviews.", "user": "Review: {{ text }} ({{ stars }})"}
    one, two = items(tmp_path / "in.csv", prompt=prompt, input={"carry": ["stars"]})
    assert asked(one) == {
        "messages": [
            {"role": "system", "content": "You label reviews."},
            {"role": "user", "content": "Review: fine, thanks (5)"},
        ]
    }
    assert (two.id, two.row, two.carry) == ("8", 1, '{"stars":"2"}')


def test_a_prompt_of_messages(tmp_path):
    prompt = {
        "messages": [
            {"role": "user", "content": "Describe a picture."},
            {"role": "assistant", "content": "{A} cat."},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "{{ url }}", "detail": "low"}}]},
        ]
    }
    content = asked(item_of(tmp_path, {"url": "http://h/x.png"}, prompt=prompt))
    assert content["messages"][1]["content"] == "{A} cat."
    assert content["messages"][2]["content"] == [
        {"type": "image_url", "image_url": {"url": "http://h/x.png", "detail": "low"}}
    ]


def test_prompt_variants_come_in_the_order_of_the_sweep(tmp_path):
    job = {
        "prompts": {"a": {"user": "A {{ x }}"}, "b": {"user": "B {{ x }}"}, "c": {"user": "{{ not_tried }}"}},
        "sweep": {"prompt": ["b", "a"]},
    }
    item = item_of(tmp_path, {"x": 1}, **job)
    assert [content["messages"][0]["content"] for content in item.contents] == ["B 1", "A 1"]


def test_a_table_is_held_against_the_job_before_any_row(tmp_path):
    pl.DataFrame({"text": ["x"], "stars": [1]}).write_parquet(tmp_path / "in.parquet")
    job = {"prompt": {"user": "{{ txt }} {{ stars }}"}, "input": {"id": "key", "carry": ["stars", "label"]}}
    with pytest.raises(JobError) as caught:
        items(tmp_path / "in.parquet", **job)
    assert caught.value.mistakes == [
        "prompt: the template uses the column 'txt', which is not there (did you mean 'text'?); "
        "the columns are: text, stars",
        "input.id names the column 'key', which is not there; the columns are: text, stars",
        "input.carry names the column 'label', which is not there; the columns are: text, stars",
    ]
    with pytest.raises(
        JobError, match=r"the input is a table without a 'messages' column, so the job needs a \[prompt\]"
    ):
        items(tmp_path / "in.parquet")


def test_a_missing_column_of_a_line_is_the_fault_of_that_line(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"text": "x"}\n{"txt": "y", "n": 1}\n')
    one, two = items(tmp_path / "in.jsonl", prompt={"user": "{{ text }}"})
    assert asked(one) == {"messages": [{"role": "user", "content": "x"}]}
    assert two.fault == (
        "in.jsonl, line 2: the template uses the column 'text', which is not there (did you mean 'txt'?); "
        "the columns are: txt, n"
    )


def test_every_wrong_template_is_told(tmp_path):
    prompts = {"a": {"user": "{{ x"}, "b": {"system": "{% if %}", "user": "u"}, "c": {"user": "{{ x | nope }}"}}
    with pytest.raises(JobError) as caught:
        item_of(tmp_path, {"x": 1}, prompts=prompts, sweep={"prompt": list(prompts)})
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "prompts.a.user", "prompts.b.system", "prompts.c.user",
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------ templates


def render(text: str, **columns) -> str:
    (message,) = Prompt(PromptSection(user=text)).render(columns)
    return message["content"]


NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "columns", "rendered"),
    [
        ("plain { text }", {}, "plain { text }"),
        ("a\n{{ x }}\n", {"x": "<b>&"}, "a\n<b>&\n"),
        ("{{ x or '' }}", {"x": None}, ""),
        ("{{ x or 0 }}", {"x": NAN}, "0"),
        ("{{ x | default('none') }}", {"x": None}, "none"),
        ("{{ x | default('none') }}", {}, "none"),
        ("{% if x is defined %}{{ x }}{% else %}no{% endif %}", {}, "no"),
        ("{% if x is none %}no{% endif %}", {"x": None}, "no"),
        ("{% if x == none %}no{% endif %}{% if x != none %}yes{% endif %}", {"x": None}, "no"),
        ("{{ a if a else b }}", {"a": None, "b": "b"}, "b"),
        ("{{ x is number }} {{ x in ['a'] }}", {"x": None}, "False False"),
        ("{{ meta.author or 'unknown' }}", {"meta": {"author": None}}, "unknown"),
        ("{{ meta | tojson }}", {"meta": {"a": [None, 1], "é": True}}, '{"a":[null,1],"é":true}'),
        ("{% for tag in tags or [] %}{{ tag }},{% endfor %}", {"tags": ["a", "b"]}, "a,b,"),
        ("{% for tag in tags or [] %}{{ tag }},{% endfor %}", {"tags": None}, ""),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", {}, "012"),
        ("{{ row['Review Text'] }}", {"Review Text": "fine"}, "fine"),
        ("{{ row['x y'] or '' }}", {"x y": None}, ""),
        ("{{ row | tojson }}", {"a": 1, "b c": None}, '{"a":1,"b c":null}'),
        ("{{ row }}{{ row }}", {"row": 5}, "55"),
        ("{{ day.year }}", {"day": datetime.date(2026, 1, 5)}, "2026"),
    ],
)  # fmt: skip
def test_templates(text, columns, rendered):
    assert render(text, **columns) == rendered


@pytest.mark.parametrize(
    "text",
    [
        "{{ x }}", "{{ x | trim }}", "{{ x | upper }}", "{{ x ~ 'y' }}", "{{ 'y' ~ x }}", "{{ '%s' | format(x) }}",
        "{{ [x] }}", "{{ {'a': x} }}", "{{ [x, 'a'] | join }}", "{{ x | length }}", "{{ x | string }}", "{{ x.y }}",
        "{{ x[0] }}", "{{ x + 'y' }}", "{% for y in x %}{% endfor %}", "{% set y = x %}{{ y }}", "{{ x | int }}",
        "{{ x | replace('a', 'b') }}", "{{ row['x'] }}", "{{ row.x }}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("null", [None, NAN])
def test_a_null_never_becomes_text(text, null):
    with pytest.raises(TemplateFault, match=r"^'x' is null, .*; write \{\{ x or '' \}\} if it may be left out"):
        render(text, x=null)


@pytest.mark.parametrize(
    ("text", "columns", "told"),
    [
        ("{{ meta.author }}", {"meta": {"author": None}}, "'meta.author' is null"),
        ("{{ tags | join(',') }}", {"tags": ["a", None]}, "'tags[1]' is null"),
        ("{{ row['x y'] }}", {"x y": None}, "write {{ row['x y'] or '' }} if it may be left out"),
        ("{{ {}.get('x') }}", {}, "an expression of the template is null"),
        ("{{ a or '' }}{{ b }}", {"a": None, "b": None}, "'b' is null"),
        ("{{ text }}", {"txt": 1}, "uses the column 'text', which is not there (did you mean 'txt'?); the columns are: txt"),
        ("{{ x or '' }}", {"y": 1}, "uses the column 'x', which is not there; the columns are: y"),
        (
            "{{ Ticket / Text }}",
            {"Ticket / Text": 1},
            "the columns are: Ticket / Text. A column whose name is not a plain word is written {{ row['Ticket / Text'] }}",
        ),
        ("{{ row['a b'] }}", {"a c": 1}, "uses the column 'a b', which is not there (did you mean 'a c'?)"),
        ("{{ lipsum() }}", {"y": 1}, "uses the column 'lipsum', which is not there"),
        ("{{ meta.nope }}", {"meta": {}}, "the template fails: 'dict object' has no attribute 'nope'"),
        ("{{ x + 1 }}", {"x": "a"}, "the template fails: TypeError"),
        ("{{ 1 / x }}", {"x": 0}, "the template fails: ZeroDivisionError"),
        ("{{ x.__class__.__mro__ }}", {"x": "a"}, "the template fails: SecurityError"),
        ("{{ tags.append(1) }}", {"tags": []}, "the template fails: SecurityError"),
    ],
)  # fmt: skip
def test_a_template_that_fails_says_why(text, columns, told):
    with pytest.raises(TemplateFault) as caught:
        render(text, **columns)
    assert told in str(caught.value)


def test_nothing_in_a_template_is_random():
    with pytest.raises(JobError, match="No filter named 'random'"):
        render("{{ [1, 2] | random }}")


def test_columns_a_template_can_do_without_need_not_be_there():
    prompt = Prompt(
        PromptSection(user="{{ a }}{{ b | default('') }}{% if c is defined %}{{ c }}{% endif %}{{ row['d e'] }}")
    )
    assert prompt.missing([]) == ["a", "d e"]
    assert prompt.missing(["a", "d e"]) == []
    assert prompt.missing(["row", "a"]) == []
