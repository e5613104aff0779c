"""Who waits for whom, as Airflow's scheduler decides it: what begins, and what is skipped, in which state of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.airflow import environment
from tests.airflow.test_parse import BUILD, ask

pytestmark = pytest.mark.airflow

PREPARED = dict.fromkeys(
    ["plan", "orders.create_dataset", "orders.load_orders", "orders.clean_orders", "training_due", "snapshots"],
    "success",
)
ANALYSED = {**PREPARED, "features.analysed": "success", "features.listed": "success"}
TRAINED = {**ANALYSED, "others": 0, "features.others": "skipped", "train": "success"}
NOBODY_YET = dict.fromkeys(
    ["report", "deploy.gate", "deploy.challenger_won", "deploy.champion", "deploy.announce"], "None"
)
SCENARIOS: dict[str, dict[str, Any]] = {
    "a new run": {},
    "the orders' table is being made": {"plan": "success", "orders.create_dataset": "running"},
    "listed first, none": {**PREPARED, "features.analysed": "running", "features.listed": "success", "others": 0},
    "listed first, two": {**PREPARED, "features.analysed": "running", "features.listed": "success", "others": 2},
    "no other snapshots": {**ANALYSED, "others": 0},
    "two other snapshots": {**ANALYSED, "others": 2},
    "the first snapshot failed": {**PREPARED, "features.analysed": "failed", "features.listed": "success", "others": 2},
    "trained": TRAINED,
    "training failed": {**TRAINED, "train": "failed"},
    "the gate has decided": {**TRAINED, "report": "running", "deploy.gate": "success"},
    "the report failed": {**TRAINED, "report": "failed", "deploy.gate": "success", "deploy.challenger_won": "success"},
}


@pytest.fixture(scope="module")
def decided(version: str, home: dict[str, str]) -> dict[str, dict[str, str]]:
    environment.call([environment.airflow(version), "dags", "trigger", "build_train_deploy"], home)
    answers = ask(version, Path(home["AIRFLOW_HOME"]), "decide", list(SCENARIOS.values()))
    return dict(zip(SCENARIOS, answers, strict=True))


def begins(states: dict[str, str]) -> list[str]:
    return sorted(name for name, state in states.items() if state == "scheduled")


def test_the_first_task(decided: dict[str, dict[str, str]]) -> None:
    assert begins(decided["a new run"]) == ["plan"]
    assert set(decided["a new run"]) == set(BUILD)
    assert begins(decided["the orders' table is being made"]) == []


@pytest.mark.parametrize("name", ["listed first, none", "listed first, two"])
def test_no_snapshot_applies_a_transform_that_is_not_there(name: str, decided: dict[str, dict[str, str]]) -> None:
    assert begins(decided[name]) == []
    assert decided[name]["features.others"] == decided[name]["train"] == "None"


def test_without_other_snapshots_the_training_begins(decided: dict[str, dict[str, str]]) -> None:
    states = decided["no other snapshots"]
    assert begins(states) == ["train"]
    assert states["features.others"] == "skipped"
    assert states.items() >= NOBODY_YET.items()


def test_the_other_snapshots_are_made_side_by_side(decided: dict[str, dict[str, str]]) -> None:
    states = decided["two other snapshots"]
    assert begins(states) == ["features.others[0]", "features.others[1]"]
    assert states["train"] == "None"


def test_nothing_is_learned_where_a_snapshot_failed(decided: dict[str, dict[str, str]]) -> None:
    states = decided["the first snapshot failed"]
    assert begins(states) == []
    assert {states[name] for name in ("features.others", "train", *NOBODY_YET)} == {"upstream_failed"}


def test_the_gate_does_not_wait_for_the_report(decided: dict[str, dict[str, str]]) -> None:
    assert begins(decided["trained"]) == ["deploy.gate", "report"]
    assert begins(decided["the gate has decided"]) == ["deploy.challenger_won"]
    assert begins(decided["the report failed"]) == ["deploy.champion"]


def test_nothing_is_judged_where_the_training_failed(decided: dict[str, dict[str, str]]) -> None:
    states = decided["training failed"]
    assert begins(states) == [] and {states[name] for name in NOBODY_YET} == {"upstream_failed"}
