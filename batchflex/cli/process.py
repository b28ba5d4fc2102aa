"""What is set for the whole process: only the command line may do that, never the library."""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import resource
import sys
from collections.abc import Iterator

from . import interrupts

_MOST_FILES = 1 << 20


def allow_open_files() -> None:
    """Take as many as the system lets this process have: connections, and files of an export."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """For runs: many live tasks make each collection slow, and a run leaves next to no cycles behind."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For many imports: no signal raises within one; and as they leave hardly any garbage, none is looked for, which takes as
    long as some of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        with interrupts.held():
            yield
    finally:
        if enabled:
            gc.enable()


def spare_pandas() -> None:
    """Keep pyarrow from importing pandas, where it is installed, for its first array: half a second for nothing.

    pyarrow tries that once. Later on it imports pandas only where it needs it, as for a score's own function.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    sys.meta_path.insert(0, _NoPandas)  # None in sys.modules is not enough: Cython takes it for the module
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(_NoPandas)


class _NoPandas(importlib.abc.MetaPathFinder):
    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("not now", name=name)
