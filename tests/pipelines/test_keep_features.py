"""The features table: replaced by what has passed every check, and by nothing else."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines import features, features_table, predict
from pipelines.bigquery import Table
from tests import order_strategies
from tests.pipelines import bigquery_data, features_data
from tests.pipelines.bigquery_faults import PROJECT, Storage
from tests.pipelines.features_data import read_rows, refused, shop_orders
from tests.pipelines.test_bigquery_parity import customers_of
from tests.pipelines.test_read_bigquery import EXPIRED, jobs_of, shop_step
from transforms import data_schema, schema
from transforms.errors import UsageError

pytestmark = pytest.mark.emulators


@pytest.fixture
def orders(bigquery: Any, dataset: str, bucket: str) -> str:
    bigquery_data.load(bucket, f"{dataset}.orders", order_strategies.to_table(order_strategies.awkward_orders()))
    return f"{dataset}.orders"


@pytest.fixture
def shop(bigquery: Any, dataset: str, bucket: str) -> str:
    """A shop's orders: enough customers for every split."""
    bigquery_data.load(bucket, f"{dataset}.shop", shop_orders(60))
    return f"{dataset}.shop"


def rows_of(table: str) -> list[dict[str, Any]]:
    return bigquery_data.query(f"SELECT * FROM `{table}` ORDER BY cutoff, customer_id")


def partitions(table: str) -> dict[str, int]:
    rows = bigquery_data.query(f"SELECT cutoff, COUNT(*) AS n FROM `{table}` GROUP BY 1")
    return {str(row["cutoff"]): row["n"] for row in rows}


def test_it_keeps_a_partition_for_each_cutoff(shop: str, dataset: str, tmp_path: Path) -> None:
    table = f"{dataset}.features"
    keep = ("--features_table", table)
    manifest = features.run(shop_step(tmp_path / "first", shop, *keep))
    kept = rows_of(table)
    assert {(row.pop("cutoff"), row.pop("horizon_days")) for row in kept} == {(datetime.date(2011, 5, 1), 30)}
    made = read_rows(tmp_path / "first" / "raw")
    assert pa.Table.from_pylist(kept, schema.arrow_schema(schema.CUSTOMERS)).equals(made)
    assert len(kept) == manifest["rows"]

    found = bigquery_data.client().get_table(table)
    described = {field.name: field.description for field in found.schema}
    assert described["age_days"].startswith("C - first order day") and all(described.values())
    assert found.time_partitioning.field == "cutoff" and found.clustering_fields == ["customer_id"]
    # Nothing of the job's own is left beside it.
    assert {item.table_id for item in bigquery_data.client().list_tables(dataset)} == {"shop", "features"}

    features.run(shop_step(tmp_path / "second", shop, *keep, cutoff="2011-03-01"))
    second = partitions(table)
    assert set(second) == {"2011-03-01", "2011-05-01"} and second["2011-05-01"] == len(kept)
    # The same cutoff again, of fewer customers: only its partition changes.
    bigquery_data.query(f"DELETE FROM `{shop}` WHERE customer_id < 'C00030'")
    third = features.run(shop_step(tmp_path / "third", shop, *keep))
    assert partitions(table) == {**second, "2011-05-01": third["rows"]} and 0 < third["rows"] < len(kept)


def test_a_refused_run_leaves_it_as_it_was(
    capsys: pytest.CaptureFixture[str], shop: str, dataset: str, bucket: str, tmp_path: Path
) -> None:
    """By the ledger (nobody is left), by the data schema, and by skew."""
    cycle = features_data.shop_cycle()
    table = f"{dataset}.features"
    keep = ("--features_table", table)
    features.run(shop_step(tmp_path / "good", shop, *keep))
    before = rows_of(table)
    assert before

    bigquery_data.query(f"CREATE TABLE `{dataset}.returns` AS SELECT * REPLACE (-quantity AS quantity) FROM `{shop}`")
    message = refused(capsys, features.main, shop_step(tmp_path / "ledger", f"{dataset}.returns", *keep))
    assert message.startswith("no customer has a usable order before the cutoff") and rows_of(table) == before

    reviewed = tmp_path / "reviewed.pbtxt"
    text = Path(cycle.build.data_schema).read_text().replace(f'tag: "{data_schema.NOT_REVIEWED}"', "")
    reviewed.write_text(text.replace('"UK"', '"FR"'))
    step = shop_step(tmp_path / "schema", shop, *keep, "--data_schema", str(reviewed))
    assert "--data_schema" in refused(capsys, features.main, step) and rows_of(table) == before

    argv = ["--orders", f"bigquery://{shop}", "--as_of", "2011-05-01", "--model", cycle.serve.model, *keep]
    message = refused(capsys, predict.main, [*argv, "--output", str(tmp_path / "skew")])
    assert message.startswith("the customers are not like those the model learned from") and rows_of(table) == before


def test_the_staged_table_goes_by_itself_where_the_job_fails(
    orders: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage(monkeypatch).ends = [(0, EXPIRED[0])]
    with pytest.raises(Exception, match="read session has ended"):
        customers_of(tmp_path, "--orders", f"bigquery://{orders}", "--features_table", f"{dataset}.features")
    (staged,) = (item for item in bigquery_data.client().list_tables(dataset) if "_staged_" in item.table_id)
    expires = bigquery_data.client().get_table(staged.reference).expires
    left = expires - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(hours=23) < left <= datetime.timedelta(hours=24)


WRONG = {
    "a column is missing": ("SELECT DATE '2012-03-01' AS cutoff", "", "no daily partitions by cutoff"),
    "a type": ("SELECT DATE '2012-03-01' AS cutoff, 'x' AS horizon_days", "PARTITION BY cutoff", "horizon_days as STRING, not INTEGER"),
    "a view": (None, "", "the type VIEW"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_another_table_is_not_written_over(orders: str, dataset: str, tmp_path: Path, name: str) -> None:
    sql, partitioned, says = WRONG[name]
    table = f"{dataset}.taken"
    made = f"CREATE TABLE `{table}` {partitioned} AS {sql}" if sql else f"CREATE VIEW `{table}` AS SELECT 1 AS a"
    bigquery_data.query(made)
    before, started = bigquery_data.query(f"SELECT * FROM `{table}`"), datetime.datetime.now(datetime.UTC)
    with pytest.raises(UsageError) as raised:
        customers_of(tmp_path, "--orders", f"bigquery://{orders}", "--features_table", table)
    assert says in str(raised.value) and table in str(raised.value) and len(str(raised.value).splitlines()) == 1
    assert bigquery_data.query(f"SELECT * FROM `{table}`") == before
    assert not jobs_of(orders, started), "refused before anything is paid for"


def test_the_features_table_s_dataset_must_be_there(orders: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--features_table test-project\.nowhere\.features: "):
        customers_of(tmp_path, "--orders", f"bigquery://{orders}", "--features_table", "test-project.nowhere.features")


def test_its_own_table_is_usable(bigquery: Any, dataset: str) -> None:
    table = Table.parse("a", f"{dataset}.features")
    for _ in range(2):
        features_table.require_usable(PROJECT, table, "US")
        features_table.create(PROJECT, table)
    with pytest.raises(UsageError, match="a table where the orders are, EU, not in US"):
        features_table.require_usable(PROJECT, table, "EU")
