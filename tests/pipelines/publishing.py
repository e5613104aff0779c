"""What tests of the publish command share: predictions of any rows, every kind of unusable row, and embedded places."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import publish
from pipelines.warehouse import LocalWarehouse
from serving.store import open_store
from tests.serving.store_contract import AS_OF, prediction
from transforms import schema, storage

EARLIER = date(2011, 11, 10)
TOLERANT = ("--override", "dead_letters=a test of them")


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schema.arrow_schema(schema.PREDICTIONS))


def customers(number: int, as_of: date = AS_OF, seed: int = 1) -> pa.Table:
    """Usable rows of ``number`` customers ("c000000", ...) whose figures are drawn."""
    drawn = np.random.default_rng(seed)
    value = np.round(drawn.lognormal(3, 1.5, number), 6)
    fixed = {"as_of": as_of, "horizon_days": 90, "model_version": "m1"}
    columns: dict[str, Any] = {
        "customer_id": [f"c{i:06d}" for i in range(number)],
        **{name: [constant] * number for name, constant in fixed.items()},
        "predicted_value": value,
        "value_p10": value / 3,
        "value_p50": value / 2,
        "value_p90": value * 2,
        "purchase_probability": drawn.uniform(0, 1, number),
        "expected_orders": drawn.gamma(1.0, 2.0, number),
        "decile": drawn.integers(1, 11, number),
    }
    return pa.table(columns, schema=schema.arrow_schema(schema.PREDICTIONS))


def write_predictions(directory: Path | str, tables: Iterable[pa.Table], as_of: date = AS_OF, **manifest: Any) -> str:
    """A finished predictions directory, one Parquet file a table."""
    target, tables = str(directory), list(tables)
    arguments = {"name": target.rsplit("/", 1)[-1]}
    storage.begin(target, "predictions", arguments)
    parts = [storage.write_parquet(table, f"{target}/part-{i:05d}.parquet") for i, table in enumerate(tables)]
    content = {
        "rows": sum(table.num_rows for table in tables), "as_of": as_of, "horizon_days": 90, "model_version": "m1",
        "parts": parts,
    } | manifest  # fmt: skip
    storage.finish(target, "predictions", arguments, content)
    return target


class Place:
    """A temporary serving store, warehouse and dead letters folder, and the command that uses them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = f"sqlite://{root}/serving.db"

    def predictions(self, name: str, *files: list[dict[str, Any]], as_of: date = AS_OF, **manifest: Any) -> str:
        """Writes a finished predictions directory, one Parquet file a list of rows."""
        return write_predictions(self.root / name, map(table_of, files), as_of, **manifest)

    def arguments(self, directory: str, *more: str) -> list[str]:
        places = ["--serving", self.uri, "--warehouse", f"{self.root}/wh", "--dead_letters", f"{self.root}/dl"]
        return ["--predictions", directory, *places, *more]

    def publish(self, directory: str, *more: str) -> dict[str, Any]:
        return publish.run(self.arguments(directory, *more))

    def refused(self, capsys: pytest.CaptureFixture[str], directory: str, *more: str, code: int = 2) -> str:
        capsys.readouterr()
        assert publish.main(self.arguments(directory, *more)) == code
        errors = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("publish ")]
        assert len(errors) == 1, errors
        return errors[0]

    def served(self, *ids: str) -> dict[str, dict[str, Any]]:
        with open_store(self.uri) as store:
            return store.lookup_many(ids)

    def served_by(self, *ids: str) -> set[str]:
        return {row["generation"] for row in self.served(*ids).values()}

    def generations(self) -> list[str]:
        with open_store(self.uri) as store:
            return [generation.name for generation in store.generations()]

    def warehouse(self, as_of: date = AS_OF) -> pa.Table:
        """The rows of a partition as they were published, in its order."""
        return pq.ParquetFile(LocalWarehouse(f"{self.root}/wh").path(as_of)).read().drop_columns("generation")

    def letters(self, generation: str) -> list[dict[str, Any]]:
        files = sorted((self.root / "dl" / generation).glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]


# The reason a row must become a dead letter for, and what is wrong with it.
UNUSABLE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("missing_customer_id", {"customer_id": None}),
    ("missing_customer_id", {"customer_id": ""}),
    ("customer_id_too_long", {"customer_id": "x" * 1501}),
    ("customer_id_too_long", {"customer_id": "é" * 751}),
    ("reserved_customer_id", {"customer_id": "__reserved__"}),
    ("reserved_customer_id", {"customer_id": "____"}),
    ("missing_value", {"predicted_value": None}),
    ("missing_value", {"decile": None}),
    ("missing_value", {"model_version": None}),
    ("wrong_as_of", {"as_of": EARLIER}),
    ("wrong_horizon_days", {"horizon_days": 91}),
    ("wrong_model_version", {"model_version": "m2"}),
    ("not_finite", {"predicted_value": math.nan}),
    ("not_finite", {"value_p90": math.inf}),
    ("not_finite", {"purchase_probability": -math.inf}),
    ("negative", {"predicted_value": -0.01}),
    ("negative", {"value_p10": -1.0}),
    ("negative", {"expected_orders": -1e-300}),
    ("probability_out_of_range", {"purchase_probability": 1.0000001}),
    ("probability_out_of_range", {"purchase_probability": -0.1}),
    ("quantiles_out_of_order", {"value_p10": 3.0}),
    ("quantiles_out_of_order", {"value_p50": 2.5}),
    ("decile_out_of_range", {"decile": 0}),
    ("decile_out_of_range", {"decile": 11}),
)


def unusable(number: int) -> list[tuple[str, dict[str, Any]]]:
    """(reason, row) of so many rows, each kind in turn; ids are their own unless the id is what is wrong."""
    rows = []
    for index in range(number):
        reason, change = UNUSABLE[index % len(UNUSABLE)]
        rows.append((reason, prediction(f"bad{index:05d}", 1.0) | change))
    return rows
