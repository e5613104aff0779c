"""Many customers with every column of the contract: simulated orders through the features' own expression."""

from __future__ import annotations

import functools
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tests import engine_runs
from transforms import schema
from transforms.customer_features import Snapshot
from transforms.schema import Type

CUTOFF, HORIZON_DAYS, HISTORY_DAYS = date(2012, 3, 1), 90, 800
MONEY = [column.name for column in schema.FEATURES if column.unit.startswith("money")]
COUNTS = [c.name for c in schema.FEATURES if c.unit in ("orders", "order lines", "items")]


@functools.cache
def customers(n: int = 40_000, seed: int = 1) -> pa.Table:
    """About n rows of ``schema.CUSTOMERS``: gamma-Poisson orders of one or two lines, some of them returned."""
    rng = np.random.default_rng(seed)
    age, rate = rng.integers(2, HISTORY_DAYS, n), rng.gamma(0.8, 0.01, n)
    orders = 1 + rng.poisson(rate * age)
    who = np.repeat(np.arange(n), orders)
    first = np.append(0, np.cumsum(orders)[:-1])
    day = -age[who] + (rng.random(len(who)) * age[who]).astype(int)
    day[first] = -age
    who, day = (np.concatenate([part, part[::2]]) for part in (who, day))
    amount = rng.lognormal(3, 1, len(who)) * rng.lognormal(0, 0.5, n)[who]
    amount *= np.where(rng.random(len(who)) < 0.04, -1, 1)
    at = np.datetime64(CUTOFF) + day
    country = np.array(["United Kingdom", "Germany", "France", "Norway"])[rng.choice(4, n, p=[0.8, 0.1, 0.07, 0.03])]
    columns = {
        "customer_id": np.char.add("c", who.astype(str)),
        "ordered_at": at.astype("datetime64[us]"),
        "order_day": at,
        "amount": np.round(amount, 2),
        "item_id": np.char.add("i", rng.integers(0, 300, len(who)).astype(str)),
        "country": country[who],
    }
    absent = {name: pa.nulls(len(who)) for name in schema.names(schema.ORDERS) if name not in columns}
    orders_table = pa.table(
        [pa.array(columns[f.name]).cast(f.type, safe=False) if f.name in columns else absent[f.name].cast(f.type)
         for f in engine_runs.ORDERS_SCHEMA],
        schema=engine_runs.ORDERS_SCHEMA,
    )  # fmt: skip
    sql = engine_runs.features_sql(Snapshot(CUTOFF, HORIZON_DAYS), "duckdb")
    found = engine_runs.on_duckdb(sql, orders=orders_table).cast(schema.arrow_schema(schema.CUSTOMERS))
    return found.sort_by("customer_id").combine_chunks()


def replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, name, values.cast(table.schema.field(name).type))


def multiplied(table: pa.Table, names: list[str], factor: float) -> pa.Table:
    for name in names:
        money = schema.by_name(schema.FEATURES)[name].type is Type.MONEY
        values = pc.multiply(table[name].cast(pa.float64()), factor)
        table = replaced(table, name, pc.round(values, 6) if money else values)
    return table


def emptied(table: pa.Table, name: str, share: float) -> pa.Table:
    """The column null for this share of the rows."""
    gone = pa.array(np.random.default_rng(0).random(table.num_rows) < share)
    return replaced(table, name, pc.if_else(gone, pa.scalar(None, table.schema.field(name).type), table[name]))
