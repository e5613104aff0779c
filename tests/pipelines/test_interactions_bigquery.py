"""pipelines.interactions on orders in BigQuery: the rows that the same orders make from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import interactions
from tests.pipelines import bigquery_data
from tests.pipelines.interactions_data import manifest_of, read_rows, shop

pytestmark = pytest.mark.emulators


@pytest.mark.parametrize("query", [False, True])
def test_the_same_interactions_as_from_a_file(
    bigquery: Any, dataset: str, bucket: str, tmp_path: Path, query: bool
) -> None:
    lines = shop()
    lines[3]["item_id"] = lines[4]["customer_id"] = None
    lines[5]["amount"] = "-1"
    lines[6]["ordered_at"] = "soon"
    names = ("customer_id", "ordered_at", "amount", "item_id")
    table = pa.table({name: pa.array([line[name] for line in lines], pa.string()) for name in names})
    pq.write_table(table, tmp_path / "orders.parquet")
    bigquery_data.load(bucket, f"{dataset}.lines", table)
    assert interactions.main(["--orders", f"{tmp_path}/orders.parquet", "--output", f"{tmp_path}/file"]) == 0
    given = ["--orders", f"bigquery://{dataset}.lines"]
    if query:
        (tmp_path / "orders.sql").write_text(f"SELECT *, 1 AS other FROM `{dataset}.lines`")
        given = ["--orders_query", f"{tmp_path}/orders.sql", "--project", dataset.partition(".")[0]]
    assert interactions.main([*given, "--output", f"{tmp_path}/there"]) == 0
    here, there = manifest_of(tmp_path / "file"), manifest_of(tmp_path / "there")
    assert read_rows(tmp_path / "there")[1] == read_rows(tmp_path / "file")[1]
    same = ("fingerprint", "rows", "users", "items", "unique_interactions", "users_with_two", "lines")
    assert {name: there[name] for name in same} == {name: here[name] for name in same}
    assert there["lines"]["dead_letters"] == {"bad_ordered_at": 1}
    assert there["source"]["pinned"] is True
