"""The oracle of test_agreement.py: which requests a job has, which answers a folder holds, and what is left by that.

Nothing here imports the code that decides it. Keys are computed from their definition (the docstring of ``batchflex/plan.py``),
parts are read with pyarrow and journals record by record, as CONTRACT.md describes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
import struct
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pyarrow.parquet as pq

from tests.support.paths import ROOT

Row = dict[str, Any]  # with WHERE, what a message says of where it is
Answer = dict[str, Any]

WHERE = "(where)"
CARRIED = "gold"  # the column that is carried along
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]}
_COLUMNS = [
    "key", "slot", "id", "row", "sample", "status", "content", "run_id", "point", "proof", "reasks", "answer_limit",
    "cut_by", "completion_tokens", "ttft_s",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What of a job matters for what is asked. ``shape`` is how rows are written: ``jsonl`` (requests), ``csv`` or ``parquet``
    (columns for a template)."""

    shape: str
    model: str = "m"
    temperature: float | None = None
    max_tokens: int | None = None
    swept: tuple[float, ...] = ()
    samples: int = 1
    dedupe: bool = False
    limit: int | None = None
    retry_failed: int = 3
    max_reasks: int = 0
    grow: int | None = None
    judges_answers: bool = False

    @property
    def shaping(self) -> tuple[Any, ...]:
        """What makes it another job if it differs."""
        return self.model, self.temperature, self.max_tokens, self.swept, self.samples, self.dedupe

    def params(self) -> dict[str, Any]:
        known = {"model": self.model, "temperature": self.temperature, "max_tokens": self.max_tokens}
        return {name: value for name, value in known.items() if value is not None}

    def points(self) -> list[dict[str, Any]]:
        return [{"top_p": value} for value in self.swept] or [{}]

    def tables(self, path: str, out: Path, base_url: str) -> dict[str, Any]:
        """The job as the tables of a job file."""
        tables: dict[str, Any] = {
            "job": {"out": str(out), "retry_failed": self.retry_failed},
            "endpoint": {"base_url": base_url},
            "params": self.params(),
            "input": {"path": path, "dedupe": self.dedupe, "on_bad_row": "fail", "carry": [CARRIED]},
            "sweep": {"samples": self.samples},
            "retry": {"attempts": 1, "base_s": 0.001},
            "limits": {"concurrency": 1, "max_failures": 100_000},
            "answer": {"max_reasks": self.max_reasks},
        }
        if self.shape != "jsonl":
            tables["prompt"] = {"user": "Say {{ text }}"}
        if self.swept:
            tables["sweep"]["top_p"] = list(self.swept)
        if self.limit is not None:
            tables["input"]["limit"] = self.limit
        if self.grow is not None:
            tables["answer"]["grow_max_tokens"] = self.grow
        if self.judges_answers:
            tables["answer"]["json_schema"] = SCHEMA
        return tables


class Planned(NamedTuple):
    """A request of the plan. ``base`` is the key it would have if none were equal, ``body`` what is sent, ``limit`` what that
    allows the answer."""

    key: str
    base: str
    slot: str
    id: str
    row: int
    sample: int
    point: str
    body: dict[str, Any]  # empty if no request can be made of the row

    @property
    def limit(self) -> int | None:
        return self.body.get("max_tokens")


# -------------------------------------------------------------------------------------------------------- the plan


def _json(value: Any, *, is_sorted: bool = False) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=is_sorted).encode()


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _framed(text: str) -> bytes:
    return len(text.encode()).to_bytes(4, "little") + text.encode()


def _numbered(key: bytes, number: int) -> bytes:
    return _hash(key + number.to_bytes(8, "little"))


class _Bare(NamedTuple):
    """A request before equal ones are told apart. ``base`` is its key then, ``place`` the slot, ``first`` that of its item."""

    base: bytes
    place: bytes
    first: bytes
    id: str
    row: int
    sample: int
    point: str
    body: dict[str, Any]


def _bare(setting: Setting, row: Row, at: int, *, former: bool = False) -> list[_Bare]:
    where = row[WHERE]
    row = {name: value for name, value in row.items() if name != WHERE}
    fault, content = "", {}
    if setting.shape == "jsonl" and "messages" not in row:
        fault = f"{where}: has neither 'messages' nor 'body', and the job has no [prompt]; there are: {', '.join(row)}"
    else:
        content = _content(setting, row, former=former)
    named = row.get("id") not in (None, "")
    identity = str(row["id"]) if named else hashlib.blake2b(_json(row, is_sorted=True), digest_size=8).hexdigest()
    owner = _framed(identity if named and not setting.dedupe else "")
    found: list[_Bare] = []
    made: set[bytes] = set()
    for point in setting.points():
        for sample in range(setting.samples):
            body = {**setting.params(), **content, **point} if not fault else {}
            if setting.samples > 1 and body:
                body["seed"] = body.get("seed", 0) + sample
            tail, mark = sample.to_bytes(4, "little"), _json(point, is_sorted=True)
            hashed = _json(dict(sorted(body.items()))) if body else b"fault" + _framed(identity) + _framed(fault) + mark
            key = _hash(owner + tail + hashed)
            if len(setting.points()) > 1:
                key = _hash(key + mark) if key in made else key
                made.add(key)
            slot = _hash(_framed(identity) + tail + mark)
            first = found[0].place if found else slot
            found.append(_Bare(key, slot, first, identity, at, sample, _json(point).decode(), body))
    return found


def _content(setting: Setting, row: Row, *, former: bool) -> dict[str, Any]:
    if setting.shape != "jsonl":
        return {"messages": [{"role": "user", "content": f"Say {row['text']}"}]}
    return {
        name: value for name, value in row.items() if name == "messages" or (former and name not in ("id", CARRIED))
    }


def planned(setting: Setting, rows: Sequence[Row], answered: Collection[str]) -> list[Planned]:
    """All requests of a job over these rows, with the keys they have beside these answered ones.

    A request of an earlier version, which sent all columns, stands in the place of today's if it is answered.
    """
    within = list(enumerate(rows))[: setting.limit]
    former = _numbered_formers(setting, within, answered)
    seen: set[bytes] = set()
    repeats: Counter[bytes] = Counter()
    found: list[Planned] = []
    for at, row in within:
        mine = _bare(setting, row, at)
        turn = 0
        keys = [former.get((at, each.point, each.sample), each.base) for each in mine]
        known = []
        for key in keys:
            known.append(key in seen)
            seen.add(key)
        if mine[0].place in seen:
            repeats[mine[0].place] += 1
            turn = repeats[mine[0].place]
        seen.add(mine[0].place)
        for each, key, there in zip(mine, keys, known, strict=True):
            if there and setting.dedupe:
                continue
            name = each.id
            if there and (at, each.point, each.sample) not in former:
                repeats[key] += 1
                name = f"{name}-{repeats[key]}" if turn else name
                key = _numbered(key, repeats[key])
            slot = _numbered(each.place, turn) if turn else each.place
            found.append(Planned(key.hex(), each.base.hex(), slot.hex(), name, at, each.sample, each.point, each.body))
    return found


def _numbered_formers(
    setting: Setting, rows: Iterable[tuple[int, Row]], answered: Collection[str]
) -> dict[tuple[int, str, int], bytes]:
    """By row, sweep point and sample the keys of requests that an earlier version made otherwise, if they are answered."""
    found: dict[tuple[int, str, int], bytes] = {}
    seen: set[bytes] = set()
    repeats: Counter[bytes] = Counter()
    for at, row in rows:
        if setting.shape != "jsonl" or "messages" not in row or not row.keys() - {"id", "messages", WHERE, CARRIED}:
            continue
        for each in _bare(setting, row, at, former=True):
            key = each.base
            if key in seen and not setting.dedupe:
                repeats[key] += 1
                key = _numbered(key, repeats[key])
            seen.add(each.base)
            if key.hex() in answered:
                found[at, each.point, each.sample] = key
    return found


def former_keys(setting: Setting, rows: Sequence[Row]) -> dict[tuple[int, str, int], str]:
    """The keys that an earlier version gave to the requests it made otherwise."""

    class Everything(frozenset[str]):
        def __contains__(self, key: object) -> bool:
            return True

    found = _numbered_formers(setting, list(enumerate(rows)), Everything())
    return {place: key.hex() for place, key in found.items()}


# ------------------------------------------------------------------------------------------------------ the folder


def part_files(parts: Path) -> list[tuple[int, int, Path]]:
    """First and last segment of each part that counts, in the order of time."""
    found = []
    for path in parts.glob("[0-9]*.parquet"):
        numbers = [int(number) for number in re.findall(r"\d+", path.stem)]
        first, last, times = (numbers * 2 + [0])[:3] if len(numbers) == 1 else numbers
        found.append((first, last, times, path))
    return [
        (first, last, path)
        for first, last, times, path in sorted(found)
        if not any(f <= first and last <= e and (e - f, t) > (last - first, times)
                   for f, e, t, _ in found)
    ]  # fmt: skip


def journal_records(path: Path) -> tuple[list[Answer], list[str]]:
    """The outcomes of a segment and the runs whose failures it says are void."""
    answers, void, data = [], [], path.read_bytes()
    order = (ROOT / "CONTRACT.md").read_text("utf-8").partition("# The journal\n")[2].split("```")[1].split()
    while data.startswith(b"\xffBF\x02"):
        checksum, length = struct.unpack("<II", data[4:12])
        body, data = data[12 : 12 + length], data[12 + length :]
        if zlib.crc32(body) != checksum:
            break
        told = msgspec.msgpack.decode(body)
        if isinstance(told, dict):
            void.append(told["void"])
        else:
            named = dict(zip(order, told, strict=True))
            answers.append({name: named[name] for name in _COLUMNS})
    return answers, void


def answers(out: Path) -> list[Answer]:
    """Every outcome in the folder, in the order in which they came, without failures that are void."""
    found: list[Answer] = []
    void: set[str] = set()
    files = part_files(out / "parts") if (out / "parts").is_dir() else []
    for _, _, path in files:
        part = pq.ParquetFile(path)
        void.update(json.loads((part.schema_arrow.metadata or {}).get(b"batchflex.void", b"[]")))
        if part.metadata.num_rows:
            found += part.read(columns=_COLUMNS).to_pylist()
    for path in sorted((out / "journal").glob("*.journal")):
        if not any(first <= int(path.stem) <= last for first, last, _ in files):
            more, told = journal_records(path)
            found += more
            void.update(told)

    def counts(answer: Answer) -> bool:
        is_failure = answer["status"] == "failed" or answer["proof"] is not None
        return not (is_failure and answer["proof"] != "input" and answer["run_id"] in void)

    return [answer for answer in found if counts(answer)]


# -------------------------------------------------------------------------------------------------------- the rules


class Judged(NamedTuple):
    """What a job and a folder come to. ``shown`` has the answer that stands for each request of the plan, by its key; ``left``
    are the requests that are to be asked, ``changed`` those whose place an answer to a different request has. ``equal`` are the
    rows and samples of requests that are equal, with ``dedupe`` also of those that are not planned."""

    planned: list[Planned]
    shown: dict[str, Answer]
    left: list[Planned]
    changed: dict[str, Answer]
    stale_answers: int
    equal: dict[str, set[tuple[int, int]]]

    @property
    def done(self) -> int:
        return len(self.planned) - len(self.left)

    def table(self) -> set[tuple[Any, ...]]:
        """The results: key, status and content of each."""
        shown = [self.shown[each.key] for each in self.planned if each.key in self.shown]
        return {(there["key"], there["status"], there["content"]) for there in shown}

    def places(self) -> dict[str, set[tuple[int, int]]]:
        """By the key that is shown of a request its row and sample, and those of equal requests."""
        return {self.shown[each.key]["key"]: self.equal[each.base] for each in self.planned if each.key in self.shown}

    def refused(self, *, has_changed: bool) -> bool:
        """Whether ``on_change = "stop"`` refuses the run. ``has_changed`` tells whether the job file has since the last run."""
        return bool(self.changed) or bool(has_changed and self.stale_answers and self.left)


def is_left(history: Sequence[Answer], setting: Setting, planned_limit: int | None) -> bool:
    """Whether a request with these outcomes, in their order, is to be asked (again)."""
    if not history:
        return True
    last = history[-1]
    if last["status"] == "failed":
        return sum(each["status"] == "failed" for each in history) <= setting.retry_failed
    if last["status"] not in ("truncated", "empty", "invalid"):
        return False
    same = [each for each in history if (each["status"], each["reasks"]) == (last["status"], last["reasks"])]
    return _is_asked_on(last, setting, planned_limit) and len(same) <= 1 + setting.retry_failed


def _is_asked_on(last: Answer, setting: Setting, planned_limit: int | None) -> bool:
    if last["cut_by"] == "server":
        return last["ttft_s"] is None
    limit = last["answer_limit"] or planned_limit or last["completion_tokens"] or 0
    if last["cut_by"] == "limit" and setting.grow is not None and limit < setting.grow:
        return True
    doubled, at = 0, planned_limit or 0
    while 0 < at < (last["answer_limit"] or 0) and doubled < last["reasks"]:
        at, doubled = 2 * at, doubled + 1
    return bool(last["status"] == "invalid" and last["reasks"] - doubled < setting.max_reasks)


def judge(setting: Setting, rows: Sequence[Row], there: Sequence[Answer], *, keeps: bool = False) -> Judged:
    """The rules, see the docstring of test_agreement.py."""
    plan = planned(setting, rows, {answer["key"] for answer in there})
    keys = {each.key for each in plan}
    assert len(keys) == len(plan), "a key comes twice"
    histories: dict[str, list[Answer]] = defaultdict(list)
    for answer in there:
        histories[answer["key"]].append(answer)
    shown = {key: histories[key][-1] for key in keys if key in histories}
    left = [each for each in plan if is_left(histories.get(each.key, ()), setting, each.limit)]
    free = {
        key: history[-1] for key, history in histories.items() if key not in keys and history[-1]["status"] != "failed"
    }
    places: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for answer in there:
        places[answer["id"], answer["point"], answer["sample"]].add(answer["slot"])
    shared = {slot for slots in places.values() if len(slots) > 1 for slot in slots}
    missing = [each for each in plan if each.key not in histories]
    named = Counter((each.id, each.point, each.sample) for each in missing)
    of_slot = {answer["slot"]: free[answer["key"]] for answer in there if answer["key"] in free}
    changed = {
        each.key: of_slot[each.slot]
        for each in missing
        if each.slot in of_slot and each.slot not in shared and named[each.id, each.point, each.sample] == 1
    }
    if keeps:
        shown |= changed
        left = [each for each in left if each.key not in changed]
    equal: dict[str, set[tuple[int, int]]] = defaultdict(set)
    for at, row in enumerate(rows[: setting.limit]):
        for bare in _bare(setting, row, at):
            equal[bare.base.hex()].add((at, bare.sample))
    return Judged(plan, shown, left, changed, len(free) - (len(changed) if keeps else 0), equal)


def signature(body: Mapping[str, Any]) -> str:
    """What tells a request at the endpoint, also when it is asked again with more tokens or with a complaint."""
    said = {name: value for name, value in body.items() if name not in ("stream", "stream_options", "max_tokens")}
    said["messages"] = list(itertools.takewhile(lambda message: message["role"] != "assistant", said["messages"]))
    return _json(said, is_sorted=True).decode()


def view(there: Sequence[Answer]) -> set[tuple[Any, ...]]:
    """What a folder shows of a run that has not ended: of each key the last answer, of each slot the last of these."""
    last = {answer["key"]: at for at, answer in enumerate(there)}
    of_slot = {there[at]["slot"]: at for at in sorted(last.values())}
    return {(there[at]["key"], there[at]["status"], there[at]["content"]) for at in of_slot.values()}
