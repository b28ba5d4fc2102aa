"""What an inference server's own ``/metrics`` say of its queue. Pure.

The text is Prometheus' exposition format. Known are vLLM's ``vllm:num_requests_waiting`` and llama.cpp's
``llamacpp:requests_deferred``; with several models or engines their sum counts.
"""

from __future__ import annotations

import re

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)
_WAITING = ("vllm:num_requests_waiting", "llamacpp:requests_deferred")


def waiting(text: str) -> int | None:
    """How many requests wait until others end; ``None`` if the server does not say."""
    found = None
    for name, value in _SAMPLE.findall(text):
        if name in _WAITING:
            try:
                found = (found or 0) + int(float(value))
            except (ValueError, OverflowError):
                continue
    return found
