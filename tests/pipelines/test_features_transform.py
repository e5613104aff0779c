"""What ``pipelines.features`` transforms with: the train split's statistics, and one transform for an output's life."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from orchestration.run_local import Cycle
from pipelines import features
from tests.pipelines import features_data
from tests.pipelines.features_data import read_rows, refused, stamps
from transforms import schema, storage
from transforms.schema import Scale

CLIP = 10.0


@pytest.fixture(scope="module")
def cycle() -> Cycle:
    return features_data.shop_cycle()


def analysed(cycle: Cycle) -> str:
    """The features directory whose transform is its own."""
    return cycle.build.features(cycle.build.training_cutoffs[0])


def scores(customers: pa.Table, column: schema.Column, rows: np.ndarray) -> np.ndarray:
    """z-scores by the mean and deviation of some of the rows, as the data contract says. [customers], NaN where missing"""
    x = np.array([np.nan if v is None else float(v) for v in customers[column.name].to_pylist()], np.float32)
    x = x.astype(np.float64)
    if column.model_input in (Scale.LOG, Scale.DURATION):
        x = np.sign(x) * np.log1p(np.abs(x))
    seen = x[rows & ~np.isnan(x)]
    if column.model_input is Scale.LOG:
        x = np.clip(x, seen.min(), seen.max())
    deviation = seen.std()
    return np.clip((x - seen.mean()) / deviation, -CLIP, CLIP) if seen.max() > seen.min() else 0 * x


def test_the_transform_is_analysed_on_the_train_split_only(cycle: Cycle) -> None:
    customers, transformed = (read_rows(f"{analysed(cycle)}/{folder}") for folder in ("raw", "transformed"))
    assert transformed["customer_id"].to_pylist() == customers["customer_id"].to_pylist()
    train = np.array(customers["split"].to_pylist()) == "train"
    assert 0 < train.sum() < len(train)
    moved = 0
    for column in schema.model_inputs():
        if column.model_input is Scale.VOCABULARY:
            continue
        found = transformed[column.name].to_numpy()
        expected, of_all = (np.nan_to_num(scores(customers, column, rows)) for rows in (train, np.ones_like(train)))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=column.name)
        moved += bool(np.abs(expected - of_all).max() > 1e-3)
    assert moved > 5, "the other splits would not be noticed"


def test_another_transform_into_the_same_output_is_refused(
    cycle: Cycle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output was made with the transform of the training snapshot: neither another one nor none is the same."""
    (step,) = [step for step in cycle.build.steps() if step.output == cycle.build.features(cycle.build.cutoff)]
    ours = storage.read_manifest(analysed(cycle), "features")
    (tmp_path / storage.MANIFEST).write_text(json.dumps(ours | {"transform_fingerprint": "another"}))
    at = step.arguments.index("--reuse_transform")
    rest = [*step.arguments[:at], *step.arguments[at + 2 :]]
    before = stamps(step.output)
    for arguments, now in ((["--reuse_transform", str(tmp_path)], "'another'"), ([], "None")):
        message = refused(capsys, features.main, [*rest, *arguments])
        assert f"holds another result (transform was {ours['transform_fingerprint']!r}, is {now})" in message
    assert features.main(list(step.arguments)) == 0
    assert stamps(step.output) == before
