"""Simulated customers with every column of the contract, and a forecast from the true process behind them."""

import datetime

import numpy as np
import pyarrow as pa

from transforms import schema

HORIZON_DAYS = 90
_FILL = {schema.Type.STRING: "UK", schema.Type.FLOAT: 1.0, schema.Type.INT: 1, schema.Type.MONEY: 1}


def money(values):
    return pa.array(np.round(values, 2)).cast(schema.Type.MONEY.arrow)


def simulate(n=2000, seed=1):
    """(customers, predictions): gamma-Poisson purchases, lognormal spend, customers may have left."""
    rng = np.random.default_rng(seed)
    age = rng.integers(5, 600, n)
    rate, spend = rng.gamma(0.7, 0.012, n), rng.lognormal(3.5, 0.6, n)
    repeats = rng.poisson(rate * age)
    alive = np.exp(-age / 900) * np.where(repeats > 0, 1.0, 0.5)
    orders = np.where(rng.random(n) < alive, rng.poisson(rate * HORIZON_DAYS), 0)
    known = {
        "customer_id": pa.array([f"C{i:06d}" for i in range(n)]),
        "age_days": pa.array(age),
        "value_total": money(spend * (1 + repeats) * rng.lognormal(0, 0.2, n)),
        "future_value": money(orders * spend * rng.lognormal(-0.1, 0.4, n)),
        "future_orders": pa.array(orders),
        "value_year_ago": money(np.where(age >= 365, rng.poisson(rate * HORIZON_DAYS) * spend, 0)),
    }
    for days in schema.RECENT_WINDOWS_DAYS:
        known[f"value_{days}d"] = money(rng.binomial(repeats, np.minimum(1, days / age)) * spend)
    columns = [known.get(c.name, pa.array([_FILL[c.type]] * n)).cast(c.type.arrow) for c in schema.CUSTOMERS]
    customers = pa.table(columns, schema=schema.arrow_schema(schema.CUSTOMERS))
    return customers, forecast(customers, rng, repeats, age, alive)


def forecast(customers, rng, repeats, age, alive):
    """Posterior of the simulated process; quantiles from draws of it."""
    n, shape, per_day = len(age), 0.7 + repeats, 1 / (1 / 0.012 + age)
    mean_order = customers["value_total"].cast(pa.float64()).to_numpy() / (1 + repeats)
    drawn_orders = rng.poisson(rng.gamma(shape, per_day, (200, n)) * HORIZON_DAYS) * (rng.random((200, n)) < alive)
    drawn = drawn_orders * mean_order * rng.lognormal(-0.1, 0.45, (200, n))
    expected_orders = alive * shape * per_day * HORIZON_DAYS
    probability = alive * (1 - (1 + HORIZON_DAYS * per_day) ** -shape)
    p10, p50, p90 = np.quantile(drawn, [0.1, 0.5, 0.9], axis=0)
    return pa.table({
        "customer_id": customers["customer_id"],
        "as_of": pa.array([datetime.date(2011, 9, 1)] * n),
        "horizon_days": pa.array([HORIZON_DAYS] * n),
        "model_version": pa.array(["v1"] * n),
        "predicted_value": expected_orders * mean_order,
        "value_p10": p10, "value_p50": p50, "value_p90": p90,
        "purchase_probability": probability,
        "expected_orders": expected_orders,
    })  # fmt: skip


def replaced(table, **columns):
    """The table with some columns changed."""
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(values).cast(table.schema.field(name).type))
    return table
