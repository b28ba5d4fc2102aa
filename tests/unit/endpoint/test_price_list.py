"""Models and prices from an endpoint's list: read whatever a server's list looks like, kept with their date."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from batchflex.config.loader import build
from batchflex.config.sections import PricesSection, price_usd
from batchflex.core.types import Request, Usage
from batchflex.display import run_text
from batchflex.endpoint import model_list, model_list_cache
from batchflex.endpoint.model_list import Catalog, Contexts, ModelInfo
from batchflex.endpoint.price_list import Prices
from batchflex.storage.run_state import priced_by
from tests.run.test_reasks import write
from tests.support.command_line import called, state, table
from tests.support.counting_endpoint import CountingEndpoint

# As the hosted API lists a model.
LISTED = {
    "id": "m",
    "pricing": {"input_per_mtok": 2.0, "cached_input_per_mtok": 0.5, "output_per_mtok": 10.0},
    "context_length": 131_072,
    "is_ready": True,
}
TODAY = time.strftime("%Y-%m-%d", time.gmtime())


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def options(endpoint: CountingEndpoint, rows: Path, *more: object) -> list[object]:
    return [rows, "--base-url", endpoint.base_url, "--model", "m", "--out", rows.parent / "out", "--json", *more]


def info(
    name: str, prices: PricesSection | None = None, context: int | None = None, ready: bool | None = None
) -> ModelInfo:
    return ModelInfo(name, **(prices.model_dump() if prices else {}), context=context, ready=ready)


# ------------------------------------------------------------------------------------------------------------- the lists


@pytest.mark.parametrize(
    ("entry", "prices", "context", "ready"),
    [
        (LISTED, (2.0, 10.0, 0.5), 131_072, True),
        ({"id": "m", "object": "model", "owned_by": "openai"}, None, None, None),
        (  # OpenRouter: dollars for a token, as text
            {
                "id": "m",
                "context_length": 200_000,
                "pricing": {"prompt": "0.000003", "completion": "0.000015", "input_cache_read": "0.0000003", "image": "0"},
                "top_provider": {"context_length": 128_000},
            },
            (3.0, 15.0, 0.3),
            128_000,
            None,
        ),
        ({"id": "m", "pricing": {"prompt": "-1", "completion": "-1"}}, None, None, None),
        ({"id": "m", "pricing": {"prompt": "0", "completion": "0"}}, (0.0, 0.0, None), None, None),
        # Together: dollars for a million tokens, in a bare list
        ({"id": "m", "pricing": {"hourly": 0, "input": 0.18, "output": 0.18}}, (0.18, 0.18, None), None, None),
        # Vercel: the same names, dollars for a token
        (
            {"id": "m", "context_window": 4_096, "pricing": {"input": "0.00000025", "output": "0.000002"}},
            (0.25, 2.0, None), 4_096, None,
        ),
        (  # DeepInfra
            {
                "id": "m",
                "metadata": {
                    "context_length": 65_536,
                    "pricing": {"input_tokens": 0.05, "output_tokens": 0.1, "cache_read_tokens": 0.01},
                },
            },
            (0.05, 0.1, 0.01),
            65_536,
            None,
        ),
        ({"id": "m", "max_model_len": 32_768, "root": "x"}, None, 32_768, None),  # vLLM
        ({"id": "m", "pricing": {"input_per_mtok": None, "output_per_mtok": 1}}, None, None, None),
        ({"id": "m", "pricing": "free", "context_length": "long", "is_ready": "yes"}, None, None, None),
        ({"id": "m", "pricing": {"input": True, "output": "inf"}, "context_length": -1}, None, None, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["data", "bare"])
def test_what_lists_look_like(
    entry: dict[str, Any], prices: Any, context: int | None, ready: bool | None, form: str
) -> None:
    said = {"object": "list", "data": [entry]} if form == "data" else [entry]
    (model,) = model_list.read(json.dumps(said).encode(), 5.0).models
    wanted = None if prices is None else PricesSection(input=prices[0], output=prices[1], cached_input=prices[2])
    assert model == info("m", wanted, context, ready)


@pytest.mark.parametrize(
    "raw", [b"", b"<html>", b"null", b'{"data": 3}', b'{"data": [1, {"object": "model"}]}', b"[[]]"]
)
def test_what_is_no_list(raw: bytes) -> None:
    assert model_list.read(raw, 0.0).models == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gpt-oss-12b", "; did you mean 'gpt-oss-120b'?"),
        ("openai/gpt-oss-120b", "; did you mean 'gpt-oss-120b'?"),
        ("zzz", ""),
    ],
)
def test_the_nearest_name(name: str, told: str) -> None:
    assert model_list.hint(name, ["gpt-oss-120b", "bge-m3"]) == told


def test_a_list_is_kept_for_each_address() -> None:
    one = Catalog([info("m", PricesSection(input=1.0, output=2.0), 5, None), info("n")], 7.0)
    model_list_cache.keep("http://a/v1", one)
    model_list_cache.keep("http://b/v1", Catalog([], 9.0))
    assert model_list_cache.kept("http://a/v1") == one
    assert model_list_cache.kept("http://b/v1") is None


def test_a_cache_that_cannot_be_used_hinders_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    model_list_cache.keep("http://a/v1", Catalog([info("m")], 7.0))
    assert model_list_cache.kept("http://a/v1") is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model_list_cache.keep("http://a/v1", Catalog([info("m")], 7.0))
    (kept,) = (tmp_path / "batchflex" / "models").iterdir()
    kept.write_text("{")
    assert model_list_cache.kept("http://a/v1") is None


# ------------------------------------------------------------------------------------------------------ which price holds


def _prices(prices: Any = None, endpoints: Any = None) -> Prices:
    tables: dict[str, Any] = {"endpoints": endpoints} if endpoints else {"endpoint": {"base_url": "http://a/v1"}}
    return Prices(build(tables | ({} if prices is None else {"prices": prices})))


def _price(dollars: float) -> PricesSection:
    return PricesSection(input=dollars, output=dollars)


def test_what_the_job_says_wins() -> None:
    listed = Catalog([info("m", _price(1.0)), info("n", _price(2.0))], 0.0)
    one = _prices({"n": {"input": 3.0, "output": 3.0}})
    one.learn("a", listed)
    assert [one.of(model, "a") for model in "mnx"] == [_price(1.0), _price(3.0), None]
    assert one.missing(["m", "n", "x"]) == [("a", "x")]
    every = _prices({"input": 4.0, "output": 4.0, "n": {"input": 3.0, "output": 3.0}})
    every.learn("a", listed)
    assert [every.of(model, "a") for model in "mnx"] == [_price(4.0), _price(3.0), _price(4.0)]
    assert priced_by(every.used()) == "by [prices]"
    assert priced_by(one.used()) == "by the prices of a on 1970-01-01 and [prices]"


def test_a_run_counts_by_one_price_throughout() -> None:
    prices = _prices()
    prices.learn("a", Catalog([info("m", _price(1.0))], 9.0))
    prices.learn("a", Catalog([info("m", _price(5.0)), info("n", _price(5.0))], 10.0))
    assert [prices.of(model, "a") for model in "mn"] == [_price(1.0), _price(5.0)]


def test_of_several_endpoints_the_dearest_is_reserved() -> None:
    prices = _prices(None, [{"base_url": "http://a/v1"}, {"base_url": "http://b/v1", "model": "other"}])
    prices.learn("a", Catalog([info("m", _price(1.0)), info("other", _price(9.0))], 0.0))
    assert prices.dearest("m") is None, "what b takes for its own model is not known"
    prices.learn("b", Catalog([info("m", _price(1.0)), info("other", _price(2.0))], 0.0))
    assert prices.dearest("m") == _price(2.0)
    assert prices.of("m", "a") == _price(1.0)


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        ({"m": {"input": 1}}, "prices.m.output: is missing"),
        ({"output": 1}, "prices.input: is missing"),
        ({"inptu": 1, "output": 1}, "prices.input: is missing"),
        ({"m": {"input": -1, "output": 1}}, "prices.m.input: must be 0 or more"),
    ],
)
def test_prices_that_are_none(prices: dict[str, Any], told: str) -> None:
    from batchflex.core.errors import JobError

    with pytest.raises(JobError) as caught:
        build({"prices": prices})
    assert any(mistake.startswith(told) for mistake in caught.value.mistakes)


def test_prices_of_models_survive_in_a_job_file() -> None:
    job = build(
        {"prices": {"input": 1.0, "output": 2.0, "gpt-4.1": {"input": 3.0, "output": 4.0, "cached_input": 0.5}}}
    )
    assert job.prices is not None and job.prices.of_models["gpt-4.1"].cached_input == 0.5
    assert '"gpt-4.1" = { input = 3.0, output = 4.0, cached_input = 0.5 }' in job.to_toml()


# ---------------------------------------------------------------------------------------------------------------- a run


def test_a_run_takes_prices_from_the_list(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 10, max_tokens=50)
    endpoint.knobs(models=[LISTED])
    done = called("run", *options(endpoint, rows))
    usage = Usage(done.summary["prompt_tokens"], done.summary["completion_tokens"])
    assert done.summary["cost"] == pytest.approx(price_usd(PricesSection(input=2.0, output=10.0), usage))
    assert done.summary["cost"] == pytest.approx(table(tmp_path / "out")["cost"].sum())
    (used,) = state(tmp_path / "out")["prices"]
    assert (used["model"], used["input"], used["cached_input"], used["from"], used["at"][:10]) == (
        "m",
        2.0,
        0.5,
        "endpoint",
        TODAY,
    )
    assert f"by the prices of 127.0.0.1:{endpoint.port} on {TODAY}" in called("status", tmp_path / "out").out
    assert endpoint.stats()["elsewhere"].count("GET /v1/models") == 1


def test_typed_prices_win(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 4)
    endpoint.knobs(models=[LISTED])
    done = called("run", *options(endpoint, rows, "--set", "prices.input=0", "--set", "prices.output=0"))
    assert done.summary["cost"] == 0.0
    assert [entry["from"] for entry in done.summary["prices"]] == ["job"]


def test_a_budget_in_dollars_needs_no_typed_prices(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 40, max_tokens=10)
    endpoint.knobs(models=[LISTED], models_latency_s=0.2, answer="w " * 10)
    stopped = called("run", *options(endpoint, rows, "--budget-usd", "0.002", "--concurrency", 1))
    assert (stopped.code, stopped.summary["stopped_by"]) == (3, "budget")
    assert 0 < stopped.summary["cost"] <= 0.002 and 0 < stopped.summary["done"] < 40
    assert f"(counted by the prices of 127.0.0.1:{endpoint.port} on {TODAY})" in stopped.summary["message"]


@pytest.mark.parametrize("knobs", [{"models": ["m"]}, {"models_form": "404"}, {"models": [LISTED | {"id": "n"}]}])
def test_a_budget_without_any_price_is_refused(
    knobs: dict[str, Any], endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", 4, max_tokens=10)
    endpoint.knobs(**knobs)
    refused = called("run", *options(endpoint, rows, "--budget-usd", "5"))
    assert refused.code == 2 and "Traceback" not in refused.err
    assert "limits.budget_usd" in refused.err and "[prices]" in refused.err and "m at 127.0.0.1" in refused.err
    assert endpoint.stats()["requests"] == 0
    endpoint.knobs(models=[LISTED], models_form="data")
    assert called("run", *options(endpoint, rows, "--budget-usd", "5")).code == 0


def test_models_of_a_sweep_have_prices_of_their_own(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 5)
    endpoint.knobs(models=[LISTED, LISTED | {"id": "n"}])
    (tmp_path / "job.toml").write_text(
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "{rows}"\n[sweep]\nmodel = ["m", "n"]\n'
        '[prices."n"]\ninput = 0\noutput = 0\n'
    )
    assert called("run", tmp_path / "job.toml", "--out", tmp_path / "out", "--json").code == 0
    found = table(tmp_path / "out")
    assert found.filter(found["sweep_model"] == "n")["cost"].to_list() == [0.0] * 5
    assert (found.filter(found["sweep_model"] == "m")["cost"] > 0).all()
    assert {(entry["model"], entry["from"]) for entry in state(tmp_path / "out")["prices"]} == {
        ("m", "endpoint"),
        ("n", "job"),
    }


def test_a_plan_is_offline_and_knows_the_prices_fetched_last(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 10, max_tokens=100)
    endpoint.knobs(models=[LISTED])
    before = called("plan", *options(endpoint, rows, "--budget-usd", "5")).summary
    assert (before["cost_at_most"], before["unpriced"], before["prices"]) == (None, True, [])
    assert called("check", "--base-url", endpoint.base_url).code == 0
    asked = endpoint.stats()
    found = called("plan", *options(endpoint, rows)).summary
    usage = Usage(found["prompt_tokens"], 1_000)
    assert found["cost_at_most"] == pytest.approx(price_usd(PricesSection(input=2.0, output=10.0), usage))
    assert [entry["at"][:10] for entry in found["prices"]] == [TODAY]
    assert endpoint.stats()["elsewhere"] == asked["elsewhere"]
    told = called("plan", rows, "--base-url", endpoint.base_url, "--model", "m", "--out", tmp_path / "out")
    assert f"by the prices of 127.0.0.1:{endpoint.port} on {TODAY}" in told.out


def test_where_the_list_does_not_come_the_last_one_holds(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 2)
    model_list_cache.keep(endpoint.base_url, Catalog([info("m", _price(7.0))], 86_400.0))
    endpoint.knobs(models_form="404")
    done = called("run", *options(endpoint, rows))
    assert done.summary["cost"] is None, "a list that is there no more tells no price"
    endpoint.knobs(models_form="data", key="k")
    refused = called("run", *options(endpoint, rows, "--set", "temperature=0", "--on-change", "rerun"))
    assert refused.summary["stopped_by"] == "key"


# ---------------------------------------------------------------------------------------------------------------- check


def test_check_shows_price_context_and_readiness(endpoint: CountingEndpoint) -> None:
    other = {
        "id": "slow",
        "pricing": {"input_per_mtok": 0.1, "output_per_mtok": 0.2},
        "context_length": 4_096,
        "is_ready": False,
    }
    endpoint.knobs(models=[other, LISTED, {"id": "bare\x1b[31m"}])
    shown = called("check", "--base-url", endpoint.base_url, "--model", "m").out
    lines = [line.split() for line in shown.splitlines()]
    assert ["m", "2,", "0.5,", "10", "131,072", "tokens", "ready"] in lines
    assert ["slow", "0.1,", "0.2", "4,096", "tokens", "not", "ready"] in lines
    assert "\x1b" not in shown
    assert shown.index("131,072") < shown.index("slow"), "the job's own model comes first"
    assert f"prices    2 (0.5 from cache) and 10, by the prices of 127.0.0.1:{endpoint.port} on {TODAY}" in shown


def test_check_names_the_nearest_model(endpoint: CountingEndpoint) -> None:
    endpoint.knobs(models=[LISTED | {"id": "gpt-oss-120b"}], script=["404_model"])
    shown = called("check", "--base-url", endpoint.base_url, "--model", "gpt-oss-12b")
    assert shown.code == 3
    assert "'gpt-oss-12b' is not among them; did you mean 'gpt-oss-120b'?" in shown.out


def test_a_run_that_stops_for_its_model_says_which_there_are(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(models=[LISTED | {"id": "gpt-oss-120b"}, "bge-m3"], down="404_model")
    stopped = called("run", *options(endpoint, write(tmp_path / "rows.jsonl", 3), "--model", "gpt-oss-12b"))
    assert stopped.summary["stopped_by"] == "model"
    assert "did you mean 'gpt-oss-120b'? It lists for this key: gpt-oss-120b, bge-m3" in stopped.summary["message"]


# ------------------------------------------------------------------------------------------------------- too long prompts


def _request(text: Any, model: str = "m") -> Request:
    body = json.dumps({"messages": [{"role": "user", "content": text}], "model": model}).encode()
    return Request(b"k", b"s", "r1", 0, 0, 0, body, None, None)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("word " * 101, 101),
        ("word " * 100, None),
        ("no-space-at-all" * 50, None),
        ("字" * 500, 125),
        ([{"type": "text", "text": "word " * 150}], 150),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}}], None),
    ],
)
def test_a_prompt_that_surely_does_not_fit(text: Any, tokens: int | None) -> None:
    contexts = Contexts()
    assert contexts.too_long(_request("word " * 10_000)) is None, "nothing is known"
    contexts.learn(Catalog([info("m", None, 100), info("n", None, 10_000)]))
    found = contexts.too_long(_request(text))
    assert (None if found is None else found.tokens) == tokens
    assert contexts.too_long(_request(text, "n")) is None and contexts.too_long(_request(text, "x")) is None
    contexts.learn(Catalog([info("big", None, 1_000)]), "big")
    assert contexts.too_long(_request(text)) is None, "another endpoint takes it, as its own model"


def test_too_long_prompts_are_told_before_they_are_sent(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    lines = [
        {"id": f"r{i}", "messages": [{"role": "user", "content": "word " * (200 if i in (3, 5) else 5)}]}
        for i in range(8)
    ]
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    endpoint.knobs(models=[LISTED | {"context_length": 150}], poison={"word " * 180: "400_context"})
    done = called("run", *options(endpoint, rows))
    assert (done.summary["ok"], done.summary["failed"]) == (6, 2), "they are not refused here"
    told = "row r3 has at least 200 tokens of prompt, and m takes 150"
    assert f"prompts too long for their model: 2 so far; {told}" in done.err
    plan = called("plan", *options(endpoint, rows, "--out", tmp_path / "other")).summary
    assert (plan["too_long"], plan["longest"]) == (2, told)


# ------------------------------------------------------------------------------------------ budgets and the rows' own limits


def test_rows_decide_whether_a_budget_of_tokens_can_hold(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 10, max_tokens=20)
    assert called("run", *options(endpoint, rows, "--set", "limits.budget_tokens=100000")).summary["ok"] == 10
    with rows.open("a") as stream:
        stream.write(json.dumps({"id": "free", "messages": [{"role": "user", "content": "x"}]}) + "\n")
    refused = called("run", *options(endpoint, rows, "--set", "limits.budget_tokens=100000"))
    assert refused.code == 2
    assert "row 'free' has no max_tokens, which limits.budget_tokens needs" in refused.err
    assert called("plan", *options(endpoint, rows, "--set", "limits.budget_tokens=100000")).summary["unaskable"] == 1
    settings = ["--set", "limits.budget_tokens=100000", "--set", "input.on_bad_row=fail"]
    done = called("run", *options(endpoint, rows, *settings))
    assert (done.summary["ok"], done.summary["failed"], endpoint.stats()["requests"]) == (10, 1, 10)
    assert called("run", *options(endpoint, rows)).summary["ok"] == 11


def test_the_end_of_a_run_says_what_empty_answers_mostly_are() -> None:
    told = run_text.empty(3, "runs/my job")
    assert "3 answers have no text" in told and "answer.grow_max_tokens" in told
    assert """batchflex retry 'runs/my job' --where "status = 'empty'" --set max_tokens=""" in told
