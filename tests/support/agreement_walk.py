"""A seeded walk over what may happen to a job, its input and its folder, for test_agreement.py, which says what is checked."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import batchflex
from batchflex.cli import plan_text
from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.core.errors import JobChanged
from batchflex.core.types import Outcome
from batchflex.engine import retry_rows
from batchflex.results import compact, refresh, view
from batchflex.storage import FolderStore, ResultsFiles, part_files
from batchflex.storage.output_folder import Folder
from tests.support import oracle
from tests.support.agreement_case import Input
from tests.support.counting_endpoint import CountingEndpoint, Knobs
from tests.support.oracle import Answer, Judged, Row, Setting, judge, signature
from tests.support.runs import killed
from tests.support.young_files import aged


class Walk:
    """A job, its input and its folder, and what the last step was."""

    def __init__(self, seed: int, folder: Path, endpoint: CountingEndpoint) -> None:
        self.random = random.Random(seed)
        self.as_folder = seed % 4 in (1, 2)  # what the table of results is
        self.folder, self.out, self.endpoint = folder, folder / "out", endpoint
        self.told: list[str] = []
        self._texts = 0
        self._labeller = random.Random(-1 - seed)  # corrects what is carried along, between the steps
        self.named = self.random.choice(["all", "none", "some", "shared"])
        shape = self.random.choice(["jsonl", "jsonl", "csv", "parquet"])
        self.has_labels = self.random.random() < 0.4
        names = ["b"] if self.random.random() < 0.4 else ["b", "d"]
        files = {f"{name}.{shape}": [self.new_row(shape) for _ in range(self.random.randint(2, 5))] for name in names}
        self.input = Input(folder / "in", shape, files, is_glob=self.random.random() < 0.3)
        self.gone: dict[str, list[Row]] = {}
        judges = self.random.choice([None, None, None, "reasks", "grows"])
        self.judges = judges
        self.setting = Setting(
            shape=shape,
            max_tokens=self.random.choice([None, 8]) if not judges else 8,
            swept=self.random.choice([(), (), (0.5,), (0.5, 0.7)]),
            samples=self.random.choice([1, 1, 2]),
            dedupe=self.random.random() < 0.15,
            retry_failed=self.random.choice([0, 1, 3]),
            judges_answers=judges is not None,
            # Not both, see test_growing_takes_none_of_the_reasks.
            max_reasks=self.random.choice([0, 1, 2]) if judges == "reasks" else 0,
            grow=self.random.choice([None, None, 16]) if judges != "reasks" else None,
        )
        self.begun_with: tuple[Any, ...] | None = None  # what shaped the job of the last run that began
        self.begun_on_change = "stop"
        self.begun: Setting = self.setting
        self.poison: dict[str, str] = {}
        self.turns = 0
        self.shown: set[tuple[Any, ...]] | None = None  # what `results` showed when the last run ended
        self.is_stale = False

    # ---------------------------------------------------------------------------------------------------- the input

    def new_text(self) -> str:
        self._texts += 1
        return f"t{self._texts:03d}."

    def new_row(self, shape: str) -> Row:
        text = self.new_text()
        row: Row = {}
        if self.named == "all" or (self.named == "some" and shape == "jsonl" and self.random.random() < 0.5):
            row["id"] = f"r{self._texts}"
        elif self.named == "shared":
            row["id"] = f"r{self._texts % 4}"
        if shape == "jsonl" and self.random.random() < 0.06:
            row["nothing"] = text  # no request can be made of it
        elif shape == "jsonl":
            row["messages"] = [{"role": "user", "content": text}]
        else:
            row["text"] = text
        row[oracle.CARRIED] = f"g{self._texts}"
        if self.has_labels and (shape != "jsonl" or self.random.random() < 0.7):
            row["label"] = self.random.choice("xy")
        return row

    def any_file(self) -> str:
        return self.random.choice(sorted(self.input.files))

    def append_rows(self) -> str:
        name = self.any_file()
        self.input.append(name, [self.new_row(self.setting.shape) for _ in range(self.random.randint(1, 3))])
        return name

    def edit_text(self) -> str:
        name = self.any_file()
        row = self.random.choice(self.input.files[name])
        if self.setting.shape == "jsonl":
            row["messages"] = [{"role": "user", "content": self.new_text()}]
        else:
            row["text"] = self.new_text()
        self.input.write(name)
        return name

    def edit_label(self) -> str:
        name = self.any_file()
        row = self.random.choice(self.input.files[name])
        if "label" in row or self.setting.shape == "jsonl":
            row["label"] = "z"
        self.input.write(name)
        return name

    def correct(self) -> str:
        """Something else is carried along from now on by a row."""
        name = self._labeller.choice(sorted(self.input.files))
        row = self._labeller.choice(self.input.files[name])
        row[oracle.CARRIED] = f"c{self._labeller.randrange(1_000)}"
        self.input.write(name)
        return f"{name}: {row[oracle.CARRIED]}"

    def refresh(self) -> None:
        """The results get what is carried now, and no other rows."""
        done = refresh(Folder(self.out))
        assert done.warning is None
        self.told.append(f"refresh: {done.note}")
        assert self._results() == self.shown, "the results have other rows"
        self._check_carried(self.judged(keeps=self.begun_on_change == "keep", setting=self.begun))

    def _check_carried(self, judged: Judged) -> None:
        """Which of equal requests an answer belongs to is left open."""
        rows, places = self.input.rows, judged.places()
        for row in self._table():
            if row["key"] in places:
                there = {rows[at][oracle.CARRIED] for at, _ in places[row["key"]]}
                assert row[oracle.CARRIED] in there, "the input has something else to carry now"

    def reorder(self) -> str:
        name = self.any_file()
        self.random.shuffle(self.input.files[name])
        self.input.write(name)
        return name

    def delete_rows(self) -> str:
        name = self.any_file()
        rows = self.input.files[name]
        if len(rows) > 1:
            del rows[self.random.randrange(len(rows))]
        self.input.write(name)
        return name

    def duplicate_row(self) -> str:
        source, name = self.any_file(), self.any_file()
        copy = json.loads(json.dumps(self.random.choice(self.input.files[source])))
        if self.random.random() < 0.5:
            self.input.append(name, [copy])
        else:
            self.input.files[name].insert(self.random.randint(0, len(self.input.files[name])), copy)
            self.input.write(name)
        return f"{source} → {name}"

    def add_file(self) -> str:
        if Path(self.input.path).is_file():
            return "no: the job names one file"
        if self.gone and self.random.random() < 0.6:
            name = self.random.choice(sorted(self.gone))
            rows = self.gone.pop(name)
        else:
            free = [
                f"{c}.{self.setting.shape}" for c in "abcdefg" if f"{c}.{self.setting.shape}" not in self.input.files
            ]
            name = self.random.choice(free)
            rows = [self.new_row(self.setting.shape) for _ in range(self.random.randint(1, 3))]
            self.gone.pop(name, None)
        self.input.files[name] = rows
        self.input.write(name)
        return name

    def remove_file(self) -> str:
        if len(self.input.files) < 2:
            return "no: there is one file"
        name = self.any_file()
        self.gone[name] = self.input.remove(name)
        return name

    def touch(self) -> str:
        name = self.any_file()
        os.utime(self.input.folder / name)
        return name

    # ------------------------------------------------------------------------------------------------------ the job

    def change_job(self) -> str:
        setting, pick = self.setting, self.random.choice
        change: dict[str, Any] = pick(
            [
                {"temperature": pick([None, 0.1, 0.2])},
                {"model": pick(["m", "n"])},
                {"swept": pick([(), (0.5,), (0.5, 0.7), (0.7, 0.5, 0.9)])},
                {"samples": pick([1, 2, 3])},
                {"limit": pick([None, 2, 4])},
                {"retry_failed": pick([0, 1, 3])},
                {"grow": pick([None, 16, 32])} if self.judges != "reasks" else {"max_reasks": pick([0, 1, 2])},
            ]
        )
        self.setting = dataclasses.replace(setting, **change)
        return f"{change}"

    def job(self, on_change: str = "stop", **limits: Any) -> Job:
        aged(*self.input.folder.iterdir())
        tables = self.setting.tables(self.input.path, self.out, self.endpoint.base_url)
        tables["job"] |= {"on_change": on_change, "results": "folder" if self.as_folder else "file"}
        tables["limits"] |= limits
        tables["journal"] = {"seal_rows": self.random.choice([2, 3, 1_000])}
        return build(tables)

    def judged(self, *, keeps: bool = False, setting: Setting | None = None) -> Judged:
        return judge(setting or self.setting, self.input.rows, oracle.answers(self.out), keeps=keeps)

    # ----------------------------------------------------------------------------------------------------- the runs

    def misbehave(self) -> None:
        """Some texts fare otherwise from now on."""
        self.turns += 1
        faults = ["422", "422", "finish_length", "empty_content", "finish_content_filter"]
        texts = {row["messages"][0]["content"] if "messages" in row else row.get("text") for row in self.input.rows}
        chosen = [text for text in sorted(filter(None, texts)) if self.random.random() < 0.25]
        self.poison = {text: self.random.choice(faults) for text in chosen}
        knobs: dict[str, Any] = {"poison": self.poison, "keep_bodies": True, "obey_max_tokens": True}
        if self.setting.judges_answers:
            knobs |= {
                "answer": f'{{"label": "good", "turn": {self.turns}}}',
                "unfit": 0.4,
                "unfit_answer": self.random.choice(['{"label": "neither"}', f'{{"label": "{"neither " * 10}"}}']),
                "seed": self.random.choice([0, self.turns]),
            }
        else:
            words = " word" * self.random.choice([1, 1, 20])
            knobs |= {"answer": f"turn {self.turns}{words}"}
        self.endpoint.knobs(**vars(Knobs()) | knobs)

    def run(self) -> str:
        how = self.random.choice(["whole", "whole", "whole", "budget", "killed", "killed", "no key"])
        on_change = self.random.choice(["stop", "stop", "rerun", "keep"])
        told = f"{how}, {on_change}"
        self.misbehave()
        before = oracle.answers(self.out)
        expected = self.judged(keeps=on_change == "keep")
        has_changed = self.begun_with is not None and self.begun_with != self.setting.shaping
        most = self.random.randint(1, 4)
        self.endpoint.reset()
        if on_change == "stop" and expected.refused(has_changed=has_changed):
            with pytest.raises(JobChanged):
                batchflex.run(self.job(on_change))
            assert self.endpoint.log() == []
            assert oracle.answers(self.out) == before
            self.told.append(f"run: {told}: refused")
            on_change = self.random.choice(["rerun", "keep"])
            told = f"{how}, {on_change}"
            expected = self.judged(keeps=on_change == "keep")
        self.told.append(f"run: {told}, at most {most}")
        if how == "no key":
            self.endpoint.knobs(fail_after=most, fail_with="401")
        job = self.job(on_change, **({"budget_requests": most} if how == "budget" else {}))
        ended = killed(job, self.endpoint, most) if how == "killed" else batchflex.run(job)
        self.begun_with, self.begun, self.begun_on_change = self.setting.shaping, self.setting, on_change
        self.is_stale = False
        is_whole = ended is not None and ended.stopped_by is None
        assert is_whole or how != "whole", ended and ended.summary["message"]
        self._check_sent(before, expected.left, is_whole=is_whole)
        if ended is None:
            self.shown = None
            return ""
        self._check_ended(ended, on_change, is_whole=is_whole)
        return ""

    def _check_sent(self, before: list[Answer], left: list[oracle.Planned], *, is_whole: bool) -> None:
        log = self.endpoint.log()
        wanted = {each.key: each for each in left}
        # Outcomes that a run has voided are in the folder, and yet none.
        now = oracle.answers(self.out)
        new = now[len(before) :] if _by_key(now[: len(before)]) == _by_key(before) else None
        assert new is not None, "what was there has changed"
        keys = {answer["key"] for answer in new}
        assert keys <= wanted.keys(), "something was asked that was not left"
        if is_whole:
            assert keys == wanted.keys(), "something that was left was not asked"
        sent = Counter(signature(record["body"]) for record in log)
        possible = Counter(signature(each.body) for each in left if each.body)
        assert sent.keys() <= possible.keys(), "another request was sent"
        if is_whole:
            assert sent == Counter(signature(body) for answer in new if (body := wanted[answer["key"]].body))
            if not self.setting.max_reasks and self.setting.grow is None:
                assert sent == possible

    def _check_ended(self, ended: batchflex.Run, on_change: str, *, is_whole: bool) -> None:
        now = self.judged(keeps=on_change == "keep")
        self._check_table(now)
        if is_whole:
            assert ended.summary["planned"] == len(now.planned) == len(now.shown)

    def retry(self) -> str:
        told = self._sight()
        if told is None:
            return "no: no run has begun"
        statuses, left = told
        self.misbehave()
        before = oracle.answers(self.out)
        self.endpoint.reset()
        where = f"status IN ({', '.join(map(repr, statuses))})"
        self.told.append(f"retry: {where}")
        ended = batchflex.retry(
            self.out, where=where, settings={"limits.budget_requests": 10_000}
        )  # the run's may be less
        assert ended.stopped_by is None, ended.summary["message"]
        log = self.endpoint.log()
        sent = Counter(signature(record["body"]) for record in log)
        possible = Counter(signature(each.body) for each in left if each.body)
        assert sent.keys() == possible.keys(), "the retry has sent others"
        if not self.begun.max_reasks and self.begun.grow is None:
            assert sent == possible
        keys = {answer["key"] for answer in oracle.answers(self.out)[len(before) :]}
        assert keys <= {each.key for each in left}
        keeps = self.begun_on_change != "rerun"
        judged = self.judged(keeps=keeps, setting=self.begun)
        if left:
            self._check_table(judged)
        return ""

    def _table(self) -> list[dict[str, Any]]:
        table = ResultsFiles(Folder(self.out))
        assert table.is_of_kind(as_folder=self.as_folder)
        return [row for path in table.paths for row in pq.read_table(path).to_pylist()]

    def _check_table(self, judged: Judged) -> None:
        rows = self._table()
        self.shown = {(row["key"], row["status"], row["content"]) for row in rows}
        assert self.shown == judged.table()
        assert len(self.shown) == len(rows), "a key comes twice"
        places, found = judged.places(), [(row["row"], row["sample"]) for row in rows]
        assert all(place in places[row["key"]] for row, place in zip(rows, found, strict=True)), (
            "an answer is beside another row"
        )
        assert [row for row, _ in found] == sorted(row for row, _ in found)
        given = self.input.rows
        assert all(row[oracle.CARRIED] == given[row["row"]][oracle.CARRIED] for row in rows), "it was corrected since"
        assert len({(*place, row.get("top_p")) for row, place in zip(rows, found, strict=True)}) == len(rows)

    def _sight(self) -> tuple[list[str], list[oracle.Planned]] | None:
        """What a retry would ask is what the oracle says."""
        if not (self.out / "job.toml").exists():
            return None
        self.job()
        statuses = self.random.choice([["failed"], ["truncated", "empty"], ["ok"], ["failed", "invalid", "filtered"]])
        chosen = {key for key, status, _ in self._results() if status in statuses}
        where = f"status IN ({', '.join(map(repr, statuses))})"
        self.told.append(f"retry --dry-run: {where}")
        self.shown = self._results()  # a table is made of them, which stays
        facts = retry_rows.preview(retry_rows.retry_of(self.out, where)).facts
        judged = self.judged(keeps=self.begun_on_change == "keep", setting=self.begun)
        left = [each for each in judged.planned if each.key in judged.shown and judged.shown[each.key]["key"] in chosen]
        assert facts["rows"] == len(chosen)
        assert facts["asked"] == len(left), "the retry chooses others"
        return statuses, left

    def dry_run(self) -> str:
        return "" if self._sight() else "no"

    # ---------------------------------------------------------------------------------------------------- the folder

    def compact(self) -> str:
        if not (self.out / "parts").exists():
            return "no: nothing is there"
        drops = self.random.random() < 0.5
        folder = Folder(self.out)
        with folder.held():
            before = datetime.datetime(2100, 1, 1, tzinfo=datetime.UTC) if drops else None
            compact.carry_out(compact.preview(folder, "1d" if drops else None, before))
        return "drops what is superseded" if drops else "merges"

    def move_part(self) -> str:
        parts = sorted((self.out / "parts").glob("[0-9]*.parquet")) if (self.out / "parts").exists() else []
        if not parts:
            return "no: nothing is there"
        part = self.random.choice(parts)
        (self.folder / "moved").mkdir(exist_ok=True)
        part.rename(self.folder / "moved" / f"{len(self.told)}-{part.name}")
        self.is_stale = True
        return part.name

    def put_back(self) -> str:
        moved = sorted((self.folder / "moved").glob("*.parquet"))
        if not moved:
            return "no: none was moved"
        part = self.random.choice(moved)
        name = part.name.partition("-")[2]
        numbers = [int(number) for number in re.findall(r"\d+", name)][:2]
        taken = {int(path.stem) for path in (self.out / "journal").glob("*.journal")}
        if any(first <= numbers[-1] and numbers[0] <= last for first, last, _ in oracle.part_files(self.out / "parts")):
            return "no: its number is taken"
        if any(numbers[0] <= number <= numbers[-1] for number in taken):
            return "no: its number is taken"
        part.rename(self.out / "parts" / name)
        self.is_stale = True
        return name

    def forget(self) -> str:
        """What CONTRACT.md says may be deleted."""
        name = self.random.choice(["inputs.jsonl", "run.json", "results.parquet", "standing.bin"])
        name = "results-table.json" if self.as_folder and name == "results.parquet" else name
        if name.startswith("results") and self.shown is not None:
            return "no: the view is not promised to be the table"
        (self.out / name).unlink(missing_ok=True)
        return name

    def answer_as_then(self) -> str:
        """A part as an earlier version left it, which sent every column of a row."""
        former = oracle.former_keys(self.setting, self.input.rows[: self.setting.limit])
        if not former or oracle.answers(self.out):
            return "no: there is none"
        outcomes = []
        for each in self.judged().planned:
            key = former.get((each.row, each.point, each.sample))
            if key is not None and self.random.random() < 0.5:
                outcomes.append(
                    Outcome(
                        key=key,
                        slot=each.slot,
                        id=each.id,
                        row=each.row,
                        sample=each.sample,
                        status="ok",
                        attempts=1,
                        started_at=1,
                        finished_at=2,
                        endpoint="then",
                        run_id="then",
                        content="then",
                        point=each.point,
                    )
                )
        (self.out / "parts").mkdir(parents=True, exist_ok=True)
        part_files.write_part(FolderStore(self.out / "parts"), 1, outcomes)
        return f"{len(outcomes)} answers"

    # ---------------------------------------------------------------------------------------------------- the checks

    def _results(self) -> set[tuple[Any, ...]]:
        stored = view.results_of(Folder(self.out))
        rows = [row for batch in stored.batches(["key", "status", "content"]) for row in batch.to_pylist()]
        return {tuple(row.values()) for row in rows}

    def check(self) -> None:
        """`plan` and `results` tell what the oracle does."""
        on_change = self.random.choice(["stop", "rerun", "keep"])
        found = plan_text.forecast(self.job(on_change))
        judged = self.judged()
        kept = self.judged(keeps=True) if on_change == "keep" else judged
        told = {
            "requests": len(judged.planned),
            "left": len(kept.left),
            "done": kept.done,
            "changed": len(judged.changed),
        }
        found["left"] += found["unaskable"]
        assert {name: found[name] for name in told} == told, "the plan tells something else"
        if (self.out / "job.toml").exists() and not self.is_stale:
            if self.shown is not None:
                assert self._results() == self.shown, "the results tell something else"
            elif self.begun_on_change == "rerun":
                judged = self.judged(setting=self.begun)
                assert self._results() == judged.table(), "the results tell something else"
            else:
                assert self._results() == oracle.view(oracle.answers(self.out)), "the results tell something else"

    def step(self) -> None:
        kinds: list[tuple[int, Callable[[], str]]] = [
            (10, self.run), (3, self.append_rows), (2, self.edit_text), (1, self.edit_label), (2, self.reorder),
            (2, self.delete_rows), (2, self.duplicate_row), (2, self.add_file), (1, self.remove_file), (1, self.touch),
            (4, self.change_job), (3, self.retry), (1, self.dry_run), (2, self.compact), (1, self.move_part), (1, self.put_back),
            (1, self.forget),
        ]  # fmt: skip
        if self._labeller.random() < 0.3:
            self.told.append(f"correct: {self.correct()}")
        kind = self.random.choices([kind for _, kind in kinds], [weight for weight, _ in kinds])[0]
        self.told.append(kind.__name__)
        if told := kind():
            self.told[-1] += f": {told}"
        self.check()
        if self.shown is not None and not self.is_stale and self._labeller.random() < 0.3:
            self.refresh()


def _by_key(answers: list[Answer]) -> list[Answer]:
    """Sealing puts answers in the order of the input; those to one key stay in theirs."""
    return sorted(answers, key=lambda answer: answer["key"])
