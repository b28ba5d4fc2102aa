"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# `tests` is no installed package: found from here however pytest was started.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.counting_endpoint import CountingEndpoint, Knobs


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def _endpoint_process() -> Iterator[CountingEndpoint]:
    with CountingEndpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(_endpoint_process: CountingEndpoint) -> CountingEndpoint:
    """A counting endpoint without faults and with nothing counted; set its knobs in the test."""
    _endpoint_process.knobs(**vars(Knobs()))
    _endpoint_process.reset()
    return _endpoint_process
