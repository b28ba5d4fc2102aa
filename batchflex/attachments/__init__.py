"""Files that rows name: found, hashed, and made into what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .contents import content_of as content_of
    from .errors import FileFault as FileFault
    from .finder import FileFacts as FileFacts, Finder as Finder, require as require
    from .options import KINDS as KINDS, Use as Use, checked as checked
    from .tokens import described as described, filled as filled, without_data as without_data

__all__, __getattr__, __dir__ = exports(__name__)
