"""The list of models that an endpoint gives under ``GET /models``: what they cost, how long a prompt may be, whether they are
ready. Pure.

Servers differ in names and units. OpenAI's own list has ids alone; prices are dollars for a million tokens at some, for one
token at others, where they are mostly given as text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import msgspec

from ..config import PricesSection
from ..core import Request, nearest
from ..protocol import conversation, model_of

_A_MILLION = 1e6
# No model costs a thousand dollars a million tokens, and none that costs anything less than a tenth of a cent.
_LARGEST_FOR_ONE = 1e-3
_INPUT = ("prompt", "input", "input_tokens")
_OUTPUT = ("completion", "output", "output_tokens")
_CACHED = ("input_cache_read", "cached_input", "cache_read_tokens", "input_cache_reads")
_CONTEXT = ("context_length", "max_model_len", "context_window", "max_context_length")
# A word is a token at least; of scripts without spaces between words even the longest tokens take no more bytes.
_LONGEST_TOKEN_BYTES = 12
_SHOWN = 10  # models, in a sentence

_decode = msgspec.json.Decoder().decode


_Dollars = Annotated[float, msgspec.Meta(ge=0)] | None


class ModelInfo(msgspec.Struct, frozen=True):
    """A model as an endpoint lists it; what it does not say is ``None``. Prices are in dollars for a million tokens, ``context``
    is in tokens."""

    id: str
    input: _Dollars = None
    output: _Dollars = None
    cached_input: _Dollars = None
    context: int | None = None
    ready: bool | None = None

    @property
    def prices(self) -> PricesSection | None:
        if self.input is None or self.output is None:
            return None
        return PricesSection(input=self.input, output=self.output, cached_input=self.cached_input)


class Catalog(msgspec.Struct, frozen=True):
    """``at`` is when it was fetched, in seconds since the epoch."""

    models: list[ModelInfo]
    at: float = 0.0

    @property
    def ids(self) -> list[str]:
        return [model.id for model in self.models]

    def of(self, name: str) -> ModelInfo | None:
        return next((model for model in self.models if model.id == name), None)


def read(raw: bytes, at: float) -> Catalog:
    """A list of models as a server gives it; an empty one if it is none."""
    try:
        data = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Catalog([], at)
    if isinstance(data, dict):
        data = next((data[name] for name in ("data", "models") if isinstance(data.get(name), list)), [])
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []
    return Catalog([_model(str(entry["id"]), entry) for entry in entries if entry.get("id") not in (None, "")], at)


def _model(name: str, entry: dict[str, Any]) -> ModelInfo:
    beside = [entry, *(entry[part] for part in ("metadata", "top_provider") if isinstance(entry.get(part), dict))]
    pricing: dict[str, Any] = next((each["pricing"] for each in beside if isinstance(each.get("pricing"), dict)), {})
    lengths = [_number(each.get(field)) for each in beside for field in _CONTEXT]
    ready = next((entry[field] for field in ("is_ready", "ready") if isinstance(entry.get(field), bool)), None)
    context = min((int(n) for n in lengths if n), default=None)
    return ModelInfo(name, **_prices(pricing), context=context, ready=ready)


def _prices(pricing: dict[str, Any]) -> dict[str, float]:
    """Dollars for a million tokens, by the fields of :class:`ModelInfo`; none unless both input and output have a price."""
    plain = [_number(pricing.get(f"{name}_per_mtok")) for name in ("input", "output", "cached_input")]
    factor = 1.0
    if plain[0] is None or plain[1] is None:
        plain = [
            next((found for name in names if (found := _number(pricing.get(name))) is not None), None)
            for names in (_INPUT, _OUTPUT, _CACHED)
        ]
        known = [price for price in plain[:2] if price is not None]
        factor = _A_MILLION if known and max(known) < _LARGEST_FOR_ONE else 1.0
    prompt, completion, cached = plain
    if prompt is None or completion is None:
        return {}
    amounts = {"input": prompt, "output": completion, "cached_input": cached}
    return {name: round(factor * amount, 9) for name, amount in amounts.items() if amount is not None}


def _number(value: Any) -> float | None:
    """A finite number that is not negative, also as text; OpenRouter's -1 is a price that varies."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def hint(name: str | None, ids: Iterable[str]) -> str:
    """What may be meant by a model that is not among ``ids``, to follow a sentence: ``"; did you mean 'm'?"``."""
    known, name = list(ids), name or ""
    bare = name.rpartition("/")[2]
    near = bare if bare in known else nearest(name, known) or nearest(bare, known)
    return f"; did you mean {near!r}?" if near else ""


def others(name: str, catalog: Catalog) -> str:
    """Which models there are in place of one that cannot be used, to follow a sentence; nothing if no list was fetched."""
    ids = [each for each in catalog.ids if each != name]
    if not ids:
        return ""
    shown = ", ".join(ids[:_SHOWN]) + (", …" if len(ids) > _SHOWN else "")
    return (
        f"{hint(name, ids)} It lists for this key: {shown}" if hint(name, ids) else f"; it lists for this key: {shown}"
    )


class TooLong(msgspec.Struct, frozen=True):
    """A request whose prompt has more ``tokens``, at the very least, than its model's ``context``."""

    id: str
    model: str
    tokens: int
    context: int

    @property
    def sentence(self) -> str:
        return f"row {self.id} has at least {self.tokens:,} tokens of prompt, and {self.model} takes {self.context:,}"


class Contexts:
    """How long prompts may be at the endpoints of a job, by model: the longest that any of them takes."""

    def __init__(self) -> None:
        self._of: dict[str, int] = {}
        self._least = math.inf

    def __bool__(self) -> bool:
        return bool(self._of)

    def learn(self, catalog: Catalog, sent: str | None = None) -> None:
        """``sent`` is the model name that this endpoint gets in place of the one in a request."""
        for model in catalog.models:
            if model.context is not None and sent in (None, model.id):
                name = "" if sent is not None else model.id
                self._of[name] = max(self._of.get(name, 0), model.context)
        self._least = min(self._of.values(), default=math.inf)

    def too_long(self, request: Request) -> TooLong | None:
        """Whether the prompt of a request surely does not fit: an estimate that is too low rather than too high."""
        if len(request.body) <= 2 * self._least or request.fault is not None:  # a word and a space for a token
            return None
        name = model_of(request.body)
        context = max(self._of.get(name, 0), self._of.get("", 0))
        tokens = _least_tokens(request.body) if context else 0
        return TooLong(request.id, name, tokens, context) if tokens > context else None


class LongPrompts:
    """Warns of requests whose prompts cannot fit, before they are sent: with an example once, and how many in all at the end."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.contexts = Contexts()
        self._warn = warn
        self._found = self._announced = 0

    def look(self, requests: Iterable[Request]) -> None:
        if not self.contexts:
            return
        found = [long for request in requests if (long := self.contexts.too_long(request)) is not None]
        if found and not self._announced:
            self._announced = len(found)
            self._warn(
                f"prompts too long for their model: {len(found):,} so far; {found[0].sentence}. They are sent all the same"
            )
        self._found += len(found)

    def end(self) -> None:
        if self._found > self._announced:
            self._warn(f"prompts too long for their model: {self._found:,} in all")


def _least_tokens(body: bytes) -> int:
    total = 0
    for _, content in conversation(_decode(body)):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
        for text in (content, *parts):
            if isinstance(text, str):
                total += max(len(text.split()), len(text.encode(errors="replace")) // _LONGEST_TOKEN_BYTES)
    return total
