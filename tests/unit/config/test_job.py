"""Job files: what is accepted, how mistakes are told, and that no text whatever makes anything but a job or a JobError."""

import datetime
import json
import string
import tomllib
from pathlib import Path

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings, strategies as st

from batchflex.config.dated_path import escaped
from batchflex.config.diff import changes
from batchflex.config.job import Job
from batchflex.config.loader import build, load, parse_setting
from batchflex.config.mistake_messages import names_a_key
from batchflex.core.errors import JobError

MODERATE = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


def mistakes(data: dict, *set_: tuple) -> list[str]:
    with pytest.raises(JobError) as caught:
        build(data, set_)
    return caught.value.mistakes


def mistake(data: dict) -> str:
    (only,) = mistakes(data)
    return only


# ----------------------------------------------------------------------------------------------------- what is told


def test_every_mistake_is_told_at_once_with_its_line(tmp_path):
    path = tmp_path / "nightly.toml"
    path.write_text(
        """\
[job]
name = "my job"
on_chnge = "keep"

[limits]
rpm = "60"
concurrency = 0

[params]
model = "m"
temperature = 3
prose = \"\"\"
[no] = "key"
\"\"\"
n = 2
"""
    )
    with pytest.raises(JobError) as caught:
        load(path)
    assert caught.value.mistakes == [
        "line 2, job.name: a name may hold letters, digits, '.', '_' and '-', begins with a letter or a digit, "
        "and has at most 100 characters; found 'my job'",
        "line 3, job.on_chnge: unknown key; did you mean 'on_change'? "
        "Allowed here: name, out, keep_runs, on_change, retry_failed, report, results, env_file",
        "line 6, limits.rpm: must be a number; found '60'",
        "line 7, limits.concurrency: must be 'auto' or a whole number from 1 to 65536; found 0",
        "line 11, params.temperature: must be a number from 0 to 2; found 3",
        "line 15, params.n: must be 1 (a row holds one answer; for several answers to one prompt set sweep.samples); "
        "found 2",
    ]
    assert str(caught.value).startswith(f"{path} has 6 mistakes:\n  - line 2, job.name: ")


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"limits": {"concurrency": True}}, "limits.concurrency: must be 'auto' or a whole number from 1 to 65536; found True"),
        ({"limits": {"rpm": 0}}, "limits.rpm: must be more than 0; found 0"),
        ({"limits": {"rpm": float("inf")}}, "limits.rpm: must be a finite number; found inf"),
        ({"limits": {"grace_s": -1}}, "limits.grace_s: must be 0 or more; found -1"),
        (
            {"limits": {"deadline": "25:00"}},
            "limits.deadline: must be a duration such as '30s', '15m', '2h' or '1h30m' (3,650 days at most), "
            "or a time of day such as '06:30'; "
            "found '25:00'",
        ),
        ({"endpoint": {"stream": "yes"}}, "endpoint.stream: must be 'auto', true or false; found 'yes'"),
        ({"input": {"carry": "stars"}}, "input.carry: must be a list of column names, or '*' for all; found 'stars'"),
        ({"input": {"path": [1]}}, "input.path: must be a path in quotes, or a list of them; found [1]"),
        ({"input": {"path": ""}}, "input.path: must be a path in quotes, or a list of them; found ''"),
        ({"input": {"dedupe": 1}}, "input.dedupe: must be true or false; found 1"),
        ({"retry": {"attempts": 2.0}}, "retry.attempts: must be a whole number; found 2.0"),
        ({"job": {"on_change": "ask"}}, "job.on_change: must be 'stop', 'rerun' or 'keep'; found 'ask'"),
        ({"limits": 5}, "limits: must be a table; found 5"),
        ({"prices": {"input": 1}}, "prices.output: is missing"),
        ({"prompt": {"system": "s"}}, "prompt: a prompt needs 'user' (and perhaps 'system'), or 'messages'"),
        ({"prompt": {"user": ""}}, "prompt.user: must be text that is not empty; found ''"),
        ({"prompt": {"messages": []}}, "prompt.messages: must be a list that is not empty; found []"),
        ({"prompt": {"messages": [{"content": "x"}]}}, "prompt: each of 'messages' needs a 'role'"),
        (
            {"prompt": {"messages": [{"role": "assistant", "content": None}]}},
            "prompt.messages: holds a null, which a job file cannot; leave the key out",
        ),
        ({"endpoint": {"rpm": 60}}, "endpoint.rpm: unknown key; did you mean endpoints.rpm or limits.rpm? Allowed here: name, b"),
        ({"temperature": 0}, "temperature: unknown key; a request parameter belongs into [params]. Allowed here: job,"),
        ({"promts": {}}, "promts: unknown key; did you mean 'prompts'? Allowed here: job, endpoint, endpoints, input"),
        ({"prompts": {"a": {"usr": "x"}}, "sweep": {"prompt": ["a"]}}, "prompts.a.usr: unknown key; did you mean 'user'?"),
        ({"endpoint": {"name": "flexia"}}, "endpoint.name: no endpoint is named 'flexia'; did you mean 'flexai'?"),
        ({"endpoint": {"name": "local", "base_url": "http://h/v1"}}, "endpoint.base_url: the endpoint 'local' has an add"),
        ({"endpoint": {"name": "flexai", "model_path": "m.gguf"}}, "endpoint.model_path: is for the endpoint 'local' only"),
        ({"endpoint": {"base_url": "host:8000"}}, "endpoint.base_url: must be a URL such as 'https://host/v1'"),
        ({"endpoint": {"base_url": "http://h:99999/v1"}}, "endpoint.base_url: must be a URL such as 'https://host/v1'"),
        ({"endpoint": {"base_url": "http://h/v1?a=b"}}, "endpoint.base_url: must be a URL without '?' and '#'"),
        ({"params": {"stream": True}}, "params.stream: set endpoint.stream to true, false or 'auto' instead"),
        ({"params": {"messages": []}}, "params.messages: messages come from the input or from [prompt], not from here"),
        ({"params": {"x": float("nan")}}, "params.x: holds nan, which JSON does not have"),
        ({"params": {"x": {"y": [None]}}}, "params.x: holds a null, which a job file cannot; leave the key out"),
        ({"params": {"x": datetime.date(2026, 1, 1)}}, "params.x: holds a date, which JSON does not have; write it in quo"),
        ({"params": {"max_tokens": 0}}, "params.max_tokens: must be a whole number, 1 or more; found 0"),
        ({"params": {"seed": True}}, "params.seed: must be a whole number; found True"),
        ({"override": {"top_p": 2}}, "override.top_p: must be a number from 0 to 1; found 2"),
        ({"sweep": {"temperature": [0, 3]}}, "sweep.temperature: must be a number from 0 to 2; found 3"),
        ({"sweep": {"temperature": 1}}, "sweep.temperature: must be a list of the values to try; found 1"),
        ({"sweep": {"seed": [1, 1]}}, "sweep.seed: has the same value twice; for repeated answers set sweep.samples"),
        ({"sweep": {"messages": [[]]}}, "sweep.messages: cannot be swept"),
        ({"sweep": {"prompt": [["a"]]}}, "sweep.prompt: no prompt is named ['a']; write it as [prompts.NAME]"),
        ({"sweep": {"samples": 0}}, "sweep.samples: must be 1 or more; found 0"),
        ({"sweep": {"order": "column"}}, "sweep.order: must be 'auto', 'prefix' or 'row'; found 'column'"),
        ({"prompts": {"a": {"user": "x"}}}, "prompts: sweep.prompt does not name which of these prompts to try"),
        ({"sweep": {"seed": [1]}, "override": {"seed": 2}}, "sweep.seed: override.seed (also: --set seed=…) would make"),
        (
            {"limits": {"budget_tokens": 9}, "prompt": {"user": "x"}},
            "limits.budget_tokens: needs params.max_tokens, so that the dearest answer",
        ),
        ({"limits": {"budget_usd": 1}, "params": {"max_tokens": 9}}, "limits.budget_usd: needs [prices]: input and output"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_mistake_is_one_sentence(data, told):
    assert mistake(data).startswith(told)


def test_mistakes_between_fields_are_told_along_with_those_in_fields_beside_them():
    data = {
        "endpoint": {"name": "flexia", "timeout_s": "1", "model_path": "m.gguf"},
        "prompt": {"user": "x"},
        "prompts": {"a": {"user": "y"}, "b": {"usr": "z"}},
        "params": {"temperature": 3},
        "sweep": {"samples": 0, "prompt": ["a"], "zip": {"seed": [1], "top_p": [1, 0.5]}},
        "limits": {"rpm": "60", "tpm": 1e-9, "max_outage": "x", "budget_usd": 1},
        "prices": {"input": "1"},
        "score": [{"name": "s", "kind": "exact", "expected": "label", "strip": 1}, {"name": "s", "kind": "exact"}],
    }
    assert [told.partition(": ")[0] for told in sorted(mistakes(data))] == [
        "endpoint.model_path",
        "endpoint.name",
        "endpoint.timeout_s",
        "limits.budget_usd",  # needs params.max_tokens; whether prices are needed cannot be said
        "limits.max_outage",
        "limits.rpm",
        "limits.tpm",
        "params.temperature",
        "prices.input",
        "prices.output",
        "prompts.b.usr",
        "score.0.strip",
        "score.1",
        "sweep.samples",
        "sweep.zip",
    ]


def test_a_misspelt_prompt_names_the_prompts_there_are():
    data = {"prompts": {"short": {"user": "x"}, "long": {"user": "y"}}, "sweep": {"prompt": ["shrt", "long"]}}
    assert mistake(data) == "sweep.prompt: no prompt is named 'shrt'; did you mean 'short'? There are: short, long"


def test_prompt_and_swept_prompts_exclude_each_other():
    data = {"prompt": {"user": "x"}, "prompts": {"a": {"user": "x"}}, "sweep": {"prompt": ["a"]}}
    assert mistake(data).startswith("prompt: [prompt] and sweep.prompt exclude each other")


def test_two_endpoints_on_one_host_need_names():
    urls = [{"base_url": "http://h:1/v1"}, {"base_url": "http://h:1/v2"}]
    told = "endpoints.1: is the second one called 'h:1'; give each a name of its own"
    assert mistakes({"endpoints": urls}) == [told]
    assert build({"endpoints": [urls[0], {"name": "second", **urls[1]}]}).endpoints[1].name == "second"
    assert build({"endpoints": [urls[0], {"base_url": "http://h:2/v1"}]})


def test_a_model_of_an_endpoint_and_swept_models_exclude_each_other():
    endpoints = [{"base_url": "http://a/v1"}, {"base_url": "http://b/v1", "model": "m"}]
    told = "endpoints.1.model: and sweep.model exclude each other: every point would be sent to the one model"
    assert mistakes({"endpoints": endpoints, "sweep": {"model": ["m", "n"]}}) == [told]
    assert build({"endpoints": endpoints, "params": {"model": "m"}, "sweep": {"seed": [1, 2]}})


def test_a_value_from_outside_the_file_has_no_line(tmp_path):
    path = tmp_path / "j.toml"
    path.write_text("[limits]\nrpm = 60\n")
    with pytest.raises(JobError, match=r"j.toml: limits.rpm: must be more than 0; found -1$"):
        load(path, [("limits.rpm", -1)])


KEY = "sk-4f9aVerySecret"


@pytest.mark.parametrize(
    "data",
    [
        {"endpoint": {"api_key": KEY}},
        {"endpoint": {"key": KEY}},
        {"endpoint": {"api_key_env": KEY}},
        {"endpoint": {"api_key_env": [KEY]}},
        {"endpoint": {"base_url": f"https://user:{KEY}@host/v1"}},
        {"endpoint": {"base_url": f"https://{KEY}@host/v1"}},
        {"endpoint": {"base_url": [f"https://user:{KEY}@host/v1"]}},
        {"endpoint": {"base_url": f"https://host/v1?key={KEY}"}},
        {"endpoint": {"base_url": f"https://user:{KEY}@[host/v1"}},
        {"endpoint": {"base_url": KEY}},
        {"endpoint": {"name": KEY}},
        {"endpoint": KEY},
        {"params": {"api_key": KEY}},
        {"params": {"temperature": KEY}},
        {"override": {"Authorization": f"Bearer {KEY}"}},
        {"sweep": {"api_key": [KEY]}},
        {"api_key": KEY},
        {KEY: 1},
    ],
    ids=str,
)
def test_a_key_pasted_into_a_job_is_never_repeated(data):
    with pytest.raises(JobError) as caught:
        build(data)
    assert KEY not in str(caught.value)
    assert "VerySecret" not in str(caught.value)


def test_a_key_pasted_into_a_job_file_is_never_repeated(tmp_path):
    path = tmp_path / "j.toml"
    path.write_text(f'[endpoint]\napi_key = "{KEY}"\nbase_url = "http://u:hunter2@h/v1"\n')
    with pytest.raises(JobError) as caught:
        load(path)
    assert "line 2, endpoint.api_key: unknown key; a key does not belong in a job file" in str(caught.value)
    assert "line 3, endpoint.base_url: must be a URL without user or password" in str(caught.value)
    assert KEY not in str(caught.value) and "hunter2" not in str(caught.value)


# ------------------------------------------------------------------------------------------------- from text to job


def test_a_job_file_is_read_and_its_paths_are_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "jobs"
    folder.mkdir()
    path = folder / "label reviews.toml"
    path.write_text('\ufeff[input]\npath = ["../data/*.jsonl", "/abs/x.csv"]\n[endpoint]\nmodel_path = "m.gguf"\n')
    monkeypatch.chdir(tmp_path)
    job = load(Path("jobs/label reviews.toml"))
    assert job.job.name == "label-reviews"
    assert job.out == Path("runs/label-reviews")
    assert job.input.path == [str(tmp_path / "data/*.jsonl"), "/abs/x.csv"]
    assert job.endpoint.model_path == str(folder / "m.gguf")
    here = load(path, [("input.path", "x.jsonl")])
    assert here.input.path == str(tmp_path / "x.jsonl")


def test_every_path_of_a_job_file_is_its_own(tmp_path, monkeypatch):
    folder = tmp_path / "jobs"
    folder.mkdir()
    (folder / "j.toml").write_text(
        """\
[log]
file = "j.log"
[notify]
metrics_file = "j.prom"
[[endpoints]]
model_path = "m.gguf"
[[score]]
name = "good"
kind = "judge"
judge = { rubric = "Is it good?", endpoint = { model_path = "judge.gguf" } }
[[score]]
name = "own"
kind = "scores:own"
"""
    )
    monkeypatch.chdir(tmp_path)
    job = load(Path("jobs/j.toml"), [("log.file", "here.log")])
    judge = job.score[0].judge
    assert judge is not None and judge.endpoint is not None
    assert (job.log.file, job.notify.metrics_file) == (str(tmp_path / "here.log"), str(folder / "j.prom"))
    assert (job.endpoints[0].model_path, judge.endpoint.model_path) == (
        str(folder / "m.gguf"),
        str(folder / "judge.gguf"),
    )
    assert job.score[1].folder == str(folder)


@pytest.mark.parametrize("name", ["_.toml", "-.toml", f"{'a' * 200}.toml", "ü.toml", ".toml"])
def test_any_file_name_makes_a_job_name(tmp_path, name):
    (tmp_path / name).write_text("")
    assert load(tmp_path / name).job.name


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[job\n", "not valid TOML"),
        (b"\xff\xfe", "cannot be read"),
        (b"x = " + b"[" * 5000, "not valid TOML"),
        (b"x = " + b"9" * 5000, "not valid TOML"),
    ],
)
def test_a_file_that_is_no_toml(tmp_path, content, told):
    (tmp_path / "j.toml").write_bytes(content)
    with pytest.raises(JobError, match=told):
        load(tmp_path / "j.toml")


def test_a_missing_file_or_a_folder(tmp_path):
    with pytest.raises(JobError, match="there is no job file"):
        load(tmp_path / "no.toml")
    with pytest.raises(JobError, match="cannot be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("limits.rpm=60", ("limits.rpm", 60)),
        ("max_tokens=4096", ("override.max_tokens", 4096)),
        ("temperature = 0.5", ("override.temperature", 0.5)),
        ("model=Qwen/Qwen2.5", ("override.model", "Qwen/Qwen2.5")),
        ('stop=["a", "b"]', ("override.stop", ["a", "b"])),
        ("params.x={ a = 1 }", ("params.x", {"a": 1})),
        ('x="a', ("override.x", '"a')),
        ("v=1\nw=2", ("override.v", "1\nw=2")),
        ("x=", ("override.x", "")),
        ("limits.deadline=06:30", ("limits.deadline", "06:30")),
        ("user=2026-01-05", ("override.user", "2026-01-05")),
    ],
)
def test_settings(text, setting):
    assert parse_setting(text) == setting


@pytest.mark.parametrize("text", ["", "x", "=1", "a..b=1", "a b=1", KEY])
def test_no_setting(text):
    with pytest.raises(JobError, match="--set wants KEY=VALUE") as caught:
        parse_setting(text)
    assert "VerySecret" not in str(caught.value)


def test_settings_replace_and_the_given_values_stay_as_they_are():
    data = {"params": {"x": {"y": 1}, "stop": ("a", "b")}, "job": {"out": Path("o")}}
    job = build(data, [("params.x.y", 2), ("params.x.z", 3)])
    assert job.params == {"x": {"y": 2, "z": 3}, "stop": ["a", "b"]}
    assert job.out == Path("o")
    assert data["params"]["x"] == {"y": 1}
    with pytest.raises(JobError, match="'rpm' is a value, not a table"):
        build({"limits": {"rpm": 3}}, [("limits.rpm.x", 1)])


def test_base_url_is_cut_to_what_the_path_is_added_to():
    for url in ("http://h/v1", "http://h/v1/", "http://h/v1/chat/completions", "http://h/v1//chat/completions/"):
        assert build({"endpoint": {"base_url": url}}).endpoint.base_url == "http://h/v1"


def test_a_likely_misspelling_is_a_warning():
    job = build({"params": {"temprature": 0.5, "top_k": 3}, "override": {"max_token": 3}, "sweep": {"sed": [1]}})
    assert job.warnings() == [
        "params.temprature is not a documented parameter; did you mean 'temperature'? It is sent as it is",
        "override.max_token is not a documented parameter; did you mean 'max_tokens'? It is sent as it is",
        "sweep.sed is not a documented parameter; did you mean 'seed'? It is sent as it is",
    ]
    assert build({"params": {"min_p": 0.1, "guided_json": {}, "repetition_penalty": 2}}).warnings() == []


@pytest.mark.parametrize(
    ("prompt", "slips"),
    [
        ({"user": "Which team? {text}"}, 1),
        ({"messages": [{"role": "user", "content": "Which team? { text }"}]}, 1),
        ({"user": "Which team? {{ text }}"}, 0),
        ({"user": 'Answer as {"team": "…"}'}, 0),
        ({"user": "In {braces}: {{ text }}"}, 0),
        ({"user": "Say something."}, 0),
    ],
)
def test_a_column_in_single_braces_is_a_warning(prompt, slips):
    text = "prompt: {text} in single braces is sent as it stands, and the same for every row; a column is written {{ text }}"
    assert build({"prompt": prompt}).warnings() == [text] * slips


def test_the_json_schema_can_be_made():
    schema = Job.model_json_schema()
    assert set(schema["properties"]) == set(Job.model_fields)


def test_changes_name_what_shapes_the_requests():
    one = build({"params": {"model": "a", "x": {"y": 1}}, "limits": {"rpm": 1}, "input": {"path": "a"}})
    two = build({"params": {"model": "b", "x": {"y": 1}}, "limits": {"rpm": 2}, "input": {"path": "b"}})
    assert changes(one.resolved(), two.resolved()) == ["params.model: 'a' → 'b'"]
    assert changes(one.resolved(), one.resolved()) == []


# ------------------------------------------------------------------------------------------------------ any data

SECTIONS = list(Job.model_fields)
NAMES = st.sampled_from(
    sorted({key for field in Job.model_fields.values() for key in getattr(field.annotation, "model_fields", {})})
) | st.sampled_from(["model", "temperature", "seed", "prompt", "messages", "stream", "api_key", "samples", "user", "a"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["auto", "*", "http://h/v1", "06:30", "2h", "keep", "local", "a", "\ud800"])
    | st.dates()
    | st.binary(max_size=3)
    | st.builds(object)
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(max_size=5), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=1)
        | st.tuples(inner)
    ),
    max_leaves=8,
)
ANY_JOB = st.dictionaries(
    st.sampled_from(SECTIONS) | st.text(max_size=5) | st.integers(),
    st.dictionaries(NAMES | st.text(max_size=5), NESTED, max_size=4) | NESTED,
    max_size=5,
)


@MODERATE
@given(ANY_JOB)
def test_random_data_is_a_job_or_a_job_error(data):
    try:
        job = build(data)
    except JobError as error:
        assert error.mistakes and all(error.mistakes)
    else:
        assert_round_trip(job)


@MODERATE
@given(st.text(max_size=200) | st.lists(st.sampled_from('[]{}="\'\n#.a1,\\\r "'), max_size=60).map("".join))
def test_random_text_is_a_job_or_a_job_error(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "random.toml"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    try:
        load(path)
    except JobError as error:
        assert error.mistakes


WORDS = st.text(string.ascii_letters + string.digits + " .-_\"'\\\n\t\x7f\x00é😀{}%", max_size=12)
FREE = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(WORDS.filter(lambda name: not names_a_key(name)), inner, max_size=3)
    ),
    max_leaves=6,
)
# A name that begins with x_ is no parameter with a documented range.
FREE_NAMES = WORDS.map(lambda name: f"x_{name}").filter(lambda name: not names_a_key(name))
SPANS = st.floats(0.1, 1e6) | st.integers(1, 10**6)
PROMPTS = st.fixed_dictionaries({"user": WORDS.filter(bool)}, optional={"system": WORDS})


@st.composite
def jobs(draw):
    """Valid jobs, of every section."""
    data = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "job": st.fixed_dictionaries(
                    {"name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)},
                    optional={
                        "on_change": st.sampled_from(["stop", "rerun", "keep"]),
                        "out": WORDS.filter(bool).map(escaped),
                    },
                ),
                "endpoint": st.fixed_dictionaries(
                    {"base_url": st.sampled_from(["http://h:1/v1", "https://h/v1/chat/completions//"])},
                    optional={
                        "stream": st.booleans() | st.just("auto"),
                        "timeout_s": SPANS,
                        "api_key_env": st.just("K_1"),
                    },
                ),
                "input": st.fixed_dictionaries(
                    {"path": WORDS.filter(bool) | st.lists(WORDS.filter(bool))},
                    optional={
                        "carry": st.just("*") | st.lists(WORDS),
                        "dedupe": st.booleans(),
                        "limit": st.integers(1),
                    },
                ),
                "params": st.dictionaries(FREE_NAMES, FREE, max_size=4),
                "override": st.dictionaries(FREE_NAMES.map(lambda name: f"o{name}"), FREE, max_size=2),
                "limits": st.fixed_dictionaries(
                    {"concurrency": st.just("auto") | st.integers(1, 65536)},
                    optional={"rpm": SPANS, "deadline": st.sampled_from(["2h", "06:30", 60, 1.5])},
                ),
                "prices": st.fixed_dictionaries({"input": SPANS, "output": SPANS}),
                "retry": st.fixed_dictionaries({"attempts": st.integers(1, 1000), "max_s": SPANS}),
                "journal": st.fixed_dictionaries({"sync_s": st.floats(0.1, 3600)}),
            },
        )
    )
    grid = draw(st.dictionaries(FREE_NAMES, st.lists(FREE, min_size=1, max_size=3, unique_by=repr), max_size=2))
    if draw(st.booleans()):
        grid["zip"] = {"left": [1, 2, 3], "right": draw(st.lists(FREE, min_size=3, max_size=3))}
    if draw(st.booleans()):
        grid["points"] = [{"single": draw(FREE)}, {}, {"double": draw(FREE), "single": "x"}]
    if draw(st.booleans()):
        grid["order"] = draw(st.sampled_from(["auto", "prefix", "row"]))
    prompts = draw(st.dictionaries(WORDS, PROMPTS, max_size=3))
    if prompts:
        data |= {"prompts": prompts, "sweep": {"prompt": list(prompts), **grid}}
    else:
        data |= {"sweep": {"samples": draw(st.integers(1, 5)), **grid}}
        if draw(st.booleans()):
            data["prompt"] = draw(PROMPTS)
    return data


def assert_round_trip(job: Job) -> None:
    resolved = job.resolved()
    assert build(resolved) == job
    assert build(tomllib.loads(tomli_w.dumps(resolved))) == job
    read = tomllib.loads(job.to_toml())
    assert build(read) == job
    assert json.dumps(read) == json.dumps(resolved)  # as text, because the order of the keys is to be the same


@MODERATE
@given(jobs())
def test_a_valid_job_survives_being_written(data):
    assert_round_trip(build(data))


def test_the_resolved_job_has_every_default():
    resolved = build({}).resolved()
    assert resolved["limits"] == {
        "concurrency": "auto",
        "max_concurrency": 1024,
        "grace_s": 30.0,
        "on_no_credit": "stop",
        "max_outage": "10m",
        "max_wait": "1h",
        "max_failures": 0.5,
    }
    assert "endpoint" in resolved and "endpoints" not in resolved
    assert "prompt" not in resolved and "prices" not in resolved
    assert build(resolved) == build({})


def test_a_job_with_several_endpoints_survives_being_written(tmp_path):
    one = {"name": "one", "base_url": "http://h/v1", "api_key_env": "K_1", "model": "m", "rpm": 60, "tpm": 1e6}
    two = {"base_url": "https://other/v1", "concurrency": 8, "stream": True}
    job = build({"job": {"name": "several"}, "endpoints": [one, two], "limits": {"rpm": 5}})
    assert_round_trip(job)
    assert "endpoint" not in job.resolved()
    path = tmp_path / "job.toml"
    path.write_text(job.to_toml(), encoding="utf-8")
    assert job.to_toml().count("[[endpoints]]") == 2
    assert load(path) == job
    assert [(e.name, e.rpm, e.tpm, e.concurrency) for e in load(path).endpoint_entries] == [
        ("one", 60, 1e6, "auto"),
        (None, 5, None, 8),
    ]


def test_whole_numbers_written_as_floats_are_whole_numbers_where_these_are_wanted():
    job = build(
        {
            "params": {"max_tokens": 64.0, "temperature": 1.0, "top_k": 20.0, "n": 1.0},
            "sweep": {"seed": [1.0, 2], "zip": {"max_completion_tokens": [5.0]}, "points": [{"top_logprobs": 3.0}]},
            "score": [{"name": "j", "kind": "judge", "judge": {"rubric": "Fine?", "params": {"max_tokens": 9.0}}}],
        },
        [parse_setting("max_tokens=32.0")],
    )
    assert repr(job.params) == "{'max_tokens': 64, 'temperature': 1.0, 'top_k': 20.0, 'n': 1}"
    assert repr(job.override) == "{'max_tokens': 32}"
    assert repr(job.sweep.variables) == "{'top_logprobs': [3], 'max_completion_tokens': [5], 'seed': [1, 2]}"
    assert job.score[0].judge is not None and repr(job.score[0].judge.params["max_tokens"]) == "9"
    for wrong in (64.5, 0.0, float("inf")):
        with pytest.raises(JobError, match=r"params\.max_tokens"):
            build({"params": {"max_tokens": wrong}})


@pytest.mark.parametrize("name", ["messages", "body", "stream", "api_key"])
def test_columns_that_are_no_parameters_are_refused_as_such(name):
    with pytest.raises(JobError, match=r"^input\.params: "):
        build({"input": {"params": [name]}})
