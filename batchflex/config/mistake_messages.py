"""The messages for mistakes in a job: where, what was found, what is allowed, the nearest valid name.

They never contain a secret: a key that was pasted into the wrong field is not repeated, because messages end in logs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from ..core import nearest, redacted
from ..protocol import CHAT


class Mistake(NamedTuple):
    """What is wrong at a dotted place of the job (``limits.rpm``); the place is empty if it concerns the whole job."""

    place: str
    what: str


KEY_HINT = (
    "a key does not belong in a job file or on the command line: put it into an environment variable, or into a file .env "
    "beside the job file, and name the variable in endpoint.api_key_env"
)

SECRET_NAME = re.compile(r"api[_-]?key|secret|password|credential|authorization|bearer", re.I)
_KEY_NAME = re.compile(r"(^|\.)(key|token|auth)$", re.I)
# The values of these may hold a secret, whatever they look like.
_SECRET_PLACES = re.compile(
    r"\.base_url$|notify\.(webhook|command|ping)$|api_key_command(\.\d+)?$|endpoint(s\.\d+)?\.(headers|query|auth_header)\b"
)

_WORDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text in quotes",
    "string_unicode": "text that is valid Unicode",
    "list_type": "a list in brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "string_too_short": "text that is not empty",
    "too_short": "a list that is not empty",
    "string_too_long": "at most {max_length} characters long",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "literal_error": "{expected}",
    "wanted": "{wanted}",
}


def names_a_key(name: str) -> bool:
    """Whether the value of a key with this name may be a secret."""
    return bool(SECRET_NAME.search(name) or _KEY_NAME.search(name))


def found(value: Any) -> str:
    """How a message shows the value."""
    return f"found {value!r:.80}"


def explained(error: ErrorDetails, root: type[BaseModel]) -> Mistake:
    """The message for an error that pydantic found in a field of ``root``."""
    steps, kind = error["loc"], error["type"]
    place = ".".join(str(step) for step in steps if step != "[key]")
    context = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in error.get("ctx", {}).items()}
    if kind == "extra_forbidden":
        return Mistake(place, _unknown([str(step) for step in steps], root))
    if kind in ("value_error", "parameter"):
        return Mistake(place, error["msg"].removeprefix("Value error, "))
    if kind == "list_type" and place in ("endpoints", "sweep.points", "score"):
        return Mistake(place, f"is a list: write each of them under [[{place}]], in double brackets")
    if kind == "too_short" and context.get("min_length", 1) > 1:
        return Mistake(place, f"must be a list of at least {context['min_length']}; {found(error['input'])}")
    if kind == "missing":
        return Mistake(place, "is missing")
    if kind == "invalid_key" or steps[-1:] == ("[key]",):
        return Mistake(place, "a key must be text")
    words = _WORDS[kind].format_map(context) if kind in _WORDS else error["msg"].removeprefix("Input should be ")
    shown = "" if names_a_key(place) or _SECRET_PLACES.search(place) else f"; {found(error['input'])}"
    near = nearest(str(error["input"]), re.findall("'([^']*)'", words)) if shown and kind == "literal_error" else None
    return Mistake(place, f"must be {words}{shown}" + (f"; did you mean '{near}'?" if near else ""))


def _unknown(steps: Sequence[str], root: type[BaseModel]) -> str:
    *parents, name = steps
    allowed = _names_at(parents, root)
    if names_a_key(name):
        return f"unknown key; {KEY_HINT}. {_choice('Allowed here', allowed)}"
    if CHAT.parameters.documented(name):
        return f"unknown key; a request parameter belongs into [params]. {_choice('Allowed here', allowed)}"
    others = [s for s in root.model_fields if name in _names_at([s], root) and [s] != parents]
    if others and not nearest(name, allowed):
        places = " or ".join(f"{section}.{name}" for section in others)
        return f"unknown key; did you mean {places}? {_choice('Allowed here', allowed)}"
    return f"unknown key; {choice(name, allowed, 'allowed here')}"


def _names_at(steps: Sequence[str], root: type[BaseModel]) -> list[str]:
    """The keys that the table at a place may have."""
    at, left = root, list(steps)
    while left:
        field = at.model_fields.get(left.pop(0))
        if field is None:
            return []
        kinds = (field.annotation, *get_args(field.annotation))
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not models:
            return []
        at = models[0]
        if get_origin(field.annotation) in (dict, list):
            left = left[1:]
    return list(at.model_fields)


def choice(name: str, allowed: Sequence[str], words: str = "there are") -> str:
    """``did you mean 'rpm'? There are: rpm, tpm``."""
    near = nearest(name, allowed)
    return f"did you mean '{near}'? {_choice(words.capitalize(), allowed)}" if near else _choice(words, allowed)


def _choice(words: str, allowed: Sequence[str]) -> str:
    return f"{words}: {', '.join(allowed)}"


def sentences(mistakes: Sequence[Mistake], lines: Mapping[str, int], outside: Collection[str] = ()) -> list[str]:
    """A line of text for each mistake, with its place and, if known, its line in the file, in the order of the file.

    ``outside`` are the places whose values did not come from the file.
    """

    def line(place: str) -> int:
        if place in outside:
            return 0
        while place and place not in lines:
            place = place.rpartition(".")[0]
        return lines[place] if place else 0

    found = []
    for place, what in sorted(mistakes, key=lambda mistake: line(mistake.place)):
        at = f"line {line(place)}, " if line(place) else ""
        found.append(redacted(f"{at}{place}: {what}" if place else what))
    return found
