"""Paths that are URLs: outputs in buckets, and where their copy on this machine is. Pure."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .input_urls import BUCKET_SCHEMES, scheme_of

_URL = re.compile(rf"(?:{'|'.join(BUCKET_SCHEMES)})://[^/?#]+(?:/[^?#]*)?")
_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def is_bucket(path: str) -> bool:
    """Whether a path is in an object store, as far as its scheme says."""
    return "://" in path and scheme_of(path) in BUCKET_SCHEMES


def bucket_fault(url: str) -> str | None:
    """What is wrong with the URL of an output folder in a bucket."""
    if _URL.fullmatch(url) is None or ".." in url.split("/"):
        return "an output folder in a bucket is written s3://BUCKET/PATH, gs://BUCKET/PATH or az://CONTAINER/PATH"
    if not url.partition("://")[2].partition("/")[2].strip("/"):
        return f"name a folder in the bucket, such as {url.rstrip('/')}/runs/reviews: what is beside its files is not batchflex's"
    return None


def copies_folder(variables: Mapping[str, str] = os.environ) -> Path:
    """Where copies of outputs are kept: ``$XDG_STATE_HOME/batchflex/outputs``, else under ``~/.local/state``."""
    given = variables.get("XDG_STATE_HOME", "")
    home = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    return home / "batchflex" / "outputs"


def copy_of(url: str) -> Path:
    """The folder on this machine that an output in a bucket is copied from and to. It has the same name each time."""
    url = url.rstrip("/")
    name = _NAME.sub("-", url.rpartition("/")[2])[:80]
    return copies_folder() / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def output_path(out: str) -> Path:
    """The folder on this machine that an output is in, or is copied to."""
    return copy_of(out) if is_bucket(out) else Path(out)
