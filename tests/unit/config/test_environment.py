"""What a job takes from the environment and from a file .env, and what it does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import batchflex as package
from batchflex.config import path_variables
from batchflex.config.environment import Environment, environment_of
from batchflex.config.loader import build, load
from batchflex.core.errors import JobError
from tests.support.command_line import called, sha1_of_key, table, write_rows
from tests.support.counting_endpoint import CountingEndpoint

KEY = "sk-OfTheFile0123456789"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHFLEX_API_KEY", "FLEXAI_API_KEY", "MY_KEY", "DATA_DIR"):
        monkeypatch.delenv(name, raising=False)


def job_file(folder: Path, endpoint: CountingEndpoint | None = None, more: str = "", variable: str = "MY_KEY") -> Path:
    url = endpoint.base_url if endpoint else "http://127.0.0.1:9/v1"
    path = folder / "job.toml"
    path.write_text(
        f'[job]\nout = "{folder}/out"\n[endpoint]\nbase_url = "{url}"\napi_key_env = "{variable}"\n'
        f'[input]\npath = "rows.jsonl"\n[params]\nmodel = "m"\n{more}'
    )
    write_rows(folder / "rows.jsonl", 3)
    return path


def env_file(path: Path, text: str = f"MY_KEY={KEY}\n", mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


# ----------------------------------------------------------------------------------------------------- paths, alone


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a/b", "a/b"),
        ("${A}/b", "one/b"),
        ("${A}${A}", "oneone"),
        ("${B:-two}/b", "two/b"),
        ("${EMPTY:-two}", "two"),
        ("${A:-two}", "one"),
        ("${B:-}b", "b"),
        ("$A/$/${A}$", "$A/$/one$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
    ],
)
def test_variables_in_paths(text: str, path: str) -> None:
    assert path_variables.expanded(text, {"A": "one", "EMPTY": ""}) == path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("${B}/x", "the variable B is not set, neither"),
        ("${EMPTY}/x", "the variable EMPTY is empty; set it"),
        ("${}", r"wants \$\{NAME\}"),
        ("${A", r"wants \$\{NAME\}"),
        ("${1}", r"found '\$\{1\}'"),
        ("${A-b}", r"wants \$\{NAME\}"),
    ],
)
def test_variables_that_are_none(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        path_variables.expanded(text, {"A": "one", "EMPTY": ""})


@pytest.mark.parametrize("text", ["", "${A}", "$${A}", "$$${", "{${", "a$b"])
def test_an_escaped_path_stands_for_itself(text: str) -> None:
    assert path_variables.expanded(path_variables.escaped(text), {}) == text


# ------------------------------------------------------------------------------------------------- paths of a job


def test_paths_are_expanded_wherever_a_job_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", "data")
    (tmp_path / ".env").write_text("MODELS=/models\nOUT=elsewhere\n")
    path = tmp_path / "job.toml"
    judge = (
        '[score.judge]\nrubric = "${RUBRIC} {{ content }}"\n[score.judge.endpoint]\nmodel_path = "${MODELS}/j.gguf"\n'
    )
    path.write_text(
        '[job]\nout = "${OUT}/x"\n[log]\nfile = "${OUT}/x.log"\n[notify]\nmetrics_file = "${OUT}/$${x}.prom"\n'
        '[input]\npath = ["${DATA_DIR}/a.jsonl", "~/b.jsonl"]\n[endpoint]\n'
        'model_path = "${MODELS}/m.gguf"\n[prompt]\nuser = "${NOTHING} {{ text }}"\n[params]\nuser = "${NOBODY}"\n'
        f'[[score]]\nname = "good"\nkind = "judge"\n{judge}'
    )
    job = load(path)
    assert job.out == Path("elsewhere/x")
    assert job.input.path == [str(tmp_path.resolve() / "data/a.jsonl"), str(Path.home() / "b.jsonl")]
    assert job.endpoint.model_path == "/models/m.gguf"
    assert (job.log.file, job.notify.metrics_file) == tuple(
        f"{tmp_path.resolve()}/elsewhere/{name}" for name in ("x.log", "${x}.prom")
    )
    assert job.score[0].judge and job.score[0].judge.endpoint
    assert job.score[0].judge.endpoint.model_path == "/models/j.gguf"
    assert job.prompt and job.prompt.user == "${NOTHING} {{ text }}" and job.params["user"] == "${NOBODY}"
    assert job.score[0].judge.rubric.startswith("${RUBRIC}")
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(job.to_toml())
    assert load(resolved) == job


def test_an_unset_variable_is_told_with_key_line_and_name(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('[job]\nout = "${OUT_DIR}/x"\n[input]\npath = ["a", "${DATA_DIR}/b"]\n')
    ended = called("plan", tmp_path / "job.toml")
    assert ended.code == 2
    assert "line 2, job.out: the variable OUT_DIR is not set" in ended.err
    assert "line 4, input.path: the variable DATA_DIR is not set" in ended.err
    given = load(tmp_path / "job.toml", [("job.out", "o"), ("input.path", "in.jsonl")])
    assert given.out == Path("o") and given.input.path == str(Path("in.jsonl").resolve())


def test_paths_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    job = load(job_file(tmp_path), [("job.out", "${DATA_DIR}/o"), ("input.path", "${DATA_DIR}/i.jsonl")])
    assert job.out == tmp_path / "data" / "o"
    assert job.input.path == str(tmp_path.resolve() / "data" / "i.jsonl")


def test_braces_and_dollars_of_a_folder_survive_in_its_job(tmp_path: Path) -> None:
    job = build({"job": {"out": "a{{b}}$${{C}}"}, "input": {"path": "$${D}{e}"}})
    assert (job.out, job.input.path) == (Path("a{b}${C}"), "${D}{e}")
    (tmp_path / "job.toml").write_text(job.to_toml())
    again = load(tmp_path / "job.toml")
    assert again.out == job.out and str(again.input.path).endswith("/${D}{e}")


def test_a_home_is_known_in_the_output_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert build({"job": {"out": "~/runs"}}).out == Path("/home/me/runs")
    assert build({"job": {"out": "~nobody-at-all/runs"}}).out == Path("~nobody-at-all/runs")


# ------------------------------------------------------------------------------------------------------------ .env


def test_a_key_beside_the_job_file_will_do(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    """For run, check and retry, from wherever they are started; and no trace of it is left in this process."""
    endpoint.knobs(key=KEY)
    path, file = job_file(tmp_path, endpoint), env_file(tmp_path / ".env")
    before = dict(os.environ)
    checked = called("check", path)
    assert checked.code == 0 and f"(key from MY_KEY in {file})" in checked.out
    assert called("run", path).code == 0
    assert called("retry", tmp_path / "out", "--where", "row = 1").code == 0
    assert endpoint.stats()["keys"] == [sha1_of_key(KEY)] and endpoint.stats()["good"] == 5
    assert dict(os.environ) == before
    assert f'env_file = "{file}"' in (tmp_path / "out" / "job.toml").read_text()


def test_the_environment_wins_over_the_file(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    path = job_file(tmp_path, endpoint)
    env_file(tmp_path / ".env")
    assert called("run", path, env={"MY_KEY": "sk-OfTheEnvironment0"}).code == 0
    assert endpoint.stats()["keys"] == [sha1_of_key("sk-OfTheEnvironment0")]
    empty = called("run", path, "--out", tmp_path / "other", env={"MY_KEY": ""})
    assert empty.code == 2 and "(MY_KEY is there, but empty)" in empty.err


def test_a_missing_key_is_told_with_the_file_that_could_hold_it(tmp_path: Path) -> None:
    told = called("run", job_file(tmp_path)).err
    assert "MY_KEY, which is not set; nor does a file .env beside the job file have it" in told
    named = called("run", tmp_path / "rows.jsonl", "--endpoint", "flexai", "--model", "m")
    assert "write FLEXAI_API_KEY=… into a file .env beside the job file" in named.err


def test_requests_without_a_job_file_take_that_of_the_present_folder(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint.knobs(key=KEY)
    (tmp_path / "here").mkdir()
    write_rows(tmp_path / "rows.jsonl", 2)
    env_file(tmp_path / "here" / ".env", f"BATCHFLEX_API_KEY='{KEY}'\n")
    asks = ["--base-url", endpoint.base_url, "--model", "m"]
    assert called("run", tmp_path / "rows.jsonl", *asks, "--out", tmp_path / "out").code == 3
    monkeypatch.chdir(tmp_path / "here")
    assert called("check", *asks).code == 0
    assert called("run", tmp_path / "rows.jsonl", *asks, "--out", tmp_path / "out").code == 0
    monkeypatch.chdir(tmp_path)
    assert called("retry", tmp_path / "out", "--where", "row = 1").code == 0
    env_file(tmp_path / ".env", f"BATCHFLEX_API_KEY='{KEY}'\n")
    (tmp_path / "here" / ".env").unlink()
    assert called("retry", tmp_path / "out", "--where", "row = 1").code == 0


def test_another_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    (tmp_path / "keys").mkdir()
    file = env_file(tmp_path / "keys" / "night.env")
    env_file(tmp_path / ".env", "MY_KEY=another\n")
    path = job_file(tmp_path)
    for named in ("keys/night.env", "${DATA_DIR}/keys/night.env", str(file)):
        path.write_text(path.read_text().replace("[job]\n", f'[job]\nenv_file = "{named}"\n', 1))
        job = load(path)
        assert job.environment["MY_KEY"] == KEY and job.job.env_file == str(file)
        job_file(tmp_path)
    assert load(path, [("job.env_file", str(file))]).environment["MY_KEY"] == KEY
    with pytest.raises(JobError, match=r"there is no file .*/nothing.env \(job.env_file\)"):
        load(path, [("job.env_file", "nothing.env")])


def test_from_python_a_file_is_read_only_where_a_file_is_named(
    endpoint: CountingEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = env_file(tmp_path / ".env", f"BATCHFLEX_API_KEY={KEY}\n")
    job = {
        "job": {"out": str(tmp_path / "out")},
        "endpoint": {"base_url": endpoint.base_url},
        "input": {"path": str(write_rows(tmp_path / "rows.jsonl", 1))},
        "params": {"model": "m"},
    }
    package.run(job)
    assert (endpoint.stats()["keys"], endpoint.stats()["good"]) == ([], 1)
    endpoint.reset()
    package.run({**job, "job": {"out": str(tmp_path / "other"), "env_file": str(file)}})
    assert endpoint.stats()["keys"] == [sha1_of_key(KEY)]


def test_what_is_in_the_file(tmp_path: Path) -> None:
    text = "\ufeff# a comment\nexport A=1\nB='two words' # more\nC=\"x\\ny\"\nD=${A}-${B}\nEMPTY=\nBARE\nbroken line\n  E = e\n"
    (tmp_path / ".env").write_text(text, encoding="utf-8")
    found = environment_of({}, [], tmp_path)
    there = {name: found[name] for name in "ABCDE"}
    assert there == {"A": "1", "B": "two words", "C": "x\ny", "D": "1-two words", "E": "e"}
    assert found["EMPTY"] == "" and "BARE" not in found
    assert [each.split(": ")[0] for each in found.warnings(())] == [f"{tmp_path / '.env'}, line 8"]
    assert KEY not in repr(Environment(tmp_path, {"K": KEY}))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\n")
    with pytest.raises(JobError, match=r"the environment file .*\.env cannot be read: it is not UTF-8"):
        environment_of({}, [], tmp_path)
    (tmp_path / ".env").unlink()
    (tmp_path / ".env").mkdir()  # a virtual environment, as some name it
    assert environment_of({}, [], tmp_path).file is None


def test_a_pipe_will_do(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    writer = threading.Thread(target=(tmp_path / ".env").write_text, args=("A=1\n",))
    writer.start()
    assert environment_of({}, [], tmp_path)["A"] == "1"
    writer.join()


@pytest.mark.parametrize(
    ("text", "mode", "warned"),
    [
        (f"MY_KEY={KEY}\n", 0o644, True),
        (f"SOME_TOKEN={KEY}\n", 0o640, True),
        (f"MY_KEY={KEY}\n", 0o600, False),
        ("DATA_DIR=data\n", 0o644, False),
    ],
)
def test_a_file_with_a_key_that_others_may_read(
    text: str, mode: int, warned: bool, endpoint: CountingEndpoint, tmp_path: Path
) -> None:
    path, file = job_file(tmp_path, endpoint), env_file(tmp_path / ".env", text, mode)
    told = f"warning: {file} holds a key, and others than its owner may read it; forbid that: chmod 600 {file}"
    for verb in ("plan", "check", "run"):
        ended = called(verb, path, env={} if "MY_KEY" in text else {"MY_KEY": KEY})
        shown = told.removeprefix("warning: ") if verb == "run" else told  # a log's line has its level
        assert (ended.code, shown in ended.err, told in ended.err) == (0, warned, warned and verb != "run")


def test_nothing_of_the_file_reaches_other_programs(tmp_path: Path) -> None:
    """Nor the proxy of requests."""
    env_file(tmp_path / ".env", "LEAKED_KEY=sk-OfTheFile0123456789\nHTTP_PROXY=http://127.0.0.1:9\n")
    program = "import os, subprocess, sys; from batchflex.config.loader import load; load('job.toml'); "
    program += "print(subprocess.run(['env'], capture_output=True, text=True).stdout, os.environ)"
    job_file(tmp_path)
    shown = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "PATH" in shown.stdout and "LEAKED" not in shown.stdout and ":9'" not in shown.stdout


def test_a_score_takes_it_too(endpoint: CountingEndpoint, tmp_path: Path) -> None:
    endpoint.knobs(key=KEY, answer='{"reason": "fine", "grade": 4}')
    judge = '[[score]]\nname = "good"\nkind = "judge"\n[score.judge]\nrubric = "How good is it? {{ content }}"\n'
    path = job_file(tmp_path, endpoint, judge)
    env_file(tmp_path / ".env")
    assert called("run", path).code == 0
    (tmp_path / "out" / "scores.json").unlink()
    for grades in (tmp_path / "out" / "judges" / "good" / "parts").glob("*"):
        grades.unlink()
    assert called("score", tmp_path / "out").code == 0
    assert endpoint.stats()["keys"] == [sha1_of_key(KEY)]
    assert table(tmp_path / "out").height == 3
