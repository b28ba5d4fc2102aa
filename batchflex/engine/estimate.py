"""How many tokens requests will take, and what they may cost, before anything is known but their text. Pure."""

from __future__ import annotations

from typing import Any

from ..config import price_usd
from ..core import Request, Usage
from ..endpoint import Prices

_BYTES_PER_TOKEN = 4  # of prose in Latin script; other scripts take more tokens


class Estimate:
    """Adds up requests. ``requests`` is how many there are, ``first`` the first of them; ``files`` how many they put in, which
    take about ``file_tokens``."""

    def __init__(self, prices: Prices) -> None:
        self._prices = prices
        self._priced: dict[int, list[Any]] = {}
        self._are_known = True
        self.requests = self.files = self.file_tokens = 0
        self.first: Request | None = None
        self._prompt_bytes = self._completion = self._carried = 0
        self._bounded = True

    def add(self, request: Request) -> None:
        self.requests += 1
        self.first = self.first or request
        size = len(request.body)
        if request.files:
            tokens = request.file_tokens
            size += _BYTES_PER_TOKEN * tokens
            self.files += len(request.files)
            self.file_tokens += tokens
        self._prompt_bytes += size
        self._carried += len(request.carry or "")
        self._bounded = self._bounded and request.max_tokens is not None
        self._completion += request.max_tokens or 0
        if (prices := self._prices.dearest(request.model)) is None:
            self._are_known = False
        else:
            sums = self._priced.setdefault(id(prices), [prices, 0, 0])
            sums[1] += size
            sums[2] += request.max_tokens or 0

    @property
    def prompt_tokens(self) -> int:
        """About how many."""
        return self._prompt_bytes // _BYTES_PER_TOKEN

    @property
    def completion_tokens_at_most(self) -> int | None:
        """``None`` if some request does not bound its answer."""
        return self._completion if self._bounded else None

    @property
    def carried(self) -> float:
        """Characters that a request carries along, on average."""
        return self._carried / max(1, self.requests)

    @property
    def cost_at_most(self) -> float | None:
        """US dollars, with the prompt as estimated; ``None`` if a price is not known, or there is no bound."""
        if not (self._are_known and self._bounded and self._priced):
            return None
        return sum(
            price_usd(prices, Usage(size // _BYTES_PER_TOKEN, completion)) or 0.0
            for prices, size, completion in self._priced.values()
        )
