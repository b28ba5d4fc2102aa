"""Takes what may be a secret out of text that came from elsewhere. Pure."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

_KEY_VALUE = re.compile(
    r"""
    \b(?:sk[-_][\w-]{6,} | (?:pk|rk|hf|gsk|xai|nvapi|pplx|ghp|r8|tgp)[-_][\w-]{8,} | AIza[\w-]{30,})  # the usual prefixes
  | \b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{32,}                         # or just long and random
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NAMED = re.compile(  # by what precedes it
    r"""
    ([?&](?:[\w-]*api[_-]?key | key | (?:[\w-]*[_-])?token | secret | password | sig | [\w-]*signature)= | \bbearer\s+(?=\S*\d))
    [^\s&'"]{6,}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"://[^/\s'\"]*@")
_HIDDEN = "***"


def redacted(text: str) -> str:
    """The text without what looks like a key, and without user, password and keys of URLs."""
    text = _NAMED.sub(rf"\1{_HIDDEN}", _USER_IN_URL.sub(f"://{_HIDDEN}@", text))
    return _KEY_VALUE.sub(_HIDDEN, text)


# ------------------------------------------------------------------------------------------------------- known secrets

# What people write where a server wants some key and accepts any.
_PLACEHOLDERS = {
    "anything", "api-key", "apikey", "changeme", "default", "dummy", "dummy-key", "empty", "fake", "fake-key", "key", "llama",
    "llama.cpp", "lm-studio", "local", "localhost", "no-key", "no-key-required", "none", "not-needed", "not-required",
    "nothing", "null", "ollama", "placeholder", "sk-dummy", "sk-fake", "sk-no-key", "sk-no-key-required", "sk-none",
    "sk-not-needed", "sk-test", "sk-xxx", "test", "test-key", "token", "unused", "vllm", "xxx", "your-api-key",
}  # fmt: skip
_SHORTEST = 4  # what is shorter protects nothing, and occurs in every other answer
_AS_A_WORD = 8  # what is shorter may be in a longer word or number by chance
_PLAIN_WORD = 12  # the same, of letters alone or digits alone
_DEEPEST = 3  # escapes within escapes: a server's error, quoted by a proxy, quoted by another
_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")
_MORE_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]|\\/)*=*")
# A cheap sign of escapes, and how they look: where all secrets are ASCII, and where some are not.
_ESCAPES = {
    True: [(b"\\u", re.compile(rb"\\u00[2-7]")), (b"%", re.compile(rb"%(?:25){0,4}[2-7][0-9A-Fa-f]"))],
    False: [(b"\\u", re.compile(rb"\\u")), (b"%", re.compile(rb"%(?:25){0,4}[0-9A-Fa-f]{2}"))],
}
_ESCAPED = re.compile(
    rb"\\{1,16}u([0-9A-Fa-f]{4})|\\*(\\|\"|/)|%(?:25){0,4}([0-9A-Fa-f]{2})|&#(?:[xX]0*([0-9A-Fa-f]{2,4})|0*([1-9]\d{1,4}));"
)


class Redactor:
    """Takes secrets out of what a server says, in whatever form it repeats them: as they are; escaped as in JSON, URLs and HTML,
    also in part or several times over; in base64, also as a part of something longer (``Basic`` of user and key).

    A secret is whatever has four characters or more, except the usual placeholders (``EMPTY``, ``none``, ``not-needed``, …) and
    words and numbers of fewer than eight letters or digits. One of fewer than eight characters (of letters or digits alone:
    twelve) is only taken out where it is a word by itself. So a key such as ``a`` or ``EMPTY`` spoils no answer.

    Not found are secrets that are hashed, reversed, spelled with spaces, or cut in two. Without secrets the object is false.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {text for secret in secrets if _is_secret(text := secret.strip())}
        secrets = sorted(found, key=len, reverse=True)
        raw = [secret.encode("utf-8", "surrogatepass") for secret in secrets]
        cores = {core: None for secret in raw for core in _cores(secret)}
        self._sought = [*dict.fromkeys([*raw, *(form for secret in secrets for form in _forms(secret))]), *cores]
        self._patterns = [*map(_pattern, secrets)]
        self._cores = [re.compile("".join(map(_sign, core.decode()))) for core in cores]
        self._escapes: list[tuple[bytes, re.Pattern[bytes] | None]] = [
            (b"&#", None),
            *_ESCAPES["".join(secrets).isascii()],
        ]
        self._escapes += [
            (b"\\" + sign, None) for sign in (b"/", b'"', b"\\") if any(sign in form for form in self._sought)
        ]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def clean(self, data: bytes) -> bytes:
        """The bytes without the secrets. JSON stays JSON: its texts are cleaned one by one."""
        if not self._may_be_in(data):
            return data
        import msgspec  # not above: the command line shows its help without

        try:
            value = msgspec.json.decode(data)
        except (ValueError, RecursionError):  # no JSON
            return self._cleaned(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
        return msgspec.json.encode(each_text(value, self._cleaned))

    def text(self, text: str) -> str:
        return self._cleaned(text) if self._may_be_in(text.encode("utf-8", "surrogatepass")) else text

    def is_in(self, text: str) -> bool:
        """Whether there is one of the secrets in it."""
        return self.text(text) != text

    def _may_be_in(self, data: bytes) -> bool:
        """Called with every answer, so the cheap tests come first."""
        for form in self._sought:
            if form in data:
                return True
        for sign, escape in self._escapes:
            if sign in data and (escape is None or escape.search(data)):
                break
        else:
            return False
        for _ in range(_DEEPEST):
            plain = _ESCAPED.sub(_unescaped, data)
            for form in self._sought:
                if form in plain:
                    return True
            if plain == data:
                break
            data = plain
        return False

    def _cleaned(self, text: str) -> str:
        for pattern in self._patterns:
            text = pattern.sub(_HIDDEN, text)
        for core in self._cores:
            text = _without_runs(text, core)
        return text


def _is_secret(text: str) -> bool:
    if len(text) < _SHORTEST or text.lower() in _PLACEHOLDERS:
        return False
    return len(text) >= _AS_A_WORD or not (text.isalpha() or text.isdigit())


def _stands_alone(secret: str) -> bool:
    return len(secret) < (_PLAIN_WORD if secret.isalpha() or secret.isdigit() else _AS_A_WORD)


def _forms(secret: str) -> list[bytes]:
    """A secret as in URLs and in HTML, and as it is after a backslash in it has been read as an escape."""
    others = (quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace"), html.escape(secret))
    plain = re.sub(r'\\+(["/\\])', r"\1", secret)
    return [each.encode("utf-8", "surrogatepass") for each in (*others, plain)]


def _cores(secret: bytes) -> list[bytes]:
    """What any base64 of a text with the secret contains, wherever the secret begins; in both alphabets."""
    cores = []
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + secret)
        begin = (8 * before + 5) // 6  # the first character that the secret alone decides
        end = 8 * (before + len(secret)) // 6
        if (core := coded[begin:end]) and len(core) >= _SHORTEST + 3:
            cores += [core, core.replace(b"+", b"-").replace(b"/", b"_")]
    return cores


def _pattern(secret: str) -> re.Pattern[str]:
    """The secret, each character of it as it is or escaped."""
    signs = "".join(map(_sign, secret))
    return re.compile(rf"(?<!\w){signs}(?!\w)" if _stands_alone(secret) else signs)


def _sign(character: str) -> str:
    escaped = [re.escape(character)]
    if character in '"/\\':
        escaped.append(rf"\\{{1,16}}{re.escape(character)}")
    if character == " ":
        escaped.append(r"\+")
    code = ord(character)
    if code < 0x10000:
        escaped.append(rf"\\{{1,16}}u(?i:{code:04x})")
    escaped.append("".join(f"%(?:25){{0,4}}(?i:{byte:02x})" for byte in character.encode("utf-8", "surrogatepass")))
    named = html.escape(character)
    escaped.append(rf"&(?:#0*{code}|#[xX]0*(?i:{code:x})|{named[1:-1] if len(named) > 1 else '(?!)'});")
    return f"(?:{'|'.join(escaped)})"


def _without_runs(text: str, core: re.Pattern[str]) -> str:
    """The text without the base64 around this core: all of it, as what is beside may reveal the rest."""
    kept, at = [], 0
    for found in core.finditer(text):
        if found.start() < at:
            continue
        begin = found.start()
        while begin > at and (text[begin - 1] in _BASE64 or text[begin - 1 : begin + 1] == "\\/"):
            begin -= 1
        if begin > at and text[begin - 1] == "\\":  # what follows belongs to an escape, as in \\n
            begin = min(begin + (5 if text[begin] == "u" else 1), found.start())
        kept += [text[at:begin], _HIDDEN]
        more = _MORE_BASE64.match(text, found.end())
        at = found.end() if more is None else more.end()
    return "".join([*kept, text[at:]])


def _unescaped(found: re.Match[bytes]) -> bytes:
    in_json, as_it_is, in_url, in_html, in_decimal = found.groups()
    if as_it_is:
        return as_it_is
    if in_url:
        return bytes.fromhex(in_url.decode())
    code = int(in_decimal) if in_decimal else int(in_json or in_html, 16)
    return chr(code).encode("utf-8", "surrogatepass")


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON with each text in it changed, names too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): each_text(inner, change) for name, inner in value.items()}
    return [each_text(inner, change) for inner in value] if isinstance(value, list | tuple) else value
