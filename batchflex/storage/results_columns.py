"""Which columns a table of results has, by what its parts tell of theirs: their names and types. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa

from ..core import Outcome
from . import carried_columns, parsed_columns, part_files
from .part_files import COLUMNS


class ResultsLayout(NamedTuple):
    """The columns a results table has beside the fixed ones: sweep variables, carried columns and fields of structured
    answers, by output name."""

    sweep: dict[str, tuple[str, pa.DataType]]
    carry: dict[str, tuple[str, pa.DataType]]
    fields: dict[str, tuple[str, pa.DataType]]

    @property
    def schema(self) -> pa.Schema:
        more = [(name, kind) for side in self for name, (_, kind) in side.items()]
        return pa.schema([*COLUMNS.items(), *more])


def layout_of(
    footers: Iterable[part_files.Footer],
    variables: Mapping[str, list[Any]],
    foreign: Iterable[str],
    pending: Sequence[Outcome],
    declared: Mapping[str, list[str]],
) -> ResultsLayout:
    """Name and type the columns of a job's results. ``foreign`` are sweep points that the job does not have, ``declared`` the
    fields that its schema names."""
    footers = list(footers)
    stale_answers = [msgspec.json.decode(label) for label in foreign]
    sweep = {}
    for out, name in sweep_columns(variables).items():
        values = [*variables[name], *(point.get(name) for point in stale_answers)]
        sweep[out] = (name, carried_columns.type_of(map(carried_columns.kind_of, values)))
    kinds: dict[str, set[str]] = {}
    types: dict[str, set[pa.DataType | None]] = {}  # those that the parts tell of; None where one tells of none
    nulls: dict[str, set[pa.DataType | None]] = {}  # those of parts without a value in the column
    for footer in footers:
        for name, seen in footer.kinds.items():
            kinds.setdefault(name, set()).update(seen)
            kind = footer.types.field(name).type if name in footer.types.names else None
            if kind is not None and pa.types.is_decimal256(kind):  # of an older version; such a column is text
                kind = None
            (nulls if seen == ["null"] else types).setdefault(name, set()).add(kind)
    for name, values in carried_columns.columns(o.carry for o in pending).items():
        kinds.setdefault(name, set()).update(map(carried_columns.kind_of, values))
        if not all(carried_columns.holds(kind, values) for kind in types.get(name, ())):
            types[name] = {None}
    carry = {}
    for out, name in _named(kinds, {*COLUMNS, *sweep}, "input_").items():
        agreed = types.get(name) or nulls.get(name, set())
        carry[out] = (name, (agreed.pop() if len(agreed) == 1 else None) or carried_columns.type_of(kinds[name]))
    return ResultsLayout(sweep, carry, _fields(footers, pending, declared, {*COLUMNS, *sweep, *carry}))


def _fields(
    footers: Iterable[part_files.Footer],
    pending: Sequence[Outcome],
    declared: Mapping[str, list[str]],
    taken: Collection[str],
) -> dict[str, tuple[str, pa.DataType]]:
    seen: dict[str, set[str]] = {name: set() for name in declared}
    for found in [*(footer.fields for footer in footers), parsed_columns.kinds(o.parsed for o in pending)]:
        for name, kinds in found.items():
            if name in seen or len(seen) < len(declared) + parsed_columns.MOST_FIELDS:
                seen.setdefault(name, set()).update(kinds)
    names = _named(seen, taken, "parsed_")
    return {out: (name, parsed_columns.type_of(seen[name], declared.get(name, ()))) for out, name in names.items()}


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
