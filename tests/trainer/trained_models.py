"""One analysis, two snapshots and one model for all tests of the predictor and the task: made once a session."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tests.trainer import features_fixture
from trainer import task

ROOT = Path(__file__).resolve().parents[2]
HORIZON_DAYS = 90
ARGUMENTS = ("--model", "blend", "--epochs", "5", "--seed", "3")
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


def retrained(world: World, root: Path) -> str:
    """The world's model again, by another process from copies of the snapshots that are gone afterwards."""
    copies = [
        shutil.copytree(directory, root / Path(directory).name) for directory in (world.training, world.evaluation)
    ]
    model = root / "model"
    command = [sys.executable, "-m", "trainer.task", "--features", str(copies[0]), "--evaluation", str(copies[1])]
    # Nothing of a process decides: its hash seed, what it trained before, the order in which it imported.
    done = subprocess.run(
        [*command, "--output", str(model), *ARGUMENTS],
        cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "12345"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for copy in copies:
        shutil.rmtree(copy)
    return str(shutil.move(model, root / "moved"))


def make(root: Path) -> World:
    train, later = features_fixture.simulate(3000, seed=21), features_fixture.simulate(2100, seed=22, start=3000)
    output = str(root / "transform")
    tables = features_fixture.analyze_and_transform(train, [(train, 4096), (later, 4096)], output)
    training = features_fixture.write_features(root / "training", train, tables[0], output)
    evaluation = features_fixture.write_features(
        root / "evaluation", later, tables[1], output, cutoff=EVALUATION_CUTOFF
    )
    model = str(root / "model")
    # All three members, whatever so few customers say of them.
    assert task.main(["--features", training, "--evaluation", evaluation, "--output", model, *ARGUMENTS]) == 0
    return World(root, output, train, tables[0], later, tables[1], training, evaluation, model)
