"""The request parameters that are documented, and their ranges.

A parameter not listed here is passed on as it is: servers differ. One that is listed and out of its range is refused
before anything is sent. Source of the ranges: the OpenAI API reference for chat completions.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec


class _Rule(NamedTuple):
    holds: Callable[[Any], bool]
    allowed: str
    is_whole: bool = False


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
        is_whole=True,
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
        is_whole=True,
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

# Known by name only: sent from a row, and not taken for a misspelling of one above. Of OpenAI, vLLM, SGLang, llama.cpp, TGI,
# OpenRouter and LiteLLM. Names that a table is far more likely to have for something else (tags, task, request_id,
# session_id, timeout, cache, …) are left out: input.params sends them where they are meant.
_UNCHECKED = frozenset({
    "add_generation_prompt", "add_special_tokens", "adapter_id", "additional_drop_params", "allowed_openai_params",
    "allowed_token_ids", "audio", "bad_words", "best_of", "cache_prompt", "cache_salt", "chat_template",
    "chat_template_kwargs", "continue_final_message", "custom_logit_processor", "custom_params", "documents",
    "drop_params", "dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n", "dry_sequence_breakers",
    "dynatemp_exponent", "dynatemp_range", "ebnf", "echo", "enable_thinking", "extra_body", "fallbacks",
    "function_call", "functions", "grammar", "guardrails", "guided_choice", "guided_decoding_backend",
    "guided_grammar", "guided_json", "guided_regex", "guided_whitespace_pattern", "id_slot", "ignore_eos",
    "include_reasoning", "include_stop_str_in_output", "json_schema", "kv_transfer_params", "length_penalty",
    "litellm_metadata", "logit_bias", "logits_processors", "logprob_token_ids", "lora", "lora_path",
    "media_io_kwargs", "metadata", "min_keep", "min_p", "min_tokens", "mirostat", "mirostat_eta", "mirostat_tau",
    "mm_processor_kwargs", "modalities", "models", "moderation", "n_discard", "n_indent", "n_keep", "n_predict",
    "n_probs", "no_stop_trim", "num_retries", "parallel_tool_calls", "parse_tool_calls", "plugins",
    "post_sampling_probs", "prediction", "preserved_tokens", "priority", "prompt_cache_key", "prompt_cache_options",
    "prompt_cache_retention", "prompt_logprobs", "provider", "reasoning", "reasoning_budget_tokens",
    "reasoning_effort", "reasoning_format", "regex", "repeat_last_n", "repeat_penalty", "repetition_detection",
    "repetition_penalty", "return_hidden_states", "return_token_ids", "return_tokens_as_token_ids", "route",
    "safety_identifier", "samplers", "separate_reasoning", "service_tier", "skip_special_tokens",
    "spaces_between_special_tokens", "stop_regex", "stop_token_ids", "store", "structured_outputs",
    "t_max_predict_ms", "thinking", "thinking_budget", "thinking_forced_open", "thinking_token_budget",
    "timings_per_token", "tool_prompt", "top_a", "top_k", "top_n_sigma", "transforms", "truncate_prompt_tokens",
    "truncation_side", "typical_p", "usage", "use_beam_search", "verbosity", "vllm_xargs", "web_search_options",
    "xtc_probability", "xtc_threshold",
})  # fmt: skip


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values() if each is not None)


# Those whose names are ordinary words, so that a column may be something else: what the parameter takes.
_ORDINARY: dict[str, Callable[[Any], bool]] = {
    "audio": _is_table,
    "documents": lambda v: isinstance(v, list) and all(_is_table_of_texts(each) for each in v),
    "echo": _is_truth,
    "fallbacks": lambda v: isinstance(v, list),
    "functions": _is_tables,
    "grammar": _is_text,
    "guardrails": lambda v: isinstance(v, list),
    "json_schema": _is_table,
    "metadata": _is_table_of_texts,
    "modalities": lambda v: isinstance(v, list) and set(map(str, v)) <= {"text", "audio", "image"},
    "models": _is_texts,
    "moderation": _is_table,
    "plugins": _is_tables,
    "prediction": lambda v: isinstance(v, dict) and v.get("type") == "content",
    "priority": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "provider": _is_table,
    "reasoning": _is_table,
    "regex": _is_text,
    "route": lambda v: v in ("fallback", "sort"),
    "samplers": lambda v: _is_text(v) or _is_texts(v),
    "service_tier": _is_text,
    "store": _is_truth,
    "thinking": lambda v: isinstance(v, dict | bool),
    "transforms": _is_texts,
    "usage": lambda v: isinstance(v, dict) and isinstance(v.get("include"), bool),
    "user": _is_text,
    "verbosity": lambda v: v in ("low", "medium", "high", "max"),
}

# How an answer travels is the endpoint's matter, not the request's: it does not change what is asked.
TRANSPORT = ("stream", "stream_options")

LIMITS = ("max_tokens", "max_completion_tokens")  # of the answer

_DEEPEST = 64
HALF = "holds half a character (a lone surrogate)"


def documented(name: str) -> bool:
    """Whether the parameter has a documented range here."""
    return name in _RULES


def known(name: str) -> bool:
    """Whether a column of this name is a request parameter, if :func:`is_meant` of its value."""
    return name in _RULES or name in _UNCHECKED


def is_ordinary(name: str) -> bool:
    """Whether the name of a parameter is so ordinary a word that a column of this name may be something else."""
    return name in _ORDINARY


def is_meant(name: str, value: Any) -> bool:
    """Whether a column with the name of a parameter may be meant as that: where the name is an ordinary word, its value tells."""
    fits = _ORDINARY.get(name)
    return fits is None or fits(value)


def whole(name: str, value: Any) -> Any:
    """The value of a parameter as a whole number, where that is wanted and it is one written as a float, as pandas does."""
    wants_whole = isinstance(value, float) and name in _RULES and _RULES[name].is_whole
    return int(value) if wants_whole and value.is_integer() else value


def settle(job: Mapping[str, Any]) -> None:
    """Put whole numbers, as :func:`whole` makes them, into the tables of a job as they were given, in place."""
    sweep = job.get("sweep")
    scores = job.get("score")
    tables: list[Any] = [job.get("params"), job.get("override")]
    for score in scores if isinstance(scores, list) else ():
        judge = score.get("judge") if isinstance(score, dict) else None
        tables.append(judge.get("params") if isinstance(judge, dict) else None)
    if isinstance(sweep, dict):
        tables += [sweep, sweep.get("zip"), *(sweep["points"] if isinstance(sweep.get("points"), list) else ())]
    for table in tables:
        for name, value in table.items() if isinstance(table, dict) else ():
            table[name] = [whole(name, each) for each in value] if isinstance(value, list) else whole(name, value)


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
    """The parameter that ``name`` seems to mean, a documented one before others that are known; ``None`` if it is known or like
    none of them."""
    if known(name) or name in TRANSPORT:
        return None
    for names in (_RULES, _UNCHECKED):
        if near := difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.8):
            return near[0]
    return None


def unsayable(value: Any, depth: int = 0) -> str | None:
    """Why a value can stand in no job file or no JSON request; ``None`` if it can stand in both."""
    if isinstance(value, str):
        return None if value.isascii() or _encodes(value) else HALF
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


def halves_in(tables: Any, place: str = "") -> Iterator[str]:
    """The places of texts that hold half a character; of such a key that of its table."""
    if isinstance(tables, str):
        if not _encodes(tables):
            yield place
    elif isinstance(tables, Mapping):
        for key, value in tables.items():
            if isinstance(key, str) and not _encodes(key):
                yield place
            else:
                yield from halves_in(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tables, list):
        for number, value in enumerate(tables):
            yield from halves_in(value, place if isinstance(value, str) else f"{place}.{number}")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
