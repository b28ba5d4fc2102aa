"""What somebody is told who brings a file that is not there, or not as most are."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.support.command_line import called, message
from tests.support.counting_endpoint import CountingEndpoint, body_hash

JOB = '[input]\npath = "{path}"\n[prompt]\nuser = "{{{{ text }}}}"\n[params]\nmodel = "m"\n'


def job(folder: Path, path: str, more: str = "") -> Path:
    (folder / "job.toml").write_text(JOB.format(path=path) + more)
    return folder / "job.toml"


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_a_file_that_is_not_there_is_the_first_thing_that_is_said(tmp_path: Path, verb: str) -> None:
    """No endpoint, key or judge is looked at before."""
    (tmp_path / "tickets.csv").write_text("text\na\n")
    judge = '[[score]]\nname = "j"\nkind = "judge"\njudge = { rubric = "Is it right?", params = { model = "m" } }\n'
    for more in (
        '[endpoint]\nname = "flexai"\n',
        f'[endpoint]\nbase_url = "http://127.0.0.1:9/v1"\napi_key_env = "NO_KEY"\n{judge}',
    ):
        ended = called(verb, job(tmp_path, "tickts.csv", more), "--out", tmp_path / "out")
        assert ended.code == 2
        assert ended.err.startswith(f"batchflex: there is no input file {tmp_path}/tickts.csv; did you mean")
        assert ended.err.rstrip().endswith(f"{tmp_path}/tickets.csv?") and "KEY" not in ended.err
    assert not (tmp_path / "out").exists()


def test_beside_other_mistakes_of_a_job_it_is_one_of_them(tmp_path: Path) -> None:
    ended = called("run", job(tmp_path, "tickets.csv", "[sweep]\nzip = { seed = [1, 2], top_p = [1] }\n"))
    assert ended.code == 2 and ended.err.count("\n") > 2
    assert ended.err.index("line 2, input.path: there is no input file") < ended.err.index("sweep.zip")


def test_a_path_that_is_wrong_otherwise_is_one_mistake(tmp_path: Path) -> None:
    ended = called("run", job(tmp_path, "${NOT_SET}/tickets.csv", "[limits]\nrpm = 0\n"))
    assert ended.code == 2 and ended.err.count("input.path") == 1 and "NOT_SET" in ended.err


def test_a_table_from_excel_is_asked_and_what_was_guessed_is_said(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_bytes("id;text;preis\r\n1;Grüße, schöne;2,50\r\n2;für\r\n".encode("cp1252"))
    path = job(tmp_path, "tickets.csv", f'[endpoint]\nbase_url = "{endpoint.base_url}"\n')
    out = tmp_path / "out"
    told = "tickets.csv: separated by ';', read as windows-1252 (input.separator and input.encoding say otherwise)"
    planned = called("plan", path, "--out", out)
    assert planned.code == 0 and told in planned.out
    stopped = called("run", path, "--out", out)
    assert stopped.code == 2 and "tickets.csv, line 3: has 2 cells, the header 3" in stopped.err
    ended = called("run", path, "--out", out, "--set", "input.on_bad_row=fail", "--set", 'input.carry=["preis"]')
    assert ended.code == 1 and told in ended.err
    table = pl.read_parquet(out / "results.parquet")
    assert table["preis"].to_list()[0] == "2,50" and table["status"].to_list() == ["ok", "failed"]
    assert body_hash({"model": "m", "messages": message("Grüße, schöne")}) in {each["hash"] for each in endpoint.log()}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("input.separator=ab", "input.separator: must be one character, such as ';' or '|', or 'tab'; found 'ab'"),
        ('input.separator="\\n"', "input.separator: must be one character"),
        ("input.encoding=klingon", "input.encoding: no encoding has this name; utf-8, utf-16, windows-1252"),
        ("input.encoding=base64", "input.encoding: no encoding has this name"),
        ("input.sheet=0", "input.sheet: must be the name of a sheet, or its number, from 1; found 0"),
        ("input.format=xls", "input.format: must be"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, setting: str, told: str) -> None:
    (tmp_path / "a.csv").write_text("text\na\n")
    ended = called("plan", job(tmp_path, "a.csv"), "--set", setting)
    assert ended.code == 2 and told in ended.err


def test_a_tab_may_be_written_as_it_is_typed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,x\ttext\n1,2\thello\n")
    for tab in ("tab", "\\t", "\t"):
        more = ("--base-url", "http://127.0.0.1:9/v1", "--out", tmp_path / "out")
        ended = called("plan", job(tmp_path, "a.csv"), "--set", f"input.separator={tab}", *more)
        assert ended.code == 0 and '"content": "hello"' in ended.out
