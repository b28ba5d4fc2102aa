"""Fixtures that several test files share."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from batchflex.cli import options, verbs_results, verbs_run
from batchflex.core import TIMINGS, malloc
from batchflex.storage import FolderStore, Store, writer
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.memory_store import MemoryStore
from tests.support.object_server import Bucket, ObjectServer
from tests.support.runs import Meanwhile

pytest.register_assert_rewrite("tests.support.agreement_walk")

# How long an example takes is no assertion: the machine may be busy.
hypothesis.settings.register_profile("batchflex", deadline=None)
hypothesis.settings.load_profile("batchflex")
_IN_MEMORY, _ENOUGH_BYTES = "/dev/shm", 4e9


def pytest_configure(config: pytest.Config) -> None:
    """Folders of tests lie in memory where there is room for them: thousands of short runs sync files, some eight each."""
    if os.access(_IN_MEMORY, os.W_OK):
        disk = os.statvfs(_IN_MEMORY)
        if disk.f_bavail * disk.f_frsize > _ENOUGH_BYTES and not disk.f_flag & os.ST_NOEXEC:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", _IN_MEMORY)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests are collected, and none of them is garbage: to look for it takes a third of the time, and later on some
    0.1 s each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lists of models that runs fetch are kept in no home of anybody's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _quick() -> Iterator[None]:
    """What each of some thousand small runs in this process need not do: wait for more than a few ticks of the kernel's clock
    when its input was written just now, reserve 17 MB for what is in flight, give memory back that the next one wants, make the
    parser of the command line anew, say what is garbage of this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TIMINGS, "young_file_s", 0.015)
        patch.setattr(writer, "_LARGEST_RESERVE", 1 << 18)
        patch.setattr(malloc, "give_back", lambda **_: None)
        patch.setattr(malloc, "trim", lambda: None)
        patch.setattr(options, "parser", functools.cache(options.parser))
        for verbs in (verbs_run, verbs_results):
            patch.setattr(verbs, "rare_garbage_collection", contextlib.nullcontext)
        yield


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    return MemoryStore() if request.param == "memory" else FolderStore(tmp_path)


@pytest.fixture(scope="session")
def object_server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


@pytest.fixture
def bucket(object_server: ObjectServer) -> Bucket:
    """An empty bucket of a real S3 server."""
    return object_server.bucket(f"b-{secrets.token_hex(6)}")


@pytest.fixture(scope="session")
def _endpoint_process() -> Iterator[CountingEndpoint]:
    with CountingEndpoint() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def _other_process() -> Iterator[CountingEndpoint]:
    with CountingEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(_endpoint_process: CountingEndpoint) -> CountingEndpoint:
    """A counting endpoint without faults and with nothing counted; set its knobs in the test."""
    _endpoint_process.anew()
    return _endpoint_process


@pytest.fixture
def other(_other_process: CountingEndpoint) -> CountingEndpoint:
    """Another one."""
    _other_process.anew()
    return _other_process


@pytest.fixture
def mortal() -> Iterator[CountingEndpoint]:
    """One that the test may kill."""
    with CountingEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def meanwhile() -> Iterator[Meanwhile]:
    """Does something to an endpoint while the test's run goes on."""
    doing = Meanwhile()
    yield doing
    doing.end()


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process look again after moments at an endpoint that is down, has no credit, or names no time."""
    for name in ("first_probe_s", "next_probe_s", "credit_probe_s", "first_backoff_s"):
        monkeypatch.setattr(TIMINGS, name, 0.02)
