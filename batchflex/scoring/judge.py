"""A judge: another model that grades the answers of a run by a rubric, as a run of its own in ``OUT/judges/NAME/``.

Its input has a row for each answer, with the key of that answer as its id. So grades are journaled, limited and resumed like
answers, and nothing is graded twice.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..config import NO_PRICES, Job, JudgeSection, PromptSection, ScoreSection, build, literal
from ..core import JobError
from ..endpoint import model_list_cache, resolve_all
from ..plan import WHOLE_ROW, Prompt, missing_column
from ..storage import Folder, ResultsFiles, part_files, replaced, storing
from . import spending

_MADE_OF = b"batchflex.judged"
_BLOCK_ROWS = 20_000
_MOST_TOKENS = 1_024
_INSTRUCTION = (
    "Answer with a JSON object of two fields: reason, one or two sentences, and then grade, a number "
    "from {low} (worst) to {high} (best)."
)
_MOST_GRADES = 20  # that are listed in the schema one by one
# The limits that a judge shares with its job, because they belong to the endpoint.
_SHARED_LIMITS = ("concurrency", "max_concurrency", "rpm", "tpm", "active_hours", "on_no_credit", "max_outage")


def folder_of(out: Path, spec: ScoreSection) -> Path:
    return out / "judges" / spec.name


def job_of(job: Job, spec: ScoreSection, out: Path) -> Job:
    """The job of a judge. ``job`` is the one whose answers are graded, in the folder ``out``.

    :raises JobError: if it is not clear which model is the judge, or the rubric is not a valid template.
    """
    judge = _section(spec)
    _prompt(judge, spec)  # so that a rubric that is no template is refused
    low, high = judge.scale
    params: dict[str, Any] = {"max_tokens": _MOST_TOKENS, **judge.params}
    if "model" not in params and judge.endpoint is None and job.models:
        if len(job.models) > 1:
            where = "score.judge.params.model"
            raise JobError(f"score '{spec.name}': the job asks several models; name the judge's in {where}")
        params["model"] = job.models[0]
    params["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "grade", "strict": True, "schema": _schema(judge.scale)},
    }
    plain = job.resolved()
    own: dict[str, Any] = {
        "job": {
            "name": f"{job.job.name[:60]}.{spec.name}"[:100],
            "out": str(folder_of(out, spec)),
            "on_change": "rerun",
        },
        "input": {"path": str(_input_path(out, spec)), "id": "key", "on_bad_row": "fail"},
        "prompt": {"user": f"{judge.rubric.rstrip()}\n\n{_INSTRUCTION.format(low=low, high=high)}"},
        "params": params,
        "answer": {"lenient": True, "max_reasks": 1},
    }
    if job.input.files is not None:
        own["input"]["files"] = job.input.files
    if job.input.file_hosts is not None:
        own["input"]["file_hosts"] = job.input.file_hosts
    if judge.system is not None:
        own["prompt"]["system"] = judge.system
    sections = (("endpoint", judge.endpoint), ("limits", judge.limits), ("prices", judge.prices))
    own |= {name: section.model_dump(exclude_none=True) for name, section in sections if section is not None}
    shared: dict[str, Any] = {}
    if judge.endpoint is None:
        shared = {name: plain[name] for name in ("endpoint", "endpoints") if name in plain}
        shared["limits"] = {name: plain["limits"][name] for name in _SHARED_LIMITS if name in plain["limits"]}
        if job.prices is not None and params.get("model") in {*job.models, *job.prices.of_models, None}:
            shared["prices"] = plain["prices"]
    try:
        made = build(shared | literal(own), environment=job.environment)
    except JobError as error:
        raise JobError([f"score '{spec.name}', its judge: {mistake}" for mistake in error.mistakes]) from None
    if made.limits.budget_usd is not None:  # its prices have to be known before its run
        prices, _ = model_list_cache.known(made, resolve_all(made, with_key=False))
        if prices.missing(made.models) or not (made.models or prices.are_all_typed):
            missing = f"limits.budget_usd: {NO_PRICES}, or `batchflex check` to fetch them"
            raise JobError(f"score '{spec.name}', its judge: {missing}")
    return made


def _section(spec: ScoreSection) -> JudgeSection:
    if spec.judge is None:
        raise JobError(f"score '{spec.name}' has no [score.judge]")
    return spec.judge


def _prompt(judge: JudgeSection, spec: ScoreSection) -> Prompt:
    return Prompt(PromptSection(user=judge.rubric, system=judge.system), f"score '{spec.name}', rubric")


def _schema(scale: list[int | float]) -> dict[str, Any]:
    """The reason comes before the grade: grades are better that way."""
    low, high = scale
    grade: dict[str, Any] = {"type": "number", "minimum": low, "maximum": high}
    if isinstance(low, int) and isinstance(high, int) and high - low < _MOST_GRADES:
        grade = {"type": "integer", "enum": list(range(low, high + 1))}
    return {
        "type": "object",
        "properties": {"reason": {"type": "string"}, "grade": grade},
        "required": ["reason", "grade"],
        "additionalProperties": False,
    }


# ------------------------------------------------------------------------------------------------- what is graded


def _input_path(out: Path, spec: ScoreSection) -> Path:
    return out / "judges" / f"{spec.name}.parquet"  # beside the judge's folder: a run does not read files in its own


def write_input(folder: Folder, spec: ScoreSection) -> int:
    """Write the answers to be graded into a file, but if it has them already, and return how many they are. Blocks.

    :raises JobError: if the rubric uses a column that the results do not have.
    :raises StorageError: if it cannot be written.
    """
    path = _input_path(folder.path, spec)
    results = ResultsFiles(folder)
    there = results.schema()
    prompt = _prompt(_section(spec), spec)
    if missing := prompt.missing(there.names):
        raise JobError(f"score '{spec.name}': {missing_column(missing[0], there.names)}")
    used = prompt.columns
    wanted = [n for n in there.names if n == "key" or (n != WHOLE_ROW and (used is None or n in used))]
    stamp = results.made_of
    made_of = hashlib.blake2b(msgspec.json.encode([stamp, wanted]), digest_size=16).hexdigest().encode()
    metadata, rows = part_files.read_metadata(path)
    if stamp and metadata.get(_MADE_OF) == made_of:
        return rows
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([there.field(name) for name in wanted], metadata={_MADE_OF: made_of})
    rows = 0
    with storing(path), replaced(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for batch in results.batches(list({*wanted, "status"}), _BLOCK_ROWS):
            answered = batch.filter(pc.not_equal(batch.column("status"), "failed"))
            writer.write_batch(answered.select(wanted).cast(schema))
            rows += answered.num_rows
    return rows


# ---------------------------------------------------------------------------------------------------- the grades


def grades(out: Path, spec: ScoreSection) -> pl.DataFrame:
    """``key`` and ``score`` of each answer that the judge has ended with; a null where its grade cannot be read or is not on
    the scale."""
    results = ResultsFiles(Folder(folder_of(out, spec)))
    if not results.exists:
        return pl.DataFrame(schema={"key": pl.String, "score": pl.Float64})
    low, high = _section(spec).scale
    grade = pl.col("parsed").str.json_path_match("$.grade").cast(pl.Float64, strict=False)
    return pl.read_parquet(results.paths, columns=["id", "parsed"]).select(
        key="id", score=pl.when(grade.is_between(low, high)).then((grade - low) / (high - low))
    )


def state(out: Path, spec: ScoreSection, asked: int, stopped_by: str | None, message: str | None) -> dict[str, Any]:
    """The state of a judge: an entry of ``judges`` in ``scores.json``. Tokens and cost are those of all its grades."""
    found = grades(out, spec)
    spent: dict[str, Any] = {"prompt_tokens": None, "completion_tokens": None, "cost": None}
    results = ResultsFiles(Folder(folder_of(out, spec)))
    if results.exists:
        columns = [*spent, *spending.BEFORE.values()]
        totals = pl.scan_parquet(results.paths, glob=False).select(spending.total(name, columns) for name in spent)
        spent = totals.collect().row(0, named=True)
    spent |= {name: spent[name] or 0 for name in ("prompt_tokens", "completion_tokens")}
    graded = found["score"].count()
    return {
        "name": spec.name, "asked": asked, "graded": graded, "unreadable": found.height - graded, **spent,
        "stopped_by": stopped_by, "message": message,
    }  # fmt: skip
