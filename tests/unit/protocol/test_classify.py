"""What an answer or a failure means: pure tables, no socket. What happens on the wire is in test_transport.py."""

from __future__ import annotations

import email.utils
import itertools
import json
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, strategies as st

from batchflex.core.errors import AttemptError, RateLimited, RowFault, RunFault, Transient
from batchflex.core.types import Usage
from batchflex.protocol import chat, classify, error_body
from batchflex.protocol.chat_message import usage
from batchflex.protocol.chat_stream import Stream
from batchflex.protocol.loose_json import decode
from batchflex.protocol.route import Receipt

NOW = 1_700_000_000.0


def _body(message: str = "said", kind: str | None = None, code: Any = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()


# ------------------------------------------------------------------------------------------------------- classify


@pytest.mark.parametrize(
    ("status", "body", "kind", "detail"),
    [
        (400, _body(), RowFault, None),
        (400, _body(code="model_not_found"), RunFault, "model"),
        (400, _body(code="context_length_exceeded"), RowFault, None),
        (400, _body(kind="insufficient_quota"), RunFault, "credit"),
        (401, _body(), RunFault, "key"),
        (401, b"", RunFault, "key"),
        (402, b"", RunFault, "credit"),
        (403, b"<h1>Forbidden</h1>", RunFault, "key"),
        (403, _body(code="insufficient_quota"), RunFault, "credit"),
        (404, b'{"detail":"Not Found"}', RunFault, "url"),
        (404, _body("The model `x` does not exist."), RunFault, "model"),
        (404, b"<html><title>404</title></html>", RunFault, "url"),
        (405, b"", RunFault, "url"),
        (301, b"", RunFault, "url"),
        (308, b"", RunFault, "url"),
        (408, b"", Transient, "row"),
        (409, b"", Transient, "row"),
        (413, b"", RowFault, None),
        (422, b'{"detail":[{"msg":"no"}]}', RowFault, None),
        (422, _body(code="model_not_found"), RunFault, "model"),
        (425, b"", Transient, "row"),
        (429, b"", RateLimited, "endpoint"),
        (429, _body(code="insufficient_quota"), RunFault, "credit"),
        (451, b"", RowFault, None),
        (500, b"", Transient, "row"),
        (500, _body(code="429"), RateLimited, "endpoint"),
        (500, _body(code=429), RateLimited, "endpoint"),
        (503, _body(kind="rate_limit_error"), RateLimited, "endpoint"),
        (502, b"<h1>Bad Gateway</h1>", Transient, "endpoint"),
        (503, b"", Transient, "endpoint"),
        (504, b"", Transient, "endpoint"),
        (520, b"", Transient, "endpoint"),
        (529, b"", Transient, "endpoint"),
    ],
)
def test_a_status_means(status: int, body: bytes, kind: type[AttemptError], detail: str | None) -> None:
    fault = classify.http_fault(status, httpx.Headers(), body, NOW)
    assert type(fault) is kind
    assert fault.http_status == status
    assert fault.body == body
    assert fault.message
    if isinstance(fault, RunFault):
        assert fault.reason == detail
    if isinstance(fault, Transient):
        assert fault.blame == detail


def test_a_redirect_is_named_and_a_long_body_is_cut() -> None:
    fault = classify.http_fault(307, httpx.Headers({"Location": "https://b/v1"}), b"x" * 100_000, NOW)
    assert "https://b/v1" in fault.message
    assert len(fault.message) < 1000
    assert fault.body == b"x" * 65_536


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"Retry-After": " 3 "}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": email.utils.formatdate(NOW + 90, usegmt=True)}, 90.0),
        ({"retry-after": email.utils.formatdate(NOW - 90, usegmt=True)}, 0.0),
        ({"retry-after": email.utils.formatdate(NOW + 90).replace("-0000", "").strip()}, 90.0),  # without a zone: GMT
        ({"retry-after": email.utils.formatdate(NOW + 90)}, 90.0),
        ({"retry-after": "Mon, 99 Jan 2024 99:99:99 GMT"}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], wait: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert error_body.retry_after(httpx.Headers(headers), NOW) == wait


@given(st.text(max_size=60))
def test_any_retry_after_is_survived(text: str) -> None:
    wait = error_body.retry_after({"retry-after": text, "retry-after-ms": text}, NOW)
    assert wait is None or 0 <= wait < float("inf")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (_body("m", "t", "c"), ("m", "t", "c")),
        (_body("m", None, 42), ("m", None, "42")),
        (b'{"error":"just words"}', ("just words", None, None)),
        (b'{"error":null,"detail":"words"}', ("words", None, None)),
        (b'{"object":"error","message":"m","type":"BadRequestError","code":400}', ("m", "BadRequestError", "400")),
        (b'{"detail":[{"loc":["n"],"msg":"no"}]}', ('[{"loc":["n"],"msg":"no"}]', None, None)),
        (b'[{"error":{"message":"m","code":429,"status":"RESOURCE_EXHAUSTED"}}]', ("m", None, "429")),
        (b'"words"', ("words", None, None)),
        (b"[]", ("[]", None, None)),
        (b"{}", ("", None, None)),
        (b"", ("", None, None)),
        (b"plain words", ("plain words", None, None)),
        (b"\xff\xfe", ("\ufffd\ufffd", None, None)),
        (
            b"<style>a{}</style><script>x()</script><h1>Bad&nbsp;</h1>\n<p>Gateway</p>",
            ("Bad&nbsp; Gateway", None, None),
        ),
        (b"[" * 100_000, (("[" * 300), None, None)),
    ],
)
def test_an_error_is_described(body: bytes, told: tuple[str, str | None, str | None]) -> None:
    assert error_body.read(body)[:3] == told


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "m", "code": 429}, RateLimited),
        ({"message": "m", "code": "rate_limit_exceeded"}, RateLimited),
        ({"message": "m", "code": 400}, RowFault),
        ({"message": "m", "code": "503"}, Transient),
        ({"message": "m", "code": 7}, Transient),
        ({"message": "m", "type": "insufficient_quota"}, RunFault),
        ({"message": None, "type": "server_error", "code": None}, Transient),
        ({"code": 0, "message": "upstream failed"}, Transient),
        ("words", Transient),
    ],
)
def test_an_error_inside_an_answer_means_what_it_says(error: Any, kind: type[AttemptError]) -> None:
    data = {"error": error}
    fault = classify.error_inside(data, json.dumps(data).encode(), 200)
    assert type(fault) is kind
    assert fault.http_status == 200


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"error": None},
        {"error": ""},
        {"error": {}},
        {"error": {"code": 0, "message": "success"}},
        {"error": {"code": "200", "message": "OK", "type": "none"}},
        {"error": {"code": None, "message": None}},
        {"error": {"message": "success"}},
    ],
)
def test_no_error_inside(data: dict[str, Any]) -> None:
    assert classify.error_inside(data, b"", 200) is None


# ----------------------------------------------------------------------------------------------------- completion


def _chunk(delta: Any = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "a", "model": "m", "choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **more}


def _message(*chunks: dict[str, Any]) -> dict[str, Any]:
    stream = Stream()
    for chunk in chunks:
        stream.feed(chunk)
    message = stream.completion()["choices"][0]["message"]
    assert isinstance(message, dict)
    return message


TEXT = 'Größe: 👩🏽‍🔬\u2028 \r\n and "quotes" \\ end'


@given(st.lists(st.integers(0, len(TEXT)), max_size=8))
def test_text_may_be_split_anywhere(places: list[int]) -> None:
    cuts = [0, *sorted(places), len(TEXT)]
    chunks = [_chunk({"content": TEXT[a:b]}) for a, b in itertools.pairwise(cuts)]
    assert _message(_chunk({"role": "assistant", "content": ""}), *chunks)["content"] == TEXT


def test_a_stream_is_the_answer_it_would_have_been() -> None:
    stream = Stream()
    brought = [
        stream.feed(chunk)
        for chunk in (
            _chunk({"role": "assistant", "content": None}, created=1, service_tier="x"),
            _chunk({"reasoning": "hm"}),
            {"choices": [{"index": 1, "delta": {"content": "another sample"}}]},
            _chunk({"content": "a"}),
            {"choices": [{"index": None, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}]}}]},
            _chunk({}, "stop", usage=None),
            {"choices": [], "usage": {"prompt_tokens": 1}, "object": "chat.completion.chunk"},
        )
    ]
    assert brought == [False, True, False, True, True, False, False]
    assert stream.completion() == {
        "id": "a",
        "model": "m",
        "created": 1,
        "service_tier": "x",
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "ab", "reasoning_content": "hm"},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "b"}]},
            }
        ],
        "usage": {"prompt_tokens": 1},
    }


_FRAMES = (
    '{"choices":[{"index":0,"delta":{"content":%s},"logprobs":null,"finish_reason":null}],"model":"m"}',
    '{"choices": [{"index": 0, "delta": {"role": "assistant", "content": %s}}], "id": "content", "usage": null}',
    '{"id":"a","choices":[{"delta":{"content":"","reasoning_content":%s,"tool_calls":[]}}]}',
    '{"choices":[{"delta":{"reasoning":%s}}],"usage":{"total_tokens":3}}',
    '{"choices":[{"delta":{"content":%s},"logprobs":{"content":[{"token":"a"}]}}]}',
    '{"choices":[{"delta":{"content":"a","reasoning":%s}}]}',
    '{"choices":[{"delta":{"content":"b"},"text":%s}]}',
    '{"choices":[{"delta":{"refusal":%s}}]}',
    '{"choices":[{"index":1,"delta":{"content":%s}}]}',
    '{"choices":[{"delta":{"content":%s}},{"index":1,"delta":{"content":"c"}}]}',
    '{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":%s}}]}}]}',
    '{"choices":[{"delta":{"content":%s},"error":null}],"model":"other","created":%s}',
)
_STRINGS = (
    '"a"',
    '"content"',
    '" \\"b\\""',
    '"\\\\"',
    '"\\n"',
    '""',
    '"é"',
    '"\\u00e9"',
    '"\\ud83d"',
    '"\\ude00"',
    "null",
    '"a',
    '"b\\"',
    "1",
)


@given(
    st.lists(
        st.tuples(st.sampled_from(_FRAMES), st.one_of(st.sampled_from(_STRINGS), st.text(max_size=3).map(json.dumps))),
        max_size=12,
    )
)
def test_events_that_are_seen_to_be_alike_come_to_the_same(events: list[tuple[str, str]]) -> None:
    quick, kept = Stream(), Stream()
    for frame, text in events:
        for _ in range(3):
            data = frame.replace("%s", text).encode()
            try:
                brought = kept.take("", data)
            except AttemptError:
                with pytest.raises(AttemptError):
                    assert not quick.take_alike(data)
                    quick.take("", data)
                return
            assert (quick.take_alike(data) or quick.take("", data)) == brought
    assert _ending(quick) == _ending(kept)


def _ending(stream: Stream) -> Any:
    try:
        return stream.completion(), stream.is_complete, stream.finish_reason
    except AttemptError as fault:
        return fault.message


@pytest.mark.parametrize("frame", _FRAMES[:4])
def test_most_events_are_seen_to_be_alike(frame: str) -> None:
    stream = Stream()
    seen = []
    for text in ('"a"', '" b"', '"\\n"', '"c"'):
        seen.append(stream.take_alike(frame.replace("%s", text).encode()))
        if not seen[-1]:
            stream.take("", frame.replace("%s", text).encode())
    assert seen == [False, True, True, True]


def test_usage_inside_a_choice_is_found() -> None:
    stream = Stream()
    stream.feed({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "usage": {"total_tokens": 3}}]})
    assert stream.completion()["usage"] == {"total_tokens": 3}


def _call(arguments: Any = "", **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return _chunk({"tool_calls": [{"function": function, **more}]})


def _pairs(*chunks: dict[str, Any]) -> list[tuple[str, str, str]]:
    calls = _message(*chunks)["tool_calls"]
    return [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


TWO = [("1", "f", '{"a":1}'), ("2", "g", "{}")]


@pytest.mark.parametrize(
    "chunks",
    [
        [
            _call(id="1", index=0, name="f"),
            _call('{"a"', index=0),
            _call(":1}", index=0),
            _call("{}", index=1, id="2", name="g"),
        ],
        [_call(id="1", name="f"), _call('{"a"'), _call(":1}"), _call("{}", id="2", name="g")],
        [
            _call(id="1", index=0, name="f"),
            _call('{"a":1}', index=0),
            _call("", id="2", index=0, name="g"),
            _call("{}", index=0),
        ],
        [
            _call('{"a"', id="1", name="f"),
            _call(":1}", id="1", name="f"),
            _call("{", id="2", name="g"),
            _call("}", id="2"),
        ],
        [_call('{"a"', id="1", index=0, name="f"), _call("{}", id="2", index=1, name="g"), _call(":1}", index=0)],
        [_call({"a": 1}, id="1", index=0, name="f"), _call({}, id="2", index=1, name="g")],
    ],
    ids=["by index", "no index", "index 0 for all", "id repeated", "interleaved", "arguments as objects"],
)
def test_tool_calls_are_put_together(chunks: list[dict[str, Any]]) -> None:
    assert _pairs(*chunks) == TWO


@pytest.mark.parametrize(
    "chunk",
    [
        {},
        {"choices": None},
        {"choices": 5},
        {"choices": ["x", None]},
        {"choices": [{"index": 0, "delta": None}]},
        {"choices": [{"index": 0, "delta": {"content": 5, "tool_calls": "x"}}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [None, {"index": [], "function": "x"}]}, "logprobs": 3}]},
        {"usage": "many"},
    ],
)
def test_odd_chunks_are_passed_over(chunk: dict[str, Any]) -> None:
    stream = Stream()
    stream.feed(chunk)
    stream.feed(_chunk({"content": "still"}, "stop"))
    assert stream.completion()["choices"][0]["message"]["content"] == "still"


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        (None, Usage()),
        ("many", Usage()),
        ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 2, 3)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}, Usage(1, 2, 9)),
        ({"prompt_tokens": 4.0, "completion_tokens": True, "total_tokens": -1}, Usage(4)),
        ({"prompt_tokens": float("nan"), "completion_tokens": "7"}, Usage()),
        ({"cache_read_input_tokens": 5, "cache_creation_input_tokens": 6}, Usage(None, None, None, 5, 6)),
        (
            {"prompt_tokens_details": {"cached_tokens": 5}, "completion_tokens_details": {"reasoning_tokens": 8}},
            Usage(None, None, None, 5, None, 8),
        ),
        ({"prompt_tokens_details": None, "completion_tokens_details": []}, Usage()),
        ({"reasoning_tokens": 8, "completion_tokens_details": {"reasoning_tokens": 9}}, Usage(reasoning_tokens=8)),
    ],
)
def test_usage_of_any_server(value: Any, counts: Usage) -> None:
    assert usage(value) == counts


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"content": "a"}, "a"),
        ({"content": ""}, ""),
        ({"content": None}, None),
        ({}, None),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": {"label": "x"}}, '{"label":"x"}'),
        ({"content": [{"type": "image"}]}, '[{"type":"image"}]'),
    ],
)
def test_content_of_any_shape_is_kept(message: dict[str, Any], content: str | None) -> None:
    data = {"choices": [{"message": message, "finish_reason": "stop"}]}
    answer = chat.read(data, b"{}", Receipt(200, 1.0))
    assert answer is not None
    assert answer.content == content
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "data", [{}, {"choices": []}, {"choices": [None]}, {"choices": [{"message": None}]}, {"choices": {}}]
)
def test_what_has_no_message_is_no_answer(data: dict[str, Any]) -> None:
    assert chat.read(data, b"{}", Receipt(200, 1.0)) is None


def test_the_raw_answer_is_one_line() -> None:
    raw = b'{\n "choices": [\n  {"message": {"content": "a"}}\n ]\n}'
    answer = chat.read(msgspec.json.decode(raw), raw, Receipt(200, 1.0))
    assert answer is not None
    assert answer.response == b'{"choices":[{"message":{"content":"a"}}]}'


@pytest.mark.parametrize(
    ("raw", "content"),
    [
        (b'{"a":"\\ud83d\\udc4b"}', "👋"),
        (b'{"a":"half \\ud83d"}', "half ?"),
        (b'{"a":"\xff!"}', "\ufffd!"),
        (b'{"a":"x","p":NaN}', "x"),
        (b'\xef\xbb\xbf{"a":"x"}', "x"),
    ],
)
def test_almost_json_is_read(raw: bytes, content: str) -> None:
    data, clean = decode(raw)
    assert data is not None
    assert data["a"] == content
    assert msgspec.json.decode(clean) == data


@pytest.mark.parametrize("raw", [b"", b"[]", b"5", b'{"a":', b"<html>", b"[" * 100_000, b'{"a":1e999}'])
def test_what_is_no_json_object_is_none(raw: bytes) -> None:
    assert decode(raw)[0] is None
