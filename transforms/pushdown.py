"""Cleaning, features and the account of every line as one statement, for an engine that holds the orders itself.

``aggregate.py`` does the same with batches that come to it. The statement's result has a row for each customer and,
so that one scan of the orders is enough, one for each fate that lines met and one for each day of the customers' activity.
"""

from __future__ import annotations

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from transforms import activity, clean_orders, customer_features, schema
from transforms.customer_features import Snapshot

# A customer's row has no fate and the number of its lines. A fate's row has the number of lines that met
# it and nothing else: ROUTED (usable), or the name of a reason from the schema. A day's row has ACTIVITY there, and
# the columns of the activity.
FATE, LINES = "fate", "window_lines"
ROUTED, UNKNOWN, ACTIVITY = "routed", "no_order_before_cutoff", "activity"
ACTIVITY_COLUMNS = {f"activity_{name}": name for name in schema.names(activity.COLUMNS)}  # there -> in the activity


def customers_and_fates(raw: ir.Table, snapshot: Snapshot) -> ir.Table:
    """The columns of ``schema.CUSTOMERS``, then FATE, LINES and ACTIVITY_COLUMNS; rows in no particular order.

    Args:
      raw: as for ``clean_orders``.
    """
    cleaned = clean_orders.clean_orders(raw)
    outside = customer_features.outside_window(cleaned.order_day, snapshot)
    lines = cleaned.mutate(reason=ibis.coalesce(cleaned.reason, outside))
    usable = lines.filter(lines.reason.isnull()).drop("reason")
    sequence = customer_features.order_sequence(usable, snapshot)
    aggregates = customer_features.customer_aggregates(usable, sequence, snapshot)
    customers = customer_features.population(aggregates, also=(LINES,))
    by_reason = lines.group_by("reason").agg(**{LINES: lines.count()})
    unknown = aggregates.filter(aggregates.orders == 0)
    days = activity.daily_activity(usable, sequence, snapshot)
    rows = [
        customers,
        by_reason.select(by_reason.reason.fill_null(ROUTED).name(FATE), LINES),
        unknown.agg(**{LINES: unknown[LINES].sum().fill_null(0)}).select(ibis.literal(UNKNOWN).name(FATE), LINES),
        days.select(
            ibis.literal(ACTIVITY).name(FATE), **{there: days[name] for there, name in ACTIVITY_COLUMNS.items()}
        ),
    ]
    columns = {
        **customers.drop(LINES).schema(),
        FATE: dt.string,
        LINES: dt.int64,
        **{there: days[name].type() for there, name in ACTIVITY_COLUMNS.items()},
    }
    return ibis.union(*(_widened(some, columns) for some in rows))


def _widened(rows: ir.Table, columns: dict[str, dt.DataType]) -> ir.Table:
    """The rows with all of the columns: null those that they do not have."""
    return rows.select(
        **{
            name: rows[name].cast(type_) if name in rows.columns else ibis.null(type_)
            for name, type_ in columns.items()
        }
    )


def dead_lines(raw: ir.Table) -> ir.Table:
    """The raw lines that are dead letters: their columns with ``clean_orders.RAW_PREFIX``, and ``reason``."""
    lines = clean_orders.clean_orders(raw, keep_raw=True)
    dead = lines.filter(lines.reason.isin([reason.name for reason in schema.DEAD_LETTERS]))
    return dead.select(*(clean_orders.RAW_PREFIX + name for name in raw.columns), "reason")


def extent(raw: ir.Table) -> ir.Table:
    """One row: ``order_lines``, and the ``first_day`` and ``last_day`` of an order; reads nothing but ordered_at."""
    days = raw.select(day=clean_orders.order_days(raw))
    return days.aggregate(order_lines=days.count(), first_day=days.day.min(), last_day=days.day.max())
