"""Quicker imports for a command that is over soon. Both change the process for a moment, so only the command line does it."""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Imports leave hardly any garbage, and looking for it takes as long as some of them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
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
