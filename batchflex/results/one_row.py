"""Everything about one row of the results: its answer, what was asked, and every try at it."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ..config import Job
from ..core import EndpointError, FolderError, InputError, JobError, MissingExtra, Outcome, cell_values, text_of
from ..plan import points
from ..storage import COLUMNS, Folder, part_files, sweep_columns, writer
from . import prompts
from .columns import Columns
from .live_table import job_of, plan_of
from .query import Selected, selected
from .sql_filter import Condition

_MOST = 1_000  # rows of one id: sweep points and samples
_PROMPTED = 10  # rows of the input that have one id, each of which is a pass over it
_KEY = re.compile("[0-9a-fA-F]{8,32}")  # or how one begins
_COMPARED = 20_000  # ids, for the nearest ones
_NEAREST = 3


class Prompt(NamedTuple):
    """What would be asked for a row by the job and the input as they are now: ``messages`` (roles and texts) and the ``request``
    without them. ``is_same`` is whether it is what was answered; ``None`` if there is none, then ``why`` says why."""

    messages: list[tuple[str, str]]
    request: dict[str, Any]
    is_same: bool | None
    why: str | None = None


class OneRow(NamedTuple):
    """``values`` are the columns of the results, by their names there, those of ``structured`` holding JSON; ``point`` the swept
    values. ``tries`` are all outcomes that there are to the request, the oldest first; the one in the results is among them."""

    values: dict[str, Any]
    structured: frozenset[str]
    point: dict[str, Any]
    carried: list[str]
    scores: list[str]
    prompt: Prompt
    tries: list[Outcome]

    def as_json(self) -> dict[str, Any]:
        prompt = self.prompt
        return {
            "values": {
                name: _object(value) if name in self.structured else value for name, value in self.values.items()
            },
            "point": self.point,
            "prompt": {
                "messages": [{"role": role, "content": text} for role, text in prompt.messages],
                "request": prompt.request,
                "is_what_was_answered": prompt.is_same,
                "why_not_known": prompt.why,
            },
            "tries": [_try(outcome) for outcome in self.tries],
        }


_TRIED = (
    "status", "content", "reasoning", "tool_calls", "finish_reason", "model", "prompt_tokens", "completion_tokens", "cost",
    "latency_s", "attempts", "http_status", "error_type", "error_code", "error_message", "endpoint", "run_id", "retried_with",
)  # fmt: skip


def _try(outcome: Outcome) -> dict[str, Any]:
    times = {name: moment(getattr(outcome, name)) for name in ("started_at", "finished_at")}
    return {name: getattr(outcome, name) for name in _TRIED} | times


def moment(us: int) -> Any:
    """A time of an outcome, as the results have it."""
    return pl.Series([us], dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))[0]


def look_up(folder: Folder, name: str) -> list[OneRow]:
    """The rows that an id means, or a key (or its first eight digits), or the number of a row of the input: several, where a
    sweep or samples ask one item more than once.

    :raises JobError: if there is none; it names the nearest ids.
    :raises FolderError: if there is no run in the folder, or a part is damaged.
    """
    found, about = _rows(folder, name)
    job = job_of(folder)
    by_key = {bytes.fromhex(row["key"]): row for row in found}
    asked, why = _prompts(folder, job, by_key)
    tried = _tries(folder, {row["key"] for row in found})
    sweep = sweep_columns(job.sweep.variables)
    carried = [column for column in about.origins.carry if column in about.names]
    scores = [column for column in about.names if column.startswith("score_") and column not in COLUMNS]
    return [
        OneRow(
            row,
            about.structured,
            {variable: row.get(column) for column, variable in sweep.items()},
            carried,
            [column for column in scores if column not in carried],
            asked.get(key) or Prompt([], {}, None, why or "the input has no such row any more"),
            tried.get(row["key"], []),
        )
        for key, row in by_key.items()
    ]


def _rows(folder: Folder, name: str) -> tuple[list[dict[str, Any]], Columns]:
    """The first of these that there is: rows of this id, of this key, of this number. And what their columns are."""
    ways = [pl.col("id") == name]
    if _KEY.fullmatch(name):
        ways.append(pl.col("key").str.starts_with(name.lower()))
    if name.isascii() and name.isdigit() and len(name) < 19:
        ways.append(pl.col("row") == int(name))
    condition = Condition(f"--row {name}", pl.any_horizontal(ways), {"id", "key", "row"})
    with selected(folder, condition, ["*"], plain=True) as chosen:
        rows = list(itertools.islice(itertools.chain.from_iterable(_batches(chosen)), _MOST))
        if not rows:
            raise JobError(_none(folder, name))
        by_way: list[list[dict[str, Any]]] = [
            [row for row in rows if row["id"] == name],
            [row for row in rows if _KEY.fullmatch(name) and row["key"].startswith(name.lower())],
            rows,
        ]
        return next(filter(None, by_way)), chosen.about


def _batches(chosen: Selected) -> Iterator[list[dict[str, Any]]]:
    for batch in chosen.batches():
        yield [dict(zip(batch.schema.names, row, strict=True)) for row in cell_values.rows(batch)]


def _none(folder: Folder, name: str) -> str:
    """That there is no such row, and the ids most like it."""
    with selected(folder, columns=["id"], plain=True) as every:
        ids: list[str] = []
        inside: list[str] = []
        for batch in every.batches():
            texts = batch.column(0)
            if len(ids) < _COMPARED:
                ids += texts.to_pylist()
            if len(inside) < _NEAREST and name:
                fits = pc.match_substring(texts, name, ignore_case=True)
                inside += texts.filter(fits).slice(0, _NEAREST).to_pylist()
        rows = every.of
    near = dict.fromkeys([*difflib.get_close_matches(name, ids[:_COMPARED], _NEAREST), *inside])
    hint = f"; the nearest are {', '.join(map(repr, [*near][:_NEAREST]))}" if near else ""
    return (
        f"--row {name!r:.100}: there is no row with this id, key or number among the {rows:,} in the results of {folder.path}"
        f"{hint}"
    )


def _prompts(
    folder: Folder, job: Job, rows: Mapping[bytes, Mapping[str, Any]]
) -> tuple[dict[bytes, Prompt], str | None]:
    """What would be asked for the rows now, by key; and why it is not known."""
    if job.input.path is None:
        return {}, "the rows came from a frame"
    columns = sweep_columns(job.sweep.variables)
    swept = points(job)
    places: dict[int, dict[bytes, prompts.Place]] = {}
    for key, row in rows.items():
        own = {variable: row.get(column) for column, variable in columns.items()}
        number = next((n for n, point in enumerate(swept) if _is_point(point.values, own)), None)
        places.setdefault(row["row"], {})[key] = prompts.Place(row["id"], number, row["sample"])
    found: dict[bytes, Prompt] = {}
    try:
        for at, asked in itertools.islice(places.items(), _PROMPTED):
            for key, now in prompts.of_row(plan_of(job), at, asked).items():
                found[key] = _prompt(job, now)
    except (InputError, JobError, EndpointError, MissingExtra) as error:
        return found, str(error)
    return found, None if len(places) <= _PROMPTED else "too many rows have this id; name one by its key"


def _prompt(job: Job, now: prompts.Now) -> Prompt:
    if now.fault is not None:
        return Prompt([], {}, False, f"no request can be made of the row now: {now.fault}")
    request = msgspec.json.decode(now.body)
    return Prompt(prompts.spoken(now.body), {n: v for n, v in request.items() if n != job.route.field}, now.is_same)


def _is_point(values: Mapping[str, Any], swept: Mapping[str, Any]) -> bool:
    """Whether the values of a row are those of a sweep point; a column of text may hold them as JSON."""
    return all(text_of(values.get(name)) == text_of(value) for name, value in swept.items())


def _tries(folder: Folder, keys: set[str]) -> dict[str, list[Outcome]]:
    """All outcomes to these requests, the oldest first: in the parts, and in the journal what is not sealed yet."""
    found: dict[str, list[Outcome]] = {}
    _reading = folder.parts.reading()  # so that no part is merged away meanwhile
    wanted = pa.array(sorted(keys), pa.string())
    for number in part_files.part_numbers(folder.parts):
        own = part_files.read_part(folder.parts, number, ["key"])["key"]
        at = pc.indices_nonzero(pc.is_in(own, value_set=wanted)).to_numpy()
        if len(at):
            for table in part_files.read_rows(folder.parts, number, at):
                for outcome in part_files.outcomes(table):
                    found.setdefault(outcome.key, []).append(outcome)
    with contextlib.suppress(FolderError):
        for outcome in writer.unsealed(folder).outcomes:
            if outcome.key in keys:
                found.setdefault(outcome.key, []).append(outcome)
    return found


def _object(text: Any) -> Any:
    """What a text of JSON says; itself if it is none."""
    try:
        return msgspec.json.decode(text) if isinstance(text, str) else text
    except msgspec.DecodeError:
        return text
