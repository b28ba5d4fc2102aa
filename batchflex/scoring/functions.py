"""Loads scoring functions by name, ``module:function``: from beside the job file, or from wherever Python finds modules."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from ..config import ScoreSection
from ..core import JobError
from .scorers import Function


def load(specs: Sequence[ScoreSection]) -> dict[str, Function]:
    """The function of each score that has one, by the score's name.

    :raises JobError: if a module or function is not there, or the module fails as it is imported.
    """
    return {spec.name: _function(spec) for spec in specs if spec.is_function}


def _function(spec: ScoreSection) -> Function:
    name, _, attribute = spec.kind.partition(":")
    folder = Path(spec.folder) if spec.folder is not None else Path.cwd()
    try:
        module = _module(name, folder)
    except ModuleNotFoundError as error:
        if error.name == name.partition(".")[0]:
            places = f"in {folder}, nor where Python finds modules"
            raise JobError(f"score '{spec.name}': there is no module {name!r} {places}") from None
        raise JobError(f"score '{spec.name}': {name} cannot be imported: {error}") from error
    except Exception as error:
        raise JobError(f"score '{spec.name}': {name} cannot be imported: {type(error).__name__}: {error}") from error
    function: Function | None = getattr(module, attribute, None)
    if not callable(function):
        raise JobError(f"score '{spec.name}': {name} ({module.__file__}) has no function {attribute!r}")
    return function


def _module(name: str, folder: Path) -> ModuleType:
    """A file beside the job takes precedence over an installed module of the same name; it is read again each time."""
    path = folder.joinpath(*name.split(".")).with_suffix(".py")
    with _findable(folder):
        if not path.is_file():
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(f"batchflex_score_{name.replace('.', '_')}", path)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(name=name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(spec.name, None)
            raise
        return module


@contextlib.contextmanager
def _findable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
