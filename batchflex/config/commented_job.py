"""A job file with comments, for a person who goes on with it. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from . import toml

_WIDTH = 34  # of a key and its value, before a comment beside it
_LONGEST_BESIDE = 60

# What each table is about, and each key; in the order in which they are written.
_TABLES = {
    "job": "",
    "endpoint": "",
    "input": "",
    "prompt": "Jinja2 templates: {{ column }} is that column of a row.",
    "prompts": "",
    "params": "Parameters of each request.",
    "override": "Parameters that win over those of the rows.",
    "sweep": "Each combination is asked: a grid over any parameter.",
    "answer": "",
    "limits": "Ceilings, never exceeded.",
    "score": "",
}
_KEYS = {
    "job.name": "answers come into runs/NAME, unless out names another folder",
    "job.out": "the output folder",
    "endpoint.name": "its key is in a variable of the environment, or in a file .env beside this one",
    "endpoint.name.local": "a small model on this machine",
    "endpoint.base_url": "a key is in BATCHFLEX_API_KEY, or where api_key_env says",
    "endpoint.api_key_env": "the environment variable with the key; it may stand in a file .env beside this one",
    "input.path": "also a folder, or a pattern such as 'in/*.csv'; from the folder of this file",
    "input.id": "what tells rows apart when the input changes",
    "input.carry": "columns that the results have beside the answers; '*' is all",
    "params.response_format": "the answer is JSON of this form; each field becomes a column",
}
# Written as comments, where the job has nothing of the kind: what people add next.
_SUGGESTIONS = {
    "params": [
        "temperature = 0",
        "max_tokens = 64              # cuts off answers that are longer: they are 'truncated'",
    ],
    "limits": ["rpm = 300                    # requests a minute", "budget_usd = 5.0", 'deadline = "6h"'],
    "answer": ["max_reasks = 2               # ask again where an answer does not fit; then the row is 'invalid'"],
}

_NO_ENDPOINT = """\
# [endpoint]                      # without one, a small model on this machine is asked
# base_url = "http://127.0.0.1:8000/v1"
"""


def commented(job: Mapping[str, Any], name: str) -> str:
    """The text of a job file. ``job`` has its tables, ``name`` is that of the file, for its comments.

    Reading the text gives just ``job``, and the empty tables that its suggestions stand in.
    """
    tables = [_head(name)]
    others = [table for table in job if table not in _TABLES]
    for table in [*_TABLES, *others]:
        found = job.get(table, {})
        suggested = [] if found and table != "params" else _SUGGESTIONS.get(table, [])
        if table == "answer" and "response_format" not in {**job.get("params", {}), **job.get("override", {})}:
            suggested = []
        if table == "endpoint" and "endpoints" not in job and not found:
            tables.append(_NO_ENDPOINT)
        elif isinstance(found, Mapping) and (found or suggested):
            tables.append(_table(table, found, suggested))
        elif found:
            tables.append(toml.dumps({table: found}))
    return "\n".join(tables)


def _head(name: str) -> str:
    return (
        f"# batchflex plan {name}    shows what would be sent, and what it may cost\n"
        f"# batchflex run {name}     sends it; a run that was interrupted goes on with the same command\n"
        "# Every key: docs/job-file.md\n"
    )


def _table(name: str, values: Mapping[str, Any], suggested: Sequence[str]) -> str:
    about = _TABLES.get(name)
    lines = [f"{f'[{name}]':{_WIDTH}}# {about}" if about else f"[{name}]"]
    for key, value in values.items():
        text = _assigned(key, value)
        comment = _KEYS.get(f"{name}.{key}.{value}", _KEYS.get(f"{name}.{key}"))
        if comment is None:
            lines.append(text)
        elif len(text) <= _LONGEST_BESIDE:
            lines.append(f"{text:{_WIDTH - 1}} # {comment}")
        else:
            lines += [f"# {comment}", text]
    given = {line.partition(" =")[0] for line in lines}
    lines += [f"# {line}" for line in suggested if line.partition(" =")[0] not in given]
    return "\n".join(lines) + "\n"


def _assigned(key: str, value: Any) -> str:
    plain = toml.dumps({"": {key: value}}).split("\n")[1]
    if isinstance(value, str) and "\n" in value and re.fullmatch(r"[^\x00-\x08\x0b-\x1f\x7f]+", value):
        inside = value.replace("\\", "\\\\").replace('"', '\\"')
        text = f'{plain.partition(" =")[0]} = """\n{inside}"""'
        if tomllib.loads(text) == {key: value}:
            return text
    return plain
