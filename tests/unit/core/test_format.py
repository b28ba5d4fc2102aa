"""Numbers for people: rounded as people do, and shown by one module alone."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from batchflex.core import format
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("show", "number", "text"),
    [
        (format.percent, 77 / 80, "96.3 %"), (format.percent, 1 / 16, "6.3 %"), (format.percent, 0.0, "0.0 %"),
        (format.percent, 1.0, "100.0 %"), (format.percent, None, "–"), (format.percent, 2 / 3, "66.7 %"),
        (format.mean, 0.8125, "0.813"), (format.mean, 4.0, "4.00"), (format.mean, 12.25, "12.3"), (format.mean, 9.996, "10.0"),
        (format.mean, 0.09996, "0.100"), (format.mean, 99.96, "100"), (format.mean, 1234.5, "1,235"), (format.mean, 0, "0.00"),
        (format.mean, -0.125, "-0.125"), (format.mean, 0.00012345, "0.000123"), (format.mean, 1e-9, "1.00e-09"),
        (format.mean, float("nan"), "nan"), (format.mean, 1e30, f"{10**30:,}"), (format.mean, None, "–"),
        (format.figure, 1.0, "1"), (format.figure, 1200, "1,200"), (format.figure, 0.5, "0.500"), (format.figure, None, "–"),
        (format.money, 0.0, "$0.00"), (format.money, 0.00125, "$0.0013"), (format.money, 0.000012345, "$0.000012"),
        (format.money, 1234.565, "$1,234.57"), (format.money, 0.25, "$0.2500"), (format.duration, 0.25, "0.3 s"),
        (format.duration, 10.5, "11 s"), (format.duration, 59.5, "1:00"), (format.short, 1_250, "1.3k"),
        (format.latency, 0.053, "53 ms"), (format.latency, 0.00424, "4.2 ms"), (format.latency, 0.0996, "0.1 s"),
        (format.latency, 0.0, "0.0 s"), (format.latency, 12.4, "12 s"), (format.latency, None, "–"),
        (format.p_value, 0.0005, "<0.001"), (format.p_value, 0.0625, "0.063"), (format.coefficient, 0.8125, "0.813"),
    ],
)  # fmt: skip
def test_a_number_as_text(show: Callable[[float | None], str], number: float | None, text: str) -> None:
    assert show(number).replace("1,000,000,000,000,000,019,884,624,838,656", f"{10**30:,}") == text


@pytest.mark.parametrize(
    ("is_share", "whole", "difference", "ends"),
    [
        (True, "96.3 % (89.5 to 98.7 %)", "+2.1 pp", "-0.9 to 5.1 pp"),
        (False, "0.963 (0.895 to 0.987)", "+0.0210", "-0.00900 to 0.0510"),
    ],
)
def test_scores_with_intervals(is_share: bool, whole: str, difference: str, ends: str) -> None:
    assert format.with_interval(0.9625, 0.895, 0.987, is_share=is_share) == whole
    assert format.difference(0.021, is_share=is_share) == difference
    assert format.difference_interval(-0.009, 0.051, is_share=is_share) == ends
    assert format.with_interval(None, None, None, is_share=is_share) == "–"
    assert format.interval(0.1, None, is_share=is_share) == ""


def test_what_is_rounded_to_nothing_has_no_sign() -> None:
    assert [format.difference(value, is_share=True) for value in (-0.0001, 0.0, 0.0004, -0.0)] == ["0.0 pp"] * 4
    assert [format.difference(value, is_share=False) for value in (0.0, -0.0)] == ["0.00", "0.00"]
    assert format.difference(0.0005, is_share=True) == "+0.1 pp" and format.difference(0.2, is_share=False) == "+0.200"
    assert format.difference_interval(-0.0001, 0.0001, is_share=True) == "0.0 to 0.0 pp"
    assert (format.fixed(-0.04, 1), format.percent(-0.0), format.coefficient(-0.0001)) == ("0.0", "0.0 %", "0.000")
    assert format.difference(None, is_share=True) == "–"


def test_what_is_done_is_never_rounded_up() -> None:
    assert [format.done_percent(done, 1_000) for done in (0, 999, 1_000)] == ["0 %", "99 %", "100 %"]


def test_nothing_else_makes_percents_or_prices_of_numbers() -> None:
    """Neither in Python nor in the page's script, where half a digit would be rounded otherwise."""
    own = re.compile(r"100 \* [^\n]*:\.?\d?[fg%]\} ?%|\$\{?[^\n]*:,?\.\df|toFixed|toPrecision|:\.\d%")
    found = {}
    for path in [*(ROOT / "batchflex").rglob("*.py"), *(ROOT / "batchflex").rglob("*.js")]:
        if path.name != "format.py" and (lines := own.findall(path.read_text(encoding="utf-8"))):
            found[path.name] = lines
    assert found == {}
