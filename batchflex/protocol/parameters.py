"""The request parameters that are documented, and their ranges.

A parameter not listed here is passed on as it is: servers differ. One that is listed and out of its range is refused
before anything is sent. Source of the ranges: the OpenAI API reference.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

_Test = Callable[[Any], bool]


class _Rule(NamedTuple):
    holds: _Test
    allowed: str
    is_whole: bool = False


def _is(kind: type) -> _Test:
    return lambda value: isinstance(value, kind)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(holds: _Test) -> _Test:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _number(low: float, high: float) -> _Rule:
    return _Rule(
        lambda v: (_is_whole(v) or isinstance(v, float)) and low <= v <= high, f"a number from {low:g} to {high:g}"
    )


def _integer(low: int | None = None, high: int | None = None) -> _Rule:
    text = "a whole number"
    if low is not None:
        text += f", {low} or more" if high is None else f" from {low} to {high}"
    return _Rule(
        lambda v: _is_whole(v) and (low is None or v >= low) and (high is None or v <= high), text, is_whole=True
    )


def _is_table_of_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values() if each is not None)


_is_text, _is_truth, _is_table, _is_list = map(_is, (str, bool, dict, list))
_is_texts, _is_tables = _list_of(_is_text), _list_of(_is_table)
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
        lambda v: _is_whole(v) and v == 1,
        "1 (a row holds one answer; for several answers to one prompt set sweep.samples)",
        is_whole=True,
    ),
    "stop": _Rule(lambda v: _is_text(v) or _is_texts(v), "a string or a list of strings"),
    "tools": _Rule(_is_tables, "a list of tables"),
    "tool_choice": _Rule(
        lambda v: isinstance(v, dict) or (isinstance(v, str) and v in ("none", "auto", "required")),
        "'none', 'auto', 'required' or a table naming a tool",
    ),
    "response_format": _Rule(
        lambda v: isinstance(v, dict) and v.get("type") in _FORMATS,
        "a table whose type is 'text', 'json_object' or 'json_schema'",
    ),
    "logprobs": _Rule(_is_truth, "true or false"),
    "top_logprobs": _integer(0, 20),
    "user": _Rule(_is_text, "a string"),
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

# Those whose names are ordinary words, so that a column may be something else: what the parameter takes.
_ORDINARY: dict[str, _Test] = {
    "audio": _is_table,
    "documents": _list_of(_is_table_of_texts),
    "echo": _is_truth,
    "fallbacks": _is_list,
    "functions": _is_tables,
    "grammar": _is_text,
    "guardrails": _is_list,
    "json_schema": _is_table,
    "metadata": _is_table_of_texts,
    "modalities": lambda v: isinstance(v, list) and set(map(str, v)) <= {"text", "audio", "image"},
    "models": _is_texts,
    "moderation": _is_table,
    "plugins": _is_tables,
    "prediction": lambda v: isinstance(v, dict) and v.get("type") == "content",
    "priority": _is_whole,
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

# How an answer travels is the endpoint's matter: it does not change the request.
TRANSPORT = ("stream", "stream_options")


class Parameters:
    """The parameters of a route: those with ``rules`` (documented), ``others`` that are known by name, and of both those with
    ``ordinary`` names."""

    def __init__(
        self, rules: Mapping[str, _Rule], others: frozenset[str] = frozenset(), ordinary: Mapping[str, _Test] = {}
    ) -> None:
        self._rules = rules
        self._others = others
        self._ordinary = ordinary

    def documented(self, name: str) -> bool:
        """Whether the parameter has a documented range."""
        return name in self._rules

    def known(self, name: str) -> bool:
        """Whether a column of this name is a request parameter, if :meth:`is_meant` of its value."""
        return name in self._rules or name in self._others

    def is_ordinary(self, name: str) -> bool:
        """Whether the name of a parameter is so ordinary a word that a column of this name may be something else."""
        return name in self._ordinary

    def is_meant(self, name: str, value: Any) -> bool:
        """Whether a column may be meant as the parameter of its name: where that is an ordinary word, its value decides."""
        fits = self._ordinary.get(name)
        return fits is None or fits(value)

    def whole(self, name: str, value: Any) -> Any:
        """The value as a whole number, where that is wanted and it is one written as a float, as pandas does."""
        wants_whole = isinstance(value, float) and name in self._rules and self._rules[name].is_whole
        return int(value) if wants_whole and value.is_integer() else value

    def make_whole(self, job: Mapping[str, Any]) -> None:
        """Put whole numbers, as :meth:`whole` makes them, into the tables of a job as they were given, in place."""
        for table in _tables(job):
            for name, value in table.items() if isinstance(table, dict) else ():
                table[name] = (
                    [self.whole(name, each) for each in value] if isinstance(value, list) else self.whole(name, value)
                )

    def out_of_range(self, name: str, value: Any) -> str | None:
        """What is allowed for the parameter, if ``value`` is not, without its name; ``None`` if it is fine, or not documented."""
        rule = self._rules.get(name)
        return None if rule is None or rule.holds(value) else f"must be {rule.allowed}; found {value!r:.80}"

    def faults(self, given: Mapping[str, Any]) -> list[str]:
        """A sentence for each parameter out of its range."""
        return [f"{name} {why}" for name, value in given.items() if (why := self.out_of_range(name, value))]

    def likely_misspelt(self, name: str) -> str | None:
        """The parameter that ``name`` seems to mean, a documented one before others that are known; ``None`` if it is known or
        like none of them."""
        if self.known(name) or name in TRANSPORT:
            return None
        for names in (self._rules, self._others):
            if near := difflib.get_close_matches(name, sorted(names), n=1, cutoff=0.8):
                return near[0]
        return None


CHAT_PARAMETERS = Parameters(_RULES, _UNCHECKED, _ORDINARY)


def _tables(job: Mapping[str, Any]) -> Iterator[Any]:
    """The tables of a job that have parameters."""
    yield from (job.get("params"), job.get("override"))
    scores, sweep = job.get("score"), job.get("sweep")
    for score in scores if isinstance(scores, list) else ():
        judge = score.get("judge") if isinstance(score, dict) else None
        yield judge.get("params") if isinstance(judge, dict) else None
    if isinstance(sweep, dict):
        yield from (sweep, sweep.get("zip"))
        yield from sweep["points"] if isinstance(sweep.get("points"), list) else ()


class _Model(msgspec.Struct):
    model: str = ""


_decode_model = msgspec.json.Decoder(_Model).decode


def model_of(body: bytes) -> str:
    """The model that a request names, of which this is the body."""
    return _decode_model(body).model
