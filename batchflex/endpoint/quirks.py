"""What an endpoint turns out not to support: response formats that a model refuses, unstreamed answers that it cuts off. Found
with the first request that meets it, and remembered for the run. Pure."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from ..core import AttemptError, FormatFallback, Outcome, Request
from ..protocol import CHAT, Route, model_of, requested_format, schema_of

Fallback = Literal["json_object", "prompt", "stop"]

_OF_ONE_SCHEMA = re.compile(r"invalid (json )?schema|schema is (invalid|not valid)", re.IGNORECASE)
_LONGER = 1.1  # a stream that brings so much more than the unstreamed answer was worth it
_ONLY_JSON = "and with nothing else: no explanation, no code fence"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def in_fallback_format(request: Request, fallback: FormatFallback, route: Route) -> Request:
    """The request with its schema as an instruction, and with ``json_object`` as its ``response_format``, or without one
    (``prompt``)."""
    body = _decode(request.body)
    schema = schema_of(body.pop("response_format"))
    if fallback == "json_object":
        body["response_format"] = {"type": "json_object"}
    fits = "" if schema is None else f" that fits this JSON Schema: {_encode(schema).decode()}"
    wanted = f"Answer with {'a JSON object' if schema is None else 'JSON'}{fits}\nAnswer with that JSON {_ONLY_JSON}."
    route.instructed(body, wanted)
    return msgspec.structs.replace(request, body=_encode(body))


class Quirks:
    """Those of one endpoint, found in one run. ``unstreamed_tokens`` is where it cuts unstreamed answers, ``None`` if it is not
    known to; ``streams_help`` is whether a stream then brings more, as far as is known. ``instead`` has what replaces refused
    formats.

    A refused format is remembered for its model. If the model has taken one before, or the words are about one schema, it is
    that format alone.
    """

    def __init__(self, fallback: Fallback) -> None:
        self._fallback = fallback
        self.instead: dict[tuple[str, bytes | None], FormatFallback] = {}
        self._took_formats: set[str] = set()
        self._helped: set[tuple[str, bytes | None]] = set()
        self.unstreamed_tokens: int | None = None
        self.streams_help = True

    def adapted(self, request: Request, route: Route = CHAT) -> tuple[Request, FormatFallback | None]:
        """The request as it is to be sent, and what replaces its format, if anything does."""
        if (key := self._key(request)) is None:
            return request, None
        instead = self.instead[key]
        return in_fallback_format(request, instead, route), instead

    def _key(self, request: Request) -> tuple[str, bytes | None] | None:
        """The key in :attr:`instead` that applies to this request, if any."""
        asked = requested_format(request.body)
        if asked is None:
            return None
        model = model_of(request.body)
        return next((key for key in ((model, asked), (model, None)) if key in self.instead), None)

    def answered(self, request: Request, fallback: FormatFallback | None) -> None:
        """A request that was sent so was answered."""
        if (asked := requested_format(request.body)) is None:
            return
        model = model_of(request.body)
        if fallback is None:
            self._took_formats.add(model)
        else:
            self._helped |= {(model, asked), (model, None)}

    def is_refusal(self, request: Request, sent_as: FormatFallback | None, fault: AttemptError) -> bool:
        """Whether this is a refusal of the format that the request was ``sent_as``."""
        return sent_as != "prompt" and fault.rule == "format_refused" and requested_format(request.body) is not None

    def refused(self, request: Request, sent_as: FormatFallback | None, fault: AttemptError) -> FormatFallback | None:
        """What replaces the format after a refusal of what was ``sent_as``, for similar requests too; ``None`` if the job says to
        stop."""
        asked = requested_format(request.body)
        if asked is None or self._fallback == "stop":
            return None
        model = model_of(request.body)
        instead: FormatFallback = self._fallback
        if sent_as == "json_object" or _decode(asked).get("type") == "json_object":
            instead = "prompt"
        one = model in self._took_formats or _OF_ONE_SCHEMA.search(fault.message) is not None
        key = (model, asked if one else None)
        if sent_as is not None:  # the replacement is refused, too
            key = self._key(request) or key
        if self.instead.get(key) != "prompt":
            self.instead[key] = instead
        return instead

    def refused_otherwise(self, request: Request) -> None:
        """A request with a replaced format was refused for another reason: perhaps the format was not at fault."""
        if (key := self._key(request)) is not None and key not in self._helped:
            del self.instead[key]

    def cut_unstreamed(self, made: Outcome) -> bool:
        """An unstreamed answer was cut below its limit; true if the request is to be repeated as a stream."""
        if not self.streams_help or made.completion_tokens is None:
            return False
        self.unstreamed_tokens = min(self.unstreamed_tokens or made.completion_tokens, made.completion_tokens)
        return True

    def streamed(self, before: Outcome, made: Outcome) -> bool:
        """A stream followed such an answer. True: it was cut off likewise, so that streams do not help."""
        is_cut = made.status == "truncated" and made.cut_by != "limit"
        if not is_cut or (made.completion_tokens or 0) > _LONGER * (before.completion_tokens or 0):
            return False
        self.unstreamed_tokens, self.streams_help = None, False
        return True

    def streams(self, max_tokens: int | None) -> bool:
        """Whether a request with this limit is better streamed, by what was found."""
        cap = self.unstreamed_tokens
        return cap is not None and (max_tokens is None or max_tokens > cap)
