"""What refusals alone show of a quota.

Decisions only: time is passed in, in seconds of a monotonic clock.
"""

from __future__ import annotations

from .quota_window import SLACK, USUAL_S, usual


class RefusalLimit:
    """A quota as refusals alone show it.

    A refusal that names a time says: until then nothing more. Between two such times the server accepts what its window allows.
    So the first span gives a guess, the second is sent freely but for where the guess says that the limit is, and if that is
    where it was, the limit is known, and everything goes at its constant rate. Where the spans don't agree (a window that
    slides, a bucket, short waits), what was accepted over several refusals is the rate. A rate that does not make refusals rare
    was wrong: it is forgotten, and none is learned for a while. A learned rate grows slowly while nothing is refused.
    """

    _NAMED_S = 0.5  # refusals that name shorter waits don't tell where a window ends
    _AGREE, _PASSED, _SOON = 0.05, 0.8, 0.02
    _CAREFUL, _MOST_CAREFUL, _CAREFUL_S = 0.15, 50.0, 0.02
    # Before a rate is learned from the past: so many refusals, over so many seconds and times the longest wait that was named.
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
        self._begin_proof(None)
        self._accepted_by_then = 0.0
        self._accepted_since_hold = False
        self._first_refused: float | None = None
        self._ever_accepted = 0.0
        self._longest_s = 0.0
        self._refused_in_a_row = 0
        self._named: tuple[float | None, float | None] = (None, None)
        self._held_until = float("-inf")
        self._banned_until = float("-inf")
        self._ban_s = self._BANNED_S
        self._mended = False
        self._growth, self._most_growth = self._GROWTH, self._MOST_GROWTH

    def _begin_proof(self, now: float | None) -> None:
        # Over all spans since the first refusal, or since a rate was learned; and until the quota was last used up, which a
        # refusal after something was accepted shows.
        self._since, self._accepted, self._holds = now, 0.0, 0
        self._used_up: float | None = None

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
        if self._end is not None and now >= self._end:
            self._sent = 0.0
        self._sent += units

    def accepted(self, now: float, sent_at: float, units: float) -> None:
        """What was sent then was not refused."""
        self._refused_in_a_row = 0
        if self._begin is None:
            self._begin = sent_at
        if self._first_refused is None:
            self._units += units if sent_at >= self._begin else 0.0
            return
        if self._end is not None and sent_at >= self._end:
            self._span_is_over()
        if sent_at >= self._begin:
            self._units += units
        if sent_at >= self._first_refused:
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
        named = self._named[0] if self._named[0] == self._named[1] and self._named[0] in USUAL_S[2:] else None
        window_s = named or usual(end - begin)
        seen = self._ever_accepted / max(1e-9, end - (self._first_refused or begin))
        # A quota lets no more pass than it allows: if more has passed, these spans are no windows.
        if abs(units - guess) <= max(1.0, self._AGREE * guess) and units / window_s >= self._PASSED * seen:
            self._learn(end, units, window_s)

    def _learn(self, now: float, units: float, window_s: float) -> None:
        self.window_s = window_s
        self.rate = units / window_s / SLACK
        self._growth, self._most_growth = self._GROWTH, self._MOST_GROWTH
        self._begin_proof(now)

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
