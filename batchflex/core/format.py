"""Numbers for people: counts, shares, means, durations, money. Everything that shows one takes it from here, so that the same
number is the same text on a terminal, in a report and from Python. Pure.

What lies half-way is rounded away from zero, as people do; Python's own formatting does otherwise where a binary fraction is
exactly half-way (``f"{96.25:.1f}"`` is 96.2).
"""

from __future__ import annotations

import datetime
import math
from decimal import ROUND_HALF_UP, Decimal

NOTHING = "–"
_LARGEST = 1e15  # from which on there is nothing to round
_SMALLEST = -6  # power of ten from which on small means are 1.23e-07


def fixed(number: float, places: int) -> str:
    """With so many decimal places, and commas between thousands: ``1,234.5``."""
    if not math.isfinite(number):
        return str(number)
    if abs(number) >= _LARGEST:
        return f"{number:,.{places}f}"
    rounded = Decimal(number).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP)
    return f"{rounded or abs(rounded):,f}"  # -0.04 is 0.0


def count(number: float, noun: str, plural: str | None = None) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def short(number: int) -> str:
    """``950``, ``23.2k``, ``1.4M``."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= size:
            return f"{fixed(number / size, 1)}{unit}"
    return str(number)


# ------------------------------------------------------------------------------------------------------------- scores


def percent(share: float | None) -> str:
    """``96.3 %``; a dash for nothing."""
    return NOTHING if share is None else f"{fixed(100 * share, 1)} %"


def mean(number: float | None) -> str:
    """Three significant digits: ``0.813``, ``4.00``, ``12.3``, ``1,235``; a dash for nothing."""
    if number is None:
        return NOTHING
    if not number or not math.isfinite(number):
        return f"{number or 0:.2f}"
    exponent = Decimal(number).adjusted()
    if exponent <= _SMALLEST:
        return f"{number:.2e}"
    places = max(0, 2 - exponent)
    text = fixed(number, places)
    has_grown = sum(sign.isdigit() for sign in text.lstrip("-0.,")) > 3  # 9.996 is 10.00
    return fixed(number, places - 1) if places and has_grown else text


def figure(number: float | None) -> str:
    """A whole number as it is, ``1,200``; any other as :func:`mean`."""
    return f"{int(number):,}" if number is not None and float(number).is_integer() else mean(number)


def score(value: float | None, *, is_share: bool) -> str:
    """The mean of a score: ``96.3 %`` of one that is right or wrong, ``4.25`` of others."""
    return percent(value) if is_share else mean(value)


def interval(low: float | None, high: float | None, *, is_share: bool) -> str:
    """``89.5 to 98.7 %``, ``4.01 to 4.49``; empty where there is none."""
    if low is None or high is None:
        return ""
    return f"{fixed(100 * low, 1)} to {percent(high)}" if is_share else f"{mean(low)} to {mean(high)}"


def with_interval(value: float | None, low: float | None, high: float | None, *, is_share: bool) -> str:
    """``96.3 % (89.5 to 98.7 %)``."""
    ends = interval(low, high, is_share=is_share) if value is not None else ""
    return score(value, is_share=is_share) + (f" ({ends})" if ends else "")


def difference(value: float | None, *, is_share: bool) -> str:
    """With its sign: ``+2.1 pp``, percentage points of shares, or ``-0.125``; what is rounded to nothing has none: ``0.0 pp``."""
    if value is None:
        return NOTHING
    number = fixed(100 * value, 1) if is_share else mean(value)
    return signed(number) + (" pp" if is_share else "")


def signed(number: str) -> str:
    """A number, as text, with its sign; without one if it is 0 as shown."""
    return f"+{number}" if number[:1] not in "-–" and any(digit in number for digit in "123456789") else number


def difference_interval(low: float | None, high: float | None, *, is_share: bool) -> str:
    """``-0.9 to 5.1 pp``."""
    if low is None or high is None:
        return NOTHING
    return f"{fixed(100 * low, 1)} to {fixed(100 * high, 1)} pp" if is_share else f"{mean(low)} to {mean(high)}"


def difference_with_interval(value: float | None, low: float | None, high: float | None, *, is_share: bool) -> str:
    """``+2.1 pp (-0.9 to 5.1 pp)``."""
    ends = difference_interval(low, high, is_share=is_share) if value is not None else NOTHING
    return difference(value, is_share=is_share) + ("" if ends == NOTHING else f" ({ends})")


def level(of: float) -> str:
    """The level of intervals: ``95 %``, ``99.5 %``."""
    return f"{100 * of:g} %"


def coefficient(value: float | None) -> str:
    """A measure that is no share, as a kappa: ``0.812``."""
    return NOTHING if value is None else fixed(value, 3)


def coefficient_with_interval(value: float | None, low: float | None, high: float | None) -> str:
    """``0.812 (0.760 to 0.855)``."""
    ends = "" if value is None or low is None or high is None else f" ({fixed(low, 3)} to {fixed(high, 3)})"
    return coefficient(value) + ends


def p_value(p: float | None) -> str:
    """``0.031``, ``<0.001``."""
    return NOTHING if p is None else "<0.001" if p < 0.001 else fixed(p, 3)


def done_percent(done: int, of: int) -> str:
    """How far something is, in whole percent and rounded down: 100 % is all of it."""
    return f"{100 * done // of} %"


# ------------------------------------------------------------------------------------------------------ time and money


def duration(seconds: float | None) -> str:
    """``0.8 s``, ``12 s``, ``3:05``, ``2:00:01``; a dash for nothing."""
    if seconds is None:
        return NOTHING
    whole = int(fixed(seconds, 0).replace(",", ""))
    if whole < 60:
        tenths = fixed(seconds, 1)
        return f"{tenths} s" if float(tenths) < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def latency(seconds: float | None) -> str:
    """As :func:`duration`, and ``53 ms``, ``4.2 ms`` below a tenth of a second, where all would be ``0.1 s`` or ``0.0 s``."""
    if seconds is None or not 0.00005 <= seconds < 0.0995:
        return duration(seconds)
    return f"{fixed(1000 * seconds, 1 if seconds < 0.00995 else 0)} ms"


def money(usd: float | None) -> str:
    """``$1,234.50``, ``$0.0012``, ``$0.000012``; a dash for nothing."""
    if usd is None:
        return NOTHING
    if usd >= 1 or not usd or not math.isfinite(usd):
        return f"${fixed(usd, 2)}"
    return f"${fixed(usd, max(4, 1 - Decimal(usd).adjusted()))}"


def seconds_between(one: str, two: str) -> float:
    """Between two moments in ISO format, as in ``run.json``."""
    return (datetime.datetime.fromisoformat(two) - datetime.datetime.fromisoformat(one)).total_seconds()
