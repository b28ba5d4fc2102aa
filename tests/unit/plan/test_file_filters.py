"""Templates that put in files: what becomes of a message, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from batchflex.attachments import Use
from batchflex.config import PromptSection
from batchflex.core import JobError
from batchflex.plan.template import Prompt, TemplateFault

ROW = {
    "photo": "a.jpg",
    "more": ["b.jpg", None, "c.jpg"],
    "none": None,
    "empty": "",
    "paper": "p.pdf",
    "q": "Why?",
    "n": 3,
}


def attach(use: Use) -> str:
    options = "".join(f" {name}={value}" for name, value in use.options)
    return f"[{use.kind} {use.path}{options}]"


def content(template: str, row: dict[str, Any] = ROW) -> Any:
    (message,) = Prompt(PromptSection(user=template)).render(row, attach)
    return message["content"]


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def image(url: str, **more: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def test_an_image_becomes_a_part_between_the_text() -> None:
    assert content("See {{ photo | image }} and say: {{ q }}") == [
        text("See "),
        image("[image a.jpg]"),
        text(" and say: Why?"),
    ]
    assert content("{{ photo | image }}\n") == [image("[image a.jpg]")]
    assert content("{{ photo | image(max_side=64, detail='low') }}") == [
        image("[image a.jpg detail=low max_side=64]", detail="low")
    ]
    assert content("{{ photo | image(64) }}") == [image("[image a.jpg max_side=64]")]


@pytest.mark.parametrize(
    "template",
    [
        "{{ photo | image }}{{ more | image }}",
        "{{ photo | image }}{% for each in more if each %}{{ each | image }}{% endfor %}",
        "{% set one = photo | image %}{{ one }}{{ more | image }}",
        "{% macro show(path) %}{{ path | image }}{% endmacro %}{{ show(photo) }}{{ show(more) }}",
        "{% filter upper %}{{ photo | image }}{% endfilter %}{{ more | image }}",
        "{% set all %}{{ photo | image }} {{ more | image }}{% endset %}{{ all }}",
        "{{ [photo, more] | image }}",
        "{{ 'a.jpg' | image }}{{ ['b.jpg', 'c.jpg'] | image }}",
        "{{ none | image }}{{ photo | image }}{{ empty | image }}{{ more | image }}",
        "{{ (photo if n > 2 else none) | image }}{{ row['more'] | image }}",
    ],
)
def test_several_images_and_lists_of_them(template: str) -> None:
    assert content(template) == [image(f"[image {name}.jpg]") for name in "abc"]


def test_texts_stay_where_they_are() -> None:
    assert (
        content("<doc>{{ paper | pdf_text(pages='1-2', max_chars=9) }}</doc>")
        == "<doc>[pdf_text p.pdf max_chars=9 pages=1-2]</doc>"
    )
    assert content("{{ photo | file_text(encoding='latin1') }}{{ photo | image }}") == [
        text("[file_text a.jpg encoding=iso8859-1]"), image("[image a.jpg]"),
    ]  # fmt: skip


def test_whole_conversations() -> None:
    messages = [
        {"role": "system", "content": "Rules: {{ paper | file_text }}"},
        {"role": "user", "content": [
            {"type": "text", "text": "{{ q }} {{ photo | image }}", "cache_control": {"type": "ephemeral"}},
            {"type": "image_url", "image_url": {"url": " {{ photo | image }} ", "detail": "high"}},
            {"type": "text", "text": "static"},
        ]},
        {"role": "assistant", "tool_calls": []},
    ]  # fmt: skip
    made = Prompt(PromptSection(messages=messages)).render(ROW, attach)
    cached = {"cache_control": {"type": "ephemeral"}}
    assert made == [
        {"role": "system", "content": "Rules: [file_text p.pdf]"},
        {"role": "user", "content": [
            text("Why? "), {**image("[image a.jpg]"), **cached}, image("[image a.jpg]", detail="high"),
            text("static"),
        ]},
        {"role": "assistant", "tool_calls": []},
    ]  # fmt: skip


def test_a_prompt_without_files_is_as_it_was() -> None:
    (message,) = Prompt(PromptSection(user="{{ q }} ")).render(ROW)
    assert message == {"role": "user", "content": "Why? "}


def test_nothing_in_a_row_is_taken_for_a_mark() -> None:
    prompt = Prompt(PromptSection(user="{{ q }}{{ photo | image }}"))
    (made,) = Prompt(PromptSection(user="{{ photo | image }}{{ q }}")).render(
        ROW | {"q": "\ue000123\ue001 <batchflex:image sha256=0>"}, attach
    )
    assert made["content"][1] == text("\ue000123\ue001 <batchflex:image sha256=0>")
    assert prompt.file_kinds == {"image"} and prompt.file_columns == {"photo"}
    by_row = Prompt(PromptSection(user="{{ row['The Photo'] | image }}{{ paper | pdf_text }}"))
    assert by_row.file_kinds == {"image", "pdf_text"} and by_row.file_columns == {"The Photo", "paper"}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{{ photo | image | upper }}",
            "the template makes something else of a file: what | image gives is put in when the request",
        ),
        ("{{ paper | pdf_text | truncate(9) }}", "the template makes something else of a file: what | pdf_text gives"),
        ("{{ 'x' ~ (photo | image) }}", "makes something else of a file"),
        ("{{ (photo | image) | length }}", "makes something else of a file"),
        ("{{ [photo | image] }}", "makes something else of a file"),
        ("{{ [photo | image] | join }}", "makes something else of a file"),
        ("{{ (photo | image) | tojson }}", "makes something else of a file"),
        ("{{ n | image }}", "wants a path, or a list of them, before | image; found int"),
        (
            "{{ {'bytes': 'x'} | image }}",
            "before | image; found dict (what a table itself holds cannot be put in: write it into",
        ),
        ("{{ photo | image(max_side=n) }}", "max_side of image must be a whole number from 16 to 16,384; found 3"),
        ("{{ gone | image }}", "the template uses the column 'gone', which is not there"),
        ("{{ none | image }}", "leaves a message without any content, as what it puts in is null or empty"),
    ],
)
def test_misuse_is_a_fault_of_the_row(template: str, words: str) -> None:
    with pytest.raises(TemplateFault) as raised:
        content(template)
    assert words in str(raised.value)


def test_an_image_is_put_nowhere_but_into_a_message() -> None:
    prompt = Prompt(PromptSection(messages=[{"role": "user", "content": "x", "name": "n {{ photo | image }}"}]))
    with pytest.raises(TemplateFault, match="puts an image where it cannot be"):
        prompt.render(ROW, attach)


@pytest.mark.parametrize(
    ("filter_", "words"),
    [
        ("image(maxside=3)", "image has no option 'maxside'; it has max_side, detail"),
        ("image(max_side=3)", "max_side of image must be a whole number from 16 to 16,384; found 3"),
        ("image(max_side=true)", "max_side of image must be a whole number"),
        ("image(64, 'low')", "image takes one option without its name"),
        ("image(detail='fine')", "detail of image must be 'low', 'high' or 'auto'; found 'fine'"),
        (
            "pdf_text(pages='0-3')",
            "pages of pdf_text must be pages such as '1-3' or '1,4-6', counted from 1; found '0-3'",
        ),
        ("pdf_text(pages='3-1')", "pages of pdf_text must be pages"),
        ("pdf_text(encoding='utf-8')", "pdf_text has no option 'encoding'"),
        ("file_text(encoding='base64')", "encoding of file_text must be an encoding such as 'cp1252'; found 'base64'"),
        ("file_text(max_chars=0)", "max_chars of file_text must be a whole number from 1 to 1,000,000; found 0"),
    ],
)
def test_wrong_options_are_found_before_there_is_a_row(filter_: str, words: str) -> None:
    with pytest.raises(JobError) as raised:
        Prompt(PromptSection(user="{{ photo | " + filter_ + " }}"))
    assert f"prompt.user: {words}" in str(raised.value)
