"""The demo's data: the CDNOW orders as they were published."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from orchestration import demo
from pipelines import order_files
from pipelines.order_files import OrdersFormat


@pytest.fixture(scope="module")
def orders() -> pa.Table:
    return demo.cdnow_orders()


def test_the_published_counts(orders: pa.Table) -> None:
    """Fader and Hardie's data set: 69,659 transactions of the 23,570 customers who first bought in 1997's first quarter."""
    assert orders.num_rows == 69_659
    assert pc.count_distinct(orders["customer_id"]).as_py() == 23_570
    days = pc.min_max(orders["ordered_at"]).as_py()
    assert days == {"min": datetime.date(1997, 1, 1), "max": datetime.date(1998, 6, 30)}
    firsts = orders.group_by("customer_id").aggregate([("ordered_at", "min")])["ordered_at_min"]
    assert pc.max(firsts).as_py() == datetime.date(1997, 3, 25)


def test_money_is_exact_and_ids_keep_their_zeros(orders: pa.Table) -> None:
    assert orders.slice(0, 1).to_pylist() == [
        {"customer_id": "00001", "ordered_at": datetime.date(1997, 1, 1), "quantity": 1, "amount": Decimal("11.77")}
    ]
    assert pc.sum(orders["amount"]).as_py() == Decimal("2500315.63")


def test_the_file_is_one_the_pipelines_read(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "orders.parquet")
    demo.write_orders(path)
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["orders.parquet"]
    source = order_files.inspect(path, OrdersFormat())
    assert (source.rows, source.first_day, source.end) == (69_659, datetime.date(1997, 1, 1), datetime.date(1998, 7, 1))


def test_the_best_customer_is_the_first_of_equals(tmp_path: Path) -> None:
    for part, rows in enumerate([[("b", 2.0), ("z", 1.0)], [("a", 2.0), ("c", 0.0)]]):
        table = pa.table({"customer_id": [id_ for id_, _ in rows], "predicted_value": [value for _, value in rows]})
        pq.write_table(table, tmp_path / f"part-{part}.parquet")
    (tmp_path / "manifest.json").write_text("{}")
    assert demo.best_customer(str(tmp_path)) == "a"
