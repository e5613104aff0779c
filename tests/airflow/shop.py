"""A small shop's order files in Cloud Storage: its whole history on the first day, one day's orders on each after it."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tests.pipelines import features_data
from transforms import storage

CUSTOMERS = 250
HORIZON_DAYS = 60
_BUYERS_A_DAY = 30  # of a later day's file


@dataclass(frozen=True)
class Shop:
    """``directory``/DAY/orders.parquet holds what was new on that day: orders before it."""

    directory: str
    first_file: datetime.date

    @property
    def files(self) -> str:
        """``orders.files`` of the deployment."""
        return f"{self.directory}/{{date}}/*.parquet"

    def history(self) -> pa.Table:
        """Everything up to the day before the first file."""
        table = features_data.shop_orders(CUSTOMERS)
        moved = (self.first_file - features_data.SHOP_END).days * 86_400_000_000
        times = pa.array(table["ordered_at"].cast(pa.int64()).to_numpy() + moved).cast(pa.timestamp("us", "UTC"))
        return table.set_column(table.schema.get_field_index("ordered_at"), "ordered_at", times)

    def of_day(self, day: datetime.date) -> pa.Table:
        """The orders of the day before ``day``, the first file's apart: customers it knows, and one that is new."""
        rng = np.random.default_rng(day.toordinal())
        before = datetime.datetime.combine(day, datetime.time(), datetime.UTC) - datetime.timedelta(days=1)
        who = [*rng.choice(CUSTOMERS, _BUYERS_A_DAY, replace=False).tolist(), CUSTOMERS + day.toordinal() % 1000]
        return pa.table({
            "customer_id": [f"C{index:05d}" for index in who],
            "ordered_at": pa.array(
                [before + datetime.timedelta(minutes=int(m)) for m in rng.integers(0, 1440, len(who))],
                pa.timestamp("us", "UTC"),
            ),
            "quantity": pa.array(rng.integers(1, 5, len(who))),
            "unit_price": pa.array(np.round(np.exp(rng.normal(2.5, 0.7, len(who))), 2)),
            "country": ["UK"] * len(who),
        })  # fmt: skip

    def upload(self, day: datetime.date) -> pa.Table:
        """Writes a day's file and returns its lines."""
        table = self.history() if day == self.first_file else self.of_day(day)
        storage.write_parquet(table, f"{self.directory}/{day}/orders.parquet")
        return table
