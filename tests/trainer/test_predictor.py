"""A model directory on its own: loaded, moved, served by TensorFlow 1, and refused when unfit."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tests.trainer.trained_models import World
from trainer import blend, predictor
from transforms import record_batches, schema
from transforms.errors import UsageError

AS_OF = datetime.date(2011, 4, 1)


@pytest.fixture(scope="module")
def loaded(world: World) -> predictor.Predictor:
    return predictor.load(world.model)


@pytest.fixture(scope="module")
def predictions(world: World, loaded: predictor.Predictor) -> pa.RecordBatch:
    return loaded.predict(world.customers, AS_OF)


def forecasts(batch: pa.RecordBatch) -> np.ndarray:
    return np.stack([batch[name].to_numpy() for name in predictor.FORECAST_COLUMNS])


def assert_same_forecasts(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the last bits, in which matrix products of other shapes may differ (the transform may not).

    A quantile falls steeply to 0 where its probability nears P(0), and magnifies them there.
    """
    tolerances = {name: 1e-3 if name.startswith("value_p") else 1e-5 for name in predictor.FORECAST_COLUMNS}
    for name, ours, theirs in zip(predictor.FORECAST_COLUMNS, found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerances[name], atol=1e-6, err_msg=name)


def test_predictions_have_the_columns_of_the_schema(predictions: pa.RecordBatch, world: World) -> None:
    assert predictions.schema == schema.arrow_schema(c for c in schema.PREDICTIONS if c.name != "decile")
    assert predictions["customer_id"].to_pylist() == world.customers["customer_id"].to_pylist()
    assert set(predictions["as_of"].to_pylist()) == {AS_OF}
    assert set(predictions["horizon_days"].to_pylist()) == {90}
    assert set(predictions["model_version"].to_pylist()) == {
        json.loads(Path(world.model, "manifest.json").read_text())["model_version"]
    }
    assert not any(column.null_count for column in predictions.columns)


def test_forecasts_are_possible_and_better_than_the_mean(predictions: pa.RecordBatch, world: World) -> None:
    low, middle, high = (predictions[f"value_p{p}"].to_numpy() for p in (10, 50, 90))
    assert (low <= middle).all() and (middle <= high).all()
    assert np.isfinite(forecasts(predictions)).all() and (forecasts(predictions) >= 0).all()
    actual = record_batches.float32(world.customers["future_value"]).astype(float)
    error = np.sqrt(np.mean((predictions["predicted_value"].to_numpy() - actual) ** 2))
    assert error < 0.9 * actual.std()


@pytest.mark.parametrize("rows", [1, 37, 4095, 4096])
def test_batch_size_does_not_matter(
    rows: int, world: World, loaded: predictor.Predictor, predictions: pa.RecordBatch
) -> None:
    part = pa.concat_tables([world.customers] * 2) if rows > 1000 else world.customers.slice(0, 20 * rows)
    batches = [loaded.predict(batch, AS_OF) for batch in part.combine_chunks().to_batches(rows)]
    found = forecasts(pa.Table.from_batches(batches).combine_chunks().to_batches()[0])
    assert_same_forecasts(found, np.tile(forecasts(predictions), 2)[:, : len(part)])


def test_transform_of_the_model_is_bit_for_bit_that_of_the_snapshot(world: World) -> None:
    transform = tf.saved_model.load(str(Path(world.model, "saved_model"))).signatures["transform"]
    inputs = {name: tf.constant(values) for name, values in record_batches.dense(world.customers).items()}
    for name, values in transform(**inputs).items():
        assert values.numpy().tobytes() == world.transformed[name].to_numpy().tobytes(), name


def test_a_model_needs_nothing_but_its_directory(world: World, retrained: str, predictions: pa.RecordBatch) -> None:
    found = predictor.load(retrained).predict(world.customers, AS_OF)
    # Same content, same seed: also the same model, to the last bit.
    np.testing.assert_array_equal(forecasts(found), forecasts(predictions))


def test_serving_default_answers_tf_examples_in_a_tf1_session(world: World) -> None:
    """The network's own forecasts: TensorFlow Serving knows neither the other members nor the calibration."""
    rows = 200
    network = predictor.load_member(predictor.NETWORK, str(Path(world.model, predictor.NETWORK)))
    expected = network.forecasts(world.customers.slice(0, rows))
    examples = tf_examples(record_batches.dense(world.customers.slice(0, rows)))
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(Path(world.model, "saved_model")))
        signature = meta.signature_def["serving_default"]
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        answer = session.run(outputs, {signature.inputs["examples"].name: examples})
    assert set(answer) == set(predictor.FORECAST_COLUMNS)
    found = np.stack([answer[name] for name in predictor.FORECAST_COLUMNS])
    assert_same_forecasts(found, np.stack([expected[name] for name in predictor.FORECAST_COLUMNS]))


def tf_examples(inputs: dict[str, np.ndarray]) -> list[bytes]:
    """One serialized tf.Example a row; what is missing is left out, as a client would."""

    def feature(value: Any) -> tf.train.Feature:
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))

    rows = [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]
    present = [{name: value for name, value in row.items() if value == value and value != b""} for row in rows]
    return [
        tf.train.Example(
            features=tf.train.Features(feature={name: feature(value) for name, value in row.items()})
        ).SerializeToString()
        for row in present
    ]


def test_predictions_are_the_calibrated_mix_of_the_members(world: World, predictions: pa.RecordBatch) -> None:
    """Each member loaded from its own directory; averaged and calibrated by hand."""
    content = blend.read(world.model)
    assert set(content.weights) == set(predictor.MEMBERS)
    members = [predictor.load_member(name, str(Path(world.model, name))) for name in predictor.MEMBERS]
    said = [member.forecasts(world.customers) for member in members]
    for name in predictor.FORECAST_COLUMNS:
        mean = np.mean([of[name] for of in said], axis=0)
        money = name.startswith("value") or name == "predicted_value"
        expected = mean * content.calibration.level if money else mean
        np.testing.assert_allclose(predictions[name].to_numpy(), expected, rtol=1e-9, err_msg=name)


def test_a_customer_with_one_order_of_yesterday_is_told_apart_by_its_value(world: World, loaded: predictor.Predictor) -> None:  # fmt: skip
    fresh = newcomers([5.0, 50.0, 500.0])
    values = loaded.predict(fresh, AS_OF)["predicted_value"].to_pylist()
    assert 0 < values[0] < values[1] < values[2]
    assert all(0 < p < 1 for p in loaded.predict(fresh, AS_OF)["purchase_probability"].to_pylist())


def newcomers(amounts: list[float]) -> pa.Table:
    """Customers whose only order was placed the day before the cutoff, with all else that follows from it."""
    n = len(amounts)
    known: dict[str, list[Any]] = {
        "customer_id": [f"N{i}" for i in range(n)], "age_days": [1] * n, "days_since_last": [1] * n, "country": ["UK"] * n,
        **{name: [1] * n for name in ("lines", "orders", "order_days", "orders_30d", "orders_90d", "orders_180d", "orders_365d")},
        **{name: amounts for name in schema.names(schema.FEATURES) if name.startswith(("value_", "order_value_")) and "trend" not in name},
        "value_year_ago": [None] * n, "orders_year_ago": [None] * n, "gap_days_mean": [None] * n, "order_value_std": [0.0] * n,
    }  # fmt: skip
    columns = {}
    for column in schema.CUSTOMERS:
        values = known.get(column.name, [None if column.nullable or column.role is schema.Role.LABEL else 0] * n)
        is_text = column.type is schema.Type.STRING
        array = pa.array([str(v) for v in values]) if is_text else pa.array(values, pa.float64())
        columns[column.name] = array.cast(column.type.arrow)
    return pa.table(columns)


def test_no_customers_give_no_predictions(world: World, loaded: predictor.Predictor) -> None:
    assert loaded.predict(world.customers.slice(0, 0), AS_OF).num_rows == 0


def test_a_missing_column_is_named(world: World, loaded: predictor.Predictor) -> None:
    with pytest.raises(UsageError, match="recency_days"):
        loaded.predict(world.customers.drop_columns(["recency_days"]), AS_OF)


def test_a_directory_without_manifest_or_of_unknown_kind_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no manifest"):
        predictor.load(str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "model", "model": "crystal_ball"}))
    with pytest.raises(UsageError, match=r"crystal_ball.*ziln"):
        predictor.load(str(tmp_path))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("predicted_value", np.nan, "predicted_value of 1 customers"),
        ("predicted_value", np.inf, "inf"),
        ("expected_orders", -0.5, "-0.5"),
        ("value_p50", 0.5, "value_p10 exceeds value_p50"),
        ("value_p90", 1.5, "value_p50 exceeds value_p90"),
        ("purchase_probability", 1.01, "more than 1"),
    ],
)
def test_impossible_forecasts_are_refused(column: str, value: float, message: str) -> None:
    answer = {name: np.full(3, 0.5) for name in predictor.FORECAST_COLUMNS}
    answer |= {f"value_p{p}": np.full(3, level) for p, level in ((10, 1.0), (50, 2.0), (90, 3.0))}
    ids = pa.array(["a", "b", "c"])
    assert predictor.assemble(ids, answer, AS_OF, 90, "v").num_rows == 3
    answer[column] = np.array([answer[column][0], value, answer[column][2]])
    with pytest.raises(predictor.ForecastError, match=message):
        predictor.assemble(ids, answer, AS_OF, 90, "v")
