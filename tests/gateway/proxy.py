"""A LiteLLM proxy in a process of its own, from an environment of its own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
LITELLM = Path(os.environ.get("BATCHFLEX_TEST_LITELLM", ""))
_START_S = 120.0


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[str]:
    """The base URL of a proxy that asks ``upstream``."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [str(LITELLM), "--config", str(HERE / "config.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    known = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    environment = known | {"UPSTREAM": upstream, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd=HERE, start_new_session=True
        )
        try:
            if not _answers(f"http://127.0.0.1:{port}/health/liveliness", process):
                log.seek(0)
                raise RuntimeError(f"the proxy did not start:\n{log.read()[-4000:].decode(errors='replace')}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
        time.sleep(0.2)
    return False
