"""Customers that an engine has aggregated (``pushdown.py``), collected into the same parts that ``aggregate.py`` makes.

    batches of customers --RouteCustomers--> (bucket, part) --GroupByKey--> CollectBucket --> raw/part-*.parquet

The batches come in any order; the parts are the same whichever way the orders went, so that whatever
reads them (a network in training above all) sees the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from transforms import activity, buckets, schema
from transforms.pushdown import ACTIVITY, ACTIVITY_COLUMNS, FATE, LINES, ROUTED, UNKNOWN

if TYPE_CHECKING:
    import pyarrow as pa


def fates_of(others: pa.Table) -> list[tuple[str, int]]:
    """(fate, lines) of a pushed-down query's rows that are no customers."""
    fates = zip(others[FATE].to_pylist(), others[LINES].to_pylist(), strict=True)
    return [(fate, lines) for fate, lines in fates if fate != ACTIVITY]


def activity_of(others: pa.Table) -> pa.Table:
    """The activity (``activity.COLUMNS``) among a pushed-down query's rows that are no customers."""
    import pyarrow.compute as pc

    days = others.filter(pc.equal(others[FATE], ACTIVITY)).select(list(ACTIVITY_COLUMNS))
    return days.rename_columns(ACTIVITY_COLUMNS).cast(schema.arrow_schema(activity.COLUMNS))


def count_fates(fates: Iterable[tuple[str, int]]) -> Iterator[buckets.Count]:
    """The fates' rows as the counts that a ledger reconciles, but for "used": that is counted where customers are."""
    excluded = [reason.name for reason in schema.EXCLUDED]
    for fate, lines in fates:
        if fate == ROUTED:
            yield ("routed", ""), lines
        else:
            yield ("excluded" if fate in excluded else "dead_letters", fate), lines
        if fate != UNKNOWN:  # those lines are among the routed ones
            yield ("read", ""), lines


class RouteCustomers(buckets.Routing):
    """Batches of customers' rows, in any order, to the buckets that their order lines would be in."""

    def __init__(self, bucket_count: int, bucket_directory: str | None) -> None:
        super().__init__(bucket_directory)
        self.bucket_count = bucket_count

    def process(self, batch: pa.RecordBatch) -> Iterator[Any]:
        import pyarrow.compute as pc

        self.counts["used", ""] += pc.sum(batch[LINES]).as_py() or 0
        self.connection.register("customers", batch)
        sql = f"SELECT * EXCLUDE ({LINES}), {buckets.bucket_sql(self.bucket_count)} FROM customers"
        yield from self.route(self.connection.sql(sql).to_arrow_table())


class CollectBucket(buckets.WriteBucket):
    """(bucket, parts of customers) -> the path of the bucket's customers, one row each."""

    def process(self, element: tuple[int, Iterable[Any]]) -> Iterator[Any]:
        import pyarrow as pa

        bucket, parts = element
        customers = pa.concat_tables([buckets.read_part(part) for part in parts])
        in_order = customers.cast(schema.arrow_schema(schema.CUSTOMERS)).sort_by("customer_id")
        yield from self.write(bucket, in_order)
