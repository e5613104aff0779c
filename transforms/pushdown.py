"""Cleaning, features and the account of every line as one statement, for an engine that holds the orders itself.

``aggregate.py`` does the same with batches that come to it. The statement's result has a row for each
customer and, so that one scan of the orders is enough, a row for each fate that lines met.
"""

from __future__ import annotations

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from transforms import clean_orders, customer_features, schema
from transforms.customer_features import Snapshot

# A customer's row has no fate and the number of its lines. A fate's row has the number of lines that met
# it and nothing else: ROUTED (usable), or the name of a reason from the schema.
FATE, LINES = "fate", "window_lines"
ROUTED, UNKNOWN = "routed", "no_order_before_cutoff"


def customers_and_fates(raw: ir.Table, snapshot: Snapshot) -> ir.Table:
    """The columns of ``schema.CUSTOMERS``, then FATE and LINES; rows in no particular order.

    Args:
      raw: as for ``clean_orders``.
    """
    cleaned = clean_orders.clean_orders(raw)
    outside = customer_features.outside_window(cleaned.order_day, snapshot)
    lines = cleaned.mutate(reason=ibis.coalesce(cleaned.reason, outside))
    usable = lines.filter(lines.reason.isnull()).drop("reason")
    aggregates = customer_features.customer_aggregates(usable, snapshot)
    customers = customer_features.population(aggregates, also=(LINES,))
    by_reason = lines.group_by("reason").agg(**{LINES: lines.count()})
    unknown = aggregates.filter(aggregates.orders == 0)
    fates = [
        by_reason.select(by_reason.reason.fill_null(ROUTED).name(FATE), LINES),
        unknown.agg(**{LINES: unknown[LINES].sum().fill_null(0)}).select(ibis.literal(UNKNOWN).name(FATE), LINES),
    ]
    nothing = {name: ibis.null(type_) for name, type_ in customers.drop(LINES).schema().items()}
    return ibis.union(
        customers.select(*schema.names(schema.CUSTOMERS), ibis.null(dt.string).name(FATE), LINES),
        *(fate.select(**nothing, **{FATE: fate[FATE], LINES: fate[LINES].cast(dt.int64)}) for fate in fates),
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
