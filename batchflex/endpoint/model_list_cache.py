"""The lists of models that were fetched last, kept for each user: a plan is offline, and yet knows prices.

``$XDG_CACHE_HOME/batchflex/models/`` (``~/.cache/…``) has a file for each address of an endpoint. It may be deleted; where it
cannot be written nothing is kept, and nothing fails for it. Without keys.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ..config import Job, PricesSection
from ..core import StorageError
from ..storage import replaced
from .model_list import Catalog, Contexts, ModelInfo
from .price_list import Prices
from .provider import Endpoint


class _Kept(msgspec.Struct):
    """A model in a file: prices are dollars for a million tokens."""

    id: str
    input: float | None = None
    output: float | None = None
    cached_input: float | None = None
    context: int | None = None
    ready: bool | None = None


class _File(msgspec.Struct):
    host: str
    at: float
    models: list[_Kept]


def _path(base_url: str) -> Path | None:
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        home = Path(given) if given and Path(given).is_absolute() else Path.home() / ".cache"
    except RuntimeError:  # nobody's home
        return None
    name = hashlib.blake2b(base_url.encode(), digest_size=16).hexdigest()
    return home / "batchflex" / "models" / f"{name}.json"


def keep(base_url: str, catalog: Catalog) -> None:
    """Keep a list that has models in it. Blocks."""
    path = _path(base_url)
    if path is None or not (base_url and catalog.models):
        return
    models = []
    for model in catalog.models:
        prices = model.prices.model_dump() if model.prices is not None else {}
        models.append(_Kept(model.id, **prices, context=model.context, ready=model.ready))
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replaced(path) as stream:
            stream.write(msgspec.json.encode(_File(urlsplit(base_url).hostname or "", catalog.at, models)))


def kept(base_url: str) -> Catalog | None:
    """The list that was fetched last from this address; ``None`` if there is none. Blocks."""
    path = _path(base_url)
    try:
        file = None if path is None else msgspec.json.decode(path.read_bytes(), type=_File)
        if file is None:
            return None
        return Catalog([ModelInfo(m.id, _prices(m), m.context, m.ready) for m in file.models], file.at)
    except (OSError, ValueError):
        return None


def _prices(model: _Kept) -> PricesSection | None:
    if model.input is None or model.output is None:
        return None
    return PricesSection(input=model.input, output=model.output, cached_input=model.cached_input)


def known(job: Job, endpoints: Sequence[Endpoint]) -> tuple[Prices, Contexts]:
    """What is known of a job's models without asking for it: by the job, and by the lists that were fetched last. Blocks."""
    prices, contexts = Prices(job), Contexts()
    for endpoint in endpoints:
        if (catalog := kept(endpoint.base_url)) is not None:
            prices.learn(endpoint.name, catalog)
            contexts.learn(catalog, endpoint.model)
    return prices, contexts
