"""What the tests of the purchase models share: the published cases, the CDNOW files, and models with given parameters."""

from __future__ import annotations

import csv
import functools
import importlib.util
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer import btyd
from trainer.gamma_gamma import GammaGamma

HERE = Path(__file__).parent
WEEK = 7.0
# R's BTYD on CDNOW, 2.4.3 walkthrough; where the printed digits are too few for the case, as its manual has them.
BTYD_PARETO = {"r": 0.5534, "alpha": 10.5802, "s": 0.6061, "beta": 11.6562}


@functools.cache
def cases() -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in json.loads((HERE / "btyd_cases.json").read_text())}


def dataset(name: str) -> Path:
    """A file that lifetimes ships; the package itself is not imported."""
    spec = importlib.util.find_spec("lifetimes")
    assert spec and spec.origin
    return Path(spec.origin).parent / "datasets" / name


def weeks(x: Any, recency: Any, age: Any) -> dict[str, Any]:
    """Columns for a model from times in weeks."""
    return {
        "frequency": np.atleast_1d(x),
        "recency_days": np.atleast_1d(recency) * WEEK,
        "age_days": np.atleast_1d(age) * WEEK,
    }


@functools.cache
def summary() -> dict[str, NDArray[np.float64]]:
    """cdnow_customers_summary.csv: weeks rounded to two decimals."""
    with dataset("cdnow_customers_summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    return weeks(*(np.array([float(row[name]) for row in rows]) for name in ("frequency", "recency", "T")))


@functools.cache
def spend_summary() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """cdnow_customers_summary_with_transactions.csv, repeat buyers: repeat purchases and their mean value."""
    with dataset("cdnow_customers_summary_with_transactions.csv").open() as file:
        rows = [(float(row["x"]), float(row["zbar"])) for row in csv.DictReader(file)]
    x, mean = np.array([row for row in rows if row[0] > 0]).T
    return x, mean


@functools.cache
def sample() -> pa.Table:
    """CDNOW_sample.txt by customer: calibration to 1997-09-30, repeat spend, and the order days of the holdout."""
    _, customer, day, _, amount = np.loadtxt(dataset("CDNOW_sample.txt")).T
    purchases = pa.table({"id": customer.astype(int), "day": day.astype(int), "amount": amount})
    query = """
        WITH lines AS (
            SELECT id, strptime(day::VARCHAR, '%Y%m%d')::DATE AS day, amount FROM purchases
        ), days AS (SELECT id, day, sum(amount) AS amount FROM lines GROUP BY ALL),
        firsts AS (SELECT *, min(day) OVER (PARTITION BY id) AS first FROM days)
        SELECT id,
            count(*) FILTER (day <= DATE '1997-09-30') - 1 AS frequency,
            max(day) FILTER (day <= DATE '1997-09-30') - any_value(first) AS recency_days,
            DATE '1997-09-30' - any_value(first) AS age_days,
            count(*) FILTER (day > DATE '1997-09-30') AS holdout,
            avg(amount) FILTER (day <= DATE '1997-09-30' AND day > first) AS repeat_value
        FROM firsts GROUP BY id ORDER BY id
    """
    with duckdb.connect() as connection:
        connection.register("purchases", purchases)
        return connection.sql(query).to_arrow_table()


@functools.cache
def fitted(model: str, source: str) -> btyd.PurchaseModel:
    """A model fitted by weeks to ``summary`` or ``sample``, once for all tests."""
    return btyd.make(model).fit({"summary": summary, "sample": sample}[source]())


def with_parameters(model: str, parameters: dict[str, float], time_unit_days: float = WEEK) -> btyd.PurchaseModel:
    made = btyd.make(model, time_unit_days)
    made.params_ = parameters
    return made


def spend_with_parameters(p: float, q: float, v: float) -> GammaGamma:
    made = GammaGamma()
    made.params_ = {"p": p, "q": q, "v": v}
    return made


@functools.cache
def master() -> pa.Table:
    """CDNOW_master.txt by customer as of 1997-10-01: the columns of a forecast, repeat spend, and the 39 weeks after."""
    customer, day, _, amount = np.loadtxt(dataset("CDNOW_master.txt"), skiprows=1).T
    purchases = pa.table({"id": customer.astype(int), "day": day.astype(int), "amount": amount})
    query = """
        WITH days AS (
            SELECT id, strptime(day::VARCHAR, '%Y%m%d')::DATE AS day, sum(amount) AS amount, count(*) AS orders
            FROM purchases WHERE amount > 0 GROUP BY ALL
        ), placed AS (SELECT *, min(day) OVER (PARTITION BY id) AS first, day < DATE '1997-10-01' AS past FROM days)
        SELECT id, count(*) FILTER (past) - 1 AS frequency, max(day) FILTER (past) - any_value(first) AS recency_days,
            DATE '1997-10-01' - any_value(first) AS age_days, count(*) FILTER (past) AS orders,
            avg(amount) FILTER (past) AS order_value_mean,
            coalesce(avg(amount) FILTER (past AND day > first), 0) AS repeat_value_mean,
            coalesce(sum(amount) FILTER (NOT past AND day < DATE '1997-10-01' + 273), 0) AS future_value
        FROM placed GROUP BY id HAVING count(*) FILTER (past) > 0 ORDER BY id
    """
    with duckdb.connect() as connection:
        connection.register("purchases", purchases)
        return connection.sql(query).to_arrow_table()
