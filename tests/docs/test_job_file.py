"""docs/job-file.md says what there is: every key with its default, every parameter with its range; its examples are jobs."""

import re
import tomllib
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from batchflex.config.job import Job
from batchflex.config.loader import build
from batchflex.protocol import parameters
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "job-file.md").read_text(encoding="utf-8")
FREE = {"params", "override"}
MINIMAL = {"input": {"path": "in.jsonl"}, "params": {"model": "m"}}


def chapters() -> dict[str, str]:
    parts = re.split(r"(?m)^## (.+)$", TEXT)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tables(text: str, head: str) -> list[list[str]]:
    """The cells of every table that begins with this head."""
    rows = []
    for table in re.findall(rf"(?m)^\| {head} \|.*\n\| ---.*\n((?:\|.*\n)+)", text):
        rows += [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
    return rows


def section_models() -> dict[str, type[BaseModel]]:
    found = {}
    for name, field in Job.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        models = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if models and name != "prompts":  # each of its tables is a [prompt]
            found[name] = models[0]
    return found


def default_of(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True)


def test_every_table_of_a_job_has_its_chapter():
    named = {re.sub(r"[\[\]]|\.NAME", "", title) for title in chapters() if title.startswith("[")}
    assert named == set(Job.model_fields)


@pytest.mark.parametrize(("name", "model"), section_models().items())
def test_every_key_is_documented_with_its_default_and_none_is_invented(name, model):
    documented = {cells[0].strip("`"): cells for cells in tables(chapters()[f"[{name}]"], "key")}
    assert list(documented) == list(model.model_fields)
    for key, field in model.model_fields.items():
        _, kind, default, meaning = documented[key]
        assert kind and meaning.endswith(".")
        if field.is_required():
            assert default == "required"
        elif default_of(field) is None:
            assert default == "–", f"{name}.{key} has no default"
        else:
            said = tomllib.loads(f"v = {default.strip('`')}")["v"]
            assert said == default_of(field) and type(said) is type(default_of(field)), f"{name}.{key}"


def test_tables_of_free_keys_document_none():
    for name in FREE:
        assert tables(chapters()[f"[{name}]"], "key") == []


def test_every_checked_parameter_is_documented_with_its_range():
    documented = {name.strip("`"): allowed for name, allowed in tables(chapters()["[params]"], "parameter")}
    assert documented == {name: rule.allowed for name, rule in parameters._RULES.items()}


def test_every_parameter_with_an_ordinary_name_is_documented_with_what_it_takes():
    cells = tables(chapters()["[input]"], "column")
    assert sorted(name for names, _ in cells for name in re.findall("`(.+?)`", names)) == sorted(parameters._ORDINARY)
    assert all(parameters.CHAT_PARAMETERS.known(name) for name in parameters._ORDINARY)


def merged(one: dict, two: dict) -> dict:
    return one | {k: merged(one[k], v) if isinstance(v, dict) and k in one else v for k, v in two.items()}


EXAMPLES = re.findall(r"(?ms)^(<!-- fragment -->\n)?```toml\n(.*?)^```", TEXT)


def test_there_are_examples():
    assert len(EXAMPLES) == TEXT.count("```toml") > 5


@pytest.mark.parametrize(("fragment", "text"), EXAMPLES)
def test_every_example_is_a_job(fragment, text):
    data = tomllib.loads(text)
    job = build(merged(MINIMAL, data) if fragment else data)
    assert job.warnings() == []
    if not fragment:
        assert job.input.path and job.params["model"]


@pytest.mark.parametrize("dotted", sorted(set(re.findall(r"`([a-z]+\.[a-z_]+)[=`]", TEXT))))
def test_every_place_that_is_named_exists(dotted):
    section, key = dotted.split(".")
    if section in Job.model_fields and section not in (*FREE, "sweep"):
        assert key in section_models()[section].model_fields


def test_links_to_chapters_lead_somewhere():
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"(?m)^##+ (.+)$", TEXT)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", TEXT):
        assert anchor in anchors
