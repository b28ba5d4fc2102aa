"""A run for people: in words, as a progress bar, as HTML. What the command line and a notebook both show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from . import run_html as run_html, run_text as run_text
    from .onlooker import Caller as Caller, Onlooker as Onlooker
    from .progress import Bar as Bar, bar_for as bar_for, in_notebook as in_notebook

__all__, __getattr__, __dir__ = exports(__name__)
