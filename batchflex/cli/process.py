"""What is set for the whole process: only the command line may do that, never the library."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
from collections.abc import Iterator

from . import interrupts

_MOST_FILES = 1 << 20
_NO_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


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
    """For many imports: no signal raises within one; as they leave hardly any garbage, none is looked for, neither then nor in
    what they made; and nobody searches all that is installed for plugins of pydantic. Each would take as long as some imports."""
    enabled, plugins = gc.isenabled(), os.environ.get(_NO_PLUGINS)
    gc.disable()
    os.environ[_NO_PLUGINS] = "__all__"
    try:
        with interrupts.held():
            yield
    finally:
        os.environ.pop(_NO_PLUGINS)
        if plugins is not None:
            os.environ[_NO_PLUGINS] = plugins
        if enabled:
            gc.freeze()
            gc.enable()


@contextlib.contextmanager
def spared_imports() -> Iterator[None]:
    """Libraries that we use do not import others only because these are installed."""
    from ..core import SparedImports

    sys.meta_path.insert(0, SparedImports)
    try:
        yield
    finally:
        sys.meta_path.remove(SparedImports)
