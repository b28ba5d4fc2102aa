"""Which files the URLs of an input are: of an object, a "folder" or a pattern in a bucket, or of an address on the web.

The rules are those of folders on this machine: what is hidden, what lies in output folders, and what describes a data set is no
input; files come in the order of their names.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import msgspec

from ..config import StorageSection
from ..core import BUCKET_SCHEMES, WEB_SCHEMES, InputError, nearest, scheme_of, without_signature
from ..storage import BucketFile, InputBucket, Listing, RemoteFile, WebFile
from .formats import ENDINGS, is_known
from .input_paths import INFO, NO_DATA, SPLITS, STATE

_SHOWN = 8
_PATTERN = re.compile(r"[*?\[]")


def expand_url(url: str, storage: StorageSection) -> list[RemoteFile]:
    """The files that a URL stands for, of which there is one at least.

    :raises InputError: if there is none.
    :raises MissingExtra: if what reads buckets is not installed.
    :raises OSError: if that cannot be found out: with a sentence that says what to do.
    """
    scheme = scheme_of(url)
    if scheme in WEB_SCHEMES:
        file = WebFile(url)
        file.facts()
        return [file]
    if scheme not in BUCKET_SCHEMES:
        raise InputError(
            f"the input {without_signature(url)} is not on this machine, and {scheme}:// is not read; copy it here and name the "
            "file in input.path, or use s3://, gs://, az://, https:// or http://"
        )
    bucket = InputBucket(url, storage)
    key = url.partition("://")[2].partition("/")[2]
    if key and not key.endswith("/"):
        file_at = BucketFile(bucket, key)
        if bucket.facts(key) is not None:
            return [file_at]
        if _PATTERN.search(key):
            return _matching(bucket, key)
    return _in_folder(bucket, key.rstrip("/"))


def _matching(bucket: InputBucket, pattern: str) -> list[RemoteFile]:
    """The objects by a pattern; ``*`` is within one part of a path, ``**`` any parts."""
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if _PATTERN.search(part))
    root = "/".join(parts[:fixed])
    listing = Listing(bucket, root)
    asks_for_hidden = any(part.startswith(".") for part in parts[fixed:])
    found = [
        key
        for key in listing.all()
        if (rest := _below(key, root)) is not None
        and _matches(rest.split("/"), parts[fixed:])
        and (asks_for_hidden or not _is_hidden(rest))
    ]
    if not found:
        raise InputError(
            f"no object matches the input path {bucket.root}/{pattern}; {_at(bucket, root)} has {_contents(bucket, root)}"
        )
    return _files(listing, found)


def _matches(names: list[str], parts: list[str]) -> bool:
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_matches(names[skipped:], parts[1:]) for skipped in range(len(names) + (len(parts) > 1)))
    return bool(names) and fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _in_folder(bucket: InputBucket, folder: str) -> list[RemoteFile]:
    listing = Listing(bucket, folder)
    below = {key: rest for key in listing.all() if (rest := _below(key, folder)) is not None}
    at = _at(bucket, folder)
    if not below:
        raise InputError(f"there is no input {at}: no object, and nothing below it{_instead(bucket, folder)}")
    if SPLITS in below.values():
        raise InputError(f"the folder {at} is a data set of several splits; name one of its folders in input.path")
    outputs = {
        key.removesuffix("run.json")
        for key, rest in below.items()
        if rest.endswith("/run.json")
        and any(other.startswith(key.removesuffix("run.json") + "parts/") for other in below)
    }
    shards = dict(_data_sets(listing, below))
    here = [
        key
        for key, rest in below.items()
        if not _is_hidden(rest)
        and is_known(PurePosixPath(rest))
        and PurePosixPath(rest).name not in NO_DATA
        and not any(key.startswith(output) for output in outputs)
        and ((of := shards.get(key.rpartition("/")[0])) is None or key.rpartition("/")[2] in of)
    ]
    if not here:
        raise InputError(f"{at} has no file that can be read ({ENDINGS}); it has {_contents(bucket, folder)}")
    return _files(listing, here)


def _data_sets(listing: Listing, below: Mapping[str, str]) -> Iterator[tuple[str, set[str]]]:
    """Of each data set that was saved to disk: its "folder", and the names of its files, as it says itself.

    :raises InputError: if its rows are not those of the files, in their order.
    """
    for key in below:
        folder, _, name = key.rpartition("/")
        if name != STATE or (f"{folder}/{INFO}" if folder else INFO) not in below:
            continue
        state = BucketFile(listing.bucket, key, listing)
        try:
            with state.open(buffering=0) as stream:
                said: Any = msgspec.json.decode(stream.read())
        except msgspec.DecodeError as error:
            raise InputError(f"{state}, which describes the data set, cannot be read: {error}") from None
        if not isinstance(said, dict):
            continue
        if said.get("_indices_files") or said.get("_indices_data_files"):
            raise InputError(
                f"the data set {_at(listing.bucket, folder)} takes rows from its files by a list of their numbers: "
                "save it anew after flatten_indices()"
            )
        files = said.get("_data_files")
        yield (
            folder,
            {str(each["filename"]) for each in files if isinstance(each, dict)} if isinstance(files, list) else set(),
        )


def _files(listing: Listing, keys: list[str]) -> list[RemoteFile]:
    return [BucketFile(listing.bucket, key, listing) for key in sorted(keys, key=lambda key: key.split("/"))]


def _below(key: str, folder: str) -> str | None:
    """The rest of a key that is below a "folder"."""
    if not folder:
        return key
    return key.removeprefix(f"{folder}/") if key.startswith(f"{folder}/") else None


def _is_hidden(rest: str) -> bool:
    return any(part.startswith((".", "~$")) for part in rest.split("/"))


def _at(bucket: InputBucket, folder: str) -> str:
    return f"{bucket.root}/{folder}/" if folder else f"{bucket.root}/"


def _contents(bucket: InputBucket, folder: str) -> str:
    names = bucket.folder(f"{folder}/" if folder else "")
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "nothing in it"


def _instead(bucket: InputBucket, key: str) -> str:
    """What there is in place of a key, for a message."""
    folder, _, name = key.rpartition("/")
    names = bucket.folder(f"{folder}/" if folder else "")
    if near := nearest(name, [each.rstrip("/") for each in names]):
        return f"; did you mean {bucket.root}/{folder}{'/' if folder else ''}{near}?"
    return f"; {_at(bucket, folder)} has {_contents(bucket, folder)}"
