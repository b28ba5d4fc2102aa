"""What the order of requests saves a server with a prefix cache: long prompt variants, asked of the local model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
from figures import Figure
from processes import Refused, Spent, measure
from workshop import Workshop

_ROWS = 200
_VARIANTS = 4
# Some 450 tokens each, which differ from the first word on.
_KINDS = ("support tickets", "product reviews", "news headlines", "field notes")
_RULES = (
    "Read {kind} with care and answer with one word.", "Ignore the greeting and the signature of {kind}.",
    "What {kind} say about prices is no opinion.", "A question in {kind} counts as neutral.",
    "Sarcasm in {kind} means the opposite of its words.", "Names of people in {kind} are of no interest.",
    "If {kind} hold two opinions, the last one counts.", "Words in capitals in {kind} are stressed, nothing more.",
    "Dates and numbers in {kind} tell nothing about the mood.", "A single complaint makes {kind} negative.",
)  # fmt: skip
_THINGS = ("kettle", "bicycle", "lamp", "novel", "jacket", "printer", "garden chair", "radio")


def cached(shop: Workshop) -> list[Figure]:
    """200 rows × 4 long prompts on the local model: prompt tokens read from its cache, by the order of requests."""
    rows = 16 if shop.quick else _ROWS
    figures = []
    for order, words in (("row", "in the order of the input"), ("prefix", "by prefix")):
        asked = [_ask(shop, rows, order) for _ in shop.runs(1)]
        spent, tokens = [each[0] for each in asked], [each[1] for each in asked]
        prompt = f"of {tokens[0].prompt:,} prompt tokens"
        figures += [
            Figure(f"read from the cache, {words}", "% of prompt tokens", [t.share for t in tokens], note=prompt),
            Figure(f"prompt tokens computed, {words}", "tokens", [t.prompt - t.cached for t in tokens]),
            Figure(f"whole run, {words}", "s", [each.wall_s for each in spent]),
        ]
    return figures


class _Tokens:
    def __init__(self, results: pl.DataFrame) -> None:
        self.prompt = int(results["prompt_tokens"].sum())
        self.cached = int(results["cache_read_input_tokens"].fill_null(0).sum())
        self.share = 100 * self.cached / self.prompt


def _ask(shop: Workshop, rows: int, order: str) -> tuple[Spent, _Tokens]:
    out = shop.fresh(f"prefixes-{order}")
    job = _job(shop.folder, rows, order)
    spent = measure([sys.executable, "-m", "batchflex", "run", str(job), "--out", str(out), "--quiet"])
    results = pl.read_parquet(out / "results.parquet")
    if results.height != rows * _VARIANTS or results["prompt_tokens"].null_count():
        raise Refused(f"{results.height:,} of {rows * _VARIANTS:,} requests were answered with their tokens")
    return spent, _Tokens(results)


def _job(folder: Path, rows: int, order: str) -> Path:
    source = folder / f"texts-{rows}.jsonl"
    texts = (f"{_THINGS[i % len(_THINGS)]} {i}" for i in range(rows))
    source.write_text("".join(json.dumps({"id": f"r{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    lines = ["[input]", f"path = {json.dumps(str(source))}", "[params]", "max_tokens = 1", "temperature = 0"]
    for number, kind in enumerate(_KINDS):
        rules = " ".join(rule.format(kind=kind) for rule in _RULES * 4)
        lines += [f"[prompts.v{number}]", f"system = {json.dumps(f'{kind.title()}. {rules}')}", 'user = "{{ text }}"']
    lines += ["[sweep]", f'order = "{order}"', f"prompt = {json.dumps([f'v{n}' for n in range(_VARIANTS)])}"]
    path = folder / f"prefixes-{order}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
