"""Columns on a terminal, whatever takes two of its cells."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from batchflex.core import text_tables
from batchflex.core.text_tables import Column, boxed, clipped, width

TEXTS = st.text(st.sampled_from("ab 漢字ñe\u0301🙂👩\u200d\ufe0f❤ㅎ가\u0e01"), max_size=30)


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("abc", 3),
        ("漢字", 4),
        ("e\u0301", 1),
        ("🙂", 2),
        ("❤", 1),
        ("❤\ufe0f", 2),
        ("ｶﾞ", 2),
        ("", 0),
        ("가", 2),
        ("🇩🇪", 2),
    ],
)
def test_width(text: str, cells: int) -> None:
    assert width(text) == cells


@given(TEXTS, st.integers(1, 20))
def test_what_is_clipped_fits_and_loses_nothing_else(text: str, most: int) -> None:
    short = clipped(text, most)
    assert width(short) <= most
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]) and width(text) > most)


@settings(max_examples=40)
@given(st.lists(st.lists(TEXTS, min_size=2, max_size=2), min_size=1, max_size=7), st.integers(20, 130))
def test_a_table_fits_whatever_is_in_it(columns: list[list[str]], most: int) -> None:
    made = boxed([Column(f"c{at}", cells, at % 2 == 1) for at, cells in enumerate(columns)], most)
    assert {width(line) for line in made.lines} == {width(made.lines[0])} and width(made.lines[0]) <= most
    shown = len(columns) - len(made.left_out)
    assert made.left_out == [f"c{at}" for at in range(shown, len(columns))] and shown >= 1


def test_the_widest_columns_give_way_first() -> None:
    assert text_tables.narrowed([4, 60, 8, 90], 52) == [4, 20, 8, 20]
    assert text_tables.narrowed([4, 8], 50) == [4, 8]
    assert text_tables.narrowed([5, 5, 5], 8) == [3, 3, 2]


def test_cells_of_two_lines_stand_below_each_other() -> None:
    lines = text_tables.aligned([["漢字", "x"], ["a", "y"]], right=[0])
    assert lines == ["漢字  x", "   a  y"]
