"""What tokens cost: as the job says, else as the endpoint's list of models says, or said last. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..config import Job, PricesSection, endpoint_name, price_usd
from ..core import Usage
from .model_list import Catalog

_USUAL = Usage(3_000, 1_000)  # what prices are compared by, to find the dearest


class _Listed(NamedTuple):
    prices: PricesSection
    at: float


class Prices:
    """Those of a job, by endpoint and model. ``[prices]`` of the job always wins. What was once learned for a model stays, so
    that a run counts by one price throughout."""

    def __init__(self, job: Job) -> None:
        typed = job.prices
        self._of_models = typed.of_models if typed is not None else {}
        self._of_all = typed.of_all if typed is not None else None
        self._sent = {endpoint_name(entry.name, entry.base_url): entry.model for entry in job.endpoint_entries}
        self._only = next(iter(self._sent))
        self.differ = len(self._sent) > 1  # whether they may at the endpoints that a request can go to
        self._listed: dict[tuple[str | None, str | None], _Listed] = {}
        self.are_any = typed is not None
        self._used: dict[tuple[str | None, str | None], None] = {}

    def learn(self, endpoint: str, catalog: Catalog) -> None:
        for model in catalog.models:
            if (prices := model.prices) is not None:
                self.are_any = True
                self._listed.setdefault((endpoint, model.id), _Listed(prices, catalog.at))

    def of(self, model: str, endpoint: str) -> PricesSection | None:
        """For requests that name this model at that endpoint; ``None`` if it is not known."""
        if not self._of_models and (self._of_all is not None or not self._listed):
            if self._of_all is not None:
                self._used[None, None] = None
            return self._of_all
        model = self._sent.get(endpoint) or model
        found = self._find(endpoint, model)
        if found is not None:
            self._used[endpoint, model] = None
        return found

    def dearest(self, model: str) -> PricesSection | None:
        """The same where it costs most; ``None`` if it is not known of an endpoint."""
        if not self.differ:
            return self.of(model, self._only)
        found = [self.of(model, endpoint) for endpoint in self._sent]
        if None in found:
            return None
        return max((each for each in found if each), key=lambda each: price_usd(each, _USUAL) or 0.0)

    def _find(self, endpoint: str | None, model: str | None) -> PricesSection | None:
        listed = self._listed.get((endpoint, model))
        return self._of_models.get(model or "") or self._of_all or (listed.prices if listed is not None else None)

    def missing(self, models: Iterable[str]) -> list[tuple[str, str]]:
        """Endpoints and models whose prices are not known, of those that the job itself names."""
        asked = list(models)
        return [
            (endpoint, model)
            for endpoint, sent in self._sent.items()
            for model in ([sent] if sent else asked)
            if self._find(endpoint, model) is None
        ]

    @property
    def are_all_typed(self) -> bool:
        """Whether no list has to be fetched, whatever models rows name."""
        return self._of_all is not None

    def used(self) -> list[dict[str, Any]]:
        """The prices that were used so far, and where each came from: ``prices`` of ``run.json``."""
        return [self._entry(endpoint, model) for endpoint, model in self._used]

    def _entry(self, endpoint: str | None, model: str | None) -> dict[str, Any]:
        found, listed = self._find(endpoint, model), self._listed.get((endpoint, model))
        amounts = {} if found is None else found.model_dump()
        source: dict[str, str | None] = {"from": "job", "at": None}
        if listed is not None and found is listed.prices:
            at = datetime.datetime.fromtimestamp(listed.at, datetime.UTC)
            source = {"from": "endpoint", "at": at.isoformat(timespec="seconds")}
        return {"endpoint": endpoint, "model": model, **amounts, **source}
