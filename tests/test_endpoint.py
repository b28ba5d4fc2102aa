"""Which endpoint a job names, with which key, through which proxy; and the embedded model's server."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from batchflex import transport
from batchflex.client import Client
from batchflex.endpoint import Endpoint, Secret, resolve, serving
from batchflex.errors import AttemptError, EndpointError
from batchflex.job import EndpointSection
from batchflex.model import Request
from tests.counting_endpoint import CountingEndpoint

# ----------------------------------------------------------------------------------------------------------- keys


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("sk-hidden")
    endpoint = Endpoint("a", "http://a/v1", secret)
    assert "sk-hidden" not in f"{secret} {secret!r} {secret!s} {endpoint} {endpoint!r} {[secret]} {vars(Secret)}"
    assert secret.reveal() == "sk-hidden"


def test_the_hosted_api_needs_its_key() -> None:
    with pytest.raises(EndpointError, match="set the environment variable FLEXAI_API_KEY"):
        resolve(EndpointSection(name="flexai"), {"BATCHFLEX_API_KEY": "another's", "OPENAI_API_KEY": "another's"})
    endpoint = resolve(EndpointSection(name="flexai"), {"FLEXAI_API_KEY": " sk-a\n"})
    assert endpoint.base_url == "https://tokens.flex.ai/v1"
    assert endpoint.key is not None
    assert endpoint.key.reveal() == "sk-a"
    planned = resolve(EndpointSection(name="flexai"), {}, with_key=False)
    assert (planned.base_url, planned.key) == (endpoint.base_url, None)


def test_another_variable_can_hold_the_key() -> None:
    section = EndpointSection(name="flexai", api_key_env="MY_KEY")
    endpoint = resolve(section, {"MY_KEY": "sk-mine", "FLEXAI_API_KEY": "sk-theirs"})
    assert endpoint.key is not None
    assert (endpoint.key.reveal(), endpoint.key_env) == ("sk-mine", "MY_KEY")
    with pytest.raises(EndpointError, match="MY_KEY"):
        resolve(section, {"FLEXAI_API_KEY": "sk-theirs"})


@pytest.mark.parametrize(
    ("environ", "variable", "key"),
    [
        ({}, None, None),
        ({"FLEXAI_API_KEY": "sk-flex", "OPENAI_API_KEY": "sk-open"}, None, None),  # never sent to another host
        ({"BATCHFLEX_API_KEY": "sk-b"}, None, "sk-b"),
        ({"BATCHFLEX_API_KEY": "  "}, None, None),
        ({"BATCHFLEX_API_KEY": "sk-b", "MY_KEY": "sk-mine"}, "MY_KEY", "sk-mine"),
    ],
)
def test_the_key_of_any_other_server(environ: dict[str, str], variable: str | None, key: str | None) -> None:
    section = EndpointSection(base_url="http://127.0.0.1:8000/v1", api_key_env=variable)
    endpoint = resolve(section, environ)
    assert (endpoint.key.reveal() if endpoint.key else None) == key
    assert endpoint.name == "127.0.0.1:8000"
    assert endpoint.key_env == ((variable or "BATCHFLEX_API_KEY") if key else None)


def test_a_named_variable_must_be_set() -> None:
    with pytest.raises(EndpointError, match="MY_KEY, which is not set"):
        resolve(EndpointSection(base_url="http://a/v1", api_key_env="MY_KEY"), {"BATCHFLEX_API_KEY": "sk-b"})


@pytest.mark.parametrize("key", ["sk-a b", "sk-ä", "sk-\x07", "sk-a\nsk-b"])
def test_what_can_be_no_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(EndpointError) as caught:
        resolve(EndpointSection(base_url="http://a/v1"), {"BATCHFLEX_API_KEY": key})
    assert "BATCHFLEX_API_KEY" in str(caught.value)
    assert "sk-" not in str(caught.value)


@pytest.mark.anyio
async def test_the_key_is_sent_or_no_header_at_all(endpoint: CountingEndpoint) -> None:
    for environ in ({"BATCHFLEX_API_KEY": "sk-b"}, {}):
        endpoint.knobs(key=environ.get("BATCHFLEX_API_KEY"))
        async with Client(resolve(EndpointSection(base_url=endpoint.base_url), environ)) as client:
            await client.attempt(_request())
    assert [record["key"] is not None for record in endpoint.log()] == [True, False]
    assert endpoint.stats()["good"] == 2


def _request(**fields: Any) -> Request:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Is 'lovely' good or bad?"}], **fields})
    return Request(b"k", b"s", "id", 0, 0, 0, body.encode(), fields.get("max_tokens"), None)


# ------------------------------------------------------------------------------------------------------ streaming


@pytest.mark.parametrize(
    ("name", "stream", "max_tokens", "streams"),
    [
        ("flexai", "auto", 2048, False),
        ("flexai", "auto", 2049, True),
        ("flexai", "auto", None, True),  # without a limit the answer may be longer than what comes unstreamed
        ("flexai", False, 4096, False),
        ("flexai", True, 16, True),
        (None, "auto", 100_000, False),
        (None, "auto", None, False),
        (None, True, None, True),
    ],
)
def test_what_is_streamed(name: str | None, stream: Any, max_tokens: int | None, streams: bool) -> None:
    section = EndpointSection(name=name, base_url=None if name else "http://a/v1", stream=stream)
    assert resolve(section, {"FLEXAI_API_KEY": "sk-a"}).streams(max_tokens) is streams


def test_times_are_taken_from_the_job() -> None:
    section = EndpointSection(base_url="http://a/v1", timeout_s=7, idle_timeout_s=8, connect_timeout_s=9)
    endpoint = resolve(section, {})
    assert (endpoint.timeout_s, endpoint.idle_timeout_s, endpoint.connect_timeout_s) == (7, 8, 9)


def test_a_name_nobody_knows() -> None:
    with pytest.raises(EndpointError, match="no endpoint is named 'flexia'"):
        resolve(EndpointSection(name="flexia"), {})


# -------------------------------------------------------------------------------------------------------- proxies


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.anyio
async def test_the_environments_proxy_is_used(no_proxies: pytest.MonkeyPatch, endpoint: CountingEndpoint) -> None:
    no_proxies.setenv("HTTP_PROXY", f"127.0.0.1:{endpoint.port}")
    async with Client(Endpoint("test", "http://nowhere.invalid/v1")) as client:
        with pytest.raises(AttemptError) as caught:
            await client.attempt(_request())
    assert caught.value.http_status == 404
    assert endpoint.stats()["elsewhere"] == ["POST http://nowhere.invalid/v1/chat/completions"]


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "http://a/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a/v1", "http://p:1"),
        ({"HTTP_PROXY": "p:1"}, "http://a/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://a/v1", None),
        ({"ALL_PROXY": "http://p:1"}, "https://a/v1", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b,a"}, "https://a/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a:8000"}, "http://a:8000/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "a:8000"}, "http://a:9000/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://a/v1", None),
    ],
)
def test_which_proxy(no_proxies: pytest.MonkeyPatch, environ: dict[str, str], url: str, proxy: str | None) -> None:
    for name, value in environ.items():
        no_proxies.setenv(name, value)
    assert transport.proxy_for(url) == proxy


@pytest.mark.parametrize("proxy", ["gopher://p:1", "http://p:none", "socks5://p:1"])
def test_a_proxy_that_cannot_be_used_is_said_so(no_proxies: pytest.MonkeyPatch, proxy: str) -> None:
    no_proxies.setenv("ALL_PROXY", proxy)
    with pytest.raises(EndpointError, match="proxy"):
        transport.choose("http://a/v1", 4)


# ------------------------------------------------------------------------------------------------- the local model


@pytest.fixture
def local() -> EndpointSection:
    pytest.importorskip("xllamacpp")
    return EndpointSection(name="local", n_parallel=2, context=512)


def test_a_model_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EndpointError, match="there is no model file"):
        resolve(EndpointSection(model_path=str(tmp_path / "a.gguf")), {})


@pytest.mark.parametrize(
    ("file", "model"),
    [("Tiny-1B.Q4_1.gguf", "Tiny-1B.Q4_1"), ("tiny.gguf", "tiny"), ("a.b.gguf", "a.b")],
)
def test_the_name_of_a_model_is_that_of_its_file(tmp_path: Path, file: str, model: str) -> None:
    (tmp_path / file).touch()
    endpoint = resolve(EndpointSection(model_path=str(tmp_path / file), n_parallel=3), {})
    assert (endpoint.default_model, endpoint.base_url, endpoint.auto_concurrency) == (model, "", 3)


@pytest.mark.anyio
async def test_other_endpoints_are_served_as_they_are() -> None:
    section = EndpointSection(base_url="http://a/v1")
    endpoint = resolve(section, {})
    async with serving(section, endpoint) as served:
        assert served is endpoint


@pytest.mark.anyio
@pytest.mark.model
async def test_a_file_that_is_no_model_is_said_so(local: EndpointSection, tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"GGUF, but not really")
    section = local.model_copy(update={"model_path": str(tmp_path / "no.gguf")})
    with pytest.raises(EndpointError, match=r"no\.gguf cannot be served") as caught:
        async with serving(section, resolve(section, {})):
            pass
    assert "Traceback" not in str(caught.value)


SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}},
    "required": ["label"],
    "additionalProperties": False,
}


@pytest.mark.anyio
@pytest.mark.model
async def test_the_local_model_answers_by_the_schema(local: EndpointSection) -> None:
    endpoint = resolve(local, {})
    wanted = {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA}}
    async with serving(local, endpoint) as served:
        async with Client(served) as client:
            assert await client.models() == [endpoint.default_model]
            answer = await client.attempt(_request(max_tokens=40, temperature=0, response_format=wanted))
            streamed = await client.attempt(_request(max_tokens=3, temperature=0))
        address = served.base_url
    assert answer.content is not None
    assert json.loads(answer.content)["label"] in ("good", "bad")
    assert answer.finish_reason == "stop"
    assert answer.usage.prompt_tokens
    assert (streamed.finish_reason, streamed.usage.completion_tokens) == ("length", 3)
    assert not _listens(address)


_PARENT = """
import anyio, sys
from batchflex.endpoint import resolve, serving
from batchflex.job import EndpointSection

async def main():
    section = EndpointSection(name="local", n_parallel=1, context=256)
    async with serving(section, resolve(section, {})) as served:
        print(served.base_url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.model
def test_the_server_goes_when_its_parent_is_killed(local: EndpointSection) -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        address = parent.stdout.readline().strip()
        try:
            assert _listens(address)
        finally:
            os.kill(parent.pid, signal.SIGKILL)
    _wait_until_gone(address)


# -------------------------------------------------------------------------------- the counting endpoint of the tests


def _ask(endpoint: CountingEndpoint, text: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": text}]})
    try:
        connection.request("POST", "/v1/chat/completions", body)
        return connection.getresponse().status
    except (http.client.HTTPException, OSError):
        return None
    finally:
        connection.close()


def test_faults_repeat_and_end(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(faults={"500": 0.3, "reset_before": 0.3}, fault_attempts=2)
    runs = []
    for _ in range(2):
        endpoint.reset()
        answered = [[_ask(endpoint, f"{number}") for _ in range(4)] for number in range(20)]
        runs.append([(record["hash"], record["attempt"], record["outcome"]) for record in endpoint.log()])
        assert all(200 in statuses and statuses.count(200) >= 2 for statuses in answered)
    assert runs[0] == runs[1]
    stats = endpoint.stats()
    assert set(stats["outcomes"]) == {"ok", "500", "reset_before"}
    assert stats["requests"] == sum(stats["outcomes"].values()) == 80
    assert (stats["bodies"], stats["answered"], stats["repeats"]) == (20, 20, stats["good"] - 20)


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket"])
def test_a_rate_limit_is_kept(kind: str, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(rpm=3, window_s=100_000.0, limit_kind=kind)
    assert [_ask(endpoint, "a") for _ in range(5)] == [200, 200, 200, 429, 429]
    endpoint.knobs(window_s=0.01)
    time.sleep(0.05)
    assert _ask(endpoint, "a") == 200


def test_poison_a_script_and_a_breakdown(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=["429", "ok"], poison={"arsenic": "400"}, fail_after=2, fail_with="503")
    assert [_ask(endpoint, text) for text in ("arsenic", "arsenic", "arsenic", "a", "a")] == [429, 200, 400, 200, 503]
    with pytest.raises(ValueError, match="no such knob"):
        endpoint.knobs(faults={"509": 1.0})


def test_the_counting_endpoint_goes_when_its_parent_is_killed() -> None:
    code = "import time; from tests.counting_endpoint import CountingEndpoint as E; "
    code += "e = E(); print(e.base_url, flush=True); time.sleep(60)"
    root = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        address = parent.stdout.readline().strip()
        assert _listens(address)
        os.kill(parent.pid, signal.SIGKILL)
    _wait_until_gone(address)


def _wait_until_gone(address: str) -> None:
    deadline = time.monotonic() + 20
    while _listens(address):
        assert time.monotonic() < deadline, "the server is still there"
        time.sleep(0.05)


def _listens(base_url: str) -> bool:
    host, _, port = base_url.removeprefix("http://").partition("/")[0].rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
