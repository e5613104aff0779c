"""The same orders by three ways - pushed down to BigQuery, read from it, from a file - make the same customers."""

from __future__ import annotations

import argparse
import ast
import datetime
import decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines import customers, features, options, orders_arguments, snapshot_job
from pipelines.orders_arguments import OrdersArguments
from tests import brute_force, order_strategies
from tests.order_strategies import CUTOFF, HORIZON_DAYS
from tests.pipelines import bigquery_data
from tests.pipelines.features_data import (
    WINDOW,
    assert_same_customers,
    expected_activity,
    expected_customers,
    expected_lines,
    letters,
    numbers,
    read_rows,
)  # fmt: skip
from transforms import storage
from transforms.customer_features import Snapshot

pytestmark = pytest.mark.emulators


def make(output: Path, *arguments: Any) -> Path:
    features.run([*map(str, arguments), "--output", str(output)])
    return output


def ways(directory: Path, table: str, uri: str, *arguments: Any) -> dict[str, Path]:
    """A features directory for each way."""
    source = f"bigquery://{table}"
    return {
        "pushdown": make(directory / "pushdown", "--orders", source, *arguments),
        "no pushdown": make(directory / "no_pushdown", "--orders", source, "--no_pushdown", *arguments),
        "files": make(directory / "files", "--orders", uri, *arguments),
    }


def sorted_letters(directory: Path) -> list[str]:
    return sorted(str(sorted(letter.items())) for letter in letters(directory))


def assert_same(made: dict[str, Path]) -> pa.Table:
    """All ways have equal customers, accounts of the lines, dead letters and parts; returns the customers."""
    expected = read_rows(made["files"] / "raw")
    manifest = storage.read_manifest(str(made["files"]), "features")
    for way, directory in made.items():
        assert_same_customers(expected, read_rows(directory / "raw"))
        other = storage.read_manifest(str(directory), "features")
        for name in ("rows", "lines", "splits", "data_end", "activity"):
            assert other[name] == manifest[name], (way, name)
        assert sorted_letters(directory) == sorted_letters(made["files"]), way
        # Not only the same customers: in the same parts and order, or a network would learn something else.
        for part in (made["files"] / "raw").glob("*.parquet"):
            ids = pq.read_table(part, columns=["customer_id"])
            assert pq.read_table(directory / "raw" / part.name, columns=["customer_id"]).equals(ids), way
    return expected


def test_awkward_orders(bigquery: Any, dataset: str, bucket: str, tmp_path: Path) -> None:
    rows = order_strategies.awkward_orders()
    uri = bigquery_data.load(bucket, f"{dataset}.orders", order_strategies.to_table(rows))
    made = ways(tmp_path, f"{dataset}.orders", uri, *WINDOW, "--buckets", 3)
    found = assert_same(made)
    brute_force.assert_equal(expected_customers(rows), found)
    manifest = storage.read_manifest(str(made["pushdown"]), "features")
    assert manifest["lines"] == expected_lines(rows)
    assert numbers(manifest["activity"]) == expected_activity(rows)
    assert len(letters(made["pushdown"])) == sum(expected_lines(rows)["dead_letters"].values())


def test_online_retail(bigquery: Any, dataset: str, bucket: str, tmp_path: Path) -> None:
    orders = pq.read_table(bigquery_data.ONLINE_RETAIL)
    uri = bigquery_data.load(bucket, f"{dataset}.online_retail", orders)
    window = ("--cutoff", "2011-08-08", "--horizon_days", 123, "--columns", bigquery_data.ONLINE_RETAIL_COLUMNS)
    found = assert_same(ways(tmp_path, f"{dataset}.online_retail", uri, *window))
    print(f"parity: {found.num_rows} customers, {found.num_columns} columns, {orders.num_rows} lines, three ways")
    activity = storage.read_manifest(str(tmp_path / "pushdown"), "features")["activity"]
    after = {day: did for day, did in activity.items() if day >= "2011-08-08"}
    assert sum(did[0] for did in after.values()) == pc.sum(found["future_orders"]).as_py()
    assert (
        sum(did[0] for did in activity.values()) == pc.sum(pc.add(found["order_days"], found["future_orders"])).as_py()
    )
    assert sum(did[1] for did in activity.values()) == found.num_rows
    # Counted once more, by SQL of its own.
    (counted,) = bigquery_data.query(
        f"""SELECT COUNT(*) AS customers FROM (
          SELECT CustomerID FROM (
            SELECT CustomerID, InvoiceNo, SUM(CAST(Quantity AS NUMERIC) * CAST(UnitPrice AS NUMERIC)) AS amount
            FROM `{dataset}.online_retail` WHERE InvoiceDate < '2011-08-08' AND CustomerID IS NOT NULL GROUP BY 1, 2)
          WHERE amount > 0 GROUP BY CustomerID)"""
    )
    assert found.num_rows == counted["customers"] > 3000


# --- Column types, without tf.Transform -----------------------------------------------------------------------------

DAY, LATE = datetime.date(2012, 2, 29), datetime.datetime(2012, 2, 29, 23, 59, 59, 999999)
D = decimal.Decimal
TYPED = {
    "NUMERIC": (
        pa.array([LATE] * 5, pa.timestamp("us", "UTC")),
        pa.array([D("0.000000001"), D("99999999999999.9"), D("-1"), None, D("1e15")], pa.decimal128(38, 9)),
    ),
    "INT64": (pa.array([DAY] * 5), pa.array([1, 2, -3, None, 10**15])),
    "FLOAT64": (pa.array([LATE] * 5, pa.timestamp("us")), pa.array([123456789.1, 0.1, float("nan"), None, float("inf")])),
    # More decimals than money has: a tie rounds to even.
    "BIGNUMERIC": (
        pa.array([DAY] * 5),
        pa.array([D("0.0000000005"), D("0.0000000015"), D("2.5"), None, D("-7e14")], pa.decimal128(38, 18)),
    ),
}  # fmt: skip


def customers_of(directory: Path, *argv: str) -> tuple[pa.Table, dict[Any, int], list[str]]:
    """(customers, counts, dead letters) of the orders that the arguments name."""
    parser = argparse.ArgumentParser()
    orders_arguments.add(parser)
    source = orders_arguments.open_orders(OrdersArguments.take(parser.parse_args(argv)))
    work = snapshot_job.work(str(directory), "test", f"{directory}/raw", source, 2, local=True, attempt="a")
    with beam.Pipeline(options=options.pipeline_options([])) as pipeline:
        parts = customers.customer_parts(pipeline, source, Snapshot(CUTOFF, HORIZON_DAYS), work)
        _ = parts.counts | beam.Map(str) | beam.io.WriteToText(f"{directory}/counts", shard_name_template="")
    counts = dict(map(ast.literal_eval, (directory / "counts").read_text().splitlines()))
    return read_rows(directory / "raw"), counts, sorted_letters(directory)


@pytest.mark.parametrize("type_", TYPED)
def test_every_type_means_the_same(bigquery: Any, dataset: str, bucket: str, tmp_path: Path, type_: str) -> None:
    times, amounts = TYPED[type_]
    ids = pa.array([7, 7, 8, 9, 9])
    given = pa.table({"customer_id": ids, "ordered_at": times, "amount": amounts, "item_id": ids})
    table = f"{dataset}.typed"
    uri = bigquery_data.load(bucket, table, given, **({"amount": type_} if type_ == "BIGNUMERIC" else {}))
    source = ("--orders", f"bigquery://{table}")
    pushed = customers_of(tmp_path / "pushdown", *source)
    read = customers_of(tmp_path / "read", *source, "--no_pushdown")
    files = customers_of(tmp_path / "files", "--orders", uri)
    for found in (pushed, read):
        assert_same_customers(files[0], found[0])
    assert {k: n for k, n in pushed[1].items() if n} == {k: n for k, n in files[1].items() if n}
    assert {k: n for k, n in read[1].items() if n} == {k: n for k, n in files[1].items() if n}
    # A dead letter shows the value as its source has it; which lines they are, and why, is the same.
    assert [len(found[2]) for found in (pushed, read)] == [len(files[2])] * 2
    assert "7" in files[0]["customer_id"].to_pylist()
