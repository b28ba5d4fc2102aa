"""Answers that do not fit are asked for again: every row ends right or invalid, and what that took is counted exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchflex.report import report
from batchflex.scoring import comparison, comparison_sides
from batchflex.storage import journal
from batchflex.storage.output_folder import Folder
from tests.support.command_line import Ended, called, state, table
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.runs import killed_command

SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}},
    "required": ["label"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA}}


def write(path: Path, rows: int, **fields: Any) -> Path:
    lines = [{"id": f"r{i}", "messages": [{"role": "user", "content": f"row {i}"}], **fields} for i in range(rows)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def options(endpoint: CountingEndpoint, rows: Path, *more: object) -> list[object]:
    asks = ["--base-url", endpoint.base_url, "--model", "m", "--out", rows.parent / "out", "--json"]
    return ["run", rows, *asks, "--set", "answer.max_reasks=2", "--set", "retry.base_s=0.01", *more]


def run(endpoint: CountingEndpoint, rows: Path, *more: object) -> Ended:
    return called(*options(endpoint, rows, *more))


def check(endpoint: CountingEndpoint, results: pl.DataFrame, rows: int) -> None:
    """The table against what the endpoint saw."""
    log = endpoint.log()
    answered = [record for record in log if record["outcome"] == "ok"]
    unfit = [record for record in answered if record["unfit"]]
    wrong = results.filter(pl.col("status") == "invalid")
    right = results.filter(pl.col("status") == "ok")
    assert results.height == rows == wrong.height + right.height
    assert set(right["label"]) == {"good"}
    assert wrong["label"].null_count() == wrong.height
    assert (wrong["reasks"] == 2).all()
    assert set(wrong["content"]) <= {'{"label": "neither"}'}
    assert wrong["error_message"].str.contains('"neither" is not one of').all()
    assert results["reasks"].sum() == len(unfit) - wrong.height == len(answered) - rows
    spent = ["prompt_tokens", "completion_tokens", "reask_prompt_tokens", "reask_completion_tokens"]
    assert sum(int(results[name].sum()) for name in spent) == sum(record["tokens"] for record in answered)
    prompts = int(results["prompt_tokens"].sum() + results["reask_prompt_tokens"].sum())
    assert prompts == sum(record["prompt_tokens"] for record in answered)


def test_a_fifth_of_the_answers_does_not_fit(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 1_000, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', unfit=0.2)
    done = run(endpoint, rows)
    assert done.code == 1, done.err
    results, summary = table(tmp_path / "out"), done.summary
    assert (results["status"] == "invalid").sum() > 0
    check(endpoint, results, 1_000)
    assert summary["reasks"] == results["reasks"].sum() > 200
    assert summary["reask_prompt_tokens"] == results["reask_prompt_tokens"].sum()
    assert summary["reask_completion_tokens"] == results["reask_completion_tokens"].sum()
    assert summary["requests_sent"] == endpoint.stats()["requests"] == 1_000 + summary["reasks"]
    assert results["attempts"].sum() == summary["requests_sent"]
    assert (summary["retries"], summary["failed"]) == (0, 0)

    again = run(endpoint, rows)
    assert again.summary["requests_sent"] == 0
    assert again.code == 1
    assert table(tmp_path / "out").equals(results)


def test_it_is_also_exact_among_faults(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 300, response_format=FORMAT)
    faults = {"429": 0.05, "500": 0.05, "reset_before": 0.03}
    endpoint.knobs(answer='{"label": "good"}', unfit=0.2, faults=faults, retry_after_s=0.02)
    done = run(endpoint, rows, "--concurrency", 16)
    assert done.code == 1, done.err
    results = table(tmp_path / "out")
    check(endpoint, results, 300)
    assert results["attempts"].sum() == endpoint.stats()["requests"]


def test_the_model_is_told_its_answer_and_what_is_wrong(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 1, response_format=FORMAT)
    endpoint.knobs(unfit=1.0)
    run(endpoint, rows)
    results = table(tmp_path / "out")
    assert results["reasks"].to_list() == [2]
    endpoint.knobs(unfit=0.0)  # the answer repeats what the user said last
    (tmp_path / "out").rename(tmp_path / "before")
    run(
        endpoint,
        write(tmp_path / "rows.jsonl", 1, response_format={"type": "json_object"}),
        "--set",
        "answer.max_reasks=1",
    )
    (said,) = table(tmp_path / "out")["content"]
    assert said.startswith("echo: Your answer cannot be used: JSON was asked for, and the answer is not JSON")


def test_a_schema_of_the_job_needs_no_response_format(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 20)
    endpoint.knobs(answer='Sure!\n```json\n{"label": "good"}\n```', unfit=0.3)
    schema = ["--set", f"answer.json_schema={as_toml(SCHEMA)}", "--set", "answer.max_reasks=9"]
    done = run(endpoint, rows, *schema, "--set", "answer.lenient=true")
    assert done.code == 0, done.err
    assert set(table(tmp_path / "out")["label"]) == {"good"}


def test_a_server_that_answers_with_the_bare_choice_has_answered(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    table_of_texts = tmp_path / "texts.csv"
    table_of_texts.write_text("text\n" + "".join(f"text {n}\n" for n in range(30)))
    endpoint.knobs(answer="Billing.")
    asks: list[object] = [
        "run",
        table_of_texts,
        "--prompt",
        "{{ text }}",
        "--choices",
        "billing,bug,other",
        "--model",
        "m",
    ]
    asks += ["--base-url", endpoint.base_url, "--concurrency", 1]
    done = called(*asks, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert set(table(tmp_path / "out")["label"]) == {"billing"}

    strict = called(*asks, "--out", tmp_path / "strict", "--set", "answer.lenient=false")
    assert strict.code == 1 and state(tmp_path / "strict")["invalid"] == 30
    assert strict.err.count("the first 20 answers are all invalid") == 1


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {as_toml(inner)}" for name, inner in value.items()) + " }"
    return json.dumps(value) if not isinstance(value, list) else f"[{', '.join(map(as_toml, value))}]"


def test_more_reasks_ask_on_from_the_answers_there_are(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 60, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', unfit=0.5)
    first = run(endpoint, rows, "--set", "answer.max_reasks=0")
    wrong = first.summary["invalid"]
    assert first.code == 1 and wrong > 10 and first.summary["reasks"] == 0
    second = run(endpoint, rows)
    assert second.summary["requests_sent"] <= 2 * wrong
    check(endpoint, table(tmp_path / "out"), 60)


def test_killed_before_the_next_answer_it_goes_on_from_the_last(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """The answer that did not fit was paid for: it is not asked for a second time, and what it took stays counted."""
    rows = write(tmp_path / "rows.jsonl", 24, response_format=FORMAT)
    endpoint.knobs(answer='{"label": "good"}', unfit=0.5)
    killed_command(endpoint, 9, *options(endpoint, rows, "--concurrency", 4))
    folder = Folder(tmp_path / "out")
    kept = [o for n in journal.segments(folder.journal) for o in journal.read(journal.segment_path(folder.journal, n))]
    assert any(outcome.status == "invalid" for outcome in kept)
    lost = [r for r in endpoint.log() if r["answered_at"] is not None and not r["later"]]
    done = run(endpoint, rows)
    assert done.code in (0, 1), done.err
    log, results = endpoint.log(), table(tmp_path / "out")
    received = {r["hash"]: r["seq"] for r in log if r["outcome"] == "ok" and r["later"]}
    assert [r for r in log if r["hash"] in received and r["seq"] > received[r["hash"]]] == []
    paid = sum(r["tokens"] for r in log if r["outcome"] == "ok" and r["answered_at"] is not None)
    spent = ["prompt_tokens", "completion_tokens", "reask_prompt_tokens", "reask_completion_tokens"]
    counted = sum(int(results[name].sum()) for name in spent)
    assert paid - sum(r["tokens"] for r in lost) <= counted <= paid


def test_when_asking_again_fails_the_answer_stays(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 1, response_format=FORMAT)
    endpoint.knobs(unfit=1.0, poison={"cannot be used": "400_context"})
    done = run(endpoint, rows)
    assert done.code == 1
    (row,) = table(tmp_path / "out").to_dicts()
    assert (row["status"], row["content"], row["reasks"]) == ("invalid", '{"label": "neither"}', 0)
    assert "asking again failed: the maximum context length" in row["error_message"]
    sent = [run(endpoint, rows).summary["requests_sent"] for _ in range(6)]
    assert sent[0] == 1 and sent[-1] == 0, "it is tried again, but not for ever"


def test_a_run_that_stops_between_answers_counts_no_row(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.jsonl", 5, response_format=FORMAT)
    endpoint.knobs(unfit=1.0)
    stopped = run(endpoint, rows, "--set", "limits.budget_requests=4", "--concurrency", 1)
    assert stopped.code == 3
    assert (stopped.summary["done"], stopped.summary["reasks"]) == (1, 3)
    assert run(endpoint, rows).summary["done"] == 5
    assert endpoint.stats()["requests"] == 15


@pytest.mark.parametrize("place", ["params.response_format", "answer.json_schema"])
def test_a_schema_that_is_none_is_refused_before_anything_is_sent(
    place: str, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", 1)
    wrong: Any = {"type": "objekt"}
    if place.startswith("params"):
        wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": wrong}}
    refused = run(endpoint, rows, "--set", f"{place}={as_toml(wrong)}")
    assert refused.code == 2
    assert place in refused.err and "objekt" in refused.err
    assert endpoint.stats()["requests"] == 0


def test_what_reasks_took_is_part_of_what_a_sweep_point_took(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """The same in the scores, in a comparison and in the report: a point that needs them is not cheap."""
    rows = write(tmp_path / "rows.jsonl", 40, response_format=FORMAT)
    (tmp_path / "job.toml").write_text(
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "{rows}"\n[params]\nmodel = "m"\n'
        "[job]\nreport = false\n[answer]\nmax_reasks = 3\n[prices]\ninput = 1e6\noutput = 1e6\n"
        '[[score]]\nname = "good"\nkind = "exact"\nanswer = "parsed.label"\nvalue = "good"\n'
    )
    endpoint.knobs(answer='{"label": "good"}', unfit=0.4)
    out = tmp_path / "out"
    ran = called("run", tmp_path / "job.toml", "--out", out, "--json").summary
    assert ran["reasks"] > 10
    (point,) = json.loads((out / "scores.json").read_text())["points"]
    told = report.read(Folder(out)).whole
    one, _ = (
        comparison.compare(frame, frame).told[side]
        for frame in [comparison_sides.side(str(out))[1]]
        for side in ("a", "b")
    )
    for found in (point, told._asdict(), one):
        assert found["prompt_tokens"] == ran["prompt_tokens"]
        assert found["completion_tokens"] == ran["completion_tokens"]
        assert found["cost"] == pytest.approx(ran["cost"])
