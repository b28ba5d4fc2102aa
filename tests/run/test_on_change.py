"""A job that changed since its answers were given: noticed, explained, and done as ``on_change`` says."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchflex.storage import part_index
from batchflex.storage.output_folder import Folder
from tests.support.command_line import Ended, begun, called, state, table, wait_until
from tests.support.counting_endpoint import CountingEndpoint

TEXTS = ["alpha", "beta", "gamma", "delta"]
JOB: dict[str, Any] = {
    "input": {"path": "rows.jsonl"},
    "prompt": {"user": "Label: {{ text }}"},
    "params": {"model": "m", "temperature": 0.5},
    "retry": {"base_s": 0.01},
}

Ask = Callable[..., Ended]


def write_texts(folder: Path, texts: Sequence[str], *, named: bool = True) -> None:
    lines = [({"id": text[0]} if named else {}) | {"text": text} for text in texts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def toml(tables: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(tables)


@pytest.fixture
def ask(endpoint: CountingEndpoint, tmp_path: Path) -> Ask:
    """Runs the job, changed as the keyword arguments say, into the folder ``out``."""

    def run(*options: object, **changed: dict[str, Any]) -> Ended:
        tables = {name: {**JOB.get(name, {}), **changed.get(name, {})} for name in JOB.keys() | changed.keys()}
        (tmp_path / "job.toml").write_text(toml(tables | {"endpoint": {"base_url": endpoint.base_url}}))
        return called("run", tmp_path / "job.toml", "--out", tmp_path / "out", "--json", *options)

    write_texts(tmp_path, TEXTS)
    assert run().code == 0
    assert endpoint.stats()["requests"] == 4
    endpoint.reset()
    return run


def contents(tmp_path: Path) -> list[tuple[str, str]]:
    return [(id, content) for id, content in table(tmp_path / "out").select("id", "content").rows()]


def answers(texts: Sequence[str], prompt: str = "Label") -> list[tuple[str, str]]:
    return [(text[0], f"echo: {prompt}: {text}") for text in texts]


# ---------------------------------------------------------------------------------------------------------- it stops


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"params": {"temperature": 0.9}}, ["params.temperature: 0.5 → 0.9"]),
        ({"params": {"max_tokens": 9}}, ["params.max_tokens: (none) → 9"]),
        ({"prompt": {"user": "Tag: {{ text }}"}}, ["prompt.user: 'Label: {{ text }}' → 'Tag: {{ text }}'"]),
        ({"override": {"model": "n"}}, ["override.model: (none) → 'n'"]),
    ],
)
def test_by_default_a_changed_job_sends_nothing_and_says_what_changed(
    changed: dict[str, Any], named: list[str], ask: Ask, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    changing = {".lock", "history.jsonl"}
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name not in changing}
    tokens = table(out)["total_tokens"].sum()
    stopped = ask(**changed)
    assert (stopped.code, stopped.summary["error"]) == (2, "JobChanged")
    for words in [
        *named,
        "4 of 4 requests",
        f"{tokens} tokens",
        "--on-change rerun",
        "--on-change keep",
        "--out",
        "Nothing was sent",
    ]:
        assert words in stopped.err
    assert endpoint.stats()["requests"] == 0
    assert {path: path.read_bytes() for path in before} == before
    assert ask().code == 0, "and the old job is as done as it was"
    assert endpoint.stats()["requests"] == 0


def test_of_long_texts_it_shows_where_they_begin_to_differ(
    ask: Ask, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    system = "You label support tickets.\nRead all of it.\n" + "Be careful. " * 20 + "Answer with one word: yes or no."
    schema: dict[str, Any] = {"type": "object", "properties": {"label": {"enum": [f"l{n}" for n in range(30)]}}}
    asked = {"type": "json_schema", "json_schema": {"name": "label", "schema": schema}}
    given = {"prompt": {"system": system}, "params": {"response_format": asked}}
    assert ask("--out", tmp_path / "long", **given).summary["done"] == 4
    given["prompt"]["system"] = system.replace("yes or no", "yes, no or perhaps")
    schema["properties"]["label"]["enum"][20] = "other"
    stopped = ask("--out", tmp_path / "long", **given)
    assert stopped.code == 2
    assert (
        "prompt.system, line 3: '…with one word: yes or no.' → '…with one word: yes, no or perhaps.'"
    ) in stopped.err
    place = "params.response_format.json_schema.schema.properties.label.enum"
    assert f"{place}: …'l17', 'l18', 'l19', 'l20', 'l21', 'l22',… → …'l17', 'l18', 'l19', 'other', 'l21'" in stopped.err
    assert "4 of 4 requests" in stopped.err and max(map(len, stopped.err.splitlines())) < 260


def test_rows_that_share_an_id_are_counted(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Which of them an answer belonged to is not known, but how many would be sent differently is."""
    out = tmp_path / "shared"
    texts = [("a", "X"), ("a", "Y"), ("b", "Z"), ("a", "X")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts))
    assert ask("--out", out).code == 0
    tokens = table(out)["total_tokens"].sum()
    stopped = ask("--out", out, prompt={"user": "Tag: {{ text }}"})
    assert stopped.code == 2
    assert (
        "4 of 4 requests would now be sent differently" in stopped.err and f"They took {tokens} tokens" in stopped.err
    )
    texts = [("a", "X"), ("b", "Z"), ("c", "new"), ("c", "newer"), ("a", "later")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in texts))
    assert "3 of 5 requests" in ask("--out", out, prompt={"user": "Tag: {{ text }}"}).err
    assert ask("--out", out).summary["requests_sent"] == 3, "the job has not changed: rows have come and gone"


def test_a_row_that_changed_under_its_id_is_a_change(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    write_texts(tmp_path, ["alpha", "better", "gamma", "delta"])
    stopped = ask()
    assert stopped.code == 2
    assert "1 of 4 requests" in stopped.err and "rows of the input" in stopped.err
    assert endpoint.stats()["requests"] == 0
    assert ask("--on-change", "rerun").code == 0
    assert endpoint.stats()["requests"] == 1
    assert contents(tmp_path) == answers(["alpha", "better", "gamma", "delta"])


# ------------------------------------------------------------------------------------------------------- rerun and keep


def test_rerun_asks_again_what_changed_and_shows_only_that(
    ask: Ask, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    old = set(table(tmp_path / "out")["key"])
    again = ask("--on-change", "rerun", prompt={"user": "Tag: {{ text }}"})
    assert (again.code, again.summary["requests_sent"]) == (0, 4)
    assert contents(tmp_path) == answers(TEXTS, "Tag")
    assert not old & set(table(tmp_path / "out")["key"])
    parts = Folder(tmp_path / "out").parts
    assert sum(frame.height for frame in part_index.read_keys(parts, [])) == 8, "the old answers stay in parts/"
    assert (again.summary["planned"], again.summary["ok"]) == (4, 4)

    back = ask("--on-change", "rerun")
    assert (back.code, back.summary["requests_sent"]) == (0, 0), "the old job's answers are still there"
    assert contents(tmp_path) == answers(TEXTS)
    assert endpoint.stats()["requests"] == 4


def test_keep_keeps_the_old_answers_and_asks_only_for_what_has_none(
    ask: Ask, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    write_texts(tmp_path, ["epsilon", *TEXTS])
    kept = ask("--on-change", "keep", prompt={"user": "Tag: {{ text }}"})
    assert (kept.code, kept.summary["requests_sent"], kept.summary["ok"]) == (0, 1, 5)
    assert contents(tmp_path) == answers(["epsilon"], "Tag") + answers(TEXTS)
    assert table(tmp_path / "out")["row"].to_list() == [0, 1, 2, 3, 4]
    assert "that are kept: 4" in kept.err and "belong to no row" not in kept.err, "old and new are not mixed silently"
    again = ask("--on-change", "keep", prompt={"user": "Tag: {{ text }}"})
    assert (again.code, again.summary["requests_sent"]) == (0, 0)
    assert contents(tmp_path) == answers(["epsilon"], "Tag") + answers(TEXTS)

    stopped = ask(prompt={"user": "Tag: {{ text }}"})
    assert stopped.code == 2, "keeping is said each time"
    assert "4 of 5 requests" in stopped.err and "kept from an earlier job" in stopped.err


def test_a_rerun_that_is_killed_shows_no_old_answers(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    endpoint.knobs(fail_after=2, fail_with="hang")
    tables = JOB | {"prompt": {"user": "Tag: {{ text }}"}, "endpoint": {"base_url": endpoint.base_url}}
    (tmp_path / "job.toml").write_text(toml(tables))
    command = ["run", tmp_path / "job.toml", "--out", out, "--on-change", "rerun", "--concurrency", "1"]
    with begun(*command) as run:
        wait_until(lambda: endpoint.stats()["outcomes"].get("hang", 0) > 0, "half is asked")
        going = called("results", out, "-o", "-")
        run.kill()
        run.wait()
    for shown in (going, called("results", out, "-o", "-")):
        rows = [json.loads(line) for line in shown.out.splitlines()]
        assert [(row["id"], row["content"]) for row in rows] == answers(TEXTS[:2], "Tag")
    endpoint.knobs(fail_after=None)
    finished = called(*command, "--json")
    assert (finished.code, finished.summary["requests_sent"]) == (0, 2)
    assert contents(tmp_path) == answers(TEXTS, "Tag")


# -------------------------------------------------------------------------------------------------- what is no change


def test_a_sweep_point_that_is_added_is_only_new(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    first = ask(sweep={"temperature": [0.0, 0.5]})
    assert (first.code, first.summary["requests_sent"]) == (0, 4), "0.5 was asked for before it was swept"
    more = ask(sweep={"temperature": [1.0, 0.0, 0.5]})
    assert (more.code, more.summary["requests_sent"], more.summary["planned"]) == (0, 4, 12)
    results = table(tmp_path / "out")
    assert results["temperature"].to_list() == [1.0, 0.0, 0.5] * 4
    assert results["id"].to_list() == [text[0] for text in TEXTS for _ in range(3)]
    fewer = ask(sweep={"temperature": [0.0]})
    assert (fewer.code, fewer.summary["requests_sent"], fewer.summary["ok"]) == (0, 0, 4)
    assert table(tmp_path / "out")["temperature"].to_list() == [0.0] * 4
    assert endpoint.stats()["repeats"] == 0


@pytest.mark.parametrize(
    ("before", "after", "values"),
    [
        (
            {"zip": {"temperature": [0.0, 0.7], "top_p": [1.0, 0.9]}},
            {"zip": {"top_p": [0.8, 1.0, 0.9], "temperature": [0.0, 0.0, 0.7]}},
            [(0.0, 0.8), (0.0, 1.0), (0.7, 0.9)],
        ),
        (
            {"points": [{"temperature": 0.0, "top_p": 0.9}, {"temperature": 0.5}]},
            {"points": [{"temperature": 0.5}, {"top_p": 0.3}, {"top_p": 0.9, "temperature": 0.0}]},
            [(0.5, None), (None, 0.3), (0.0, 0.9)],
        ),
        (
            {"temperature": [0.0], "zip": {"top_p": [1.0, 0.5]}},
            {"points": [{"temperature": 0.0, "top_p": 1.0}, {"temperature": 0.0, "top_p": 0.5}, {"temperature": 1.5}]},
            [(0.0, 1.0), (0.0, 0.5), (1.5, None)],
        ),
    ],
    ids=["zip", "points", "from one form to another"],
)
def test_points_of_any_form_are_known_by_their_values(
    before: dict[str, Any],
    after: dict[str, Any],
    values: list[tuple[float | None, float | None]],
    ask: Ask,
    endpoint: CountingEndpoint,
    tmp_path: Path,
) -> None:
    out = tmp_path / "forms"
    first = ask("--out", out, sweep=before)
    assert (first.code, first.summary["requests_sent"]) == (0, 8)
    more = ask("--out", out, sweep=after)
    assert (more.code, more.summary["requests_sent"], more.summary["planned"]) == (0, 4, 12)
    results = table(out)
    assert results.select("temperature", "top_p").rows() == values * 4
    assert results["id"].to_list() == [text[0] for text in TEXTS for _ in range(3)]
    again = ask("--out", out, sweep=after | {"order": "row"})
    assert (again.code, again.summary["requests_sent"], again.err.count("changed")) == (0, 0, 0)
    assert endpoint.stats()["repeats"] == 0


def test_more_samples_are_only_new(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    assert ask("--out", tmp_path / "s", sweep={"samples": 2}).summary["requests_sent"] == 8
    assert ask("--out", tmp_path / "s", sweep={"samples": 3}).summary["requests_sent"] == 4
    assert table(tmp_path / "s")["sample"].to_list() == [0, 1, 2] * 4
    assert endpoint.stats()["repeats"] == 0, "each sample has a seed of its own"


@pytest.mark.parametrize("named", [True, False])
def test_rows_added_removed_and_reordered(named: bool, ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """With ids, and without: then a row is what it says."""
    out = tmp_path / ("named" if named else "unnamed")

    def given(*texts: str) -> tuple[Ended, list[str]]:
        write_texts(tmp_path, texts, named=named)
        ended = ask("--out", out)
        assert ended.code == 0, ended.err
        assert ended.summary["planned"] == ended.summary["ok"] == len(texts)
        results = table(out)
        assert results["row"].to_list() == list(range(len(texts)))
        return ended, [content.removeprefix("echo: Label: ") for content in results["content"]]

    for texts, sent in (
        (TEXTS, 4),
        ([*TEXTS, "epsilon"], 1),
        (["zeta", *TEXTS[::-1]], 1),
        (TEXTS[1:3], 0),
        (TEXTS, 0),
    ):
        ended, shown = given(*texts)
        assert (ended.summary["requests_sent"], shown) == (sent, list(texts))
    assert endpoint.stats()["repeats"] == 0
    assert "belong to no row of this job now: 2" in ended.err


def test_how_it_is_asked_is_no_change(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Limits, retries, streaming, what is carried along: none of it changes what was asked."""
    again = ask("--concurrency", "3", "--rpm", "100", "--set", "endpoint.stream=true", limits={"grace_s": 1.0})
    assert (again.code, again.summary["requests_sent"]) == (0, 0)
    assert state(tmp_path / "out")["ok"] == 4


def test_a_failed_row_does_not_make_a_change(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """There is no answer that could be lost, so there is nothing to decide."""
    endpoint.knobs(poison={"alpha": "422"})
    out = tmp_path / "failed"
    assert ask("--out", out, "--limit", "1").code == 1
    endpoint.knobs(poison={})
    assert ask("--out", out, "--limit", "1", params={"temperature": 0.1}).code == 0
    assert set(table(out)["status"]) == {"ok"}


# ------------------------------------------------------------------------------- what no single answer gives away


def test_a_variable_that_comes_into_the_sweep_is_a_change(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    stopped = ask(sweep={"top_p": [0.9]})
    assert stopped.code == 2
    assert "sweep.top_p: (none) → [0.9]" in stopped.err
    assert endpoint.stats()["requests"] == 0
    assert ask("--on-change", "rerun", sweep={"top_p": [0.9]}).code == 0
    assert endpoint.stats()["requests"] == 4


def test_an_input_that_has_become_empty_does_not_empty_the_results(
    ask: Ask, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    write_texts(tmp_path, [])
    stopped = ask()
    assert stopped.code == 2
    assert "no rows now" in stopped.err
    assert table(tmp_path / "out").height == 4


def test_another_endpoint_is_told_and_asks_nothing_again(ask: Ask, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    moved = ask("--base-url", endpoint.base_url.replace("127.0.0.1", "localhost"))
    assert moved.code == 0
    assert f"earlier answers came from {endpoint.base_url}" in moved.err
    assert endpoint.stats()["requests"] == 0


def test_rows_that_share_an_id_are_not_kept_for_each_other(
    ask: Ask, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    out = tmp_path / "out2"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": "a", "text": t}) + "\n" for t in ("X", "Y", "Z")))
    assert ask("--out", out).code == 0
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"id": "a", "text": t}) + "\n" for t in ("Y", "Z")))
    assert ask("--out", out, "--on-change", "keep", params={"temperature": 0.9}).code == 0
    assert table(out)["content"].to_list() == ["echo: Label: Y", "echo: Label: Z"]
