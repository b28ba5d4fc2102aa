"""Servers that inputs are read from: one of files, with ranges or without, and what counts the bytes that another sends."""

from __future__ import annotations

import contextlib
import hashlib
import re
import select
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_RANGE = re.compile(r"bytes=(\d+)-(\d+)")


class WebServer:
    """``files`` are served by path, by ranges unless ``whole``; ``status`` is answered in place of the next ones. ``asked`` has
    path with query, and range of each request, ``heads`` its headers; ``sent`` counts bytes of bodies."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.whole = False
        self.has_length = self.has_tags = True
        self.status: list[int] = []
        self.redirects: dict[str, str] = {}
        self.cuts: list[int] = []  # answers of which so many bytes come, and no more
        self.asked: list[tuple[str, str]] = []
        self.heads: list[dict[str, str]] = []
        self.sent = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with contextlib.suppress(OSError):
                    outer._answer(self)

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None: ...

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.partition("?")[0]
        self.asked.append((handler.path, handler.headers.get("Range", "")))
        self.heads.append(dict(handler.headers))
        data = self.files.get(path)
        status = self.status.pop(0) if self.status else 200 if data is not None else 404
        if path in self.redirects:
            status, data = 302, b""
        body, heads = data or b"", {}
        if self.has_tags:
            heads["ETag"] = f'"{hashlib.md5(body).hexdigest()}"'
            heads["Last-Modified"] = "Tue, 01 Sep 2026 10:00:00 GMT"
        if path in self.redirects:
            heads["Location"] = self.redirects[path]
        found = _RANGE.fullmatch(handler.headers.get("Range", ""))
        if status == 200 and found and not self.whole:
            begin, end = int(found[1]), min(int(found[2]) + 1, len(body))
            if begin >= len(body):
                status, heads["Content-Range"], body = 416, f"bytes */{len(body)}", b""
            else:
                status, heads["Content-Range"] = 206, f"bytes {begin}-{end - 1}/{len(body)}"
                body = body[begin:end]
        handler.send_response(status)
        for name, value in heads.items():
            handler.send_header(name, value)
        if self.has_length:
            handler.send_header("Content-Length", str(len(body)))
        else:
            handler.send_header("Connection", "close")
            handler.close_connection = True
        handler.end_headers()
        if self.cuts and len(body) > 1:
            body = body[: self.cuts.pop(0)]
            handler.close_connection = True
        self.sent += len(body)
        handler.wfile.write(body)


@contextlib.contextmanager
def web_server() -> Iterator[WebServer]:
    server = WebServer()
    try:
        yield server
    finally:
        server.close()


class Relay:
    """Passes everything on to a port of this machine, and counts the bytes that come back."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.bytes = 0
        self._listens = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listens.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listens.accept()
                threading.Thread(target=self._pass, args=[near], daemon=True).start()

    def _pass(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as far:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    if not (data := source.recv(1 << 16)):
                        return
                    if source is far:
                        self.bytes += len(data)
                    (far if source is near else near).sendall(data)

    def close(self) -> None:
        self._listens.close()


@contextlib.contextmanager
def relay(port: int) -> Iterator[Relay]:
    """What counts, for a block."""
    made = Relay(port)
    try:
        yield made
    finally:
        made.close()
