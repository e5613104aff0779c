"""What a purchase model knows of a customer: x, t_x and T; and customers with the same three as one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transforms.errors import UsageError, rejected

Array = NDArray[np.float64]
Index = NDArray[np.intp]

COLUMNS = ("frequency", "recency_days", "age_days")


@dataclass(frozen=True)
class Counts:
    """[n] rows of customers.

    Attributes:
      frequency: x, repeat order days.
      recency: t_x, from the first to the last order day, in the unit of time asked for.
      age: T, from the first order day to the cutoff, in the same unit.
      customers: how many customers the row stands for.
    """

    frequency: Array
    recency: Array
    age: Array
    customers: Array

    def __len__(self) -> int:
        return len(self.frequency)

    def take(self, rows: Any) -> Counts:
        return Counts(self.frequency[rows], self.recency[rows], self.age[rows], self.customers[rows])


def read(data: Any, time_unit_days: float = 1.0) -> Counts:
    """The rows of a table, in their order; times are divided by ``time_unit_days``.

    Args:
      data: an Arrow table or a mapping with the columns frequency, recency_days, age_days ([n] numbers each) and, where
        a row stands for several customers, customers.

    Raises:
      UsageError: a column is missing, or a row is one that no customer can have.
    """
    names = _names(data)
    x, recency, age = (column(data, name) for name in COLUMNS)
    customers = column(data, "customers") if "customers" in names else np.ones(len(x))
    _check("frequency", x, (x >= 0) & (x == np.floor(x)), "a whole number of repeat order days, 0 or more")
    _check("age_days", age, age >= 0, "0 or more days")
    _check("recency_days", recency, (recency >= 0) & (recency <= age), "from 0 days to age_days")
    _check("recency_days", recency, (recency > 0) == (x > 0), "0 where frequency is 0, else more")
    _check("customers", customers, customers > 0, "a positive number of customers")
    return Counts(x, recency / time_unit_days, age / time_unit_days, customers)


def _names(data: Any) -> list[str]:
    return list(data.column_names if hasattr(data, "column_names") else data)


def column(data: Any, name: str) -> Array:
    """A column of numbers of an Arrow table or a mapping as float64 of shape (n,).

    Raises:
      UsageError: there is none of that name.
    """
    if name not in _names(data):
        raise UsageError(f"column {name} is missing: given are {', '.join(_names(data))}")
    values = data[name]
    if hasattr(values, "type"):  # of Arrow: a decimal becomes a float, null becomes NaN
        values = values.cast("float64").to_numpy(zero_copy_only=False)
    return np.atleast_1d(np.asarray(values, dtype=np.float64))


def _check(name: str, values: Array, fine: NDArray[np.bool_], accepted: str) -> None:
    fine = fine & np.isfinite(values)
    if not fine.all():
        raise rejected(f"{name} of row {int(np.argmin(fine))}", float(values[np.argmin(fine)]), accepted)


def collapse(customers: Any) -> Any:
    """Customers -> an Arrow table of the unique (frequency, recency_days, age_days) and how many ``customers`` share each.

    The likelihood of a purchase model is the same for both. Sorted, so that the same customers in any order give the
    same table. What SQL does with GROUP BY; parts that were collapsed apart are collapsed together by this as well.

    Args:
      customers: an Arrow table or a mapping, as for ``read``.
    """
    import pyarrow as pa

    table = pa.table(dict(customers)) if isinstance(customers, Mapping) else customers
    if "customers" not in table.column_names:
        table = table.append_column("customers", pa.repeat(pa.scalar(1, pa.int64()), table.num_rows))
    grouped = table.select([*COLUMNS, "customers"]).group_by(list(COLUMNS)).aggregate([("customers", "sum")])
    named = grouped.rename_columns({"customers_sum": "customers"}).select([*COLUMNS, "customers"])
    return named.sort_by([(name, "ascending") for name in COLUMNS])


def pairs(first: Array, second: Array) -> tuple[Index, Index]:
    """The rows [m] at which each distinct pair of values stands first, and for every row [n] the number of its pair."""
    values, a = np.unique(first, return_inverse=True)
    others, b = np.unique(second, return_inverse=True)
    size = len(values) * len(others)
    key = a.astype(np.int64) * len(others) + b
    if size > 4 * len(key) + 1024:
        _, rows, inverse = np.unique(key, return_index=True, return_inverse=True)
        return rows, inverse
    # Few enough possible pairs for a table of them, which spares the sort.
    position = np.full(size, -1, np.int64)
    position[key[::-1]] = np.arange(len(key) - 1, -1, -1)
    present = np.flatnonzero(position >= 0)
    number = np.empty(size, np.int64)
    number[present] = np.arange(len(present))
    return position[present], number[key]
