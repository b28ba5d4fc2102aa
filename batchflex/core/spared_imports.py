"""Keeps libraries from importing others only because these are installed, which takes longer than all that a run needs.

Only for a process of our own. Whoever else imports them there, as the functions of a score, gets them.
"""

from __future__ import annotations

import sys
from types import FrameType

# Each is tried by the other: pandas at the first array, click (and with it rich) for a command line, tornado for its coroutines.
_TRIED_BY = {"pandas": "pyarrow", "click": "httpx", "tornado": "tenacity"}
_OURS = __name__.partition(".")[0]


class SparedImports:
    """A finder for ``sys.meta_path``, to be the first there: None in ``sys.modules`` is not enough, as Cython takes it for the
    module."""

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> None:
        """:raises ModuleNotFoundError: if a library that we use tries whether another is there."""
        if (library := _TRIED_BY.get(name)) is None:
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and (package := _package(frame)) in ("importlib", library):
            frame = frame.f_back
        if frame is not None and package == _OURS:
            raise ModuleNotFoundError("not now", name=name)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]
