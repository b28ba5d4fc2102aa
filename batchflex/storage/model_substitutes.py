"""Whether the model that answered is the one that was asked for. Pure.

Servers give their own names back: with an organisation before them or without, with the date of the version that a name stands
for, with a path or the suffix of a file. All that is the same model.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable

_PROVIDER = re.compile(r"^(?:[a-z]{2,}\.)+(?=[a-z])")  # "us.anthropic.claude-…"
_VARIANT = re.compile(r"(?:-v\d+)?:\d+$|:(?:free|nitro|floor|exacto|latest)$|\.gguf$")
_DATE = re.compile(r"[-@](\d{4}-\d\d-\d\d|\d\d-\d{4}|\d{3,8})$")
_LATEST = re.compile(r"[-@:](?:latest|default)$")
_MOST_SHOWN = 3


@functools.lru_cache(maxsize=1024)
def is_same_model(requested: str, answered: str) -> bool:
    """Whether two names differ by no more than a provider, a date or the form of a name."""
    (one, its_date), (other, other_date) = _parts(requested), _parts(answered)
    if one != other:
        return False
    return not its_date or not other_date or its_date.endswith(other_date) or other_date.endswith(its_date)


def _parts(name: str) -> tuple[str, str]:
    """The bare name, and the digits of its date."""
    bare = name.strip().lower().replace("\\", "/").rstrip("/").rpartition("/")[2]
    bare = _LATEST.sub("", _VARIANT.sub("", _PROVIDER.sub("", bare)))
    if date := _DATE.search(bare):
        return bare[: date.start()], date[1].replace("-", "")
    return bare, ""


def is_substitute(requested: str | None, answered: str | None, fallbacks: int | None) -> bool:
    """Whether an answer is another model's than was asked for, or that of a gateway's fallback."""
    if fallbacks:
        return True
    return requested is not None and answered is not None and not is_same_model(requested, answered)


class Substitutes:
    """Counts answers that are not those of the model that was asked for."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str | None, str | None]] = Counter()
        self.answers = 0

    @classmethod
    def together(cls, several: Iterable[Substitutes]) -> Substitutes:
        """What several have counted."""
        whole = cls()
        for each in several:
            whole.answers += each.answers
            whole._counts += each._counts
        return whole

    @property
    def rows(self) -> int:
        return self._counts.total()

    def add(self, requested: str | None, answered: str | None, fallbacks: int | None, rows: int = 1) -> None:
        """So many rows were answered, by a model of that name."""
        self.answers += rows
        if (fallbacks or requested != answered) and is_substitute(requested, answered, fallbacks):
            by_fallback = requested is None or answered is None or is_same_model(requested, answered)
            self._counts[(None, None) if by_fallback else (requested, answered)] += rows

    def words(self, *, named: bool = True) -> str | None:
        """A sentence, if there are any. Unless ``named``, without names of models."""
        if not self.rows:
            return None
        said = (
            f"{self.rows:,} of {self.answers:,} answers are not, or perhaps not, those of the model that was asked for"
        )
        if named:
            kinds = self._counts.most_common()
            shown = [f"{rows:,} {_kind(pair)}" for pair, rows in kinds[:_MOST_SHOWN]]
            more = len(kinds) - len(shown)
            said += f": {'; '.join(shown)}{f' and {more:,} more' if more else ''}"
        return f"{said}. The columns requested_model, model and gateway_fallbacks tell which"


def _kind(pair: tuple[str | None, str | None]) -> str:
    requested, answered = pair
    if requested is None:
        return "by a fallback of the gateway"
    return f"by {answered!r:.80} in place of {requested!r:.80}"
