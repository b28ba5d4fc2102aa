"""What stands for a file in the body of a planned request, and what takes its place. Pure.

A body has tokens of the files that its own request names, and only those are replaced. A text of the input that looks like a
token puts nothing in but what the row sends anyway: it would need the hash of a file, and that file to be the row's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

from ..core import Attachment
from .options import Use

_APART = {"detail"}  # stands in the body by itself
_DATA = re.compile(r"(data:image\\?/[a-z]{3,4};base64,)(?:[A-Za-z0-9+=]|\\?/){40,}")


def token(use: Use, sha256: str) -> str:
    """For a file of this content. It holds what shapes what is sent, and needs no escapes in JSON."""
    return _token(use, f"sha256={sha256}")


def token_without_file(use: Use) -> str:
    """For a file that cannot be read: it is known by its path alone, so that once it can be, that is another request."""
    return _token(use, f"unreadable={hashlib.blake2b(use.path.encode(errors='replace'), digest_size=16).hexdigest()}")


def token_of_url(use: Use) -> str:
    """For a remote file: it is known by its URL, as nothing is fetched before it is sent."""
    return _token(use, f"url={hashlib.sha256(use.path.encode(errors='replace')).hexdigest()}")


def _token(use: Use, what: str) -> str:
    options = "".join(f" {name}={value}" for name, value in use.options if name not in _APART)
    return f"<batchflex:{use.kind} {what}{options}>"


def filled(body: bytes, contents: Mapping[str, bytes]) -> bytes:
    """The body as it is sent: each token replaced by its content, which is written as inside of a JSON string."""
    for each, content in contents.items():
        body = body.replace(each.encode(), content)
    return body


def without_data(words: str) -> str:
    """What a server says without images that it repeats, whole or cut off."""
    return _DATA.sub(r"\1…", words)


def described(body: bytes, files: Iterable[Attachment]) -> bytes:
    """The body for people: files by their names."""
    return filled(body, {file.token: _described(file).encode() for file in files})


def _described(file: Attachment) -> str:
    name = "".join(c for c in file.name if c.isprintable() and c not in '"\\<>')
    if file.fault is not None:
        return f"<{file.kind} {name}: cannot be sent>"
    options = "".join(f", {option} = {value}" for option, value in file.options if option not in _APART)
    if file.url:
        return f"<{file.kind} {name}{options}, fetched when this is sent>"
    return f"<{file.kind} {name}{options}, {_size(file.size)}, sha256 {file.sha256[:12]}…>"


def _size(size: int) -> str:
    return f"{size:,} bytes" if size < 10_000 else f"{size / 1e3:,.0f} kB" if size < 1e7 else f"{size / 1e6:,.1f} MB"
