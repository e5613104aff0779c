"""Exact deciles of a run: where they begin, and which one a row is in.

A row's rank is by (predicted_value descending, customer_id ascending by code points); decile 1 is
the highest tenth (``docs/data_contract.md``). Nine boundary rows decide for every other row alone,
so that only they travel to the workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

Boundary = tuple[float, str]  # (predicted_value, customer_id) of the first row of a decile


def boundaries(values: np.ndarray, ids_at: Callable[[float], list[str]]) -> list[Boundary]:
    """The first row of each decile from 2 on.

    Args:
      values: [n] predicted values of the whole run, in any order.
      ids_at: the ids of all rows with exactly this value; asked only for the boundary values, so
        that the ids of a large run never have to be in one place.
    """
    import numpy as np

    n = len(values)
    descending = -np.sort(-values)
    first_rows = sorted({-(-k * n // 10) for k in range(1, 10)} - {n})
    found = []
    for row in first_rows:
        value = float(descending[row])
        above = int(np.searchsorted(-descending, -value, side="left"))
        # Python compares text by code points, as the contract wants.
        found.append((row, (value, sorted(ids_at(value))[row - above])))
    by_row = dict(found)
    # With fewer than ten rows several deciles begin at the same row, or after the last one.
    return [by_row[row] for k in range(1, 10) if (row := -(-k * n // 10)) in by_row]


def deciles(values: pa.Array, ids: pa.Array, starts: list[Boundary]) -> pa.Array:
    """[rows] int64: 1 plus the number of deciles that begin at or before the row."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    decile = np.ones(len(values), dtype=np.int64)
    numbers = np.asarray(values)
    for value, customer_id in starts:
        # Arrow compares strings by their UTF-8 bytes, which is the order of code points.
        tied = np.asarray(pc.greater_equal(ids, pa.scalar(customer_id, ids.type)).to_numpy(zero_copy_only=False))
        decile += (numbers < value) | ((numbers == value) & tied)
    return pa.array(decile)
