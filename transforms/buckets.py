"""Customers in hash buckets: how rows get to the bucket of their customer, and how a bucket is written.

A bucket holds everything of its customers. How a bucket's rows travel is the only difference between
runners: on one machine as Arrow files of which only the places are grouped (the in-process runner keeps
grouped values in memory), elsewhere as compressed Arrow bytes through the engine's own shuffle.
"""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from transforms import engines, statistics, storage

if TYPE_CHECKING:
    import pyarrow as pa

# A bucket sits in memory while DuckDB aggregates it: 250,000 lines are about 100 MB then, and make
# DuckDB's fixed cost per query (planning, some 30 ms) a small share.
LINES_PER_BUCKET = 250_000
# Rows routed at a time; larger runs make fewer, larger parts.
ROUTED_ROWS = 524_288
DEAD_LETTERS_TAG, COUNTS_TAG, STATISTICS_TAG, ACTIVITY_TAG = "dead_letters", "counts", "statistics", "activity"

Count = tuple[tuple[str, str], int]  # ((kind, name), how many): kinds are "read", "used", "excluded", ...


def bucket_count(lines: int) -> int:
    return max(1, -(-lines // LINES_PER_BUCKET))


def bucket_sql(buckets: int) -> str:
    """DuckDB's expression for the bucket of a row, by its ``customer_id``."""
    # DuckDB's hash is stable within a version, and all workers of a job run one version.
    return f"CAST(hash(customer_id) % {buckets} AS USMALLINT) AS bucket"


def at_bundle_end(value: Any) -> WindowedValue:
    """The value as ``finish_bundle`` must emit it."""
    return WindowedValue(value, MIN_TIMESTAMP, (GlobalWindow(),))


class Counting(beam.DoFn):
    """A DoFn that counts while it works and emits its counts once per bundle."""

    def start_bundle(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def emitted_counts(self) -> Iterator[pvalue.TaggedOutput]:
        for count in self.counts.items():
            yield pvalue.TaggedOutput(COUNTS_TAG, at_bundle_end(count))


class Connected(beam.DoFn):
    """A DoFn with a DuckDB of its own."""

    def setup(self) -> None:
        self.connection = engines.duckdb_connection()

    def teardown(self) -> None:
        self.connection.close()


class Routing(Connected, Counting):
    """A DoFn that routes rows to the buckets of their customers, as ``(bucket, part)``."""

    def __init__(self, bucket_directory: str | None) -> None:
        self.bucket_directory = bucket_directory

    def start_bundle(self) -> None:
        super().start_bundle()
        self.pending: list[pa.Table] = []
        self.pending_rows = 0

    def route(self, rows: pa.Table) -> Iterator[tuple[int, Any]]:
        """Takes rows with a column ``bucket``; yields parts once enough are pending."""
        self.pending.append(rows)
        self.pending_rows += rows.num_rows
        if self.pending_rows >= ROUTED_ROWS:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(at_bundle_end, self._flush())
        yield from self.emitted_counts()

    def _flush(self) -> Iterator[tuple[int, Any]]:
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


def read_part(part: bytes | tuple[str, int]) -> pa.Table:
    """The rows of a routed part."""
    import pyarrow as pa

    if isinstance(part, bytes):
        return pa.ipc.open_stream(part).read_all()
    path, index = part
    with pa.OSFile(path) as source:
        return pa.Table.from_batches([pa.ipc.open_file(source).get_batch(index)])


class WriteBucket(Counting):
    """A DoFn that makes the customers of a bucket, describes them and writes them: one Parquet file of ``schema.CUSTOMERS``.

    Args:
      snapshot: names the customers' snapshot in their statistics.
    """

    def __init__(self, directory: str, buckets: int, snapshot: str) -> None:
        self.directory = directory
        self.buckets = buckets
        self.snapshot = snapshot

    def write(self, bucket: int, customers: pa.Table) -> Iterator[Any]:
        """Args: customers: sorted by id. Yields: the path of the file and, tagged, the statistics; none for no customer."""
        import pyarrow.compute as pc

        for row in pc.value_counts(customers["split"]).to_pylist():
            self.counts["customers", row["values"]] += row["counts"]
        if customers.num_rows:
            path = storage.join(self.directory, f"part-{bucket:05d}-of-{self.buckets:05d}.parquet")
            storage.write_parquet(customers, path)
            yield path
            yield pvalue.TaggedOutput(STATISTICS_TAG, statistics.of_table(customers, self.snapshot))

    def finish_bundle(self) -> Iterator[Any]:
        yield from self.emitted_counts()
