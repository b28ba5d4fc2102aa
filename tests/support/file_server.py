"""A server of files on a real socket, in this process: what it gives is said beforehand, what it was asked it keeps."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass
class Reply:
    """``hangs_up`` closes the connection after so many bytes of the body; with ``hangs`` none comes before the
    server ends."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: int | None = None
    hangs: bool = False


class FileServer:
    """``files`` is by path what is answered: one reply, or a list of which the last stays. Anything else is 404. ``asked`` counts
    by path, ``heads`` are the headers that came, by path."""

    def __init__(self, port: int = 0) -> None:
        self.files: dict[str, bytes | Reply | list[Reply]] = {}
        self.asked: Counter[str] = Counter()
        self.heads: dict[str, dict[str, str]] = {}
        self.refuses = 0  # so many requests get 503
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None: ...  # who hangs up is not of interest

        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> FileServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path
        with self._lock:
            self.asked[path] += 1
            self.heads[path] = dict(handler.headers)
            found = self.files.get(path, Reply(status=404))
            if isinstance(found, list):
                found = found.pop(0) if len(found) > 1 else found[0]
            if self.refuses > 0:
                self.refuses -= 1
                found = Reply(status=503)
        reply = Reply(found) if isinstance(found, bytes) else found
        if reply.hangs:
            self._ended.wait()
        handler.send_response(reply.status)
        for name, value in reply.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(reply.body)))
        handler.end_headers()
        handler.wfile.write(reply.body if reply.hangs_up is None else reply.body[: reply.hangs_up])
        if reply.hangs_up is not None:
            handler.close_connection = True
