"""The request parameters that are documented, and their ranges.

A parameter not listed here is passed on as it is: servers differ. One that is listed and out of its range is refused
before anything is sent. Source of the ranges: the OpenAI API reference for chat completions.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec


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
            isinstance(v, int) and not isinstance(v, bool) and (low is None or v >= low) and (high is None or v <= high)
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
        lambda v: isinstance(v, int) and not isinstance(v, bool) and v == 1,
        "1 (a row holds one answer; for several answers to one prompt set sweep.samples)",
    ),
    "stop": _Rule(
        lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(s, str) for s in v)),
        "a string or a list of strings",
    ),
    "tools": _Rule(lambda v: isinstance(v, list) and all(isinstance(t, dict) for t in v), "a list of tables"),
    "tool_choice": _Rule(
        lambda v: isinstance(v, dict) or (isinstance(v, str) and v in ("none", "auto", "required")),
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

# Known by name only, so that they are not taken for a misspelling of one above: OpenAI, vLLM, llama.cpp, SGLang.
_UNCHECKED = frozenset({
    "audio", "bad_words", "best_of", "cache_prompt", "chat_template", "chat_template_kwargs", "dynatemp_range",
    "echo", "enable_thinking", "extra_body", "function_call", "functions", "grammar", "guided_choice",
    "guided_grammar", "guided_json", "guided_regex", "id_slot", "ignore_eos", "include_reasoning", "json_schema",
    "length_penalty", "logit_bias", "metadata", "min_p", "min_tokens", "mirostat", "mirostat_eta", "mirostat_tau",
    "modalities", "n_predict", "n_probs", "parallel_tool_calls", "prediction", "priority", "prompt_cache_key",
    "prompt_logprobs", "reasoning", "reasoning_effort", "reasoning_format", "regex", "repeat_last_n",
    "repeat_penalty", "repetition_penalty", "safety_identifier", "samplers", "service_tier", "skip_special_tokens",
    "stop_token_ids", "store", "structured_outputs", "thinking", "top_k", "truncate_prompt_tokens", "typical_p",
    "use_beam_search", "verbosity", "web_search_options",
})  # fmt: skip

# How an answer travels is the endpoint's matter, not the request's: it does not change what is asked.
TRANSPORT = ("stream", "stream_options")

LIMITS = ("max_tokens", "max_completion_tokens")  # of the answer

_DEEPEST = 64


def documented(name: str) -> bool:
    """Whether the parameter has a documented range here."""
    return name in _RULES


def check(name: str, value: Any) -> str | None:
    """What is allowed for the parameter, if ``value`` is not; ``None`` when it is fine or the name is unknown."""
    rule = _RULES.get(name)
    if rule is None or rule.holds(value):
        return None
    return f"{name} must be {rule.allowed}; found {value!r:.80}"


def out_of_range(name: str, value: Any) -> str | None:
    """As :func:`check`, without the name: for a message whose place says it."""
    why = check(name, value)
    return why and why.removeprefix(f"{name} ")


def answer_limit(body: Mapping[str, Any]) -> int | None:
    """The most tokens that an answer to this body may have; ``None`` if it sets no limit.

    Which of the two parameters a server heeds is its own matter: the larger bounds the answer.
    """
    return max((body[name] for name in LIMITS if body.get(name) is not None), default=None)


class _Model(msgspec.Struct):
    model: str = ""


_decode_model = msgspec.json.Decoder(_Model).decode


def model_of(body: bytes) -> str:
    """The model that a request names, of which this is the body."""
    return _decode_model(body).model


def faults(params: Mapping[str, Any]) -> list[str]:
    """A sentence for each parameter out of its range."""
    return [fault for name, value in params.items() if (fault := check(name, value))]


def likely_misspelt(name: str) -> str | None:
    """The documented parameter that ``name`` seems to mean; ``None`` if it is known or like none of them."""
    if name in _RULES or name in _UNCHECKED or name in TRANSPORT:
        return None
    near = difflib.get_close_matches(name, _RULES, n=1, cutoff=0.8)
    return near[0] if near else None


def unsayable(value: Any, depth: int = 0) -> str | None:
    """Why a value can stand in no job file or no JSON request; ``None`` if it can stand in both."""
    if isinstance(value, str):
        return None if value.isascii() or _encodes(value) else "holds half a character (a lone surrogate)"
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return None if -(2**63) <= value < 2**64 else "is a whole number of more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"holds {value}, which JSON does not have"
    if value is None:
        return "holds a null, which a job file cannot; leave the key out"
    if depth >= _DEEPEST:
        return f"is nested more than {_DEEPEST} deep"
    if isinstance(value, dict):
        odd = [name for name in value if not isinstance(name, str)]
        if odd:
            return f"holds a key that is no text: {odd[0]!r:.80}"
        return next((why for part in (*value, *value.values()) if (why := unsayable(part, depth + 1))), None)
    if isinstance(value, list):
        return next((why for part in value if (why := unsayable(part, depth + 1))), None)
    return f"holds a {type(value).__name__}, which JSON does not have; write it in quotes"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
