"""The customer features inside Beam: orders in hash buckets of customers, DuckDB per bucket.

    raw batches --CleanAndRoute--> (bucket, part) --GroupByKey--> AggregateBucket --> raw/part-*.parquet
                       |                                               |
                       +--> dead letters, counts                       +--> counts

A bucket holds all lines of its customers, so each bucket's features are final. How a bucket's rows
travel is the only difference between runners: on one machine as Arrow files of which only the
places are grouped (the in-process runner keeps grouped values in memory), elsewhere as compressed
Arrow bytes through the engine's own shuffle.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import ibis
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import clean_orders, customer_features, dead_letters, engines, schema, storage
from transforms.customer_features import Snapshot

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

# A bucket sits in memory while DuckDB aggregates it: 250,000 lines are about 100 MB then, and make
# DuckDB's fixed cost per query (planning, some 30 ms) a small share.
LINES_PER_BUCKET = 250_000
# Rows routed at a time; larger runs make fewer, larger parts.
ROUTED_ROWS = 524_288
DEAD_LETTERS_TAG, COUNTS_TAG = "dead_letters", "counts"

Count = tuple[tuple[str, str], int]  # ((kind, name), how many): kinds are "read", "used", "excluded", ...


def bucket_count(lines: int) -> int:
    return max(1, -(-lines // LINES_PER_BUCKET))


@dataclass(frozen=True)
class Statements:
    """The compiled SQL of one job, made once at construction so that workers need no Ibis."""

    clean: str
    aggregate: str
    population: str

    @classmethod
    def compile(cls, raw_schema: pa.Schema, snapshot: Snapshot, buckets: int) -> Statements:
        """Args: raw_schema: our column names with the types the source holds."""
        cleaned = clean_orders.clean_orders(ibis.table(ibis.Schema.from_pyarrow(raw_schema), name="raw"))
        outside = customer_features.outside_window(cleaned.order_day, snapshot)
        windowed = cleaned.mutate(reason=ibis.coalesce(cleaned.reason, outside))
        orders_schema = schema.arrow_schema(schema.ORDERS)
        orders = ibis.table(ibis.Schema.from_pyarrow(orders_schema), name="orders")
        aggregates = customer_features.customer_aggregates(orders, snapshot)
        known = customer_features.population(ibis.table(aggregates.schema(), name="aggregates"))
        return cls(
            # DuckDB's hash is stable within a version, and all workers of a job run one version.
            clean="SELECT *, CAST(hash(customer_id) % {} AS USMALLINT) AS bucket FROM ({})".format(
                buckets, engines.compile_sql(windowed, "duckdb")
            ),
            aggregate=engines.compile_sql(aggregates, "duckdb"),
            population=engines.compile_sql(known.order_by("customer_id"), "duckdb"),
        )


def _at_bundle_end(value: Any) -> WindowedValue:
    return WindowedValue(value, MIN_TIMESTAMP, (GlobalWindow(),))


class _Counting(beam.DoFn):
    """A DoFn that counts while it works and emits its counts once per bundle."""

    def start_bundle(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def emitted_counts(self) -> Iterator[pvalue.TaggedOutput]:
        for count in self.counts.items():
            yield pvalue.TaggedOutput(COUNTS_TAG, _at_bundle_end(count))


class CleanAndRoute(_Counting):
    """Raw batches (with malformed text lines) -> cleaned rows, routed to their customers' buckets."""

    def __init__(self, statements: Statements, bucket_directory: str | None) -> None:
        self.statements = statements
        self.bucket_directory = bucket_directory

    def setup(self) -> None:
        self.connection = engines.duckdb_connection()

    def teardown(self) -> None:
        self.connection.close()

    def start_bundle(self) -> None:
        super().start_bundle()
        self.pending: list[pa.Table] = []
        self.pending_rows = 0

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
        self.pending.append(lines.drop_columns("reason"))
        self.pending_rows += lines.num_rows
        if self.pending_rows >= ROUTED_ROWS:
            yield from self._route()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(_at_bundle_end, self._route())
        yield from self.emitted_counts()

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

    def _route(self) -> Iterator[tuple[int, Any]]:
        """(bucket, part) of the pending rows: each bucket's rows in one part."""
        import numpy as np
        import pyarrow as pa

        if not self.pending_rows:
            return
        table = pa.concat_tables(self.pending)
        self.pending, self.pending_rows = [], 0
        bucket = table["bucket"].to_numpy()
        order = np.argsort(bucket, kind="stable")  # a radix sort on 16 bits
        rows = table.drop_columns("bucket").take(order).combine_chunks()
        buckets, starts = np.unique(bucket[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        slices = [rows.slice(start, end - start) for start, end in zip(starts, ends, strict=True)]
        if self.bucket_directory is None:
            parts: list[Any] = [_to_bytes(part) for part in slices]
        else:
            parts = _to_file(slices, self.bucket_directory)
        yield from zip(buckets.tolist(), parts, strict=True)


def _to_bytes(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _to_file(slices: list[pa.Table], directory: str) -> list[tuple[str, int]]:
    """One Arrow file with a record batch per bucket; the parts are (path, index of the batch)."""
    import pyarrow as pa

    path = os.path.join(directory, f"{uuid.uuid4().hex}.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, slices[0].schema) as writer:
        for rows in slices:
            writer.write_table(rows)  # combined before, hence one batch
    return [(path, index) for index in range(len(slices))]


def _read_part(part: bytes | tuple[str, int]) -> pa.Table:
    import pyarrow as pa

    if isinstance(part, bytes):
        return pa.ipc.open_stream(part).read_all()
    path, index = part
    with pa.OSFile(path) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(index)])


class AggregateBucket(_Counting):
    """(bucket, parts) -> the path of the bucket's customers, one row each, as a Parquet file."""

    def __init__(self, statements: Statements, raw_directory: str, buckets: int) -> None:
        self.statements = statements
        self.raw_directory = raw_directory
        self.buckets = buckets

    def setup(self) -> None:
        self.connection = engines.duckdb_connection()

    def teardown(self) -> None:
        self.connection.close()

    def process(self, element: tuple[int, Iterable[Any]]) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.compute as pc

        bucket, parts = element
        orders = pa.concat_tables([_read_part(part) for part in parts])
        customers, lines, unknown = aggregate(self.connection, self.statements, orders)
        del orders
        self.counts["routed", ""] += lines
        self.counts["excluded", "no_order_before_cutoff"] += unknown
        self.counts["used", ""] += lines - unknown
        for row in pc.value_counts(customers["split"]).to_pylist():
            self.counts["customers", row["values"]] += row["counts"]
        if customers.num_rows:
            name = f"part-{bucket:05d}-of-{self.buckets:05d}.parquet"
            path = storage.join(self.raw_directory, name)
            storage.write_parquet(customers, path)
            yield path

    def finish_bundle(self) -> Iterator[Any]:
        yield from self.emitted_counts()


def aggregate(
    connection: duckdb.DuckDBPyConnection, statements: Statements, orders: pa.Table
) -> tuple[pa.Table, int, int]:
    """Customers (``schema.CUSTOMERS``, sorted by id), lines aggregated, and lines of no one in the population."""
    connection.register("orders", orders)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE aggregates AS {statements.aggregate}")
    connection.unregister("orders")
    customers = connection.sql(statements.population).to_arrow_table()
    counted = connection.execute(
        "SELECT CAST(coalesce(sum(window_lines), 0) AS BIGINT),"
        " CAST(coalesce(sum(window_lines) FILTER (orders = 0), 0) AS BIGINT) FROM aggregates"
    ).fetchone()
    connection.execute("DROP TABLE aggregates")
    assert counted is not None
    return customers.cast(schema.arrow_schema(schema.CUSTOMERS)), counted[0], counted[1]
