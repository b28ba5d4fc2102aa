"""One endpoint: its connections, pacing, circuit breaker, prices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import (
        model_list as model_list,
        model_list_cache as model_list_cache,
        queue_metrics as queue_metrics,
        retry_policy as retry_policy,
    )
    from .circuit_breaker import CircuitBreaker as CircuitBreaker
    from .client import Client as Client
    from .concurrency_limit import ConcurrencyLimit as ConcurrencyLimit
    from .cost import Cost as Cost
    from .file_fetcher import (
        FetchFailed as FetchFailed,
        FileFetcher as FileFetcher,
        FileRefused as FileRefused,
    )
    from .local_model import serving as serving
    from .model_list import (
        Catalog as Catalog,
        Contexts as Contexts,
        LongPrompts as LongPrompts,
        ModelInfo as ModelInfo,
        TooLong as TooLong,
        others as others,
    )
    from .model_list_cache import known as known
    from .pacer import Allowance as Allowance, Pacer as Pacer
    from .price_list import Prices as Prices
    from .provider import (
        LOCAL as LOCAL,
        Endpoint as Endpoint,
        default_model as default_model,
        resolve as resolve,
        resolve_all as resolve_all,
        variables as variables,
    )
    from .quirks import Fallback as Fallback, Quirks as Quirks
    from .quota import Ceiling as Ceiling, Spacing as Spacing, Window as Window
    from .retry_policy import Tries as Tries
    from .transport import proxy_for as proxy_for

__all__, __getattr__, __dir__ = exports(__name__)
