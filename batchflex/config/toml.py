"""TOML as text: the lines of its keys, and a writer that keeps the order of tables.

The order matters: the key of a request depends on the order inside ``response_format``. If tables were written behind plain
values, as other writers do, every request would be sent again.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

_TOKENS = re.compile(
    r"""
    (?P<string> \"{3} (?:\\.|[^\\])*? \"{3,5} | '{3} .*? '{3,5} )
  | (?P<key>    "(?:\\.|[^"\\\n])*" | '[^'\n]*' | [A-Za-z0-9_-]+ )
  | (?P<skip>   \#[^\n]* )
  | (?P<mark>   . )
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[str, int]:
    """The line of each key of a valid TOML text, by its dotted place.

    Of inline values only the tables in a list have theirs, by their number: ``sweep.points.0``.
    """
    places: dict[str, int] = {}
    counts: dict[str, int] = {}
    names: list[str] = []
    table, place, state, depth, line = "", "", "key", 0, 1
    is_list, element = False, 0
    for token in _TOKENS.finditer(text):
        mark = token["mark"]
        if mark == "\n" and depth == 0:
            names, state = [], "key"
        elif state == "value":
            if depth == 0:
                is_list, element = mark == "[", 0
            elif depth == 1 and is_list:
                element += mark == ","
                if mark == "{":
                    places[f"{place}.{element}"] = line
            depth += (mark in ("[", "{")) - (mark in ("]", "}"))
        elif state == "key" and mark == "[":
            state = "header"
        elif state == "header" and mark == "[":
            state = "list header"
        elif state == "key" and mark == "=":
            place = ".".join([table, *names] if table else names)
            places.setdefault(place, line)
            state = "value"
        elif state in ("header", "list header") and mark == "]":
            table = _within_lists(names, counts)
            places.setdefault(table, line)
            if state == "list header":
                number = counts[table] = counts.get(table, -1) + 1
                table = f"{table}.{number}"
                places[table] = line
            state = "rest"
        elif token["key"] is not None:
            names.append(_unquoted(token["key"]))
        line += token[0].count("\n")
    return places


def _within_lists(names: list[str], counts: dict[str, int]) -> str:
    """The place of a table; one below a list of tables belongs to its last entry so far."""
    place = ""
    for number, name in enumerate(names):
        place = f"{place}.{name}" if place else name
        if place in counts and number < len(names) - 1:
            place = f"{place}.{counts[place]}"
    return place


def _unquoted(key: str) -> str:
    if key[0] == '"':
        return str(tomllib.loads(f"v = {key}")["v"])
    return key.strip("'")


def dumps(data: Mapping[str, Mapping[str, Any] | list[Mapping[str, Any]]]) -> str:
    """Tables of plain values, or lists of such tables, as TOML, a line a key; what is nested deeper is written inline."""
    tables = []
    for name, value in data.items():
        if isinstance(value, list):
            tables += [_table(f"[[{_key(name)}]]", table) for table in value]
        else:
            tables.append(_table(f"[{_key(name)}]", value))
    return "\n".join(tables)


def _table(head: str, table: Mapping[str, Any]) -> str:
    return "\n".join([head, *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return "true" if value is True else "false" if value is False else repr(value)
