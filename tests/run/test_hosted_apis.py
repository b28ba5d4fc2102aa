"""Hosted APIs and gateways: whose key goes where, what more a request has, keys that a command gives, what gateways tell."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import anyio
import httpx
import polars as pl
import pytest
from pydantic import SecretStr

import batchflex
from batchflex.config.endpoint_section import EndpointSection
from batchflex.config.loader import build
from batchflex.core.errors import AttemptError, EndpointError, JobError
from batchflex.endpoint import http1, key_command
from batchflex.endpoint.client import Client
from batchflex.endpoint.key_command import KeyCommand, NoKeyError, expires_at
from batchflex.endpoint.provider import Endpoint, key_variable, resolve, variables
from batchflex.plan.plan import Plan
from batchflex.protocol import chat
from batchflex.protocol.response_headers import NO_GATEWAY, Gateway, read
from batchflex.protocol.route import Receipt
from batchflex.storage import FolderStore, part_files
from batchflex.storage.model_substitutes import Substitutes, is_same_model
from tests.run.test_secrets import everything_in
from tests.support.command_line import called, sha1_of_key, state, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import GOLDEN
from tests.unit.endpoint.test_transport import _request

SECRET = "gate-Secret0123456789"
API, TOKENS = "https://api.flex.ai/v1", "https://tokens.flex.ai/v1"


# ----------------------------------------------------------------------------------------------- the hosted API


@pytest.mark.parametrize(
    ("section", "environ", "base_url", "key"),
    [
        ({"name": "flexai"}, {}, API, "sk-flex"),
        ({"base_url": API}, {}, API, "sk-flex"),
        ({"base_url": TOKENS}, {}, TOKENS, "sk-flex"),
        ({"base_url": "https://API.flex.ai/v1/"}, {}, "https://API.flex.ai/v1", "sk-flex"),
        ({"name": "flexai", "base_url": TOKENS}, {}, TOKENS, "sk-flex"),
        ({"base_url": TOKENS}, {"BATCHFLEX_API_KEY": "sk-any"}, TOKENS, "sk-flex"),
        ({"base_url": TOKENS}, {"BATCHFLEX_API_KEY": "sk-any", "FLEXAI_API_KEY": ""}, TOKENS, "sk-any"),
        ({"base_url": TOKENS, "api_key_env": "MY_KEY"}, {"MY_KEY": "sk-mine"}, TOKENS, "sk-mine"),
        ({"name": "flexai"}, {"FLEXAI_API_BASE": "http://10.0.0.1:4000/v1/"}, "http://10.0.0.1:4000/v1", "sk-flex"),
        ({"name": "flexai"}, {"FLEXAI_API_BASE": TOKENS}, TOKENS, "sk-flex"),
        (
            {"base_url": "http://10.0.0.1:4000/v1"}, {"FLEXAI_API_BASE": "http://10.0.0.1:4000"},
            "http://10.0.0.1:4000/v1", "sk-flex",
        ),
        (
            {"base_url": "https://mine.ai:443/v1"}, {"FLEXAI_API_BASE": "https://mine.ai/v1"},
            "https://mine.ai:443/v1", "sk-flex",
        ),
        ({"base_url": API, "auth": "none"}, {}, API, None),
    ],
    ids=str,
)  # fmt: skip
def test_the_hosted_api_is_one_endpoint_however_it_is_named(
    section: dict[str, Any], environ: dict[str, str], base_url: str, key: str | None
) -> None:
    endpoint = resolve(EndpointSection(**section), {"FLEXAI_API_KEY": "sk-flex", **environ})
    own = "FLEXAI_API_BASE" in environ and "base_url" in section
    assert endpoint.name == (section["base_url"].split("/")[2] if own else "flexai")
    assert (endpoint.base_url, endpoint.provider, endpoint.unstreamed_max_tokens) == (base_url, "flexai", 2048)
    assert (endpoint.key and endpoint.key.get_secret_value()) == key


def test_its_addresses_share_the_quota_of_a_key() -> None:
    environ = {"FLEXAI_API_KEY": "sk-flex", "MY_KEY": "sk-mine"}
    sections = [{"name": "flexai"}, {"base_url": API}, {"base_url": TOKENS}, {"base_url": API, "api_key_env": "MY_KEY"}]
    one, two, three, other = (resolve(EndpointSection(**section), environ).account for section in sections)
    assert one == two == three != other


@pytest.mark.parametrize(
    ("section", "environ"),
    [
        ({"base_url": "https://elsewhere.ai/v1", "api_key_env": "FLEXAI_API_KEY"}, {}),
        ({"base_url": "https://flex.ai/v1", "api_key_env": "FLEXAI_API_KEY"}, {}),
        ({"base_url": "https://api.flex.ai.elsewhere.ai/v1", "api_key_env": "FLEXAI_API_KEY"}, {}),
        ({"base_url": "https://elsewhere.ai/v1", "headers": {"Authorization": "Bearer ${FLEXAI_API_KEY}"}}, {}),
        ({"base_url": "https://elsewhere.ai/v1", "query": {"key": "${FLEXAI_API_KEY}"}}, {}),
        ({"base_url": "http://10.0.0.1:4000/v1", "api_key_env": "FLEXAI_API_KEY"}, {"FLEXAI_API_BASE": "http://10.0.0.1:4001/v1"}),
    ],
    ids=str,
)  # fmt: skip
def test_its_key_is_sent_nowhere_else(section: dict[str, Any], environ: dict[str, str]) -> None:
    with pytest.raises(
        EndpointError, match=r"the key in FLEXAI_API_KEY is sent to api\.flex\.ai or tokens.flex.ai only"
    ):
        resolve(EndpointSection(**section), {"FLEXAI_API_KEY": "sk-flex", **environ})


def test_its_key_is_not_sent_in_the_clear() -> None:
    with pytest.raises(EndpointError, match="write https://"):
        resolve(EndpointSection(base_url="http://api.flex.ai/v1"), {"FLEXAI_API_KEY": "sk-flex"})


@pytest.mark.parametrize("base", ["10.0.0.1", "https://u:p@host/v1", "https://host/v1?key=sk-1234567", "ftp://host"])
def test_an_address_in_the_environment_that_is_none_is_told(base: str) -> None:
    with pytest.raises(EndpointError, match="the environment variable FLEXAI_API_BASE must be a URL") as caught:
        resolve(EndpointSection(name="flexai"), {"FLEXAI_API_KEY": "sk-flex", "FLEXAI_API_BASE": base})
    assert base not in str(caught.value)


def test_it_matters_to_no_other_server() -> None:
    environ = {"FLEXAI_API_BASE": "no address", "FLEXAI_API_KEY": "sk-flex"}
    endpoint = resolve(EndpointSection(base_url="http://vllm:8000/v1"), environ)
    assert (endpoint.key, endpoint.provider) == (None, None)


def test_the_variables_that_an_endpoint_is_given() -> None:
    section = EndpointSection(
        base_url="https://h/v1", headers={"x-a": "${A}${B:-b}", "x-c": "$${D}"}, query={"q": "${A}"}
    )
    assert variables(section, {"BATCHFLEX_API_KEY": "sk"}) == ["BATCHFLEX_API_KEY", "A", "B"]
    assert variables(EndpointSection(name="flexai"), {"FLEXAI_API_BASE": API}) == ["FLEXAI_API_KEY", "FLEXAI_API_BASE"]
    assert key_variable(EndpointSection(base_url=TOKENS), {}) == "FLEXAI_API_KEY"
    assert key_variable(EndpointSection(base_url=TOKENS), {"BATCHFLEX_API_KEY": "sk"}) == "BATCHFLEX_API_KEY"
    assert key_variable(EndpointSection(base_url=API, api_key_command="cat key"), {}) is None


@pytest.mark.parametrize(
    ("base_url", "metrics", "asked"),
    [
        ("http://127.0.0.1:8000/v1", "auto", True),
        ("http://127.0.0.1:8000/v1", False, False),
        ("http://[::1]:8000/v1", "auto", True),
        ("http://10.1.2.3/v1", "auto", True),
        ("http://192.168.0.9/v1", "auto", True),
        ("http://100.64.0.1/v1", "auto", True),
        ("http://[fd00::1]/v1", "auto", True),
        ("http://8.8.8.8/v1", "auto", False),
        ("http://[2001:4860:4860::8888]/v1", "auto", False),
        ("http://localhost:8000/v1", "auto", True),
        ("http://vllm:8000/v1", "auto", True),
        ("http://vllm.models.svc/v1", "auto", True),
        ("http://vllm.models.svc.cluster.local/v1", "auto", True),
        ("http://gpu.internal/v1", "auto", True),
        ("https://api.openai.com/v1", "auto", False),
        ("https://gpu.example.com/v1", "auto", False),
        ("https://gpu.example.com/v1", True, True),
        ("https://local/v1", "auto", True),
        ("https://notlocal.example.localhost.com/v1", "auto", False),
        (API, "auto", False),
    ],
)
def test_whose_metrics_are_asked(base_url: str, metrics: bool | str, asked: bool) -> None:
    assert Endpoint("a", base_url, metrics=metrics).polls_metrics is asked


def test_no_metrics_are_asked_where_the_job_says_so(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 3, model="m")
    for metrics in (False, True):
        endpoint.reset()
        job = {"job": {"out": str(tmp_path / str(metrics))}, "input": {"path": str(rows)}}
        batchflex.run(job | {"endpoint": {"base_url": endpoint.base_url, "metrics": metrics}})
        assert ("GET /metrics" in endpoint.stats()["elsewhere"]) is metrics


def test_a_model_s_name_with_an_organisation_is_told_of_at_the_hosted_api() -> None:
    told = "the model 'Qwen/Q-7B' has an organisation before its name; at flexai ids are bare: 'Q-7B'"
    params = {"params": {"model": "Qwen/Q-7B"}}
    for endpoint in ({"name": "flexai"}, {"base_url": TOKENS}):
        assert build({"endpoint": endpoint, **params}).warnings() == [told]
        assert build({"endpoint": endpoint, "sweep": {"model": ["a", "Qwen/Q-7B"]}}).warnings() == [told]
        assert build({"endpoint": endpoint, "params": {"model": "Q-7B"}}).warnings() == []
    entries = [{"base_url": API, "model": "Q-7B"}, {"base_url": "http://vllm/v1"}]
    assert build({"endpoints": entries, **params}).warnings() == []
    assert build({"endpoint": {"base_url": "http://vllm/v1"}, **params}).warnings() == []


@pytest.mark.anyio
async def test_a_refused_model_s_bare_name_is_told(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(script=["404_model"])
    async with Client(Endpoint("flexai", endpoint.base_url, provider="flexai", model="org/big")) as client:
        with pytest.raises(AttemptError, match=r"ids are bare here: 'big' in place of 'org/big'"):
            await client.attempt(_request())


def test_a_folder_is_gone_on_with_at_another_address(tmp_path: Path) -> None:
    """Neither keys nor the plan's identity know of addresses, headers, queries and keys."""
    rows = write_rows(tmp_path / "rows.jsonl", 3, model="m")
    endpoints: list[dict[str, Any]] = [
        {"base_url": TOKENS}, {"base_url": API}, {"name": "flexai"},
        {
            "base_url": "https://gate/v1", "headers": {"x-a": "b"}, "query": {"v": "1"}, "auth": "api-key",
            "auth_header": "x-key", "api_key_command": "cat key", "metrics": True,
        },
    ]  # fmt: skip
    plans = [Plan(build({"input": {"path": str(rows)}, "endpoint": endpoint})) for endpoint in endpoints]
    assert len({tuple(request.key for block in plan.blocks() for request in block) for plan in plans}) == 1
    assert len({plan.identity() for plan in plans}) == 1


# ------------------------------------------------------------------------------------------ what a request has


def job_of(endpoint: CountingEndpoint, folder: Path, rows: int = 3, **access: Any) -> Path:
    """A job file in ``folder`` whose endpoint has these keys; each row names its model."""
    write_rows(folder / "rows.jsonl", rows, model="m")
    lines = [f"{name} = {json.dumps(value)}" for name, value in access.items() if not isinstance(value, dict)]
    tables = [
        f"[endpoint.{name}]\n" + "".join(f"{json.dumps(each)} = {json.dumps(text)}\n" for each, text in value.items())
        for name, value in access.items()
        if isinstance(value, dict)
    ]
    path = folder / "job.toml"
    path.write_text(
        f'[job]\nout = "{folder}/out"\n[input]\npath = "rows.jsonl"\n[retry]\nbase_s = 0.01\nattempts = 2\n'
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n' + "\n".join([*lines, *tables])
    )
    return path


@pytest.mark.parametrize("stream", [False, True])
def test_headers_and_query_are_sent_and_what_comes_from_the_environment_shows_nowhere(
    stream: bool, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    headers = {"X-Litellm-Tags": "nightly", "cf-access-client-secret": "${GATE_SECRET}", "x-part": "a-${GATE_SECRET}"}
    endpoint.knobs(answer=f"you sent {SECRET}", poison={"row 1.": "echo_key_error"}, request_ids="x-request-id",
                   answer_headers={"x-litellm-model-id": f"at-{SECRET}"})  # fmt: skip
    path = job_of(
        endpoint, tmp_path, headers=headers, query={"api-version": "2024-10-21", "sig": "${SIG}"}, stream=stream
    )
    environ = {"GATE_SECRET": f"{SECRET}\n", "SIG": f"a/b {SECRET}"}
    ended = called("--debug", "run", path, env=environ)
    assert ended.code == 1, ended
    log = endpoint.log()
    assert {record["headers"]["x-litellm-tags"] for record in log} == {"nightly"}
    assert {record["headers"]["cf-access-client-secret"] for record in log} == {SECRET}
    assert {record["headers"]["x-part"] for record in log} == {f"a-{SECRET}"}
    assert {httpx.QueryParams(r["query"])["sig"] for r in log} == {f"a/b {SECRET}"}
    assert {httpx.QueryParams(r["query"])["api-version"] for r in log} == {"2024-10-21"}
    assert not {"GET /metrics"} - {*endpoint.stats()["elsewhere"]}, "asked without the query"
    results = table(tmp_path / "out")
    assert results["content"][0] == "you sent ***" and results["gateway_deployment"][0] is None
    kept = (tmp_path / "out" / "job.toml").read_text()
    assert 'cf-access-client-secret = "${GATE_SECRET}"' in kept and "nightly" in kept
    said = [ended.out, ended.err]
    for verb in (["plan", path], ["check", path], ["status", tmp_path / "out"], ["report", tmp_path / "out"]):
        shown = called("--debug", *verb, env=environ)
        said += [shown.out, shown.err]
    retried = called(
        "retry", tmp_path / "out", "--where", "row = 0", env=environ
    )  # the job of the folder has what it needs
    assert retried.code in (0, 1) and "x-part" in endpoint.log()[-1]["headers"], retried
    for text in [everything_in(tmp_path / "out"), *said]:
        assert "Secret0123456789" not in text, text[max(0, text.find("Secret0123456789") - 300) :][:600]


@pytest.mark.parametrize(
    ("access", "sent"),
    [
        ({"api_key_env": "K"}, {"authorization": "Bearer sk-1"}),
        ({"api_key_env": "K", "auth": "api-key"}, {"api-key": "sk-1"}),
        ({"api_key_env": "K", "auth": "api-key", "auth_header": "X-Api-Key"}, {"x-api-key": "sk-1"}),
        ({"api_key_env": "K", "auth_header": "x-token"}, {"x-token": "Bearer sk-1"}),
        ({"auth": "none"}, {}),
        ({"headers": {"Authorization": "Basic ${K}"}}, {"authorization": "Basic sk-1"}),
        ({"headers": {"x-api-key": "${K}"}, "auth": "none"}, {"x-api-key": "sk-1"}),
    ],
    ids=str,
)
def test_the_key_goes_into_the_header_that_the_server_wants(
    access: dict[str, Any], sent: dict[str, str], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    path = job_of(endpoint, tmp_path, rows=1, **access)
    ended = called("run", path, env={"K": "sk-1", "BATCHFLEX_API_KEY": "sk-another's"})
    assert ended.code == 0, ended
    headers = endpoint.log()[0]["headers"]
    assert {
        name: headers[name] for name in ("authorization", "api-key", "x-api-key", "x-token") if name in headers
    } == sent


def test_each_of_several_endpoints_has_its_own(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 20, model="m")
    one = {"base_url": endpoint.base_url, "name": "a", "headers": {"x-who": "a"}, "auth": "none"}
    two = {"base_url": endpoint.base_url, "name": "b", "query": {"who": "b"}, "api_key_command": ["echo", "sk-b"]}
    endpoint.knobs(latency_s=0.01)
    job = {"job": {"out": str(tmp_path / "out")}, "input": {"path": str(rows)}, "limits": {"concurrency": 2}}
    run = batchflex.run(job | {"endpoints": [one, two]})
    assert run.exit_code == 0
    assert {(r["headers"].get("x-who"), r["headers"].get("authorization"), r["query"]) for r in endpoint.log()} == {
        ("a", None, ""), (None, "Bearer sk-b", "who=b"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        *(
            ({"base_url": "http://h/v1", "headers": {name: "x"}}, f"endpoint.headers: the header {name!r} is set by batchflex")
            for name in ("Host", "content-length", "Transfer-Encoding", "connection", "Content-Type", "accept-encoding", "TE")
        ),
        ({"base_url": "http://h/v1", "headers": {"a b": "x"}}, "'a b' is no name of a header"),
        ({"base_url": "http://h/v1", "headers": {"": "x"}}, "'' is no name of a header"),
        ({"base_url": "http://h/v1", "headers": {"x": "a\r\nevil: 1"}}, "the value of 'x' may hold printable ASCII"),
        ({"base_url": "http://h/v1", "headers": {"x": "café"}}, "the value of 'x' may hold printable ASCII"),
        ({"base_url": "http://h/v1", "headers": {"X": "1", "x": "2"}}, "'x' is there twice"),
        ({"base_url": "http://h/v1", "headers": {"x": 1}}, "endpoint.headers: must be a table of texts in quotes"),
        ({"base_url": "http://h/v1", "headers": {"x": "${no name}"}}, "'x' wants ${NAME}"),
        ({"base_url": "http://h/v1", "query": {"": "1"}}, "endpoint.query: a parameter needs a name"),
        ({"base_url": "http://h/v1", "auth": "basic"}, "endpoint.auth: must be 'bearer', 'api-key' or 'none'"),
        ({"base_url": "http://h/v1", "auth_header": "host"}, "endpoint.auth_header: the header 'host' is set by batchflex"),
        ({"base_url": "http://h/v1", "auth": "none", "api_key_env": "K"}, "api_key_env: and auth = 'none' exclude each other"),
        ({"base_url": "http://h/v1", "api_key_command": "c", "api_key_env": "K"}, "api_key_command: and api_key_env exclude"),
        ({"base_url": "http://h/v1", "api_key_command": []}, "must be a command in quotes, or a list of a program"),
        (
            {"base_url": "http://h/v1", "api_key_env": "K", "headers": {"AUTHORIZATION": "Bearer ${K}"}},
            "endpoint.headers.AUTHORIZATION: would be sent in place of the key that api_key_env gives",
        ),
        ({"headers": {"x": "1"}}, "endpoint.headers: is for a server: name one, in base_url or name"),
        ({"base_url": "http://h/v1", "headers": {"x-api-key": "short"}}, "or write ${VARIABLE} here"),
        ({"base_url": "http://h/v1", "headers": {"X-Auth-Token": "short"}}, "or write ${VARIABLE} here"),
        ({"base_url": "http://h/v1", "headers": {"Cookie": "a=b"}}, "or write ${VARIABLE} here"),
        ({"base_url": "http://h/v1", "headers": {"x-api-key": "${K:-short}"}}, "or write ${VARIABLE} here"),
        ({"base_url": "http://h/v1", "query": {"key": "short"}}, "or write ${VARIABLE} here"),
        ({"base_url": "http://h/v1", "headers": {"x": "sk-4f9aVerySecret0123456789"}}, "a key does not belong in a job file"),
        (
            {"base_url": "http://h/v1", "api_key_command": "echo sk-4f9aVerySecret0123456789"},
            "a key does not belong in a job file",
        ),
        ({"base_url": "http://h/v1", "name": "flexai"}, "has an address of its own"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_is_sent(endpoint: dict[str, Any], told: str) -> None:
    with pytest.raises(JobError) as caught:
        build({"endpoint": endpoint})
    assert told in str(caught.value)
    assert (
        "evil" not in str(caught.value) and "short" not in str(caught.value) and "VerySecret" not in str(caught.value)
    )


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, "endpoint.headers.x: the variable K is not set"),
        ({"K": ""}, "endpoint.headers.x: the variable K is empty"),
        ({"K": "Secret\nline"}, "with its variables, the value may hold printable ASCII"),
    ],
)
def test_a_variable_that_is_not_there_is_told_when_it_is_needed(environ: dict[str, str], told: str) -> None:
    section = EndpointSection(base_url="http://h/v1", headers={"x": "${K}"})
    with pytest.raises(EndpointError) as caught:
        resolve(section, environ)
    assert told in str(caught.value) and "Secret" not in str(caught.value)
    resolve(section, environ, with_key=False)


def test_another_server_on_the_command_line_gets_nothing_of_the_job_s_own(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    headers, query = {"x-secret": "${GATE_SECRET}", "x-plain": "p"}, {"v": "1"}
    path = job_of(endpoint, tmp_path, headers=headers, query=query, api_key_command="exit 1", auth_header="x-k")
    path.write_text(path.read_text().replace(endpoint.base_url, "https://gate.example/v1"))
    own = ["--set", "endpoint.headers.x-mine=1"]
    ended = called("run", path, "--base-url", endpoint.base_url, *own, env={"BATCHFLEX_API_KEY": "sk-any"})
    assert ended.code == 0, ended
    (headers, *_), (query, *_) = zip(*((r["headers"], r["query"]) for r in endpoint.log()), strict=True)
    assert query == "" and headers["authorization"] == "Bearer sk-any" and headers["x-mine"] == "1"
    assert not {"x-secret", "x-plain", "x-k"} & headers.keys()


# --------------------------------------------------------------------------------------- keys that a command gives


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that gives keys may run again after moments."""
    monkeypatch.setattr(key_command, "_LEAST_S", 0.1)


def counting(folder: Path, then: str = 'echo "key-$n"') -> str:
    """A command that counts its runs, in ``n`` and in a file, and then does this."""
    return f"echo run >> {folder}/runs; n=$(wc -l < {folder}/runs); n=$((n)); {then}"


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().splitlines())


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("stream", [False, True])
def test_a_run_does_not_die_of_a_key_that_expires(stream: bool, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Each key is good for 25 requests. No row loses its only attempt, all that are refused together have the command run once,
    and what is sent anew is counted."""
    endpoint.knobs(key="key-", key_lives=25, latency_s=0.01)
    path = job_of(endpoint, tmp_path, rows=60, api_key_command=counting(tmp_path), stream=stream)
    ended = called(
        "run", path, "--concurrency", "8", "--set", "retry.attempts=1", env={"BATCHFLEX_API_KEY": "sk-unused"}
    )
    assert ended.code == 0, ended
    results = table(tmp_path / "out")
    assert results["status"].to_list() == ["ok"] * 60 and set(results["attempts"]) <= {1, 2}
    assert runs(tmp_path) == 3
    assert endpoint.stats()["keys"] == sorted(sha1_of_key(f"key-{n}") for n in (1, 2, 3))
    sent = endpoint.stats()["requests"]
    assert 62 <= sent <= 76 and state(tmp_path / "out")["requests_sent"] == sent == results["attempts"].sum()
    assert "key-1" not in everything_in(tmp_path / "out") or "key-1" in counting(tmp_path)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo sk-leak123456789 >&2; exit 3", "it exited with 3: ***"),
        ("echo 'please log in' >&2; exit 1", "it exited with 1: please log in"),
        ("true", "it printed nothing"),
        ("echo two words", "it printed something that is no key alone"),
        (["/no/such/program"], "it cannot be started: No such file or directory"),
    ],
)
def test_a_command_that_gives_no_key_stops_the_run(
    command: Any, words: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    path = job_of(endpoint, tmp_path, api_key_command=command)
    ended = called("run", path)
    assert ended.code == 3 and endpoint.stats()["requests"] == 0, ended
    told = state(tmp_path / "out")
    assert told["stopped_by"] == "key" and told["failed"] == 0
    assert f"endpoint.api_key_command gives no key: {words}; run that command by hand to see why" in told["message"]
    assert "leak123456789" not in everything_in(tmp_path / "out").replace(str(command), "") + ended.err
    checked = called("check", path)
    assert checked.code == 3 and words in checked.out


@pytest.mark.usefixtures("often")
def test_all_that_are_refused_together_share_a_run_that_gives_nothing(
    endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(key="key-", key_lives=10, latency_s=0.02)
    path = job_of(endpoint, tmp_path, rows=40, api_key_command=counting(tmp_path, "echo key-same"))
    ended = called("run", path, "--concurrency", "8")
    assert (ended.code, state(tmp_path / "out")["stopped_by"], runs(tmp_path)) == (3, "key", 2), ended


@pytest.mark.anyio
async def test_all_that_wait_for_a_command_share_its_failure(tmp_path: Path) -> None:
    keys, faults = KeyCommand(counting(tmp_path, "sleep 0.1; exit 1")), list[str]()

    async def ask() -> None:
        with pytest.raises(NoKeyError) as caught:
            await keys.key()
        faults.append(str(caught.value))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert faults == ["it exited with 1"] * 5 and runs(tmp_path) == 1


@pytest.mark.usefixtures("often")
def test_what_is_sent_anew_with_another_key_is_within_the_budget(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key="key-", key_lives=3)
    path = job_of(endpoint, tmp_path, rows=20, api_key_command=counting(tmp_path))
    ended = called("run", path, "--concurrency", "1", "--set", "limits.budget_requests=10")
    assert ended.code == 3 and endpoint.stats()["requests"] == 10, ended
    assert state(tmp_path / "out")["stopped_by"] == "budget"


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("then", ["echo key-same", 'echo "other-$n"'])
def test_a_key_that_is_refused_anew_stops_the_run(then: str, endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """The same key again, or one that was never let in."""
    endpoint.knobs(key="key-", key_lives=3)
    path = job_of(endpoint, tmp_path, rows=10, api_key_command=counting(tmp_path, then))
    ended = called("run", path, "--concurrency", "1")
    assert ended.code == 3, ended
    told = state(tmp_path / "out")
    assert told["stopped_by"] == "key" and told["failed"] == 0 and told["ok"] == (3 if "same" in then else 0)
    assert runs(tmp_path) == (2 if "same" in then else 1)


@pytest.mark.usefixtures("often")
def test_a_command_that_fails_later_is_waited_for(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """Its second run fails; the third gives a key, and all rows are answered."""
    endpoint.knobs(key="key-", key_lives=3)
    path = job_of(endpoint, tmp_path, rows=5, api_key_command=counting(tmp_path, '[ $n != 2 ] && echo "key-$n"'))
    ended = called("run", path, "--concurrency", "1", "--set", "retry.attempts=5")
    assert ended.code == 0 and runs(tmp_path) == 3, ended
    assert table(tmp_path / "out")["status"].to_list() == ["ok"] * 5


def web_token(expires: float | None, more: str = "x") -> str:
    def part(data: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part({'sub': more} | ({} if expires is None else {'exp': expires}))}.c2ln"


@pytest.mark.parametrize(
    ("key", "expires"),
    [
        (web_token(1_900_000_000), 1_900_000_000.0),
        (web_token(1_900_000_000.5, "ü€"), 1_900_000_000.5),
        (web_token(None), None),
        ("sk-plain", None),
        ("a.b.c", None),
        ("....", None),
        ("é.é.é", None),
        (f"a.{base64.b64encode(b'[1]').decode()}.c", None),
    ],
)
def test_when_the_time_of_a_web_token_is_over(key: str, expires: float | None) -> None:
    assert expires_at(key) == expires


@pytest.mark.anyio
async def test_a_web_token_is_renewed_before_its_time_is_over(tmp_path: Path) -> None:
    now = [1_000_000.0]
    tokens = [web_token(now[0] + 3600), web_token(now[0] + 7200)]
    (tmp_path / "tokens").write_text("".join(f"{token}\n" for token in tokens))
    keys = KeyCommand(counting(tmp_path, f'sed -n "${{n}}p" {tmp_path}/tokens'), wall=lambda: now[0])
    assert (await keys.key()).get_secret_value() == tokens[0]
    now[0] += 3500
    assert (await keys.key()).get_secret_value() == tokens[0] and runs(tmp_path) == 1
    now[0] += 50  # the command has just run by the clock that spaces its runs, and the key is still good
    assert (await keys.key()).get_secret_value() == tokens[0] and runs(tmp_path) == 1
    keys._ran_at -= 10
    assert (await keys.key()).get_secret_value() == tokens[1] and runs(tmp_path) == 2
    assert (await keys.key()).get_secret_value() == tokens[1] and runs(tmp_path) == 2


@pytest.mark.anyio
async def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    keys = KeyCommand(counting(tmp_path, "sleep 30"), within_s=0.2)
    with pytest.raises(NoKeyError, match=r"it had not ended after 0.2 s, and was killed"):
        await keys.key()


# -------------------------------------------------------------------------------------------- what a gateway tells


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, NO_GATEWAY),
        ({"x-litellm-response-cost": "0.00012"}, Gateway(0.00012)),
        ({"X-LiteLLM-Response-Cost": "1.2e-05"}, Gateway(1.2e-05)),
        ({"x-litellm-response-cost": "None"}, Gateway()),
        ({"x-litellm-response-cost": "-1"}, Gateway()),
        ({"x-litellm-response-cost": "nan"}, Gateway()),
        ({"x-litellm-response-cost": "1e999"}, Gateway()),
        ({"x-litellm-model-id": "None", "x-litellm-attempted-fallbacks": "None"}, Gateway()),
        ({"x-litellm-model-id": "b3f1", "x-litellm-attempted-fallbacks": "0"}, Gateway(None, "b3f1", 0)),
        ({"x-litellm-model-id": "two words", "x-litellm-attempted-fallbacks": "2"}, Gateway(None, None, 2)),
        ({"cf-aig-step": "1"}, Gateway(None, None, 1)),
        ({"x-ms-deployment-name": "east"}, Gateway(None, "east", None)),
    ],
    ids=str,
)
def test_what_headers_of_a_gateway_tell(headers: dict[str, str], told: Gateway) -> None:
    assert read([(name.encode(), value.encode()) for name, value in headers.items()]).gateway == told


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({}, None),
        ({"cost": 0.25}, 0.25),
        ({"cost": 0}, 0.0),
        ({"cost": None}, None),
        ({"cost": "0.25"}, None),
        ({"cost": -1}, None),
        ({"cost": True}, None),
        ({"estimated_cost": 0.5}, 0.5),
        ({"cost": {"total_cost": 0.006, "request_cost": 0.005}}, 0.006),
    ],
    ids=str,
)
def test_what_an_answer_says_it_cost(usage: dict[str, Any], cost: float | None) -> None:
    """By both ways of reading an answer."""
    data = {
        "model": "m", "provider": "Near", "usage": {"prompt_tokens": 1, "completion_tokens": 2, **usage},
        "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}],
    }  # fmt: skip
    raw = json.dumps(data).encode()
    read = chat.read(data, raw, Receipt(200, 1.0))
    assert read is not None and (read.usage.cost, read.deployment) == (cost, "Near")
    regular = chat.regular(raw, Receipt(200, 1.0))
    assert regular is None or (regular.usage.cost, regular.deployment) == (cost, "Near")


@pytest.mark.anyio
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("via", [lambda: http1.Connections(httpx.create_ssl_context()), httpx.AsyncHTTPTransport])
async def test_an_answer_has_what_its_gateway_tells(endpoint: CountingEndpoint, stream: bool, via: Any) -> None:
    told = {"x-litellm-response-cost": "0.5", "x-litellm-model-id": "dep-1", "x-litellm-attempted-fallbacks": "1"}
    endpoint.knobs(answer_headers=told | {"x-litellm-call-id": "call-1"}, more_usage={"cost": 0.25})
    known = Endpoint("test", endpoint.base_url, SecretStr(SECRET), stream=stream)
    async with Client(known, via=via()) as client:
        answer = await client.attempt(_request())
        assert (answer.usage.cost, answer.deployment, answer.fallbacks) == (0.5, "dep-1", 1)
        assert answer.request_id == "call-1"
        endpoint.knobs(answer_headers={"x-litellm-response-cost": "0.0"})
        # A stream's headers are sent before anybody knows what it costs.
        assert (await client.attempt(_request())).usage.cost == (0.25 if stream else 0.0)


@pytest.mark.parametrize("with_prices", [False, True])
def test_what_a_run_costs_is_by_its_prices_else_as_the_gateway_says(
    with_prices: bool, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    endpoint.knobs(tokens=10, answer_headers={"x-litellm-response-cost": "0.125"})
    rows = write_rows(tmp_path / "rows.jsonl", 4, model="m")
    job: dict[str, Any] = {"job": {"out": str(tmp_path / "out")}, "input": {"path": str(rows)}}
    prices = {"prices": {"input": 0.0, "output": 1e5}} if with_prices else {}
    run = batchflex.run(job | {"endpoint": {"base_url": endpoint.base_url}} | prices)
    results = run.results()
    assert results["gateway_cost"].to_list() == [0.125] * 4
    assert results["cost"].to_list() == [1.0 if with_prices else 0.125] * 4
    assert run.summary["cost"] == pytest.approx(4.0 if with_prices else 0.5)
    assert run.summary["cost_from"] == ("prices" if with_prices else "gateway")


def test_without_a_cost_nothing_is_said_of_where_it_comes_from(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 1, model="m")
    job = {"job": {"out": str(tmp_path / "out")}, "input": {"path": str(rows)}}
    run = batchflex.run(job | {"endpoint": {"base_url": endpoint.base_url}})
    assert (run.summary["cost"], run.summary["cost_from"], run.summary["substituted"]) == (None, None, 0)


# ------------------------------------------------------------------------------------------- which model answered


@pytest.mark.parametrize(
    ("requested", "answered"),
    [
        ("gpt-oss-20b", "gpt-oss-20b"),
        ("gpt-oss-20b", "GPT-OSS-20B"),
        ("gpt-oss-20b", "openai/gpt-oss-20b"),
        ("openai/gpt-oss-20b", "gpt-oss-20b"),
        ("openrouter/openai/gpt-4o", "gpt-4o"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4-0613"),
        ("DeepSeek-V4-Flash", "DeepSeek-V4-Flash-0731"),
        ("claude-3-5-sonnet", "us.anthropic.claude-3-5-sonnet-20241022-v2:0"),
        ("claude-3-5-sonnet", "claude-3-5-sonnet@20241022"),
        ("claude-3-5-sonnet-20241022", "claude-3-5-sonnet@20241022"),
        ("mistral-large-latest", "mistral-large-2411"),
        ("gemini-1.5-pro", "gemini-1.5-pro-002"),
        ("command-r", "command-r-08-2024"),
        ("llama-3:free", "meta/llama-3"),
        ("smollm2-q8", "/models/SmolLM2-Q8.gguf"),
        ("x-0731", "x-2026-07-31"),
    ],
)
def test_names_of_one_model(requested: str, answered: str) -> None:
    assert is_same_model(requested, answered) and is_same_model(answered, requested)


@pytest.mark.parametrize(
    ("requested", "answered"),
    [
        ("gpt-oss-120b", "gpt-oss-20b"),
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o", "gpt-4"),
        ("qwen2.5:7b", "qwen2.5:14b"),
        ("qwen2.5-7b", "qwen2.5-14b"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("gpt-3.5-turbo", "turbo"),
        ("meta/llama-3", "meta/llama-3.1"),
        ("llama-3-8b", "llama-3-8b-instruct"),
    ],
)
def test_names_of_two_models(requested: str, answered: str) -> None:
    assert not is_same_model(requested, answered) and not is_same_model(answered, requested)


def test_what_is_said_of_answers_by_others() -> None:
    found = Substitutes()
    found.add("a", "a", 0, 7)
    found.add("a", None, None)
    found.add(None, "b", None)
    assert found.words() is None
    found.add("a", "b", 1, 2)
    found.add("a", "org/a", 1)
    found.add("a", "c", None)
    assert found.words() == (
        "4 of 13 answers are not, or perhaps not, those of the model that was asked for: 2 by 'b' in place of 'a'; "
        "1 by a fallback of the gateway; 1 by 'c' in place of 'a'. "
        "The columns requested_model, model and gateway_fallbacks tell which"
    )
    assert "'" not in str(found.words(named=False))


def test_an_evaluation_does_not_mix_models_unseen(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """The run says it at its end, ``run.json``, the scores and the report as well."""
    endpoint.knobs(answered_by={"row 1.": "other", "row 3.": "other", "row 2.": "org/m-2026-01-31"})
    path = job_of(endpoint, tmp_path, rows=6)
    path.write_text(path.read_text() + '\n[[score]]\nname = "long"\nkind = "length"\nmin = 3\n')
    ended = called("run", path)
    assert ended.code == 0, ended
    words = "2 by 'other' in place of 'm'"
    # Standard error is a log here, which has no words of a server.
    said = "2 of 6 answers are not, or perhaps not, those of the model that was asked for"
    assert ended.err.count(said) == 1 and "'other'" not in ended.err
    out = tmp_path / "out"
    assert state(out)["substituted"] == 2
    results = table(out)
    assert results["requested_model"].to_list() == ["m"] * 6
    assert results["model"].to_list() == ["m", "other", "org/m-2026-01-31", "other", "m", "m"]
    assert json.loads((out / "scores.json").read_bytes())["points"][0]["substituted"] == 2
    scored = called("score", out)
    assert "2 rows answered by another model than was asked for, or by a fallback" in scored.out
    reported = called("report", out)
    assert words in reported.out + reported.err and "in place of" in (out / "report.html").read_text()


def test_the_model_of_an_endpoint_is_the_one_that_was_asked_for(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 2, model="m")
    job = {"job": {"out": str(tmp_path / "out")}, "input": {"path": str(rows)}}
    run = batchflex.run(job | {"endpoints": [{"base_url": endpoint.base_url, "model": "mine"}]})
    results = run.results()
    assert results["requested_model"].to_list() == results["model"].to_list() == ["mine", "mine"]
    assert run.summary["substituted"] == 0


def test_parts_of_an_older_version_tell_nothing_of_it(tmp_path: Path) -> None:
    new = ("requested_model", "gateway_cost", "gateway_deployment", "gateway_fallbacks")
    old = GOLDEN / "labels" / "out" / "parts"
    assert not {*new} & {*pl.read_parquet(old / "*.parquet").columns}
    store = FolderStore(old)
    for number in part_files.part_numbers(store):
        read = part_files.read_part(store, number)
        assert all(read.column(name).null_count == len(read) for name in new)
