"""Behaviour events from files: what ``order_files`` has to know of them to read them as it reads orders."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pipelines import order_files, orders_source
from pipelines.orders_source import LineKind
from transforms import interactions
from transforms.errors import UsageError
from transforms.interactions import EVENT_COLUMNS, Wanted

if TYPE_CHECKING:
    from pipelines.order_files import OrderFiles
    from pipelines.orders_arguments import OrdersArguments


def line_kind(wanted: Wanted) -> LineKind:
    """The columns and types of events, and how their times are understood."""
    needed = ("customer_id", "item_id", "occurred_at", *wanted.context)
    return LineKind(
        argument="--events",
        line="event",
        columns=(*EVENT_COLUMNS, *wanted.context),
        needed=needed if wanted.event_type is not None else (*needed, "event_type"),
        time="occurred_at",
        integer_times=True,
        moneys=("event_value",),
        others=wanted.context,
        time_accepted=interactions.time_accepted(wanted.time_unit),
        extent=functools.partial(interactions.extent, unit=wanted.time_unit),
        judge=functools.partial(interactions.require_unit, wanted.time_unit),
    )


def open_events(uri: str, arguments: OrdersArguments, wanted: Wanted) -> OrderFiles:
    """Checks and measures the events.

    Args:
      arguments: how foreign columns are named and how CSV files are to be read.

    Raises:
      UsageError: they cannot be read, or an argument does not go with them.
    """
    if uri.startswith("bigquery://"):
        raise UsageError(
            f"--events {uri!r} is not usable: accepted are Parquet or CSV files; a table of BigQuery is read as --orders"
        )
    for name in ("snapshot_time", "maximum_bytes_billed"):
        if getattr(arguments, name):
            raise UsageError(f"--{name} is about orders in BigQuery, --events {uri!r} is not")
    kind = line_kind(wanted)
    columns = orders_source.parse_columns(arguments.columns, kind.columns)
    how = order_files.OrdersFormat(columns, arguments.csv_delimiter, arguments.csv_encoding, kind)
    return order_files.inspect(uri, how)
