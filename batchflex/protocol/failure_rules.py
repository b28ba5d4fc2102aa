"""The table by which :mod:`batchflex.protocol.classify` decides what a failed attempt means. Pure.

The first rule that fits decides. They stand in the order of their evidence: a specific code or type, specific words, a generic
type, the status. What a rule means:

==============  ========================================================================================
``credit``      the run stops: no request gets through until somebody pays, or raises a budget
``key``         the run stops: the key is refused
``model``       nothing more is sent to this model; when no other is left, the run stops
``url``         the run stops: there are no chat completions at this address
``wait``        a rate limit: waited for, costs no attempt
``not_ready``   the endpoint is starting: waited for as in an outage, also before anything was answered
``row``         the row is final
``filtered``    the row is final: it was refused for its content
``again``       transient; if it persists, the endpoint's fault, or the row's (408, 409, 425, 500)
==============  ========================================================================================
"""

from __future__ import annotations

from collections.abc import Container
from typing import Literal, NamedTuple

ROW_BLAMED = frozenset({408, 409, 425, 500})
Means = Literal["credit", "key", "model", "url", "wait", "not_ready", "row", "filtered", "again"]

_ANY = range(100, 1000)
_CLIENT = frozenset(range(400, 500)) - {429}
_INVALID = frozenset({400, 422})
_SERVER = range(500, 1000)


class Rule(NamedTuple):
    """Fits if all that it names is there: one of the ``names`` as a code or type (in lower case), the ``words`` in the message (a
    pattern, which is compiled when a failure is first looked at), the status among ``statuses``, and if ``timed`` a time to try
    again, in a header or in words."""

    name: str
    means: Means
    statuses: Container[int] = _ANY
    names: frozenset[str] = frozenset()
    words: str | None = None
    timed: bool = False


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _words(*patterns: str) -> str:
    return f"(?i:{'|'.join(patterns)})"


OVER_LIMIT = "requested_over_limit"  # what a single request asks for is more than the limit: no wait helps
_CREDIT_WORDS = _words(
    r"budget has been exceeded", r"exceeded ?budget", r"over (\d+\w* )?budget", r"crossed budget", r"api usage limits",
    r"credit balance is too low",
    r"exceeded your current quota", r"exceeded your monthly", r"insufficient[ _](account )?(balance|credits?|quota|funds)",
    r"billing_not_active", r"account is not active, please check your billing", r"more credits", r"out of credits?\b",
    r"used all available credits", r"spend(ing)? limit", r"payment required", r"credit limit exceeded", r"key limit exceeded",
    r"in good standing", r"overdue[- ]payment", r"余额不足", r"欠费",
)  # fmt: skip

RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------------------------ a specific code or type
    Rule("too_large_code", "row", names=_names(
        f"{OVER_LIMIT} context_length_exceeded contextwindowexceedederror context_window_exceeded string_above_max_length "
        "request_too_large tokens_limit_reached exceed_context_size_error"
    )),
    Rule("filtered_code", "filtered", frozenset({*_CLIENT, *_SERVER}), _names(
        "content_filter content_policy_violation contentpolicyviolationerror responsibleaipolicyviolation moderation_blocked "
        "content_moderation data_inspection_failed datainspectionfailed invalid_prompt flagged_input prompt_blocked "
        "content_blocked guardrail_intervened"
    )),
    Rule("credit_code", "credit", names=_names(
        "insufficient_quota insufficient_credits insufficient_balance insufficient_user_quota insufficient_funds "
        "billing_hard_limit_reached billing_not_active budget_exceeded exceeded_current_quota_error arrearage out_of_credits "
        "credits_exhausted"
    )),
    Rule("key_code", "key", frozenset({*_CLIENT, *_SERVER}), _names(
        "invalid_api_key incorrect_api_key api_key_invalid token_not_found_in_db no_db_connection expired_key key_expired "
        "api_key_expired token_expired account_deactivated invalidapikey"
    )),
    Rule("model_denied_code", "model", _CLIENT, _names(
        "key_model_access_denied team_model_access_denied user_model_access_denied org_model_access_denied "
        "project_model_access_denied model_access_denied"
    )),
    Rule("model_code", "model", _CLIENT, _names(
        "model_not_found model_not_exist invalid_model model_decommissioned unsupported_model deploymentnotfound "
        "unknown_model modelnotfound"
    )),
    Rule("not_ready_code", "not_ready", frozenset({425, *_SERVER}), _names("model_loading model_not_ready loading_model")),
    # ---------------------------------------------------------------------------------------------- specific words
    Rule("too_large_words", "row", frozenset(_ANY) - {401, 402, 403}, words=_words(
        r"request too large", r"context ?window ?exceeded", r"maximum context length", r"exceeds? the (available )?context size",
        r"context (length|window|size) (is |was )?exceed", r"exceed\w*[^.]{0,40}\bcontext (length|window|size)",
        r"(prompt|input) is too long", r"exceeds the (maximum|max|limit)\b[^.]{0,60}\btokens",
        r"reduce the length of the messages",
    )),
    Rule("filtered_words", "filtered", frozenset({*_CLIENT, *_SERVER}), words=_words(
        r"content management policy", r"content[ _]policy", r"contentpolicyviolation", r"content exists risk",
        r"violat\w+ (our |the )?(usage|content|safety) (guideline|polic)", r"prohibited content", r"inappropriate content",
        r"\b(input|prompt|content|message|request|text)s? (was|were|has been|is|got) (flagged|blocked)",
        r"(requires|failed|content) moderation", r"rejected (by|as a result of) (our|the) safety system", r"敏感内容", r"不安全",
    )),
    Rule("credit_words_with_a_time", "wait", frozenset(_ANY) - {402}, words=_CREDIT_WORDS, timed=True),
    Rule("credit_words", "credit", words=_CREDIT_WORDS),
    Rule("model_denied_words", "model", _CLIENT, words=_words(
        r"not allowed to access (this )?model", r"can only access models", r"model\b.{0,80}\bnot available for this (api )?key",
        r"(does not|doesn't|do not) have access to (the )?model",
    )),
    Rule("model_words", "model", _CLIENT - {401}, words=_words(
        r"invalid model name", r"(no such|unknown|unsupported) model\b", r"\bmodel not (found|exist)", r"not a valid model",
        r"\bmodel\b[^.]{0,80}\b(does not exist|not found|is not found|has been decommissioned|is not supported by this endpoint)",
        r"no endpoints found (for|matching) ",
    )),
    Rule("key_words", "key", _CLIENT, words=_words(
        r"(invalid|incorrect|malformed|missing) (api|proxy server|authentication) ?(key|token)", r"api[ _]key (is )?not valid",
        r"(key|token) (has |is )?expired", r"expired (api )?(key|token)", r"no connected db",
    )),
    Rule("request_words", "row", frozenset({400, 413, 422}), words=_words(
        r"(request|input|prompt|payload|entity|body)\b.{0,40}\btoo (long|large|big)", r"max_(completion_|new_)?tokens",
        r"(invalid|unsupported) image", r"must contain the word",  # 'json', which OpenAI wants beside json_object
    )),
    Rule("format_refused", "row", _INVALID, words=_words(
        r"response[_ ]?format", r"json[_ ]?schema", r"json[_ ]?object", r"json[_ ]?mode", r"structured[_ ]?outputs?",
        r"guided[_ ](json|decoding)",
    )),
    Rule("not_ready_words", "not_ready", frozenset({425, *_SERVER}), words=_words(
        r"loading (the )?model", r"model\b.{0,100}\b(is|being|still) (currently |still |being )*load(ing|ed)", r"\bis loading\b",
        r"warm(ing)?[- ]?up", r"\bis (still )?(starting|initiali[sz]ing)\b", r"starting up",
        r"(model|server|engine) (is )?not ready", r"cold start",
    )),
    # ---------------------------------------------------------------------------------------------- a generic type
    Rule("rate_type", "wait", frozenset({400, 403, 429, *_SERVER}), _names(
        "429 rate_limit_exceeded rate_limit_error rate_limit ratelimiterror throttling_error throttling too_many_requests "
        "resource_exhausted all_deployments_in_cooldown"
    )),
    Rule("overloaded_type", "again", frozenset({400, 403, 500}), _names(
        "overloaded_error overloaded engine_overloaded engine_overloaded_error server_overloaded unavailable_error"
    )),
    Rule("key_type", "key", _INVALID, _names("authentication_error auth_error unauthenticated invalid_authentication_error")),
    # -------------------------------------------------------------------------------------------------- the status
    Rule("status", "credit", frozenset({402})),
    Rule("status", "key", frozenset({401, 403, 407})),
    Rule("status", "model", frozenset({404}), words=_words("model")),
    Rule("status", "url", frozenset({404, 405, *range(300, 400)})),
    Rule("status", "wait", frozenset({429})),
    Rule("status", "again", frozenset(ROW_BLAMED)),
    Rule("status", "row", range(400, 500)),
    Rule("status", "again"),
)  # fmt: skip

# Where one of these applies, the request was read: the error is about its content.
OF_REQUEST = frozenset(rule.name for rule in RULES if rule.means in ("row", "filtered") and rule.name != "status")
