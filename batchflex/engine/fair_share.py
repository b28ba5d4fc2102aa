"""Whose turn it is among job runs that share an engine: start-time fair queueing (Goyal, Vin, Cheng 1996). Pure."""

from __future__ import annotations


class FairShare:
    """What one job run ``had`` of what all share: requests, divided by its ``weight``."""

    __slots__ = ("had", "weight")

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight
        self.had = 0.0

    def due(self, now: float) -> tuple[float, float]:
        """Whose is least goes next. ``now`` is where the one that went last began: who did not want anything until then has
        saved nothing up."""
        return max(now, self.had), self.had

    def went(self, now: float) -> float:
        """One request of it goes; returns what ``now`` is from then on."""
        begins = max(now, self.had)
        self.had = begins + 1.0 / self.weight
        return begins
