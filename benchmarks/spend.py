"""What the readers' contestants compute: lines, their sum and their last time, in all or for each customer.

The same twice over: of Arrow batches, and of rows as dicts, as a user of Beam's own source would write it.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import apache_beam as beam
import pyarrow as pa

TOTAL, PER_CUSTOMER = "total", "per_customer"
KEYS: dict[str, list[str]] = {TOTAL: [], PER_CUSTOMER: ["customer_id"]}
COLUMNS = ("customer_id", "ordered_at", "amount")  # of the orders
_MONEY, _TIME = pa.decimal128(38, 9), pa.timestamp("us", "UTC")
_AGGREGATES = [("lines", pa.int64()), ("amount", _MONEY), ("last_ordered_at", _TIME)]

Spend = tuple[int, Decimal, datetime.datetime | None]


def schema(aggregate: str) -> pa.Schema:
    """The result: a row a customer, or one row."""
    return pa.schema([(key, pa.string()) for key in KEYS[aggregate]] + _AGGREGATES)


def of_batch(batch: pa.RecordBatch, aggregate: str) -> pa.Table:
    """The result for one batch of orders."""
    grouped = pa.Table.from_batches([batch]).group_by(KEYS[aggregate])
    return _named(grouped.aggregate([([], "count_all"), ("amount", "sum"), ("ordered_at", "max")]), aggregate)


def combined(parts: Sequence[pa.Table], aggregate: str) -> pa.Table:
    """The result for all of the parts' orders; of none without any part."""
    whole = pa.concat_tables([schema(aggregate).empty_table(), *parts])
    grouped = whole.group_by(KEYS[aggregate])
    return _named(grouped.aggregate([("lines", "sum"), ("amount", "sum"), ("last_ordered_at", "max")]), aggregate)


def _named(table: pa.Table, aggregate: str) -> pa.Table:
    return table.rename_columns(schema(aggregate).names).cast(schema(aggregate))


class CombineParts(beam.CombineFn):
    """Results for single batches -> the result."""

    def __init__(self, aggregate: str) -> None:
        self.aggregate = aggregate

    def create_accumulator(self) -> list[pa.Table]:
        return []

    def add_input(self, parts: list[pa.Table], part: pa.Table) -> list[pa.Table]:
        parts.append(part)
        return parts

    def merge_accumulators(self, several: Iterable[list[pa.Table]]) -> list[pa.Table]:
        return [part for parts in several for part in parts]

    def compact(self, parts: list[pa.Table]) -> list[pa.Table]:
        return [combined(parts, self.aggregate)] if parts else []

    def extract_output(self, parts: list[pa.Table]) -> pa.Table:
        return combined(parts, self.aggregate)


class SpendOfRows(beam.CombineFn):
    """Rows as dicts -> (lines, amount, last_ordered_at)."""

    def create_accumulator(self) -> Spend:
        return 0, Decimal(0), None

    def add_input(self, spend: Spend, row: dict[str, Any]) -> Spend:
        lines, amount, last = spend
        ordered_at = row["ordered_at"]
        return lines + 1, amount + row["amount"], ordered_at if last is None or ordered_at > last else last

    def merge_accumulators(self, several: Iterable[Spend]) -> Spend:
        some = [spend for spend in several if spend[0]]
        lasts = [last for _, _, last in some if last is not None]
        return sum(spend[0] for spend in some), sum((spend[1] for spend in some), Decimal(0)), max(lasts, default=None)

    def extract_output(self, spend: Spend) -> Spend:
        return spend


def of_rows(results: Sequence[Any], aggregate: str) -> pa.Table:
    """What ``SpendOfRows`` gave, one result or (customer, result) pairs, as the result's table."""
    flat = [(key, *spend) for key, spend in results] if KEYS[aggregate] else list(results)
    columns = list(zip(*flat, strict=True)) or [()] * len(schema(aggregate))
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema(aggregate), strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema(aggregate))
