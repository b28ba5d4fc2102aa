"""A key that a command prints: run again when the key expires, or when it is refused."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable
from functools import partial

import anyio
import anyio.to_thread
import msgspec
from pydantic import SecretStr

from ..core import shell_command
from .provider import is_key

_WITHIN_S = 60.0  # that the command may take
_LEAST_S = 1.0  # from one run of it to the next
_EARLY_LEAST_S = 10.0  # the same, while the key is still good: some commands print it again until its last minutes
_EARLY_S, _EARLY_SHARE = 60.0, 0.1  # before a key's time is over, the sooner of the two


class NoKeyError(Exception):
    """The command gives no key; the message says why, and has no key in it."""


class KeyCommand:
    """The key that ``command`` prints, which is run by the shell if it is text.

    Whoever needs a key while the command runs waits for that run. ``wall`` is the clock on the wall in seconds since the epoch.
    """

    def __init__(
        self,
        command: str | tuple[str, ...],
        *,
        within_s: float = _WITHIN_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._command = command
        self._within_s = within_s
        self._wall = wall
        self._lock = anyio.Lock()
        self._key: SecretStr | None = None
        self._is_accepted = self._is_refused = False
        self._due = self._expires = float("inf")
        self._ran_at = self._ended_at = float("-inf")
        self._fault = ""

    @property
    def has_worked(self) -> bool:
        """Whether the command has printed a key: if it fails then, it may work again."""
        return self._key is not None

    def accepted(self, key: SecretStr) -> None:
        """The server has let a request with this key in."""
        if key is self._key:
            self._is_accepted = True

    async def key(self) -> SecretStr:
        """A key that has not expired, as far as is known.

        :raises NoKeyError: if the command fails.
        """
        if (key := self._key) is not None and not self._is_refused:
            if self._wall() < self._due:
                return key
            if self._lock.locked() and self._wall() < self._expires:
                return key
        needed_at = time.monotonic()
        async with self._lock:
            if self._key is None or self._is_refused:
                return await self._renewed(needed_at)
            if self._wall() >= self._due and time.monotonic() >= self._ran_at + _EARLY_LEAST_S:
                try:
                    return await self._renewed(needed_at)
                except NoKeyError:
                    if self._wall() >= self._expires:
                        raise
            return self._key

    async def instead_of(self, refused: SecretStr) -> SecretStr | None:
        """Another key after the server has refused this one; ``None`` if there is none, and the refusal counts.

        That is so if the command prints the same again, or if the key was refused although it was new.

        :raises NoKeyError: if the command fails.
        """
        needed_at = time.monotonic()
        async with self._lock:
            if self._key is not refused:
                return self._key
            if not self._is_accepted:
                return None
            self._is_refused = True
            key = await self._renewed(needed_at)
            if key == refused:
                self._is_accepted = False  # so that the others that were refused with it do not ask for it again
                return None
            return key

    async def _renewed(self, needed_at: float) -> SecretStr:
        """Run the command, unless it was run since ``needed_at``: all who waited for that run share its result."""
        if self._ended_at < needed_at:
            fault = ""
            try:
                await self._run()
            except NoKeyError as error:
                fault = str(error)
            self._fault, self._ended_at = fault, time.monotonic()
        if self._fault or self._key is None:
            raise NoKeyError(self._fault)
        return self._key

    async def _run(self) -> None:
        await anyio.sleep(max(0.0, self._ran_at + _LEAST_S - time.monotonic()))
        self._ran_at = time.monotonic()
        given_up = threading.Event()
        try:
            work = partial(shell_command.printed, self._command, self._within_s, given_up)
            printed = await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        finally:
            given_up.set()
        text = printed.output.decode("utf-8", "replace").strip()
        if printed.fault is not None:
            raise NoKeyError(printed.fault.replace(text, "***") if text else printed.fault)
        if not is_key(text):
            raise NoKeyError("it printed " + ("something that is no key alone" if text else "nothing"))
        key = SecretStr(text)
        if key != self._key:
            self._key, self._is_accepted, self._is_refused = key, False, False
        now, self._expires = self._wall(), expires_at(text) or float("inf")
        left_s = self._expires - now
        # One whose time is over already, by this clock: the server decides.
        self._due = self._expires - min(_EARLY_S, _EARLY_SHARE * left_s) if left_s > 0 else float("inf")


def expires_at(key: str) -> float | None:
    """When a key expires, in seconds since the epoch, if it is a JSON web token that says so."""
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except (ValueError, msgspec.DecodeError):
        return None
    return claims.exp


class _Claims(msgspec.Struct):
    exp: float | None = None
