"""Which columns a table of results has, by the footers of its parts: their names and types. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from ..core import Outcome
from . import carried_columns, parsed_columns, part_files
from .part_files import COLUMNS

# Those of the fixed columns that hold JSON; ``response`` of a failure may be anything.
JSON_COLUMNS = ("tool_calls", "parsed", "response", "retried_with")


class Origins(msgspec.Struct, frozen=True):
    """Where the columns of a table come from that are none of the fixed ones; ``json`` are those of strings in which each is the
    JSON of a value that is no string."""

    sweep: list[str]
    carry: list[str]
    fields: list[str]
    json: list[str]


class ResultsLayout(NamedTuple):
    """The columns a results table has beside the fixed ones: sweep variables, carried columns and fields of structured
    answers, by output name. ``json`` is as in :class:`Origins`."""

    sweep: dict[str, tuple[str, pa.DataType]]
    carry: dict[str, tuple[str, pa.DataType]]
    fields: dict[str, tuple[str, pa.DataType]]
    json: Sequence[str] = ()

    @property
    def sides(self) -> tuple[dict[str, tuple[str, pa.DataType]], ...]:
        return self.sweep, self.carry, self.fields

    @property
    def origins(self) -> Origins:
        return Origins(list(self.sweep), list(self.carry), list(self.fields), list(self.json))

    @property
    def schema(self) -> pa.Schema:
        more = [(name, kind) for side in self.sides for name, (_, kind) in side.items()]
        return pa.schema([*COLUMNS.items(), *more])


def layout_of(
    footers: Iterable[part_files.Footer],
    variables: Mapping[str, list[Any]],
    foreign: Iterable[str],
    pending: Sequence[Outcome],
    declared: Mapping[str, list[str]],
    carrying: Iterable[part_files.Footer] | None = None,
) -> ResultsLayout:
    """Name and type the columns of a job's results. ``foreign`` are sweep points that the job does not have, ``declared`` the
    fields that its schema names, ``carrying`` what tells of the carried columns, if that is not the ``footers``."""
    whole = part_files.together(footers)
    if carrying is not None:
        carried = part_files.together(carrying)
        whole = whole._replace(kinds=carried.kinds, types=carried.types)
    if pending:
        kinds, types = carried_columns.describe((o.carry for o in pending), whole.types)
        fields = parsed_columns.kinds(o.parsed for o in pending)
        whole = part_files.together([whole, part_files.Footer(kinds, types, fields)])
    stale_answers = [msgspec.json.decode(label) for label in foreign]
    sweep = {}
    seen: dict[str, Collection[str]] = {}  # the kinds of values in each column
    for out, name in sweep_columns(variables).items():
        values = [*variables[name], *(point.get(name) for point in stale_answers)]
        seen[out] = set(map(carried_columns.kind_of, values))
        sweep[out] = (name, carried_columns.type_of(seen[out]))
    known = dict(zip(whole.types.names, whole.types.types, strict=True))
    carry = {
        out: (name, known.get(name) or carried_columns.type_of(whole.kinds[name]))
        for out, name in _named(whole.kinds, {*COLUMNS, *sweep}, "input_").items()
    }
    others = [name for name in whole.fields if name not in declared][: parsed_columns.MOST_FIELDS]
    of_answers = {
        out: (name, parsed_columns.type_of(whole.fields.get(name, ()), declared.get(name, ())))
        for out, name in _named([*declared, *others], {*COLUMNS, *sweep, *carry}, "parsed_").items()
    }
    seen |= {out: whole.kinds[name] for out, (name, _) in carry.items()}
    seen |= {out: whole.fields.get(name, ()) for out, (name, _) in of_answers.items()}
    kinds = {out: kind for side in (sweep, carry, of_answers) for out, (_, kind) in side.items()}
    json = [out for out, kind in kinds.items() if pa.types.is_string(kind) and _are_json(seen[out])]
    return ResultsLayout(sweep, carry, of_answers, json)


def _are_json(kinds: Collection[str]) -> bool:
    """Whether the strings of a column are all JSON, as none of its values is a string."""
    return "str" not in kinds and any(kind != "null" for kind in kinds)


def sweep_columns(variables: Iterable[str]) -> dict[str, str]:
    """The column of each swept variable, with the variable's name, in their order."""
    return _named(variables, COLUMNS, "sweep_")


def _named(names: Iterable[str], taken: Collection[str], prefix: str) -> dict[str, str]:
    """Output name to name, in order. A name that is taken gets the prefix, again until it is free."""
    names = list(names)
    held = {*taken, *names}
    found = {}
    for name in names:
        out = name
        if name in taken:
            while out in held:
                out = prefix + out
            held.add(out)
        found[out] = name
    return found
