"""What may stand in an SQL condition: one table and nothing else, whatever the text looks like."""

from __future__ import annotations

import socket
from pathlib import Path

import polars as pl
import pytest

from batchflex.core.errors import JobError
from batchflex.results import sql_filter

FRAME = pl.DataFrame(
    {"status": ["ok", "it's", "failed"], "n": [1, 2, 3], "values": [1, 0, 1], "l": [[1], [2], [1, 2]]}
).lazy()

# {} is a file that must not be opened: each of these would have polars read it.
QUERIES = [
    "n IN (SELECT a FROM read_csv('{}'))",
    "n = (SELECT max(a) FROM read_csv('{}'))",
    "EXISTS (SELECT 1 FROM read_csv('{}'))",
    "n = ANY(SELECT a FROM read_csv('{}'))",
    "n IN (FROM read_csv('{}'))",
    "n IN ((FROM read_csv('{}')))",
    "n IN (/**/FROM read_csv('{}'))",
    "n IN (--\nFROM \"read_csv\"('{}'))",
    "n IN (/* a /* b */ ' */ SELECT a FROM read_csv('{}')) OR status = ' '",
    "EXISTS (FROM \"read_csv\"('{}'))",
    "EXISTS(\u00a0FROM\u2003\"read_csv\"('{}'))",
    "n IN (WITH x AS (SELECT a FROM read_csv('{}')) SELECT a FROM x)",
    "n IN (SELECT a FROM read_csv('{}') UNION SELECT 1)",
    "n IN (SELECT x.a FROM read_csv('{}') x JOIN read_csv('{}') y ON x.a = y.a)",
    "n IN (SELECT a FROM read_csv('{}') x CROSS JOIN read_csv('{}') y)",
    "n IN (SELECT a FROM `read_csv`('{}'))",
    "n IN (SELECT a FROM read_parquet('{}'))",
    "n IN (SELECT a FROM read_ipc('{}'))",
    "n IN (SELECT a FROM read_json('{}'))",
    "n IN (SELECT a FROM '{}')",
    "n IN (\u017felect a from read_csv('{}'))",
    "n IN (w\u0131th x as (\u017felect a from read_csv('{}')) \u017felect a from x)",
    "status = $a$ ' $a$ AND n IN (SELECT a FROM read_csv('{}')) OR status = $a$ ' $a$",
    "status = $$ ' $$ AND n IN (SELECT a FROM read_csv('{}')) OR status = $$ ' $$",
    "status = $a$ $$ $a$ AND n IN (SELECT a FROM read_csv('{}')) OR status = $a$ $$ $a$",
    "status = E'\\'' AND n IN (SELECT a FROM read_csv('{}')) OR status = ' '",
    "status = 'a\\' AND n IN (SELECT a FROM read_csv('{}')) OR status = ' '",
    "status != '.subplan(' AND n IN (SELECT a FROM read_csv('{}'))",
    "CASE WHEN n = 1 THEN n IN (SELECT a FROM read_csv('{}')) ELSE true END",
    "n > avg(n) OVER (PARTITION BY (SELECT a FROM read_csv('{}')))",
    "count(n) FILTER (WHERE n IN (SELECT a FROM read_csv('{}'))) > 1",
    "coalesce((SELECT a FROM read_csv('{}')), 1) = 1",
    "n IN (TABLE read_csv('{}'))",
    "n IN (VALUES (1), (2))",
    "n IN (SELECT n FROM self)",
    "n IN (DELETE FROM \"read_csv\"('{}'))",
    "n IN (INSERT INTO x FROM \"read_csv\"('{}'))",
    "n = 1; SELECT * FROM read_csv('{}')",
    "SELECT * FROM read_csv('{}')",
    "n = 1 UNION SELECT a FROM read_csv('{}')",
    "CREATE TABLE x AS SELECT * FROM read_csv('{}')",
    "DROP TABLE self",
    "TRUNCATE TABLE self",
    "read_csv('{}') = 1",
]


@pytest.mark.parametrize("where", QUERIES)
def test_a_condition_opens_no_file(where: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trap = tmp_path / "a.csv"
    trap.write_text("a,canary\n1,2\n")
    before = trap.stat().st_atime_ns
    with pytest.raises(JobError) as refused:
        sql_filter.read(where.replace("{}", str(trap)))
    assert "canary" not in str(refused.value)
    missing = where.replace("{}", str(tmp_path / "missing.csv"))  # whether there is such a file is not told, either
    with pytest.raises(JobError) as refused:
        sql_filter.read(missing)
    assert "No such file" not in str(refused.value) and "os error" not in str(refused.value)
    assert trap.stat().st_atime_ns == before
    assert capfd.readouterr().out == ""


def test_a_condition_opens_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        with pytest.raises(JobError):
            sql_filter.read(f"n IN (SELECT a FROM read_csv('http://127.0.0.1:{server.getsockname()[1]}/a.csv'))")
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("where", [text for text in QUERIES if "IN (" in text and "FILTER" not in text])
def test_what_polars_makes_of_a_query_is_refused_by_itself(where: str, tmp_path: Path) -> None:
    """Were the words to let one through, no piece of it is known."""
    trap = tmp_path / "a.csv"
    trap.write_text("a\n1\n")
    try:
        expression = pl.sql_expr(where.replace("{}", str(trap)))
    except (pl.exceptions.PolarsError, OSError):
        return  # this version of polars knows no such thing
    assert sql_filter._unknown(expression) is not None


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("status = 'it''s' AND n IN (1, 2)", 1),
        ("status = $a$it's$a$", 1),
        ("status != 'n IN (SELECT a FROM read_csv(1))'", 3),
        ("status != '.subplan('", 3),
        ("status != 'a\\d' -- select\n AND n > 1", 2),
        ("/* select */ n > 1 /* from */", 2),
        ("(values = 1)", 2),
        ('"values" = 0', 1),
        ("n > avg(n)", 1),
        ("n >= avg(n) OVER (PARTITION BY values)", 2),
        ("first(n) OVER (PARTITION BY values ORDER BY n DESC) = 3", 2),
        ("CASE WHEN n = 1 THEN true ELSE false END", 1),
        ("status ~ '(o+)+k' OR length(status) = 6", 2),
        ("CAST(n AS FLOAT) > 1.5 AND coalesce(n, 0) < 3", 1),
        ("n NOT BETWEEN 2 AND 3 AND status IS NOT NULL AND status LIKE 'o%'", 1),
        ("array_length(l) > 1", 1),
        ("first(n) = 1", 3),
        ("stddev(n) < 5 AND count(n) > 1", 3),
        (" OR ".join(["n = 1"] * 120), 1),
        ("n IN (" + ", ".join(map(str, range(5_000))) + ")", 3),
    ],
)
def test_conditions_over_the_table_are_taken(where: str, rows: int) -> None:
    read = sql_filter.read(where)
    assert sql_filter.fitting(read, FRAME).collect().height == rows


@pytest.mark.parametrize(
    "where",
    [
        " OR ".join(["n = 1"] * 20_000),
        "n" + "+1" * 20_000 + " = 1",
        "(" * 20_000 + "n = 1" + ")" * 20_000,
        "abs(" * 2_000 + "n" + ")" * 2_000 + " = 1",
        "CASE WHEN n = 1 THEN " * 2_000 + "true" + " END" * 2_000,
        "n = 'a\x1b[2J\u202e",
        "",
        "\x00",
        "\ud800 = 1",
    ],
)
def test_what_would_end_the_process_or_upset_a_terminal_is_refused_in_a_short_sentence(where: str) -> None:
    with pytest.raises(JobError) as refused:
        sql_filter.read(where)
    message = str(refused.value)
    assert len(message) < 2_000 and message.isprintable()
