"""Forecasts anybody can make without a model: what a model has to beat.

All are computed from features alone, so that none of them has seen a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from transforms import schema
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]


def float_column(table: pa.Table | pa.RecordBatch, name: str) -> Array:
    """A numeric column as float64 of shape (n,); null becomes NaN."""
    import pyarrow as pa

    values = table[name].cast(pa.float64())
    # A chunked column always copies, and says so by knowing no such argument.
    copied = values.to_numpy() if isinstance(values, pa.ChunkedArray) else values.to_numpy(zero_copy_only=False)
    return np.asarray(copied, dtype=np.float64)


def require_columns(customers: pa.Table | pa.RecordBatch, names: Sequence[str]) -> None:
    """Raises: UsageError where a column is missing; it names all that are."""
    missing = [name for name in names if name not in customers.schema.names]
    if missing:
        raise UsageError(
            f"customers have no column {', '.join(missing)}: given are {', '.join(customers.schema.names)}"
        )


def nearest_window(horizon_days: int) -> int:
    """The recent window closest in length to the horizon; of two equally close the shorter."""
    return min(schema.RECENT_WINDOWS_DAYS, key=lambda days: (abs(days - horizon_days), days))


def _past_rate(customers: pa.Table, horizon_days: int) -> Array:
    rate = float_column(customers, "value_total") / float_column(customers, "age_days")
    return np.maximum(rate * horizon_days, 0)


def _recent_window(customers: pa.Table, horizon_days: int) -> Array:
    days = nearest_window(horizon_days)
    return np.maximum(float_column(customers, f"value_{days}d") * horizon_days / days, 0)


def _year_ago(customers: pa.Table, horizon_days: int, otherwise: Array) -> Array | None:
    value = float_column(customers, "value_year_ago")
    known = ~np.isnan(value)
    if known.mean() <= 0.5:
        return None
    # The feature ends at the cutoff, so that a horizon of more than a year sees one year of it.
    scaled = value * horizon_days / min(horizon_days, schema.YEAR_DAYS)
    return np.where(known, np.maximum(scaled, 0), otherwise)


def baseline_forecasts(customers: pa.Table, horizon_days: int) -> dict[str, Array]:
    """Naive forecasts of ``future_value``, each of shape (n,), in money and never negative.

    - ``past_rate``: value_total / age_days x horizon_days.
    - ``recent_window``: the value of the last 30, 90, 180 or 365 days, whichever is nearest to the horizon,
      scaled to the horizon.
    - ``mean_customer``: the mean of ``past_rate`` for everybody.
    - ``year_ago``: the value of the same window a year before, ``past_rate`` for customers younger than a
      year; only when more than half of the customers are older.

    Args:
      customers: the columns of ``schema.FEATURES``; labels are not read.

    Raises:
      UsageError: there is no customer, or the horizon is not a positive number of days.
    """
    if horizon_days < 1:
        raise rejected("horizon_days", horizon_days, "a whole number of days, at least 1")
    if not customers.num_rows:
        raise rejected("customers", "0 rows", "a table with at least one customer")
    past_rate = _past_rate(customers, horizon_days)
    forecasts = {
        "past_rate": past_rate,
        "recent_window": _recent_window(customers, horizon_days),
        "mean_customer": np.full(len(past_rate), past_rate.mean()),
    }
    year_ago = _year_ago(customers, horizon_days, past_rate)
    return forecasts if year_ago is None else {**forecasts, "year_ago": year_ago}
