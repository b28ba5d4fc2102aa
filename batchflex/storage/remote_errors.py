"""Why a file in a bucket or on the web cannot be read, as sentences. No secret is in them."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from ..core import redacted

_WORDS = 200  # characters of a store's own words that are shown
_CODE, _MESSAGE = re.compile(r"<Code>([^<]+)<"), re.compile(r"<Message>([^<]+)<")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
# Where credentials are looked for when there are none: the metadata services of machines.
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal", "metadata/identity", "get_credentials")
_WRONG_KEY = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthenticationFailed")
_NETWORK = ("error sending request", "dns error", "connection closed", "timed out", "error decoding response body")
_HOW_TO_SIGN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket set "
    'storage.options.skip_signature = "true"',
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login",
    "az": "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
}


class RemoteError(OSError):
    """A remote file cannot be read. ``strerror`` says why and what to do; ``str()`` also where."""

    number = errno.EIO

    def __init__(self, url: str, why: str) -> None:
        super().__init__(self.number, why)
        self.url = url

    def __str__(self) -> str:
        return f"{self.url}: {self.strerror}"


class RemoteNotFound(RemoteError, FileNotFoundError):
    number = errno.ENOENT


class RemoteChanged(RemoteError):
    """It is another than when it was looked at."""

    number = errno.ESTALE

    def __init__(self, url: str) -> None:
        super().__init__(url, "it has changed while it was read; run the same command again")


class RemoteDenied(RemoteError, PermissionError):
    number = errno.EACCES


class RemoteUnreachable(RemoteError, ConnectionError):
    number = errno.EHOSTUNREACH


@contextmanager
def explaining(url: str, scheme: str) -> Iterator[None]:
    """Turn what obstore, and what finds credentials for it, raises about ``url`` into a :class:`RemoteError`. What they said is
    left out of the chain of exceptions, as it repeats addresses with their signatures."""
    try:
        yield
    except RemoteError:
        raise
    except Exception as error:
        origin = type(error).__module__.partition(".")[0]
        if origin not in ("obstore", "botocore", "google", "azure") and not isinstance(error, OSError | ValueError):
            raise
        _raise_explained(url, scheme, error)


def _raise_explained(url: str, scheme: str, error: Exception) -> NoReturn:
    said, kind = str(error), type(error).__name__
    status, sign = _STATUS.search(said), _HOW_TO_SIGN[{"s3": "s3", "s3a": "s3", "gs": "gs"}.get(scheme, "az")]
    number = int(status[1]) if status else 0
    if any(words in said for words in _NO_BUCKET):
        bucket = url.partition("://")[2].partition("/")[0]
        raise RemoteNotFound(
            url,
            f"there is no bucket {bucket}; see whether it is spelt right, and whether storage.endpoint is its store's",
        ) from None
    if kind == "PreconditionError":
        raise RemoteChanged(url) from None
    if isinstance(error, FileNotFoundError):
        raise RemoteNotFound(url, "there is no such object") from None
    if any(words in said for words in _METADATA) or "Account must be specified" in said:
        raise RemoteDenied(url, f"no credentials were found; {sign}") from None
    if any(words in said for words in _WRONG_KEY) or number == 401 or kind == "UnauthenticatedError":
        raise RemoteDenied(url, f"the store does not accept the credentials{_own_words(said)}; {sign}") from None
    if number == 403 or kind == "PermissionDeniedError":
        raise RemoteDenied(
            url,
            f"access is denied{_own_words(said)}; the credentials need the right to list the bucket and to use it",
        ) from None
    if number in (301, 307) or "PermanentRedirect" in said or "AuthorizationHeaderMalformed" in said:
        raise RemoteError(url, "the bucket is in another region; name it in storage.region, or in AWS_REGION") from None
    if any(words in said.lower() for words in _NETWORK):
        raise RemoteUnreachable(
            url, "the store cannot be reached; see whether storage.endpoint and the network are right, then run the same "
            "command again",
        ) from None  # fmt: skip
    if number >= 500:
        raise RemoteUnreachable(
            url, f"the store answers with status {number}{_own_words(said)}; run the same command again later"
        ) from None
    words = _own_words(said) or f" ({redacted(said.partition(chr(10))[0])[:_WORDS]})"
    raise RemoteError(url, f"the store refuses the request{words}") from None


def _own_words(said: str) -> str:
    """The store's own code and message."""
    words = [found[1] for pattern in (_CODE, _MESSAGE) if (found := pattern.search(said))]
    return f" ({redacted(': '.join(words))[:_WORDS]})" if words else ""
