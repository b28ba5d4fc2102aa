"""The identity of requests: what makes a key, what does not, and that none comes twice."""

import json
import tomllib

import msgspec
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.request_keys import KeySet
from batchflex.core.types import Item, Request
from batchflex.plan.planner import Planner, points
from batchflex.plan.reading import Fault
from batchflex.plan.rows import Itemizer
from batchflex.plan.source import Block

MODERATE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
MODEL = {"model": "m"}


def plan(job: Job, rows: list, block: int = 3, default_model: str | None = None) -> list[Request]:
    """The requests of rows as a JSONL file would give them, some rows at a time."""
    itemizer, planner = Itemizer(job), Planner(job, KeySet(), default_model)
    requests = []
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        lines = list(range(start + 1, start + len(part) + 1))
        requests += planner.requests(itemizer.items(Block("in.jsonl", part, range(start, start + len(part)), lines)))
    return requests


def bodies(requests: list[Request]) -> list[dict]:
    return [json.loads(request.body) for request in requests]


def keys(requests: list[Request]) -> list[bytes]:
    return [request.key for request in requests]


def row(content: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": content}], **more}


# --------------------------------------------------------------------------------------------------- what is sent


def test_what_wins_over_what():
    """Params lie beneath the rows, the sweep above them, and override above all."""
    job = build(
        {
            "params": {"model": "m", "temperature": 0.1, "top_p": 0.1, "max_tokens": 1},
            "sweep": {"temperature": [0.2]},
            "override": {"max_tokens": 4},
        }
    )
    (request,) = plan(job, [row("a", temperature=0.3, top_p=0.3, max_tokens=3, top_k=5)])
    assert json.loads(request.body) == {
        "model": "m", "temperature": 0.2, "top_p": 0.3, "max_tokens": 4, "top_k": 5, **row("a"),
    }  # fmt: skip
    assert request.max_tokens == 4


def test_the_limit_on_the_answer_is_known():
    job = build({"params": MODEL})
    requests = plan(job, [row("a"), row("b", max_tokens=3), row("c", max_tokens=3, max_completion_tokens=4)])
    assert [request.max_tokens for request in requests] == [None, 3, 4]


def test_a_request_without_a_model_is_a_fault():
    assert "no model is named: set params.model" in plan(build({}), [row("a")])[0].fault
    assert bodies(plan(build({}), [row("a")], default_model="local"))[0]["model"] == "local"
    job = build({"params": MODEL})
    assert [b["model"] for b in bodies(plan(job, [row("a"), row("a", model="x")], default_model="local"))] == ["m", "x"]


def test_the_grid_moves_its_last_variable_fastest():
    job = build({"params": MODEL, "sweep": {"temperature": [0, 1.0], "model": ["a", "b"], "samples": 2}})
    assert [point.label for point in points(job)] == [
        '{"temperature":0,"model":"a"}', '{"temperature":0,"model":"b"}',
        '{"temperature":1.0,"model":"a"}', '{"temperature":1.0,"model":"b"}',
    ]  # fmt: skip
    requests = plan(job, [row("x", id="i"), row("y", id="j")])
    assert [(r.id, r.point, r.sample) for r in requests] == [
        (i, p, s) for i in ("i", "j") for p in range(4) for s in range(2)
    ]
    assert [(b["temperature"], b["model"]) for b in bodies(requests)[:4]] == [(0, "a"), (0, "a"), (0, "b"), (0, "b")]


def test_prompts_are_swept_and_no_part_of_the_body():
    job = build(
        {
            "params": MODEL,
            "prompts": {"long": {"user": "Long: {{ x }}"}, "short": {"user": "{{ x }}"}},
            "sweep": {"prompt": ["short", "long"], "temperature": [0, 1]},
        }
    )
    requests = plan(job, [{"x": "a"}])
    assert [(b["messages"][0]["content"], b["temperature"]) for b in bodies(requests)] == [
        ("a", 0), ("a", 1), ("Long: a", 0), ("Long: a", 1),
    ]  # fmt: skip
    assert all("prompt" not in body for body in bodies(requests))


def test_samples_have_seeds_of_their_own():
    job = {"params": MODEL, "sweep": {"samples": 3}}
    assert [b["seed"] for b in bodies(plan(build(job), [row("a")]))] == [0, 1, 2]
    job["params"] = {"model": "m", "seed": 10}
    assert [b["seed"] for b in bodies(plan(build(job), [row("a"), row("a", seed=5)]))] == [10, 11, 12, 5, 6, 7]
    job["override"] = {"seed": 7}
    assert [b["seed"] for b in bodies(plan(build(job), [row("a", seed=5)]))] == [7, 8, 9]


def test_swept_seeds_are_left_alone():
    job = build({"params": MODEL, "sweep": {"samples": 2, "seed": [4, 9]}})
    requests = plan(job, [row("a")])
    assert [b["seed"] for b in bodies(requests)] == [4, 4, 9, 9]
    assert len(set(keys(requests))) == 4


def test_one_sample_sets_no_seed():
    assert "seed" not in bodies(plan(build({"params": MODEL}), [row("a")]))[0]


# ------------------------------------------------------------------------------------------------ rows that are alike


def test_equal_rows_are_numbered_or_asked_once():
    rows = [row("a"), row("b"), row("a"), row("a")]
    requests = plan(build({"params": MODEL}), rows, block=2)
    first = requests[0].id
    assert [r.id for r in requests] == [first, requests[1].id, f"{first}-1", f"{first}-2"]
    assert len(set(keys(requests))) == len({r.slot for r in requests}) == 4
    once = plan(build({"params": MODEL, "input": {"dedupe": True}}), rows, block=2)
    assert [r.row for r in once] == [0, 1]


def test_named_rows_with_the_same_id_and_body_are_numbered():
    requests = plan(build({"params": MODEL}), [row("a", id="x")] * 3, block=2)
    assert [r.id for r in requests] == ["x", "x-1", "x-2"]
    assert len(set(keys(requests))) == len({r.slot for r in requests}) == 3


def test_rows_that_share_an_id_but_not_a_body_keep_keys_of_their_own():
    """Both are asked and both have a slot; only the slots depend on their order."""
    a, b = row("a", id="x"), row("b", id="x")
    one, two = plan(build({"params": MODEL}), [a, b]), plan(build({"params": MODEL}), [b, a])
    assert [r.id for r in one] == ["x", "x"]
    assert len({r.slot for r in one}) == 2
    assert set(keys(one)) == set(keys(two))
    assert one[0].slot == two[0].slot and one[1].slot == two[1].slot
    three = plan(build({"params": MODEL}), [a, b, a])
    assert keys(three)[:2] == keys(one) and len(set(keys(three))) == len({r.slot for r in three}) == 3


def test_rows_with_ids_of_their_own_and_one_body_are_two_requests_unless_deduped():
    rows = [row("a", id="x"), row("a", id="y")]
    requests = plan(build({"params": MODEL}), rows)
    assert [r.id for r in requests] == ["x", "y"] and len(set(keys(requests))) == 2
    assert [r.id for r in plan(build({"params": MODEL, "input": {"dedupe": True}}), rows)] == ["x"]


def test_prompts_that_come_out_the_same_are_asked_each():
    """A researcher compares the points: none may borrow another's answer, nor be left out."""
    for dedupe in (False, True):
        job = build(
            {
                "params": MODEL,
                "input": {"dedupe": dedupe},
                "prompts": {"a": {"user": "{{ x }}"}, "b": {"user": "{{ x }}{{ y or '' }}"}},
                "sweep": {"prompt": ["a", "b"]},
            }
        )
        requests = plan(job, [{"id": "i", "x": "same", "y": None}])
        assert [(r.id, r.point) for r in requests] == [("i", 0), ("i", 1)]
        assert requests[0].body == requests[1].body
        assert len(set(keys(requests))) == len({r.slot for r in requests}) == 2


def test_a_faulty_row_has_its_requests_too():
    for dedupe in (False, True):
        job = build(
            {"params": MODEL, "input": {"dedupe": dedupe}, "sweep": {"temperature": [0, 1], "samples": 2}},
        )
        rows = [Fault("broken"), row("a", n=2), Fault("broken"), row("a", n=2)]
        requests = plan(job, rows)
        assert len(requests) == len(set(keys(requests))) == len({r.slot for r in requests}) == 16
        assert {r.fault.split(":")[0] for r in requests} == {f"in.jsonl, line {n}" for n in (1, 2, 3, 4)}


def test_values_that_json_does_not_have_make_a_body_all_the_same():
    item = Item(0, "a", True, ({**row("x"), "weird": {"a", "b"} - {"b"}},), None)
    (request,) = Planner(build({"params": MODEL}), KeySet()).requests([item])
    assert json.loads(request.body)["weird"] == ["a"]


# ------------------------------------------------------------------------------------------------ what makes a key


def test_what_does_not_make_a_key():
    job = build({"params": {"model": "m", "temperature": 0.5}})
    (key,) = keys(plan(job, [row("a", id="x", top_k=1)]))
    again = [
        plan(build({"params": {"temperature": 0.5, "model": "m"}}), [row("a", id="x", top_k=1)]),
        plan(
            build({"params": {"model": "other"}}),
            [{"top_k": 1, "temperature": 0.5, "model": "m", "id": "x", **row("a")}],
        ),
        plan(build({"override": {"model": "m", "temperature": 0.5}}), [row("a", custom_id="x", top_k=1, stream=True)]),
        plan(build({"sweep": {"temperature": [0.5]}, "params": MODEL}), [row("a", id="x", top_k=1)]),
        plan(build({"params": {"temperature": 0.5}}), [{"custom_id": "x", "body": row("a", top_k=1, model="m")}]),
        plan(
            build({"params": {"temperature": 0.5}, "limits": {"rpm": 3}}),
            [row("a", id="x", top_k=1)],
            default_model="m",
        ),
    ]
    assert [keys(requests) for requests in again] == [[key]] * len(again)


def test_the_order_inside_a_schema_makes_a_key():
    a, b = {"a": {"type": "string"}}, {"b": {"type": "string"}}
    one, two = ({"type": "json_object", "schema": {"properties": p}} for p in (a | b, b | a))
    job = build({"params": MODEL})
    assert keys(plan(job, [row("x", response_format=one)])) != keys(plan(job, [row("x", response_format=two)]))


def test_a_job_read_back_makes_the_same_requests():
    schema = {
        "type": "json_schema",
        "json_schema": {"schema": {"properties": {"b": {}, "a": {}}, "type": "object"}, "name": "x"},
    }
    data = {"params": {**MODEL, "response_format": schema}, "sweep": {"logit_bias": [{"5": 1}, {"6": 1}], "seed": [1]}}
    job = build(data)
    again = build(tomllib.loads(job.to_toml()))
    assert plan(again, [row("a")]) == plan(job, [row("a")])
    assert [p.label for p in points(again)] == [p.label for p in points(job)]


def test_the_order_of_the_swept_variables_makes_neither_keys_nor_slots():
    one = plan(build({"params": MODEL, "sweep": {"seed": [1, 2], "temperature": [0, 1]}}), [row("a")])
    two = plan(build({"params": MODEL, "sweep": {"temperature": [0, 1], "seed": [1, 2]}}), [row("a")])
    assert {(r.key, r.slot) for r in one} == {(r.key, r.slot) for r in two}


def test_an_unused_column_asks_nothing_again():
    job = build({"params": MODEL, "prompt": {"user": "{{ x }}"}})
    assert keys(plan(job, [{"x": 1}])) == keys(plan(job, [{"x": 1, "y": 2}]))


def test_a_changed_job_has_the_same_slots():
    one = plan(build({"params": MODEL, "prompt": {"user": "{{ x }}"}, "sweep": {"seed": [1, 2]}}), [{"x": 1}, {"x": 2}])
    two = plan(
        build({"params": MODEL, "prompt": {"user": "!{{ x }}"}, "sweep": {"seed": [1, 2]}}), [{"x": 1}, {"x": 2}]
    )
    assert [r.slot for r in one] == [r.slot for r in two]
    assert not set(keys(one)) & set(keys(two))


# ----------------------------------------------------------------------------------------- properties of any plan

IDS = st.none() | st.sampled_from(["a", "b", "c", 1, "1"])
ROWS = st.lists(
    st.builds(
        lambda content, id, temperature: {
            **row(content),
            **({} if id is None else {"id": id}),
            **({} if temperature is None else {"temperature": temperature}),
        },
        st.sampled_from(["x", "y", ""]),
        IDS,
        st.none() | st.sampled_from([0, 0.5, 3]),
    )
    | st.just(Fault("broken")),
    max_size=9,
)
GRIDS = st.fixed_dictionaries(
    {"samples": st.integers(1, 3)},
    optional={
        "temperature": st.lists(st.sampled_from([0, 0.5, 1.0, 1]), min_size=1, max_size=3, unique_by=repr),
        "seed": st.lists(st.integers(0, 3), min_size=1, max_size=2, unique=True),
        "model": st.lists(st.sampled_from(["m", "n"]), min_size=1, unique=True),
    },
)


def unique_ids(rows: list) -> list[dict]:
    return [{**r, "id": f"id{i}"} for i, r in enumerate(rows) if not isinstance(r, Fault)]


@MODERATE
@given(ROWS, GRIDS, st.integers(1, 4))
def test_every_row_point_and_sample_has_one_request_with_a_key_and_a_slot_of_its_own(rows, grid, block):
    job = build({"params": MODEL, "sweep": grid})
    requests = plan(job, rows, block)
    count = len(rows) * len(points(job)) * job.sweep.samples
    assert len(requests) == count
    assert len(set(keys(requests))) == count
    assert len({r.slot for r in requests}) == count
    places = [(r.row, r.point, r.sample) for r in requests]
    assert places == sorted(set(places))
    assert all((r.fault is None) == bool(json.loads(r.body).get("messages")) for r in requests)


@MODERATE
@given(ROWS, GRIDS, st.integers(1, 4), st.integers(1, 4))
def test_the_plan_does_not_depend_on_how_the_input_is_cut_into_blocks(rows, grid, one, two):
    job = build({"params": MODEL, "sweep": grid})
    assert plan(job, rows, one) == plan(job, rows, two)


@MODERATE
@given(ROWS, GRIDS, st.randoms())
def test_the_order_of_named_rows_does_not_make_their_keys(rows, grid, random):
    job = build({"params": MODEL, "sweep": grid})
    rows = [r for r in unique_ids(rows) if r.get("temperature") != 3]
    shuffled = random.sample(rows, len(rows))
    ordered = {(r.id, r.point, r.sample, r.key, r.slot) for r in plan(job, rows)}
    assert ordered == {(r.id, r.point, r.sample, r.key, r.slot) for r in plan(job, shuffled)}


@MODERATE
@given(ROWS, ROWS, GRIDS)
def test_rows_put_behind_change_no_key(rows, more, grid):
    job = build({"params": MODEL, "sweep": grid})
    requests = plan(job, rows)
    assert plan(job, [*rows, *more])[: len(requests)] == requests


@MODERATE
@given(ROWS, ROWS, GRIDS)
def test_rows_put_before_change_no_key_of_a_named_row(rows, before, grid):
    job = build({"params": MODEL, "sweep": grid})
    rows = [r for r in unique_ids(rows) if r.get("temperature") != 3]
    assert set(keys(plan(job, rows))) <= set(keys(plan(job, [*before, *rows])))


@MODERATE
@given(ROWS, st.integers(1, 3))
def test_more_points_and_samples_change_no_key(rows, more):
    rows = [r for r in rows if not isinstance(r, Fault)]
    few = build({"params": MODEL, "sweep": {"samples": 2, "top_p": [0.1]}})
    many = build({"params": MODEL, "sweep": {"samples": 2 + more, "top_p": [0.9, 0.1, 0.5]}})
    assert set(keys(plan(few, rows))) <= set(keys(plan(many, rows)))


@MODERATE
@given(
    ROWS,
    st.sampled_from(
        [{"model": "n"}, {"top_p": 0.5}, {"max_tokens": 9}, {"top_k": 1}, {"response_format": {"type": "text"}}]
    ),
)
def test_a_changed_parameter_changes_every_key(rows, changed):
    rows = [r for r in rows if not isinstance(r, Fault) and r.get("temperature") != 3]
    one, two = plan(build({"params": MODEL}), rows), plan(build({"params": MODEL | changed}), rows)
    assert not set(keys(one)) & set(keys(two))
    assert [r.slot for r in one] == [r.slot for r in two]


@MODERATE
@given(ROWS)
def test_dedupe_asks_each_body_once(rows):
    rows = [r for r in rows if not isinstance(r, Fault) and r.get("temperature") != 3]
    requests = plan(build({"params": MODEL, "input": {"dedupe": True}}), rows)
    sent = [r.body for r in requests]
    assert len(sent) == len(set(sent)) == len(set(keys(requests)))
    assert set(sent) == {r.body for r in plan(build({"params": MODEL}), rows)}


def test_a_request_is_small_and_frozen():
    (request,) = plan(build({"params": MODEL}), [row("a")])
    assert (len(request.key), len(request.slot)) == (16, 16)
    assert msgspec.structs.asdict(request)["row"] == 0
