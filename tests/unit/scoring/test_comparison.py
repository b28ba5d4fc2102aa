"""Two sides paired by item: against scipy and statsmodels, over frames, folders and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

import batchflex
from batchflex.core.errors import FolderError, JobError
from batchflex.scoring import agreement_on, comparison_sides
from tests.run.test_scores import ECHO, job
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.lazily import Lazily

scipy_stats, contingency_tables = Lazily("scipy.stats"), Lazily("statsmodels.stats.contingency_tables")


def side(scores: list[float | None], ids: list[Any] | None = None, **more: Any) -> pl.DataFrame:
    return pl.DataFrame({"id": ids or list(range(len(scores))), "score_s": pl.Series(scores, dtype=pl.Float64), **more})


def only(found: batchflex.Comparison) -> dict[str, Any]:
    (score,) = found.told["scores"]
    return dict(score)


def test_right_and_wrong_with_one_row_an_item_is_mcnemars_case() -> None:
    random = np.random.default_rng(1)
    a, b = (random.random(300) < share for share in (0.6, 0.7))
    found = only(batchflex.compare(side(a.astype(float).tolist()), side(b.astype(float).tolist())))
    wins, losses = int((b & ~a).sum()), int((a & ~b).sum())
    assert (found["wins"], found["losses"], found["ties"]) == (wins, losses, 300 - wins - losses)
    assert found["method"] == "mcnemar-exact"
    assert found["p_value"] == pytest.approx(contingency_tables.mcnemar([[0, losses], [wins, 0]], exact=True).pvalue)
    assert (found["a"], found["b"]) == (a.mean(), b.mean())
    assert found["difference"] == pytest.approx(b.mean() - a.mean())
    assert found["low"] < found["difference"] < found["high"]


def test_any_numbers_are_a_paired_t_test() -> None:
    random = np.random.default_rng(2)
    a = random.normal(size=200)
    b = a + random.normal(0.15, 1, size=200)
    found = only(batchflex.compare(side(a.tolist()), side(b.tolist())))
    theirs = scipy_stats.ttest_rel(b, a)
    interval = theirs.confidence_interval()
    assert found["method"] == "paired-t"
    assert (found["p_value"], found["df"]) == pytest.approx((theirs.pvalue, 199))
    assert (found["low"], found["high"]) == pytest.approx((interval.low, interval.high))


def test_samples_of_an_item_are_averaged_and_then_compared() -> None:
    ids = ["x", "x", "y", "y"]
    found = only(batchflex.compare(side([1, 0, 1, 1], ids), side([1, 1, 0, 1], ids)))
    assert (found["items"], found["a"], found["b"], found["difference"]) == (2, 0.75, 0.75, 0)
    assert (found["wins"], found["losses"], found["method"]) == (1, 1, "paired-t")


def test_items_of_one_side_are_counted_and_left_out() -> None:
    found = batchflex.compare(side([1, 1, None, 0], ["a", "b", "c", "d"]), side([0, 1, 1], ["b", "c", "e"]))
    assert (found.told["items"], found.told["only_a"], found.told["only_b"]) == (2, 2, 1)
    assert only(found)["items"] == 1  # c has no score in A
    assert found.flips.rows() == [("s", "b", 1, 0)]


def test_flips_come_with_what_was_said_those_that_changed_most_first() -> None:
    one = side([0.5, 0, 1], content=["a", "b", "c"])
    two = side([0.6, 1, 1], content=["d", "e", "f"])
    flips = batchflex.compare(one, two).flips
    assert flips.rows() == [("s", 1, 0, 1, "b", "e"), ("s", 0, 0.5, 0.6, "a", "d")]
    assert flips.columns == ["score", "item", "a", "b", "content_a", "content_b"]


def test_of_several_rows_that_are_shown_which_changed_as_the_item_did() -> None:
    ids = ["x", "x", "x"]
    one = side([1, 0, 1], ids, content=["right", "wrong", "right too"])
    two = side([1, 1, 0], ids, content=["right", "now right", "now wrong"])
    assert batchflex.compare(one, two).flips.height == 0
    flips = batchflex.compare(one, two.with_columns(score_s=pl.Series([1.0, 0, 0]))).flips
    assert flips.select("content_a", "content_b").rows() == [("right too", "now wrong")]


def test_rows_agree_with_those_of_the_same_point_in_whatever_order_the_points_are() -> None:
    rows = [(item, model, sample) for item in range(40) for model in ("m", "n") for sample in range(2)]
    one = pl.DataFrame(rows, schema=["id", "model", "sample"], orient="row")
    one = one.with_columns(
        score_s=pl.when(model="m").then(pl.col("id") % 2).otherwise(0).cast(pl.Float64),
        content=pl.format("{}{}", "model", "id"),
    )
    two = one.sort("id", "model", descending=[False, True], maintain_order=True)
    for found in (only(batchflex.compare(one, two, by=["model"]))["agreement"], *agreed(one, two)):
        assert (found["rows"], found["share"], found["kappa"]) == (160, 1, 1)
    half = two.filter(model="m")
    assert [(each["rows"], each["share"]) for each in agreed(one, half)] == [(80, 1)]
    other = half.with_columns(model=pl.lit("o"))  # no model in common: the sides are what differs
    assert [(each["rows"], each["share"]) for each in agreed(half, other)] == [(80, 1)]


def agreed(one: pl.DataFrame, two: pl.DataFrame) -> list[dict[str, Any]]:
    return list(agreement_on(one, two, ["content"], by=["model"])["agreement"])


def test_what_python_prints_of_scores_is_the_table_that_the_command_line_shows() -> None:
    one, two = side([1, 0, 1], ["x", "y", "z"], content=["a", "b", "c"]), side([1, 1, 0], ["x", "y", "z"])
    found = batchflex.compare(one, two)
    shown = str(found)
    assert "3 items on both sides" in shown and "66.7 %" in shown and "0.0 pp" in shown and "{" not in shown
    assert "flipped" in shown and repr(found.told) == shown.partition("\n  flipped")[0]
    assert json.loads(json.dumps(found.told)) == msgspec.json.decode(msgspec.json.encode(found.told)) == found.told
    told, flips = found
    assert isinstance(told, dict) and flips.height == 2
    summary = batchflex.summarise(one)
    assert repr(summary).startswith("scores of 3 rows") and "66.7 %" in str(summary) and summary["rows"] == 3
    del summary["points"]
    assert repr(summary) == repr(dict(summary))


def test_a_mean_of_items_that_is_not_that_of_all_rows_is_shown_with_it() -> None:
    one = side([1, 1, 1, 0, 1], ["x", "x", "x", "y", "only in a"])
    found = batchflex.compare(one, side([1, 1], ["x", "y"]))
    assert (only(found)["a"], only(found)["a_of_rows"], only(found)["b_of_rows"]) == (0.5, 0.8, 1)
    said = "s is here the mean of the items on both sides, each counted once; of all rows it is 80.0 % in A and 100.0 % in B"
    assert said in str(found)
    assert "of all rows" not in str(batchflex.compare(one.head(4)[2:], side([1, 1], ["x", "y"])))


def test_differences_of_sweep_points_that_are_not_those_of_the_means_say_what_they_are_of() -> None:
    frame = pl.DataFrame(
        {"id": [*"xxxy", *"xy"], "prompt": [*"aaaa", *"bb"], "score_s": [1.0, 1, 1, 0, 0, 0]},
    )
    assert "means above are of all rows" in str(batchflex.summarise(frame, by=["prompt"]))
    assert "means above are of all rows" not in str(batchflex.summarise(frame[2:], by=["prompt"]))


def test_ids_of_another_type_are_the_same_ids() -> None:
    assert only(batchflex.compare(side([1, 0]), side([1, 1], ["0", "1"])))["items"] == 2


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(JobError, match="no score in common"):
        batchflex.compare(side([1]), side([1]).rename({"score_s": "score_t"}))
    with pytest.raises(JobError, match="the two have no id in common"):
        batchflex.compare(side([1], ["a"]), side([1], ["b"]))
    with pytest.raises(JobError, match="the second has no column 'id'"):
        batchflex.compare(side([1]), side([1]).drop("id"))


# ---------------------------------------------------------------------------------------------------- from a terminal


@pytest.fixture
def out(endpoint: CountingEndpoint, tmp_path: Path) -> Path:
    """A folder whose two prompts are answered in different ways: plain with the text, other with ``x`` and the text."""
    tables = job(endpoint, tmp_path, [ECHO], sweep={"prompt": ["plain", "other"]}, prompts={
        "plain": {"user": "{{ text }}"}, "other": {"user": "{% if text == 'b' %}c{% else %}{{ text }}{% endif %}"},
    })  # fmt: skip
    del tables["prompt"]
    run = batchflex.run(tables)
    assert run.exit_code == 0
    return run.out


def test_the_two_points_of_a_folder(out: Path, tmp_path: Path) -> None:
    ended = called("compare", out)
    assert ended.code == 0, ended.err
    assert f"A is {out}@prompt=plain" in ended.out and f"B is {out}@prompt=other" in ended.out
    told = called(
        "compare", f"{out}@prompt=plain", f"{out}@prompt=other", "--json", "-o", tmp_path / "flips.jsonl"
    ).summary
    (score,) = told["scores"]
    # The texts are aabbcc, the labels abbbca: with every b answered as c, r2 and r3 are lost, and nothing is won.
    assert (score["items"], score["wins"], score["losses"], score["method"]) == (6, 0, 2, "mcnemar-exact")
    flips = [json.loads(line) for line in (tmp_path / "flips.jsonl").read_text().splitlines()]
    assert [(flip["item"], flip["content_a"], flip["content_b"]) for flip in flips] == [
        ("r2", "echo: b", "echo: c"), ("r3", "echo: b", "echo: c"),
    ]  # fmt: skip
    assert "1 of 2 that flipped" in called("compare", out, "--rows", 1).out
    same = called("compare", f"{out}@prompt=plain", f"{out}@prompt=plain")
    assert "nothing flipped" in same.out


def test_sides_with_other_points_are_told_apart(out: Path) -> None:
    ended = called("compare", out, f"{out}@prompt=other")
    assert "prompt is plain, other in A and other in B: means are over what each side has" in ended.err
    assert "means are over" not in called("compare", f"{out}@prompt=plain", f"{out}@prompt=other").err
    assert "means are over" not in called("compare", out, out).err


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("@promt=plain", "'promt' is not swept in .*; did you mean 'prompt'?"),
        ("@prompt=plane", "there is no prompt=plane in .*; did you mean 'plain'?"),
        ("@prompt", "a sweep point is written OUT@variable=value"),
    ],
)
def test_a_point_that_is_not_there_is_told_with_those_that_are(out: Path, at: str, words: str) -> None:
    with pytest.raises((JobError, FolderError), match=words):
        batchflex_sides(f"{out}{at}")


def batchflex_sides(name: str) -> Any:
    from batchflex.scoring import comparison_sides

    return comparison_sides.side(name)


def test_what_is_missing_is_said_with_what_to_do(out: Path, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    assert "has 1 sweep points, not two to compare" in called("compare", f"{out}@prompt=plain").err
    (out / "scores.json").unlink()
    ended = called("compare", out, out)
    assert ended.code == 2 and f"batchflex score {out} JOB.toml" in ended.err
    assert called("score", out).code == 0
    older = pl.read_parquet(out / "scores.parquet")
    older.head(3).write_parquet(out / "scores.parquet")
    assert "are older than its results" in called("compare", out, out).err


@pytest.mark.parametrize(
    ("said", "meant"), [("0", "0"), ("0.0", "0"), ("7e-1", "0.7"), ("short", "short"), ("0.5", None)]
)
def test_a_number_may_be_written_in_any_way(said: str, meant: str | None) -> None:
    assert comparison_sides._meant(said, ["0", "0.7", "short"]) == meant
