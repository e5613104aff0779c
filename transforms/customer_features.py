"""Orders -> one row a customer (features, labels, split), as one Ibis expression.

The formulas stand in ``docs/data_contract.md``; the same expression runs on DuckDB and BigQuery
(``transforms/engines.py``). Every day comparison is on UTC days, so that an instant before
midnight of the cutoff and one on it can never end on the same side.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from transforms import engines, schema

_INT, _FLOAT, _TEXT, _MONEY = dt.int64, dt.float64, dt.string, engines.MONEY
_TOPS = ("country", "channel", "category")


@dataclass(frozen=True)
class Snapshot:
    """Which days a snapshot sees: features ``[first_day, cutoff)``, labels ``[cutoff, end)``."""

    cutoff: datetime.date
    horizon_days: int
    history_days: int | None = None
    labels: bool = True

    @property
    def first_day(self) -> datetime.date | None:
        return None if self.history_days is None else self.days_before(self.history_days)

    @property
    def end(self) -> datetime.date:
        """The first day that is not read."""
        return self.cutoff + datetime.timedelta(days=self.horizon_days) if self.labels else self.cutoff

    def days_before(self, days: int) -> datetime.date:
        return self.cutoff - datetime.timedelta(days=days)

    @property
    def year_ago(self) -> tuple[datetime.date, datetime.date]:
        """The horizon's window one year earlier, as far as it lies before the cutoff."""
        start = self.days_before(schema.YEAR_DAYS)
        return start, min(start + datetime.timedelta(days=self.horizon_days), self.cutoff)


def outside_window(order_day: ir.DateValue, snapshot: Snapshot) -> ir.StringValue:
    """Why a line is outside the snapshot (a name from ``schema.EXCLUDED``), null where it is inside."""
    late = (order_day >= ibis.literal(snapshot.end), "after_window")
    if snapshot.first_day is None:
        return ibis.cases(late, else_=ibis.null(_TEXT))
    return ibis.cases((order_day < ibis.literal(snapshot.first_day), "before_history"), late, else_=ibis.null(_TEXT))


def customer_features(orders: ir.Table, snapshot: Snapshot) -> ir.Table:
    """Features, labels and split of every customer of the population.

    Args:
      orders: the columns of ``schema.ORDERS``, usable lines only.

    Returns:
      The columns of ``schema.CUSTOMERS``, in no particular order of rows.
    """
    return population(customer_aggregates(orders, order_sequence(orders, snapshot), snapshot))


def population(aggregates: ir.Table, also: tuple[str, ...] = ()) -> ir.Table:
    """The rows of customers with at least one order before the cutoff, typed as the schema says.

    Args:
      also: columns of the aggregates that are kept as they are, after the schema's.
    """
    known = aggregates.filter(aggregates.orders > 0)
    types = {schema.Type.STRING: _TEXT, schema.Type.INT: _INT, schema.Type.FLOAT: _FLOAT, schema.Type.MONEY: _MONEY}
    return known.select(
        **{c.name: known[c.name].cast(types[c.type]) for c in schema.CUSTOMERS}, **{n: known[n] for n in also}
    )


def customer_aggregates(orders: ir.Table, sequence: ir.Table, snapshot: Snapshot) -> ir.Table:
    """One row for every customer with a line inside the window, in the population or not.

    Args:
      orders: as for ``customer_features``.
      sequence: their ``order_sequence``.

    Beyond ``schema.CUSTOMERS`` it holds ``window_lines``, all of the customer's lines inside the
    window: what the line counts of a manifest are reconciled with.
    """
    inside, past = windowed(orders, snapshot)
    joined = _line_aggregates(inside, snapshot)
    for part in (
        _order_aggregates(sequence, snapshot),
        _future_orders(inside, snapshot),
        *(_top(past, c) for c in _TOPS),
    ):
        joined = joined.left_join(part, "customer_id", rname="{name}_right").drop("customer_id_right")
    return _derive(joined, snapshot)


def windowed(orders: ir.Table, snapshot: Snapshot) -> tuple[ir.Table, ir.Table]:
    """(the lines that a snapshot sees at all, those of them before its cutoff)."""
    inside = orders.filter(outside_window(orders.order_day, snapshot).isnull())
    return inside, inside.filter(inside.order_day < snapshot.cutoff)


def _total(amount: ir.DecimalValue, where: ir.BooleanValue) -> ir.DecimalValue:
    zero = ibis.literal(0).cast(_MONEY)
    return amount.sum(where=where).cast(_MONEY).fill_null(zero)


def _recent(day: ir.DateValue, snapshot: Snapshot, days: int, *, before: int = 0) -> ir.BooleanValue:
    """Whether a day lies in ``[C - before - days, C - before)``."""
    start, end = snapshot.days_before(before + days), snapshot.days_before(before)
    return (day >= ibis.literal(start)) & (day < ibis.literal(end))


def _line_aggregates(lines: ir.Table, snapshot: Snapshot) -> ir.Table:
    past = lines.order_day < snapshot.cutoff
    negative, positive = past & (lines.amount < 0), past & (lines.amount > 0)
    year_start, year_end = snapshot.year_ago
    windows = {}
    for days in schema.RECENT_WINDOWS_DAYS:
        windows[f"value_{days}d"] = _total(lines.amount, _recent(lines.order_day, snapshot, days))
        windows[f"value_before_{days}d"] = _total(lines.amount, _recent(lines.order_day, snapshot, days, before=days))
    return lines.group_by("customer_id").agg(
        window_lines=lines.count(),
        lines=lines.count(where=past),
        value_total=_total(lines.amount, past),
        gross_value=_total(lines.amount, positive),
        return_lines=lines.count(where=negative),
        return_value=-_total(lines.amount, negative),
        distinct_items=lines.item_id.nunique(where=past),
        value_year_ago=_total(lines.amount, (lines.order_day >= year_start) & (lines.order_day < year_end)),
        net_future_value=_total(lines.amount, ~past),
        **windows,
    )


def order_sequence(orders: ir.Table, snapshot: Snapshot) -> ir.Table:
    """The orders before the cutoff: lines grouped by order id, or by day where there is none, that sum to more than 0.

    Returns:
      A row an order: ``customer_id, order_day, order_value, units``; the order days of the customer's ``previous_day``
      and ``next_day`` order, null at the ends, and the ``gap`` to the former in days; the ``mean`` of the customer's
      order values and this one's ``deviation``.
    """
    _, past = windowed(orders, snapshot)
    # The day is part of the key only without an id; a constant stands in for it otherwise.
    keyed = past.mutate(
        order_key=past.order_id.fill_null(""),
        key_day=ibis.ifelse(past.order_id.isnull(), past.order_day, ibis.literal(snapshot.cutoff)),
        units=past.quantity.fill_null(ibis.literal(1).cast(_MONEY)),
    )
    groups = keyed.group_by("customer_id", "order_key", "key_day").agg(
        order_value=keyed.amount.sum().cast(_MONEY),
        order_time=keyed.ordered_at.min(),
        order_day=keyed.order_day.min(),
        units=keyed.units.sum().cast(_MONEY),
    )
    placed = groups.filter(groups.order_value > 0)
    by_customer = ibis.window(group_by="customer_id")
    in_time = ibis.window(group_by="customer_id", order_by=["order_time", "order_key"])
    sequence = placed.select(
        "customer_id", "order_day", "order_value", "units",
        previous_day=placed.order_day.lag().over(in_time),
        next_day=placed.order_day.lead().over(in_time),
        mean=placed.order_value.sum().over(by_customer).cast(_FLOAT) / placed.count().over(by_customer).cast(_FLOAT),
    )  # fmt: skip
    return sequence.mutate(
        gap=sequence.order_day.delta(sequence.previous_day, unit="day").cast(_INT),
        deviation=sequence.order_value.cast(_FLOAT) - sequence["mean"],
    )


def _order_aggregates(measured: ir.Table, snapshot: Snapshot) -> ir.Table:
    """One row a customer from its orders."""
    first, last = measured.previous_day.isnull(), measured.next_day.isnull()
    year_start, year_end = snapshot.year_ago
    windows = {}
    for days in schema.RECENT_WINDOWS_DAYS:
        windows[f"orders_{days}d"] = measured.count(where=_recent(measured.order_day, snapshot, days))
        windows[f"orders_before_{days}d"] = measured.count(
            where=_recent(measured.order_day, snapshot, days, before=days)
        )
    return measured.group_by("customer_id").agg(
        orders=measured.count(),
        # The days of the orders come sorted, so a new day is a gap of at least one.
        frequency=measured.count(where=measured.gap > 0),
        first_day=measured.order_day.min(),
        last_day=measured.order_day.max(),
        order_value_total=measured.order_value.sum().cast(_MONEY),
        order_value_mean=measured["mean"].max(),
        squared_deviations=(measured.deviation * measured.deviation).sum(),
        order_value_max=measured.order_value.max(),
        order_value_first=measured.order_value.max(where=first),
        order_value_last=measured.order_value.max(where=last),
        order_units=measured.units.sum().cast(_MONEY),
        squared_gaps=(measured.gap * measured.gap).sum().cast(_INT),
        orders_year_ago=measured.count(where=(measured.order_day >= year_start) & (measured.order_day < year_end)),
        **windows,
    )


def _future_orders(inside: ir.Table, snapshot: Snapshot) -> ir.Table:
    """Days of the horizon on which a customer's lines sum to more than zero."""
    future = inside.filter(inside.order_day >= snapshot.cutoff)
    days = future.group_by("customer_id", "order_day").agg(day_value=future.amount.sum().cast(_MONEY))
    return days.group_by("customer_id").agg(future_orders=days.count(where=days.day_value > 0))


def _top(past: ir.Table, name: str) -> ir.Table:
    """Each customer's most frequent non-null value; the smallest of equally frequent ones."""
    given = past.filter(past[name].notnull())
    counts = given.group_by("customer_id", name).agg(times=given.count())
    best = ibis.row_number().over(group_by="customer_id", order_by=[counts.times.desc(), counts[name].asc()])
    ranked = counts.mutate(place=best)
    return ranked.filter(ranked.place == 0).select("customer_id", name)


def _derive(joined: ir.Table, snapshot: Snapshot) -> ir.Table:
    """What follows from the sums: ratios, deviations, trends, labels and the split."""
    counted = joined.mutate(orders=joined.orders.fill_null(0), frequency=joined.frequency.fill_null(0))
    aged = counted.mutate(
        recency_days=counted.last_day.delta(counted.first_day, unit="day").cast(_INT),
        age_days=ibis.literal(snapshot.cutoff).delta(counted.first_day, unit="day").cast(_INT),
        days_since_last=ibis.literal(snapshot.cutoff).delta(counted.last_day, unit="day").cast(_INT),
    )
    orders, repeats = aged.orders.nullif(0).cast(_FLOAT), aged.frequency.nullif(0)
    reaches_back = aged.age_days >= schema.YEAR_DAYS
    trends = {}
    for days in schema.RECENT_WINDOWS_DAYS:
        trends[f"value_trend_{days}d"] = aged[f"value_{days}d"] - aged[f"value_before_{days}d"]
        trends[f"orders_trend_{days}d"] = aged[f"orders_{days}d"] - aged[f"orders_before_{days}d"]
    # frequency * sum(g^2) - sum(g)^2 is a whole number: no digits are lost before the square root.
    gap_spread = (aged.frequency * aged.squared_gaps - aged.recency_days * aged.recency_days).cast(_FLOAT)
    return aged.mutate(
        order_days=aged.frequency + 1,
        order_value_std=(aged.squared_deviations / orders).sqrt(),
        basket_size_mean=aged.order_units.cast(_FLOAT) / orders,
        gap_days_mean=aged.recency_days.cast(_FLOAT) / repeats.cast(_FLOAT),
        gap_days_std=gap_spread.sqrt() / repeats.cast(_FLOAT),
        value_year_ago=ibis.ifelse(reaches_back, aged.value_year_ago, ibis.null(_MONEY)),
        orders_year_ago=ibis.ifelse(reaches_back, aged.orders_year_ago, ibis.null(_INT)),
        return_share=aged.return_value.cast(_FLOAT) / aged.gross_value.cast(_FLOAT).nullif(0),
        **trends,
        **_labels(aged, snapshot),
        split=_split(aged.customer_id),
    )


def _labels(aged: ir.Table, snapshot: Snapshot) -> dict[str, ir.Value]:
    if not snapshot.labels:
        return {"future_value": ibis.null(_MONEY), "future_orders": ibis.null(_INT)}
    zero = ibis.literal(0).cast(_MONEY)
    return {
        "future_value": ibis.ifelse(aged.net_future_value > 0, aged.net_future_value, zero),
        "future_orders": aged.future_orders.fill_null(0),
    }


def _split(customer_id: ir.StringValue) -> ir.StringValue:
    digits = engines.md5_hex(customer_id).substr(0, 4)
    branches = [(digits < bound, name) for name, bound in schema.SPLIT_BOUNDS.items()]
    return ibis.cases(*branches, else_="test")
