"""The lease of a bucket: one holder, whoever was away for how long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from batchflex.config import StorageSection
from batchflex.core import FolderBusy
from batchflex.storage.object_store import ObjectStore, Superseded
from batchflex.storage.remote_lease import FOLDER, RemoteLease
from tests.support.object_server import Bucket, ObjectServer, as_machine


@pytest.fixture
def store(bucket: Bucket, object_server: ObjectServer, tmp_path: Path):
    with as_machine(tmp_path, object_server.url):
        yield ObjectStore(f"s3://{bucket.name}/runs/a", StorageSection())


def test_it_is_taken_given_back_and_taken_by_another(store: ObjectStore) -> None:
    said: list[str] = []
    one, two = RemoteLease(store, "one", 30.0), RemoteLease(store, "two", 30.0)
    assert one.newest() is None
    assert one.take(said.append) == (1, None)
    one.renew()
    one.give_back()
    epoch, before = two.take(said.append)
    assert (epoch, before.copy if before else None, said) == (2, "one", [])
    assert list(store.list(FOLDER)) == ["lease/000002.json"], "those before are of no use"


def test_the_machine_of_a_run_that_was_killed_takes_it_at_once(store: ObjectStore) -> None:
    assert RemoteLease(store, "one", 30.0).take(print)[0] == 1
    began = time.monotonic()
    assert RemoteLease(store, "one", 30.0).take(print)[0] == 2
    assert time.monotonic() - began < 15.0


def test_of_a_machine_that_is_there_it_is_not_taken(store: ObjectStore) -> None:
    said: list[str] = []
    one = RemoteLease(store, "one", 8.0)
    one.take(print)
    two = RemoteLease(store, "two", 8.0)

    def renewing(text: str) -> None:
        said.append(text)
        one.renew()

    with pytest.raises(FolderBusy, match="another run holds s3://"):
        two.take(renewing)
    assert len(said) == 1 and "shows within 8.0 s" in said[0]


def test_one_that_was_away_finds_out_however_many_have_followed(store: ObjectStore) -> None:
    """The leases in between are gone by then."""
    away = RemoteLease(store, "one", 1.0)
    away.take(print)
    RemoteLease(store, "two", 1.0).take(print)
    third = RemoteLease(store, "three", 1.0)
    assert third.take(print)[0] == 3
    with pytest.raises(Superseded):
        away.renew()
    third.renew()
    newest = third.newest()
    assert newest is not None and (newest.epoch, newest.copy) == (3, "three")
