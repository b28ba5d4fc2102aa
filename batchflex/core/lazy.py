"""Names of a package that are imported when they are first used, so that the command line starts quickly (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any


def exports(
    package: str, names: Mapping[str, Sequence[str | tuple[str, str]]], modules: Collection[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a package. ``names`` are those that each of its modules exports (where it
    has another name in the module: both, the exported one first), ``modules`` the modules that are exported whole."""
    origins = {}
    for module, exported in names.items():
        for name in exported:
            exported_as, name_there = name if isinstance(name, tuple) else (name, name)
            origins[exported_as] = module, name_there
    offered = sorted({*origins, *modules})

    def get(name: str) -> Any:
        if name in origins:
            module, name_there = origins[name]
            value = getattr(importlib.import_module(f"{package}.{module}"), name_there)
        elif name in modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return offered, get, lambda: offered
