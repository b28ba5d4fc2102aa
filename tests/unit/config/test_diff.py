"""What is said of the differences between two jobs."""

from __future__ import annotations

from typing import Any

import pytest

from batchflex.config.diff import changes

LINES = "Read the ticket.\nThink of the customer first, and of nobody else.\nAnswer in one word.\n"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"user": "a"}, {"user": "b"}, ["prompt.user: 'a' → 'b'"]),
        ({"user": "a"}, {"user": "a", "system": "s" * 70}, [f"prompt.system: (none) → '{'s' * 64}…'"]),
        (
            {"user": LINES},
            {"user": LINES.replace("one word", "two words")},
            [
                "prompt.user, line 3: '…nobody else.\\nAnswer in one word.\\n' → '…nobody else.\\nAnswer in two words.\\n'"
            ],
        ),
        (
            {"user": "x" * 100},
            {"user": "x" * 100 + " and more"},
            [f"prompt.user: '…{'x' * 24}' → '…{'x' * 24} and more'"],
        ),
        (
            {"user": "begin " + "y" * 100},
            {"user": "began " + "y" * 100},
            [f"prompt.user: 'begin {'y' * 14}…' → 'began {'y' * 14}…'"],
        ),
        (
            {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]},
            {"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "c"}, {"role": "user"}]},
            ["prompt.messages[1].content: 'b' → 'c'", "prompt.messages[2].role: (none) → 'user'"],
        ),
        ({"user": "a", "x": [1, 2]}, {"user": "a", "x": [1, 3]}, ["prompt.x: [1, 2] → [1, 3]"]),
        ({"user": "7"}, {"user": 7}, ["prompt.user: '7' → 7"]),
        ({"user": "a"}, {"user": "a"}, []),
    ],
)
def test_of_long_values_the_text_around_the_first_difference_is_shown(
    old: dict[str, Any], new: dict[str, Any], lines: list[str]
) -> None:
    assert changes({"prompt": old}, {"prompt": new}) == lines


@pytest.mark.parametrize(("old", "new"), [("a" * 500, "a" * 499 + "b"), ("b" * 500, "a" * 1_000), ("", "z" * 300)])
def test_however_long_they_are_little_is_shown(old: str, new: str) -> None:
    (line,) = changes({"prompt": {"user": old}}, {"prompt": {"user": new}})
    assert len(line) < 200


def test_what_an_option_says_and_what_params_say_is_the_same() -> None:
    one, other = {"params": {"model": "m", "seed": 1}}, {"params": {"seed": 2}, "override": {"model": "m", "seed": 1}}
    assert changes(one, other) == changes(other, one) == []
    assert changes(one, {**one, "override": {"model": "n", "seed": 1}}) == ["override.model: (none) → 'n'"]


def test_what_is_carried_along_is_no_change() -> None:
    one, other = ({"input": {"carry": carry, "id": "n"}, "params": {"model": "m"}} for carry in (["a"], ["a", "b"]))
    assert changes(one, other) == []
