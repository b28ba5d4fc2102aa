"""Finds API keys that were written into a job, where they would end in files and logs. Pure.

A key is recognised by the name of its field, by the format that providers give it, or because it is the value of a variable
that holds a key. Prompts, schemas and scores may contain such names and formats: there only the last one counts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..core import Redactor, is_url
from . import path_variables
from .mistake_messages import KEY_HINT, SECRET_NAME, Mistake

_VARIABLE = re.compile(r"key|token|secret|password|credential", re.I)
# Anywhere in a text: a provider's prefix, followed by something long and random.
_VALUE = re.compile(
    r"""
    \b(?:sk|pk|rk|gsk|xai|nvapi|pplx|ghp|r8|tgp)[-_][\w-]*?(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{16,}
  | \bhf_[A-Za-z0-9]{30,}
  | \bAIza[\w-]{30,}
  | \b[Bb]earer\s+(?=\S*\d)[\w.~+/=-]{8,}
  | ://\S*[?&](?:[\w-]*api[_-]?key|key|token|[\w-]*_token|secret|password|sig|signature)=[^&\s]{6,}
  | ://[^/\s:@]+:[^/\s@]+@
    """,
    re.VERBOSE,
)
_SIGNED = re.compile(r"[?&](?:sig|signature)=[^&\s]*", re.I)
# As a whole value, unless that is a path or a name.
_WHOLE = re.compile(r"(?:sk|hf|gsk|xai|nvapi|pplx|ghp)[-_](?=\D*\d)[\w-]{8,}")
# Also in headers and queries.
_SENT = re.compile(
    r"(?:^|access|auth|functions?|subscription|signing|virtual)[-_]?key$|token$|cookie|^sig(?:nature)?$", re.I
)
_NAMING = {"api_key_env", "api_key_command"}  # they say where a key is
_NAMES = {"model", "name", "path", "out", "model_path", "id", "carry"}
# Tables and request parameters that contain prose or schemas.
_PROSE = {"prompt", "prompts", "score", "answer"}
_PROSE_INSIDE = {"response_format", "tools", "functions", "messages", "prompt", "json_schema"}

_ADDRESS = "a URL with a key in it does not belong in a job file: put it into an environment variable, and name that in"
_HINTS = {
    "notify.webhook": f"{_ADDRESS} notify.webhook_env",
    "notify.ping": f"{_ADDRESS} notify.ping_env",
    "notify.command": "a key does not belong in a job file: put it into an environment variable, which the command can read",
}


def is_called_a_key(variable: str) -> bool:
    """Whether what an environment variable holds is a secret, as far as its name says."""
    return _VARIABLE.search(variable) is not None


def key_mistakes(data: Mapping[str, Any], secrets: Collection[str]) -> list[Mistake]:
    """A mistake for each key in a job. ``secrets`` are the values of the variables that hold keys."""
    found = dict.fromkeys(_places(data, Redactor(secrets)))
    return [Mistake(place, _HINTS.get(place) or _hint(place)) for place in found]


def _hint(place: str) -> str:
    return f"{KEY_HINT}, or write ${{VARIABLE}} here" if _is_sent(("", *place.split("."))) else KEY_HINT


def _places(data: Mapping[str, Any], real: Redactor) -> Iterator[str]:
    for steps, value in _leaves(data):
        holder = next((number for number, step in enumerate(steps) if real.is_in(step)), None)
        if holder is not None:
            yield ".".join(steps[:holder])
        elif isinstance(value, str):
            is_named = len(steps) > 2 and _is_called_a_key(steps) and not _is_of_variables(steps, value)
            if is_named or _has_the_shape(value, steps) or real.is_in(value):
                yield ".".join(steps)


def _leaves(value: Any, steps: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values that are no tables and no lists, and what is empty, each with the names of where it is."""
    if not isinstance(value, Mapping | list | tuple) or not value:
        yield steps, value
        return
    for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(inner, (*steps, str(name)))


def _is_called_a_key(steps: tuple[str, ...]) -> bool:
    name = steps[-1]
    named = SECRET_NAME.search(name) or (_is_sent(steps) and _SENT.search(name))
    return bool(named) and name not in _NAMING and not _is_prose(steps)


def _is_sent(steps: tuple[str, ...]) -> bool:
    return steps[-2] in ("headers", "query") and bool({"endpoint", "endpoints"} & {*steps[:-2]})


def _is_of_variables(steps: tuple[str, ...], text: str) -> bool:
    """Whether the secret in a header or a query comes from variables. A default would be written in the file."""
    return _is_sent(steps) and bool(path_variables.names(text)) and not any(path_variables.defaults(text))


def _has_the_shape(value: str, steps: tuple[str, ...]) -> bool:
    if not steps or _is_prose(steps) or steps[-1] == "api_key_env":  # its own message is better
        return False
    if steps[:2] == ("input", "path") and is_url(value):
        value = _SIGNED.sub("", value)  # holds for some hours, and is written nowhere
    return bool(_VALUE.search(value) or (_WHOLE.fullmatch(value) and not _NAMES & {*steps}))


def _is_prose(steps: tuple[str, ...]) -> bool:
    if steps[0] == "score" and "endpoint" in steps:
        return False
    return steps[0] in _PROSE or bool(_PROSE_INSIDE & {*steps[1:]})


def key_variables(data: Mapping[str, Any]) -> set[str]:
    """Every variable that ``api_key_env`` names, and those named like keys in headers and queries."""
    found: set[str] = set()
    for steps, value in _leaves(data):
        if isinstance(value, str) and steps[-1] == "api_key_env":
            found.add(value)
        elif isinstance(value, str) and len(steps) > 2 and _is_sent(steps):
            found.update(filter(is_called_a_key, path_variables.names(value)))
    return found
