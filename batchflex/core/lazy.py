"""Names of a package that are imported when they are first used, so that the command line starts quickly (PEP 562)."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any


def exports(
    package: str, renamed: Mapping[str, tuple[str, str]] | None = None
) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """``__all__``, ``__getattr__`` and ``__dir__`` of a package, which offers what it imports ``if TYPE_CHECKING``; names that
    begin with an underscore are not offered. ``renamed`` are names that it offers besides: each with its module, and its name
    there."""
    home = {
        name: (module, there) for name, module, there in _imports(package) if name[0] != "_" or name == "__version__"
    }
    home |= renamed or {}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, there = home[name]
        value = importlib.import_module(f"{package}.{module}")
        value = getattr(value, there) if there else value
        setattr(sys.modules[package], name, value)
        return value

    offered = sorted(home)
    return offered, get, lambda: offered


def _imports(package: str) -> Iterator[tuple[str, str, str]]:
    """Each name that the source of a package imports for type checkers, its module, and its name there; none of a module."""
    spec = sys.modules[package].__spec__
    source = spec.loader.get_source(package)  # type: ignore[union-attr]
    for block in ast.parse(source).body:
        for node in block.body if isinstance(block, ast.If) else ():
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield alias.asname or alias.name, node.module or alias.name, alias.name if node.module else ""
