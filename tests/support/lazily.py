"""Modules that are imported when something of them is first used: each worker collects every test and runs a part of them."""

from __future__ import annotations

import importlib
from typing import Any


class Lazily:
    """A module by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
