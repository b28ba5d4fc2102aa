"""The JavaScript that draws charts. Bundling it takes some seconds, so it is cached on each machine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from ..core import StorageError
from ..storage import replaced, storing

_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@functools.cache
def libraries() -> str:
    """Vega, Vega-Lite and vega-embed as one script, in the version that the charts are written for."""
    import vl_convert

    version = _version()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "batchflex"
    kept = home / f"vega-lite-{version}-{importlib.metadata.version('vl-convert-python')}.js"
    if (script := _read(kept)) is not None:
        return script
    made: str = vl_convert.javascript_bundle(_SNIPPET, version)
    with contextlib.suppress(StorageError, OSError):  # then it is bundled each time
        kept.parent.mkdir(parents=True, exist_ok=True)
        with storing(kept), replaced(kept) as stream:
            stream.write(f"{_digest(made)}\n{made}".encode())
    return made


def _version() -> str:
    import altair
    import vl_convert

    there: list[str] = vl_convert.get_vegalite_versions()
    wanted = ".".join(altair.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    return wanted if wanted in there else there[-1]


def svg(spec: dict[str, Any]) -> str:
    """A chart as SVG, with its text as text."""
    import vl_convert

    made: str = vl_convert.vegalite_to_svg(spec, vl_version=_version())
    return made


def png(drawn: str, scale: float = 2.0) -> bytes:
    """A chart that is SVG as PNG, with so many pixels for each of its own."""
    import vl_convert

    made: bytes = vl_convert.svg_to_png(drawn, scale=scale)
    return made


def _read(path: Path) -> str | None:
    """``None`` if the file does not exist, or is not as it was written."""
    try:
        digest, _, script = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    return script if digest == _digest(script) else None


def _digest(script: str) -> str:
    return hashlib.sha256(f"{_SNIPPET}{script}".encode()).hexdigest()
