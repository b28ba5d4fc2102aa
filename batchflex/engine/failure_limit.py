"""When so many rows have failed that the run should end (``limits.max_failures``). Decisions only; nothing is stopped here."""

from __future__ import annotations

from ..core import Message, Outcome, unquoted

_FIRST_ALIKE = 20
_SHARE_FROM_ROWS = 50
_WHAT_TO_DO = (
    "If the server ignores what answers are to look like, say it in the prompt; what is there is kept, and can be read otherwise "
    "by: batchflex results OUT --reparse --set answer.lenient=true"
)


class Failures:
    """Compares the failed rows of one run with ``most``, which is ``limits.max_failures``.

    A whole number is a count; a fraction is a share of the final rows, compared once 50 are final. With either, the first 20 rows
    that all fail with the same error are enough. 1.0 never ends a run. A row that no request could be made of is a fault of the
    input, and does not count.
    """

    def __init__(self, most: int | float) -> None:
        self._most = most
        self._final = self._failed = 0
        self._first: tuple[int | None, str | None, str | None] | None = None
        self._alike = True
        self._answered = self._invalid = 0

    def add(self, outcome: Outcome) -> Message | None:
        """Count a final row. Returns a sentence if the run should end now."""
        self._answered += outcome.status != "failed"
        self._invalid += outcome.status == "invalid"
        if not outcome.attempts or (isinstance(self._most, float) and self._most >= 1.0):
            return None
        self._final += 1
        if outcome.status != "failed":
            self._alike = False
            return None
        self._failed += 1
        error = (outcome.http_status, outcome.error_type, outcome.error_code)
        self._first = self._first or error
        self._alike = self._alike and error == self._first
        if self._alike and self._final >= _FIRST_ALIKE:
            return _sentence(f"the first {self._final} rows failed with the same error", outcome)
        if isinstance(self._most, int):
            passed = self._failed > self._most
        else:
            passed = self._final >= _SHARE_FROM_ROWS and self._failed > self._most * self._final
        if not passed:
            return None
        so_many = f"{self._failed:,} of {self._final:,} rows failed (limits.max_failures is {self._most}); the latest"
        return _sentence(so_many, outcome)

    def add_others(self, answered: int, invalid: int) -> None:
        """Count so many final rows that have not failed, ``invalid`` of them with an answer that does not fit."""
        self._answered += answered
        self._invalid += invalid
        self._final += answered
        self._alike = self._alike and not answered

    def doubt(self, outcome: Outcome) -> Message | None:
        """A sentence if with this row, which was added last, all of the first 20 answers do not fit. Such a run may be what is
        wanted (they are kept, and can be read anew), so that it is for people to end it."""
        if outcome.status != "invalid" or not self._answered == self._invalid == _FIRST_ALIKE:
            return None
        said = Message(f", the latest: {outcome.error_message}", "") + ". "
        return f"the first {_FIRST_ALIKE} answers are all invalid" + said + _WHAT_TO_DO


def _sentence(what: str, outcome: Outcome) -> Message:
    return f"{what}: " + Message(outcome.error_message or str(outcome.error_type), unquoted(outcome))
