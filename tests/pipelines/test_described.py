"""What the jobs write beside their rows - statistics, the data schema, skew - and what they refuse by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines import features, predict
from tests.pipelines import features_data
from tests.pipelines.features_data import read_rows, refused
from transforms import data_schema, schema, skew, skew_thresholds, statistics, storage
from transforms.errors import UsageError
from transforms.sketches import Numbers, Texts
from transforms.statistics import Statistics


@pytest.fixture(scope="module")
def cycle() -> Any:
    return features_data.shop_cycle()


def test_the_statistics_are_those_of_the_rows(cycle: Any) -> None:
    directory = cycle.build.features(cycle.build.cutoff)
    described, rows = statistics.read(f"{directory}/statistics"), read_rows(f"{directory}/raw")
    assert described.snapshots == {str(cycle.build.cutoff): rows.num_rows}
    for split in schema.SPLITS:
        part = rows.filter(pc.equal(rows["split"], split))
        assert described.splits[split].rows == part.num_rows > 0
        for column in (*schema.FEATURES, *schema.LABELS):
            sketch, values = described.splits[split].columns[column.name], part[column.name]
            assert (sketch.count, sketch.missing) == (len(values) - values.null_count, values.null_count)
            if isinstance(sketch, Texts):
                counts = {row["values"]: row["counts"] for row in pc.value_counts(values.drop_null()).to_pylist()}
                assert sketch.counts == counts
            elif sketch.count:
                assert isinstance(sketch, Numbers)
                floats = values.drop_null().cast(pa.float64())
                ends = pytest.approx((pc.min(floats).as_py(), pc.max(floats).as_py()), rel=1e-11)  # 12 digits are kept
                assert (sketch.minimum, sketch.maximum) == ends
                assert sketch.zeros == pc.sum(pc.equal(floats, 0)).as_py()


def test_the_model_keeps_those_of_its_training_and_predict_compares(cycle: Any) -> None:
    learned = statistics.read(f"{cycle.serve.model}/statistics")
    training = [
        statistics.read(f"{cycle.build.features(cutoff)}/statistics") for cutoff in cycle.build.training_cutoffs
    ]
    assert statistics.to_json(learned) == statistics.to_json(Statistics.merge(training))
    served = statistics.read(f"{cycle.serve.predictions}/statistics")
    manifest = storage.read_manifest(cycle.serve.predictions, "predictions")
    assert served.rows == manifest["rows"]
    comparison = skew.compare(learned, served, skew_thresholds.read())
    assert json.loads(Path(cycle.serve.predictions, "skew.json").read_text()) == json.loads(
        json.dumps(comparison.to_json())
    )
    assert manifest["skew"] == comparison.lines() and not comparison.failed


def shifted(directory: Path, change: Any) -> str:
    orders = features_data.shop_orders()
    return features_data.write_parquet(directory / "orders.parquet", change(orders))


def times_100(orders: pa.Table) -> pa.Table:
    return orders.set_column(3, "unit_price", pc.multiply(orders["unit_price"], 100))


def without_country(orders: pa.Table) -> pa.Table:
    return orders.drop_columns("country")


def recoded(orders: pa.Table) -> pa.Table:
    return orders.set_column(4, "country", pc.replace_substring(orders["country"], "UK", "United Kingdom"))


def half_lost(orders: pa.Table) -> pa.Table:
    return orders.filter(pc.less(orders["customer_id"], "C00250"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (times_100, "fail: value_total: divergence is"),
        (without_country, "fail: country: missing is"),
        (recoded, "fail: country: categories is"),
        (half_lost, "fail: customers: rows_lost is"),
    ],
)
def test_a_shift_in_the_orders_makes_no_predictions(
    capsys: pytest.CaptureFixture[str], cycle: Any, tmp_path: Path, change: Any, said: str
) -> None:
    argv = ["--orders", shifted(tmp_path, change), "--as_of", str(cycle.serve.as_of), "--model", cycle.serve.model]
    message = refused(capsys, predict.main, [*argv, "--output", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / "skew.json").read_text())
    feature, metric = said.removeprefix("fail: ").removesuffix(" is").split(": ")
    assert message.startswith("the customers are not like those the model learned from: fail: ")
    assert any(
        (row["feature"], row["metric"], row["level"]) == (feature, metric, "fail") for row in found["differences"]
    )
    with pytest.raises(UsageError, match="not a complete predictions directory"):
        storage.read_manifest(str(tmp_path / "out"), "predictions")


def test_the_data_schema_is_made_once_warns_and_refuses_once_it_is_reviewed(
    capsys: pytest.CaptureFixture[str], cycle: Any, tmp_path: Path
) -> None:
    made = data_schema.read(cycle.build.data_schema)
    assert {feature.name for feature in made.feature} == {c.name for c in (*schema.FEATURES, *schema.LABELS)}
    assert not data_schema.is_reviewed(made)
    text = Path(cycle.build.data_schema).read_text()
    assert '"DE"' in text
    edited = tmp_path / "edited.pbtxt"
    edited.write_text(text.replace('"DE"', '"FR"'))
    argv = [
        "--orders", features_data.shop_file(), "--cutoff", str(cycle.build.cutoff), "--horizon_days", str(cycle.build.horizon_days),
        "--reuse_transform", cycle.build.features(cycle.build.training_cutoffs[0]), "--data_schema", str(edited),
    ]  # fmt: skip
    manifest = features.run([*argv, "--output", str(tmp_path / "warned")])
    (anomaly,) = manifest["anomalies"]
    assert anomaly.startswith("country: ") and "DE" in anomaly
    assert anomaly in capsys.readouterr().err and '"FR"' in edited.read_text()

    edited.write_text(edited.read_text().replace(f'tag: "{data_schema.NOT_REVIEWED}"', ""))
    message = refused(capsys, features.main, [*argv, "--output", str(tmp_path / "refused")])
    assert (
        message
        == f"the customers are not as --data_schema {edited} says: {anomaly}; mend the orders, or edit that file"
    )
    assert not (tmp_path / "refused" / storage.MANIFEST).exists()


def test_a_file_that_is_no_schema_is_told_before_the_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pbtxt"
    wrong.write_text("[default]")
    argv = ["--orders", features_data.shop_file(), "--cutoff", "2011-01-01", "--horizon_days", "90"]
    message = refused(capsys, features.main, [*argv, "--data_schema", str(wrong), "--output", str(tmp_path / "out")])
    assert str(wrong) in message and "accepted" in message
    assert not (tmp_path / "out" / "raw").exists()
