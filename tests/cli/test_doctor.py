"""`batchflex doctor`: what is in place and what is not, on one page and as JSON."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest

from batchflex.cli.doctor import EXTRAS
from tests.support.command_line import Ended, called, refused_port, sha1_of_key
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "docs" / "json-schema.json").read_text())


@pytest.fixture
def job(endpoint: CountingEndpoint, tmp_path: Path) -> Path:
    path = tmp_path / "job.toml"
    path.write_text(
        f'[job]\nout = "{tmp_path}/out"\n[endpoint]\nbase_url = "{endpoint.base_url}"\napi_key_env = "MY_KEY"\n'
        '[input]\npath = "rows.jsonl"\n[params]\nmodel = "m"\n[limits]\nrpm = 60\n'
    )
    return path


def examined(*words: object, **env: str) -> Ended:
    """The page; that the JSON says the same and fits its schema is checked, too."""
    page = called("doctor", *words, env=env)
    printed = called("doctor", *words, "--json", env=env)
    assert printed.code == page.code
    jsonschema_rs.validator_for({"$ref": "#/$defs/examination", "$defs": SCHEMA["$defs"]}).validate(printed.summary)
    for sentence in (*printed.summary["problems"], *printed.summary["warnings"]):
        assert sentence.split(":")[0] in page.out
    assert (page.code == 2) == bool(printed.summary["problems"])
    return page


def test_all_is_well(job: Path, endpoint: CountingEndpoint) -> None:
    page = examined(job, MY_KEY="sk-secret-of-mine")
    assert page.code == 0 and "nothing is in the way of a run" in page.out
    for words in ("Python", "time zone", "open files", "a sync takes", endpoint.base_url, "key from MY_KEY", "rpm 60"):
        assert words in page.out
    assert "sk-secret" not in page.out + page.err
    assert endpoint.stats()["requests"] == 0, "the list of models is free"
    assert list(job.parent.iterdir()) == [job], "nothing is left behind"
    asked = called("doctor", job, "--ask", env={"MY_KEY": "sk-secret-of-mine"})
    assert asked.code == 0 and "answered" in asked.out and "limits      none reported" in asked.out
    assert endpoint.stats()["keys"] == [sha1_of_key("sk-secret-of-mine")]


def test_nothing_is_named() -> None:
    page = examined()
    assert page.code == 0 and "none is named: look at one with --base-url" in page.out


@pytest.mark.parametrize(
    ("words", "env", "said"),
    [
        ([], {}, "which is not set"),
        (["--model", "n"], {"MY_KEY": "k"}, "'n' is not among its models"),
        (["--endpoint", "flexai", "--model", "m"], {"FLEXAI_API_BASE": "http://127.0.0.1:9"}, "FLEXAI_API_KEY"),
        (["--out", "/proc/nothing"], {"MY_KEY": "k"}, "nothing can be written to /proc"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(words: list[str], env: dict[str, str], said: str, job: Path) -> None:
    page = examined(job, *words, **env)
    assert page.code == 2
    assert said in page.out.partition("to mend:\n")[2]


def test_a_server_that_is_not_there_and_a_key_that_is_refused(job: Path, endpoint: CountingEndpoint) -> None:
    endpoint.knobs(key="right")
    page = examined(job, MY_KEY="wrong-key-0123")
    assert page.code == 2 and "the key came from MY_KEY" in page.out and "wrong-key" not in page.out
    gone = examined("--base-url", f"http://127.0.0.1:{refused_port()}/v1", "--model", "m")
    assert gone.code == 2 and "cannot connect" in gone.out and "see that it is started" in gone.out


def test_a_job_with_mistakes_does_not_hide_the_rest(job: Path) -> None:
    job.write_text('[job]\nnmae = "x"\n[limits]\nrpm = "many"\n')
    page = examined(job)
    assert page.code == 2 and "Python" in page.out
    mend = page.out.partition("to mend:\n")[2]
    assert f"{job}: line 2, job.nmae: unknown key; did you mean 'name'?" in mend and "line 4, limits.rpm" in mend


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(job: Path) -> None:
    job.parent.chmod(0o500)
    page = examined(job, MY_KEY="k")
    job.parent.chmod(0o700)
    assert page.code == 2 and "nothing can be written to" in page.out


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert list(extras) == list(EXTRAS)
    for name, wanted in extras.items():
        assert {line.partition(">")[0] for line in wanted} == {*EXTRAS[name].packages}
