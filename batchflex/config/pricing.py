"""What an answer cost, by the prices of a job or of an endpoint's list. Pure."""

from __future__ import annotations

from ..core import Usage
from .sections import PricesSection


def price_usd(prices: PricesSection, usage: Usage) -> float | None:
    """What an answer cost; ``None`` if the server did not count its tokens."""
    if usage.prompt_tokens is None and usage.completion_tokens is None:
        return None
    prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
    cached = min(usage.cache_read_input_tokens or 0, prompt)
    cached_price = prices.input if prices.cached_input is None else prices.cached_input
    return ((prompt - cached) * prices.input + cached * cached_price + completion * prices.output) / 1e6


def cost_usd(prices: PricesSection | None, usage: Usage) -> float | None:
    """What an answer cost: by the prices where there are any, else, or without token counts, as a gateway says."""
    price = None if prices is None else price_usd(prices, usage)
    return usage.cost if price is None else price
