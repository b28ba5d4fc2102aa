"""What can be learned of a quota that nobody told the job: from headers, else from refusals alone.

Decisions only: time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

from ..protocol import Level

_USUAL_WINDOWS_S = (1.0, 10.0, 60.0, 3600.0, 86_400.0)
_ASSUMED_WINDOW_S = 60.0
# What clocks, rounding and the way to the server may cost: a part of the quota that is not used.
_SLACK = 1.005
_ROUNDING_S = 1.0  # resets are often told in whole seconds


def _usual(seconds: float) -> float:
    """The usual window that is meant; resets are often rounded up to whole seconds."""
    for window in _USUAL_WINDOWS_S:
        if 0.9 * window <= seconds <= 1.02 * window + _ROUNDING_S:
            return window
    return seconds


class HeaderLimit:
    """A quota as the headers of each answer tell it.

    Until its window is known, what is left is spread until the reset. Then units go at the constant rate that fixed windows,
    sliding ones and buckets all accept, more slowly only if less is left than that: others use the key too. Without a reset
    windows are taken for 60 s, and begin when all is there again. A reset may also be when a bucket is full, which is seen by
    its being in proportion to what is missing. Where no reset is ever a second away, or units come back long before a window's
    end, it is a bucket: its rate is what came back while units were taken.

    What the headers say may belong to nobody in particular, as of whichever server behind a proxy has answered. They are
    ``contradicted`` where limits go to and fro between values, what is left does likewise, or stays while units are taken.
    """

    _BUCKET_AFTER, _MEASURED_S, _SPREAD_S = 10, 1.0, 2.0
    _IN_PROPORTION, _PROPORTIONAL, _CAME_BACK = 4, 0.15, 8
    _RETURNS, _SWINGS, _LONG_S = 2, 3, 5.0

    def __init__(self) -> None:
        self.limit: float | None = None
        self.window_s: float | None = None
        self.contradicted = False
        self._longest_s = 0.0
        self._mark = -1.0
        self._remaining = 0.0
        self._left = 0.0
        self._reset_at: float | None = None
        self._heard = 0
        # A moment at which the bucket was not full, and what had been taken and was left then.
        self._anchor: tuple[float, float] | None = None
        self._refill: float | None = None
        self._fills = False  # a reset tells when the bucket is full
        self._proportions: list[tuple[float, float]] = []
        self._in_proportion: float | None = None
        # Without a reset: since when the window goes on, and how often units came back within it.
        self._begun: float | None = None
        self._came_back = 0
        self._ignores_resets = self._confirmed = False
        self._tried: tuple[float, float] | None = None  # nothing was left until then, and a request went all the same
        self._limits: list[float] = []
        self._returns = self._swings = 0
        self._swung_up = False
        self._unmoved, self._unmoved_since = 0.0, float("-inf")

    def told(self, now: float, mark: float, taken: float, level: Level) -> None:
        """Headers of the answer to what was taken at ``mark``; ``taken`` is all that was taken so far."""
        if level.limit is None or level.remaining is None or mark < self._mark:
            return
        renewed = level.remaining > self._remaining + level.limit / 2 and self._mark >= 0
        if self.limit != level.limit:
            self._another_limit(level.limit)
            renewed = False
        elif self._mark >= 0:
            self._look_for_contradictions(now, mark, level.limit, level.remaining, level.reset_s)
        gone, back = mark - self._mark, level.remaining - (self._remaining - (mark - self._mark))
        before = self._mark >= 0
        self.limit, self._mark, self._remaining = level.limit, mark, level.remaining
        self._heard += 1
        self._left = level.remaining - (taken - mark)
        reset_s = None if self._ignores_resets else level.reset_s
        if reset_s is None and not self._is_bucket:
            self._without_reset(
                now, level.window_s or _ASSUMED_WINDOW_S, renewed, back if before and gone > 0 else 0.0, gone
            )
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
                self.window_s = _usual(self._longest_s)
        fresh = level.remaining >= 0.97 * level.limit - 1 and _usual(self._longest_s) in _USUAL_WINDOWS_S
        if self.window_s is None and self._longest_s >= 0.9 and (renewed or (fresh and self._longest_s > 9.0)):
            self.window_s = _usual(self._longest_s)

    def refused(self, now: float, retry_after_s: float | None, units: float) -> None:
        """What was just sent was refused for this quota, with that time to wait, if any."""
        if self.limit is None or self._reset_at is None or now >= self._reset_at:
            return
        if self._begun is None and retry_after_s is not None and retry_after_s + 2 * _ROUNDING_S < self._reset_at - now:
            # So the reset is not when one more fits.
            self._ignores_resets, self.window_s, self._longest_s, self._reset_at = True, _ASSUMED_WINDOW_S, 0.0, None
            return
        self._confirmed = True
        self._remaining = self._left = min(self._remaining, max(0.0, units - 1.0))

    def mistaken(self) -> None:
        """When the window ends is not known after all."""
        self._reset_at = self._begun = None

    def _another_limit(self, limit: float) -> None:
        self._returns += limit in self._limits
        self._limits = [*self._limits, limit][-8:]
        self.contradicted = self.contradicted or self._returns >= self._RETURNS
        self._longest_s, self.window_s, self._heard, self._anchor = 0.0, None, 0, None
        self._reset_at = self._begun = self._refill = None
        self._fills = False
        self._came_back, self._proportions, self._in_proportion = 0, [], None

    def _look_for_contradictions(
        self, now: float, mark: float, limit: float, remaining: float, reset_s: float | None
    ) -> None:
        """More or less is left than what was taken explains, again and again; or as much as before whatever is taken."""
        expected, some = self._remaining - (mark - self._mark), 0.1 * limit + 5
        window_goes_on = self._reset_at is None or (now < self._reset_at - _ROUNDING_S and not self._is_bucket)
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
        """Take the windows for ``window_s``; of ``gone`` units that were taken ``back`` came back."""
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
            self._heard = max(self._heard, self._BUCKET_AFTER)

    def _in_proportion_to_missing(self, missing: float, reset_s: float | None) -> bool:
        """Whether the reset is when all that is missing has come back, and so in proportion to that."""
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
        self._heard = max(self._heard, self._BUCKET_AFTER)

    def _measure(self, now: float, ever: float, *, full: bool) -> None:
        """``ever`` is all that the bucket has given or could give now."""
        if full or self._anchor is None:
            self._anchor = (now, ever)
        elif now - self._anchor[0] >= self._MEASURED_S:
            self._refill = max(0.0, ever - self._anchor[1]) / (now - self._anchor[0])

    @property
    def _is_bucket(self) -> bool:
        return self.window_s is None and self._longest_s < 0.9 and self._heard >= self._BUCKET_AFTER

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
        """Units a second that may go now; ``None`` if nothing was told."""
        if self.limit is None:
            return None
        if self._is_bucket:
            return max(0.0, self._left) / self._SPREAD_S + (self._refill or self.limit / _ASSUMED_WINDOW_S) / _SLACK
        base = self.limit / (self.window_s or _ASSUMED_WINDOW_S) / _SLACK
        if self._came_back:  # before its time: how soon is found out the faster
            return base * 2.0**self._came_back
        if self._reset_at is None or now >= self._reset_at:
            return base
        until = self._reset_at - now
        if self.window_s is None:
            return max(base, self._left / max(until, 0.01)) if self._left >= 1 else base
        if self._remaining < 0.9 * base * (until - _ROUNDING_S) - 1:
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
        """What was sent then was let through."""
        if self._tried is None or self._confirmed or self._begun is not None:
            return
        if sent_at >= self._tried[0] and now < self._tried[1] - _ROUNDING_S:
            self._ignores_resets, self._reset_at, self.window_s, self._longest_s = True, None, _ASSUMED_WINDOW_S, 0.0


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


class RefusalLimit:
    """A quota as refusals alone show it.

    A refusal that names a time says: until then nothing more. Between two such times the server accepts what its window allows.
    So the first span gives a guess, the second is sent freely but for where the guess says that the limit is, and if that is
    where it was, the limit is known, and everything goes at its constant rate. Where the spans don't agree (a window that
    slides, a bucket, short waits), what was accepted over several refusals is the rate. A lesson that does not make refusals
    rare was wrong: it is forgotten, and none is drawn for a while. What was learned grows slowly while nothing is refused.
    """

    _NAMED_S = 0.5  # refusals that name shorter waits don't tell where a window ends
    _AGREE, _PASSED, _SOON = 0.05, 0.8, 0.02
    _CAREFUL, _MOST_CAREFUL, _CAREFUL_S = 0.15, 50.0, 0.02
    # To look back takes so many refusals and so long: seconds, and times the longest wait that was named.
    _HOLDS, _ELAPSED_S, _WINDOWS, _SHARE = 3, 5.0, 3.0, 0.02
    _BANNED_S, _LONGEST_BAN_S = 60.0, 3600.0
    _PROVEN_S = 10.0
    # For every while without a refusal; of a rate that was found by looking back, which may have been of quota left unused.
    _GROWTH, _MOST_GROWTH, _ROUGH_GROWTH, _MOST_ROUGH_GROWTH = 0.005, 0.08, 0.04, 0.25

    def __init__(self) -> None:
        self.rate: float | None = None
        self.window_s: float | None = None
        # The span since the last time that was named, and the one it ends with, if it was refused in already.
        self._begin: float | None = None
        self._end: float | None = None
        self._units = 0.0
        self._sent = 0.0
        self._guess: float | None = None
        # Over all spans since the first refusal, or since the lesson was drawn; and until the quota was last used up, which a
        # refusal after something was accepted tells.
        self._since: float | None = None
        self._accepted = 0.0
        self._used_up: float | None = None
        self._accepted_by_then = 0.0
        self._accepted_since_hold = False
        self._first_refused: float | None = None
        self._ever_accepted = 0.0
        self._holds = 0
        self._longest_s = 0.0
        self._refused_in_a_row = 0
        self._named: tuple[float | None, float | None] = (None, None)
        self._held_until = float("-inf")
        self._banned_until = float("-inf")
        self._ban_s = self._BANNED_S
        self._mended = False
        self._growth, self._most_growth = self._GROWTH, self._MOST_GROWTH

    @property
    def soon_s(self) -> float:
        """Seconds until the window's end when something is refused at the rate that was learned of it, where refusals name the
        length of a window and not its end; 0: not known."""
        if self.rate is None or self.window_s is None or self._named != (self.window_s, self.window_s):
            return 0.0
        return min(1.0, self._SOON * 2.0**self._refused_in_a_row) * self.window_s

    @property
    def careful_s(self) -> float:
        """Seconds that should pass between two units, near where the limit is guessed to be."""
        if self.rate is not None or self._guess is None:
            return 0.0
        near = abs(self._sent - self._guess) <= min(self._CAREFUL * self._guess + 1, self._MOST_CAREFUL)
        return self._CAREFUL_S if near else 0.0

    def took(self, now: float, units: float) -> None:
        """``units`` are sent now."""
        if self._end is not None and now >= self._end:
            self._sent = 0.0
        self._sent += units

    def accepted(self, now: float, sent_at: float, units: float) -> None:
        """What was sent then was not refused."""
        self._refused_in_a_row = 0
        if self._begin is None:
            self._begin = sent_at
        if self._end is not None and sent_at >= self._end:
            self._span_is_over()
        if sent_at >= self._begin:
            self._units += units
        if self._first_refused is not None and sent_at >= self._first_refused:
            self._ever_accepted += units
        self._accepted_since_hold = self._accepted_since_hold or sent_at >= self._held_until
        if self._since is not None and sent_at >= self._since:
            self._accepted += units
            if self._used_up is not None and sent_at < self._used_up:
                self._accepted_by_then += units
            if self.rate is not None and now - self._since >= max(self.window_s or 0.0, self._PROVEN_S):
                self._prove(now)

    def refused(self, now: float, sent_at: float, retry_after_s: float | None, hold_s: float) -> None:
        """What was sent then was refused for its rate; ``hold_s`` is how long nothing is sent now, whoever said so."""
        self._begin = sent_at if self._begin is None else self._begin
        if sent_at < self._held_until and now < self._held_until:
            return  # sent before that wait was known
        self._held_until = now + hold_s
        if self._since is None:
            self._begin_proof(now)
        elif self._accepted_since_hold:
            self._holds += 1
            self._used_up, self._accepted_by_then = now, self._accepted
        self._accepted_since_hold = False
        if self._first_refused is None:
            self._first_refused = now
        if self._end is not None and sent_at >= self._end:
            self._span_is_over()
        if retry_after_s is not None and retry_after_s >= self._NAMED_S:
            self._end = now + retry_after_s
        self._named = (self._named[1], retry_after_s)
        self._refused_in_a_row = min(8, self._refused_in_a_row + 1)
        self._longest_s = max(self._longest_s, retry_after_s or 0.0)
        spanned_s = 0.0 if self._used_up is None or self._since is None else self._used_up - self._since
        long_enough = spanned_s >= max(self._ELAPSED_S, self._WINDOWS * self._longest_s)
        if now >= self._banned_until and self._holds >= self._HOLDS and long_enough:
            self._look_back(now)

    def _span_is_over(self) -> None:
        begin, end, units = self._begin, self._end, self._units
        if begin is None or end is None:
            return
        self._begin, self._end, self._units = end, None, 0.0
        guess, self._guess = self._guess, units
        if self.rate is not None or guess is None or begin < self._banned_until or units < 2:
            return
        # Where refusals always name a whole window, whenever they come, it is that long.
        named = self._named[0] if self._named[0] == self._named[1] and self._named[0] in _USUAL_WINDOWS_S[2:] else None
        window_s = named or _usual(end - begin)
        seen = self._ever_accepted / max(1e-9, end - (self._first_refused or begin))
        # A quota lets no more pass than it allows: if more has passed, these spans are no windows.
        if abs(units - guess) <= max(1.0, self._AGREE * guess) and units / window_s >= self._PASSED * seen:
            self._learn(end, units, window_s)

    def _learn(self, now: float, units: float, window_s: float) -> None:
        self.window_s = window_s
        self.rate = units / window_s / _SLACK
        self._growth, self._most_growth = self._GROWTH, self._MOST_GROWTH
        self._begin_proof(now)

    def _begin_proof(self, now: float) -> None:
        self._since, self._accepted, self._holds = now, 0.0, 0
        self._used_up = None

    def _look_back(self, now: float) -> None:
        """Many refusals: what was accepted while they came is the rate. If they come all the same, it is something else."""
        until, accepted = (now, self._accepted) if self._used_up is None else (self._used_up, self._accepted_by_then)
        seen = accepted / (until - (self._since or 0.0))
        self._begin_proof(now)
        if self.rate is None or not self._mended:
            self._mended = self.rate is not None
            self.window_s = None
            self.rate = seen or None
            self._growth, self._most_growth = self._ROUGH_GROWTH, self._MOST_ROUGH_GROWTH
            return
        self.rate = self.window_s = self._guess = None
        self._mended = False
        self._banned_until = now + self._ban_s
        self._ban_s = min(self._LONGEST_BAN_S, 2 * self._ban_s)

    def _prove(self, now: float) -> None:
        """A while has passed with this rate: a few refusals mean that it is a little too high, none that it may be more."""
        if self.rate is None or self._since is None:
            return
        if self._holds > max(1.0, self._SHARE * self._accepted):
            self._look_back(now)
            return
        if self._holds:
            self.rate /= 1 + self._growth / 2
            self._growth, self._most_growth = self._GROWTH, self._MOST_GROWTH
        elif self._accepted >= 0.95 * self.rate * (now - self._since):
            self.rate *= 1 + self._growth
            self._growth = min(self._most_growth, 2 * self._growth)
        self._begin_proof(now)
