"""The request parameters that are documented, and their ranges.

A parameter not listed here is passed on as it is: servers differ. One that is listed and out of its range is refused
before anything is sent. Source of the ranges: the OpenAI API reference for chat completions.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    allowed: str


def _number(low: float, high: float) -> _Rule:
    return _Rule(
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and low <= v <= high,
        f"a number from {low:g} to {high:g}",
    )


def _integer(low: int | None = None, high: int | None = None) -> _Rule:
    text = "a whole number"
    if low is not None and high is not None:
        text += f" from {low} to {high}"
    elif low is not None:
        text += f", {low} or more"
    return _Rule(
        lambda v: (
            isinstance(v, int)
            and not isinstance(v, bool)
            and (low is None or v >= low)
            and (high is None or v <= high)
        ),
        text,
    )


_FORMATS = ("text", "json_object", "json_schema")
_RULES: dict[str, _Rule] = {
    "model": _Rule(lambda v: isinstance(v, str) and v != "", "the name of a model"),
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "frequency_penalty": _number(-2, 2),
    "presence_penalty": _number(-2, 2),
    "max_tokens": _integer(1),
    "max_completion_tokens": _integer(1),
    "seed": _integer(),
    "n": _Rule(
        lambda v: v == 1 and not isinstance(v, bool),
        "1 (a row holds one answer; for several answers to one prompt set sweep.samples)",
    ),
    "stop": _Rule(
        lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(s, str) for s in v)),
        "a string or a list of strings",
    ),
    "tools": _Rule(lambda v: isinstance(v, list) and all(isinstance(t, dict) for t in v), "a list of tables"),
    "tool_choice": _Rule(
        lambda v: isinstance(v, dict) or v in ("none", "auto", "required"),
        "'none', 'auto', 'required' or a table naming a tool",
    ),
    "response_format": _Rule(
        lambda v: isinstance(v, dict) and v.get("type") in _FORMATS,
        "a table whose type is 'text', 'json_object' or 'json_schema'",
    ),
    "logprobs": _Rule(lambda v: isinstance(v, bool), "true or false"),
    "top_logprobs": _integer(0, 20),
    "user": _Rule(lambda v: isinstance(v, str), "a string"),
}

# How an answer travels is the endpoint's matter, not the request's: it does not change what is asked.
TRANSPORT = ("stream", "stream_options")


def check(name: str, value: Any) -> str | None:
    """What is allowed for the parameter, if ``value`` is not; ``None`` when it is fine or the name is unknown."""
    rule = _RULES.get(name)
    if rule is None or rule.holds(value):
        return None
    return f"{name} must be {rule.allowed}; found {value!r:.80}"


def faults(params: Mapping[str, Any]) -> list[str]:
    """A sentence for each parameter out of its range."""
    return [fault for name, value in params.items() if (fault := check(name, value))]


def likely_misspelt(name: str) -> str | None:
    """The documented parameter that ``name`` seems to mean; ``None`` if it is known or like none of them."""
    if name in _RULES or name in TRANSPORT:
        return None
    near = difflib.get_close_matches(name, _RULES, n=1, cutoff=0.8)
    return near[0] if near else None
