"""Words that came from elsewhere, without what may be a secret in them. Pure."""

from __future__ import annotations

import re

_KEY_VALUE = re.compile(
    r"""
    \b(?:sk[-_][\w-]{6,} | (?:pk|rk|hf|gsk|xai|nvapi|pplx|ghp)[-_][\w-]{8,})  # the usual prefixes
  | \b(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{32,}                         # or just long and random
    """,
    re.VERBOSE | re.IGNORECASE,
)
_USER_IN_URL = re.compile(r"://[^/\s'\"]*@")
_HIDDEN = "***"


def redacted(text: str) -> str:
    """The text without what looks like a key, and without user and password of URLs."""
    return _KEY_VALUE.sub(_HIDDEN, _USER_IN_URL.sub(f"://{_HIDDEN}@", text))
