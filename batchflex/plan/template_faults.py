"""What is said of rows that a template cannot be filled from. Pure, and without Jinja2, which rows with messages do without."""

from __future__ import annotations

import re
from collections.abc import Collection

from ..core import nearest

WHOLE_ROW = "row"


class TemplateFault(Exception):
    """A row the template cannot be filled from; the text says which column and which there are."""


def missing_column(name: str, columns: Collection[str]) -> str:
    if not columns:
        return f"the template uses the column {name!r}, and the input has no columns"
    near = nearest(name, columns)
    meant = f" (did you mean {near!r}?)" if near else ""
    odd = next((each for each in columns if name in re.split(r"\W+", each) and not each.isidentifier()), None)
    how = f". A column whose name is not a plain word is written {_written(odd)}" if odd and name.isidentifier() else ""
    return (
        f"the template uses the column {name!r}, which is not there{meant}; the columns are: {', '.join(columns)}{how}"
    )


def _written(column: str) -> str:
    return f"{{{{ {WHOLE_ROW}[{column!r}] }}}}"
