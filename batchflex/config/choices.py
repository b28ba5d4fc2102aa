"""Choices: the short way to a label. A list of texts becomes the ``response_format`` that allows just these. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..core import JobError

LABEL = "label"
Choices = Sequence[str] | Mapping[str, Sequence[str]]


def label_schema(choices: Choices, name: str = LABEL) -> dict[str, Any]:
    """The ``response_format`` for an object with one field ``name``, which is one of ``choices``. A mapping of names to choices
    makes a field of each, and needs no ``name``.

    :raises JobError: if there are not two different choices of a field, or one is no text or empty.
    """
    if why := choices_fault(choices, name):
        raise JobError(f"choices: {why}")
    fields = _by_name(choices, name)
    schema = {
        "type": "object",
        "properties": {field: {"type": "string", "enum": list(texts)} for field, texts in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }
    called = re.sub(r"[^A-Za-z0-9_-]+", "_", "_".join(fields)).strip("_")[:64] or LABEL
    return {"type": "json_schema", "json_schema": {"name": called, "strict": True, "schema": schema}}


def choices_fault(choices: Any, name: str = LABEL) -> str | None:
    """Why these can be no choices, as the end of a sentence; ``None`` if they can."""
    if isinstance(choices, str | bytes) or not isinstance(choices, Sequence | Mapping):
        return (
            f"must be a list of texts, such as ['yes', 'no'], or a table of such lists by name; found {choices!r:.80}"
        )
    fields = _by_name(choices, name)
    if not fields:
        return "is empty; name at least two texts to choose from"
    return next((why for field, texts in fields.items() if (why := _fault(field, texts))), None)


def _fault(field: Any, texts: Any) -> str | None:
    if not isinstance(field, str) or not field.strip():
        return f"the name of a label must be text; found {field!r:.80}"
    if isinstance(texts, str | bytes) or not isinstance(texts, Sequence):
        return f"the choices of {field!r} must be a list of texts; found {texts!r:.80}"
    if odd := [text for text in texts if not isinstance(text, str) or not text.strip()]:
        return f"each choice must be text that is not empty; found {odd[0]!r:.80}"
    if twice := [text for number, text in enumerate(texts) if text in texts[:number]]:
        return f"{twice[0]!r:.80} comes twice"
    return None if len(texts) > 1 else f"a label needs at least two choices; found {list(texts)!r:.80}"


def _by_name(choices: Choices, name: str) -> dict[str, Sequence[str]]:
    return dict(choices) if isinstance(choices, Mapping) else {name: choices}
