"""The command line of the trainer: what it writes, what it repeats, what it refuses."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer import features_fixture
from tests.trainer.trained_models import EVALUATION_CUTOFF, World
from trainer import predictor, task
from transforms import schema

DAY = datetime.timedelta(days=1)
ROOT = Path(__file__).resolve().parents[2]


def train(world: World, output: Path, *, features: list[str] | None = None, evaluation: str | None = None, seed: int = 3, model: str = "boosting") -> int:  # fmt: skip
    return task.main([
        "--features", *(features or [world.training]), "--evaluation", evaluation or world.evaluation,
        "--output", str(output), "--epochs", "5", "--seed", str(seed), "--model", model,
    ])  # fmt: skip


def read(directory: Path | str, name: str) -> dict[str, Any]:
    return dict(json.loads(Path(directory, name).read_text()))


def count(world: World, split: str) -> int:
    return int(world.training_customers["split"].to_pylist().count(split))


def test_the_model_directory_holds_all_that_is_promised(world: World) -> None:
    manifest, evaluation = read(world.model, "manifest.json"), read(world.model, "evaluation.json")
    assert manifest["training_rows"] == len(world.training_customers) - count(world, "validation")
    assert manifest["validation_rows"] == count(world, "validation")
    assert manifest["model_version"].startswith(f"blend-{features_fixture.CUTOFF}-")
    assert (
        set(manifest["choice"]["weights"]) == set(read(world.model, "blend.json")["weights"]) == set(predictor.MEMBERS)
    )
    assert manifest["training_cutoffs"] == [features_fixture.CUTOFF.isoformat()]
    assert (manifest["horizon_days"], manifest["history_days"], manifest["seed"]) == (90, None, 3)
    assert 1 <= manifest["best_epoch"] <= manifest["epochs_run"] <= 5
    assert evaluation["split"] == manifest["split"] == "out of time"
    assert evaluation["customers"] == len(world.customers)
    assert manifest["metrics"] == evaluation["models"]["model"]
    assert evaluation["training"]["model_version"] == manifest["model_version"]


def test_evaluation_rows_are_the_judged_customers(world: World) -> None:
    rows = pq.read_table(Path(world.model, "evaluation.parquet"))
    assert rows["customer_id"].to_pylist() == world.customers["customer_id"].to_pylist()
    assert rows["future_value"].to_pylist() == world.customers["future_value"].to_pylist()
    assert "predicted_value" in rows.schema.names
    assert {"baseline_past_rate", "baseline_mean_customer"} <= set(rows.schema.names)
    assert set(rows["as_of"].to_pylist()) == {EVALUATION_CUTOFF}


def test_the_model_beats_the_mean_customer(world: World) -> None:
    models = read(world.model, "evaluation.json")["models"]
    assert models["model"]["normalised_gini"] > 0.6
    assert models["model"]["rmse"] < models["mean_customer"]["rmse"]


def test_another_seed_is_another_model(world: World, tmp_path: Path) -> None:
    assert train(world, tmp_path / "first") == train(world, tmp_path / "other", seed=4) == 0
    first, other = (read(tmp_path / name, "manifest.json") for name in ("first", "other"))
    assert first["model_version"] != other["model_version"]
    assert first["metrics"] != other["metrics"]


def test_another_process_trains_the_same_model(world: World, retrained: str) -> None:
    first, again = (read(directory, "manifest.json") for directory in (world.model, retrained))
    assert again["model_version"] == first["model_version"] and again["metrics"] == first["metrics"]
    first, again = (read(directory, "evaluation.json") for directory in (world.model, retrained))
    assert again == first
    rows = [pq.read_table(Path(directory, "evaluation.parquet")) for directory in (world.model, retrained)]
    assert rows[0].equals(rows[1])


def test_running_again_does_nothing_and_other_arguments_are_refused(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(world.model, "manifest.json").read_bytes()
    assert train(world, Path(world.model), model="blend") == 0
    assert "already complete" in capsys.readouterr().err
    assert train(world, Path(world.model), seed=9, model="blend") == 2
    assert "seed was 3, is 9" in capsys.readouterr().err
    assert Path(world.model, "manifest.json").read_bytes() == before


def test_judged_by_customer_on_the_training_snapshot_itself(world: World, tmp_path: Path) -> None:
    assert train(world, tmp_path / "model", evaluation=world.training + "/") == 0
    evaluation = read(tmp_path / "model", "evaluation.json")
    assert evaluation["split"] == "by customer"
    judged = pq.read_table(tmp_path / "model" / "evaluation.parquet")["customer_id"].to_pylist()
    assert (
        judged
        == world.training_customers.filter(pa.compute.equal(world.training_customers["split"], "test"))[
            "customer_id"
        ].to_pylist()
    )


def test_learns_from_several_snapshots(world: World, tmp_path: Path) -> None:
    earlier = world.snapshot("earlier", cutoff=features_fixture.CUTOFF - 30 * DAY)
    assert train(world, tmp_path / "model", features=[earlier, world.training]) == 0
    manifest = read(tmp_path / "model", "manifest.json")
    # Their labels overlap, so that there is no later window to look at: validation customers are held out of both.
    assert manifest["training_rows"] == 2 * (len(world.training_customers) - count(world, "validation"))
    assert manifest["model_version"].startswith(f"boosting-{features_fixture.CUTOFF}-")


@pytest.mark.parametrize(
    ("manifest", "accepted"),
    [
        ({"fingerprint": "f2"}, "--reuse_transform"),
        ({"horizon_days": 60}, "horizon_days 60: accepted is 90"),
        ({"history_days": 365}, "history_days 365: accepted is None"),
        ({"cutoff": EVALUATION_CUTOFF - 89 * DAY}, f"accepted is a cutoff from {EVALUATION_CUTOFF + DAY} on"),
    ],
)
def test_snapshots_that_do_not_fit_are_refused_in_one_line(
    manifest: dict[str, Any], accepted: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = world.snapshot(tmp_path.name, **manifest)
    assert train(world, tmp_path / "model", features=[world.training, other]) == 2
    error = capsys.readouterr().err
    assert accepted in error
    assert error.count("\n") == 1
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("model", ["ziln", "boosting", "pareto"])
def test_snapshots_without_labels_are_refused(
    model: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, transformed = world.customers, world.transformed
    for name in schema.names(schema.LABELS):
        at, type_ = raw.schema.get_field_index(name), raw.schema.field(name).type
        raw = raw.set_column(at, name, pa.nulls(len(raw), type_))
        missing = pa.array([float("nan")] * len(raw), pa.float32())
        transformed = transformed.set_column(transformed.schema.get_field_index(name), name, missing)
    path = tmp_path / "unlabelled"
    features_fixture.write_features(path, raw, transformed, world.transform_output)
    assert train(world, tmp_path / "model", features=[str(path)], model=model) == 2
    assert "without labels" in capsys.readouterr().err
    assert not (tmp_path / "model" / "manifest.json").exists()


def test_an_unfinished_directory_is_refused(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(world, tmp_path / "model", features=[str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--seed", "-1"], ["--epochs", "0"], ["--model", "oracle"]])
def test_bad_arguments_end_with_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert task.main(["--features", "a", "--evaluation", "b", "--output", "c", *wrong]) == 2
    assert wrong[1] in capsys.readouterr().err


def test_help_explains_without_importing_anything_heavy() -> None:
    code = (
        "import sys\nfrom trainer import task\n"
        "try: task.main(['--help'])\nexcept SystemExit: pass\n"
        "print('HEAVY', sorted({'numpy', 'pyarrow', 'tensorflow', 'keras', 'apache_beam', 'scipy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("HEAVY []\n")
    for argument in (
        "--features",
        "--evaluation",
        "--output",
        "--model",
        "--seed",
        "--epochs",
        "python -m trainer.task",
    ):
        assert argument in out


def test_training_reads_no_column_beyond_the_contract(world: World) -> None:
    transformed = set(world.transformed.schema.names)
    assert not transformed & (set(schema.names(schema.FEATURES)) - set(schema.names(schema.model_inputs())))
