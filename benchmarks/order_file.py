"""Synthetic order lines for benchmarks: as many as wanted, the same for the same seed, in flat memory.

Customers buy as the buy-till-you-die literature has it (Schmittlein, Morrison and Colombo 1987):
each has a rate, drawn from a gamma distribution, and buys at it from a first order until an
exponential lifetime ends. Given their number, the orders of independent Poisson processes fall on
customers and days in proportion to the rates alone; so the file is made one slice of time after the
other, as a shop's own export would be ordered, holding no more than one slice.
"""

from __future__ import annotations

import datetime
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transforms.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

VERSION = 1  # part of the file's name: raise it with every change of the content
START = datetime.date(2021, 1, 1)
DAYS = 3 * 365
HORIZON_DAYS = 90
# Some days are left after the labels: lines that a snapshot must set aside.
CUTOFF = START + datetime.timedelta(days=DAYS - HORIZON_DAYS - 30)

ITEMS, COUNTRIES = 5_000, 40
RETURN_SHARE = 0.02
LINES_OF_AN_ORDER = {1: 0.6, 2: 0.25, 3: 0.1, 4: 0.05}
_SLICE_LINES = 500_000
_ROW_GROUP_LINES = 100_000
_MICROSECONDS_A_DAY = 86_400_000_000


def order_file(directory: str, customers: int, orders: int, seed: int) -> str:
    """The path of a Parquet file with ``orders`` lines of ``customers`` customers, made if not there yet.

    Columns: customer_id and item_id (text), ordered_at (timestamp[us, UTC], ascending over row
    groups), amount (float64, 2 decimals), order_id (int64), country (text, null for 1% of customers).

    Raises:
      UsageError: too few lines for every customer's first order.
    """
    if orders < 4 * customers:
        raise UsageError(
            f"--orders {orders} is not usable with --customers {customers}: accepted is at least 4 a customer"
        )
    path = Path(directory) / f"orders-v{VERSION}-customers{customers}-lines{orders}-seed{seed}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}.writing")
        _write(unfinished, customers, orders, seed)
        unfinished.replace(path)
    return str(path)


def _write(path: Path, customers: int, orders: int, seed: int) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    rng = np.random.default_rng(seed)
    shop = _Shop.draw(rng, customers)
    writer: pq.ParquetWriter | None = None
    for lines in _slices(rng, shop, orders):
        writer = writer or pq.ParquetWriter(path, lines.schema, compression="zstd")
        writer.write_table(lines, row_group_size=_ROW_GROUP_LINES)
    assert writer is not None
    writer.close()


@dataclass(frozen=True)
class _Shop:
    """Who buys: one entry a customer in every array, days counted from ``START``."""

    rate: np.ndarray  # orders a day
    first: np.ndarray  # day of the first order
    last: np.ndarray  # end of the lifetime, at most DAYS
    first_lines: np.ndarray
    typical_log_amount: np.ndarray
    country: np.ndarray  # index, COUNTRIES for none

    @classmethod
    def draw(cls, rng: np.random.Generator, customers: int) -> _Shop:
        import numpy as np

        first = rng.uniform(0, 0.9 * DAYS, customers)
        dropout_rate = rng.gamma(0.6, 1 / 150, customers) + 1e-4
        popularity = 1 / np.arange(1, COUNTRIES + 1) ** 1.3
        country = rng.choice(COUNTRIES, customers, p=popularity / popularity.sum())
        return cls(
            rate=rng.gamma(0.6, 1.0, customers),
            first=first,
            last=np.minimum(first + rng.exponential(1 / dropout_rate), DAYS),
            first_lines=_order_sizes(rng, customers),
            typical_log_amount=rng.normal(3.0, 0.7, customers),
            country=np.where(rng.random(customers) < 0.01, COUNTRIES, country),
        )

    def mass(self, start: float, end: float) -> np.ndarray:
        """[customers] orders to expect in a range of days, up to one common factor."""
        import numpy as np

        return self.rate * np.maximum(np.minimum(self.last, end) - np.maximum(self.first, start), 0)


def _order_sizes(rng: np.random.Generator, orders: int) -> np.ndarray:
    return rng.choice(list(LINES_OF_AN_ORDER), orders, p=list(LINES_OF_AN_ORDER.values()))


def _slices(rng: np.random.Generator, shop: _Shop, lines: int) -> Iterator[pa.Table]:
    """Tables of ascending time with ``lines`` rows in all."""
    import numpy as np

    edges = np.linspace(0, DAYS, 2 + lines // _SLICE_LINES)
    ranges = list(itertools.pairwise(edges))
    totals = np.array([shop.mass(*days).sum() for days in ranges])
    repeat_lines = rng.multinomial(lines - shop.first_lines.sum(), totals / totals.sum())
    next_order = 1
    for (start, end), repeats in zip(ranges, repeat_lines, strict=True):
        customer, day, order, first_order = _events(rng, shop, start, end, int(repeats))
        yield _lines(rng, shop, customer, day, order + next_order)
        next_order += first_order


def _events(
    rng: np.random.Generator, shop: _Shop, start: float, end: float, repeats: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Customer, day and order number (from 0) of every line in a range of days, by time; and the orders."""
    import numpy as np

    new = np.flatnonzero((shop.first >= start) & (shop.first < end))
    bounds = np.cumsum(shop.mass(start, end))
    # An order has at least one line: this many orders are enough, the lines too many are cut.
    again = np.searchsorted(bounds, rng.random(repeats) * bounds[-1], side="right")
    low, high = np.maximum(shop.first[again], start), np.minimum(shop.last[again], end)
    sizes = _order_sizes(rng, repeats)
    sizes = np.minimum(sizes, np.maximum(repeats - (np.cumsum(sizes) - sizes), 0))
    again_day = low + rng.random(repeats) * (high - low)

    customer = np.concatenate([new, again])
    day = np.concatenate([shop.first[new], again_day])
    lines = np.concatenate([shop.first_lines[new], sizes])
    by_time = np.argsort(day[lines > 0], kind="stable")
    customer, day, lines = (values[lines > 0][by_time] for values in (customer, day, lines))
    order = np.repeat(np.arange(len(lines)), lines)
    return customer[order], day[order], order, len(lines)


def _lines(rng: np.random.Generator, shop: _Shop, customer: np.ndarray, day: np.ndarray, order: np.ndarray) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    count = len(customer)
    amount = np.exp(rng.normal(shop.typical_log_amount[customer], 0.8)).round(2) + 0.01
    amount = np.where(rng.random(count) < RETURN_SHARE, -amount, amount).round(2)
    item = np.minimum(ITEMS * rng.random(count) ** 3, ITEMS - 1).astype(np.int32)
    epoch = (START - datetime.date(1970, 1, 1)).days
    moment = ((epoch + day) * _MICROSECONDS_A_DAY).astype(np.int64)
    country = shop.country[customer].astype(np.int32)
    return pa.table(
        {
            "customer_id": _names("C", customer, 8),
            "ordered_at": pa.array(moment, pa.timestamp("us", tz="UTC")),
            "amount": pa.array(amount, pa.float64()),
            "order_id": pa.array(order, pa.int64()),
            "item_id": _names("I", item, 4),
            "country": pa.array([f"L{i:02d}" for i in range(COUNTRIES)] + [None]).take(pa.array(country)),
        }
    )


def _names(letter: str, numbers: np.ndarray, digits: int) -> pa.Array:
    """C00000042 and the like."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(letter, text, "")
