"""The forms of a sweep: which points they make, in which order, and which mistakes are told of them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from batchflex.config.diff import changes
from batchflex.config.job import Job
from batchflex.config.loader import build, load
from batchflex.config.sweep import Forms, SweepSection, always_set, combinations, variables
from batchflex.core.errors import JobError
from batchflex.plan.planner import points

MODERATE = settings(deadline=None, max_examples=100)
PROMPTS = {"short": {"user": "{{ x }}"}, "long": {"user": "Long: {{ x }}"}}


def job(sweep: dict[str, Any], **tables: Any) -> Job:
    return build({"params": {"model": "m"}, "sweep": sweep, **tables})


def labels(sweep: dict[str, Any], **tables: Any) -> list[str]:
    return [point.label for point in points(job(sweep, **tables))]


def mistakes(sweep: Any, **tables: Any) -> list[str]:
    with pytest.raises(JobError) as caught:
        job(sweep, **tables)
    return list(caught.value.mistakes)


# ----------------------------------------------------------------------------------------------------------- the points


def test_zip_takes_its_values_together() -> None:
    assert labels({"zip": {"temperature": [0.0, 0.7], "top_p": [1.0, 0.9]}}) == [
        '{"temperature":0.0,"top_p":1.0}', '{"temperature":0.7,"top_p":0.9}',
    ]  # fmt: skip


def test_a_point_sets_what_it_names_and_nothing_else() -> None:
    sweep = {"points": [{"model": "a", "max_tokens": 10}, {"model": "b"}, {}]}
    assert labels(sweep) == ['{"model":"a","max_tokens":10}', '{"model":"b"}', "{}"]
    assert job(sweep).sweep.variables == {"model": ["a", "b"], "max_tokens": [10]}


def test_forms_are_crossed_points_slowest_and_the_last_of_the_grid_fastest() -> None:
    sweep = {"seed": [1, 2], "zip": {"top_p": [1, 0.5]}, "points": [{"model": "a"}, {"model": "b"}], "top_k": [7, 8]}
    found = [point.values for point in points(job(sweep))]
    expected = itertools.product("ab", [1, 0.5], [1, 2], [7, 8])
    assert found == [{"model": m, "top_p": p, "seed": s, "top_k": k} for m, p, s, k in expected]
    assert [list(values) for values in found] == [["model", "top_p", "seed", "top_k"]] * 16


def test_prompts_may_be_in_any_form() -> None:
    for sweep in (
        {"prompt": ["long", "short"]},
        {"zip": {"prompt": ["long", "short"], "max_tokens": [9, 5]}},
        {"points": [{"prompt": "long"}, {"prompt": "short", "max_tokens": 5}]},
    ):
        made = job(sweep, prompts=PROMPTS)
        assert list(made.templates) == ["long", "short"]
        assert [point.variant for point in points(made)] == [0, 1]


def test_variables_have_each_value_once_in_order_of_appearance() -> None:
    sweep = {"zip": {"a": [2, 1, 2, 1.0], "b": [0, 0, 1, 1]}, "points": [{"d": [1]}, {"c": True, "d": [1]}], "e": [5]}
    expected = {"d": [[1]], "c": [True], "a": [2, 1, 1.0], "b": [0, 1], "e": [5]}
    assert repr(job(sweep).sweep.variables) == repr(expected)


def test_the_models_are_those_of_every_point() -> None:
    assert job({"points": [{"model": "a"}, {"model": "b"}]}).models == ["a", "b"]
    assert job({"points": [{"model": "a"}, {"seed": 1}]}).models == ["a", "m"]
    assert job({"zip": {"model": ["b", "c"]}}).models == ["b", "c"]


NAMES = st.sampled_from("abcdefg")
VALUES = st.one_of(st.integers(0, 3), st.booleans(), st.sampled_from(["x", "y"]))
LISTS = st.lists(VALUES, min_size=1, max_size=3, unique_by=repr)


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.permutations("abcdef"))
    sweep: dict[str, Any] = {name: draw(LISTS) for name in names[: draw(st.integers(0, 2))]}
    if draw(st.booleans()):
        entries = draw(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=3, unique_by=repr))
        sweep["zip"] = dict(zip(names[2:4], map(list, zip(*entries, strict=True)), strict=True))
    if draw(st.booleans()):
        point = st.dictionaries(st.sampled_from(names[4:]), VALUES)
        tables = draw(st.lists(point, min_size=1, max_size=3, unique_by=lambda p: repr(sorted(p.items(), key=repr))))
        sweep |= {"points": tables} if any(tables) else {}
    return sweep


@MODERATE
@given(sweeps())
def test_every_point_is_there_once_and_made_of_one_of_each_form(sweep: dict[str, Any]) -> None:
    forms = SweepSection(**sweep).forms
    found = list(combinations(forms))
    grid, zipped, tables = forms
    size = len(list(zip(*zipped.values(), strict=True))) or 1
    for values in grid.values():
        size *= len(values)
    assert len(found) == len({repr(sorted(values.items(), key=repr)) for values in found}) == size * max(1, len(tables))
    names = list(variables(forms))
    for values in found:
        assert list(values) == [name for name in names if name in values]
        assert always_set(forms) <= set(values)
        assert not tables or {n: v for n, v in values.items() if n not in {*grid, *zipped}} in tables
    for name, values in variables(forms).items():
        seen = [repr(point[name]) for point in found if name in point]
        assert list(dict.fromkeys(seen)) == [repr(value) for value in values]
    assert [point.values for point in points(job(sweep))] == found


@MODERATE
@given(sweeps())
def test_without_zip_and_points_it_is_a_grid_as_ever(sweep: dict[str, Any]) -> None:
    grid = {name: values for name, values in sweep.items() if name not in ("zip", "points")}
    assert list(combinations(Forms(grid, {}, []))) == [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    assert job(grid).resolved()["sweep"] == {"samples": 1, **grid}, "no new keys: folders of earlier runs stay theirs"


def test_the_order_of_asking_is_no_change_of_a_job() -> None:
    one, two = (job({"seed": [1], "order": order}).resolved() for order in ("row", "auto"))
    assert (one["sweep"], two["sweep"]) == ({"samples": 1, "order": "row", "seed": [1]}, {"samples": 1, "seed": [1]})
    assert changes(one, two) == changes(two, one) == []
    three = job({"zip": {"seed": [1]}}).resolved()
    assert changes(two, three) == ["sweep.seed: [1] → (none)", "sweep.zip.seed: (none) → [1]"]


# --------------------------------------------------------------------------------------------------------- the mistakes


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ({"zip": {"seed": [1, 2], "top_p": [1]}}, "sweep.zip: takes the lists value by value, so all need the same length; "
         "seed has 2, top_p has 1"),
        ({"zip": {}}, "sweep.zip: is empty"),
        ({"zip": 3}, "sweep.zip: must be a table; found 3"),
        ({"zip": {"seed": 1}}, "sweep.zip.seed: must be a list of the values to try; found 1"),
        ({"zip": {"seed": [1, 1], "top_p": [1, 1]}}, "sweep.zip: has the same values together twice; for repeated answers"),
        ({"zip": {"temperature": [0, 3]}}, "sweep.zip.temperature: must be a number from 0 to 2; found 3"),
        ({"zip": {"messages": [[]]}}, "sweep.zip.messages: cannot be swept"),
        ({"zip": {"samples": [1, 2]}}, "sweep.zip.samples: cannot be swept"),
        ({"zip": {"stream": [True]}}, "sweep.zip.stream: cannot be swept"),
        ({"zip": {"api_key": ["x"]}}, "sweep.zip.api_key: a key does not belong in a job file"),
        ({"zip": {"seed": [1]}, "seed": [2]}, "sweep.zip.seed: is swept by sweep.seed already; leave out one of the two"),
        ({"zip": {"top_k": [float("nan")]}}, "sweep.zip.top_k: holds nan, which JSON does not have"),
        ({"points": []}, "sweep.points: is empty"),
        ({"points": [{}]}, "sweep.points: names no variable"),
        ({"points": {"seed": 1}}, "sweep.points: is a list: write each of them under [[sweep.points]], in double brackets"),
        ({"points": [1]}, "sweep.points.0: must be a table; found 1"),
        ({"points": [{"seed": 1}, {"seed": 2}, {"seed": 1}]}, "sweep.points.2: is the same point as sweep.points.0"),
        ({"points": [{"seed": "x"}]}, "sweep.points.0.seed: must be a whole number; found 'x'"),
        ({"points": [{"top_k": 1}, {"messages": []}]}, "sweep.points.1.messages: cannot be swept"),
        ({"points": [{"order": "row"}]}, "sweep.points.0.order: cannot be swept"),
        ({"points": [{"password": "x"}]}, "sweep.points.0.password: a key does not belong in a job file"),
        ({"points": [{"top_k": None}]}, "sweep.points.0.top_k: holds a null, which a job file cannot; leave the key out"),
        ({"points": [{"seed": 1}], "zip": {"seed": [2]}}, "sweep.points.0.seed: is swept by sweep.zip.seed already"),
        ({"grid": {"seed": [1]}}, "sweep.grid: must be a list of the values to try, or else stand in [params]; found {'seed'"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(sweep: dict[str, Any], told: str) -> None:
    [found] = mistakes(sweep)
    assert found.startswith(told)


def test_prompts_that_are_not_there_are_told_in_every_form() -> None:
    told = "no prompt is named 'shrt'; did you mean 'short'? There are: short, long"
    assert mistakes({"zip": {"prompt": ["shrt"]}}, prompts=PROMPTS) == [f"sweep.zip.prompt: {told}"]
    assert mistakes({"points": [{"prompt": "shrt"}]}, prompts=PROMPTS) == [f"sweep.points.0.prompt: {told}"]
    some = mistakes({"points": [{"prompt": "short"}, {"seed": 1}]}, prompts=PROMPTS)
    assert some == ["sweep.points.1: names no prompt, and others do; each point needs one then"]
    both = mistakes({"points": [{"prompt": "short"}]}, prompts=PROMPTS, prompt={"user": "x"})
    assert both[0].startswith("prompt: [prompt] and sweep.prompt exclude each other")


def test_what_is_overridden_or_named_by_an_endpoint_cannot_be_swept_in_any_form() -> None:
    for sweep, place in (
        ({"zip": {"seed": [1]}}, "sweep.zip.seed"),
        ({"points": [{"seed": 1}]}, "sweep.points.0.seed"),
    ):
        assert mistakes(sweep, override={"seed": 2})[0].startswith(f"{place}: override.seed (also: --set seed=…) would")
    endpoints = [{"base_url": "http://a/v1", "model": "x"}, {"base_url": "http://b/v1", "model": "y"}]
    for sweep in ({"zip": {"model": ["a"]}}, {"points": [{"model": "a"}, {"seed": 1}]}):
        assert "and sweep.model exclude each other" in mistakes(sweep, endpoints=endpoints)[0]


def test_a_budget_needs_a_bound_in_every_point() -> None:
    limits = {"budget_tokens": 10_000}
    assert job({"points": [{"max_tokens": 5}, {"max_tokens": 6, "seed": 1}]}, limits=limits)
    assert job({"zip": {"max_tokens": [5]}}, limits=limits)
    some = mistakes({"points": [{"max_tokens": 5}, {"seed": 1}]}, limits=limits, prompt={"user": "x"})
    assert some[0].startswith("limits.budget_tokens: needs params.max_tokens")


def test_every_mistake_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    (tmp_path / "in.jsonl").touch()
    path.write_text(
        """\
[input]
path = "in.jsonl"

[sweep]
temperature = [0, 3]
zip = { seed = [1, 2], top_p = [1] }

[[sweep.points]]
model = "a"

[[sweep.points]]
model = "b"
max_tokens = 0
"""
    )
    with pytest.raises(JobError) as caught:
        load(path)
    assert [found.partition(": ")[0] for found in caught.value.mistakes] == [
        "line 5, sweep.temperature",
        "line 6, sweep.zip",
        "line 13, sweep.points.1.max_tokens",
    ]
    path.write_text('[sweep]\npoints = [\n  { model = "a" },\n  { model = "b", max_tokens = 0 },\n]\nzip = {}\n')
    with pytest.raises(JobError) as caught:
        load(path)
    assert [found.partition(": ")[0] for found in caught.value.mistakes] == [
        "line 4, sweep.points.1.max_tokens",
        "line 6, sweep.zip",
    ]
