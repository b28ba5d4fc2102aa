"""What readers take for a file: a path of this machine, or a file in a bucket or on the web, which has the same methods.

Only here the two are told apart: where what is read by a library in C++ or Rust wants a path, or an open file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..core import is_url

if TYPE_CHECKING:
    from ..storage import RemoteFile

InputFile: TypeAlias = "Path | RemoteFile"  # the first request of an input that is here does without what reads others


def native(file: InputFile) -> Any:
    """The file as Arrow reads it, from its beginning on.

    :raises OSError: if it cannot be opened.
    """
    import pyarrow as pa

    return pa.OSFile(str(file)) if isinstance(file, Path) else pa.PythonFile(file.open(buffering=0), "r")


def columnar(file: InputFile) -> Any:
    """The file for a reader that knows where what it needs is. Of one that is not here nothing else is fetched.

    :raises OSError: if it cannot be opened.
    """
    import pyarrow as pa

    return file if isinstance(file, Path) else pa.PythonFile(file.open(buffering=0, ahead=False), "r")


def on_disk(file: InputFile) -> Path:
    """A file of this machine with the same content, for what can only be read whole.

    :raises OSError: if it cannot be read.
    """
    return file if isinstance(file, Path) else file.copied()


def full_path(path: str) -> str:
    """An absolute path, which of a URL is the URL."""
    return path if is_url(path) else str(Path(path).absolute())


def beside(file: InputFile) -> Path | None:
    """The folder that a file lies in; ``None`` of one that is not on this machine."""
    return file.parent if isinstance(file, Path) else None
