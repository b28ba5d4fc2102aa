"""With --json every verb prints one object, whatever happens; each is held against docs/json-schema.json."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from batchflex.cli import json_failure, options
from batchflex.core.errors import FolderBusy, JobError, RunStopped, StorageError
from batchflex.core.signals import Signalled
from batchflex.storage.output_folder import Folder
from batchflex.storage.run_history import Attempt
from batchflex.storage.run_state import RunState
from tests.support.command_line import Ended, begun, called, ended, wait_until, write_rows
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.paths import ROOT

SCHEMA = json.loads((ROOT / "docs" / "json-schema.json").read_text())
DOCUMENT = (ROOT / "docs" / "json.md").read_text()


def verbs_with_json() -> list[str]:
    actions = options.parser()._actions
    verbs = next(dict(a.choices) for a in actions if isinstance(a, argparse._SubParsersAction))
    return [name for name, parser in verbs.items() if "--json" in parser._option_string_actions]


VERBS = verbs_with_json()
OF_JOB = ("run", "plan", "schedule", "doctor")


def words(verb: str, job: object, out: object) -> list[object]:
    """A command that can succeed, of a job whose answers are in ``out``."""
    more: dict[str, list[object]] = {
        "retry": ["--where", "row = 0", "--yes"], "schedule": ["--at", "02:00"], "run": ["--quiet"], "copy": [f"{out}-copy"],
    }  # fmt: skip
    given = [job] if verb in OF_JOB else [out]
    return [verb, *given, *more.get(verb, []), *(["--out", out] if verb in ("run", "plan") else []), "--json"]


def checked(verb: str, printed: Ended, *, is_failure: bool) -> dict[str, Any]:
    """The one object that was printed, which fits its schema."""
    found = printed.summary
    for kind in (verb, "failure") if is_failure else (verb,):
        jsonschema_rs.validator_for({"$ref": f"#/$defs/{kind}", "$defs": SCHEMA["$defs"]}).validate(found)
    assert ("error" in found) == is_failure, found
    if is_failure:
        assert found["exit_code"] == printed.code
    return found


@pytest.fixture
def job(endpoint: CountingEndpoint, tmp_path: Path) -> Path:
    """A job with a sweep and a score, and beside it ``out`` with its answers."""
    write_rows(tmp_path / "rows.jsonl", 3)
    path = tmp_path / "job.toml"
    path.write_text(
        f'[job]\nreport = false\n[endpoint]\nbase_url = "{endpoint.base_url}"\n[input]\npath = "rows.jsonl"\n'
        '[params]\nmodel = "m"\nmax_tokens = 8\n'
        '[sweep]\ntemperature = [0.0, 1.0]\n[[score]]\nname = "brief"\nkind = "length"\nmax = 100\n'
    )
    assert called("run", path, "--out", tmp_path / "out", "--quiet").code == 0
    return path


# ------------------------------------------------------------------------------------------------- each verb, each end


def test_every_verb_that_succeeds_prints_its_object(job: Path) -> None:
    for verb in VERBS:
        printed = called(*words(verb, job, job.parent / "out"))
        assert printed.code == 0, printed
        checked(verb, printed, is_failure=False)
    shown = called("retry", job.parent / "out", "--where", "row = 0", "--dry-run", "--json")
    assert checked("retry", shown, is_failure=False)["asked"] == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_is_refused_says_why(verb: str, tmp_path: Path) -> None:
    printed = called(*words(verb, tmp_path / "none.toml", tmp_path / "none"))
    found = printed.summary if verb == "doctor" else checked(verb, printed, is_failure=True)
    assert printed.code == 2
    if verb == "doctor":  # which shows all else
        assert "there is no job file" in found["problems"][0]
        return
    assert (found["verb"], found["status"], found["stopped_by"]) == (verb, "refused", None)
    assert found["message"] in printed.err and "none" in found["message"]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_a_command_line_that_cannot_be_read_is_an_object_too(verb: str) -> None:
    printed = called(*([verb] if verb else []), "--json", "--nonsense")
    found = checked(verb or "status", printed, is_failure=True)
    assert (found["error"], found["verb"], printed.code) == ("CommandLineError", None, 2)
    assert printed.err == f"{found['message']}\n"


def test_every_verb_while_another_run_holds_the_folder(job: Path) -> None:
    out = job.parent / "out"
    with Folder(out).held():
        for verb in VERBS:
            printed = called(*words(verb, job, out))
            is_busy = verb in ("run", "retry", "score", "compact", "copy")
            found = checked(verb, printed, is_failure=is_busy)
            if is_busy:
                assert (found["error"], found["status"], printed.code) == ("FolderBusy", "busy", 4)
                assert found["out"] == str(out)
        skipped = called(*words("run", job, out), "--skip")
        assert checked("run", skipped, is_failure=False)["status"] == "skipped"


def ended_by(number: signal.Signals, pipe: Path, command: list[object]) -> Ended:
    """What a command prints that a signal ends while it reads a pipe, which nobody writes to."""
    os.mkfifo(pipe)
    reader = threading.main_thread()
    assert reader is threading.current_thread() and reader.ident is not None

    def send() -> None:
        opened: list[int] = []

        def is_read() -> bool:
            with contextlib.suppress(OSError):
                opened.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
            return bool(opened)

        wait_until(is_read, f"{pipe.name} is read")
        signal.pthread_kill(reader.ident or 0, number)
        pipe.unlink()  # it may be looked for once more
        os.close(opened[0])

    sender = threading.Thread(target=send)
    sender.start()
    printed = called(*command)
    sender.join()
    return printed


# A file is left open where the signal comes between its opening and the block that closes it, as the process is to end.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_every_verb_that_a_signal_ends_says_so(number: signal.Signals, job: Path) -> None:
    """It is caught while it reads: of a job the file .env, of a folder what says its format, or its history."""
    out = job.parent / "out"
    for verb in VERBS:
        of_folder = out / ("history.jsonl" if verb == "history" else "format.json")
        pipe = job.parent / ".env" if verb in OF_JOB else of_folder
        before = pipe.read_bytes() if pipe.exists() else None
        pipe.unlink(missing_ok=True)
        printed = ended_by(number, pipe, words(verb, job, out))
        assert printed.code == 128 + number, (verb, printed)
        found = checked(verb, printed, is_failure=True)
        assert (found["error"], found["status"], found["stopped_by"]) == ("Interrupted", "interrupted", "signal")
        assert number.name in found["message"]
        if before is not None:
            pipe.write_bytes(before)
    gc.collect()


def test_a_run_that_a_signal_ends_prints_what_it_is_by_then(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", 6)
    with CountingEndpoint() as endpoint:
        endpoint.knobs(fail_after=2, fail_with="hang")
        asks = ["--base-url", endpoint.base_url, "--model", "m", "--set", "limits.grace_s=0", "--out", tmp_path / "out"]
        with begun("run", rows, *asks, "--json") as process:
            wait_until(lambda: endpoint.stats()["outcomes"].get("hang", 0) >= 1, "one hangs")
            process.send_signal(signal.SIGTERM)
            printed = ended(process)
    found = checked("run", printed, is_failure=False)
    assert (printed.code, found["exit_code"], found["status"], found["stopped_by"]) == (
        143, 143, "interrupted", "signal",
    )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_no_room_for_the_object_changes_no_exit_code(tmp_path: Path) -> None:
    for command in ("run none.toml --json",):
        with Path("/dev/full").open("w") as full:
            ran = subprocess.run(
                [sys.executable, "-m", "batchflex", *command.split()],
                cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
            )  # fmt: skip
        assert ran.returncode == 2
        assert "Exception" not in ran.stderr


def test_status_waits_with_watch_and_prints_once(job: Path) -> None:
    printed = called("status", job.parent / "out", "--watch", "--json")
    assert checked("status", printed, is_failure=False)["status"] == "finished"


# ------------------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StorageError("the disk is full"), ("StorageError", "stopped", "disk")),
        (RunStopped("no credit", "credit"), ("RunStopped", "stopped", "credit")),
        (FolderBusy("held"), ("FolderBusy", "busy", None)),
        (JobError("wrong"), ("JobError", "refused", None)),
        (Signalled(signal.SIGHUP), ("Interrupted", "interrupted", "signal")),
        (KeyboardInterrupt(), ("Interrupted", "interrupted", "signal")),
        (ExceptionGroup("many", [OSError(errno.EIO, "broken")]), ("OSError", "stopped", "error")),
    ],
)
def test_how_an_error_is_called(error: BaseException, said: tuple[str, str, str | None]) -> None:
    found = json_failure.failure(error, 3, "words", ["note"], None)
    assert (found["error"], found["status"], found["stopped_by"]) == said
    jsonschema_rs.validator_for({"$ref": "#/$defs/failure", "$defs": SCHEMA["$defs"]}).validate(found)


def test_the_schema_is_one_and_has_every_field() -> None:
    jsonschema_rs.meta.validate(SCHEMA)
    definitions = SCHEMA["$defs"]
    assert {*VERBS} <= definitions.keys()
    assert list(definitions["run_json"]["properties"]) == list(RunState("r", "job", "out", 0.0, {}).state(0.0))
    with contextlib.suppress(JobError), Attempt() as attempt:
        line = attempt.skipped("why")
    assert list(definitions["history_line"]["properties"]) == list(line)
    assert list(definitions["failure"]["properties"]) == list(json_failure.failure(JobError("w"), 2, "w", [], None))


def test_the_page_has_every_verb_and_every_field_of_a_failure() -> None:
    first = re.findall(r"(?m)^\| `(\w+)` \|", DOCUMENT)
    assert first[: len(VERBS)] == sorted(VERBS, key=first.index)
    assert first[len(VERBS) :] == list(SCHEMA["$defs"]["failure"]["properties"])
