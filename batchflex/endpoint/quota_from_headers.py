"""A quota as the headers of answers report it, and whether it is counted for each model by itself.

Decisions only: time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

from ..protocol import Level
from .quota_window import ASSUMED_S, ROUNDING_S, SLACK, USUAL_S, usual


class HeaderLimit:
    """A quota as the headers of each answer report it.

    Until its window is known, what is left is spread until the reset. Then units go at the constant rate that fixed windows,
    sliding ones and buckets all accept, more slowly only if less is left than that: others use the key too. Without a reset
    windows are taken for 60 s, and begin when all is there again. A reset may also be when a bucket is full, which shows in
    its being proportional to what is missing. Where no reset is ever a second away, or units come back long before a window's
    end, it is a bucket: its rate is what came back while units were taken.

    What the headers say may belong to nobody in particular, as of whichever server behind a proxy has answered. They are
    ``contradicted`` where limits go to and fro between values, what is left does likewise, or stays while units are taken.
    """

    _BUCKET_AFTER, _MEASURED_S, _SPREAD_S = 10, 1.0, 2.0
    _IN_PROPORTION, _PROPORTIONAL, _CAME_BACK = 4, 0.15, 8
    _RETURNS, _SWINGS, _LONG_S = 2, 3, 5.0

    def __init__(self) -> None:
        self.limit: float | None = None
        self.contradicted = False
        self._mark = -1.0
        self._remaining = 0.0
        self._left = 0.0
        self._ignores_resets = self._confirmed = False
        self._tried: tuple[float, float] | None = None  # nothing was left until then, and a request went all the same
        self._limits: list[float] = []
        self._returns = self._swings = 0
        self._swung_up = False
        self._unmoved, self._unmoved_since = 0.0, float("-inf")
        self._begin()

    def _begin(self) -> None:
        self.window_s: float | None = None
        self._longest_s = 0.0
        self._reset_at: float | None = None
        self._reports = 0
        # A moment at which the bucket was not full, and what had been taken and was left then.
        self._anchor: tuple[float, float] | None = None
        self._refill: float | None = None
        self._fills = False  # a reset is when the bucket is full
        self._proportions: list[tuple[float, float]] = []
        self._in_proportion: float | None = None
        # Without a reset: since when the window goes on, and how often units came back within it.
        self._begun: float | None = None
        self._came_back = 0

    def reported(self, now: float, mark: float, taken: float, level: Level) -> None:
        """Headers of the answer to what was taken at ``mark``; ``taken`` is all that was taken so far."""
        if level.limit is None or level.remaining is None or mark < self._mark:
            return
        renewed = level.remaining > self._remaining + level.limit / 2 and self._mark >= 0
        if self.limit != level.limit:
            self._another_limit(level.limit)
            renewed = False
        elif self._mark >= 0:
            self._check_contradictions(now, mark, level.limit, level.remaining, level.reset_s)
        gone, back = mark - self._mark, level.remaining - (self._remaining - (mark - self._mark))
        before = self._mark >= 0
        self.limit, self._mark, self._remaining = level.limit, mark, level.remaining
        self._reports += 1
        self._left = level.remaining - (taken - mark)
        reset_s = None if self._ignores_resets else level.reset_s
        if reset_s is None and not self._is_bucket:
            self._without_reset(now, level.window_s or ASSUMED_S, renewed, back if before and gone > 0 else 0.0, gone)
        if self._fills or self._in_proportion_to_missing(level.limit - level.remaining, reset_s):
            self._fill(level.limit)
            return
        self._reset_at = self._reset_at if reset_s is None else now + reset_s
        if reset_s is None or reset_s < 0.9 > self._longest_s:
            self._measure(now, mark + level.remaining, full=level.remaining >= 0.98 * level.limit)
            return
        if reset_s > self._longest_s:
            self._longest_s = reset_s
            if self.window_s is not None:
                self.window_s = usual(self._longest_s)
        fresh = level.remaining >= 0.97 * level.limit - 1 and usual(self._longest_s) in USUAL_S
        if self.window_s is None and self._longest_s >= 0.9 and (renewed or (fresh and self._longest_s > 9.0)):
            self.window_s = usual(self._longest_s)

    def refused(self, now: float, retry_after_s: float | None, units: float) -> None:
        """The latest request was refused for this quota, with that time to wait, if any."""
        if self.limit is None or self._reset_at is None or now >= self._reset_at:
            return
        if self._begun is None and retry_after_s is not None and retry_after_s + 2 * ROUNDING_S < self._reset_at - now:
            # So the reset is not when one more fits.
            self._ignores_resets, self.window_s, self._longest_s, self._reset_at = True, ASSUMED_S, 0.0, None
            return
        self._confirmed = True
        self._remaining = self._left = min(self._remaining, max(0.0, units - 1.0))

    def mistaken(self) -> None:
        """The end of the window is not known after all."""
        self._reset_at = self._begun = None

    def _another_limit(self, limit: float) -> None:
        self._returns += limit in self._limits
        self._limits = [*self._limits, limit][-8:]
        self.contradicted = self.contradicted or self._returns >= self._RETURNS
        self._begin()

    def _check_contradictions(
        self, now: float, mark: float, limit: float, remaining: float, reset_s: float | None
    ) -> None:
        """Whether the amount left does not follow from what was taken, again and again: headers of nobody in particular."""
        expected, some = self._remaining - (mark - self._mark), 0.1 * limit + 5
        window_goes_on = self._reset_at is None or (now < self._reset_at - ROUNDING_S and not self._is_bucket)
        if window_goes_on and remaining > expected + some:
            self._swung_up = True
        elif remaining < expected - some and self._swung_up:
            self._swung_up = False
            self._swings += 1
        if remaining < 0.99 * limit or reset_s is None or reset_s < 0.9 or now - self._unmoved_since > self._longest_s:
            self._unmoved, self._unmoved_since = 0.0, now
        self._unmoved += mark - self._mark
        if now > (self._reset_at or now):
            self._swings = 0
        self.contradicted = self.contradicted or self._swings >= self._SWINGS or self._unmoved >= 0.2 * limit + 10

    def _without_reset(self, now: float, window_s: float, renewed: bool, back: float, gone: float) -> None:
        """Assume windows of ``window_s``; of ``gone`` units that were taken ``back`` came back."""
        self.window_s = window_s
        early = self._begun is not None and now < self._begun + 0.8 * window_s
        if (renewed and not early) or (
            self._begun is None and self.limit is not None and self._remaining >= 0.97 * self.limit - 1
        ):
            self._begun = now
        if self._begun is not None and now >= self._begun + 1.1 * window_s and not renewed:
            self._begun = None
        if early and gone > 0 and back >= max(1.0, 0.5 * gone):
            self._came_back += 1
            self._begun = now
        self._reset_at = None if self._begun is None or self._came_back else self._begun + window_s
        if self._came_back >= self._CAME_BACK or (self._came_back > 1 and self._remaining < 1):
            # A bucket, or windows that are shorter: what comes back is measured.
            self._came_back, self._begun, self.window_s = 0, None, None
            self._reports = max(self._reports, self._BUCKET_AFTER)

    def _in_proportion_to_missing(self, missing: float, reset_s: float | None) -> bool:
        """Whether the reset is when all that is missing has come back, and so proportional to it."""
        if reset_s is None or missing < 1 or reset_s <= 0 or self.limit is None:
            return False
        self._proportions = [*self._proportions, (missing, reset_s / missing)][-16:]
        ratios = sorted(ratio for _, ratio in self._proportions)
        amounts = [amount for amount, _ in self._proportions]
        middle = ratios[len(ratios) // 2]
        alike = ratios[-1] <= (1 + self._PROPORTIONAL) * middle and ratios[0] >= (1 - self._PROPORTIONAL) * middle
        varied = max(amounts) >= 2 * min(amounts)
        self._in_proportion = middle if alike and varied and len(ratios) >= self._IN_PROPORTION else None
        if self._in_proportion is not None:
            self._fills = True
        return self._fills

    def _fill(self, limit: float) -> None:
        if self._in_proportion:
            self._refill = 1 / self._in_proportion
        self._reset_at, self.window_s, self._longest_s = None, None, 0.0
        self._reports = max(self._reports, self._BUCKET_AFTER)

    def _measure(self, now: float, ever: float, *, full: bool) -> None:
        """``ever`` is all that the bucket has given or could give now."""
        if full or self._anchor is None:
            self._anchor = (now, ever)
        elif now - self._anchor[0] >= self._MEASURED_S:
            self._refill = max(0.0, ever - self._anchor[1]) / (now - self._anchor[0])

    @property
    def _is_bucket(self) -> bool:
        return self.window_s is None and self._longest_s < 0.9 and self._reports >= self._BUCKET_AFTER

    @property
    def comes_back(self) -> float | None:
        """Units a second that come back before the window ends; ``None`` if it is not known how many."""
        if self._fills:
            return self._refill
        return 0.0 if self.window_s is not None or self._longest_s >= 0.9 else None

    @property
    def usual_rate(self) -> float | None:
        """Units a second on the average; ``None`` until that is known."""
        if self._is_bucket:
            return self._refill
        return None if self.limit is None or self.window_s is None else self.limit / self.window_s

    def rate(self, now: float) -> float | None:
        """Units a second that may go now; ``None`` if nothing was reported."""
        if self.limit is None:
            return None
        if self._is_bucket:
            return max(0.0, self._left) / self._SPREAD_S + (self._refill or self.limit / ASSUMED_S) / SLACK
        base = self.limit / (self.window_s or ASSUMED_S) / SLACK
        if self._came_back:  # before its time: how soon is found out the faster
            return base * 2.0**self._came_back
        if self._reset_at is None or now >= self._reset_at:
            return base
        until = self._reset_at - now
        if self.window_s is None:
            return max(base, self._left / max(until, 0.01)) if self._left >= 1 else base
        if self._remaining < 0.9 * base * (until - ROUNDING_S) - 1:
            return max(self._remaining, 1.0) / until
        return base

    def empty_s(self, now: float, units: float) -> float:
        """Seconds until the window is renewed, if what is left does not suffice; else 0."""
        if self.limit is None or self._reset_at is None or now >= self._reset_at:
            return 0.0
        left = self._left if self.window_s is None else self._remaining
        if left >= min(units, self.limit):
            return 0.0
        until = self._reset_at - now
        # Not all resets are when one more fits. One request that is refused shows what this one is.
        return 0.0 if until > self._LONG_S and self._tried is None and self._begun is None else until

    def took(self, now: float, units: float) -> None:
        left = self._left if self.window_s is None else self._remaining
        if (
            self._tried is None
            and self._reset_at is not None
            and now < self._reset_at
            and left < min(units, self.limit or 0.0)
        ):
            self._tried = (now, self._reset_at)
        self._left -= units

    def accepted(self, now: float, sent_at: float) -> None:
        """What was sent at that time was let through."""
        if self._tried is None or self._confirmed or self._begun is not None:
            return
        if sent_at >= self._tried[0] and now < self._tried[1] - ROUNDING_S:
            self._ignores_resets, self._reset_at, self.window_s, self._longest_s = True, None, ASSUMED_S, 0.0


class ByModel:
    """Whether a key's limits are counted for each model by itself: the headers give models different limits, or what is left
    falls by what one model takes, not by what all take."""

    _SURE, _OTHERS, _OF_OTHERS, _BACK_S = 2, 10, 0.25, 50.0

    def __init__(self) -> None:
        self._since: float | None = None
        self._limits: dict[str, tuple[float, int]] = {}
        self._last: dict[str, tuple[float, int, float, float]] = {}
        self._fell = self._own = self._all = 0.0

    def seen(self, now: float, model: str, level: Level, own: int, taken: float, refill: float | None) -> bool:
        """An answer's headers: the request was the model's ``own``-th, and the ``taken``-th of all. So many units a second come
        back anyway; ``None`` if that is not known."""
        if level.limit is None or level.remaining is None:
            return False
        self._since = now if self._since is None else self._since
        limit, times = self._limits.get(model, (level.limit, 0))
        self._limits[model] = (level.limit, times + 1 if limit == level.limit else 1)
        sure = {limit for limit, times in self._limits.values() if times >= self._SURE}
        last, self._last[model] = self._last.get(model), (level.remaining, own, taken, now)
        # After a while what was taken comes back where windows slide, so that no fall is to be seen.
        fell = 0.0 if last is None else last[0] - level.remaining + (refill or 0.0) * (now - last[3])
        if last is not None and refill is not None and now - self._since < self._BACK_S and fell >= 0 and own > last[1]:
            self._fell += fell
            self._own += own - last[1]
            self._all += taken - last[2]
        others = self._all - self._own
        return len(sure) > 1 or (others >= self._OTHERS and self._fell <= self._own + self._OF_OTHERS * others)
