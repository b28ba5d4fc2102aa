"""Objects of a real S3 server: whole or not there, one winner, and errors that say what to do."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchflex.config import StorageSection
from batchflex.core import StorageError
from batchflex.storage.object_store import ObjectStore, Superseded
from tests.support.object_server import Bucket, ObjectServer, Unreliable, as_machine


def _store(bucket: Bucket, address: str | None = None) -> ObjectStore:
    section = StorageSection(endpoint=address or bucket.server.url)
    return ObjectStore(f"s3://{bucket.name}/runs/a", section)


@pytest.fixture(autouse=True)
def _machine(object_server: ObjectServer, tmp_path: Path):
    with as_machine(tmp_path / "home", object_server.url):
        yield


def test_objects_are_put_listed_read_and_deleted(bucket: Bucket, tmp_path: Path) -> None:
    store = _store(bucket)
    assert store.list() == {} and store.get("x") is None and store.download("x", tmp_path / "x") is None
    (tmp_path / "part").write_bytes(b"p" * 1_000)
    tag = store.upload("parts/1", tmp_path / "part")
    store.upload("run.json", b"{}")
    assert {name: each.size for name, each in store.list().items()} == {"parts/1": 1_000, "run.json": 2}
    assert store.list()["parts/1"].tag == tag
    assert store.download("parts/1", tmp_path / "deep" / "copy") == tag
    assert (tmp_path / "deep" / "copy").read_bytes() == b"p" * 1_000
    assert store.get("run.json") == (b"{}", store.list()["run.json"].tag)
    store.delete(["parts/1", "nothing"])
    assert list(store.list()) == ["run.json"] and list(bucket.objects()) == ["runs/a/run.json"]


def test_of_sixteen_who_write_one_name_one_succeeds(bucket: Bucket) -> None:
    stores = [_store(bucket) for _ in range(16)]
    ready = threading.Barrier(16)

    def add(number: int, name: str) -> str | None:
        ready.wait(30)
        try:
            return stores[number].add(name, b"holder %d" % number)
        except Superseded:
            return None

    with ThreadPoolExecutor(16) as threads:
        for name in ("lease/000001.json", "lease/000002.json", "lease/000003.json"):
            won = [each for each in threads.map(add, range(16), [name] * 16) if each is not None]
            assert len(won) == 1


def test_an_object_that_was_added_is_not_replaced(bucket: Bucket, tmp_path: Path) -> None:
    store, path = _store(bucket), tmp_path / "part"
    path.write_bytes(b"one")
    tag = store.add("parts/1", path)
    assert store.add("parts/1", path) == tag, "the same once more"
    path.write_bytes(b"two")
    with pytest.raises(Superseded):
        store.add("parts/1", path)
    assert bucket.read("runs/a/parts/1") == b"one"


def test_a_write_whose_answer_was_lost_is_found_out(bucket: Bucket, tmp_path: Path) -> None:
    with Unreliable(bucket.server) as proxy:
        store = _store(bucket, proxy.url)
        lost = iter(["lost", "lost", 503, None])
        proxy.fault = lambda method, path: next(lost, None) if method == "PUT" else None
        (tmp_path / "part").write_bytes(b"one")
        tag = store.add("parts/1", tmp_path / "part")
        lost = iter(["lost"])
        assert store.add("lease/000001.json", b"mine") == store.list()["lease/000001.json"].tag
        lost = iter(["lost"])
        with pytest.raises(Superseded):
            store.add("lease/000001.json", b"another's")
        assert store.list()["parts/1"].tag == tag


def test_a_store_that_fails_for_a_moment_is_asked_again(bucket: Bucket) -> None:
    with Unreliable(bucket.server) as proxy:
        store, faults = _store(bucket, proxy.url), iter([500, 503, 429, "lost", 0.2])
        proxy.fault = lambda method, path: next(faults, None)
        store.upload("x", b"content")
        assert store.get("x") is not None


def test_what_is_wrong_is_said_with_what_to_do(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        StorageError, match=r"^s3://no-such-bucket/x: cannot read y: there is no bucket no-such-bucket; see"
    ):
        ObjectStore("s3://no-such-bucket/x", StorageSection(endpoint=bucket.server.url)).get("y")
    with pytest.raises(StorageError, match="there is no bucket"):
        ObjectStore("s3://no-such-bucket/x", StorageSection(endpoint=bucket.server.url)).list()
    with Unreliable(bucket.server) as proxy:
        proxy.fault = lambda method, path: 403
        with pytest.raises(StorageError, match="access is denied") as refused:
            _store(bucket, proxy.url).upload("y", b"")
        assert "testing-secret" not in str(refused.value)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="no credentials were found; set AWS_ACCESS_KEY_ID"):
        _store(bucket).list()


def test_credentials_of_a_profile_are_found(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = of-work\naws_secret_access_key = secret\n")
    (tmp_path / "config").write_text("[profile work]\nregion = eu-west-3\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    with Unreliable(bucket.server) as proxy:
        store = _store(bucket, proxy.url)
        store.upload("x", b"y")
        assert store.get("x") is not None
