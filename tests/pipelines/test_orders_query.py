"""Texts of --orders_query: which give the same rows each time, and that names alone change in them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import sqlglot
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlglot import expressions as sge

from pipelines.bigquery import Table
from pipelines.orders_query import NamedTable, OrdersQuery, as_of
from transforms.errors import UsageError

INSTANT = datetime.datetime(2026, 11, 22, 1, 15, 13, 248250, datetime.UTC)
TIME = " FOR SYSTEM_TIME AS OF TIMESTAMP '2026-11-22 01:15:13.248250+00:00'"


def read(directory: Path, sql: str) -> OrdersQuery:
    path = directory / "orders.sql"
    path.write_text(sql)
    return OrdersQuery.read(str(path))


def spliced(query: OrdersQuery, instant: datetime.datetime | None = INSTANT) -> str:
    """With every table in my-project, in the dataset that it has or ``shop``."""
    names = [NamedTable(n, Table("my-project", table.db, table.name), True) for n, table in query.tables()]
    return query.spliced(names, instant)


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT * FROM shop.orders WHERE RAND() < 0.1", "RAND()"), ("SELECT SAFE.rand() AS r FROM shop.orders", "RAND()"),
        ("SELECT GENERATE_UUID() AS order_id FROM shop.orders", "GENERATE_UUID()"),
        ("SELECT * FROM shop.orders WHERE d < CURRENT_DATE", "CURRENT_DATE"),
        ("SELECT * FROM shop.orders WHERE d < current_date('Europe/Berlin')", "CURRENT_DATE('Europe/Berlin')"),
        ("WITH a AS (SELECT CURRENT_TIMESTAMP() AS t) SELECT * FROM shop.orders, a", "CURRENT_TIMESTAMP()"),
        ("SELECT CURRENT_DATETIME() AS d FROM shop.orders", "CURRENT_DATETIME()"),
        ("SELECT CURRENT_TIME() AS d FROM shop.orders", "CURRENT_TIME()"),
        ("SELECT * FROM shop.orders FOR SYSTEM_TIME AS OF CURRENT_TIMESTAMP()", "CURRENT_TIMESTAMP()"),
        ("SELECT * FROM shop.orders WHERE owner = SESSION_USER()", "SESSION_USER()"),
        ("SELECT * FROM shop.orders TABLESAMPLE SYSTEM (10 PERCENT)", "TABLESAMPLE"),
        ("SELECT * FROM shop.orders LIMIT 1000", "LIMIT without ORDER BY"),
        ("SELECT * FROM (SELECT * FROM shop.orders LIMIT 9) ORDER BY 1", "LIMIT without ORDER BY"),
        ("(SELECT * FROM shop.orders ORDER BY 1) LIMIT 9", "LIMIT without ORDER BY"),
        ("SELECT 1 AS a UNION ALL SELECT 2 LIMIT 1", "LIMIT without ORDER BY"),
        ("SELECT ARRAY_AGG(a LIMIT 1)[OFFSET(0)] AS a FROM shop.orders GROUP BY b", "LIMIT without ORDER BY"),
        ("SELECT * FROM shop.orders QUALIFY ROW_NUMBER() OVER (PARTITION BY a) = 1", "ROW_NUMBER() without ORDER BY"),
    ],
)  # fmt: skip
def test_a_query_that_gives_other_rows_each_time_is_refused(tmp_path: Path, sql: str, names: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, sql)
    line = str(raised.value)
    assert f"orders.sql': {names} gives other rows each time: accepted is a query that gives the same rows" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM shop.orders ORDER BY a LIMIT 9", "SELECT o.current_date, `rand` FROM shop.orders AS o",
        "SELECT 'RAND() LIMIT 3' AS a FROM shop.orders -- CURRENT_DATE",
        "SELECT ARRAY_AGG(a ORDER BY b LIMIT 1)[OFFSET(0)] AS a FROM shop.orders GROUP BY c",
        "SELECT * FROM shop.orders QUALIFY ROW_NUMBER() OVER (PARTITION BY a ORDER BY b) = 1",
        "SELECT 1 AS a UNION ALL SELECT 2 ORDER BY 1 LIMIT 1",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_taken(tmp_path: Path, sql: str) -> None:
    assert read(tmp_path, sql).text == sql


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select a,  b from shop.orders", "select a,  b from `my-project.shop.orders`{t}"),
        ("SELECT * FROM shop.orders o;", "SELECT * FROM `my-project.shop.orders` o{t}"),
        ("SELECT * FROM shop.orders AS o;\n;\n-- end", "SELECT * FROM `my-project.shop.orders` AS o{t}\n\n-- end"),
        ("SELECT * FROM my-project.shop.orders,shop.a b JOIN`x.shop.c`USING(a)",
         "SELECT * FROM `my-project.shop.orders`{t},`my-project.shop.a` b{t} JOIN`my-project.shop.c`{t}USING(a)"),
        ("SELECT CAST(LOG10(a) AS NUMERIC(10, 2)), DATE '2011-01-01' FROM (SELECT * FROM shop . orders /* ; */ AS `o`)",
         "SELECT CAST(LOG10(a) AS NUMERIC(10, 2)), DATE '2011-01-01' FROM (SELECT * FROM `my-project.shop.orders` /* ; */ AS `o`{t})"),
        ("WITH a AS (SELECT * FROM shop.a) SELECT * FROM A", "WITH a AS (SELECT * FROM `my-project.shop.a`{t}) SELECT * FROM A"),
    ],
)  # fmt: skip
def test_names_and_times_are_all_that_changes(tmp_path: Path, sql: str, expected: str) -> None:
    query = read(tmp_path, sql)
    assert as_of(INSTANT) == TIME
    assert spliced(query) == expected.format(t=TIME)
    assert spliced(query, None) == expected.format(t="")


@pytest.mark.parametrize("sql", ["SELECT * FROM p-1.`shop.w`", "SELECT * FROM shop.orders-2011"])
def test_a_name_that_cannot_be_exchanged_is_refused(tmp_path: Path, sql: str) -> None:
    with pytest.raises(UsageError, match=r"orders\.sql': .*accepted is .*project\.dataset\.table"):
        spliced(read(tmp_path, sql))


_WORDS = st.sampled_from(
    ["a", "'x;y'", "1.50", "CAST(a AS NUMERIC(10, 2))", "LOG10(a)", "r'\\d'", "'é\U0001f600'", '"""q\n"""']
)
_SPACES = st.sampled_from([" ", "\n", " -- FROM shop.b;\n", " /* shop.c ; */ ", " # é\n", "\t"])
_TABLES = st.sampled_from(
    ["shop.orders", "`shop.orders`", "shop.`orders`", "my-project.shop.orders", "`my-project`.shop.orders"]
)
_ALIASES = st.sampled_from(["", " o", " AS o", " AS `o`"])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_without_names_and_times_it_is_the_same_text(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    draw = data.draw
    pieces: list[tuple[str, bool]] = [("SELECT", False)]
    for _ in range(draw(st.integers(1, 3))):
        pieces += [(draw(_SPACES), False), (draw(_WORDS), False), (",", False)]
    pieces[-1] = (draw(_SPACES), False)
    pieces.append(("FROM ", False))
    for number in range(draw(st.integers(1, 3))):
        pieces += [(" CROSS JOIN ", False)] * bool(number)
        pieces += [(draw(_TABLES), True), (draw(_ALIASES), False), ("{t}", False), (draw(_SPACES), False)]
    sql = "".join(text for text, _ in pieces).replace("{t}", "")
    expected = "".join("`my-project.shop.orders`" if name else text for text, name in pieces).replace("{t}", TIME)
    query = read(tmp_path_factory.mktemp("query"), sql)
    assert spliced(query) == expected
    (tree,) = sqlglot.parse(expected, dialect="bigquery")
    assert tree is not None and all(table.args.get("version") for table in tree.find_all(sge.Table))
