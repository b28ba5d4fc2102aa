"""Runs whose prompts put in files, against an endpoint that keeps what it was asked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex import attachments
from batchflex.attachments import finder
from batchflex.core import TIMINGS, InputError, JobError
from batchflex.engine import attached_files
from batchflex.plan import plan
from batchflex.report import sample_rows
from tests.support.command_line import called
from tests.support.counting_endpoint import CountingEndpoint
from tests.support.files import pdf, picture, sent_image

PROMPT = "What is it? {{ photo | image(max_side=64) }}"


class Case:
    """A table beside a folder of photos, and a job over it."""

    def __init__(self, folder: Path, endpoint: CountingEndpoint) -> None:
        endpoint.knobs(keep_bodies=True, answer="a thing")
        self.folder, self.endpoint = folder, endpoint
        self.rows: list[dict[str, Any]] = []
        self.more: dict[str, Any] = {}
        (folder / "in" / "photos").mkdir(parents=True)

    def photo(self, name: str, data: bytes) -> str:
        (self.folder / "in" / "photos" / name).write_bytes(data)
        self.rows.append({"id": name.split(".")[0], "photo": f"photos/{name}"})
        return f"photos/{name}"

    def job(self, prompt: str | dict[str, Any] = PROMPT, **more: dict[str, Any]) -> Path:
        pl.DataFrame(self.rows, infer_schema_length=None).write_parquet(self.folder / "in" / "rows.parquet")
        data: dict[str, Any] = {
            "job": {"out": str(self.folder / "out")},
            "endpoint": {"base_url": self.endpoint.base_url},
            "input": {"path": "in/rows.parquet"},
            "prompt": {"user": prompt} if isinstance(prompt, str) else prompt,
            "params": {"model": "m", "max_tokens": 20},
            "retry": {"base_s": 0.01},
            "limits": {"concurrency": 4},
        }
        for name, table in more.items():
            data[name] = data.get(name, {}) | table
        path = self.folder / "job.toml"
        path.write_text("\n".join(_toml(name, table) for name, table in data.items()))
        return path

    def run(self, prompt: str | dict[str, Any] = PROMPT, **more: dict[str, Any]) -> batchflex.Run:
        return batchflex.run(self.job(prompt, **more))

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        return {
            row["id"]: row for row in pl.read_parquet(self.folder / "out" / "results.parquet").iter_rows(named=True)
        }

    def asked(self) -> list[list[dict[str, Any]]]:
        """The contents of the last messages that were asked, as parts."""
        return [each["body"]["messages"][-1]["content"] for each in self.endpoint.log()]


def _toml(name: str, table: dict[str, Any]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())])


@pytest.fixture
def case(tmp_path: Path, endpoint: CountingEndpoint) -> Case:
    return Case(tmp_path, endpoint)


def test_what_arrives_is_an_image_of_the_size_that_was_asked_for(case: Case) -> None:
    case.photo("large.jpg", picture(400, 200))
    case.photo("small.png", picture(60, 40, "PNG"))
    case.photo("upright.tif", picture(50, 100, "TIFF"))
    ended = case.run("What is it? {{ photo | image(max_side=64, detail='low') }} Be brief.")
    assert ended.exit_code == 0 and ended.summary["ok"] == 3
    sizes = set()
    for before, photo, after in case.asked():
        assert (before["text"], after["text"]) == ("What is it? ", " Be brief.")
        assert photo["type"] == "image_url" and photo["image_url"]["detail"] == "low"
        sizes.add(sent_image(photo["image_url"]["url"]).size)
    assert sizes == {(64, 32), (60, 40), (32, 64)}


def test_nothing_of_an_image_is_kept_in_the_folder(case: Case) -> None:
    noise = bytes(range(256)) * 40
    case.photo("a.png", picture(60, 40, "PNG") + noise)
    case.endpoint.knobs(echo=True, script=["400", "500"])
    case.photo("b.png", picture(61, 40, "PNG") + noise)
    case.run("{{ photo | image }}", log={"file": "log.jsonl", "prompts": True})
    assert sent_image(case.asked()[0][0]["image_url"]["url"]).size[1] == 40
    for path in case.folder.rglob("*"):
        if path.suffix == ".parquet" and "in" not in path.parts[-2:]:
            assert "base64,iVBOR" not in json.dumps(pq.read_table(path).to_pylist(), default=str)
        elif path.is_file():
            assert b"base64,iVBOR" not in path.read_bytes(), path
    assert "<batchflex:image" not in (case.folder / "out" / "job.toml").read_text()
    (failed,) = (row for row in case.results.values() if row["status"] == "failed")
    assert "data:image/png;base64,…" in failed["response"]


def test_documents_and_texts(case: Case) -> None:
    case.photo("a.pdf", pdf("Attention", "is all", "you need"))
    (case.folder / "in" / "notes.txt").write_text('A "note"\nü')
    case.rows[0]["notes"] = "notes.txt"
    prompt = "<doc>{{ photo | pdf_text(pages='1-2') }}</doc> {{ notes | file_text(max_chars=8) }}"
    ended = case.run({"system": "Rules: {{ notes | file_text }}", "user": prompt})
    assert ended.exit_code == 0
    (asked,) = (each["body"]["messages"] for each in case.endpoint.log())
    assert asked == [
        {"role": "system", "content": 'Rules: A "note"\nü'},
        {"role": "user", "content": '<doc>Attention\n\nis all</doc> A "note"'},
    ]
    # Pinned, like those of tests/golden: a later version must not ask it again.
    assert case.results["a"]["key"] == "aae2a86e7eae520a6e389cc530352bed"


def test_a_file_that_cannot_be_sent_fails_its_row_alone(case: Case) -> None:
    case.photo("good.jpg", picture())
    case.photo("cut.jpg", picture(300, 300)[:2000])
    case.photo("text.jpg", b"I am text")
    case.rows += [{"id": "gone", "photo": "photos/gone.jpg"}, {"id": "outside", "photo": "/etc/hostname"}]
    case.rows += [{"id": "null", "photo": None}, {"id": "remote", "photo": "https://example.com/a.jpg"}]
    found = json.loads(called("plan", case.job("See {{ photo | image }}"), "--json").out)
    assert (found["left"], found["unreadable"], found["unaskable"]) == (4, 3, 0)
    assert found["first_unreadable"].startswith("row text: 'photos/text.jpg' is no image")
    ended = called("run", case.folder / "job.toml", "--json")
    assert ended.code == 1 and ended.summary["failed"] == 4 and ended.summary["ok"] == 3
    results = case.results
    for name, words in {
        "cut": "'photos/cut.jpg' is a damaged image (", "text": "'photos/text.jpg' is no image",
        "gone": f"'photos/gone.jpg' is not there ({case.folder}/in/photos/gone.jpg)",
        "outside": f"'/etc/hostname' is outside of {case.folder}/in, the folder of the input",
    }.items():  # fmt: skip
        row = results[name]
        assert (row["status"], row["error_type"], row["attempts"]) == ("failed", "file", 0)
        assert row["error_message"].startswith(words)
        assert row["requested_model"] is None and row["started_at"].year > 2000
    assert case.endpoint.stats()["requests"] == 3
    urls = [
        part["image_url"]["url"]
        for asked in case.asked()
        for part in asked
        if isinstance(part, dict) and "image_url" in part
    ]
    assert "https://example.com/a.jpg" in urls and "See " in case.asked()
    assert "'photo' is null or empty are asked without that file" in ended.err


def test_where_no_file_is_there_the_job_is_wrong_and_nothing_is_sent(case: Case) -> None:
    case.rows = [{"id": str(n), "photo": f"pictures/{n}.jpg"} for n in range(7)]
    with pytest.raises(InputError) as raised:
        case.run()
    assert str(raised.value).startswith(
        "none of the files that rows name can be sent (7 looked at):\n  - 'pictures/0.jpg' is not there"
    )
    assert "Nothing was sent. Paths are relative to the folder of the input, or to input.files" in str(raised.value)
    assert case.endpoint.stats()["requests"] == 0
    assert case.run(input={"on_bad_row": "fail"}).summary["failed"] == 7


def test_what_is_mended_is_asked_and_nothing_else(case: Case) -> None:
    for name in "ab":
        case.photo(f"{name}.jpg", picture())
    case.rows.append({"id": "c", "photo": "photos/c.jpg"})
    assert case.run().summary["failed"] == 1
    (case.folder / "in" / "photos" / "c.jpg").write_bytes(picture(50, 50))
    assert case.run().summary["ok"] == case.run().summary["ok"] == 3
    assert case.endpoint.stats()["requests"] == 3
    assert {row["status"] for row in case.results.values()} == {"ok"}


def test_files_may_move_and_be_touched_without_being_asked_again(case: Case) -> None:
    for name in "ab":
        case.photo(f"{name}.jpg", picture(ord(name), 40))
    case.run()
    keys = {name: row["key"] for name, row in case.results.items()}
    (case.folder / "in" / "photos").rename(case.folder / "in" / "moved")
    for row in case.rows:
        row["photo"] = row["photo"].replace("photos", "moved")
    os.utime(case.folder / "in" / "moved" / "a.jpg")
    case.run()
    assert {name: row["key"] for name, row in case.results.items()} == keys
    assert case.endpoint.stats()["requests"] == 2


def test_a_changed_file_is_a_changed_job_though_the_table_is_as_it_was(case: Case) -> None:
    for name in "ab":
        case.photo(f"{name}.jpg", picture())
    path = case.job()
    assert batchflex.run(path).summary["ok"] == 2
    (case.folder / "in" / "photos" / "a.jpg").write_bytes(picture(44, 44))
    ended = called("run", path)
    assert (
        ended.code == 2
        and "1 of 2 requests would now be sent differently" in ended.err
        and "files that they name" in ended.err
    )
    assert called("run", path, "--on-change", "rerun").code == 0
    assert sent_image(case.asked()[-1][1]["image_url"]["url"]).size == (44, 44)
    assert case.endpoint.stats()["requests"] == 3


def test_a_file_that_changes_between_plan_and_sending_is_not_sent(case: Case) -> None:
    for name in ("a", "b"):
        case.photo(f"{name}.jpg", picture())
    case.endpoint.knobs(script=["500"])
    path = case.folder / "in" / "photos" / "b.jpg"

    class Watching:
        """Changes the second file while the first is asked."""

        def note(self, text: str) -> None:
            if text.startswith("asking "):
                path.write_bytes(picture(44, 44))

        def tick(self, run_state: Any) -> None: ...

    batchflex.run(case.job(), observer=Watching())
    row = case.results["b"]
    assert row["status"] == "failed"
    assert (
        row["error_message"]
        == "'photos/b.jpg' has changed since it was planned; run the same command again to send it as it is now"
    )
    assert batchflex.run(case.folder / "job.toml").summary["ok"] == 2
    assert sent_image(case.asked()[-1][1]["image_url"]["url"]).size == (44, 44)


def test_what_was_hashed_once_is_not_read_again_by_the_next_run(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        case.photo(f"{name}.jpg", picture(ord(name), 40))
    path = case.job()
    monkeypatch.setattr(TIMINGS, "young_file_s", 0.0)
    reads: list[Path] = []
    read = finder.read
    monkeypatch.setattr(finder, "read", lambda path: reads.append(path) or read(path))
    assert [batchflex.run(path).summary["ok"] for _ in range(3)] == [3, 3, 3]
    assert len(reads) == 3 and case.endpoint.stats()["requests"] == 3
    (case.folder / "in" / "photos" / "b.jpg").write_bytes(picture(99, 41))
    assert called("run", path, "--on-change", "rerun").code == 0
    assert len(reads) == 4 and case.endpoint.stats()["requests"] == 4
    (case.folder / "out" / "inputs.jsonl").unlink()
    assert batchflex.run(path).summary["ok"] == 3
    assert len(reads) == 7 and case.endpoint.stats()["requests"] == 4


def test_it_is_told_while_many_files_are_read(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_TELL_EVERY_S", 0.0)
    case.photo("a.jpg", picture())
    words = "reading the files that rows name, to know what is asked: up to row 1, 0.0 GB so far"
    for verb in ("plan", "run"):
        assert words in called(verb, case.job()).err


def test_files_from_a_folder_that_the_job_names(case: Case) -> None:
    store = case.folder / "store"
    store.mkdir()
    (store / "a.jpg").write_bytes(picture())
    case.rows = [{"id": "near", "photo": "a.jpg"}, {"id": "absolute", "photo": str(store / "a.jpg")}]
    assert case.run(input={"files": "store"}).summary["ok"] == 2
    with pytest.raises(JobError, match=r"input.files: there is no folder .*/shop"):
        case.run(input={"files": "shop"})


@pytest.mark.parametrize(("name", "most"), [("_MOST_HELD", 10_000), ("_MOST_AHEAD", 1)])
@pytest.mark.parametrize(
    "script", [["500", "429", "500"], ["503", "503", "429"], ["503"] * 6], ids=["of rows", "of the endpoint", "long"]
)
def test_bodies_wait_for_room_and_all_are_sent(
    name: str, most: int, script: list[str], case: Case, monkeypatch: pytest.MonkeyPatch, brisk: None
) -> None:
    monkeypatch.setattr(attached_files, name, most)
    for number in range(12):
        case.photo(f"{number}.png", picture(40, 40 + number, "PNG") + b"\0" * 6000)
    case.endpoint.knobs(script=script, retry_after_s=0.01)
    assert case.run("{{ photo | image }}").summary["ok"] == 12
    assert case.endpoint.stats()["max_in_flight"] <= (2 if name == "_MOST_HELD" else 4)


def test_a_run_that_stops_reads_no_more_files(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    content_of = attachments.content_of
    monkeypatch.setattr(
        attachments, "content_of", lambda file, *more: read.append(file.name) or content_of(file, *more)
    )
    monkeypatch.setattr(attached_files, "_MOST_HELD", 1)
    for number in range(12):
        case.photo(f"{number:02}.png", picture(40, 40 + number, "PNG"))
    ended = case.run("{{ photo | image }}", limits={"budget_requests": 1})
    assert ended.stopped_by == "budget" and ended.summary["ok"] == 1
    assert len(read) == 2


def test_an_answer_that_does_not_fit_is_asked_again_with_the_same_image(case: Case) -> None:
    case.photo("a.jpg", picture())
    case.endpoint.knobs(answer="no JSON")
    schema = {"answer": {"max_reasks": 1, "fallback": "prompt"}}
    path = case.job(PROMPT, **schema)
    path.write_text(path.read_text() + '\n[answer.json_schema]\ntype = "object"\n')
    batchflex.run(path)
    first, second = (each["body"]["messages"] for each in case.endpoint.log())
    assert second[: len(first)] == first and len(second) == len(first) + 2
    assert case.results["a"]["status"] == "invalid"


def test_a_budget_counts_images_by_their_pixels_and_texts_by_their_length(case: Case) -> None:
    case.photo("a.png", picture(280, 280, "PNG") + b"\0" * 200_000)
    (case.folder / "in" / "long.txt").write_text("word " * 2_000)
    case.rows[0]["notes"] = "long.txt"
    ended = case.run("{{ photo | image }}", limits={"budget_tokens": 1_500})
    assert ended.summary["ok"] == 1
    ended = case.run(
        "{{ notes | file_text }}", limits={"budget_tokens": 9_000}, job={"out": str(case.folder / "other")}
    )
    assert ended.stopped_by == "budget" and "the next request may use 10,1" in ended.summary["message"]


def test_plan_shows_what_is_put_in_and_what_it_takes(case: Case) -> None:
    case.photo("a.jpg", picture(280, 140))
    ended = called("plan", case.job("{{ photo | image(max_side=112) }}"))
    assert "8 of them for 1 file (1 for 28 × 28 pixels, " in ended.out
    assert '"url": "<image photos/a.jpg, max_side = 112, ' in ended.out and "base64" not in ended.out
    assert case.endpoint.stats()["requests"] == 0


def test_a_frame_may_name_files_below_the_current_folder(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.photo("a.jpg", picture())
    monkeypatch.chdir(case.folder / "in")
    frame = pl.DataFrame({"photo": ["photos/a.jpg", "../job.toml"]})
    answered = batchflex.complete(frame, user="{{ photo | image }}", model="m", endpoint=case.endpoint.base_url)
    assert answered["status"].to_list() == ["ok", "failed"]


def test_a_retry_and_the_report_know_the_files(case: Case) -> None:
    case.photo("a.jpg", picture())
    case.endpoint.knobs(obey_max_tokens=True, answer="one two three")
    case.run(params={"max_tokens": 2})
    out = case.folder / "out"
    assert case.results["a"]["status"] == "truncated"
    assert called("retry", out, "--where", "status = 'truncated'", "--set", "max_tokens=9").code == 0
    assert case.results["a"]["status"] == "ok"
    assert sent_image(case.asked()[-1][1]["image_url"]["url"]).size == (60, 40)
    key = bytes.fromhex(case.results["a"]["key"])
    shown = sample_rows.prompts(
        plan.Plan(batchflex.load_job(case.folder / "job.toml")),
        [(key, sample_rows.Row((), (), {"row": 0}, {}, {}, None))],
    )
    assert shown[key][0].text.startswith("What is it? \n<image photos/a.jpg, max_side = 64, ")


def test_an_image_is_sent_in_a_stream_and_under_another_name_of_the_model(case: Case) -> None:
    case.photo("a.jpg", picture())
    path = case.job(endpoint={"stream": True})
    path.write_text(path.read_text().replace("[endpoint]", '[[endpoints]]\nmodel = "theirs"'))
    assert batchflex.run(path).summary["ok"] == 1
    (asked,) = (each["body"] for each in case.endpoint.log())
    assert asked["model"] == "theirs" and asked["stream"] is True
    assert sent_image(asked["messages"][0]["content"][1]["image_url"]["url"]).size == (60, 40)


def test_a_judge_may_see_the_image_too(case: Case) -> None:
    case.photo("a.jpg", picture())
    path = case.job(input={"carry": ["photo"], "files": "in"})
    judge = '[[score]]\nname = "right"\nkind = "judge"\n[score.judge]\nrubric = "{{ photo | image }} Is it {{ content }}?"\n'
    path.write_text(f"{path.read_text()}\n{judge}")
    case.endpoint.knobs(answer='{"reason": "it is", "grade": 5}')
    ended = batchflex.run(path)
    assert ended.scores is not None and ended.scores["points"][0]["scores"]["right"]["mean"] == 1.0
    photo, words = case.asked()[-1]
    assert sent_image(photo["image_url"]["url"]).size == (60, 40) and words["text"].startswith(" Is it {")
