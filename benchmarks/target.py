"""A chat completion endpoint that costs next to nothing, and tells what reached it: the load target of the benchmarks.

    python benchmarks/target.py [--port 0] [--latency SECONDS] [--tls CERT KEY] [--forever]

Prints one line of JSON with its port and ends with its standard input, so that it never outlives its parent. Answers have
1.2 KB, and a thousand different texts, so that they are not compressed to nothing. ``GET /stats`` gives :class:`Stats` as JSON,
``POST /reset`` forgets it, ``GET /v1/models`` lists the model. A request with ``"stream":true`` gets a hundred events.
Requests need a content-length and are answered one at a time on a connection.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import random
import resource
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

loop_runner: Any = asyncio.run
with contextlib.suppress(ImportError):
    from uvloop import run as loop_runner

_WORDS = """
about after answer because before better boils change clean could customer delivered different easily every expected few
filter found given handle however kettle kitchen later light little looks made morning much never noise old only order other
people plain plastic positive price quality quickly quiet rather really replaced same says second seems service should small
something steam still storage surface taste than their thing think though time tone under until useful very warm water week
well when which while without words works would year
"""
_TEXTS = 1_000
_COMPLETION: dict[str, Any] = {
    "id": "chatcmpl-0123456789abcdef0123456789abcdef",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "positive. " + "It says so in plain words. " * 28},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 210, "completion_tokens": 176, "total_tokens": 386},
}
COMPLETION = json.dumps(_COMPLETION, separators=(",", ":"))


def _completions() -> list[str]:
    """As :data:`COMPLETION`, each with a text of its own, always the same ones."""
    chance = random.Random(1)
    made = []
    for number in range(_TEXTS):
        text = f"{'positive' if number % 3 else 'negative'}. " + " ".join(chance.choices(_WORDS.split(), k=128))
        choice = _COMPLETION["choices"][0]
        message = choice["message"] | {"content": text}
        answer = _COMPLETION | {
            "id": f"chatcmpl-{chance.getrandbits(128):032x}",
            "choices": [choice | {"message": message}],
        }
        made.append(json.dumps(answer, separators=(",", ":")))
    return made


MODELS = '{"object":"list","data":[{"id":"m","object":"model"}]}'


def _whole(body: str, status: str = "200 OK") -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nserver: target\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return (head + body).encode()


def _streamed(completion: str, chunks: int = 100) -> list[bytes]:
    """The same answer as events, each in a chunk of its own; in ten pieces, to be sent one after the other."""
    whole = json.loads(completion)
    text = whole["choices"][0]["message"]["content"]
    step = -(-len(text) // chunks)
    deltas = [{"content": text[at : at + step]} for at in range(0, len(text), step)]
    events = [_event(whole, [{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas]
    events.append(_event(whole, [{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    events += [_event(whole, [], usage=whole["usage"]), "data: [DONE]\n\n"]
    framed = [f"{len(event):x}\r\n{event}\r\n".encode() for event in events]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    each = -(-len(framed) // 10)
    pieces = [b"".join(framed[at : at + each]) for at in range(0, len(framed), each)]
    return [head + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n"]


def _event(whole: dict[str, Any], choices: list[Any], **more: Any) -> str:
    made = {name: whole[name] for name in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    return "data: " + json.dumps(made | {"choices": choices} | more, separators=(",", ":")) + "\n\n"


_TEXT = _completions()
_ANSWERS, _STREAMS = tuple(map(_whole, _TEXT)), [_streamed(text) for text in _TEXT[:100]]
_MODELS, _UNKNOWN = _whole(MODELS), _whole("{}", "404 Not Found")


@dataclasses.dataclass
class Stats:
    """What was seen since the start or the last reset. Moments are of the monotonic clock, which processes share.

    ``connections`` counts those that sent a request, ``handshakes`` the TLS handshakes that clients began, ``resumed``
    those of them that took up an earlier session; ``elsewhere`` requests for other places; ``latency_s`` is the mean of
    what answers really took here.
    """

    requests: int = 0
    answers: int = 0
    elsewhere: int = 0
    connections: int = 0
    handshakes: int = 0
    resumed: int = 0
    most_in_flight: int = 0
    first_request_at: float | None = None
    second_request_at: float | None = None
    last_answer_at: float | None = None
    latency_s: float = 0.0


class Target:
    """Counts, and the latency that all connections have in common."""

    def __init__(self, latency_s: float) -> None:
        self.latency_s = latency_s
        self.taken_s = 0.0
        self.stats = Stats()

    def handshake(self, *_: object) -> None:
        self.stats.handshakes += 1

    def report(self) -> bytes:
        told = dataclasses.replace(self.stats, latency_s=self.taken_s / max(1, self.stats.answers))
        return _whole(json.dumps(dataclasses.asdict(told)))

    def reset(self) -> bytes:
        self.taken_s = 0.0
        self.stats = Stats()
        return _whole("{}")


class Connection(asyncio.Protocol):
    """Requests in, answers out."""

    transport: Any

    def __init__(self, target: Target) -> None:
        self.target = target
        self.buffer = b""
        self.counted: Stats | None = None
        self.streams = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer = buffer = self.buffer + data if self.buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(buffer) < end + 4 + length:
            return
        self.buffer = buffer[end + 4 + length :]
        if head.startswith(b"post /v1/chat/completions "):
            self.streams = b'"stream":true' in buffer or b'"stream": true' in buffer
            self.asked()
        else:
            self.asked_elsewhere(head)

    def asked(self) -> None:
        target, now = self.target, time.monotonic()
        stats = target.stats
        if self.counted is not stats:
            self.counted = stats
            stats.connections += 1
            session = self.transport.get_extra_info("ssl_object")
            stats.resumed += bool(session is not None and session.session_reused)
        stats.requests += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.requests - stats.answers)
        if stats.requests == 1:
            stats.first_request_at = now
        elif stats.requests == 2:
            stats.second_request_at = now
        if target.latency_s:
            asyncio.get_running_loop().call_later(target.latency_s, self.answer, stats, now)
        else:
            self.answer(stats, now)

    def answer(self, stats: Stats, arrived: float) -> None:
        stats.answers += 1
        if self.transport.is_closing():
            return
        if self.streams:
            self.send_on(iter(_STREAMS[stats.answers % len(_STREAMS)]))
        else:
            self.transport.write(_ANSWERS[stats.answers % _TEXTS])
        stats.last_answer_at = now = time.monotonic()
        self.target.taken_s += now - arrived

    def send_on(self, pieces: Iterator[bytes]) -> None:
        if (piece := next(pieces, None)) is not None and not self.transport.is_closing():
            self.transport.write(piece)
            asyncio.get_running_loop().call_soon(self.send_on, pieces)

    def asked_elsewhere(self, head: bytes) -> None:
        if head.startswith(b"get /stats "):
            self.transport.write(self.target.report())
        elif head.startswith(b"post /reset "):
            self.transport.write(self.target.reset())
        else:
            self.target.stats.elsewhere += 1
            self.transport.write(_MODELS if head.startswith(b"get /v1/models ") else _UNKNOWN)


def _context(certificate: str, key: str, target: Target) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.sni_callback = target.handshake  # called at each handshake's beginning, whether a name was sent or not
    return context


async def serve(port: int, latency_s: float, tls: list[str] | None) -> None:
    target = Target(latency_s)
    context = _context(tls[0], tls[1], target) if tls else None
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(target), "127.0.0.1", port, backlog=8192, ssl=context
    )
    os.write(1, b'{"port": %d}\n' % server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _end_with_input() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds until an answer")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--forever", action="store_true", help="do not end with standard input")
    options = parser.parse_args()
    if not options.forever:
        threading.Thread(target=_end_with_input, daemon=True).start()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(100_000, 50, 1000)
    loop_runner(serve(options.port, options.latency, options.tls))


if __name__ == "__main__":
    main()
