"""A model directory on its own: loaded, moved, served by TensorFlow 1, and refused when unfit."""

from __future__ import annotations

import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf

from tests.trainer.trained_models import World
from trainer import predictor
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
    part = world.customers.slice(0, 100) if rows == 1 else pa.concat_tables([world.customers] * 2)
    batches = [loaded.predict(batch, AS_OF) for batch in part.combine_chunks().to_batches(rows)]
    found = forecasts(pa.Table.from_batches(batches).combine_chunks().to_batches()[0])
    assert_same_forecasts(found, np.tile(forecasts(predictions), 2)[:, : len(part)])


def test_transform_of_the_model_is_bit_for_bit_that_of_the_snapshot(world: World) -> None:
    transform = tf.saved_model.load(str(Path(world.model, "saved_model"))).signatures["transform"]
    inputs = {name: tf.constant(values) for name, values in record_batches.dense(world.customers).items()}
    for name, values in transform(**inputs).items():
        assert values.numpy().tobytes() == world.transformed[name].to_numpy().tobytes(), name


def test_a_model_needs_nothing_but_its_directory(world: World, predictions: pa.RecordBatch, tmp_path: Path) -> None:
    features, alone = tmp_path / "features", tmp_path / "alone"
    shutil.copytree(world.training, features)
    from trainer import task

    again = ["--evaluation", world.evaluation, "--output", str(tmp_path / "model"), "--epochs", "5", "--seed", "3"]
    assert task.main(["--features", str(features), *again]) == 0
    shutil.rmtree(features)
    shutil.move(tmp_path / "model", alone)
    found = predictor.load(str(alone)).predict(world.customers, AS_OF)
    # Same content, same seed: also the same model, to the last bit.
    np.testing.assert_array_equal(forecasts(found), forecasts(predictions))


def test_serving_default_answers_tf_examples_in_a_tf1_session(world: World, predictions: pa.RecordBatch) -> None:
    rows = 200
    examples = tf_examples(record_batches.dense(world.customers.slice(0, rows)))
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(Path(world.model, "saved_model")))
        signature = meta.signature_def["serving_default"]
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}
        answer = session.run(outputs, {signature.inputs["examples"].name: examples})
    assert set(answer) == set(predictor.FORECAST_COLUMNS)
    found = np.stack([answer[name] for name in predictor.FORECAST_COLUMNS])
    assert_same_forecasts(found, forecasts(predictions)[:, :rows])


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
