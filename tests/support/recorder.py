"""A small HTTP server that records what it is sent, for whatever is told something by a webhook or a ping."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Callable
from typing import Any, NamedTuple


class Got(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Recorder:
    """Ends with ``with``. ``script`` are the status codes of the first requests, all others get 200; 0 is no answer at all.
    ``before`` is called with each request before it is answered. ``echo`` is what is answered."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.script: list[int] = []
        self.headers: dict[str, str] = {}
        self.echo = b"ok"
        self.before: Callable[[Got], object] = lambda got: None
        self._end = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Recorder:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    def paths(self) -> list[str]:
        return [got.path for got in self.got]

    def _handler(recorder: Recorder) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                got = Got(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                recorder.before(got)
                code = recorder.script.pop(0) if recorder.script else 200
                recorder.got.append(got)
                if code == 0:
                    recorder._end.wait(60)
                    return
                with contextlib.suppress(OSError):
                    self.send_response(code)
                    for name, value in {"Content-Length": str(len(recorder.echo)), **recorder.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(recorder.echo)

            do_GET = do_POST = answer

            def log_message(self, *given: object) -> None:
                pass

        return Handler
