"""What each kind of score gives a row, whatever was answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

import batchflex
from batchflex.config.score_sections import specs_of
from batchflex.core.errors import JobError
from batchflex.scoring import extract


def scored(answers: list[Any], expected: Any = None, **spec: Any) -> list[float | None]:
    columns: dict[str, Any] = {"content": pl.Series(answers, dtype=pl.String)}
    if isinstance(expected, list):
        columns["right"] = expected
        spec["expected"] = "right"
    elif expected is not None:
        spec["value"] = expected
    return batchflex.score(pl.DataFrame(columns), {"s": spec})["score_s"].to_list()


def test_exact() -> None:
    answers = ["Paris", " Paris\n", "paris", "Paris!", "", None]
    assert scored(answers, "Paris", kind="exact") == [1, 1, 0, 0, 0, 0]
    assert scored(answers, "Paris", kind="exact", strip=False) == [1, 0, 0, 0, 0, 0]
    assert scored(answers, "Paris", kind="exact", ignore_case=True) == [1, 1, 1, 0, 0, 0]
    assert scored(answers, "Paris", kind="exact", ignore_punctuation=True) == [1, 1, 0, 1, 0, 0]
    assert scored(answers, ["Paris", None, "paris", "Paris!", "", "x"], kind="exact") == [1, None, 1, 1, None, 0]


def test_one_of_several_expected_is_enough() -> None:
    assert scored(["a", "b", "c", "a"], [["a"], ["a", "b"], ["a", "b"], []], kind="exact") == [1, 1, 0, None]
    assert scored(["say a", "b!", "c"], [["a", "z"], ["b"], ["b"]], kind="contains") == [1, 1, 0]
    assert scored(["3", "5 or so", "7"], [[3, 4], [4, 5], [4, 5]], kind="number") == [1, 1, 0]


def test_one_of_several_in_a_field_is_enough_as_in_squad() -> None:
    fields = [{"text": ["a", "z"]}, {"text": ["b"]}, {"text": []}, {"text": None}, None]
    answers = ["z", "c", "d", "d", "d"]
    for right in (pl.Series(fields), pl.Series([None if each is None else json.dumps(each) for each in fields])):
        frame = pl.DataFrame({"content": answers, "right": right})
        found = batchflex.score(frame, {"s": {"kind": "exact", "expected": "right.text"}})
        assert found["score_s"].to_list() == [1, 0, None, None, None]
    frame = pl.DataFrame({"content": ["[x] y", "x"], "right": ['{"text": "[x] y"}', '{"text": ["[x] y", "x"]}']})
    found = batchflex.score(frame, {"s": {"kind": "exact", "expected": "right.text"}})
    assert found["score_s"].to_list() == [1, 1]  # a text that only looks like a list is one text


@pytest.mark.parametrize(
    ("answers", "expected"), [(["5", "0.5", "7"], [5, 1, 7]), (["5", "0.5", "7"], [5.0, 0.5, 7.0]), (["true"], [True])]
)
def test_expected_values_of_any_type_are_compared_as_json_has_them(answers: list[str], expected: list[Any]) -> None:
    assert scored(answers, expected, kind="exact")[0] == 1


@pytest.mark.parametrize(
    ("kind", "right"), [("exact", "bug"), ("contains", "bug"), ("choice", "bug"), ("number", "7"), ("json", "7")]
)
def test_a_row_with_a_blank_expected_value_as_csv_has_it_has_no_score(kind: str, right: str) -> None:
    more = {"choices": ["bug", "other"]} if kind == "choice" else {}
    assert scored([right, right, "", None], [right, "", " ", ""], kind=kind, **more) == [1, None, None, None]


def test_an_empty_answer_may_be_expected_by_a_list_or_a_value() -> None:
    assert scored(["", "bug"], [[""], [""]], kind="exact") == [1, 0]
    assert scored(["", "bug"], kind="exact", value="") == [1, 0]


def test_contains_and_regex() -> None:
    assert scored(["it is (a+b)", "a+b", "aab", None], "a+b", kind="contains") == [1, 1, 0, 0]
    assert scored(["Yes, yes", "no", None], None, kind="regex", pattern=r"^yes\b", ignore_case=True) == [1, 0, 0]


def test_extract_takes_the_answer_out_of_the_text() -> None:
    answers = ["I think.\n#### 42", "#### 42 or so", "42", "#### 7"]
    assert scored(answers, "42", kind="exact", extract=r"#### (.*)$") == [1, 0, 0, 0]
    assert scored(answers, "#### 42", kind="exact", extract=r"#### \d+") == [1, 1, 0, 0]
    assert scored(answers, 42, kind="number", extract=r"#### (.*)$") == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 1,234.50 dollars.", 1234.5), ("between 3-5", 5), ("-7", -7), ("about 5%", 5), ("none", None), ("x = .5", 0.5),
        ("1e-3", 0.001), ("$-3.", -3), ("10 - 5", 5), ("−4", -4), ("1. First\n2. The answer is 12", 12), ("**18**", 18),
        ("2024-01-31", 31), ("1-2-3", 3), ("$1,000,000", 1e6), ("", None), ("5\n\nThat is all.", 5),
    ],
)  # fmt: skip
def test_the_last_number_of_a_text(text: str, number: float | None) -> None:
    assert extract.numbers(pl.Series([text])).to_list() == [number]


def test_the_first_number_of_a_text() -> None:
    assert extract.numbers(pl.Series(["12 of 20", "no", "-3.5e2, 4"]), "first").to_list() == [12, None, -350]


def test_a_number_may_be_off_by_its_tolerance() -> None:
    answers = ["about 10.1", "10.11", "9.9", "11"]
    assert scored(answers, 10, kind="number") == [0, 0, 0, 0]
    assert scored(answers, 10, kind="number", tolerance=0.1) == [1, 0, 1, 0]
    assert scored(answers, 10, kind="number", relative_tolerance=0.1) == [1, 1, 1, 1]
    assert scored(["5", "5", "5"], ["5", None, "none"], kind="number") == [1, None, None]


CHOICES = ["Paris", "London", "Berlin"]


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Paris", "Paris"), ("paris.", "Paris"), ("**Paris**", "Paris"), (" (B) ", "London"), ("b", "London"),
        ("The answer is C.", "Berlin"), ("Answer: **B**", "London"), ("answer: (a)", "Paris"), ("I think it's Berlin", "Berlin"),
        ("Paris or London", None), ("B) London", "London"), ("The answer is London, not Paris", "London"),
        ("A) no, since it is small.\nAnswer: C", "Berlin"), ("I choose B because it is large", "London"), ("A dog", None),
        ("Parisian", None), ("", None), ("(A) or (B)", None), ("Option C", "Berlin"), ("None of them", None),
    ],
)  # fmt: skip
def test_what_was_chosen(text: str, choice: str | None) -> None:
    assert extract.chosen(pl.Series([text]), CHOICES).to_list() == [choice]


def test_a_choice_within_a_longer_one_is_not_chosen_with_it() -> None:
    texts = pl.Series(["very positive", "positive", "It is very positive.", "positive, no: very positive"])
    assert extract.chosen(texts, ["positive", "very positive"]).to_list() == [
        "very positive",
        "positive",
        "very positive",
        None,
    ]


def test_letters_that_are_choices_themselves_stand_for_themselves() -> None:
    assert extract.chosen(pl.Series(["The answer is (C)", "b"]), ["B", "C"]).to_list() == ["C", "B"]


@given(st.lists(st.none() | st.text(st.sampled_from("ab é \t\n\u00a0\u2028"), max_size=9), max_size=5))
def test_words_are_what_python_splits_a_text_into(texts: list[str | None]) -> None:
    found = extract.words(pl.Series(texts, dtype=pl.String)).to_list()
    assert found == [None if text is None else len(text.split()) for text in texts]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=40), max_size=5), st.permutations(CHOICES))
def test_any_text_has_a_choice_or_none_and_each_text_its_own(texts: list[str], choices: list[str]) -> None:
    found = extract.chosen(pl.Series(texts, dtype=pl.String), choices).to_list()
    assert len(found) == len(texts)
    assert set(found) <= {*choices, None}
    assert found == [extract.chosen(pl.Series([text]), choices)[0] for text in texts]


def test_the_expected_choice_is_given_by_its_text_its_letter_or_its_number_from_0() -> None:
    answers = ["B", "B", "B", "B"]
    assert scored(answers, ["london", "B", "(b)", "Rome"], kind="choice", choices=CHOICES) == [1, 1, 1, None]
    assert scored(answers, [0, 1, 2, None], kind="choice", choices=CHOICES) == [0, 1, 0, None]


def test_json_is_scored_by_its_fields() -> None:
    expected = {"name": "Ada", "age": 36, "tags": ["a", "b"], "ok": True}
    answers = [
        json.dumps(expected), '{"name": "ADA ", "age": 36.0, "tags": ["a"], "ok": 1, "more": 1}', "no JSON", "[1]", None
    ]  # fmt: skip
    assert scored(answers, expected, kind="json") == [1, 0.25, 0, 0, 0]
    assert scored(answers, expected, kind="json", ignore_case=True) == [1, 0.5, 0, 0, 0]
    assert scored(answers, expected, kind="json", fields=["age", "tags"]) == [1, 0.5, 0, 0, 0]
    as_text = [json.dumps(expected), '{"age": 37}', None, "3", '{"ok": true}']
    assert scored(answers, as_text, kind="json", tolerance=1) == [1, 1, None, 0, 0]


def test_fields_that_are_columns_are_what_is_expected() -> None:
    frame = pl.DataFrame(
        {"parsed": ['{"label": "a", "stars": 3}', '{"label": "b"}'], "label": ["a", "b"], "stars": [3, 4]}
    )
    assert batchflex.score(frame, {"s": {"kind": "json", "fields": ["label", "stars"]}})["score_s"].to_list() == [
        1,
        0.5,
    ]


def test_length() -> None:
    answers = ["one two", "", None, "ünïcödé"]
    assert scored(answers, kind="length", max=7) == [1, 1, 0, 1]
    assert scored(answers, kind="length", min=2, unit="words") == [1, 0, 0, 0]
    frame = pl.DataFrame({"completion_tokens": [5, 50, None]})
    found = batchflex.score(frame, {"s": {"kind": "length", "unit": "tokens", "max": 20}})
    assert found["score_s"].to_list() == [1, 0, 0]


@pytest.mark.parametrize("as_struct", [False, True])
def test_a_field_of_parsed_is_an_answer(as_struct: bool) -> None:
    parsed = ['{"label":"a","in":{"side":"x"}}', '{"label":1,"in":{"side":"y"}}']
    column = (
        pl.Series([{"label": "a", "in": {"side": "x"}}, {"label": "1", "in": {"side": "y"}}]) if as_struct else parsed
    )
    frame = pl.DataFrame({"parsed": column, "right": ["a", "1"]})
    found = batchflex.score(frame, [
        {"name": "label", "kind": "exact", "answer": "parsed.label", "expected": "right"},
        {"name": "side", "kind": "exact", "answer": "parsed.in.side", "value": "x"},
        {"name": "none", "kind": "exact", "answer": "parsed.nothing", "value": "x"},
    ])  # fmt: skip
    assert found.select(pl.col("^score_.*$")).rows() == [(1, 1, 0), (1, 0, 0)]


def test_a_row_without_an_answer_is_skipped_or_wrong_and_one_that_was_cut_off_is_scored_as_it_is() -> None:
    frame = pl.DataFrame({
        "status": ["ok", "failed", "truncated", "filtered", "invalid"],
        "content": ["yes", None, "yes, and", None, "yes"],
    })  # fmt: skip
    spec = {"name": "s", "kind": "contains", "value": "yes"}
    assert batchflex.score(frame, spec)["score_s"].to_list() == [1, None, 1, 0, 1]
    assert batchflex.score(frame, {**spec, "missing": "zero"})["score_s"].to_list() == [1, 0, 1, 0, 1]


# --------------------------------------------------------------------------------------------- functions of one's own


def by_function(tmp_path: Path, code: str, function: str = "f", **more: Any) -> pl.DataFrame:
    (tmp_path / "mine.py").write_text(code)
    frame = pl.DataFrame({"content": ["a", "bb", None], "status": ["ok", "ok", "failed"]})
    return batchflex.score(frame, {"s": {"kind": f"mine:{function}", "folder": str(tmp_path), **more}})


def test_a_function_of_ones_own_gets_a_block_of_the_rows_that_were_answered(tmp_path: Path) -> None:
    found = by_function(tmp_path, "def f(block):\n    return block['content'].str.len_chars() / 2")
    assert found["score_s"].to_list() == [0.5, 1, None]
    found = by_function(tmp_path, "def f(block):\n    return [c == 'bb' for c in block['content']]", missing="zero")
    assert found["score_s"].to_list() == [0, 1, 0]
    found = by_function(tmp_path, "def f(block):\n    return [None, float('nan')]")
    assert found["score_s"].to_list() == [None, None, None]
    found = by_function(tmp_path, "def f(block):\n    return [len(block.columns)] * 2", columns=["content"])
    assert found["score_s"].to_list() == [1, 1, None]


@pytest.mark.parametrize(
    ("code", "function", "words"),
    [
        (
            "def f(block):\n    return 1 / 0",
            "f",
            r"mine:f fails: ZeroDivisionError: division by zero \(.*mine.py, line 2\)",
        ),
        ("def f(block):\n    return [1]", "f", "was given 2 rows and gave 1 scores"),
        ("def f(block):\n    return ['x', 'y']", "f", "fails: ValueError"),
        ("x = 1", "f", "has no function 'f'"),
        ("import nothing_like_it", "f", "cannot be imported"),
        ("raise KeyError('k')", "f", "cannot be imported: KeyError"),
    ],
)
def test_what_is_wrong_with_a_function_is_told_with_its_place(
    tmp_path: Path, code: str, function: str, words: str
) -> None:
    with pytest.raises(JobError, match=words):
        by_function(tmp_path, code, function)


def test_a_module_that_is_nowhere_is_said_so() -> None:
    with pytest.raises(JobError, match=r"there is no module 'nowhere_at_all' in .* nor where Python finds modules"):
        batchflex.score(pl.DataFrame({"content": ["a"]}), {"s": {"kind": "nowhere_at_all:f"}})


# ------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"kind": "exat"}, "must be one of exact, contains, .* or 'module:function' of your own"),
        ({"kind": "exact"}, "needs 'expected', a column, or 'value'"),
        ({"kind": "exact", "value": "a", "expected": "b"}, "exclude each other"),
        ({"kind": "exact", "value": "a", "choices": ["a", "b"]}, "'choices' is nothing for kind 'exact', but for 'choice'"),
        ({"kind": "regex", "pattern": "(?=a)"}, "look-around"),
        ({"kind": "regex", "pattern": "("}, "is no regular expression"),
        ({"kind": "regex"}, "needs 'pattern'"),
        ({"kind": "choice", "value": "a"}, "needs 'choices'"),
        ({"kind": "choice", "value": "a", "choices": ["a", "A "]}, "the same choice twice"),
        ({"kind": "length"}, "needs 'min' or 'max'"),
        ({"kind": "length", "min": 3, "max": 2}, "'min' is above 'max'"),
        ({"kind": "json"}, "needs 'expected', a column of JSON"),
        ({"kind": "judge"}, "needs a table \\[score.judge\\]"),
        ({"kind": "judge", "judge": {"rubric": "x", "scale": [5, 1]}}, "worst grade and the best"),
        ({"kind": "number", "value": True}, "must be a number"),
        ({"kind": "number", "value": "none"}, "'value' must be a number"),
        ({"kind": "exact", "value": []}, "nothing would be right"),
        ({"kind": "choice", "value": "bda", "choices": ["bad", "good"]}, "must be one of 'choices'"),
        ({"kind": "choice", "value": 2, "choices": ["bad", "good"]}, "must be one of 'choices'"),
        ({"kind": "exact", "value": "a", "ignorecase": True}, "did you mean 'ignore_case'"),
    ],
)  # fmt: skip
def test_a_score_that_cannot_be_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=words):
        specs_of({"s": spec})


@pytest.mark.parametrize("value", ["good", "(B)", "b", 1, ["Good"]])
def test_a_choice_may_be_named_in_several_ways(value: Any) -> None:
    spec = {"kind": "choice", "value": value, "choices": ["bad", "good"]}
    scored = batchflex.score(pl.DataFrame({"content": ["Good.", "bad"]}), {"s": spec})
    assert scored["score_s"].to_list() == [1.0, 0.0]


def test_a_missing_column_is_told_with_those_there_are() -> None:
    frame = pl.DataFrame({"content": ["a"], "label": ["a"]})
    with pytest.raises(JobError, match="score 's': there is no column 'labl' in the results; did you mean 'label'"):
        batchflex.score(frame, {"s": {"kind": "exact", "expected": "labl"}})


def test_two_scores_of_one_name_and_a_judge_over_a_frame_are_refused() -> None:
    one = {"name": "s", "kind": "exact", "value": "a"}
    with pytest.raises(JobError, match=r"^score\.1\.name: is the second score called 's'"):
        batchflex.score(pl.DataFrame({"content": ["a"]}), [one, one])
    with pytest.raises(JobError, match="a judge needs a run"):
        batchflex.score(pl.DataFrame({"content": ["a"]}), {"j": {"kind": "judge", "judge": {"rubric": "x"}}})
