"""The real ``pipelines.predict`` with a model trained by the real cycle: ranks, no skew, the model alone suffices."""

from __future__ import annotations

import datetime
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration.run_local import Cycle
from pipelines import features, predict
from tests import brute_force
from tests.order_strategies import line
from tests.pipelines import features_data
from tests.pipelines.features_data import SHOP_END, SHOP_HORIZON_DAYS, read_rows, refused, stamps, write_csv
from transforms import schema, storage
from transforms.errors import UsageError


@pytest.fixture(scope="module")
def cycle() -> Cycle:
    return features_data.shop_cycle()


@pytest.fixture(scope="module")
def predictions(cycle: Cycle) -> pa.Table:
    """As of the data's end, by the default runner, ``--as_of`` given."""
    return read_rows(cycle.serve.predictions)


def arguments(model: str, output: Path, *more: Any) -> list[str]:
    return ["--orders", features_data.shop_file(), "--model", model, "--output", str(output), *map(str, more)]


def test_every_column_of_the_contract_and_no_null(predictions: pa.Table) -> None:
    assert predictions.schema == schema.arrow_schema(schema.PREDICTIONS)
    assert not any(predictions[name].null_count for name in predictions.column_names)


def test_one_row_a_customer_of_the_population(predictions: pa.Table) -> None:
    assert predictions["customer_id"].to_pylist() == sorted(set(features_data.shop_orders()["customer_id"].to_pylist()))


def test_the_rows_tell_what_they_are(cycle: Cycle, predictions: pa.Table) -> None:
    model = storage.read_manifest(cycle.serve.model, "model")
    assert set(predictions["as_of"].to_pylist()) == {SHOP_END}
    assert set(predictions["horizon_days"].to_pylist()) == {SHOP_HORIZON_DAYS}
    assert set(predictions["model_version"].to_pylist()) == {model["model_version"]}
    manifest = storage.read_manifest(cycle.serve.predictions, "predictions")
    told = (
        manifest["as_of"],
        manifest["horizon_days"],
        manifest["model_version"],
        manifest["rows"],
        manifest["data_end"],
    )
    assert told == (str(SHOP_END), SHOP_HORIZON_DAYS, model["model_version"], predictions.num_rows, str(SHOP_END))
    lines = features_data.shop_orders().num_rows
    assert manifest["lines"] == {"read": lines, "used": lines, "excluded": {}, "dead_letters": {}}


def test_deciles_equal_a_plain_sort(predictions: pa.Table) -> None:
    rows = predictions.select(["customer_id", "predicted_value", "decile"]).to_pylist()
    ranked = sorted(rows, key=lambda row: (-row["predicted_value"], row["customer_id"]))
    assert [row["decile"] for row in ranked] == [1 + 10 * rank // len(ranked) for rank in range(len(ranked))]


@pytest.fixture(scope="module")
def elsewhere(cycle: Cycle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DirectRunner by its name, no ``--as_of``, a copy of the model alone: the features it was made from are away."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(cycle.serve.model, folder / "model")
    away = f"{cycle.build.directory}/features"
    os.rename(away, f"{away}-away")
    try:
        predict.run(arguments((folder / "model").as_uri(), folder / "predictions", "--runner", "DirectRunner"))
    finally:
        os.rename(f"{away}-away", away)
    return folder / "predictions"


def test_the_model_alone_gives_the_same_on_another_runner(elsewhere: Path, predictions: pa.Table) -> None:
    assert read_rows(elsewhere).equals(predictions)


def test_as_of_is_the_data_s_end_unless_given(elsewhere: Path) -> None:
    assert storage.read_manifest(str(elsewhere), "predictions")["as_of"] == str(SHOP_END)


def test_nothing_but_predictions_stays_behind(elsewhere: Path) -> None:
    assert {path.name for path in elsewhere.iterdir() if path.suffix != ".parquet"} == {
        "dead_letters",
        "statistics",
        "skew.json",
        storage.MANIFEST,
    }


@pytest.fixture(scope="module")
def earlier(cycle: Cycle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As of the evaluation cutoff, in seven buckets whose rows travel as bytes."""
    output = tmp_path_factory.mktemp("earlier") / "predictions"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.options.is_local", lambda _: False)
        predict.run(arguments(cycle.serve.model, output, "--as_of", cycle.build.cutoff, "--buckets", 7))
    return output


def test_the_two_jobs_do_not_skew(cycle: Cycle, earlier: Path) -> None:
    """The model on the snapshot that pipelines.features made says what pipelines.predict says of the same day."""
    from trainer import predictor

    snapshot = read_rows(f"{cycle.build.features(cycle.build.cutoff)}/raw")
    expected = pa.Table.from_batches([predictor.load(cycle.serve.model).predict(snapshot, cycle.build.cutoff)])
    found = read_rows(earlier)
    assert len(list(earlier.glob("part-*-of-00007.parquet"))) == 7
    for name in expected.column_names:
        wanted, got = expected[name].to_pylist(), found[name].to_pylist()
        # The batches differ, and with them the vector lanes of float32 math: the last digits of a float32.
        assert got == (
            pytest.approx(wanted, rel=1e-5, abs=1e-6)
            if schema.by_name(schema.PREDICTIONS)[name].type is schema.Type.FLOAT
            else wanted
        )


def test_nothing_after_as_of_is_seen(cycle: Cycle, earlier: Path) -> None:
    lines = storage.read_manifest(str(earlier), "predictions")["lines"]
    days = features_data.shop_orders()["ordered_at"].to_pylist()
    later = sum(moment.date() >= cycle.build.cutoff for moment in days)
    assert later and lines["excluded"] == {"after_window": later} and lines["used"] == len(days) - later


def keep_customers(monkeypatch: pytest.MonkeyPatch) -> list[pa.Table]:
    """Gets the customers behind a prediction, before its scratch space goes."""
    kept: list[pa.Table] = []

    def read(output: str, *_: str) -> None:
        kept.extend(map(read_rows, Path(output).glob("_temp*/customers")))

    monkeypatch.setattr("pipelines.scratch.clear", read)
    return kept


def test_a_model_of_limited_history_sees_no_more(cycle: Cycle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The customers behind a prediction are those of the features snapshot of the same day and history."""
    days = 120
    shutil.copytree(cycle.serve.model, tmp_path / "model")
    manifest = storage.read_manifest(cycle.serve.model, "model") | {"history_days": days}
    (tmp_path / "model" / storage.MANIFEST).write_text(json.dumps(manifest))
    window = [
        "--cutoff",
        str(cycle.build.cutoff),
        "--horizon_days",
        str(SHOP_HORIZON_DAYS),
        "--history_days",
        str(days),
    ]
    snapshot = tmp_path / "features"
    orders = ["--orders", features_data.shop_file(), "--output", str(snapshot)]
    features.run([*orders, *window, "--reuse_transform", cycle.build.features(cycle.build.training_cutoffs[0])])
    no_labels = dict.fromkeys(schema.names(schema.LABELS))
    expected = {row["customer_id"]: row | no_labels for row in read_rows(snapshot / "raw").to_pylist()}

    kept = keep_customers(monkeypatch)
    made = predict.run(arguments(str(tmp_path / "model"), tmp_path / "predictions", "--as_of", cycle.build.cutoff))
    brute_force.assert_equal(expected, kept[0])
    assert made["history_days"] == days and made["lines"]["excluded"]["before_history"] > 0
    everyone = read_rows(f"{cycle.build.features(cycle.build.cutoff)}/raw")
    assert made["rows"] == len(expected) < everyone.num_rows


def test_predictions_need_no_labels(cycle: Cycle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The snapshot behind a prediction has none, whatever was ordered later."""
    kept = keep_customers(monkeypatch)
    predict.run(arguments(cycle.serve.model, tmp_path / "predictions", "--as_of", cycle.build.cutoff))
    assert kept and kept[0].num_rows
    for name in schema.names(schema.LABELS):
        assert kept[0][name].null_count == kept[0].num_rows


def test_a_shop_that_was_closed_since(cycle: Cycle, tmp_path: Path) -> None:
    """As of two days after the data's end, everybody's last order is two days longer ago."""
    later = SHOP_END + datetime.timedelta(2)
    made = predict.run(arguments(cycle.serve.model, tmp_path / "out", "--as_of", later, "--quiet_days", 2))
    assert (made["as_of"], made["data_end"]) == (str(later), str(SHOP_END))
    assert set(read_rows(tmp_path / "out")["as_of"].to_pylist()) == {later}
    assert "quiet_days" not in made["arguments"]


# --- Running again, and bad arguments -------------------------------------------------------------------------------


def test_a_second_run_answers_at_once_and_rewrites_nothing(cycle: Cycle, monkeypatch: pytest.MonkeyPatch) -> None:
    before = stamps(cycle.serve.predictions)
    monkeypatch.setattr(predict, "build_pipeline", None)  # called, it would fail
    # --as_of is the day after the last order by itself, however many quiet days would be believed after it.
    made = predict.run(arguments(cycle.serve.model, Path(cycle.serve.predictions), "--quiet_days", 7))
    assert made == storage.read_manifest(cycle.serve.predictions, "predictions")
    assert stamps(cycle.serve.predictions) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--as_of", "2010-01-01"], "--as_of 2010-01-01 is outside the data: accepted is a day after 2010-01-01, up to 2011-08-24"),
        (["--as_of", "2011-08-25"], "--as_of 2011-08-25 is outside the data"),
        (["--as_of", "2011-08-25"], "a day after 2010-01-01, up to 2011-08-24, or --quiet_days 1 if the shop was closed since"),
        (["--as_of", "2011-08-28", "--quiet_days", "3"], "up to 2011-08-27, or --quiet_days 4 if the shop was closed"),
        (["--quiet_days", "some"], "argument --quiet_days: 'some' is not usable: accepted is a whole number from 0 to"),
        (["--as_of", "today"], "argument --as_of: 'today' is not usable: accepted is a date such as"),
        (["--model", "absent"], "absent is not a complete model directory: it has no manifest.json"),
        (["--orders", "absent.csv"], "--orders 'absent.csv' is not usable: accepted is a .parquet, .csv or .csv.gz"),
        (["--cutoff", "2011-01-01"], "--cutoff is known neither to this command nor to Beam"),
        (["--runner", "NoRunner"], "--runner 'NoRunner' is not usable"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_bad_argument_is_one_line_and_code_2(
    capsys: pytest.CaptureFixture[str], cycle: Cycle, tmp_path: Path, more: list[str], said: str
) -> None:
    assert said in refused(capsys, predict.main, arguments(cycle.serve.model, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_a_features_directory_is_no_model(capsys: pytest.CaptureFixture[str], cycle: Cycle, tmp_path: Path) -> None:
    message = refused(capsys, predict.main, arguments(cycle.build.features(cycle.build.cutoff), tmp_path / "out"))
    assert message.endswith("holds 'features', accepted is a model directory")


def test_another_as_of_into_the_same_directory_is_refused(capsys: pytest.CaptureFixture[str], cycle: Cycle) -> None:
    before = stamps(cycle.serve.predictions)
    message = refused(
        capsys, predict.main, arguments(cycle.serve.model, Path(cycle.serve.predictions), "--as_of", cycle.build.cutoff)
    )
    assert f"cutoff was '{SHOP_END}', is '{cycle.build.cutoff}'" in message
    assert stamps(cycle.serve.predictions) == before


def test_a_half_written_model_is_refused(capsys: pytest.CaptureFixture[str], cycle: Cycle, tmp_path: Path) -> None:
    shutil.copytree(cycle.serve.model, tmp_path / "model")
    (tmp_path / "model" / storage.MANIFEST).unlink()
    assert "is not a complete model directory" in refused(
        capsys, predict.main, arguments(str(tmp_path / "model"), tmp_path / "out")
    )


@pytest.fixture
def lenient(tmp_path: Path) -> list[str]:
    """For a handful of customers, who are never like those of a shop: differences are told, and accepted."""
    path = tmp_path / "lenient.toml"
    metrics = ("rows_lost", "missing", "zeros", "divergence", "categories")
    order_values = '["order_value_mean", "order_value_first", "order_value_last"]'
    path.write_text(
        "[default]\n" + "".join(f"{name} = {{ warn = 0.1 }}\n" for name in metrics)
        + f"[[exception]]\nfeatures = {order_values}\nmean = {{ warn = 0.5 }}\n"
    )  # fmt: skip
    return ["--skew_thresholds", str(path)]


def test_customers_unlike_the_model_s_are_not_scored_for_use(
    capsys: pytest.CaptureFixture[str], cycle: Cycle, tmp_path: Path, lenient: list[str]
) -> None:
    """Three of the shop's customers are left, and nobody has a country."""
    path = write_csv(tmp_path / "orders.csv", [line(who, "2011-08-23", "10") for who in "abc"])
    argv = ["--orders", path, "--model", cycle.serve.model, "--output", str(tmp_path / "out")]
    message = refused(capsys, predict.main, argv)
    assert message.startswith("the customers are not like those the model learned from: fail: ")
    found = (tmp_path / "out" / "skew.json").read_text()
    assert "rows_lost is 0.993, accepted is at most 0.25 (3 customers, 439 in the latest" in found
    assert "country: missing is" in found and "--skew_thresholds" in message
    with pytest.raises(UsageError, match="not a complete predictions directory"):
        storage.read_manifest(str(tmp_path / "out"), "predictions")
    made = predict.run([*argv, *lenient])
    assert any("rows_lost" in line for line in made["skew"]) and made["rows"] == 3


def test_few_customers_and_odd_ids(cycle: Cycle, tmp_path: Path, lenient: list[str]) -> None:
    """Fewer customers than deciles; a dead letter beside them."""
    ids = ["é", 'two\nlines, "quoted"', "C00001"]
    rows = [
        *(line(customer_id, "2011-08-23 23:59:59", "10") for customer_id in ids),
        line("x", "2011-08-23", "1,5"),
        line("C00001", "2011-07-01", "5"),
    ]
    path = write_csv(tmp_path / "orders.csv", rows)
    made = predict.run(["--orders", path, "--model", cycle.serve.model, "--output", str(tmp_path / "out"), *lenient])
    found = read_rows(tmp_path / "out")
    assert sorted(found["customer_id"].to_pylist()) == sorted(ids)
    assert sorted(found["decile"].to_pylist()) == [1, 4, 7]
    assert made["lines"] == {"read": 5, "used": 4, "excluded": {}, "dead_letters": {"bad_amount": 1}}


def test_one_day_of_orders_can_be_predicted_but_not_trained_on(
    capsys: pytest.CaptureFixture[str], cycle: Cycle, tmp_path: Path, lenient: list[str]
) -> None:
    table = pa.table({"customer_id": ["a"], "ordered_at": [datetime.date(2011, 8, 23)], "amount": [1]})
    pq.write_table(table, tmp_path / "day.parquet")
    arguments = ["--orders", str(tmp_path / "day.parquet"), "--output", str(tmp_path / "out")]
    message = refused(capsys, features.main, [*arguments, "--cutoff", "2011-08-23", "--horizon_days", "1"])
    assert "leaves no orders on one side" in message
    with pytest.raises(UsageError, match="not a complete predictions directory"):
        storage.read_manifest(str(tmp_path / "out"), "predictions")
    predict.run([*arguments, "--model", cycle.serve.model, *lenient])
    assert read_rows(tmp_path / "out")["decile"].to_pylist() == [1]
