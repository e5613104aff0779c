"""The one list of columns: what derives from it, and that reading it costs nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pyarrow as pa
import pytest

from tests import order_strategies
from transforms import schema

EVERY_TABLE = {
    "orders": schema.ORDERS, "customers": schema.CUSTOMERS, "predictions": schema.PREDICTIONS,
}  # fmt: skip
tables = pytest.mark.parametrize("columns", EVERY_TABLE.values(), ids=EVERY_TABLE)


@tables
def test_no_column_is_stated_twice(columns: tuple[schema.Column, ...]) -> None:
    names = schema.names(columns)
    assert len(set(names)) == len(names)


@tables
def test_arrow_and_bigquery_schemas_hold_every_column_in_order(columns: tuple[schema.Column, ...]) -> None:
    arrow, bigquery = schema.arrow_schema(columns), schema.bigquery_schema(columns)
    assert arrow.names == [field["name"] for field in bigquery] == schema.names(columns)
    bigquery_types = {
        pa.string(): "STRING", pa.int64(): "INT64", pa.float64(): "FLOAT64", pa.date32(): "DATE",
        pa.decimal128(38, 9): "NUMERIC", pa.timestamp("us", "UTC"): "TIMESTAMP",
    }  # fmt: skip
    assert [bigquery_types[field.type] for field in arrow] == [field["type"] for field in bigquery]
    for column, field in zip(columns, bigquery, strict=True):
        assert field["mode"] == ("REQUIRED" if column.nulls == "never null" else "NULLABLE")
        assert column.formula in field["description"]
        assert len(field["description"]) <= 1024  # BigQuery's limit


def test_no_prediction_is_ever_null() -> None:
    assert not any(column.nullable for column in schema.PREDICTIONS)


def test_models_read_features_only() -> None:
    assert {column.role for column in schema.model_inputs()} == {schema.Role.FEATURE}
    assert not {"customer_id", "split", "future_value", "future_orders"} & set(schema.names(schema.model_inputs()))
    for column in schema.model_inputs():
        assert (column.model_input is schema.Scale.VOCABULARY) == (column.type is schema.Type.STRING)


@pytest.mark.parametrize(
    "change", [{"name": "n"}, {"type": schema.Type.FLOAT}, {"formula": "f"}, {"nulls": "sometimes"}], ids=str
)
def test_the_fingerprint_tells_changed_columns_apart(change: dict[str, object]) -> None:
    first, *rest = schema.FEATURES
    before = schema.fingerprint(schema.FEATURES)
    assert schema.fingerprint([first, *rest]) == before
    assert schema.fingerprint([dataclasses.replace(first, **change), *rest]) != before  # type: ignore[arg-type]
    assert schema.fingerprint([*rest, first]) != before


def test_reasons_are_stated_once_and_blame_an_input() -> None:
    reasons = [*schema.EXCLUDED, *schema.DEAD_LETTERS]
    names = [reason.name for reason in reasons]
    assert len(set(names)) == len(names)
    assert {reason.column for reason in reasons} <= {*order_strategies.INPUTS, "line"}


@pytest.mark.parametrize("reason", schema.DEAD_LETTERS, ids=lambda reason: reason.name)
def test_a_dead_letter_is_explained_by_column_value_and_what_is_accepted(reason: schema.Reason) -> None:
    text = schema.explain(reason.name, {reason.column: "odd\nvalue"})
    assert text.startswith(f"{reason.column}='odd\\nvalue': accepted is ")
    assert reason.accepted in text and "\n" not in text
    assert f"{reason.column}=None" in schema.explain(reason.name, {})


def test_importing_the_schema_imports_nothing_heavy() -> None:
    program = "import transforms.schema, sys; print([m for m in ('pyarrow', 'numpy', 'ibis') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
