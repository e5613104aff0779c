"""What a run may be started with: every parameter is explained, and a value of no use is refused before the run begins."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.airflow import environment
from tests.airflow.environment import EXAMPLE, NEWEST
from tests.airflow.test_parse import ask

pytestmark = pytest.mark.airflow

BUILD, SERVE = "build_train_deploy", "predict_serve"
DATES = ["yesterday", "2026-13-01", "2026-02-30", "2026-1-2", "20260102", "", 20260102, True]
COUNTS = [0, -1, 1.5, "7", "all", True, [7]]
DATASETS = [
    "shop",
    "my-project.",
    ".shop",
    "my-project.shop.orders",
    "my project.shop",
    "my-project.shop;",
    "",
    None,
    1,
]
BAD: dict[tuple[str, str], list[Any]] = {
    (BUILD, "date"): DATES,
    (BUILD, "train"): ["sometimes", "", None, True],
    (BUILD, "model"): ["transformer", "", "AUTO", None],
    (BUILD, "cutoff"): DATES,
    (BUILD, "horizon_days"): [*COUNTS, None, 36501],
    (BUILD, "history_days"): [*COUNTS, 36501],
    (BUILD, "training_snapshots"): [*COUNTS, None, 101],
    (BUILD, "dataset"): DATASETS,
    (BUILD, "seed"): [-1, 1.5, "0", None, 2**31],
    (SERVE, "as_of"): DATES,
    (SERVE, "model_version"): ["", "../v1", "v 1", "a/b", "-v", 1],
    (SERVE, "horizon_days"): [*COUNTS, None],
    (SERVE, "history_days"): COUNTS,
    (SERVE, "dataset"): DATASETS,
    (SERVE, "publish"): ["yes", "", None, True],
    (SERVE, "override"): [
        "customers",
        "customers=",
        "customers= ",
        "=reason",
        "rows=a sale",
        "customers=a;;zeros=b",
        "zeros=b;",
        None,
    ],
}
GOOD: dict[tuple[str, str], list[Any]] = {
    (BUILD, "date"): ["2026-11-22", "2024-02-29", None],
    (BUILD, "train"): ["when due", "always"],
    (BUILD, "model"): ["auto", "blend", "ziln", "boosting", "pareto", "mbgnbd", "bgnbd"],
    (BUILD, "cutoff"): ["2026-08-24", None],
    (BUILD, "horizon_days"): [1, 90, 365],
    (BUILD, "history_days"): [None, 730],
    (BUILD, "training_snapshots"): [1, 13, 100],
    (BUILD, "dataset"): ["my-project.shop", "my-project-2.Shop_EU"],
    (BUILD, "seed"): [0, 7, 2**31 - 1],
    (SERVE, "as_of"): ["2026-11-22", None],
    (SERVE, "model_version"): [None, "2026-11-22-1a2b3c4d"],
    (SERVE, "horizon_days"): [30],
    (SERVE, "history_days"): [None, 365],
    (SERVE, "dataset"): ["my-project.shop"],
    (SERVE, "publish"): ["when newest", "always", "never"],
    (SERVE, "override"): ["", "customers=a new country was opened", "customers=new; total_value=a sale, 20 % = much"],
}


def flat(values: dict[tuple[str, str], list[Any]]) -> list[tuple[str, str, Any]]:
    return [(*key, value) for key, each in values.items() for value in each]


@pytest.fixture(scope="module")
def parameters(version: str, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    read = ask(version, tmp_path_factory.mktemp(version), "parse", {"files": str(EXAMPLE)})["read"]["files"]
    return {(dag, name): each for dag, found in read["dags"].items() for name, each in found["params"].items()}


def test_every_parameter_is_explained(parameters: dict[tuple[str, str], dict[str, Any]]) -> None:
    for name, each in parameters.items():
        assert len(each["description"] or "") > 5 and "type" in each, name


def test_every_parameter_has_values_that_are_tried_below(parameters: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert set(parameters) == set(BAD) == set(GOOD)


def test_bad_values_are_refused_and_good_ones_taken(version: str, tmp_path: Path) -> None:
    bad, good = flat(BAD), flat(GOOD)
    answers = ask(version, tmp_path, "validate", [*bad, *good])
    for (dag, name, value), said in zip(bad, answers, strict=False):
        assert said is not None, f"{dag} takes {name} {value!r}"
        first = said.splitlines()[0]
        assert first.startswith(f"Invalid input for param {name}: ") and repr(value) in first
    assert [each for each in zip(good, answers[len(bad) :], strict=True) if each[1]] == []


def trigger(version: str, home: dict[str, str], dag: str, conf: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [environment.airflow(version), "dags", "trigger", dag, "--conf", json.dumps(conf), "--output", "json"],
        env=home, cwd=environment.ROOT, text=True, capture_output=True, check=False,
    )  # fmt: skip


def test_a_run_is_not_triggered_with_a_bad_value(version: str, home: dict[str, str]) -> None:
    refused = trigger(version, home, SERVE, {"publish": "perhaps"})
    assert refused.returncode
    assert (
        "Invalid input for param publish: 'perhaps' is not one of ['when newest', 'always', 'never']" in refused.stderr
    )
    taken = trigger(version, home, SERVE, {"publish": "never", "as_of": "2026-11-01"})
    assert taken.returncode == 0, taken.stderr
    listed = environment.call(
        [environment.airflow(version), "dags", "list-runs", *([SERVE] if version == NEWEST else ["-d", SERVE]), "-o", "json"],
        home,
    )  # fmt: skip
    runs = json.loads(listed[listed.index("[{") :])
    assert len(runs) == 1
