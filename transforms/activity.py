"""What a snapshot's customers did each day: beside a forecast, what came of it, and the seasons before it.

A small table, a row a UTC day: as an Ibis expression over order lines (for both engines), summed over parts of the
customers, and as a manifest has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from transforms import customer_features, engines, schema
from transforms.customer_features import Snapshot
from transforms.schema import Column, Role, Type

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: tuple[Column, ...] = (
    Column("day", Type.DATE, Role.ORDER, "UTC day", "a day with at least one used line"),
    Column("order_days", Type.INT, Role.ORDER, "customers", "customers with an order day on it; from C on, customers whose lines of the day sum to > 0, as in future_orders"),
    Column("first_days", Type.INT, Role.ORDER, "customers", "customers whose first order day it is; 0 from C on"),
    Column("value", Type.MONEY, Role.ORDER, "money", "sum of amount over the customers' used lines of the day: net of returns"),
)  # fmt: skip

_MONEY = engines.MONEY

# More than 13 years in which no day is without an order: a manifest is read by people, and as a whole.
MOST_DAYS = 5_000


def daily_activity(orders: ir.Table, sequence: ir.Table, snapshot: Snapshot) -> ir.Table:
    """The days of the snapshot's population.

    Args:
      orders: the columns of ``schema.ORDERS``, usable lines only: all of each customer's.
      sequence: their ``customer_features.order_sequence``.

    Returns:
      ``COLUMNS``, in no particular order of rows. DuckDB gives sums of integers as decimals: cast what it returns.
    """
    inside, _ = customer_features.windowed(orders, snapshot)
    first = sequence.previous_day.isnull()
    visits = sequence.filter(first | (sequence.gap > 0))  # a row an order day: the orders of a customer are in order
    customers = sequence.filter(first).select("customer_id")
    earned = inside.group_by("customer_id", "order_day").agg(value=inside.amount.sum().cast(_MONEY))
    earned = earned.semi_join(customers, "customer_id")
    labels = (earned.order_day >= snapshot.cutoff) & (earned.value > 0)
    nothing = ibis.literal(0).cast(_MONEY)
    rows = ibis.union(
        visits.group_by(day="order_day").agg(
            order_days=visits.count(), first_days=visits.count(where=visits.previous_day.isnull()), value=nothing
        ),
        earned.group_by(day="order_day").agg(
            order_days=earned.count(where=labels), first_days=ibis.literal(0, dt.int64), value=earned.value.sum()
        ),
    )
    return rows.group_by("day").agg(
        order_days=rows.order_days.sum(),
        first_days=rows.first_days.sum(),
        value=rows.value.sum().cast(_MONEY),
    )


def merge(parts: Iterable[pa.Table]) -> pa.Table:
    """The sum of the activity of customers in different parts; money stays exact."""
    import pyarrow as pa

    measures = schema.names(COLUMNS)[1:]
    summed = pa.concat_tables(parts).group_by("day").aggregate([(name, "sum") for name in measures])
    return summed.rename_columns(schema.names(COLUMNS)).cast(schema.arrow_schema(COLUMNS))


def by_day(activity: pa.Table) -> dict[str, list[int | str]]:
    """ISO day -> [order_days, first_days, value as decimal text] of the last MOST_DAYS days, first to last."""
    rows = activity.sort_by("day").to_pylist()[-MOST_DAYS:]
    return {str(row["day"]): [row["order_days"], row["first_days"], _text(row["value"])] for row in rows}


def _text(money: object) -> str:
    return f"{money:f}".rstrip("0").rstrip(".")  # money has nine decimals
