"""TOML as text: the lines of keys, and tables written in their order."""

import json
import string
import tomllib

from hypothesis import given, settings, strategies as st

from batchflex.config.toml import dumps, key_lines

MODERATE = settings(deadline=None, max_examples=150)
WORDS = st.text(string.ascii_letters + string.digits + " .-_\"'\\\n\r\t\x7f\x00\x1fé😀{}[]=#%", max_size=12)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
TABLES = st.dictionaries(WORDS, st.dictionaries(WORDS, VALUES, max_size=4), max_size=4)


def test_the_line_of_each_key_is_found():
    text = """\
top = 1
[job]   # x [y]
"quo ted" = \"\"\"
x = 1
[no]
\"\"\"
list = [
  [1, 2],
  "k = v",   # ] "
  { a = 1 }
]
after = 'x#'
[[prompt.messages]]
role = "user"
[ params . "x y" ]
z.y = 3
[[prompt.messages]]
role = ''''a''''
last = \"\"\"\"a\"\"\"\"
end = 1
"""
    tomllib.loads(text)
    assert key_lines(text) == {
        "top": 1, "job": 2, "job.quo ted": 3, "job.list": 7, "job.list.2": 10, "job.after": 12,
        "prompt.messages": 13, "prompt.messages.0": 13, "prompt.messages.0.role": 14,
        "params.x y": 15, "params.x y.z.y": 16,
        "prompt.messages.1": 17, "prompt.messages.1.role": 18, "prompt.messages.1.last": 19, "prompt.messages.1.end": 20,
    }  # fmt: skip


@MODERATE
@given(TABLES)
def test_what_is_written_is_read_again_in_the_same_order(tables):
    assert json.dumps(tomllib.loads(dumps(tables))) == json.dumps(tables)


@MODERATE
@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,3}", fullmatch=True), st.dictionaries(WORDS, VALUES, max_size=4), max_size=4
    )
)
def test_each_key_that_is_written_has_its_line(tables):
    lines = dumps(tables).split("\n")
    places = key_lines("\n".join(lines))
    for name, table in tables.items():
        assert lines[places[name] - 1] == f"[{name}]"
        for key in table:
            assert (
                json.dumps(key, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")
                in lines[places[f"{name}.{key}"] - 1]
            )
