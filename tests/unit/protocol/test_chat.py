"""Completions are read alike, however regular they are."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from batchflex.protocol import chat
from batchflex.protocol.loose_json import decode
from batchflex.protocol.route import Receipt

_encode = msgspec.json.Encoder().encode
CAME = Receipt(200, 0.5)
_TEXT = st.none() | st.sampled_from(["", "yes", "Grüße 🙂", 'a"\\b\n'])
_COUNT = st.none() | st.integers(0, 2**62) | st.sampled_from([-1, 2.0, 1.5, True, "7", 2**62, 2**70, [], {}])
_ODD = st.sampled_from([0, 1.5, True, "x", [], ["y"], {}, {"z": 1}])


def _object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


_CALLS = st.none() | st.just([]) | st.just([{"id": "1", "function": {"name": "f", "arguments": "{}"}}])
_MESSAGE = _object(
    role=_TEXT, content=_TEXT | _ODD, reasoning_content=_TEXT | _ODD, reasoning=_TEXT, tool_calls=_CALLS, more=_ODD
)
_CHOICE = _object(index=_COUNT, message=_MESSAGE | _ODD, finish_reason=_TEXT | _ODD, logprobs=_ODD)
_USAGE = _object(
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    total_tokens=_COUNT,
    cache_read_input_tokens=_COUNT,
    cache_creation_input_tokens=_COUNT,
    reasoning_tokens=_COUNT,
    prompt_tokens_details=_object(cached_tokens=_COUNT, audio_tokens=_COUNT) | _ODD | st.none(),
    completion_tokens_details=_object(reasoning_tokens=_COUNT) | _ODD | st.none(),
    prompt_audio=_ODD,
)
_COMPLETION = _object(
    id=_TEXT, model=_TEXT | _ODD, choices=st.lists(_CHOICE | _ODD, max_size=2) | _ODD, usage=_USAGE | _ODD | st.none()
)


def _read(raw: bytes) -> Any:
    data, raw = decode(raw)
    return None if data is None else chat.read(data, raw, CAME)


@given(_COMPLETION)
@settings(max_examples=2_000, deadline=None)
def test_a_regular_answer_is_read_as_any_other(data: dict[str, Any]) -> None:
    raw = _encode(data)
    found = chat.regular(raw, CAME)
    assert found is None or found == _read(raw)


REGULAR = {
    "id": "c1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "logprobs": None, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 2}},
}  # fmt: skip


def test_what_servers_usually_send_is_regular() -> None:
    found = chat.regular(_encode(REGULAR), CAME)
    assert found is not None and found == _read(_encode(REGULAR))
    assert (found.content, found.usage.total_tokens, found.usage.cache_read_input_tokens) == ("yes", 7, 2)


@pytest.mark.parametrize(
    "more",
    [{"error": {"message": "no"}}, {"error": ""}, {"error": {}}, {"usage": None}, {"choices": []}, {"choices": None}],
)
def test_what_is_not_regular_is_left_to_the_lenient_way(more: dict[str, Any]) -> None:
    assert chat.regular(_encode({**REGULAR, **more}), CAME) is None


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{", b"\xff", _encode(REGULAR) + b"\n", b"\xef\xbb\xbf" + _encode(REGULAR), b"[" * 10_000]
)
def test_what_is_no_plain_json_is_left_to_the_lenient_way(raw: bytes) -> None:
    assert chat.regular(raw, CAME) is None
