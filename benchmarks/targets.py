"""Load targets as child processes on the second core: nginx where it is installed, else, or with latency, the own server."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from processes import Refused, on_core, target_core
from target import COMPLETION, MODELS, Stats

_STARTS_WITHIN_S = 10.0


class Certificate(NamedTuple):
    """Files of a self-signed certificate for 127.0.0.1."""

    certificate: Path
    key: Path


class Running(Protocol):
    """A target that is up. ``name`` is what figures say they were measured against."""

    name: str
    base_url: str

    def reset(self) -> None:
        """Count anew."""
        ...

    def stats(self) -> Stats:
        """What came since the last reset, as far as this target can tell."""
        ...


@contextlib.contextmanager
def quick() -> Iterator[Running]:
    """The target that takes the least of the machine: answers at once."""
    if shutil.which("nginx") and shutil.which("setpriv"):
        with _nginx() as running:
            yield running
    else:
        with own() as running:
            yield running


class _Own:
    def __init__(self, port: int, secure: bool) -> None:
        self.name = f"own server{', TLS' if secure else ''}"
        self.base_url = f"http{'s' * secure}://127.0.0.1:{port}/v1"
        self._port, self._secure = port, secure
        self._looks = 0

    def reset(self) -> None:
        self._ask("POST", "/reset")
        self._looks = 0

    def stats(self) -> Stats:
        self._looks += self._secure  # each is a handshake too, and none of the clients'
        seen = Stats(**json.loads(self._ask("GET", "/stats")))
        return dataclasses.replace(seen, handshakes=seen.handshakes - self._looks)

    def _ask(self, method: str, place: str) -> bytes:
        if self._secure:
            unchecked = ssl._create_unverified_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                "127.0.0.1", self._port, timeout=60, context=unchecked
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, place)
            return connection.getresponse().read()


@contextlib.contextmanager
def own(latency_s: float = 0.0, tls: Certificate | None = None) -> Iterator[Running]:
    """``target.py``. It notes moments and handshakes, which nginx does not."""
    command = [sys.executable, str(Path(__file__).with_name("target.py")), "--latency", str(latency_s)]
    command += ["--tls", str(tls.certificate), str(tls.key)] if tls else []
    with on_core(target_core()):
        # A session of its own: a Ctrl-C must reach the clients first.
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield _Own(json.loads(process.stdout.readline())["port"], tls is not None)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


_CONFIGURATION = """\
daemon off;
master_process off;
worker_processes 1;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 16384; multi_accept on; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    keepalive_timeout 3600s;
    client_header_buffer_size 8k;
    client_body_buffer_size 64k;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    log_format place "$uri";
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /v1/chat/completions {{ return 200 '{completion}'; }}
        location = /v1/models {{ access_log {folder}/elsewhere place; return 200 '{models}'; }}
        location = /stats {{ stub_status; }}
        location / {{ access_log {folder}/elsewhere place; return 404 '{{}}'; }}
    }}
}}
"""


class _Nginx:
    def __init__(self, port: int, folder: Path, version: str) -> None:
        self.name = f"nginx {version}"
        self.base_url = f"http://127.0.0.1:{port}/v1"
        self._port = port
        self._elsewhere = folder / "elsewhere"
        self._asked = 0
        self._before = (0, 0, 0)

    def reset(self) -> None:
        self._before = self._counts()

    def stats(self) -> Stats:
        connections, requests, elsewhere = (
            now - before for now, before in zip(self._counts(), self._before, strict=True)
        )
        return Stats(requests=requests - elsewhere, connections=connections, elsewhere=elsewhere)

    def _counts(self) -> tuple[int, int, int]:
        """Connections, requests, requests for other places; those of this method left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", "/stats")
            said = connection.getresponse().read().decode()
        self._asked += 1
        accepted, _, requests = map(int, re.findall(r"\d+", said.splitlines()[2]))
        elsewhere = len(self._elsewhere.read_text().splitlines()) if self._elsewhere.exists() else 0
        return accepted - self._asked, requests - self._asked, elsewhere


@contextlib.contextmanager
def _nginx() -> Iterator[Running]:
    said = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    version = said.strip().rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="batchflex-nginx-") as name:
        folder, port = Path(name), _free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(_CONFIGURATION.format(folder=folder, port=port, completion=COMPLETION, models=MODELS))
        # setpriv has the kernel end nginx when this process does, however that ends.
        command = ["setpriv", "--pdeathsig", "KILL", "nginx", "-p", name, "-e", "stderr", "-c", str(configuration)]
        with on_core(target_core()):
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            _await(port, process)
            running = _Nginx(port, folder, version)
            yield running
        finally:
            process.terminate()
            process.wait(10)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while True:
        # Not a bare connection, which would count as one of the clients'.
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
        try:
            with contextlib.closing(connection):
                connection.request("GET", "/stats")
                connection.getresponse().read()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("nginx did not start") from None
            time.sleep(0.02)


def certificate(folder: Path) -> Certificate:
    """Make one with the openssl command.

    :raises Refused: if that is not installed.
    """
    if shutil.which("openssl") is None:
        raise Refused("a certificate takes the openssl command, which is not installed")
    made = Certificate(folder / "target.crt", folder / "target.key")
    if not made.certificate.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", str(made.key), "-out", str(made.certificate), "-days", "30", "-subj", "/CN=127.0.0.1"]
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return made
