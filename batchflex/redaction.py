"""Words that came from elsewhere, without what may be a secret in them. Pure."""

from __future__ import annotations

import re

_KEY_VALUE = re.compile(
    r"""
    \b(?:sk[-_][\w-]{6,} | (?:pk|rk|hf|gsk|xai|nvapi|pplx|ghp|r8|tgp)[-_][\w-]{8,} | AIza[\w-]{30,})  # the usual prefixes
  | \b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{32,}                         # or just long and random
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NAMED = re.compile(  # by what stands before it
    r"""
    ([?&](?:[\w-]*api[_-]?key | key | token | [\w-]*_token | secret | password | sig | signature)= | \bbearer\s+(?=\S*\d))
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
