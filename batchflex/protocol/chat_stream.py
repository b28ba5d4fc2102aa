"""A streamed chat completion, put together from its chunks. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ..core import Usage
from . import classify
from .chat_message import calls_of, content_of, dicts, not_read, unknown_text, usage
from .event_stream import Events
from .finish_reasons import ending_of
from .loose_json import decode

_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode
_BUILT = {"object", "choices", "usage"}  # fields of a chunk that the whole answer has in another shape
_MOST_LEARNT = 16  # where events differ in more than their text, that is looked for in vain
_SIGNS_OF_LIFE = {"ping", "heartbeat", "keepalive", "keep-alive", "processing"}


class _Alike(NamedTuple):
    """What is around the text of an event, as bytes of JSON, and to what the text is added."""

    begin: bytes
    end: bytes
    into: list[str]


class Stream:
    """Events of one streamed answer, put together into the shape of an unstreamed one.

    Only one choice is kept, the first that comes: a request has one answer. Fields of an unexpected type are ignored.
    """

    def __init__(self, http_status: int = 200) -> None:
        self.http_status = http_status
        self._index: str | None = None
        self._whole: list[str] = []  # texts that stand where a delta is expected: in `message`, or as `text`
        self._message: dict[str, Any] = {}
        self._unknown: str | None = None
        self.done = False
        self._head: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._call_at: dict[int | None, dict[str, Any]] = {}  # by the server's index, the call it continues
        self._logprobs: list[Any] = []
        self._alike: _Alike | None = None
        self._learnt = 0
        self._usage: dict[str, Any] | None = None
        self.finish_reason: str | None = None

    @property
    def usage(self) -> Usage | None:
        """The usage so far, if the server has sent it."""
        return None if self._usage is None else usage(self._usage)

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer is there: it has a finish reason, or both the usage and the end of the stream came."""
        by_itself = self.done and self._usage is not None and self._index is not None
        return self.finish_reason is not None or by_itself

    def take(self, name: str, data: bytes) -> bool:
        """Take an event; true if it brought something of the answer itself. What comes after ``[DONE]`` is ignored.

        :raises AttemptError: if it carries an error, or is no JSON object.
        """
        text = data.strip()
        if self.done or not text:
            return False
        word = text.strip(b'"')
        if word == b"[DONE]":
            self.done, self._alike = True, None
            return False
        if name.lower() in _SIGNS_OF_LIFE or word.strip(b"[]").lower().decode("latin-1") in _SIGNS_OF_LIFE:
            return False
        chunk, raw = decode(text)
        if chunk is None:
            raise classify.not_json(raw, self.http_status)
        if name == "error" and "error" not in chunk:
            chunk = {"error": chunk}
            raw = _encode(chunk)
        raise_errors(chunk, raw, self.http_status)
        brought = self.feed(chunk)
        self._alike = self._learn(raw, chunk) if brought and self._learnt < _MOST_LEARNT else None
        return brought

    def take_alike(self, data: bytes) -> bool:
        """Take an event that is as the last one but for its text; false if it is not."""
        alike = self._alike
        if alike is None or not (data.startswith(alike.begin) and data.endswith(alike.end)):
            return False
        text = data[len(alike.begin) : -len(alike.end)]
        try:
            said = text.decode("ascii") if _is_plain(text) else _decode_text(b'"%b"' % text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return False
        if said:
            alike.into.append(said)
        return bool(said)

    def _learn(self, raw: bytes, chunk: dict[str, Any]) -> _Alike | None:
        """What the next event has around its text if it differs in nothing else. ``None`` where taking this one again would do
        more than to add its text once more, or that is not where it seems to be."""
        choices = dicts(chunk["choices"])
        delta = choices[0].get("delta") if len(choices) == 1 else None
        if not isinstance(delta, dict) or any(choices[0].get(name) for name in ("message", "text", "logprobs")):
            return None
        texts = [(name, value) for name, value in delta.items() if value and name != "role"]
        name, said = texts[0] if len(texts) == 1 else ("", None)
        if name not in ("content", "reasoning_content", "reasoning") or not isinstance(said, str):
            return None
        self._learnt += 1
        key, text = b'"%b":' % name.encode(), said.encode("utf-8", "replace")
        begin = raw.find(b'"', raw.rfind(key) + len(key)) + 1
        end = begin + len(text)
        delta[name] = said + "~"  # where it is shows in adding to it
        if not raw.startswith(text, begin) or decode(raw[:end] + b"~" + raw[end:])[0] != chunk:
            return None
        return _Alike(raw[:begin], raw[end:], self._text if name == "content" else self._reasoning)

    def take_all(self, raw: bytes) -> None:
        """Take the events in a whole body.

        :raises AttemptError: as :meth:`take` does.
        """
        for name, data in Events().feed(raw + b"\n\n"):
            self.take(name, data)

    def feed(self, chunk: dict[str, Any]) -> bool:
        """Take one chunk; true if it brought something of the answer itself."""
        for name, value in chunk.items():
            if value is not None and name not in _BUILT:
                self._head[name] = value
        if isinstance(chunk.get("usage"), dict):
            self._usage = chunk["usage"]
        brought = False
        for choice in dicts(chunk.get("choices")):
            index = str(choice.get("index") or 0)
            self._index = self._index or index
            if index != self._index:
                continue
            if isinstance(choice.get("usage"), dict):  # some servers put it here
                self._usage = choice["usage"]
            if choice.get("finish_reason"):  # some have "" until there is one
                self.finish_reason = str(choice["finish_reason"])
            logprobs = choice.get("logprobs")
            if isinstance(logprobs, dict):
                self._logprobs += dicts(logprobs.get("content"))
            delta = choice.get("delta")
            here = isinstance(delta, dict) and self._take(delta)
            here = self._take_whole(choice) or here
            if not here and self._unknown is None:
                self._unknown = unknown_text(choice, "choices[0]")
            brought = brought or here
        return brought

    def _take_whole(self, choice: dict[str, Any]) -> bool:
        """What stands in place of a delta: a message, or a text."""
        message, text = choice.get("message"), choice.get("text")
        if isinstance(message, dict):
            self._message = message
            text = content_of(message)[0]
        if not isinstance(text, str) or not text:
            return bool(self._message.get("tool_calls"))
        self._whole.append(text)
        return True

    def _take(self, delta: dict[str, Any]) -> bool:
        brought = False
        if isinstance(delta.get("content"), str | list | None):
            for said, into in zip(content_of(delta), (self._text, self._reasoning, self._refusal), strict=True):
                if said:
                    into.append(said)
                    brought = True
        for call in calls_of(delta):
            self._take_call(call)
            brought = True
        return brought

    def _take_call(self, delta: dict[str, Any]) -> None:
        # Some servers leave the index out, some give every call the index 0: then an id of its own begins a new call.
        index = delta["index"] if isinstance(delta.get("index"), int) else None
        ident = delta.get("id")
        call = self._call_at.get(index)
        if call is None or (ident and call["id"] and ident != call["id"]):
            call = next((c for c in self._calls if ident and c["id"] == ident), None)
            if call is None:
                call = {"id": None, "type": "function", "function": {"name": "", "arguments": ""}}
                self._calls.append(call)
            self._call_at[index] = call
        for field in ("id", "type"):
            if delta.get(field):
                call[field] = delta[field]
        function, into = delta.get("function"), call["function"]
        if not isinstance(function, dict):
            return
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name != into["name"]:  # some servers repeat it
            into["name"] += name
        if isinstance(arguments, str):
            into["arguments"] += arguments
        elif arguments is not None:
            into["arguments"] = _encode(arguments).decode()

    def completion(self) -> dict[str, Any]:
        """The answer as an unstreamed request would have given it.

        :raises RowFault: if there is text in it, and none where it is looked for.
        """
        self._take_outside_deltas()
        if self._unknown is not None and not (self._text or self._reasoning or self._refusal or self._calls):
            raise classify.unknown_shape(not_read(self._unknown), _encode(self._head), self.http_status)
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._text) if self._text else None}
        if not self._text and not self._calls and not self._refusal:
            message["content"] = ""
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._refusal:
            message["refusal"] = "".join(self._refusal)
        if self._calls:
            message["tool_calls"] = self._calls
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": self._usage}

    def whole(self) -> bytes:
        """As :meth:`completion`, as JSON."""
        return _encode(self.completion())

    def _take_outside_deltas(self) -> None:
        """Take what came outside of deltas, if nothing came in them. Each such text has all before it in front, or none has."""
        if not self._text and self._whole:
            grows = all(two.startswith(one) for one, two in zip(self._whole, self._whole[1:], strict=False))
            self._text = self._whole[-1:] if grows else self._whole
        if self._message:
            _, reasoning, refusal = content_of(self._message)
            self._reasoning = self._reasoning or [text for text in (reasoning,) if text]
            self._refusal = self._refusal or [text for text in (refusal,) if text]
            self._calls = self._calls or calls_of(self._message)


def _is_plain(text: bytes) -> bool:
    """Whether it says itself in a string of JSON."""
    return text.isascii() and b"\\" not in text and b'"' not in text


def raise_errors(data: dict[str, Any], raw: bytes, http_status: int) -> None:
    """:raises AttemptError: if there is an error in place of an answer, or beside it."""
    if fault := classify.error_inside(data, raw, http_status):
        raise fault
    for choice in dicts(data.get("choices"))[:1]:
        if fault := classify.error_of_choice(choice.get("error"), http_status):
            raise fault
        native = choice.get("native_finish_reason")
        if isinstance(native, str) and ending_of(native) == "again":  # which a gateway has translated to "stop"
            raise classify.broke_off(f"the answer broke off: {native!r} at the gateway's upstream", raw, http_status)
