"""Arrow -> float32 and list columns, cell by cell against plain Python."""

from __future__ import annotations

import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer import features_fixture
from transforms import record_batches, schema
from transforms.errors import UsageError

MONEY = st.decimals(-(10**20), 10**20, places=9, allow_nan=False)


@pytest.fixture(scope="module")
def customers() -> pa.Table:
    return features_fixture.simulate(300, seed=7)


@given(st.lists(st.none() | MONEY, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_decimals_become_the_nearest_float32(values: list[decimal.Decimal | None]) -> None:
    found = record_batches.float32(pa.array(values, schema.Type.MONEY.arrow))
    expected = np.array([np.nan if v is None else np.float32(float(v)) for v in values], np.float32)
    np.testing.assert_array_max_ulp(found, expected, maxulp=1)
    np.testing.assert_array_equal(np.isnan(found), [v is None for v in values])


def test_whole_numbers_and_chunks_become_float32() -> None:
    column = pa.chunked_array([[1, None], [2**60 + 1]], pa.int64())
    np.testing.assert_array_equal(record_batches.float32(column), np.array([1, np.nan, 2**60], np.float32))


def test_dense_holds_every_model_input_of_a_slice(customers: pa.Table) -> None:
    part = customers.slice(100, 50)
    for batch in (part, part.combine_chunks().to_batches()[0]):
        found = record_batches.dense(batch)
        assert list(found) == schema.names(schema.model_inputs())
        assert found["country"].tolist() == [(v or "").encode() for v in part["country"].to_pylist()]
        expected = [np.float32("nan") if v is None else np.float32(v) for v in part["value_year_ago"].to_pylist()]
        np.testing.assert_array_equal(found["value_year_ago"], expected)
        assert found["frequency"].dtype == np.float32


def test_dense_names_the_columns_it_lacks(customers: pa.Table) -> None:
    with pytest.raises(UsageError, match="age_days, frequency"):
        record_batches.dense(customers.drop_columns(["age_days", "frequency"]))


def test_for_transform_carries_ids_split_and_labels_beside_the_inputs(customers: pa.Table) -> None:
    batch = record_batches.for_transform(customers.slice(10, 40))
    assert batch.schema == record_batches.schema_for_transform()
    assert batch["customer_id"].to_pylist() == [[v] for v in customers["customer_id"].to_pylist()[10:50]]
    flat = record_batches.from_transform(batch)
    assert flat.schema.names[:4] == ["customer_id", "split", "future_value", "future_orders"]
    assert flat["split"].to_pylist() == customers["split"].to_pylist()[10:50]
    np.testing.assert_allclose(
        flat["future_value"], [float(v) for v in customers["future_value"].to_pylist()[10:50]], rtol=1e-6
    )


def test_null_labels_become_nan(customers: pa.Table) -> None:
    nulls = pa.nulls(customers.num_rows, schema.Type.MONEY.arrow)
    unlabelled = customers.set_column(customers.schema.get_field_index("future_value"), "future_value", nulls)
    assert np.isnan(record_batches.from_transform(record_batches.for_transform(unlabelled))["future_value"]).all()


def test_an_empty_batch_stays_empty(customers: pa.Table) -> None:
    assert record_batches.for_transform(customers.slice(0, 0)).num_rows == 0
