"""One analysis, two snapshots and one model for all tests of the predictor and the task: made once a session."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.trainer import features_fixture
from trainer import task

HORIZON_DAYS = 90
EVALUATION_CUTOFF = features_fixture.CUTOFF + datetime.timedelta(days=HORIZON_DAYS)


@dataclass(frozen=True)
class World:
    """``training`` and ``evaluation`` are features directories, ``model`` the directory trained from them."""

    root: Path
    transform_output: str
    training_customers: pa.Table
    training_transformed: pa.Table
    customers: pa.Table
    transformed: pa.Table
    training: str
    evaluation: str
    model: str

    def snapshot(self, name: str, **manifest: Any) -> str:
        """Another features directory with the training rows, told apart by its manifest."""
        return features_fixture.write_features(
            self.root / name, self.training_customers, self.training_transformed, self.transform_output, **manifest
        )


def make(root: Path) -> World:
    train, later = features_fixture.simulate(3000, seed=21), features_fixture.simulate(2100, seed=22, start=3000)
    output = str(root / "transform")
    tables = features_fixture.analyze_and_transform(train, [(train, 4096), (later, 4096)], output)
    training = features_fixture.write_features(root / "training", train, tables[0], output)
    evaluation = features_fixture.write_features(
        root / "evaluation", later, tables[1], output, cutoff=EVALUATION_CUTOFF
    )
    model = str(root / "model")
    arguments = ["--features", training, "--evaluation", evaluation, "--output", model, "--epochs", "5", "--seed", "3"]
    assert task.main(arguments) == 0
    return World(root, output, train, tables[0], later, tables[1], training, evaluation, model)
