"""Inputs that are URLs: what they are called, and what of them may be shown. Pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

BUCKET_SCHEMES = ("s3", "s3a", "gs", "az", "adl", "abfs", "abfss")
WEB_SCHEMES = ("https", "http")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_USER = re.compile(r"://[^/?#\s'\"]*@")
# Parameters that sign a URL, or are secret themselves: those of S3, Google, Azure, CloudFront, Akamai, and whatever is named so.
_SIGNING = re.compile(
    r"^x-(?:amz|goog)-|(?:^|[_-])(?:sig|signature|token|key|secret|password|auth|hmac|hdnea|hdnts)$"
    r"|^(?:awsaccesskeyid|googleaccessid|expires|policy|key-pair-id|apikey)$"
    r"|^(?:sv|se|st|sp|sr|spr|sip|skoid|sktid|skt|ske|sks|skv|sdd)$",
    re.IGNORECASE,
)


def is_url(path: str) -> bool:
    """Whether a path is a URL, of whatever scheme; none of this machine's paths has ``://`` in it."""
    return _URL.match(path) is not None


def scheme_of(url: str) -> str:
    return url.partition("://")[0].lower()


def without_signature(path: str) -> str:
    """A URL without user and password, and without its query if something in that signs it or is secret. Anything but a URL stays
    as it is, and so does the ``?`` in names of objects."""
    if not is_url(path):
        return path
    if scheme_of(path) not in WEB_SCHEMES:
        return path if scheme_of(path) in ("abfs", "abfss") else _USER.sub("://", path)
    plain, mark, query = _USER.sub("://", path).partition("?")
    names = [each.partition("=")[0] for each in query.partition("#")[0].split("&")]
    return plain if not mark or any(map(_SIGNING.search, names)) else f"{plain}?{query}"


def url_name(url: str) -> PurePosixPath:
    """What comes last in the path of a URL, as a name with its endings: ``rows.jsonl.gz``."""
    if scheme_of(url) in WEB_SCHEMES:
        return PurePosixPath(unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2]))
    return PurePosixPath(url.partition("://")[2].rstrip("/").rpartition("/")[2])
