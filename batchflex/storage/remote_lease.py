"""Who writes into a bucket: the machine that made the newest of the objects ``lease/NNNNNN.json``, which are never made twice.

It says now and then that it is there. One that has not for as long as its lease lasts may be succeeded; it finds that out when it
says so next. Clocks of machines are not compared.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import msgspec

from ..core import FolderBusy, FolderError, duration
from .object_store import ObjectStore, Superseded

FOLDER = "lease/"
_LOOK_S = 1.0


class Lease(msgspec.Struct, frozen=True):
    """Of a ``copy`` whose machine, the ``holder``, says at least each ``lease_s`` that it is there: ``renewed`` counts that."""

    epoch: int
    holder: str
    copy: str
    lease_s: float
    released: bool = False
    renewed: int = 0


class RemoteLease:
    """That of the copy with the id ``copy``. Its methods block.

    :raises StorageError: of each method: if the store fails.
    """

    def __init__(self, store: ObjectStore, copy: str, lease_s: float) -> None:
        self._store = store
        self._copy = copy
        self._lease_s = lease_s
        self._held: Lease | None = None
        self._renewed_at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to renew it."""
        return self._held is not None and time.monotonic() - self._renewed_at >= self._lease_s / 4

    def newest(self) -> Lease | None:
        """The newest, whosever it is."""
        found = self._newest()
        return None if found is None else found[0]

    def take(self, say: Callable[[str], object]) -> tuple[int, Lease | None]:
        """Take the lease, and give its number, and the one before. ``say`` is called if that takes a while.

        :raises FolderBusy: if another machine has it, and says that it is there.
        """
        seen: str | None = None
        since = 0.0
        while True:
            before, tag = self._newest() or (None, "")
            if before is not None and not before.released and before.copy != self._copy:
                if seen is None:
                    seen, since = tag, time.monotonic()
                    say(
                        f"{before.holder} holds {self._store}; whether it is still there shows within "
                        f"{duration(before.lease_s)}"
                    )
                elif seen != tag:
                    raise FolderBusy(
                        f"another run holds {self._store} ({before.holder}). Try again when it has ended (run and retry wait "
                        f"for that with --wait); how it is going: batchflex status {self._store}"
                    )
                if time.monotonic() - since < before.lease_s:
                    time.sleep(min(_LOOK_S, before.lease_s / 8))
                    continue
            epoch = 1 if before is None else before.epoch + 1
            lease = Lease(epoch, socket.gethostname(), self._copy, self._lease_s)
            try:
                self._store.add(_name(epoch), msgspec.json.encode(lease))
            except Superseded:
                seen = ""  # somebody else was quicker
                continue
            self._held, self._renewed_at = lease, time.monotonic()
            self._store.delete(name for name in self._store.list(FOLDER) if name < _name(epoch))
            return epoch, before

    def renew(self) -> None:
        """Say that this machine is there.

        :raises Superseded: if another one has taken the lease meanwhile.
        """
        if self._held is not None:
            self._held = msgspec.structs.replace(self._held, renewed=self._held.renewed + 1)
            self._write(self._held)
            if max(self._store.list(FOLDER)) > _name(self._held.epoch):
                raise Superseded(FOLDER)
            self._renewed_at = time.monotonic()

    def give_back(self) -> None:
        if self._held is not None:
            self._write(msgspec.structs.replace(self._held, released=True))
            self._held = None

    def _write(self, lease: Lease) -> None:
        self._store.upload(_name(lease.epoch), msgspec.json.encode(lease))

    def _newest(self) -> tuple[Lease, str] | None:
        name = max(self._store.list(FOLDER), default=None)
        if name is None or (found := self._store.get(name)) is None:
            return None
        try:
            return msgspec.json.decode(found[0], type=Lease), found[1]
        except msgspec.DecodeError as error:
            raise FolderError(f"{self._store}/{name} was written by another version of batchflex: {error}") from None


def _name(epoch: int) -> str:
    return f"{FOLDER}{epoch:06d}.json"
