"""Objects of a bucket under one prefix: S3, Google Cloud Storage, Azure, by obstore (extra ``cloud``).

Credentials are taken as the stores' own tools take them: from the environment, profiles, and what the machine has been given.
Each call ends: requests that fail for a passing reason are repeated for a minute at most.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from ..config import StorageSection
from ..core import MissingExtra, StorageError, scheme_of
from .files import replaced, storing
from .remote_errors import RemoteError, explaining

_REQUEST_S, _CONNECT_S, _RETRIED_S = 120, 10, 60
_READ_BYTES = 4 << 20
_S3 = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
# What obstore looks for in the environment of the process; the job's file of variables may have it, too.
_SECRETS = {
    "s3": _S3,
    "s3a": _S3,
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"),
    "az": (
        "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CLIENT_ID", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_STORAGE_TENANT_ID",
    ),
}  # fmt: skip


class Superseded(Exception):
    """There is another object of this name."""


class Object(NamedTuple):
    """``tag`` changes with the content."""

    size: int
    tag: str


class ObjectStore:
    """The objects of ``url`` and below, by the rest of their names. ``str()`` is the URL.

    :raises MissingExtra: if obstore is not installed.
    :raises StorageError: of each call that fails: with what to do about it.
    """

    def __init__(self, url: str, section: StorageSection) -> None:
        self._url = url
        try:
            import obstore
            from obstore.store import from_url
        except ImportError:
            raise MissingExtra(f"{url} needs the package obstore: pip install 'batchflex[cloud]'") from None
        self._obstore: Any = obstore
        scheme = scheme_of(url)
        how = _config(scheme, section)
        endpoint = how.get("endpoint") or how.get("base_url", "")
        with self._explained("use"):
            make: Any = from_url
            self._store: Any = make(
                url,
                config=how,
                client_options={
                    "timeout": f"{_REQUEST_S}s",
                    "connect_timeout": f"{_CONNECT_S}s",
                    "allow_http": endpoint.startswith("http://"),
                },
                retry_config={"max_retries": 10, "retry_timeout": datetime.timedelta(seconds=_RETRIED_S)},
                **_credentials(scheme, section, how),
            )

    def __str__(self) -> str:
        return self._url

    def list(self, prefix: str = "") -> dict[str, Object]:
        """All objects, those of "folders" with them."""
        found = {}
        with self._explained("list"):
            for block in self._obstore.list(self._store, prefix or None):
                for each in block:
                    found[each["path"]] = Object(each["size"], each["e_tag"] or str(each["last_modified"]))
        return found

    def get(self, name: str) -> tuple[bytes, str] | None:
        """An object and its tag; ``None`` if there is none."""
        with self._explained("read", name):
            found = self._found(name)
            return None if found is None else (bytes(found.bytes()), found.meta["e_tag"])

    def download(self, name: str, path: Path) -> str | None:
        """Write an object into a file, which is there whole or not at all. Gives its tag; ``None`` if there is no such object."""
        with self._explained("read", name):
            if (found := self._found(name)) is None:
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            with storing(path), replaced(path) as stream:
                for piece in found.stream(min_chunk_size=_READ_BYTES):
                    stream.write(piece)
            tag: str = found.meta["e_tag"]
            return tag

    def _found(self, name: str) -> Any | None:
        """An object, to be read; ``None`` if there is none in the bucket."""
        try:
            return self._obstore.get(self._store, name)
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None

    def upload(self, name: str, content: Path | bytes) -> str:
        """Put a whole object in place of one that may be there, and give its tag.

        :raises FileNotFoundError: if there is no such file to upload.
        """
        with _opened(content) as data, self._explained("write", name):
            tag: str = self._obstore.put(self._store, name, data)["e_tag"]
            return tag

    def add(self, name: str, content: Path | bytes) -> str:
        """The same where no object is. Of several who do so at the same time one succeeds.

        :raises Superseded: if there is another. One that is the same was put there by a write whose answer was lost.
        """
        with _opened(content) as data, self._explained("write", name):
            try:
                added: str = self._obstore.put(self._store, name, data, mode="create")["e_tag"]
                return added
            except self._obstore.exceptions.AlreadyExistsError:
                pass
        there = self.get(name)
        if there is None or there[0] != (content if isinstance(content, bytes) else content.read_bytes()):
            raise Superseded(name)
        return there[1]

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, those that are there."""
        if some := list(names):
            with self._explained("delete", some[0]):
                self._obstore.delete(self._store, some)

    @contextmanager
    def _explained(self, verb: str, name: str = "") -> Iterator[None]:
        """Turn what obstore raises into a sentence that says what to do."""
        try:
            with explaining(self._url, scheme_of(self._url)):
                yield
        except RemoteError as error:
            what = f"{verb} {name}" if name else verb
            raise StorageError(f"{self._url}: cannot {what}: {error.strerror}") from None


def _opened(content: Path | bytes) -> AbstractContextManager[Any]:
    return nullcontext(content) if isinstance(content, bytes) else content.open("rb")


def _config(scheme: str, section: StorageSection) -> dict[str, str]:
    found = dict(section.options)
    if section.endpoint is not None:
        found["base_url" if scheme == "gs" else "endpoint"] = section.endpoint
    elif scheme.startswith("s3") and (
        given := _first(section.variables, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    ):
        found["endpoint"] = given
    if section.region is not None:
        found["region"] = section.region
    elif scheme.startswith("s3") and (given := _first(section.variables, "AWS_REGION", "AWS_DEFAULT_REGION")):
        found["region"] = given
    in_file = (name for name in _SECRETS.get(scheme, _SECRETS["az"]) if name not in os.environ)
    return found | {name.lower(): section.variables[name] for name in in_file if section.variables.get(name)}


def _first(variables: Mapping[str, str], *names: str) -> str | None:
    return next((value for name in names if (value := variables.get(name))), None)


def _credentials(scheme: str, section: StorageSection, how: dict[str, str]) -> dict[str, Any]:
    """Of S3 those that boto3 finds, where the environment has none: profiles, single sign-on, roles of machines and tasks."""
    if not scheme.startswith("s3") or how.get("skip_signature") == "true" or section.variables.get("AWS_ACCESS_KEY_ID"):
        return {}
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}
    session = boto3.Session(profile_name=section.variables.get("AWS_PROFILE"))
    if "region" not in how and session.region_name:
        how["region"] = session.region_name
    return {"credential_provider": Boto3CredentialProvider(session)}
