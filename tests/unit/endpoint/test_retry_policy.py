"""Which failures get another attempt, when, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from batchflex.config.sections import RetrySection
from batchflex.core.errors import AttemptError, RateLimited, RowFault, RunFault, Transient
from batchflex.core.types import Answer, Usage
from batchflex.endpoint.retry_policy import Tries, exhausted, is_last, persist, wait_s

ANSWER = Answer("yes", None, None, "stop", "m", Usage(), b"{}", 200, 0.1, None)
POLICY = RetrySection(attempts=4, max_s=100.0, base_s=1.0, max_wait_s=10.0)


def transient(words: str = "HTTP 503", retry_after_s: float | None = None) -> Transient:
    return Transient(words, error_type="http_503", http_status=503, retry_after_s=retry_after_s)


def rate_limited(retry_after_s: float | None = None) -> RateLimited:
    return RateLimited("HTTP 429", error_type="http_429", http_status=429, retry_after_s=retry_after_s)


def tries(spent: int, seconds: float = 0.0) -> Tries:
    made = Tries()
    made.sent = made.spent = spent
    made.seconds = seconds
    return made


@pytest.mark.parametrize(
    ("fault", "spent", "seconds", "is_last"),
    [
        (transient(), 1, 0.0, False),
        (transient(), 3, 99.9, False),
        (transient(), 4, 0.0, True),
        (transient(), 1, 100.0, False),  # one that was waited for so long is asked a second time
        (transient(), 2, 100.0, True),
        (transient(), 9, 999.0, True),
        (rate_limited(), 0, 0.0, False),
        (rate_limited(30.0), 4, 0.0, False),
        (rate_limited(), 1_000, 1e6, False),
    ],
)
def test_exhausted(fault: AttemptError, spent: int, seconds: float, is_last: bool) -> None:
    assert exhausted(fault, tries(spent, seconds), POLICY) is is_last


@pytest.mark.parametrize(
    ("fault", "spent", "seconds", "jitter", "expected"),
    [
        # exponential with full jitter: anything from nothing to the longest
        (transient(), 1, 0.0, 1.0, 1.0),
        (transient(), 2, 0.0, 1.0, 2.0),
        (transient(), 3, 0.0, 1.0, 4.0),
        (transient(), 4, 0.0, 1.0, 8.0),
        (transient(), 5, 0.0, 1.0, 10.0),
        (transient(), 900, 0.0, 1.0, 10.0),
        (transient(), 3, 0.0, 0.0, 0.0),
        (transient(), 3, 0.0, 0.5, 2.0),
        (transient(), 0, 0.0, 1.0, 1.0),
        # what the server asks for, if that is longer
        (transient(retry_after_s=7.0), 1, 0.0, 1.0, 7.0),
        (transient(retry_after_s=70.0), 1, 0.0, 1.0, 70.0),
        (transient(retry_after_s=0.5), 3, 0.0, 1.0, 4.0),
        (transient(retry_after_s=0.0), 1, 0.0, 0.0, 0.0),
        # never beyond max_s
        (transient(retry_after_s=700.0), 1, 0.0, 1.0, 100.0),
        (transient(retry_after_s=700.0), 2, 60.0, 1.0, 40.0),
        (transient(), 4, 97.0, 1.0, 3.0),
        (transient(), 4, 200.0, 1.0, 0.0),
        # a rate limit is waited for at the gate
        (rate_limited(), 5, 0.0, 1.0, 0.0),
        (rate_limited(30.0), 5, 0.0, 1.0, 0.0),
    ],
)
def test_wait(fault: AttemptError, spent: int, seconds: float, jitter: float, expected: float) -> None:
    assert wait_s(fault, tries(spent, seconds), POLICY, lambda: jitter) == pytest.approx(expected)


def test_the_last_attempt_is_the_one_after_which_none_is_left_and_what_is_forgiven_does_not_count() -> None:
    used = tries(0)
    last = []
    for _ in range(POLICY.attempts):
        last.append(is_last(used, POLICY))
        used.count(1.0, costs=True)
    assert last == [False, False, False, True]
    late = tries(0)
    assert not is_last(late, POLICY), "the first is not preceded by any"
    late.count(60.0, costs=True)
    assert is_last(late, POLICY), "another one like this takes up the time"
    assert exhausted(transient(), used, POLICY)
    used.forgive()
    assert not exhausted(transient(), used, POLICY)
    assert used.sent == POLICY.attempts


def test_only_attempts_that_cost_are_counted_as_spent() -> None:
    made = Tries()
    made.count(2.0, costs=True)
    made.count(5.0, costs=False)
    assert (made.sent, made.spent, made.seconds) == (2, 1, 2.0)


class Script:
    """A row whose attempts end as written; ``first`` has happened before :func:`persist` is called."""

    def __init__(self, first: Transient, *then: AttemptError | Answer, seconds: float = 1.0) -> None:
        self.tries = Tries()
        self.events: list[str | float] = []
        self._then = list(then)
        self._seconds = seconds
        self._first = first
        self._count(first)

    def _count(self, ended: AttemptError | Answer) -> None:
        self.tries.count(self._seconds, costs=not isinstance(ended, RateLimited))

    async def attempt(self) -> Answer:
        self.events.append("sent")
        ended = self._then.pop(0)
        self._count(ended)
        if isinstance(ended, Answer):
            return ended
        raise ended

    async def sleep(self, seconds: float) -> None:
        self.events.append(seconds)

    def persist(
        self, policy: RetrySection = POLICY, attempt: Callable[[], Awaitable[Answer]] | None = None
    ) -> Awaitable[Answer]:
        return persist(attempt or self.attempt, self._first, self.tries, policy, self.sleep, lambda: 1.0)


@pytest.mark.anyio
class TestPersist:
    async def test_it_waits_before_each_attempt_until_there_is_an_answer(self) -> None:
        script = Script(transient(), transient(), transient(), ANSWER)
        assert await script.persist() is ANSWER
        assert script.events == [1.0, "sent", 2.0, "sent", 4.0, "sent"]
        assert (script.tries.sent, script.tries.spent) == (4, 4)
        assert script.tries.seconds == pytest.approx(4 * 1.0 + 7.0)

    async def test_after_the_last_attempt_its_own_failure_is_raised(self) -> None:
        last = transient("the last words")
        script = Script(transient("first"), transient("second"), transient("third"), last)
        with pytest.raises(Transient) as caught:
            await script.persist()
        assert caught.value is last
        assert script.events == [1.0, "sent", 2.0, "sent", 4.0, "sent"]

    async def test_max_s_ends_it_before_the_attempts_are_spent(self) -> None:
        script = Script(transient("first"), transient("second"), transient("third"), seconds=49.5)
        with pytest.raises(Transient, match="second"):
            await script.persist()
        assert script.events == [1.0, "sent"]

    async def test_the_last_wait_is_cut_so_that_max_s_still_sees_an_attempt(self) -> None:
        script = Script(transient(retry_after_s=500.0), ANSWER)
        assert await script.persist() is ANSWER
        assert script.events == [99.0, "sent"]

    async def test_the_servers_wait_is_kept(self) -> None:
        script = Script(transient(retry_after_s=20.0), transient(), ANSWER)
        assert await script.persist() is ANSWER
        assert script.events == [20.0, "sent", 2.0, "sent"]

    @pytest.mark.parametrize("kind", [RowFault, RunFault])
    async def test_what_is_not_transient_is_raised_at_once(self, kind: type[AttemptError]) -> None:
        final = kind("no", error_type="http_400", http_status=400)
        script = Script(transient(), transient(), final, ANSWER)
        with pytest.raises(kind) as caught:
            await script.persist()
        assert caught.value is final
        assert script.events == [1.0, "sent", 2.0, "sent"]

    async def test_what_is_no_failure_of_an_attempt_passes_through(self) -> None:
        async def halted() -> Answer:
            raise LookupError

        script = Script(transient())
        with pytest.raises(LookupError):
            await script.persist(attempt=halted)
        assert script.events == [1.0]

    async def test_rate_limits_cost_neither_attempts_nor_waits(self) -> None:
        script = Script(rate_limited(), *[rate_limited(5.0)] * 50, transient(), rate_limited(), transient(), ANSWER)
        assert await script.persist() is ANSWER
        assert script.tries.sent == 55
        assert script.tries.spent == 3
        waits = [event for event in script.events if event != "sent"]
        assert [wait for wait in waits if wait] == [1.0, 2.0]

    async def test_one_attempt_in_all_means_none_after_the_first(self) -> None:
        script = Script(transient("the only one"), ANSWER)
        with pytest.raises(Transient, match="the only one"):
            await script.persist(RetrySection(attempts=1))
        assert script.events == []
