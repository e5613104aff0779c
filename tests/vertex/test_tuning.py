"""Tuning jobs: every trial really runs, with values of its own, and is judged by the file it writes."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.dataflow.flex_templates import Image
from tests.vertex import clients
from tests.vertex.clients import IMAGE, ask, container, create, ended, job_spec, states
from tests.vertex.jobs import CANCELLED, FAILED, RUNNING, SUCCEEDED
from tests.vertex.stub import VertexStub
from tests.vertex.tuning import draw, flag

# A trainer that is quickly done: its loss is the distance of rate from 0.01, reported by the project's own code.
TRAINER = """
import argparse, os, sys
from trainer.tune_report import report
parser = argparse.ArgumentParser()
parser.add_argument("--model"), parser.add_argument("--rate", type=float), parser.add_argument("--units", type=int)
parser.add_argument("--batch", type=int), parser.add_argument("--kind", choices=["a", "b"])
given = parser.parse_args()
print(given, os.environ["AIP_MODEL_DIR"], os.environ["CLOUD_ML_TRIAL_ID"])
if os.environ["CLOUD_ML_TRIAL_ID"] in os.environ.get("BROKEN", "").split():
    sys.exit("out of memory")
loss = None if os.environ["CLOUD_ML_TRIAL_ID"] in os.environ.get("SILENT", "").split() else abs(given.rate - 0.01)
report({"validation_loss": loss, "best_epoch": 7}, print)
"""
STUDY = {
    "metrics": [{"metricId": "validation_loss", "goal": "MINIMIZE"}],
    "parameters": [
        {"parameterId": "rate", "doubleValueSpec": {"minValue": 0.001, "maxValue": 0.1}, "scaleType": "UNIT_LOG_SCALE"},
        {"parameterId": "units", "integerValueSpec": {"minValue": "16", "maxValue": "128"}},
        {"parameterId": "batch", "discreteValueSpec": {"values": [64, 256]}},
        {"parameterId": "kind", "categoricalValueSpec": {"values": ["a", "b"]}},
    ],
}  # fmt: skip


@pytest.fixture
def service() -> Iterator[VertexStub]:
    variables = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[2])}
    with VertexStub(images={IMAGE: Image(sys.executable, variables)}, polls=0) as stub:
        yield stub


def tuning(*, trials: int = 3, at_once: int = 2, code: str = TRAINER, **changes: Any) -> dict[str, Any]:
    env = [{"name": name.upper(), "value": changes.pop(name)} for name in ("broken", "silent") if name in changes]
    spec = job_spec(**container("python", "-c", code, args=["--model", "ziln"], env=env))
    spec["baseOutputDirectory"] = {"outputUriPrefix": "gs://bucket/tune/"}
    return {
        "displayName": "tune", "studySpec": STUDY, "maxTrialCount": trials, "parallelTrialCount": at_once,
        "trialJobSpec": spec, **changes,
    }  # fmt: skip


def run(service: VertexStub, **changes: Any) -> dict[str, Any]:
    return ended(service, create(service, tuning(**changes), "hyperparameterTuningJobs"))


@pytest.mark.emulators
def test_trials_run_with_their_values_and_report_their_metric(service: VertexStub) -> None:
    job = run(service)
    assert job["state"] == SUCCEEDED and sorted(trial["id"] for trial in job["trials"]) == ["1", "2", "3"]
    for trial in job["trials"]:
        assert trial["state"] == "SUCCEEDED" and trial["startTime"] <= trial["endTime"]
        values = {each["parameterId"]: each["value"] for each in trial["parameters"]}
        (metric,) = trial["finalMeasurement"]["metrics"]
        assert metric == {"metricId": "validation_loss", "value": pytest.approx(abs(values["rate"] - 0.01))}
        assert trial["finalMeasurement"]["stepCount"] == "7"
        child = next(each for each in service.jobs if each.name == trial["customJob"])
        assert (
            child.container["args"][:2] == ["--model", "ziln"]
            and f"--units={values['units']}" in child.container["args"]
        )
        assert f"gs://bucket/tune/{trial['id']}/model/ {trial['id']}" in child.output
        assert ask(service, "GET", trial["customJob"])["state"] == SUCCEEDED
    assert len({json.dumps(trial["parameters"]) for trial in job["trials"]}) == 3


@pytest.mark.emulators
def test_a_trial_that_fails_or_says_nothing_is_infeasible(service: VertexStub) -> None:
    job = run(service, broken="1", silent="3")
    assert job["state"] == SUCCEEDED
    reasons = {trial["id"]: (trial["state"], trial.get("infeasibleReason", "")) for trial in job["trials"]}
    assert reasons["1"][0] == reasons["3"][0] == "INFEASIBLE" and reasons["2"] == ("SUCCEEDED", "")
    assert "out of memory" in reasons["1"][1] and "validation_loss" in reasons["3"][1]


@pytest.mark.emulators
@pytest.mark.parametrize(("changes", "ran"), [({"broken": "1 2 3"}, 3), ({"broken": "1", "maxFailedTrialCount": 1}, 1)])
def test_too_many_failed_trials_fail_the_job(service: VertexStub, changes: dict[str, Any], ran: int) -> None:
    job = run(service, at_once=1, **changes)
    assert job["state"] == FAILED and "Too many trials failed" in job["error"]["message"]
    assert len(job["trials"]) == ran


@pytest.mark.emulators
def test_a_cancelled_job_ends_its_trials(service: VertexStub) -> None:
    name = create(service, tuning(code="import time; time.sleep(600)"), "hyperparameterTuningJobs")
    until = time.monotonic() + 30
    while len(ask(service, "GET", name).get("trials", [])) < 2:
        assert time.monotonic() < until
    assert ask(service, "GET", name)["state"] == RUNNING
    ask(service, "POST", f"{name}:cancel", {})
    assert states(service, name)[-1] == CANCELLED
    assert len(service.jobs) == 2 and all(job.state == CANCELLED for job in service.jobs), "the third never began"


@pytest.mark.emulators
def test_a_trials_own_job_can_be_cancelled_and_the_others_go_on(service: VertexStub) -> None:
    code = "import os, time; time.sleep(600 if os.environ['CLOUD_ML_TRIAL_ID'] == '1' else 0)\n" + TRAINER
    name = create(service, tuning(code=code, trials=2), "hyperparameterTuningJobs")
    until = time.monotonic() + 30
    while len(ask(service, "GET", name).get("trials", [])) < 2:
        assert time.monotonic() < until
    first = next(trial for trial in ask(service, "GET", name)["trials"] if trial["id"] == "1")
    ask(service, "POST", f"{first['customJob']}:cancel", {})
    assert states(service, first["customJob"])[-1] == CANCELLED
    job = ended(service, name)
    assert job["state"] == SUCCEEDED
    assert {trial["id"]: trial["state"] for trial in job["trials"]} == {"1": "INFEASIBLE", "2": "SUCCEEDED"}


@pytest.mark.emulators
def test_googles_client_reads_the_trials(service: VertexStub) -> None:
    from google.cloud.aiplatform_v1 import types

    client = clients.job_client(service)
    wanted = types.HyperparameterTuningJob.from_json(json.dumps(tuning(trials=1, at_once=1)))
    name = client.create_hyperparameter_tuning_job(parent=clients.PLACE, hyperparameter_tuning_job=wanted).name
    states(service, name)
    job = client.get_hyperparameter_tuning_job(name=name)
    (trial,) = job.trials
    assert job.state == types.JobState.JOB_STATE_SUCCEEDED and trial.state == types.Trial.State.SUCCEEDED
    assert {each.parameter_id for each in trial.parameters} == {"rate", "units", "batch", "kind"}
    assert trial.final_measurement.metrics[0].value >= 0
    assert [each.name for each in client.list_hyperparameter_tuning_jobs(parent=clients.PLACE)] == [name]


def drawn(seed: int) -> list[dict[str, Any]]:
    generator = random.Random(seed)
    return [draw(STUDY, generator) for _ in range(200)]


def test_values_are_of_their_range_and_come_again_with_the_seed() -> None:
    first = drawn(1)
    assert first == drawn(1) != drawn(2)
    assert all(0.001 <= each["rate"] <= 0.1 for each in first) and {each["batch"] for each in first} == {64, 256}
    assert {each["kind"] for each in first} == {"a", "b"} and all(16 <= each["units"] <= 128 for each in first)
    assert all(isinstance(each["units"], int) for each in first)
    below = sum(each["rate"] < 0.01 for each in first)
    assert 70 <= below <= 130, "half of a log scale lies below the middle of its exponents"


def test_whole_numbers_are_written_without_a_point() -> None:
    assert [flag("a", value) for value in (64.0, 3, 0.5, "x")] == ["--a=64", "--a=3", "--a=0.5", "--a=x"]
