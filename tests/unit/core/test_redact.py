"""Secrets in every form in which a server may repeat them, and words that are fit to be shown."""

from __future__ import annotations

import base64
import html
import json
import unicodedata
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import given, strategies as st

from batchflex.core.redact import Redactor
from batchflex.core.safe_text import json_line, one_line, printable, printable_json

SECRETS = [
    "sk-Proj/ab+c=d\"1234\\Zq", "sk-1234", "hunter2pw", "abcdefgh1", "pässwörd-1", "p@ss w0rd/#?", "0123456789abcdef",
    "n0t-a-word", "u00e9-u00e9-key",
]  # fmt: skip


def forms(secret: str) -> Iterator[tuple[str, str]]:
    raw = secret.encode()
    yield "as it is", secret
    yield "JSON", json.dumps(secret)[1:-1]
    yield "JSON, slashes", json.dumps(secret)[1:-1].replace("/", "\\/")
    yield "all \\u", "".join(f"\\u{ord(c):04x}" for c in secret)
    yield "all \\U", "".join(f"\\u{ord(c):04X}" for c in secret)
    yield "\\u twice", "".join(f"\\\\u{ord(c):04x}" for c in secret)
    yield "one \\u", f"\\u{ord(secret[0]):04x}" + json.dumps(secret[1:])[1:-1]
    yield "JSON in JSON", json.dumps(json.dumps(secret))[1:-1].strip('\\"')
    yield "URL", quote(secret, safe="")
    yield "form", quote_plus(secret)
    yield "URL twice", quote(quote(secret, safe=""), safe="")
    yield "all %xx", "".join(f"%{byte:02x}" for byte in raw)
    yield "all %XX", "".join(f"%{byte:02X}" for byte in raw)
    yield "one %XX", f"%{raw[0]:02X}" + secret[1:]
    yield "HTML", html.escape(secret)
    yield "all &#", "".join(f"&#{ord(c)};" for c in secret)
    yield "all &#x", "".join(f"&#x{ord(c):X};" for c in secret)
    for beside in ("", "a", "us", "user:", "Zoë:"):
        whole = beside.encode() + raw
        yield f"base64 after {beside!r}", base64.b64encode(whole).decode()
        yield f"base64 before more, after {beside!r}", base64.urlsafe_b64encode(whole + b":x").decode().rstrip("=")
        yield f"base64 with \\/ after {beside!r}", base64.b64encode(whole).decode().replace("/", "\\/")


@pytest.mark.parametrize("secret", SECRETS)
def test_no_form_of_a_secret_is_kept(secret: str) -> None:
    redactor = Redactor([f" {secret}\n"])
    assert redactor
    for name, form in forms(secret):
        for words in ("bad key: {}", "{}", "/v1?k={}&b=1", "<b>{}</b>\n", "Authorization: Basic {}"):
            said = words.format(form)
            assert form not in redactor.text(said), name
            assert "***" in redactor.text(said), name
            body = json.dumps({"error": {"message": said, said: [said]}}).encode()
            cleaned = redactor.clean(body)
            assert "***" in json.dumps(json.loads(cleaned)) and form not in json.dumps(json.loads(cleaned)), name
            assert form.encode() not in redactor.clean(said.encode() + b"\xff"), name
        try:
            json.loads(inside := f'{{"message": "\\n{form}"}}')
        except ValueError:
            continue
        cleaned = redactor.clean(inside.encode())
        assert json.loads(cleaned)["message"].strip() == "***", name


@pytest.mark.parametrize(
    ("key", "said", "left"),
    [
        ("a", "a cat", "a cat"),
        ("abc", "abc", "abc"),
        ("EMPTY", "EMPTY", "EMPTY"),
        ("none", "none", "none"),
        ("dummy", "a dummy", "a dummy"),
        ("not-needed", "not-needed", "not-needed"),
        ("sk-no-key-required", "sk-no-key-required", "sk-no-key-required"),
        ("  ", "a  b", "a  b"),
        ("hello", "hello you", "hello you"),  # a word
        ("2024", "in 2024", "in 2024"),  # a number
        ("sk-1", "key sk-1 is wrong", "key *** is wrong"),
        ("sk-1", "task-12", "task-12"),  # in a longer word
        ("sk-1234", "(sk-1234)", "(***)"),
        ("password", "the password is passwords", "the *** is passwords"),  # letters alone
        ("password", "cGFzc3dvcmQ=", "***"),
        ("20240131", "on 20240131, not 120240131", "on ***, not 120240131"),
        ("abcdefgh1", "xabcdefgh1x", "x***x"),
        ("averylongword", "isaverylongwordthen", "is***then"),
    ],
)
def test_what_counts_as_a_secret(key: str, said: str, left: str) -> None:
    assert Redactor([key]).text(said) == left


def test_several_secrets_and_none() -> None:
    assert Redactor(["abc-1234", "abc-12345"]).text("abc-12345 abc-1234") == "*** ***"
    assert not Redactor([]) and not Redactor(["EMPTY", ""])
    assert Redactor([]).clean(b"abc") == b"abc"


PIECES = st.sampled_from(
    ["hunter2pw", "\\", "n", "u", "00e9", "%", "%68", "aHVudGVyMnB3", "/", '"', "é", "\n", " ", "&#104;"]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@given(st.dictionaries(TEXTS, TEXTS | st.lists(TEXTS, max_size=3), max_size=3), st.booleans())
def test_json_stays_json_and_what_is_clean_stays_as_it_was(value: dict[str, str], escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode()
    cleaned = Redactor(["hunter2pw"]).clean(body)
    assert "hunter2pw" not in json.dumps(json.loads(cleaned))
    if "hunter2pw" not in body.decode() and "***" not in cleaned.decode():
        assert cleaned == body


# ----------------------------------------------------------------------------------------------------------- to be shown

HOSTILE = [
    "\x1b[2J", "\x9b31m", "\x07\x08\x7f", "a\rb", "\u202egnp.exe", "\u2066x\u2069", "\u200b\u200e\u200f\u061c", "\ufeff",
    "\udc9b", "\ud83d", "\u2028\u2029", "\x85", "\U000e0041", "\u2060\u2064", "\xad",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_obey_or_not_show_is_a_sign(text: str) -> None:
    for fit in (printable(text), one_line(text)):
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in fit)
    assert printable(f"a{text}b") != f"a{text}b"


def test_words_and_layout_stay() -> None:
    for text in ("a\n\tb", "Größe 🙂👩‍👩‍👧 שלום \u3000 a\u00a0b", "␛", ""):
        assert printable(text) == text
    assert one_line("a\r\n\x1b[2Jb\tc  ") == "a [2Jb c"
    assert one_line("x" * 600) == "x" * 500 + "…"


@given(st.text(st.characters() | st.sampled_from("".join(HOSTILE))))
def test_json_says_the_same_and_can_be_shown(text: str) -> None:
    encoded = json_line({text: [text]})
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert msgspec.json.decode(encoded) == {whole: [whole]}
    assert printable(encoded.decode()) == encoded.decode()
    assert printable_json(encoded) == encoded
