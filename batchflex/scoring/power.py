"""How small a difference can be found with so many items, and how many items a difference takes. Pure.

E. Miller, Adding Error Bars to Evals (arXiv 2411.00640, 2024), section 5: two sides that answer the same n items, K samples each,
differ by d for sure enough if n = (z_level + z_power)² · (ω² + σ_A²/K + σ_B²/K) / d², where ω² is the variance over items of the
difference of their expected scores, and σ² the mean variance of the samples of an item. Normal approximation.
"""

from __future__ import annotations

import math
import statistics
from typing import NamedTuple

from .stats import LEVEL

POWER = 0.8


class Spread(NamedTuple):
    """What the variance of a paired difference consists of: ``between`` items (ω²), and ``within`` them, of both sides
    together for one sample each (σ_A² + σ_B²). ``design_effect`` is how many times as large clusters make it."""

    between: float
    within: float = 0.0
    design_effect: float = 1.0

    def variance(self, samples: int) -> float:
        """Of the difference of one item with so many samples on each side."""
        return self.design_effect * (self.between + self.within / samples)


def of_shares(accuracy: float, correlation: float = 0.0) -> Spread:
    """Of two sides that are right with the probability ``accuracy``, with one sample an item: 2·p·(1 - p)·(1 - correlation).

    What of it lies within items is not known, so that more samples are not credited."""
    return Spread(2 * accuracy * (1 - accuracy) * (1 - correlation))


def detectable(variance: float, items: float, *, level: float = LEVEL, power: float = POWER) -> float | None:
    """The smallest difference that a two-sided test finds with the probability ``power``; ``None`` without items."""
    return _factor(level, power) * math.sqrt(variance / items) if items > 0 else None


def detectable_from_se(se: float | None, *, level: float = LEVEL, power: float = POWER) -> float | None:
    """The same, by the standard error that a comparison has."""
    return None if not se else _factor(level, power) * se


def needed(variance: float, difference: float, *, level: float = LEVEL, power: float = POWER) -> int:
    """The items that it takes to find a ``difference`` (other than 0) with the probability ``power``; at least 2."""
    return max(2, math.ceil(_factor(level, power) ** 2 * variance / difference**2 - 1e-9))


def _factor(level: float, power: float) -> float:
    normal = statistics.NormalDist()
    return normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)
