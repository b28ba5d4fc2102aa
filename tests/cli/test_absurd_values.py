"""Absurd values, names and paths: each is taken or refused in a sentence, and none upsets a terminal."""

from __future__ import annotations

import base64
import gzip
import json
import os
import typing
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from pydantic import BaseModel

from batchflex.config.job import Job
from batchflex.config.loader import build, parse_setting
from batchflex.core.errors import JobError
from batchflex.core.safe_text import printable
from batchflex.plan import reading
from tests.support.command_line import Ended, called
from tests.support.counting_endpoint import CountingEndpoint

VALUES = [
    "9999999d", "9" * 400, "1e308", "1e309", "-1e308", "1e-308", "5e-324", "-0.0", "0", "-1", "nan", "inf", "-inf", str(2**63),
    str(2**64), str(10**30), "true", "''", '"\\u0000"', '"\\u202e\\u001b[2J"', f"'{'9' * 30}'", "'0001-01-01'", "'9999-12-31'",
    "'9999-12-31T23:59:59+14:00'", "'1969-01-01'", "[]", "{}", "[1]", "[[]]", "{a=1}", "1979-05-27", "07:32:00", "'00:00-00:00'",
    "'99:99'", "'3651d'", "'1e9d'", "'٣d'", "'-1d'", "'0.000000001s'",
]  # fmt: skip
WORDS = [
    "9999999d", "9" * 400, "x" * 5000, "1e308", "-1", "0", "nan", "inf", str(2**63), str(10**30), "", "\x1b[2J\u202e", "\udcff",
    "\x00x", "1e-300", "0001-01-01", "a\nb", "99:99", "*", "[" * 50, ".",
]  # fmt: skip


def places(model: type[BaseModel] = Job, before: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *typing.get_args(field.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner and typing.get_origin(field.annotation) not in (list, dict):
            yield from places(inner[0], f"{before}{name}.")
        else:
            yield before + name


PLACES = [
    *places(),
    "params.seed",
    "params.max_tokens",
    "params.temperature",
    "override.seed",
    "sweep.seed",
    "sweep.temperature",
]


@pytest.mark.parametrize("place", PLACES)
def test_any_value_at_any_place_of_a_job_is_taken_or_refused_in_a_sentence(place: str, tmp_path: Path) -> None:
    for value in VALUES:
        try:
            job = build({"input": {"path": str(tmp_path / "a.jsonl")}}, [parse_setting(f"{place}={value}")])
        except JobError as error:
            assert error.args[0] == str(error) and len(str(error)) < 3_000
        else:
            job.warnings()


@pytest.mark.parametrize("value", ["9999999d", "3651d", "1e308", "9999999999"])
def test_a_duration_has_an_end(value: str) -> None:
    for place in ("limits.deadline", "limits.max_outage"):
        with pytest.raises(JobError, match=r"3,650 days"):
            build({}, [(place, value)])


@pytest.mark.parametrize("value", ["9999999d", "36501d", "1e308d", "1e308", "9999999999"])
def test_an_age_has_an_end(value: str) -> None:
    with pytest.raises(JobError, match=r"36,500 days"):
        build({}, [("input.since", value)])


@pytest.mark.parametrize("value", ["0001-01-01", "1969-12-31", "2201-01-01", "9999-12-31T23:59:59+14:00"])
def test_a_moment_is_of_years_that_clocks_know(value: str) -> None:
    with pytest.raises(JobError, match="1970 to 2200"):
        build({}, [("input.since", value)])


@pytest.mark.parametrize(
    "setting",
    [
        f"limits.budget_requests={'9' * 400}", f"limits.budget_tokens={'9' * 400}", "limits.min_free_disk_mb=1e308",
        f"job.retry_failed={'9' * 400}", "endpoint.timeout_s=1e-308", "endpoint.connect_timeout_s=5e-324", "limits.grace_s=1e308",
        "endpoint.idle_timeout_s=1e308",
    ],
)  # fmt: skip
def test_numbers_that_a_run_cannot_go_by_are_refused_before_it(setting: str) -> None:
    with pytest.raises(JobError, match=r"or (less|more); found"):
        build({}, [parse_setting(setting)])


# ----------------------------------------------------------------------------------------------------- the command line


def commands(word: str, base_url: str) -> Iterator[list[str]]:
    for option in ("--rows", "--where", "--columns", "--split-by", "-o", "--format", "--set"):
        yield ["results", "out", option, word]
    yield ["results", "out", "--split-by", word, "-o", "x.csv"]
    yield from (["report", "out", option, word] for option in ("--rows", "-o"))
    yield from (["compare", "out", "out", option, word] for option in ("--rows", "-o", "--set"))
    yield ["history", "out", "--last", word]
    yield ["compact", "out", "--older-than", word]
    for option in ("--where", "--set", "--wait", "--log-file", "--metrics-file"):
        where = [] if option == "--where" else ["--where", "status = 'none'"]
        yield ["retry", "out", *where, option, word, "--dry-run"]
    for option in ("--out", "--limit", "--since", "--concurrency", "--rpm", "--tpm", "--budget-usd", "--deadline", "--model",
                   "--base-url", "--endpoint", "--api-key-env", "--on-change", "--keep-runs", "--set"):  # fmt: skip
        yield ["plan", "job.toml", option, word]
    for option in ("--wait", "--log-file", "--log-format", "--metrics-file", "--deadline"):
        yield ["run", "job.toml", option, word]
    for kind in ("cron", "systemd", "kubernetes"):
        yield from (["schedule", "job.toml", "--as", kind, option, word] for option in ("--at", "--cron"))
        for option in ("--tz", "--options", "--log-file", "--env-file", "--image"):
            yield ["schedule", "job.toml", "--as", kind, "--at", "06:30", option, word]
    yield from (
        [verb, word, "--base-url", base_url] for verb in ("run", "check")
    )  # "." is an input: not for a model here
    for verb in (
        "plan",
        "status",
        "history",
        "results",
        "report",
        "compact",
        "score",
        "schedule",
        "notify",
    ):
        yield [verb, word]
    yield ["retry", word, "--where", "true"]
    yield ["compare", word, word]
    yield ["notify", "job.toml", "--event", word]
    yield ["score", "out", "--set", word]
    yield [word]


def told(done: Ended) -> str:
    return done.out + done.err


def is_well(done: Ended) -> bool:
    text = told(done)
    return (
        done.code in (0, 1, 2, 3, 4)
        and "unexpected fault" not in text
        and "Traceback" not in text
        and printable(text) == text
    )


@pytest.fixture
def work(tmp_path: Path, endpoint: CountingEndpoint, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"id": str(n), "messages": [{"role": "user", "content": "hi"}]} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "job.toml").write_text(
        f'[job]\nname = "j"\nout = "out"\n[input]\npath = "rows.jsonl"\n[endpoint]\nbase_url = "{endpoint.base_url}"\n'
        '[params]\nmodel = "m"\nmax_tokens = 5\n'
    )
    assert called("run", "job.toml").code == 0
    return tmp_path


@pytest.mark.usefixtures("work")
@pytest.mark.parametrize("word", WORDS, ids=range(len(WORDS)))
def test_any_word_anywhere_on_the_command_line_is_taken_or_refused_in_a_sentence(
    word: str, endpoint: CountingEndpoint
) -> None:
    for arguments in commands(word, endpoint.base_url):
        done = called(*arguments)
        assert is_well(done), (arguments, done.code, told(done)[-500:])


# ------------------------------------------------------------------------------------------------------- hostile words

HOSTILE = "a\x1b[31m\x9b2J\u202egnp\u2066\u200b\ufeff\u2028b\rc\x07\x7f\U000e0041"


def test_hostile_ids_answers_and_messages_reach_no_terminal(endpoint: CountingEndpoint, work: Path) -> None:
    rows = [
        {"id": f"{HOSTILE}{n}", HOSTILE: HOSTILE, "list": [HOSTILE], "messages": [{"role": "user", "content": HOSTILE}]}
        for n in range(4)
    ]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (work / "job.toml").write_text((work / "job.toml").read_text().replace('path = "rows', 'carry = "*"\npath = "rows'))
    endpoint.knobs(answer=HOSTILE)
    out = work / "out2"
    log = work / "log"
    done = [called("run", "job.toml", "--out", out, "--log-file", log, "--log-prompts", "--model", HOSTILE)]
    assert done[0].code == 0
    endpoint.knobs(script=["400"] * 8, echo=True)
    where = f"id != '{HOSTILE}'"
    done += [
        called("retry", out, "--where", where, "--dry-run"),
        called("retry", out, "--where", where, "--dry-run", "--json"),
        called("retry", out, "--where", where, "-y", "--json"),
        called("status", out),
        called("status", out, "--json"),
        called("history", out),
        called("history", out, "--json"),
        called("results", out),
        called("results", out, "--columns", "*"),
        called("results", out, "--where", where),
        called("report", out),
        called("report", out, "--json"),
        called("compact", out),
        called("plan", "job.toml", "--out", out, "--model", HOSTILE),
        called("plan", "job.toml", "--out", out, "--model", HOSTILE, "--json"),
        called("compare", out, "out", "--rows", "5"),
        called("run", "job.toml", "--out", out, "--model", HOSTILE, "--on-change", "rerun"),
        called("results", out, "--columns", HOSTILE),
        called("results", out, "--split-by", HOSTILE, "-o", "x.csv"),
        called("results", out, "--where", f'"{HOSTILE}x" = 1'),
    ]
    for each in done:
        text = told(each)
        assert "unexpected fault" not in text and each.code in (0, 1, 2, 3)
        assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") or c in "\n\t" for c in text), ascii(
            text
        )
    assert printable(log.read_text()) == log.read_text()
    for name in ("run.json", "history.jsonl"):
        assert printable((out / name).read_text()) == (out / name).read_text()


@pytest.mark.parametrize("key", ["sk-1234", "k3y!", "hunter2pw", "pass/word+1=", "averylongword"])
def test_a_short_key_is_kept_nowhere(key: str, endpoint: CountingEndpoint, work: Path) -> None:
    endpoint.knobs(echo=True, script=["400", "503", "401"])
    env = {"BATCHFLEX_API_KEY": key}
    log = work / "log"
    done = called(
        "run", "job.toml", "--out", "out3", "--log-file", log, "--log-prompts", "--set", "retry.base_s=0.01", env=env
    )
    files = [path for path in (work / "out3").rglob("*") if path.is_file() and path.suffix != ".parquet"]
    text = told(done) + log.read_text() + "".join(path.read_text() for path in files) + told(called("results", "out3"))
    table = pl.read_parquet(work / "out3" / "parts").write_json() if list((work / "out3" / "parts").iterdir()) else ""
    for form in (key, json.dumps(key)[1:-1], quote(key, safe=""), base64.b64encode(key.encode()).decode()):
        assert form not in text + table
    assert "***" in text + table


# ------------------------------------------------------------------------------------------------------- files as input


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.jsonl"])
def test_an_input_without_line_breaks_does_not_fill_the_memory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading.Reading, "longest_line", 1 << 16)
    data = b"a,b\n" * name.startswith("a.csv") + b"x" * 10_000_000
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    (tmp_path / "job.toml").write_text(
        f'[input]\npath = "{name}"\n[params]\nmodel = "m"\n[endpoint]\nbase_url = "http://127.0.0.1:9/v1"\n'
        + ('[prompt]\nuser = "{{ a }}"\n' if "csv" in name else "")
    )
    done = called("plan", tmp_path / "job.toml")
    assert done.code == 2 and "memory" in done.err and is_well(done)


def test_a_pipe_or_a_device_is_no_input(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    for path in (tmp_path / "a.jsonl", "/dev/zero", "/dev/stdin"):
        done = called("plan", path, "--base-url", "http://127.0.0.1:9/v1", "--model", "m")
        assert done.code == 2 and is_well(done), told(done)


def test_a_folder_in_place_of_the_results_is_a_sentence(work: Path) -> None:
    (work / "out" / "results.parquet").unlink()
    (work / "out" / "results.parquet").mkdir()
    (work / "out" / "results.parquet" / "x").touch()
    for arguments in (
        ["run", "job.toml"],
        ["results", "out"],
        ["report", "out"],
        ["retry", "out", "--where", "true", "-y"],
    ):
        done = called(*arguments)
        assert is_well(done), told(done)
