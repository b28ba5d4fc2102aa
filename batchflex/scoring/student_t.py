"""Student's t distribution, for intervals and tests with few items or clusters. Pure.

The standard library has the normal distribution alone, and scipy would be installed, 100 MB of it, for these two functions; it
agrees with them (tests).
"""

from __future__ import annotations

import functools
import math
import statistics

_ENOUGH = 1_000  # degrees of freedom from which the expansion is exact to twelve digits
_TINY = 1e-300
_STEPS = 20_000


def two_sided_p(t: float, df: float) -> float:
    """How probable a value at least as far from 0 as ``t`` is, with ``df`` degrees of freedom (a positive number)."""
    if math.isinf(t):
        return 0.0
    if df > 1e6:
        return math.erfc(abs(t) / math.sqrt(2))
    return _beta_share(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t))


@functools.lru_cache(maxsize=1_024)
def critical(level: float, df: float) -> float:
    """The value that t stays within, to both sides, with the probability ``level``."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    if df >= _ENOUGH:  # Abramowitz & Stegun (1964), 26.7.5
        first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
        third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
        return z + first / df + second / df**2 + third / df**3
    low, high = 0.0, max(z, 1.0)
    while two_sided_p(high, df) > 1 - level:
        low, high = high, 2 * high
    for _ in range(80):
        middle = (low + high) / 2
        if two_sided_p(middle, df) > 1 - level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_share(a: float, b: float, x: float, y: float) -> float:
    """The regularised incomplete beta function at ``x`` = 1 - ``y``: its continued fraction (DLMF 8.17.22) by Lentz's method."""
    if x <= 0 or y <= 0:
        return float(y <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, y, x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    found = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = found
        for step in (even, odd):
            d = 1 / _not_zero(1 + step * d)
            c = _not_zero(1 + step / c)
            found *= c * d
        if abs(found - before) <= 1e-15 * abs(found):
            break
    return min(1.0, math.exp(log_front) * found / a)


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
