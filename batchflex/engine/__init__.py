"""One run: requests are admitted, sent, tried again, and their outcomes kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import evaluate as evaluate, runner as runner
    from .estimate import Estimate as Estimate
    from .retry_rows import Retry as Retry, missing_input as missing_input, retry_of as retry_of, sight as sight
    from .runner import Observer as Observer, Run as Run

__all__, __getattr__, __dir__ = exports(
    __name__,
    {
        "estimate": ["Estimate"],
        "evaluate": [],
        "retry_rows": ["Retry", "missing_input", "retry_of", "sight"],
        "runner": ["Observer", "Run"],
    },
    modules=["evaluate", "runner"],
)
