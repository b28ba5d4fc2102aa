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

from ..config import Job
from ..core import StorageError
from ..storage import replaced
from .model_list import Catalog, Contexts
from .price_list import Prices
from .provider import Endpoint


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
    file = {"host": urlsplit(base_url).hostname or "", "at": catalog.at, "models": catalog.models}
    with contextlib.suppress(OSError, StorageError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replaced(path) as stream:
            stream.write(msgspec.json.encode(file))


def kept(base_url: str) -> Catalog | None:
    """The list that was fetched last from this address; ``None`` if there is none. Blocks."""
    path = _path(base_url)
    try:
        return None if path is None else msgspec.json.decode(path.read_bytes(), type=Catalog)
    except (OSError, ValueError):
        return None


def known(job: Job, endpoints: Sequence[Endpoint]) -> tuple[Prices, Contexts]:
    """What is known of a job's models without asking for it: by the job, and by the lists that were fetched last. Blocks."""
    prices, contexts = Prices(job), Contexts()
    for endpoint in endpoints:
        if (catalog := kept(endpoint.base_url)) is not None:
            prices.learn(endpoint.name, catalog)
            contexts.learn(catalog, endpoint.model)
    return prices, contexts
