"""What Python is given of scores: a dict to code, and the tables of the command line to whoever prints it. Pure."""

from __future__ import annotations

from typing import Any

from . import score_text

_FIRST, _SECOND = "the first", "the second"


class _Readable(dict[str, Any]):
    """A dict in all but how it looks. What it holds may have been changed; as long as it is shown then, it is right."""

    def _text(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        try:
            return self._text()
        except (LookupError, TypeError, AttributeError, ValueError):
            return super().__repr__()


class ScoreSummary(_Readable):
    """What ``scores.json`` holds, or its fields that there are; printed as ``batchflex score`` does: ``dict(it)`` is all."""

    def _text(self) -> str:
        return score_text.text(self)


class Compared(_Readable):
    """The figures of a comparison; printed as ``batchflex compare`` does: ``dict(it)`` is all."""

    def _text(self) -> str:
        return score_text.comparison(self, (_FIRST, _SECOND))

    def with_flips(self, flips: list[dict[str, Any]], flipped: int) -> str:
        """The same with the items that flipped: those of ``flips``, of so many."""
        return score_text.comparison(self, (_FIRST, _SECOND), flips, flipped, more="the frame flips has them all")
