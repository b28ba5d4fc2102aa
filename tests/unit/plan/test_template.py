"""Templates: whose names win, and that nothing but data becomes text."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from batchflex.config.job import PromptSection
from batchflex.config.loader import build
from batchflex.core.errors import JobError
from batchflex.plan.template import Prompt, TemplateFault

ROW: dict[str, Any] = {
    "text": "hi", "n": 3, "tags": ["a", "b"], "meta": {"author": "x", "items": "I"}, "day": datetime.date(2026, 1, 2),
    "rows": [{"name": "q"}, {"name": "r"}],
}  # fmt: skip
_IN_FOR, _MACRO = "{%% for t in tags %%}%s{%% endfor %%}", "{%% macro m() %%}a{%% endmacro %%}%s"


def said(template: str, row: dict[str, Any]) -> str:
    prompt = Prompt(PromptSection(user=template))
    assert prompt.missing(list(row)) == []
    (message,) = prompt.render(row)
    assert isinstance(message["content"], str)
    return message["content"]


@pytest.mark.parametrize(
    "name", ["range", "dict", "namespace", "cycler", "joiner", "self", "loop", "caller", "row", "varargs"]
)
def test_a_column_wins_over_what_jinja_has_under_its_name(name: str) -> None:
    assert said(f"{{{{ {name} }}}} {{{{ {name} | upper }}}}", {name: "a column"}) == "a column A COLUMN"


@pytest.mark.parametrize("value", ["", "a % b %s {{ x }}", "é\n\U0001f600", 0, -3, 1.0, 1e22, True, float("inf")])
@pytest.mark.parametrize("column", ["range", "self", "loop", "row", "text"])
def test_columns_alone_are_put_in_as_jinja_does(column: str, value: object) -> None:
    template = f"100 % {{{{ {column} }}}}\n{{{{ row['n'] }}}}{{% raw %}}{{{{ x }}}}{{% endraw %}}\n"
    row = {column: value} if column != "row" else {"row": {"n": value}, "n": 0}
    row = {"n": 4, **row}
    by_jinja = said(template + "{{ '' }}", row)
    assert said(template, row) == by_jinja and "{{ x }}" in by_jinja


def test_columns_alone_are_refused_where_they_are_null_or_not_there() -> None:
    for row in ({"a": None}, {"a": float("nan")}):
        with pytest.raises(TemplateFault, match="is null"):
            said("{{ a }}", row)
    with pytest.raises(TemplateFault, match="which is not there"):
        Prompt(PromptSection(user="{{ row['b'] }}")).render({"a": 1})


def test_what_is_only_called_is_the_function() -> None:
    assert said("{{ range(3) | join }} {{ n }}", {"n": 1, "range": "5-10"}) == "012 1"
    with pytest.raises(TemplateFault, match="'str' object is not callable"):
        said("{{ range }} {{ range(3) | join }}", {"range": "5-10"})


def test_a_name_of_the_template_is_no_column() -> None:
    assert said("{% for row in rows %}{{ row['name'] }}{% endfor %}", ROW) == "qr"
    assert said("{% set range = 1 %}{{ range }}", {"range": "5-10"}) == "1"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ meta.author }} {{ meta.items }} {{ text.upper() }}", "x I HI"),
        ("{% for k, v in meta.items() %}{{ k }}={{ v }} {% endfor %}{{ meta.keys() | length }}", "author=x items=I 2"),
        ("{{ tags | map('upper') | join('-') }} {{ tags | map('upper') | list }} {{ tags }}", "A-B ['A', 'B'] ['a', 'b']"),
        (_IN_FOR % "{{ loop.index }}{{ loop.cycle('x', 'y') }}{{ t }}", "1xa2yb"),
        ("{% set ns = namespace(x=1) %}{% set ns.x = ns.x + 1 %}{{ ns.x }}", "2"),
        ("{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{% set j = joiner('-') %}{{ j() }}1{{ j() }}2", "ab1-2"),
        ("{% macro m(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call m(n) %}!{% endcall %}", "<3!>"),
        ("{% block t %}T{% endblock %}{{ self.t() }}", "TT"),
        ("{{ dict(a=1).a }} {{ range(5)[2] }} {{ 1 in range(3) }} {{ '{}'.format(day) }}", "1 2 True 2026-01-02"),
        ("{{ day }} {{ day.year }} {{ day.isoformat() }} {{ text.upper is callable }}", "2026-01-02 2026 2026-01-02 True"),
    ],
)  # fmt: skip
def test_what_a_template_may_do(template: str, text: str) -> None:
    assert said(template, ROW) == text


@pytest.mark.parametrize(
    "template",
    [
        *(
            "{{ range }}",
            "{{ dict }}",
            "{{ namespace }}",
            "{{ cycler }}",
            "{{ joiner }}",
            "{{ range(3) }}",
            "{{ cycler('a') }}",
        ),
        *(
            "{{ joiner(',') }}",
            "{{ namespace(a=1) }}",
            "{{ text.upper }}",
            "{{ text | attr('upper') }}",
            "{{ meta.keys }}",
        ),
        *("{{ meta.items() }}", "{{ day.isoformat }}", "{{ tags | map('upper') }}", "{{ tags | select('eq', 'a') }}"),
        *("{{ tags | reverse }}", "{{ tags | unique }}", "{{ tags | batch(1) }}", "{{ rows | map(attribute='name') }}"),
        *("{{ range ~ '' }}", "{{ '%s' % range }}", "{{ '{}'.format(range) }}", "{{ '%r' | format(text.upper) }}"),
        *(
            "{{ range | string }}",
            "{{ text.upper | upper }}",
            "{{ range | tojson }}",
            "{{ tags | map('upper') | tojson }}",
        ),
        *(
            "{{ [text.upper] }}",
            "{{ {'a': range} }}",
            "{{ [range] | join }}",
            "{% set x = range %}{{ x }}",
            "{{ range | pprint }}",
        ),
        *(_IN_FOR % "{{ loop }}", _IN_FOR % "{{ loop.cycle }}", _MACRO % "{{ m }}", _MACRO % "{{ m ~ '' }}"),
        *("{% block t %}T{% endblock %}{{ self }}", "{% block t %}T{% endblock %}{{ self.t }}"),
        "{% macro m() %}{{ caller }}{% endmacro %}{% call m() %}!{% endcall %}",
    ],
)
def test_no_text_is_made_of_what_is_no_data(template: str) -> None:
    with pytest.raises(TemplateFault, match="the template makes text of") as caught:
        said(template, ROW)
    assert " at 0x" not in str(caught.value) and "<" not in str(caught.value)


def test_what_is_missing_has_no_text_inside_of_a_list_either() -> None:
    prompt = Prompt(PromptSection(user="{{ [meta.nothing] }}"))
    with pytest.raises(TemplateFault, match="has no attribute 'nothing'"):
        prompt.render(ROW)


def test_an_object_of_a_frame_has_no_text_unless_it_says_one() -> None:
    with pytest.raises(TemplateFault, match="makes text of what is no data"):
        said("{{ it }}", {"it": object()})


def test_half_a_character() -> None:
    with pytest.raises(TemplateFault, match=r"what the template makes holds half a character \(a lone surrogate\)"):
        said(r"{{ '\ud83d' }}{{ n }}", ROW)
    for job in (
        {"prompt": {"system": "\udcff", "user": "x"}},
        {"prompt": {"user": "\ud800 {{ x }}"}},
        {"input": {"carry": ["a", "\ud800"]}},
        {"params": {"\ud800": 1}},
        {"override": {"metadata": {"a": ["\ud800"]}}},
    ):
        with pytest.raises(JobError, match=r"lone surrogate|valid Unicode") as caught:
            build(job)
        str(caught.value).encode()
