"""The peer of pipelines.interactions: one statement of DuckDB's, and nothing around it.

    python -m benchmarks.interactions_contestant --orders orders.parquet --output plain/ --figures

It knows that the lines are clean: nothing is typed, checked or counted by reason. With --figures it reads the rows once
more and finds what our manifest tells of them. One process, one thread.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

from benchmarks.harness import OutputsDiffer
from transforms.cli import ArgumentParser, exit_code

_ROWS = (
    "SELECT customer_id AS USER_ID, item_id AS ITEM_ID, CAST(floor(epoch(ordered_at)) AS BIGINT) AS TIMESTAMP,"
    " 'purchase' AS EVENT_TYPE, amount AS EVENT_VALUE FROM read_parquet('{}') WHERE amount > 0 AND item_id IS NOT NULL"
)
_COLUMNS = "USER_ID, ITEM_ID, TIMESTAMP, EVENT_TYPE, EVENT_VALUE"
# The fingerprint is not kept, but paid for.
_FIGURES = f"""
WITH rows AS ({{}}),
users AS (
  SELECT USER_ID, count(*) AS n, count(DISTINCT ({_COLUMNS})) AS different FROM rows GROUP BY USER_ID
),
hashes AS (SELECT md5_number(concat_ws(',', {_COLUMNS})) AS h FROM rows)
SELECT (SELECT count(*) FROM users) AS users, (SELECT sum(n) FROM users) AS rows,
       (SELECT sum(different) FROM users) AS unique_interactions,
       (SELECT count(*) FROM users WHERE different >= 2) AS users_with_two,
       (SELECT count(DISTINCT ITEM_ID) FROM rows) AS items,
       (SELECT min(TIMESTAMP) FROM rows) AS first, (SELECT max(TIMESTAMP) FROM rows) AS last,
       (SELECT sum(CAST(h & 18446744073709551615 AS UBIGINT)) + sum(CAST(h >> 64 AS UBIGINT)) FROM hashes) AS fingerprint
"""
FIGURES = ("rows", "users", "items", "unique_interactions", "users_with_two")


@dataclass(frozen=True)
class Options:
    orders: str
    output: str
    figures: bool

    @classmethod
    def parse(cls, argv: list[str] | None) -> Options:
        parser = ArgumentParser("python -m benchmarks.interactions_contestant", description=__doc__)
        parser.add_argument("--orders", required=True, metavar="FILE", help="order lines as Parquet")
        parser.add_argument("--output", required=True, metavar="DIR", help="the directory to make")
        parser.add_argument("--figures", action="store_true", help="write figures.json too")
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> None:
    """Writes the CSV file, and the figures where they are wanted."""
    import duckdb

    options = Options.parse(argv)
    os.makedirs(options.output)
    rows = _ROWS.format(_quoted(options.orders))
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
        connection.execute(f"COPY ({rows}) TO '{_quoted(options.output)}/rows.csv' (FORMAT csv, HEADER)")
        if options.figures:
            cursor = connection.execute(_FIGURES.format(rows))
            names = [column[0] for column in cursor.description or ()]
            (row,) = cursor.fetchall()
            found = {name: int(value) for name, value in zip(names, row, strict=True) if name in FIGURES}
            with open(os.path.join(options.output, "figures.json"), "w", encoding="utf8") as file:
                json.dump(found, file)


def same_rows(ours: str, theirs: str) -> int:
    """Compares the rows of CSV files as multisets, all columns as they mean it, and returns their number.

    Raises:
      OutputsDiffer: names one row that one side has more often.
    """
    import duckdb

    types = "{'USER_ID': 'VARCHAR', 'ITEM_ID': 'VARCHAR', 'TIMESTAMP': 'BIGINT', 'EVENT_TYPE': 'VARCHAR', 'EVENT_VALUE': 'DOUBLE'}"
    with duckdb.connect(config={"threads": 2, "memory_limit": "4GB"}) as connection:
        for name, path in (("ours", ours), ("theirs", theirs)):
            read = f"read_csv('{_quoted(path)}', header = true, columns = {types})"
            connection.execute(
                f"CREATE TEMP TABLE {name} AS SELECT *, CAST(hash(USER_ID) % 8 AS UTINYINT) AS bucket FROM {read}"
            )
        for bucket in range(8):  # of users, so that any number of rows fits
            found = connection.execute(
                f"SELECT sum(n) AS more, {_COLUMNS} FROM (SELECT *, 1 AS n FROM ours WHERE bucket = {bucket}"
                f" UNION ALL SELECT *, -1 AS n FROM theirs WHERE bucket = {bucket})"
                f" GROUP BY {_COLUMNS} HAVING sum(n) <> 0 LIMIT 1"
            ).fetchall()
            if found:
                more, *row = found[0]
                raise OutputsDiffer(f"{tuple(row)} is {abs(more)} times more often {'here' if more > 0 else 'there'}")
        ((rows,),) = connection.execute("SELECT count(*) FROM ours").fetchall()
    return int(rows)


def _quoted(text: str) -> str:
    return text.replace("'", "''")


if __name__ == "__main__":
    sys.exit(main())
