"""Files on the web, by HTTP. Read by ranges where the server has them; else fetched whole, once, into a temporary file."""

from __future__ import annotations

import email.utils
import re
import tempfile
import time
import weakref
from typing import TYPE_CHECKING, Any

from .remote_errors import RemoteChanged, RemoteDenied, RemoteError, RemoteNotFound, RemoteUnreachable
from .remote_files import Facts, RemoteFile
from .web_session import BadRedirect, WebSession

if TYPE_CHECKING:
    import httpx

LARGEST_COPY = 4 << 30  # bytes of a file that is fetched whole
_RETRIED_S = 60.0
_TRIES, _FIRST_WAIT_S, _LONGEST_WAIT_S = 6, 0.25, 15.0
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_BROKE = "the connection broke"
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+)")


class WebFile(RemoteFile):
    """A file that is fetched from an address ``http://`` or ``https://``. Redirects are followed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._session = WebSession()
        weakref.finalize(self, self._session.close)
        self._first_look = time.time_ns()
        self._whole: tuple[Facts, Any] | None = None

    def _look(self) -> Facts:
        with self._asked("bytes=0-0") as reply:
            if reply.status_code == 206 and (found := _RANGE.fullmatch(reply.headers.get("content-range", ""))):
                self._whole = None
                return self._facts_of(reply, int(found[3]))
            if reply.status_code == 416 and (found := _RANGE.fullmatch(reply.headers.get("content-range", ""))):
                return self._facts_of(reply, int(found[3]))  # an empty file has no first byte
            length = reply.headers.get("content-length", "")
            if self._whole is not None and length in ("", str(self._whole[0].size)):
                facts = self._facts_of(reply, self._whole[0].size)
                if facts == self._whole[0] and facts.tag:
                    return facts
                if not facts.tag:  # nothing tells whether it is another: what was fetched is what is read
                    return self._whole[0]
            return self._fetched(reply, int(length) if length.isdigit() else None)

    def _facts_of(self, reply: httpx.Response, length: int) -> Facts:
        etag, changed = reply.headers.get("etag", ""), reply.headers.get("last-modified", "")
        try:
            modified = int(email.utils.parsedate_to_datetime(changed).timestamp()) * 1_000_000_000
        except ValueError:
            modified = self._first_look
        return Facts(length, etag or changed, modified)

    def _fetched(self, reply: httpx.Response, length: int | None) -> Facts:
        """The whole file is in this answer: the server does not send parts."""
        if length is not None and length > LARGEST_COPY:
            self._refuse_large(length)
        copy = tempfile.TemporaryFile(prefix="batchflex-")  # noqa: SIM115 - closed with this object
        got = 0
        for data in self._pieces(reply):
            got += len(data)
            if got > LARGEST_COPY:
                copy.close()
                self._refuse_large(got)
            copy.write(data)
        if length is not None and got != length:
            copy.close()
            raise RemoteUnreachable(
                str(self), f"{_BROKE} after {got:,} of {length:,} bytes; run the same command again"
            )
        facts = self._facts_of(reply, got)
        weakref.finalize(self, copy.close)
        self._whole = facts, copy
        return facts

    def _refuse_large(self, length: int) -> None:
        raise RemoteError(
            str(self), f"its server sends no parts of it, and at {length / 1e9:,.1f} GB it is too large to be fetched whole "
            f"(the most is {LARGEST_COPY / 1e9:,.1f} GB); copy it to this machine or into a bucket and name it there",
        )  # fmt: skip

    def _pieces(self, reply: httpx.Response) -> Any:
        import httpx

        try:
            yield from reply.iter_raw(1 << 20)
        except httpx.HTTPError as error:
            raise RemoteUnreachable(str(self), f"{_BROKE} ({_short(error)}); run the same command again") from None

    def _read(self, begin: int, end: int, facts: Facts) -> bytes:
        if self._whole is not None:
            if self._whole[0] != facts:
                raise RemoteChanged(str(self))
            self._whole[1].seek(begin)
            return bytes(self._whole[1].read(end - begin))
        give_up = time.monotonic() + _RETRIED_S
        while True:
            with self._asked(f"bytes={begin}-{end - 1}") as reply:
                found = _RANGE.fullmatch(reply.headers.get("content-range", ""))
                if reply.status_code != 206 or found is None or found[1] != str(begin):
                    raise RemoteChanged(str(self))
                if self._facts_of(reply, int(found[3])) != facts:
                    raise RemoteChanged(str(self))
                try:
                    data = b"".join(self._pieces(reply))
                    if len(data) == end - begin:
                        return data
                except RemoteUnreachable:
                    if time.monotonic() > give_up:
                        raise
            if time.monotonic() > give_up:
                raise RemoteUnreachable(
                    str(self), "its server sends less than it says; run the same command again later"
                )
            time.sleep(_FIRST_WAIT_S)

    def _asked(self, wanted: str) -> Any:
        """The answer to a request of this range, without its body; to be closed by ``with``.

        :raises OSError: if there is none, or it is no file.
        """
        import httpx

        heads = {"Range": wanted, "Accept-Encoding": "identity", "User-Agent": "batchflex"}
        give_up, wait = time.monotonic() + _RETRIED_S, _FIRST_WAIT_S
        for left in range(_TRIES - 1, -1, -1):
            is_last = left == 0 or time.monotonic() + wait > give_up
            try:
                reply = self._session.get(self.url, heads)
            except httpx.TransportError as error:
                if is_last or isinstance(error, httpx.UnsupportedProtocol):
                    raise RemoteUnreachable(
                        str(self), f"its server cannot be reached ({_short(error)}); see whether the address and the network "
                        "are right, then run the same command again",
                    ) from None  # fmt: skip
            except BadRedirect as error:
                raise RemoteError(str(self), str(error)) from None
            except (httpx.InvalidURL, ImportError, ValueError):
                raise RemoteError(
                    str(self),
                    "it cannot be asked for; see whether the address, and the proxy that the environment sets, are right",
                ) from None
            else:
                if reply.status_code in (200, 206, 416):
                    return _Closing(reply)
                reply.close()
                if reply.status_code not in _PASSING or is_last:
                    self._refuse(reply.status_code)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)
        raise AssertionError

    def _refuse(self, status: int) -> None:
        if status in (404, 410):
            raise RemoteNotFound(
                str(self), f"there is no such file (status {status}); see whether the address is right"
            )
        if status in (401, 403):
            hint = "; what signs the address may have expired" if self.url != str(self) else ""
            raise RemoteDenied(
                str(self), f"access is denied (status {status}){hint}; name an address that can be read as it is"
            )
        if status in _PASSING:
            raise RemoteUnreachable(
                str(self), f"its server answers with status {status}; run the same command again later"
            )
        raise RemoteError(str(self), f"its server answers with status {status}, and sends no file")


class _Closing:
    def __init__(self, reply: httpx.Response) -> None:
        self._reply = reply

    def __enter__(self) -> httpx.Response:
        return self._reply

    def __exit__(self, *_: object) -> None:
        self._reply.close()


def _short(error: Exception) -> str:
    return type(error).__name__
