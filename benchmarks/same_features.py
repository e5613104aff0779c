"""Whether two features directories say the same of every customer.

``raw/`` must agree exactly in counts, dates, money and text, and within ``RELATIVE`` in float64:
both sides divide the same exact sums, only squared deviations are added in another order.
``transformed/`` is float32, and the z-scores' means and deviations are summed in another order and
precision (one side analyses inputs rounded to float32), so its numbers agree within ``Z_SCORE``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from benchmarks.harness import OutputsDiffer

if TYPE_CHECKING:
    import duckdb

# Of the larger value, but at least of 1: a deviation of equal amounts is rounding noise on both sides.
RELATIVE = 1e-9
Z_SCORE = 1e-4


def assert_same(ours: str, theirs: str) -> int:
    """Compares raw/ and transformed/ of two directories and returns the number of customers.

    Raises:
      OutputsDiffer: names part, column, customer and both values of the first difference.
    """
    import duckdb

    from transforms import schema

    floats = {column.name: RELATIVE for column in schema.CUSTOMERS if column.type is schema.Type.FLOAT}
    with duckdb.connect() as connection:
        rows = _compare(connection, "raw", ours, theirs, floats, expected=schema.names(schema.CUSTOMERS))
        _compare(connection, "transformed", ours, theirs, None, expected=None)
    return rows


def _compare(
    connection: duckdb.DuckDBPyConnection, part: str, ours: str, theirs: str, floats: dict[str, float] | None,
    expected: list[str] | None,
) -> int:  # fmt: skip
    """Args: floats: tolerance of the columns not compared exactly; None: Z_SCORE for every FLOAT."""
    columns: dict[str, dict[str, str]] = {}
    for side, directory in (("ours", ours), ("theirs", theirs)):
        files = os.path.join(directory, part, "*.parquet").replace("'", "''")
        connection.execute(f"CREATE OR REPLACE VIEW {side} AS SELECT * FROM read_parquet('{files}')")
        columns[side] = {row[0]: row[1] for row in connection.execute(f"DESCRIBE {side}").fetchall()}
    if columns["ours"] != columns["theirs"] or (expected and set(expected) != set(columns["ours"])):
        raise OutputsDiffer(f"{part}/ has the columns {columns['ours']} here and {columns['theirs']} there")
    if floats is None:
        floats = {name: Z_SCORE for name, type_ in columns["ours"].items() if type_ == "FLOAT"}
    rows = [_one_row_a_customer(connection, part, side) for side in ("ours", "theirs")]
    if rows[0] != rows[1]:
        raise OutputsDiffer(f"{part}/ has {rows[0]} customers here and {rows[1]} there")
    differs = {name: _differs(name, floats.get(name)) for name in columns["ours"]}
    joined = "ours FULL JOIN theirs ON ours.customer_id = theirs.customer_id"
    counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in differs.values())
    counted = connection.execute(f"SELECT {counts} FROM {joined}").fetchone()
    assert counted is not None
    for (name, condition), count in zip(differs.items(), counted, strict=True):
        if count:
            first = connection.execute(
                f"SELECT coalesce(ours.customer_id, theirs.customer_id) AS customer_id, ours.{name}, theirs.{name}"
                f" FROM {joined} WHERE {condition} ORDER BY 1 LIMIT 1"
            ).fetchone()
            assert first is not None
            raise OutputsDiffer(
                f"{part}/{name} differs for {count} of {rows[0]} customers, "
                f"first for {first[0]}: {first[1]} here and {first[2]} there"
            )
    return rows[0]


def _one_row_a_customer(connection: duckdb.DuckDBPyConnection, part: str, side: str) -> int:
    counted = connection.execute(f"SELECT count(*), count(DISTINCT customer_id) FROM {side}").fetchone()
    assert counted is not None
    if counted[0] != counted[1] or not counted[0]:
        raise OutputsDiffer(f"{part}/ ({side}) has {counted[0]} rows of {counted[1]} customers")
    return int(counted[0])


def _differs(name: str, tolerance: float | None) -> str:
    """A condition in SQL. DuckDB holds NaN equal to itself and greater than every number."""
    a, b = f"ours.{name}", f"theirs.{name}"
    if tolerance is None:
        return f"{a} IS DISTINCT FROM {b}"
    a, b = f"CAST({a} AS DOUBLE)", f"CAST({b} AS DOUBLE)"
    far = f"abs({a} - {b}) > {tolerance} * greatest(abs({a}), abs({b}), 1)"
    return f"(({a} IS NULL) <> ({b} IS NULL) OR coalesce({far}, false))"
