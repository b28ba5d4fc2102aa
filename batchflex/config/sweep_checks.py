"""The rules of a ``[sweep]``, whose keys are free. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..protocol import CHAT, TRANSPORT, unwritable
from .mistake_messages import KEY_HINT, Mistake, choice, found, names_a_key
from .parameter_tables import format_mistakes
from .sweep import SweepSection, identity

if TYPE_CHECKING:
    from .job import Job


class _Variable(NamedTuple):
    """A variable and its place in the job. ``values`` are those it is tried with; one, if it stands in a point."""

    place: str
    form: str
    name: str
    values: Any


def sweep_rules(job: Job) -> Iterator[Iterator[Mistake]]:
    """The mistakes by each rule."""
    yield _zip_mistakes(job)
    yield _point_mistakes(job)
    yield _doubled(job)
    for variable in _variables(getattr(job, "sweep", None)):
        yield _variable_mistakes(job, variable)


def _variables(sweep: SweepSection | None) -> Iterator[_Variable]:
    """Those of the forms that can be read."""
    for name, values in (getattr(sweep, "model_extra", None) or {}).items():
        yield _Variable(f"sweep.{name}", "grid", name, values)
    for name, values in (getattr(sweep, "zip", None) or {}).items():
        yield _Variable(f"sweep.zip.{name}", "zip", name, values)
    for number, point in enumerate(getattr(sweep, "points", None) or []):
        for name, value in point.items():
            yield _Variable(f"sweep.points.{number}.{name}", "points", name, [value])


def _variable_mistakes(job: Job, variable: _Variable) -> Iterator[Mistake]:
    faults = [Mistake(variable.place, why) for why in _faults(variable, job)]
    if variable.name == "response_format" and not faults:
        faults = [mistake for value in variable.values for mistake in format_mistakes(variable.place, value)]
    yield from faults


def _faults(variable: _Variable, job: Job) -> Iterator[str]:
    name, values = variable.name, variable.values
    if name == CHAT.field or name in SweepSection.model_fields or name in TRANSPORT:
        yield "cannot be swept"
    elif names_a_key(name):
        yield KEY_HINT
    elif isinstance(values, Mapping):
        yield f"must be a list of the values to try, or else stand in [params]; {found(values)}"
    elif not isinstance(values, list) or not values:
        yield f"must be a list of the values to try; {found(values)}"
    elif why := unwritable(values):
        yield why
    elif variable.form == "grid" and _has_twice([identity(value) for value in values]):
        yield f"has the same value twice; for repeated answers set sweep.samples; {found(values)}"
    elif name == "prompt":
        yield from (why for value in values if (why := _no_prompt(value, job.prompts)))
    elif name in job.override:
        yield f"override.{name} (also: --set {name}=…) would make all points the same; leave out one of the two"
    else:
        yield from (why for value in values if (why := CHAT.parameters.out_of_range(name, value)))


def _no_prompt(value: Any, prompts: Collection[str]) -> str | None:
    if isinstance(value, str) and value in prompts:
        return None
    there = choice(str(value), list(prompts)) if prompts else "write it as [prompts.NAME]"
    return f"no prompt is named {value!r:.80}; {there}"


def _doubled(job: Job) -> Iterator[Mistake]:
    """A variable has one form: two would contradict each other."""
    firsts: dict[str, _Variable] = {}
    for variable in _variables(job.sweep):
        first = firsts.setdefault(variable.name, variable)
        if first.form != variable.form:
            yield Mistake(variable.place, f"is swept by {first.place} already; leave out one of the two")


def _zip_mistakes(job: Job) -> Iterator[Mistake]:
    sweep = job.sweep
    if sweep.zip is None:
        return
    lists = sweep.forms.zip
    lengths = {name: len(values) for name, values in lists.items()}
    if not sweep.zip:
        yield Mistake("sweep.zip", "is empty; name the variables whose values go together, or leave it out")
    elif len(set(lengths.values())) > 1:
        each = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        yield Mistake("sweep.zip", f"takes the lists value by value, so all need the same length; {each}")
    elif len(lists) == len(sweep.zip) and _has_twice([identity(e) for e in zip(*lists.values(), strict=True)]):
        what = f"has the same values together twice; for repeated answers set sweep.samples; {found(sweep.zip)}"
        yield Mistake("sweep.zip", what)


def _point_mistakes(job: Job) -> Iterator[Mistake]:
    points = job.sweep.points
    if points is None:
        return
    if not any(points):
        what = "names no variable" if points else "is empty"
        yield Mistake("sweep.points", f"{what}; write one table for each point, or leave it out")
    firsts: dict[str, int] = {}
    for number, point in enumerate(points):
        same = "\n".join(f"{name}={identity(point[name])}" for name in sorted(point))
        if (first := firsts.setdefault(same, number)) != number:
            what = f"is the same point as sweep.points.{first}; for repeated answers set sweep.samples"
            yield Mistake(f"sweep.points.{number}", what)
    if any("prompt" in point for point in points):
        for number, point in enumerate(points):
            if "prompt" not in point:
                yield Mistake(f"sweep.points.{number}", "names no prompt, and others do; each point needs one then")


def _has_twice(names: list[str]) -> bool:
    return len(set(names)) < len(names)
