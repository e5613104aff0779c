"""The GoogleSQL harness itself: values survive the trip, and the engine answers as documented."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from .service import GoogleSql, GoogleSqlError

TIMESTAMP = pa.timestamp("us", tz="UTC")
NUMERIC = pa.decimal128(38, 9)
BIGNUMERIC = pa.decimal256(76, 38)
ORDERS = pa.table(
    {
        "customer": pa.array(["a", "a", "b", None]),
        "amount": pa.array([Decimal("1.5"), Decimal("2.25"), None, Decimal("-1")], NUMERIC),
        "placed": pa.array(
            [
                datetime(2011, 2, 3, 23, 59, 59, 999999, UTC),
                datetime(2011, 2, 5, tzinfo=UTC),
                datetime(1969, 12, 31, 23, 59, 59, 500000, UTC),
                None,
            ],
            TIMESTAMP,
        ),
    }
)


def scalar(engine: GoogleSql, expression: str) -> Any:
    """Return the Python value of one GoogleSQL expression."""
    return engine.evaluate(f"SELECT {expression}", {}).column(0)[0].as_py()


@pytest.mark.parametrize(
    ("arrow", "present"),
    [
        (pa.string(), ["", "é\N{GRINNING FACE}", "`quoted` 'text'\n", "\x00"]),
        (pa.binary(), [b"", b"\x00\xff"]),
        (pa.int64(), [0, -1, 2**63 - 1, -(2**63)]),
        (pa.float64(), [0.1, -0.0, 5e-324, 1.7976931348623157e308, math.inf, -math.inf]),
        (pa.bool_(), [True, False]),
        (pa.date32(), [date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]),
        (
            TIMESTAMP,
            [
                datetime(1, 1, 1, tzinfo=UTC),
                datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
                datetime(1970, 1, 1, tzinfo=UTC),
                datetime(9999, 12, 31, 23, 59, 59, 999999, UTC),
            ],
        ),
        (
            NUMERIC,
            [
                Decimal(0),
                Decimal("-0.128"),
                Decimal("0.000000001"),
                Decimal("-0.000000001"),
                Decimal("9" * 29 + "." + "9" * 9),
                Decimal("-" + "9" * 29 + "." + "9" * 9),
            ],
        ),
        (
            BIGNUMERIC,
            [Decimal("1E-38"), Decimal("-" + "9" * 38 + "." + "9" * 38)],
        ),
    ],
    ids=str,
)
def test_every_type_survives_the_round_trip(googlesql: GoogleSql, arrow: pa.DataType, present: list[Any]) -> None:
    values = [None, *present, None]
    table = pa.table({"n": pa.array(range(len(values)), pa.int64()), "x": pa.array(values, arrow)})
    assert googlesql.evaluate("SELECT n, x FROM t ORDER BY n", {"t": table}).equals(table)


def test_nan_survives_the_round_trip(googlesql: GoogleSql) -> None:
    table = pa.table({"x": pa.array([math.nan], pa.float64())})
    assert math.isnan(googlesql.evaluate("SELECT x FROM t", {"t": table})["x"][0].as_py())


def test_the_engine_reads_the_values_that_were_sent(googlesql: GoogleSql) -> None:
    table = pa.table(
        {
            "numeric": pa.array([Decimal("-12.000000001")], NUMERIC),
            "timestamp": pa.array([datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)], TIMESTAMP),
            "date": pa.array([date(1, 1, 1)], pa.date32()),
        }
    )
    columns = ", ".join(f"CAST(`{name}` AS STRING) AS `{name}`" for name in table.column_names)
    assert googlesql.evaluate(f"SELECT {columns} FROM t", {"t": table}).to_pylist() == [
        {
            "numeric": "-12.000000001",
            "timestamp": "1969-12-31 23:59:59.999999+00",
            "date": "0001-01-01",
        }
    ]


def test_an_empty_table_keeps_its_types(googlesql: GoogleSql) -> None:
    empty = ORDERS.slice(0, 0)
    assert googlesql.evaluate("SELECT * FROM t", {"t": empty}).equals(empty)


def test_large_tables_and_results_pass(googlesql: GoogleSql) -> None:
    rows = 100_000
    table = pa.table({"x": pa.array(range(rows), pa.int64())})
    sql = "SELECT x, REPEAT('wide', 20) AS y FROM t"
    result = googlesql.evaluate(sql, {"t": table})
    assert result.num_rows == rows
    assert result.nbytes > 8_000_000


def test_tables_beyond_the_limit_are_refused(googlesql: GoogleSql) -> None:
    table = pa.table({"x": pa.array(["wide" * 250] * 5000)})
    with pytest.raises(ValueError, match="GoogleSQL accepts 4194304"):
        googlesql.evaluate("SELECT x FROM t", {"t": table})


def test_group_by(googlesql: GoogleSql) -> None:
    sql = """
        SELECT customer, COUNT(*) AS n, SUM(amount) AS total, COUNT(DISTINCT DATE(placed)) AS days,
               COUNTIF(amount > 2) AS large, LOGICAL_OR(amount IS NULL) AS missing
        FROM t GROUP BY customer ORDER BY customer
    """
    assert googlesql.evaluate(sql, {"t": ORDERS}).to_pydict() == {
        "customer": [None, "a", "b"],
        "n": [1, 2, 1],
        "total": [Decimal("-1.000000000"), Decimal("3.750000000"), None],
        "days": [0, 2, 1],
        "large": [0, 1, 0],
        "missing": [False, False, True],
    }


def test_window_functions_and_qualify(googlesql: GoogleSql) -> None:
    sql = """
        SELECT LAG(DATE(placed)) OVER (PARTITION BY customer ORDER BY placed) AS before,
               DATE_DIFF(DATE(placed), DATE '2011-02-01', DAY) AS days,
               SUM(amount) OVER (PARTITION BY customer) AS total
        FROM t
        QUALIFY ROW_NUMBER() OVER (PARTITION BY customer ORDER BY placed DESC) = 1
        ORDER BY customer
    """
    assert googlesql.evaluate(sql, {"t": ORDERS}).to_pydict() == {
        "before": [None, date(2011, 2, 3), None],
        "days": [None, 4, -15007],
        "total": [Decimal("-1.000000000"), Decimal("3.750000000"), None],
    }


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("TO_HEX(MD5('x'))", "9dd4e461268c8034f5c8564e155c67a6"),
        ("BYTE_LENGTH('é')", 2),
        ("REGEXP_CONTAINS('order-12', r'^order-[0-9]+$')", True),
        ("SAFE_CAST('abc' AS BIGNUMERIC) IS NULL", True),
        ("SAFE_CAST('2011-02-30' AS TIMESTAMP)", None),
        ("SAFE_CAST('2011-02-03' AS TIMESTAMP)", datetime(2011, 2, 3, tzinfo=UTC)),
        ("SAFE_CAST('2011-02-03 04:05:06.1234567' AS TIMESTAMP)", None),
        ("ROUND(BIGNUMERIC '0.0000000005', 9, 'ROUND_HALF_EVEN')", Decimal(0)),
        ("ROUND(BIGNUMERIC '0.0000000015', 9, 'ROUND_HALF_EVEN')", Decimal("2E-9")),
        ("ROUND(BIGNUMERIC '-0.0000000025', 9, 'ROUND_HALF_EVEN')", Decimal("-2E-9")),
        ("ROUND(BIGNUMERIC '0.0000000005', 9)", Decimal("1E-9")),
        (
            "TIMESTAMP '2011-02-03 00:00:00' = TIMESTAMP '2011-02-03 00:00:00 UTC'",
            True,
        ),
    ],
)
def test_expressions(googlesql: GoogleSql, expression: str, expected: object) -> None:
    googlesql.analyze(f"SELECT {expression}", {})
    assert scalar(googlesql, expression) == expected


def test_a_name_of_several_parts_is_one_table(googlesql: GoogleSql) -> None:
    name = "my-project.shop.orders"
    sql = f"SELECT COUNT(*) AS n FROM `{name}` AS o WHERE o.amount > 0"
    googlesql.analyze(sql, {name: ORDERS.schema})
    assert googlesql.evaluate(sql, {name: ORDERS}).to_pydict() == {"n": [2]}


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT FROM t", "Syntax error"),
        ("SELECT nothing FROM t", "Unrecognized name: nothing"),
        ("SELECT customer FROM elsewhere", "Table not found: elsewhere"),
        ("SELECT customer + 1 FROM t", "No matching signature"),
        ("SELECT CAST(1 AS INT32)", "Type not found: INT32"),
        ("SELECT SUM(1) OVER (PARTITION BY 0.5 + 1)", "FLOAT64 is not allowed"),
    ],
)
def test_invalid_sql_is_refused(googlesql: GoogleSql, sql: str, message: str) -> None:
    with pytest.raises(GoogleSqlError, match=message) as analysis:
        googlesql.analyze(sql, {"t": ORDERS.schema})
    assert analysis.value.status == "INVALID_ARGUMENT"
    with pytest.raises(GoogleSqlError, match=message):
        googlesql.evaluate(sql, {"t": ORDERS})


def test_a_failure_on_the_data_is_told_from_invalid_sql(googlesql: GoogleSql) -> None:
    googlesql.analyze("SELECT 1 / (1 - 1)", {})
    with pytest.raises(GoogleSqlError, match="division by zero") as failure:
        googlesql.evaluate("SELECT 1 / (1 - 1)", {})
    assert failure.value.status == "OUT_OF_RANGE"


def test_types_beyond_the_harness_are_named(googlesql: GoogleSql) -> None:
    with pytest.raises(TypeError, match=r"'x'.*int32"):
        googlesql.analyze("SELECT 1", {"t": pa.schema([("x", pa.int32())])})
    with pytest.raises(TypeError, match=r"'x'.*TYPE_ARRAY"):
        googlesql.evaluate("SELECT [1] AS x", {})


def test_a_dead_server_is_not_mistaken_for_invalid_sql(googlesql: GoogleSql) -> None:
    with GoogleSql() as engine:
        engine._server._process.kill()
        engine._server._process.wait()
        with pytest.raises(RuntimeError, match="exited with -9"):
            engine.analyze("SELECT 1", {})
    googlesql.analyze("SELECT 1", {})
