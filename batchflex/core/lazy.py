"""Names of a package that are imported when they are first used, so that the command line starts quickly (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any


def exports(
    package: str, homes: Mapping[str, Sequence[str | tuple[str, str]]], modules: Collection[str] = ()
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a package. ``homes`` are the names that each of its modules offers to
    others (where it has another name there: both, the offered one first), ``modules`` those of them that are offered whole."""
    home = {}
    for module, names in homes.items():
        for name in names:
            offered_as, there = name if isinstance(name, tuple) else (name, name)
            home[offered_as] = module, there
    offered = sorted({*home, *modules})

    def get(name: str) -> Any:
        if name in home:
            module, there = home[name]
            value = getattr(importlib.import_module(f"{package}.{module}"), there)
        elif name in modules:
            value = importlib.import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    return offered, get, lambda: offered
