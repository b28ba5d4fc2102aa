"""How often the same may be said: so many times a minute, and then how many more there were. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_MINUTE_S = 60.0


class Throttle:
    """``most`` is how often a kind may be said in a minute, ``others`` is for kinds that it does not name; 0 is without end."""

    def __init__(self, most: Mapping[str, int], others: int = 0) -> None:
        self._most = most
        self._others = others
        self._since: dict[str, float] = {}
        self._said: dict[str, int] = {}

    def admits(self, kind: str, now: float) -> bool:
        """Whether one more may be said now; counts it in any case. :meth:`over` comes before it."""
        most = self._most.get(kind, self._others)
        if not most:
            return True
        self._since.setdefault(kind, now)
        self._said[kind] = self._said.get(kind, 0) + 1
        return self._said[kind] <= most

    def over(self, now: float) -> Iterator[tuple[str, int]]:
        """The kinds whose minute is over, each with how many of it were not said, if there are any; they begin anew."""
        for kind in [kind for kind, since in self._since.items() if now - since >= _MINUTE_S]:
            del self._since[kind]
            if (held := self._said.pop(kind) - self._most.get(kind, self._others)) > 0:
                yield kind, held
