"""What one attempt may use, and what it is expected to use. Pure."""

from __future__ import annotations

import msgspec

from ..config import PricesSection
from ..core import Usage

# Until usage has been seen. Three bytes a token is on the careful side for prose in Latin script.
_FIRST_TOKENS_PER_BYTE, _FIRST_COMPLETION_TOKENS, _MOST_FIRST_COMPLETION = 1 / 3, 256, 4096


class Cost(msgspec.Struct):
    """What one attempt may use at the very most, and what it was expected to use when it was sent.

    One attempt at a time has it. ``prices`` are those of the model at its endpoint. ``tokens``, the marks and ``sent_at`` are
    of the attempt that is in flight, as are ``among``, how many were in flight with it when it was sent, and ``sent_model``, the
    name that the endpoint gets; ``model`` is the one in the row.
    ``refusals`` is how often rate limits have refused it.
    """

    body_bytes: int
    max_tokens: int | None
    most_tokens: int
    most_usd: float
    prices: PricesSection | None = None
    tokens: float = 0.0
    sent_at: float = 0.0
    among: int = 0
    requests_mark: float = 0.0
    tokens_mark: float = 0.0
    model: str = ""
    sent_model: str = ""
    model_mark: int = 0
    refusals: int = 0


class TokenEstimate:
    """What an attempt is expected to use: bytes times a ratio, and an answer as long as those seen. Learned from usage."""

    def __init__(self) -> None:
        self._answers = self._bytes = self._prompt = self._completion = 0

    def __call__(self, cost: Cost) -> float:
        if self._answers:
            return cost.body_bytes * self._prompt / max(1, self._bytes) + self._completion / self._answers
        completion = min(cost.max_tokens or _FIRST_COMPLETION_TOKENS, _MOST_FIRST_COMPLETION)
        return cost.body_bytes * _FIRST_TOKENS_PER_BYTE + completion

    def learn(self, cost: Cost, usage: Usage) -> None:
        self._answers += 1
        self._bytes += cost.body_bytes
        self._prompt += usage.prompt_tokens or 0
        self._completion += usage.completion_tokens or 0
