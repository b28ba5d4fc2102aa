"""Which endpoint a job names, with which key, through which proxy; and the embedded model's server."""

from __future__ import annotations

import datetime
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from batchflex.config.endpoint_section import EndpointSection
from batchflex.core.errors import AttemptError, EndpointError
from batchflex.core.types import Request
from batchflex.endpoint import transport
from batchflex.endpoint.client import Client
from batchflex.endpoint.local_model import serving
from batchflex.endpoint.provider import Endpoint, default_model, key_variable, resolve
from tests.support.counting_endpoint import CountingEndpoint, Totals
from tests.support.paths import ROOT
from tests.support.rate_limits import Rate, Slots

# ----------------------------------------------------------------------------------------------------------- keys


def test_a_secret_does_not_show_itself() -> None:
    secret = SecretStr("sk-hidden")
    endpoint = Endpoint("a", "http://a/v1", secret)
    assert "sk-hidden" not in f"{secret} {secret!r} {secret!s} {endpoint} {endpoint!r} {[secret]} {vars(SecretStr)}"
    assert secret.get_secret_value() == "sk-hidden"


def test_a_model_that_is_not_named_is_one_that_every_endpoint_has() -> None:
    local = Endpoint("local", "", default_model="small")
    assert default_model([local]) == "small"
    assert default_model([local, Endpoint("b", "http://b/v1", model="large")]) == "small"
    assert default_model([local, Endpoint("b", "http://b/v1")]) is None
    assert default_model([Endpoint("b", "http://b/v1")]) is None


def test_the_hosted_api_needs_its_key() -> None:
    with pytest.raises(EndpointError, match="set the environment variable FLEXAI_API_KEY"):
        resolve(EndpointSection(name="flexai"), {"BATCHFLEX_API_KEY": "another's", "OPENAI_API_KEY": "another's"})
    endpoint = resolve(EndpointSection(name="flexai"), {"FLEXAI_API_KEY": " sk-a\n"})
    assert endpoint.base_url == "https://api.flex.ai/v1"
    assert endpoint.key is not None
    assert endpoint.key.get_secret_value() == "sk-a"
    planned = resolve(EndpointSection(name="flexai"), {}, with_key=False)
    assert (planned.base_url, planned.key) == (endpoint.base_url, None)


def test_another_variable_can_hold_the_key() -> None:
    section = EndpointSection(name="flexai", api_key_env="MY_KEY")
    endpoint = resolve(section, {"MY_KEY": "sk-mine", "FLEXAI_API_KEY": "sk-theirs"})
    assert endpoint.key is not None
    assert (endpoint.key.get_secret_value(), endpoint.key_from) == ("sk-mine", "MY_KEY")
    with pytest.raises(EndpointError, match="MY_KEY"):
        resolve(section, {"FLEXAI_API_KEY": "sk-theirs"})


def test_a_key_that_systemd_hands_to_a_service(tmp_path: Path) -> None:
    section = EndpointSection(name="flexai")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    with pytest.raises(EndpointError, match="set the environment variable FLEXAI_API_KEY"):
        resolve(section, environ)
    (tmp_path / "FLEXAI_API_KEY").write_text("sk-credential\n")
    for given, key in ((None, "sk-credential"), ("", "sk-credential"), ("sk-variable", "sk-variable")):
        endpoint = resolve(section, environ if given is None else {**environ, "FLEXAI_API_KEY": given})
        assert endpoint.key == SecretStr(key)
    assert resolve(EndpointSection(base_url="http://127.0.0.1:8000/v1"), environ).key is None
    (tmp_path / "FLEXAI_API_KEY").write_bytes(b"sk-\xff")
    with pytest.raises(EndpointError, match="characters that no key can have"):
        resolve(section, environ)
    (tmp_path / "FLEXAI_API_KEY").unlink()
    (tmp_path / "FLEXAI_API_KEY").mkdir()
    with pytest.raises(EndpointError, match=r"credential .* cannot be read: Is a directory"):
        resolve(section, environ)


@pytest.mark.parametrize(
    ("section", "variable"),
    [
        (EndpointSection(), None),
        (EndpointSection(name="local"), None),
        (EndpointSection(name="flexai"), "FLEXAI_API_KEY"),
        (EndpointSection(name="flexai", api_key_env="MY_KEY"), "MY_KEY"),
        (EndpointSection(base_url="http://a/v1"), "BATCHFLEX_API_KEY"),
        (EndpointSection(name="b", base_url="http://b/v1", api_key_env="MY_KEY"), "MY_KEY"),
    ],
)
def test_the_variable_whose_key_an_endpoint_is_given(section: EndpointSection, variable: str | None) -> None:
    assert key_variable(section, {"BATCHFLEX_API_KEY": "sk-b"}) == variable
    assert key_variable(section, {}) == (None if variable == "BATCHFLEX_API_KEY" else variable)


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
    assert (endpoint.key.get_secret_value() if endpoint.key else None) == key
    assert endpoint.name == "127.0.0.1:8000"
    assert endpoint.key_from == ((variable or "BATCHFLEX_API_KEY") if key else None)


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
    assert (endpoint.default_model, endpoint.base_url, endpoint.slots) == (model, "", 3)


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
            assert (await client.models()).catalog.ids == [endpoint.default_model]
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
from batchflex.config.endpoint_section import EndpointSection

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


def _asked(endpoint: CountingEndpoint, text: str, **fields: Any) -> http.client.HTTPConnection:
    """A connection of its own on which the answer will come."""
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection


def _answer(connection: http.client.HTTPConnection) -> tuple[int | None, dict[str, str], bytes]:
    """Status (none if there is no whole answer), headers by their lower-case names, content."""
    try:
        response = connection.getresponse()
        return response.status, {n.lower(): value for n, value in response.getheaders()}, response.read()
    except (http.client.HTTPException, OSError):
        return None, {}, b""
    finally:
        connection.close()


def _ask(endpoint: CountingEndpoint, text: str, **fields: Any) -> int | None:
    return _answer(_asked(endpoint, text, **fields))[0]


def _get(endpoint: CountingEndpoint, path: str) -> tuple[int | None, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", endpoint.port, timeout=30)
    connection.request("GET", path)
    return _answer(connection)


def _queued(endpoint: CountingEndpoint, *texts: str, **fields: Any) -> list[http.client.HTTPConnection]:
    """Ask these, each once the one before has arrived."""
    asked = []
    for text in texts:
        before = endpoint.stats()["requests"]
        asked.append(_asked(endpoint, text, **fields))
        _until(lambda before=before: endpoint.stats()["requests"] > before)
    return asked


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def _load(endpoint: CountingEndpoint) -> tuple[int, int]:
    stats = endpoint.stats()
    return stats["running"], stats["waiting"]


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


@pytest.mark.parametrize("kind", ["fixed", "sliding", "bucket"])
def test_tokens_are_charged_on_arrival(kind: str, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(tpm=25, window_s=100_000.0, limit_kind=kind, tokens=9, script=["ok"])  # 10 with the prompt of "a"
    answers = [_answer(_asked(endpoint, text)) for text in ("a", "a", "a", "a", "a" * 12, "a")]
    assert [status for status, *_ in answers] == [200, 200, 200, 429, 429, 429]
    assert [headers["x-ratelimit-remaining-tokens"] for _, headers, _ in answers] == ["25", "15", "5", "5", "5", "5"]
    assert {headers["x-ratelimit-limit-tokens"] for _, headers, _ in answers} == {"25"}
    assert endpoint.stats()["outcomes"] == {"ok": 3, "429_limit": 3}
    endpoint.knobs(tokens=4)
    assert [_ask(endpoint, "a") for _ in range(2)] == [200, 429]
    endpoint.knobs(tpm=30)
    assert (
        _ask(endpoint, "a") == {"fixed": 200, "sliding": 200, "bucket": 429}[kind]
    )  # a bucket gets larger, not fuller
    endpoint.knobs(window_s=0.01)
    time.sleep(0.05)
    assert _ask(endpoint, "a") == 200


def test_what_one_limit_refuses_the_other_is_not_charged_with(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(rpm=3, tpm=25, window_s=100_000.0, limit_kind="sliding", tokens=9)

    def left(text: str) -> tuple[str, str]:
        _, headers, _ = _answer(_asked(endpoint, text))
        return headers["x-ratelimit-remaining-requests"], headers["x-ratelimit-remaining-tokens"]

    assert [left("a"), left("a"), left("a")] == [("2", "15"), ("1", "5"), ("1", "5")]
    endpoint.knobs(tokens=1)
    assert [left("a"), left("a")] == [("0", "3"), ("0", "3")]
    assert endpoint.stats()["refused"] == 2


def test_how_long_a_refusal_lasts(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(tpm=100, window_s=50.0, limit_kind="bucket", tokens=79, reset_format="seconds")
    assert _ask(endpoint, "a") == 200
    _, headers, _ = _answer(_asked(endpoint, "a"))  # 60 more are needed, which is 30 s
    assert 29 < float(headers["retry-after"]) <= 30
    assert float(headers["x-ratelimit-reset-tokens"]) == pytest.approx(float(headers["retry-after"]), abs=0.01)
    endpoint.knobs(retry_after_exact=False, limit_headers=False)
    _, headers, _ = _answer(_asked(endpoint, "a"))
    assert headers["retry-after"] == "30"
    assert not [name for name in headers if name.startswith("x-ratelimit")]


@pytest.mark.parametrize(
    ("notation", "read"),
    [
        ("unix", lambda text, now: int(text) - now),
        ("unix_ms", lambda text, now: int(text) / 1000 - now),
        ("iso", lambda text, now: datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp() - now),
        ("seconds", lambda text, now: float(text)),
        ("duration", lambda text, now: float(text.removesuffix("ms")) / 1000),
    ],
)
def test_notations_of_a_reset(notation: str, read: Callable[[str, float], float], endpoint: CountingEndpoint) -> None:
    endpoint.knobs(rpm=10, tpm=1000, window_s=1000.0, limit_kind="sliding", reset_format=notation)
    _, headers, _ = _answer(_asked(endpoint, "a"))
    for of in ("requests", "tokens"):
        assert 998 < read(headers[f"x-ratelimit-reset-{of}"], time.time()) < 1001.1


@pytest.mark.parametrize(
    ("kind", "asked", "waits"),
    [
        # (at, units): the seconds that it must wait; 0 if it is admitted. 10 units in 100 s.
        ("fixed", [(10, 4), (60, 6), (90, 1), (100, 1), (110, 10), (199, 9)], [0, 0, 10, 0, 90, 0]),
        ("fixed", [(10, 11)], [90]),
        ("sliding", [(10, 4), (60, 6), (90, 1), (90, 5), (110, 4), (110, 1)], [0, 0, 20, 70, 0, 50]),
        ("sliding", [(10, 11)], [100]),
        ("bucket", [(10, 10), (10, 1), (20, 1), (25, 1), (30, 3), (500, 10)], [0, 10, 0, 5, 20, 0]),
        ("bucket", [(10, 11)], [100]),
    ],
)
def test_rates(kind: str, asked: list[tuple[float, int]], waits: list[float]) -> None:
    rate = Rate()
    rate.agree(10, 100.0, kind, None, 0.0)
    for (at, units), wait in zip(asked, waits, strict=True):
        assert rate.fits_in(units, at) == pytest.approx(wait)
        assert rate.fits(units, at) is (wait == 0)
        if wait == 0:
            rate.charge(units, at)


def test_the_terms_of_a_rate_change() -> None:
    rate = Rate()
    assert rate.fits(10**9, 0.0)
    rate.charge(10**9, 0.0)
    rate.agree(10, 100.0, "sliding", None, 1.0)
    rate.charge(8, 1.0)
    rate.agree(4, 100.0, "sliding", None, 2.0)
    assert (rate.left(2.0), rate.fits_in(1, 2.0), rate.more_in(2.0)) == (0, 99.0, 99.0)
    rate.agree(10, 10.0, "sliding", None, 12.0)
    assert rate.left(12.0) == 10
    rate.agree(10, 10.0, "bucket", 20, 100.0)
    assert rate.left(100.0) == 10 and rate.left(110.0) == 20
    rate.agree(None, 10.0, "bucket", 20, 110.0)
    rate.agree(5, 10.0, "bucket", None, 111.0)
    assert rate.left(111.0) == 5


def test_slots_are_taken_in_order() -> None:
    slots: Slots[str] = Slots()
    assert slots.take("a")
    slots.most = 1
    assert [slots.take(who) for who in "bcde"] == [False] * 4
    assert slots.leave("c")
    assert slots.due() == []
    assert not slots.leave("a")
    assert slots.due() == ["b"]
    slots.most = None
    assert (slots.due(), slots.running, len(slots.queue)) == (["d", "e"], 3, 0)


def test_more_requests_than_slots_wait_in_order(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(slots=0, latency_s=0.1)
    asked = _queued(endpoint, *"abcde")
    assert _load(endpoint) == (0, 5)
    endpoint.knobs(slots=2)
    assert {_answer(each)[0] for each in asked} == {200}
    at = [record["answered_at"] for record in endpoint.log()]
    assert at == sorted(at)
    assert min(later - earlier for earlier, later in zip(at, at[2:], strict=False)) > 0.09
    assert [record["in_flight"] for record in endpoint.log()] == [1, 2, 3, 4, 5]
    assert (endpoint.stats()["max_in_flight"], _load(endpoint)) == (5, (0, 0))


def test_slots_can_be_changed_while_requests_wait(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(slots=1, latency_s=60.0)
    asked = _queued(endpoint, *"abcd")
    assert _load(endpoint) == (1, 3)
    endpoint.knobs(slots=3, latency_s=0.05)
    assert [_answer(each)[0] for each in asked[1:]] == [200] * 3  # while the first still runs
    endpoint.knobs(slots=0)
    asked += _queued(endpoint, "e")
    assert _load(endpoint) == (1, 1)
    endpoint.knobs(slots=None)
    assert _answer(asked[-1])[0] == 200
    asked[0].close()
    _until(lambda: _load(endpoint) == (0, 0))


def test_who_hangs_up_leaves_the_queue_or_frees_the_slot(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(slots=1, latency_s=60.0, tokens=9, credit=3)
    running, waiting, last = _queued(endpoint, *"abc")
    waiting.close()
    _until(lambda: _load(endpoint) == (1, 1))
    endpoint.knobs(latency_s=0.01)
    running.close()
    assert _answer(last)[0] == 200
    stats = endpoint.stats()
    assert (stats["good"], stats["abandoned"], stats["tokens"], stats["in_flight"]) == (1, 1, 20, 0)
    assert [record["tokens"] for record in endpoint.log()] == [10, 0, 10]
    assert [_ask(endpoint, "d"), _ask(endpoint, "d")] == [200, 402]  # what only waited has cost nothing


def test_refusals_take_no_slot(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(slots=1, latency_s=60.0, script=["ok", "400", "429", "404_model", "500"])
    asked = _queued(endpoint, "a")
    assert [_ask(endpoint, "b") for _ in range(3)] == [400, 429, 404]
    asked += _queued(endpoint, "b", "c", stream=True)
    assert _load(endpoint) == (1, 2)
    endpoint.knobs(latency_s=0.0)
    asked[0].close()
    assert [_answer(each)[0] for each in asked[1:]] == [500, 200]


def test_a_long_queue_without_latency(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(slots=0, keep_log=False)
    asked = [_asked(endpoint, f"{number}") for number in range(300)]
    _until(lambda: _load(endpoint) == (0, 300))
    endpoint.knobs(slots=1)
    assert {_answer(each)[0] for each in asked} == {200}
    assert endpoint.stats()["max_in_flight"] == 300


def test_so_many_in_flight_and_no_more(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(most_in_flight=2, latency_s=60.0, rpm=2, window_s=100_000.0)
    asked = _queued(endpoint, *"ab")
    status, headers, _ = _answer(_asked(endpoint, "c"))
    assert (status, "retry-after" in headers, headers["x-ratelimit-remaining-requests"]) == (429, False, "0")
    asked.pop().close()
    _until(lambda: endpoint.stats()["in_flight"] == 1)
    endpoint.knobs(latency_s=0.0, rpm=None)
    assert _ask(endpoint, "c") == 200
    asked.pop().close()
    assert endpoint.stats()["outcomes"] == {"ok": 3, "429_bare": 1}


def test_credit_is_never_passed(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(credit=3, latency_s=0.1, script=["400", "close_inside"])
    asked = _queued(endpoint, *"abcdef")
    assert [_answer(each)[0] for each in asked] == [400, None, 200, 200, 402, 402]
    endpoint.knobs(credit=1, latency_s=0.0)
    assert [_ask(endpoint, "g"), _ask(endpoint, "g")] == [200, 402]
    endpoint.knobs(credit=None)
    assert _ask(endpoint, "g") == 200


@pytest.mark.parametrize(("fault", "status"), [("503", 503), ("close_before", None), ("reset_before", None)])
def test_a_server_that_is_down(fault: str, status: int | None, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(latency_s=60.0, slots=1, script=["ok"], credit=5)
    asked = _queued(endpoint, "a")
    endpoint.knobs(down=fault)
    assert [_ask(endpoint, "b") for _ in range(3)] == [status] * 3
    assert (_load(endpoint), endpoint.stats()["outcomes"]) == ((1, 0), {"ok": 1, fault: 3})
    asked[0].close()
    endpoint.knobs(down=None, latency_s=0.0)
    assert _ask(endpoint, "b") == 200
    assert [record["tokens"] > 0 for record in endpoint.log()] == [True, False, False, False, True]
    for wrong in ("509", "ok", "empty_content"):
        with pytest.raises(ValueError, match="no such knob or fault"):
            endpoint.knobs(down=wrong)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        (
            "vllm",
            [
                'vllm:num_requests_running{model_name="m"} 2.0',
                'vllm:num_requests_waiting{model_name="m"} 1.0',
                'vllm:gpu_cache_usage_perc{model_name="m"} 1.0',
            ],
        ),
        ("llamacpp", ["llamacpp:requests_processing 2", "llamacpp:requests_deferred 1"]),
    ],
)
def test_metrics_tell_of_the_slots(kind: str, lines: list[str], endpoint: CountingEndpoint) -> None:
    assert _get(endpoint, "/metrics")[0] == 404
    endpoint.knobs(metrics=kind, slots=2, latency_s=60.0)
    asked = _queued(endpoint, *"abc")
    status, headers, text = _get(endpoint, "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain")
    assert [line for line in text.decode().splitlines() if not line.startswith("#")] == lines
    assert text.decode().count("# HELP ") == text.decode().count("# TYPE ") == len(lines)
    assert _get(endpoint, "/v1/metrics")[0] == 404
    assert endpoint.stats()["elsewhere"] == ["GET /metrics", "GET /metrics", "GET /v1/metrics"]
    for each in asked:
        each.close()


def test_completion_tokens_differ_by_body(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(tokens=100, tokens_spread=0.5)

    def used(text: str, **fields: Any) -> int:
        return int(json.loads(_answer(_asked(endpoint, text, **fields))[2])["usage"]["completion_tokens"])

    first = [used(f"{number}") for number in range(40)]
    assert first == [used(f"{number}") for number in range(40)]
    assert 50 <= min(first) < 70 and 130 < max(first) <= 150
    endpoint.knobs(tokens=1, tokens_spread=1.0)
    assert {used(f"{number}") for number in range(20)} == {1, 2}
    endpoint.knobs(tokens=100, obey_max_tokens=True)
    assert max(used(f"{number}", max_tokens=60) for number in range(20)) == 60


def test_what_is_billed(endpoint: CountingEndpoint) -> None:
    outcomes = ["ok", "close_inside", "empty_content", "500", "429_quota", "html_200", "ok"]
    endpoint.knobs(tokens=9, usage="none", script=outcomes)
    for _ in outcomes[:-1]:
        _ask(endpoint, "a")
    endpoint.knobs(latency_s=60.0)
    _queued(endpoint, "a")[0].close()
    _until(lambda: endpoint.stats()["in_flight"] == 0)
    stats = endpoint.stats()
    assert [record["tokens"] for record in endpoint.log()] == [10, 10, 10, 0, 0, 0, 10]
    assert (stats["tokens"], stats["refused"], stats["good"], stats["abandoned"]) == (40, 1, 2, 1)


def test_statistics_by_second_without_a_log(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(keep_log=False, script=["ok", "429", "ok"])
    assert [_ask(endpoint, "a") for _ in range(2)] == [200, 429]
    endpoint.knobs(latency_s=1.0)
    assert _ask(endpoint, "a") == 200
    stats = endpoint.stats()
    rows = stats["by_second"]
    assert endpoint.log() == []
    assert rows[0] == [0, 3, 1, 1, 1]
    assert [sum(row[column] for row in rows) for column in (1, 2, 3)] == [3, stats["good"], stats["refused"]]
    endpoint.reset()
    assert endpoint.stats()["by_second"] == []


def test_every_second_with_something_in_flight_has_a_row() -> None:
    totals = Totals()
    for outcome, at in (("ok", 1000.5), ("429_bare", 1000.9), ("ok", 1003.6)):
        totals.came(outcome, at)
    assert totals.by_second == [[0, 2, 0, 1, 2], [1, 0, 0, 0, 2], [2, 0, 0, 0, 2], [3, 1, 0, 0, 3]]
    totals.in_flight = 0
    totals.came("ok", 1009.5)
    assert totals.by_second[3:] == [[3, 1, 0, 0, 3], [9, 1, 0, 0, 1]]


def test_a_reset_while_requests_are_in_flight(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(slots=1, latency_s=0.1)
    asked = _queued(endpoint, *"ab")
    endpoint.reset()
    assert (endpoint.stats()["in_flight"], _load(endpoint)) == (0, (1, 1))
    assert [_answer(each)[0] for each in asked] == [200, 200]
    stats = endpoint.stats()
    assert (stats["requests"], stats["good"], stats["in_flight"], stats["tokens"], _load(endpoint)) == (
        0,
        0,
        0,
        0,
        (0, 0),
    )


def test_a_server_dies_and_another_takes_its_port() -> None:
    with CountingEndpoint(latency_s=60.0) as first:
        asked = _queued(first, "a")
        first.kill()
        assert _answer(asked[0])[0] is None
        assert not _listens(first.base_url)
        with CountingEndpoint(port=first.port) as second:
            assert (second.base_url, _ask(second, "a")) == (first.base_url, 200)


def test_poison_a_script_and_a_breakdown(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=["429", "ok"], poison={"arsenic": "400"}, fail_after=2, fail_with="503")
    assert [_ask(endpoint, text) for text in ("arsenic", "arsenic", "arsenic", "a", "a")] == [429, 200, 400, 200, 503]
    with pytest.raises(ValueError, match="no such knob"):
        endpoint.knobs(faults={"509": 1.0})


def test_the_counting_endpoint_goes_when_its_parent_is_killed() -> None:
    code = "import time; from tests.support.counting_endpoint import CountingEndpoint as E; "
    code += "e = E(); print(e.base_url, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
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
