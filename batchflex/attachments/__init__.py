"""Files that rows name: found, hashed, and made into what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.lazy import exports

if TYPE_CHECKING:
    from .contents import MOST_BYTES as MOST_BYTES, RemoteFile as RemoteFile, content_of as content_of, named as named
    from .errors import FileFault as FileFault
    from .file_hosts import (
        FileHosts as FileHosts,
        fault_in as fault_in,
        fault_of_url as fault_of_url,
        host_of as host_of,
        shown as shown,
    )
    from .finder import FileFacts as FileFacts, Finder as Finder, require as require
    from .options import KINDS as KINDS, Use as Use, checked as checked
    from .tokens import described as described, filled as filled, without_data as without_data

__all__, __getattr__, __dir__ = exports(__name__)
