"""The customer features inside Beam: orders in hash buckets of customers, DuckDB per bucket.

    raw batches --CleanAndRoute--> (bucket, part) --GroupByKey--> AggregateBucket --> raw/part-*.parquet
                       |                                               |
                       +--> dead letters, counts                       +--> counts, activity

A bucket holds all lines of its customers, so each bucket's features are final.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import ibis
from apache_beam import pvalue

from transforms import activity, buckets, clean_orders, customer_features, dead_letters, engines, schema
from transforms.buckets import ACTIVITY_TAG, DEAD_LETTERS_TAG
from transforms.customer_features import Snapshot

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True)
class Statements:
    """The compiled SQL of one job, made once at construction so that workers need no Ibis."""

    clean: str
    sequence: str
    aggregate: str
    population: str
    activity: str

    @classmethod
    def compile(cls, raw_schema: pa.Schema, snapshot: Snapshot, bucket_count: int) -> Statements:
        """Args: raw_schema: our column names with the types the source holds."""
        cleaned = clean_orders.clean_orders(ibis.table(ibis.Schema.from_pyarrow(raw_schema), name="raw"))
        outside = customer_features.outside_window(cleaned.order_day, snapshot)
        windowed = cleaned.mutate(reason=ibis.coalesce(cleaned.reason, outside))
        orders_schema = schema.arrow_schema(schema.ORDERS)
        orders = ibis.table(ibis.Schema.from_pyarrow(orders_schema), name="orders")
        in_sequence = customer_features.order_sequence(orders, snapshot)
        sequence = ibis.table(in_sequence.schema(), name="sequence")
        aggregates = customer_features.customer_aggregates(orders, sequence, snapshot)
        known = customer_features.population(ibis.table(aggregates.schema(), name="aggregates"))
        return cls(
            clean=f"SELECT *, {buckets.bucket_sql(bucket_count)} FROM ({engines.compile_sql(windowed, 'duckdb')})",
            sequence=engines.compile_sql(in_sequence, "duckdb"),
            aggregate=engines.compile_sql(aggregates, "duckdb"),
            population=engines.compile_sql(known.order_by("customer_id"), "duckdb"),
            activity=engines.compile_sql(activity.daily_activity(orders, sequence, snapshot), "duckdb"),
        )


class CleanAndRoute(buckets.Routing):
    """Raw batches (with malformed text lines) -> cleaned rows, routed to their customers' buckets."""

    def __init__(self, statements: Statements, bucket_directory: str | None) -> None:
        super().__init__(bucket_directory)
        self.statements = statements

    def process(self, element: tuple[pa.RecordBatch, list[str]]) -> Iterator[Any]:
        import pyarrow.compute as pc

        raw, malformed = element
        self.connection.register("raw", raw)
        lines = self.connection.sql(self.statements.clean).to_arrow_table()
        if lines.num_rows != raw.num_rows:
            raise RuntimeError(f"cleaning {raw.num_rows} lines gave {lines.num_rows}")
        self.counts["read", ""] += raw.num_rows + len(malformed)
        reasons = pc.value_counts(lines["reason"]).to_pylist()
        if any(row["values"] is not None for row in reasons):
            yield from self._set_aside(raw, lines)
            lines = lines.filter(pc.is_null(lines["reason"]))
        for letter in dead_letters.of_malformed(malformed):
            self.counts["dead_letters", letter.reason] += 1
            yield pvalue.TaggedOutput(DEAD_LETTERS_TAG, letter)
        yield from self.route(lines.drop_columns("reason"))

    def _set_aside(self, raw: pa.RecordBatch, lines: pa.Table) -> Iterator[Any]:
        """Counts what is not used, by reason, and yields the dead letters among it."""
        import pyarrow as pa
        import pyarrow.compute as pc

        excluded = [reason.name for reason in schema.EXCLUDED]
        for row in pc.value_counts(lines["reason"]).to_pylist():
            if row["values"] is not None:
                kind = "excluded" if row["values"] in excluded else "dead_letters"
                self.counts[kind, row["values"]] += row["counts"]
        reason = lines["reason"]
        dead = pc.and_(pc.is_valid(reason), pc.invert(pc.is_in(reason, pa.array(excluded)))).combine_chunks()
        for letter in dead_letters.of_lines(raw.filter(dead), reason.filter(dead).to_pylist()):
            yield pvalue.TaggedOutput(DEAD_LETTERS_TAG, letter)


class AggregateBucket(buckets.Connected, buckets.WriteBucket):
    """(bucket, parts of order lines) -> the path of the bucket's customers, one row each."""

    def __init__(self, statements: Statements, directory: str, bucket_count: int, snapshot: str = "") -> None:
        super().__init__(directory, bucket_count, snapshot)
        self.statements = statements

    def process(self, element: tuple[int, Iterable[Any]]) -> Iterator[Any]:
        import pyarrow as pa

        bucket, parts = element
        orders = pa.concat_tables([buckets.read_part(part) for part in parts])
        customers, days, lines, unknown = aggregate(self.connection, self.statements, orders)
        del orders
        self.counts["routed", ""] += lines
        self.counts["excluded", "no_order_before_cutoff"] += unknown
        self.counts["used", ""] += lines - unknown
        yield pvalue.TaggedOutput(ACTIVITY_TAG, days)
        yield from self.write(bucket, customers)


class Aggregated(NamedTuple):
    customers: pa.Table  # schema.CUSTOMERS, sorted by id
    activity: pa.Table  # activity.COLUMNS
    lines: int
    unknown: int  # lines of no one in the population


def aggregate(connection: duckdb.DuckDBPyConnection, statements: Statements, orders: pa.Table) -> Aggregated:
    """What all order lines of some customers (``schema.ORDERS``, usable ones) make."""
    connection.register("orders", orders)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE sequence AS {statements.sequence}")
    connection.execute(f"CREATE OR REPLACE TEMP TABLE aggregates AS {statements.aggregate}")
    days = connection.sql(statements.activity).to_arrow_table()
    connection.unregister("orders")
    connection.execute("DROP TABLE sequence")
    customers = connection.sql(statements.population).to_arrow_table()
    counted = connection.execute(
        "SELECT CAST(coalesce(sum(window_lines), 0) AS BIGINT),"
        " CAST(coalesce(sum(window_lines) FILTER (orders = 0), 0) AS BIGINT) FROM aggregates"
    ).fetchone()
    connection.execute("DROP TABLE aggregates")
    assert counted is not None
    return Aggregated(
        customers.cast(schema.arrow_schema(schema.CUSTOMERS)),
        days.cast(schema.arrow_schema(activity.COLUMNS)),
        *counted,
    )
