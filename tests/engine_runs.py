"""The project's expressions on an engine, over rows of a test: DuckDB in this process, or GoogleSQL."""

from __future__ import annotations

import functools
from typing import Any

import ibis
import pyarrow as pa

from tests import order_strategies
from transforms import activity, clean_orders, customer_features, engines, schema
from transforms.customer_features import Snapshot

ORDERS_SCHEMA = schema.arrow_schema(schema.ORDERS)


# Compiling costs half a second, and property tests run the same statement hundreds of times.
@functools.cache
def clean_sql(raw_schema: pa.Schema, engine: engines.Engine) -> str:
    raw = ibis.table(ibis.Schema.from_pyarrow(raw_schema), name="raw")
    return engines.compile_sql(clean_orders.clean_orders(raw), engine)


@functools.cache
def features_sql(snapshot: Snapshot, engine: engines.Engine) -> str:
    orders = ibis.table(ibis.Schema.from_pyarrow(ORDERS_SCHEMA), name="orders")
    return engines.compile_sql(customer_features.customer_features(orders, snapshot), engine)


@functools.cache
def activity_sql(snapshot: Snapshot, engine: engines.Engine) -> str:
    orders = ibis.table(ibis.Schema.from_pyarrow(ORDERS_SCHEMA), name="orders")
    sequence = customer_features.order_sequence(orders, snapshot)
    return engines.compile_sql(activity.daily_activity(orders, sequence, snapshot), engine)


def on_duckdb(sql: str, **tables: pa.Table) -> pa.Table:
    connection = engines.duckdb_connection()
    for name, table in tables.items():
        connection.register(name, table)
    return connection.sql(sql).to_arrow_table()


def cleaned(rows: list[dict[str, Any]]) -> pa.Table:
    """Cleaned lines with their ``reason``, by DuckDB, in the order of the rows."""
    raw = order_strategies.to_table(rows)
    return on_duckdb(clean_sql(raw.schema, "duckdb"), raw=raw)


def usable(lines: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    return lines.filter(pc.is_null(lines["reason"])).select(schema.names(schema.ORDERS)).cast(ORDERS_SCHEMA)


def features(rows: list[dict[str, Any]], snapshot: Snapshot) -> pa.Table:
    return on_duckdb(features_sql(snapshot, "duckdb"), orders=usable(cleaned(rows)))
