"""Gives memory that the process has freed back to the system.

By default the three allocators at work (glibc's for Python and C, Arrow's, polars') each keep what was freed for later, and more
of it the longer a run goes on: a few hundred MB that no other process can use.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_MAPPED_BYTES, _TRIMMED_BYTES = 256 << 10, 128 << 10
_MAPPED_SHORT_BYTES, _TRIMMED_SHORT_BYTES = 4 << 20, 32 << 20
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0",
    "OPENBLAS_NUM_THREADS": "1",  # a thread a core, each with memory, which are busy for 0.08 s of CPU as numpy is imported
}

_gives_back = False  # whether this process is one that was set up so


def trim() -> None:
    """Give back what is free now between blocks that are in use (malloc_trim(3)). Takes some milliseconds."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def give_back(*, short: bool = False) -> None:
    """Set the allocators up. Only for a process of our own, before pyarrow and polars are imported; what the environment sets
    already stays. A process that is over in a moment (``short``) keeps more: pages that are given back and taken again cost a
    third of the time in which a table is written.

    glibc raises the size from which on a block is mapped separately, and so unmapped when it is freed, up to 32 MB as soon
    as such a block is freed; set explicitly, it stays (mallopt(3)). One arena is enough where the interpreter lock lets one
    thread run at a time.
    """
    global _gives_back
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _gives_back = not short and "MALLOC_MMAP_THRESHOLD_" not in os.environ
    with contextlib.suppress(OSError, AttributeError):  # another libc
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            _bound(short=short)
        if "MALLOC_ARENA_MAX" not in os.environ:
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Much is made and freed in a moment: in a process that gives back what is freed, that is kept until it is over."""
    if not _gives_back:
        yield
        return
    with contextlib.suppress(OSError, AttributeError):
        _bound(short=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, AttributeError):
            _bound(short=False)
        trim()


def _bound(*, short: bool) -> None:
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, _MAPPED_SHORT_BYTES if short else _MAPPED_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIMMED_SHORT_BYTES if short else _TRIMMED_BYTES)
