"""Answers that are there, read anew: no request, and the parts stay the truth."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from batchflex.storage import FolderStore, part_files
from batchflex.storage.output_folder import Folder
from tests.run.test_reasks import FORMAT, SCHEMA, as_toml, options, run, write
from tests.support.command_line import called, state, table
from tests.support.counting_endpoint import CountingEndpoint

FENCED = 'Sure!\n```json\n{"label": "good"}\n```'


@pytest.fixture
def answered(endpoint: CountingEndpoint, tmp_path: Path) -> Path:
    """Half of the answers fit; the others would, without their fence. Each was asked twice more."""
    endpoint.knobs(answer='{"label": "good"}', unfit=0.5, unfit_answer=FENCED)
    rows = write(tmp_path / "rows.jsonl", 40, response_format=FORMAT)
    run(endpoint, rows, "--set", "answer.max_reasks=1", "--set", "answer.lenient=false")
    return tmp_path / "out"


def reparse(out: Path, *settings: str) -> str:
    done = called(
        "results", out, "--reparse", *(part for s in settings for part in ("--set", s)), "-o", out / "t.parquet"
    )
    assert done.code == 0, done.err
    return done.err


def test_with_lenient_set_what_was_fenced_fits(endpoint: CountingEndpoint, answered: Path) -> None:
    before, sent = table(answered), endpoint.stats()["requests"]
    wrong = before.filter(pl.col("status") == "invalid").height
    assert wrong > 3
    assert f"40 answers parsed again: {wrong} fit now that did not before, 0 do not" in reparse(
        answered, "answer.lenient=true"
    )
    after = table(answered)
    assert set(after["status"]) == {"ok"} and set(after["label"]) == {"good"}
    assert after["error_message"].null_count() == 40
    spent = ["key", "reasks", "reask_prompt_tokens", "reask_completion_tokens", "content", "started_at"]
    assert after.select(spent).equals(before.select(spent))
    assert pq.read_table(answered / "t.parquet").num_rows == 40
    assert (state(answered)["ok"], state(answered)["invalid"], state(answered)["exit_code"]) == (40, 0, 0)
    assert Folder(answered).read_job()["answer"]["lenient"] is True  # type: ignore[index]

    again = run(endpoint, answered.parent / "rows.jsonl", "--set", "answer.lenient=true")
    assert (again.code, again.summary["ok"]) == (0, 40)
    assert endpoint.stats()["requests"] == sent
    assert table(answered).equals(after)


def test_a_second_time_changes_nothing(answered: Path) -> None:
    reparse(answered, "answer.lenient=true")
    parts = part_files.part_numbers(FolderStore(answered / "parts"))
    assert "0 fit now that did not before, 0 do not" in reparse(answered)
    assert part_files.part_numbers(FolderStore(answered / "parts")) == parts


def test_a_schema_may_also_become_stricter(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"label": "good", "why": 1}')
    called(*options(endpoint, write(tmp_path / "rows.jsonl", 5)))
    out = tmp_path / "out"
    assert table(out)["parsed"].null_count() == 5
    loose = {"type": "object", "required": ["label"]}
    assert "0 do not fit" in reparse(out, f"answer.json_schema={as_toml(loose)}")
    assert table(out)["why"].to_list() == [1] * 5
    assert "5 do not fit any more" in reparse(out, f"answer.json_schema={as_toml(SCHEMA)}")
    assert set(table(out)["status"]) == {"invalid"}


def test_a_swept_format_is_known_by_its_point(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,x\na,1\nb,2\n")
    (tmp_path / "job.toml").write_text(
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "t.csv"\n[prompt]\nuser = "{{{{ x }}}}"\n'
        '[params]\nmodel = "m"\n[sweep]\nresponse_format = [{ type = "text" }, { type = "json_object" }]\n'
    )
    endpoint.knobs(answer="So: {}")
    out = tmp_path / "out"
    called("run", tmp_path / "job.toml", "--out", out)
    assert table(out)["status"].to_list() == ["ok", "invalid"] * 2
    (tmp_path / "t.csv").unlink()
    assert "2 fit now" in reparse(out, "answer.lenient=true")
    assert table(out)["parsed"].to_list() == [None, "{}"] * 2


def sweep_of(tmp_path: Path, endpoint: CountingEndpoint, sweep: str) -> None:
    (tmp_path / "t.csv").write_text("id,x\na,1\nb,2\n")
    (tmp_path / "job.toml").write_text(
        f'[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "t.csv"\n[prompt]\nuser = "{{{{ x }}}}"\n'
        f'[params]\nmodel = "m"\n[sweep]\n{sweep}\n'
    )
    done = called("run", tmp_path / "job.toml", "--out", tmp_path / "out")
    assert done.code in (0, 1), done.err


_TEXT, _OBJECT = '{ type = "text" }', '{ type = "json_object" }'


def test_the_variables_of_a_sweep_may_stand_in_another_order(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer="So: {}")
    sweep_of(tmp_path, endpoint, f"response_format = [{_TEXT}, {_OBJECT}]\ntop_k = [1, 2]")
    sent = endpoint.stats()["requests"]
    sweep_of(tmp_path, endpoint, f"top_k = [2, 1]\nresponse_format = [{_TEXT}, {_OBJECT}]")
    assert endpoint.stats()["requests"] == sent
    before = table(tmp_path / "out")
    assert "0 fit now that did not before, 0 do not" in reparse(tmp_path / "out")
    assert table(tmp_path / "out").equals(before)


def test_what_the_job_has_no_place_for_any_more_stays_as_it_was(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer="So: {}")
    out, both = tmp_path / "out", f"response_format = [{_TEXT}, {_OBJECT}]"
    sweep_of(tmp_path, endpoint, both)
    whole, sent = table(out), endpoint.stats()["requests"]
    sweep_of(tmp_path, endpoint, f"response_format = [{_OBJECT}]")
    assert "2 answers parsed again: 0 fit" in reparse(out)
    assert table(out)["status"].to_list() == ["invalid"] * 2
    assert "2 answers parsed again: 2 fit" in reparse(out, "answer.lenient=true")
    assert (table(out).height, state(out)["ok"], state(out)["invalid"]) == (2, 2, 0)
    reparse(out, "answer.lenient=false")
    sweep_of(tmp_path, endpoint, both)
    assert endpoint.stats()["requests"] == sent
    assert table(out).equals(whole)


def test_what_cannot_be_read_anew_is_told(endpoint: CountingEndpoint, answered: Path) -> None:
    refused = called("results", answered, "--reparse", "--set", "limits.rpm=3")
    assert refused.code == 2 and "only answer.… can be set, not limits.rpm" in refused.err
    assert called("results", answered, "--set", "answer.lenient=true").code == 2
    (answered.parent / "rows.jsonl").unlink()
    gone = called("results", answered, "--reparse")
    assert gone.code == 2 and "rows.jsonl" in gone.err
    with Folder(answered).held():
        assert called("results", answered, "--reparse").code == 4
