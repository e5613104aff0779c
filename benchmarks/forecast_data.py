"""The data sets of ``benchmarks.forecast`` and their snapshots: orders -> features directories, once.

A test cutoff has a chain of snapshots of its own, as a run of ``orchestration.run_local`` has: the latest training
snapshot is analysed, the others and the test snapshot reuse its transform.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.harness import ROOT
from transforms import schema, storage
from transforms.errors import rejected

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.orders_source import OrdersSource


@dataclass(frozen=True)
class DataSet:
    """Public orders. ``columns`` is what ``--columns`` takes, ``customer_column`` their name of the customer."""

    name: str
    horizon_days: int
    cutoffs: tuple[datetime.date, ...]
    columns: str | None
    customer_column: str


CDNOW = DataSet(
    "cdnow",
    91,
    (datetime.date(1997, 10, 1), datetime.date(1997, 12, 31), datetime.date(1998, 4, 1)),
    None,
    "customer_id",
)
ONLINE_RETAIL = DataSet(
    "online_retail",
    123,
    (datetime.date(2011, 8, 8), datetime.date(2011, 7, 11), datetime.date(2011, 6, 13)),
    "customer_id=CustomerID,ordered_at=InvoiceDate,order_id=InvoiceNo,item_id=StockCode,"
    "quantity=Quantity,unit_price=UnitPrice,country=Country",
    "CustomerID",
)
DATA_SETS = {data.name: data for data in (CDNOW, ONLINE_RETAIL)}


@dataclass(frozen=True)
class Window:
    """What is learned from, latest first, and what is forecast: features directories below ``home``."""

    cutoff: datetime.date
    training_cutoffs: tuple[datetime.date, ...]
    home: str

    @property
    def training(self) -> tuple[str, ...]:
        return tuple(self.features(cutoff) for cutoff in self.training_cutoffs)

    @property
    def test(self) -> str:
        return self.features(self.cutoff)

    def features(self, cutoff: datetime.date) -> str:
        return os.path.join(self.home, "features", str(cutoff))


@dataclass(frozen=True)
class Known:
    """What every contestant knows at a test cutoff.

    ``training`` has the columns ``schema.CUSTOMERS``, latest snapshot first; ``customers`` those of the test snapshot
    without the labels, so that nobody can look.
    """

    horizon_days: int
    training_cutoffs: tuple[datetime.date, ...]
    training: tuple[pa.Table, ...]
    customers: pa.Table
    fingerprint: str


def title(data: DataSet, customers: int | None) -> str:
    """The data set's name; a part of it has another."""
    return data.name if customers is None else f"{data.name}-{customers}"


def make_windows(
    data: DataSet, cutoffs: Sequence[datetime.date], customers: int | None, workdir: str
) -> tuple[Window, ...]:
    """Makes the snapshots that are not there yet.

    Args:
      customers: only the orders of so many customers, the first by id.

    Raises:
      UsageError: a cutoff leaves no training snapshot before it or no full horizon of orders after it.
    """
    directory = os.path.join(workdir, title(data, customers))
    orders = ["--orders", _orders_file(data, customers, directory)]
    orders += ["--columns", data.columns] if data.columns else []
    source = _open(orders)
    home = os.path.join(directory, _identity(source))
    windows = [_plan(data, source, cutoff, os.path.join(home, str(cutoff))) for cutoff in cutoffs]
    for window in windows:
        analysed: str | None = None
        for cutoff in (*window.training_cutoffs, window.cutoff):
            output = window.features(cutoff)
            _make([*orders, "--horizon_days", str(data.horizon_days)], cutoff, output, analysed)
            analysed = analysed or output
    return tuple(windows)


def read_window(window: Window, horizon_days: int) -> tuple[Known, pa.Table]:
    """What is known, and the labels: customer_id and ``schema.LABELS`` of the same customers in the same order."""
    from trainer import snapshots

    training = tuple(snapshots.read_customers(snapshots.open_snapshot(uri)) for uri in window.training)
    test = snapshots.read_customers(snapshots.open_snapshot(window.test))
    labels = schema.names(schema.LABELS)
    content = [storage.fingerprint(storage.join(uri, "raw")) for uri in (*window.training, window.test)]
    fingerprint = hashlib.sha256(json.dumps([content, horizon_days]).encode()).hexdigest()[:16]
    known = Known(horizon_days, window.training_cutoffs, training, test.drop_columns(labels), fingerprint)
    return known, test.select([schema.CUSTOMER_ID.name, *labels])


def _orders_file(data: DataSet, customers: int | None, directory: str) -> str:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from orchestration import demo

    published = str(ROOT / "tests" / "data" / "online_retail.parquet")
    if data is ONLINE_RETAIL and customers is None:
        return published
    path = os.path.join(directory, "orders.parquet")
    if not os.path.exists(path):
        orders = demo.cdnow_orders() if data is CDNOW else pq.read_table(published)
        if customers is not None:
            ids = orders[data.customer_column]
            some = pc.unique(ids.drop_null()).sort()[:customers]
            orders = orders.filter(pc.is_in(ids, pa.array(some)))
        os.makedirs(directory, exist_ok=True)
        pq.write_table(orders, f"{path}.writing")
        os.replace(f"{path}.writing", path)
    return path


def _open(orders: list[str]) -> OrdersSource:
    from pipelines import orders_arguments
    from transforms.cli import ArgumentParser

    parser = ArgumentParser("orders")
    orders_arguments.add(parser)
    return orders_arguments.open_orders(orders_arguments.OrdersArguments.take(parser.parse_args(orders)))


def _identity(source: OrdersSource) -> str:
    """Of the orders and of the code that makes features of them: a changed one makes snapshots anew."""
    decisive = json.dumps([source.identity, source.revision], sort_keys=True, default=str)
    digest = hashlib.sha256(decisive.encode())
    for path in sorted((ROOT / "transforms").glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:8]


def _plan(data: DataSet, source: OrdersSource, cutoff: datetime.date, home: str) -> Window:
    training_cutoffs = _training_cutoffs(source.first_day, cutoff, data.horizon_days)
    latest = source.end - datetime.timedelta(days=data.horizon_days)
    if not training_cutoffs or cutoff > latest:
        raise rejected(
            "--cutoffs", str(cutoff),
            f"a day up to {latest} ({data.horizon_days} days before the orders' end) with a training snapshot before it: "
            f"the orders of {data.name} begin on {source.first_day}",
        )  # fmt: skip
    return Window(cutoff, training_cutoffs, home)


def _training_cutoffs(first_day: datetime.date, cutoff: datetime.date, horizon_days: int) -> tuple[datetime.date, ...]:
    """As ``orchestration.run_local`` chooses them: latest first, every label ends at or before ``cutoff``."""
    from orchestration import steps

    return steps.training_cutoffs(first_day, cutoff, horizon_days)


def _make(arguments: list[str], cutoff: datetime.date, output: str, analysed: str | None) -> None:
    if storage.exists(storage.join(output, storage.MANIFEST)):
        return
    from pipelines import features

    reuse = ["--reuse_transform", analysed] if analysed else []
    command: list[Any] = [*arguments, "--cutoff", str(cutoff), *reuse, "--output", output]
    features.run(command)
