"""A real S3 server (moto's) on a socket, and a proxy before it that can fail as networks and stores do."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
from botocore.config import Config

from batchflex.storage import journal
from tests.support.command_line import refused_port

_KEY, _SECRET = "testing", "testing-secret-of-s3"


class ObjectServer:
    """``url`` is its address; what is in it is lost when it ends."""

    def __init__(self) -> None:
        self.port = refused_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ObjectServer:
        program = Path(sys.executable).with_name("moto_server")
        self._process = subprocess.Popen(
            [program, "-H", "127.0.0.1", "-p", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError):
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/moto-api/data.json")
                connection.getresponse().read()
                return self
            time.sleep(0.05)
        raise TimeoutError("moto's server does not answer")

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=_KEY, aws_secret_access_key=_SECRET,
            config=Config(retries={"max_attempts": 1}),
        )  # fmt: skip

    def bucket(self, name: str) -> Bucket:
        """A new bucket."""
        self.client().create_bucket(Bucket=name)
        return Bucket(self, name)


class Bucket:
    def __init__(self, server: ObjectServer, name: str) -> None:
        self.server, self.name = server, name
        self._client = server.client()

    def objects(self, prefix: str = "") -> dict[str, int]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        return {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}

    def read(self, key: str) -> bytes:
        return bytes(self._client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def json(self, key: str) -> Any:
        return json.loads(self.read(key))

    def answers(self, prefix: str) -> int:
        """How many requests have an answer in the parts and journals of an output, for whoever goes on from there."""
        keys: set[str] = set()
        with tempfile.TemporaryDirectory() as folder:
            for key in self.objects(f"{prefix}/"):
                if key.endswith(".journal"):
                    path = Path(folder) / "segment"
                    path.write_bytes(self.read(key))
                    keys |= {outcome.key for outcome in journal.read(path)}
                elif "/parts/" in key:
                    keys |= {*pq.read_table(io.BytesIO(self.read(key)), columns=["key"])["key"].to_pylist()}
        return len(keys)


def machine(home: Path, address: str) -> dict[str, str]:
    """The environment of a machine whose copies of outputs are below ``home``, with credentials for the server."""
    return {
        "XDG_STATE_HOME": str(home), "AWS_ACCESS_KEY_ID": _KEY, "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": address, "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


class Unreliable:
    """A proxy before a server. ``fault`` is called with the method and path of each request and says what becomes of it:
    ``None``; a status to answer in its place; ``"lost"``, so that the request arrives and its answer does not; or seconds to wait
    before it is passed on."""

    def __init__(self, server: ObjectServer) -> None:
        self._server = server
        self.fault: Any = lambda method, path: None
        self.seen: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._proxy.server_address[1]}"

    def __enter__(self) -> Unreliable:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass(self) -> None:
                outer.seen.append((self.command, self.path))
                body = self._body()
                fault = outer.fault(self.command, self.path)
                if isinstance(fault, float):
                    time.sleep(fault)
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                connection = http.client.HTTPConnection("127.0.0.1", outer._server.port, timeout=60)
                headers = {
                    n: v for n, v in self.headers.items() if n.lower() not in ("content-length", "transfer-encoding")
                }
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if fault == "lost":
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(content)

            def _body(self) -> bytes:
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

            def log_message(self, *_: object) -> None:
                pass

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError, ValueError, OSError):
                    super().handle()

            def finish(self) -> None:
                with contextlib.suppress(ConnectionError, ValueError, OSError):
                    super().finish()

        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._proxy.daemon_threads = True
        self._thread = threading.Thread(target=self._proxy.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._thread.join()


@contextlib.contextmanager
def as_machine(home: Path, address: str) -> Iterator[None]:
    """This process is such a machine."""
    before = dict(os.environ)
    os.environ.update(machine(home, address))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
