"""One row of the results as somebody in Python gets it while a run goes on."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from ..core import Outcome, Status

_decode = msgspec.json.decode


@dataclasses.dataclass(frozen=True, slots=True)
class ResultRow:
    """One answer, or why there is none. The fields are columns of the results (CONTRACT.md), with JSON as Python values.

    ``row`` is the number of the row in the input, from 0; ``parsed`` is the JSON of a structured answer. ``sweep`` has the values
    of the sweep point by variable, ``carried`` the carried columns of the input, dates and the like as text. ``cost`` is in US
    dollars, ``latency_s`` in seconds. ``row["label"]`` is a carried column, a variable of the sweep or a field.
    """

    id: str
    row: int
    sample: int
    status: Status
    content: str | None
    parsed: Any
    reasoning: str | None
    tool_calls: Any
    finish_reason: str | None
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    cost: float | None
    latency_s: float | None
    error_message: str | None
    sweep: dict[str, Any]
    carried: dict[str, Any]

    @classmethod
    def of(cls, outcome: Outcome) -> ResultRow:
        fields = {name: getattr(outcome, name) for name in _AS_THEY_ARE}
        decoded = {name: _json(getattr(outcome, name)) for name in ("parsed", "tool_calls")}
        return cls(**fields, **decoded, sweep=_json(outcome.point) or {}, carried=_json(outcome.carry) or {})

    @property
    def ok(self) -> bool:
        """Whether it is a whole answer that fits."""
        return self.status == "ok"

    def __getitem__(self, name: str) -> Any:
        """:raises KeyError: if there is no such column here; the table of results has more."""
        for values in (self.carried, self.sweep):
            if name in values:
                return values[name]
        if name in self.__slots__:
            return getattr(self, name)
        raise KeyError(name)


_AS_THEY_ARE = [
    field.name
    for field in dataclasses.fields(ResultRow)
    if field.name not in ("parsed", "tool_calls", "sweep", "carried")
]


def _json(text: str | None) -> Any:
    return None if text is None else _decode(text)
