"""``results``: one row in full, how often each value, tables in a terminal's width, and what does not go together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchflex.core.text_tables import width
from tests.support.command_line import Ended, called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.scored_folders import answer, make

JOB = """
[job]
name = "reviews"
out = "{out}"
[endpoint]
base_url = "{url}"
[input]
path = "{rows}"
id = "review_id"
carry = ["text"]
[prompt]
system = "You label."
user = "Review: {{{{ text }}}}"
[params]
model = "m"
response_format = {{ type = "json_schema", json_schema = {{ name = "l", schema = {schema} }} }}
[answer]
max_reasks = 1
[retry]
base_s = 0.01
{more}
"""
_TOML = '{ type = "object", properties = { label = { type = "string" } }, required = ["label"] }'


def run(tmp_path: Path, endpoint: CountingEndpoint, texts: list[str], more: str = "") -> Path:
    """The folder of a run over these texts, whose ids are r0, r1, …"""
    write(tmp_path, texts)
    rows, out = tmp_path / "rows.parquet", tmp_path / "out"
    (tmp_path / "job.toml").write_text(JOB.format(out=out, rows=rows, url=endpoint.base_url, schema=_TOML, more=more))
    assert called("run", tmp_path / "job.toml", "-q").code in (0, 1)
    return out


def write(tmp_path: Path, texts: list[str], first: int = 0) -> None:
    ids = [f"r{number}" for number in range(first, first + len(texts))]
    pl.DataFrame({"review_id": ids, "text": texts}).write_parquet(tmp_path / "rows.parquet")


def of(out: Path, name: str) -> list[dict[str, Any]]:
    ended = called("results", out, "--row", name, "--json")
    assert (ended.code, ended.err) == (0, "")
    return list(ended.summary["found"])


# --------------------------------------------------------------------------------------------------------------- a row


def test_everything_about_a_row(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(
        answer='{"label": "good", "why": "\\u001b[31m漢字"}', reasoning="hm, let me see", request_ids="x-request-id"
    )
    out = run(tmp_path, endpoint, ["The soup.\nHot.", "Broken."])
    shown = called("results", out, "--row", "r0")
    assert (shown.code, shown.err) == (0, "") and "\x1b" not in shown.out
    for words in (
        "r0: ok, row 0 of the input, key ", "prompt (as the input has it now, which is what was answered)\n",
        "    system:\n      You label.\n    user:\n      Review: The soup.\n      Hot.\n", 'model = "m"',
        '  answer\n    {\n      "label": "good",\n', "  reasoning\n    hm, let me see\n", "  carried\n    text  The soup.\nHot.",
        "model          m at 127.0.0.1", " prompt + ", "finish reason  stop", "request id     req-", "  tries: 1 request in run ",
    ):  # fmt: skip
        assert words in shown.out.replace("The soup. Hot.", "The soup.\nHot."), words
    (found,) = of(out, "r0")
    assert found["values"]["id"] == "r0" and found["values"]["parsed"]["label"] == "good"
    assert found["values"]["response"]["choices"][0]["finish_reason"] == "stop", "JSON as objects"
    assert [each["role"] for each in found["prompt"]["messages"]] == ["system", "user"]
    assert found["prompt"]["is_what_was_answered"] is True and found["prompt"]["request"]["model"] == "m"
    assert len(found["tries"]) == 1 and found["tries"][0]["status"] == "ok"
    key = found["values"]["key"]
    assert of(out, key) == of(out, key[:8].upper()) == of(out, "0") == [found], "by its key and its number, too"


def test_a_prompt_that_is_not_the_one_that_was_answered_is_marked(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"label": "good"}')
    out = run(tmp_path, endpoint, ["one", "two", "three"])
    write(tmp_path, ["one", "another two", "three"])
    assert "NOT what was answered" in called("results", out, "--row", "r1").out
    now = {name: of(out, name)[0]["prompt"] for name in ("r0", "r1")}
    assert [now[name]["is_what_was_answered"] for name in ("r0", "r1")] == [True, False]
    assert now["r1"]["messages"][1]["content"] == "Review: another two"
    pl.concat([pl.DataFrame({"review_id": ["new"], "text": ["x"]}), pl.read_parquet(tmp_path / "rows.parquet")]).write_parquet(
        tmp_path / "rows.parquet"
    )  # fmt: skip
    assert of(out, "r2")[0]["prompt"]["is_what_was_answered"] is True, "found where it is now"
    write(tmp_path, ["x", "y", "z"], first=7)
    assert of(out, "r2")[0]["prompt"]["why_not_known"] == "the input has no such row any more"
    (tmp_path / "rows.parquet").unlink()
    assert "prompt: not known: there is no input file" in called("results", out, "--row", "r2").out


def test_every_try_at_a_row_is_there(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"label": 3}')
    out = run(tmp_path, endpoint, ["one"])
    endpoint.knobs(answer='{"label": "good"}')
    assert called("retry", out, "--where", "status = 'invalid'", "-y", "-q").code == 0
    (found,) = of(out, "r0")
    assert [tried["status"] for tried in found["tries"]] == ["invalid", "invalid", "ok"]
    assert found["tries"][0]["content"] == '{"label": 3}' and "not of type" in found["tries"][0]["error_message"]
    shown = called("results", out, "--row", "r0").out
    assert "retried with   {}" in shown and "    3. " in shown and shown.rstrip().endswith("(this one)")
    (out / "results.parquet").unlink()
    assert of(out, "r0")[0]["tries"] == found["tries"], "also of a folder whose table is not made yet"


def test_equal_rows_of_which_the_second_has_a_number(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"label": "good"}')
    write(tmp_path, ["same"])
    out = run(tmp_path, endpoint, ["same"])
    pl.DataFrame({"review_id": ["r0", "r0", "r0"], "text": ["same"] * 3}).write_parquet(tmp_path / "rows.parquet")
    assert called("run", tmp_path / "job.toml", "-q").code == 0
    (found,) = of(out, "r0-2")
    assert found["prompt"]["is_what_was_answered"] is True and found["values"]["row"] == 2


def test_sweep_points_and_samples_of_an_id_are_shown_or_listed(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(answer='{"label": "good"}')
    out = run(tmp_path, endpoint, ["one", "two"], "[sweep]\ntemperature = [0.0, 0.7]")
    shown = called("results", out, "--row", "r1").out
    assert "r1: temperature = 0, ok, row 1" in shown and "r1: temperature = 0.7, ok, row 1" in shown
    assert shown.count("which is what was answered") == 2
    assert [found["point"] for found in of(out, "r1")] == [{"temperature": 0.0}, {"temperature": 0.7}]
    (tmp_path / "job.toml").write_text((tmp_path / "job.toml").read_text() + "\nsamples = 3\n")
    assert called("run", tmp_path / "job.toml", "-q", "--on-change", "rerun").code == 0
    listed = called("results", out, "--row", "r1", env={"COLUMNS": "70"}).out.splitlines()
    assert listed[0] == "6 rows fit r1; --row KEY shows one of them:" and len(listed) == 7
    assert "temperature = 0.7, sample 2" in listed[6] and max(map(width, listed)) <= 70
    assert of(out, listed[6].split()[0])[0]["values"]["sample"] == 2
    assert all(found["prompt"]["is_what_was_answered"] for found in of(out, "r1"))


def test_an_id_that_is_not_there_gets_the_nearest(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out")
    refused = called("results", out, "--row", "good-01")
    assert (refused.code, refused.out) == (2, "")
    assert "there is no row with this id, key or number among the 12" in refused.err and "'good-001'" in refused.err
    assert called("results", out, "--row", "").code == 2
    assert called("results", out, "--row", "' OR 1=1 --").code == 2, "no SQL"


# -------------------------------------------------------------------------------------------------------------- counts


def make_folder(out: Path, sweep: Mapping[str, list[Any]] | None = None) -> Path:
    """Twelve items with labels a (6), b (4) and none (2), some of which failed; at each sweep point."""
    outcomes = []
    for value in (sweep or {"": [None]}).get("temperature", [None]):
        for row in range(12):
            label = "a" if row < 6 else "b" if row < 10 else None
            outcomes.append(answer(
                row, label, {} if value is None else {"temperature": value}, id=f"good-{row:03}",
                status="failed" if row % 4 == 3 else "ok", carry=json.dumps({"label": label, "n": row % 2, "tags": [row % 2]}),
                parsed='{"x":1}',
            ))  # fmt: skip
    return make(out, outcomes, prompt={"user": "x"}, sweep=dict(sweep or {})).path


def lines(ended: Ended) -> list[list[str]]:
    """The cells of the table that was printed."""
    assert ended.code == 0
    return [
        [cell.strip() for cell in line.strip("│").split("┆")] for line in ended.out.splitlines() if line.startswith("│")
    ]


def test_how_often_each_value_is_there(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out")
    assert lines(called("results", out, "--counts", "label")) == [
        ["label", "rows", "share"], ["a", "6", "50.0 %"], ["b", "4", "33.3 %"], ["(null)", "2", "16.7 %"]
    ]  # fmt: skip
    told = called("results", out, "--counts", "label", "--json").summary
    assert told == {
        "columns": ["label"], "rows": 12, "of": 12, "points": [],
        "counts": [
            {"values": {"label": "a"}, "rows": 6, "share": 0.5}, {"values": {"label": "b"}, "rows": 4, "share": 1 / 3},
            {"values": {"label": None}, "rows": 2, "share": 1 / 6},
        ],
    }  # fmt: skip
    assert [each["values"]["n"] for each in called("results", out, "--counts", "n", "--json").summary["counts"]] == [
        0,
        1,
    ]
    chosen = called("results", out, "--counts", "tags", "--where", "row < 3")
    assert lines(chosen)[1:] == [["[0]", "2", "66.7 %"], ["[1]", "1", "33.3 %"]] and "3 of 12 rows fit" in chosen.err
    few = called("results", out, "--counts", "row", "--rows", "3")
    assert len(lines(few)) == 4 and "and 9 values more in 9 rows; --rows N shows more" in few.out
    assert called("results", out, "--counts", "label", "--where", "row < 0", "--json").summary["counts"] == []
    assert called("results", out, "--counts", "label", "--where", "row < 0").code == 0


def test_two_columns_stand_across_each_other(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out")
    assert lines(called("results", out, "--counts", "label,status")) == [
        ["label", "rows", "share", "ok", "failed"], ["a", "6", "50.0 %", "5 (55.6 %)", "1 (33.3 %)"],
        ["b", "4", "33.3 %", "3 (33.3 %)", "1 (33.3 %)"], ["(null)", "2", "16.7 %", "1 (11.1 %)", "1 (33.3 %)"],
        ["all", "12", "100.0 %", "9", "3"],
    ]  # fmt: skip
    told = called("results", out, "--counts", "label,status", "--json").summary
    assert told["counts"][0] == {"values": {"label": "a", "status": "ok"}, "rows": 5, "share": 5 / 12}
    assert sum(each["rows"] for each in told["counts"]) == 12


def test_sweep_points_stand_side_by_side(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out", {"temperature": [0.0, 0.7]})
    found = lines(called("results", out, "--counts", "label"))
    assert found[0] == ["label", "rows", "share", "temperature = 0", "temperature = 0.7"]
    assert found[1] == ["a", "12", "50.0 %", "6 (50.0 %)", "6 (50.0 %)"]
    told = called("results", out, "--counts", "label", "--json").summary
    assert [point["point"] for point in told["points"]] == [{"temperature": 0.0}, {"temperature": 0.7}]
    assert [point["rows"] for point in told["points"]] == [12, 12]
    assert lines(called("results", out, "--counts", "temperature"))[0] == ["temperature", "rows", "share"]


def test_what_cannot_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = make_folder(tmp_path / "out")
    from batchflex.results import counts

    monkeypatch.setattr(counts, "_MOST_VALUES", 5)
    for given, words in (
        ("labl", "--counts: the results have no column 'labl'; did you mean 'label'?"), ("a,b,c", "takes one column, or two"),
        ("*_tokens", "takes names of columns, no patterns"), ("id", "different values, which is more than can be counted"),
    ):  # fmt: skip
        refused = called("results", out, "--counts", given)
        assert refused.code == 2 and words in refused.err and not refused.out


# ------------------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize("columns", [20, 60, 100, 200])
def test_the_table_fits_the_terminal(columns: int, tmp_path: Path) -> None:
    wide = "停止工作两天后，浪费钱 🙂🙂🙂 " * 9
    carried = {f"field_{number}": f"{wide}{number}" for number in range(6)} | {"empty": None}
    outcomes = [answer(row, wide, carry=json.dumps(carried)) for row in range(3)]
    make(tmp_path / "out", outcomes, prompt={"user": "x"})
    shown = called("results", tmp_path / "out", env={"COLUMNS": str(columns)})
    table = [line for line in shown.out.splitlines() if line[0] in "┌│╞└"]
    assert max(map(width, table)) <= columns and {width(line) for line in table} == {width(table[0])}
    head = lines(shown)[0]
    assert head[0] == "id" and "empty" not in shown.out and (columns < 60 or head[1] == "content")
    assert ("no room for " in shown.out) == (len(head) < 10)


def test_what_is_asked_for_is_shown_in_its_order(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out")
    assert lines(called("results", out, "--columns", "n,error_message,id", "--rows", "1")) == [
        ["n", "error_message", "id"], ["0", "–", "good-000"]
    ]  # fmt: skip
    told = called("results", out, "--columns", "id,parsed,tags", "--rows", "1", "--json").summary
    assert told == {"rows": 12, "of": 12, "shown": [{"id": "good-000", "parsed": {"x": 1}, "tags": [0]}]}
    written = called("results", out, "-o", tmp_path / "x.jsonl", "--json", "--where", "row < 5").summary
    assert written == {
        "rows": 5, "of": 12, "written": [{"path": str(tmp_path / "x.jsonl"), "rows": 5, "defused": 0, "cut": 0}],
    }  # fmt: skip


def test_the_best_of_a_row_comes_first(tmp_path: Path) -> None:
    out = make_folder(tmp_path / "out", {"temperature": [0.0, 0.7]})
    assert lines(called("results", out))[0] == [
        "id",
        "temperature",
        "status",
        "x",
        "label",
        "n",
        "tags",
        "completion_tokens",
    ]
    good = called("results", out, "--where", "status = 'ok'")
    assert lines(good)[0] == ["id", "temperature", "x", "status", "label", "n", "tags", "completion_tokens"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--row", "r0", "--where", "row = 1"], "--where does not go with --row"),
        (["--row", "r0", "--counts", "label"], "--counts does not go with --row"),
        (["--counts", "label", "-o", "x.csv"], "-o does not go with --counts"),
        (["--excel"], "--excel needs a file"),
        (["-o", "x.jsonl", "--excel"], "--excel is for CSV and TSV"),
        (["-o", "x.ods"], ".jsonl, .json"),
    ],
)
def test_what_does_not_go_together(given: list[str], words: str, tmp_path: Path) -> None:
    refused = called("results", make_folder(tmp_path / "out"), *given)
    assert (refused.code, refused.out) == (2, "") and words in refused.err


def test_only_one_thing_writes_to_standard_output(tmp_path: Path) -> None:
    refused = called("results", make_folder(tmp_path / "out"), "-o", "-", "--json")
    assert refused.code == 2 and "would both write to standard output" in refused.summary["message"]
