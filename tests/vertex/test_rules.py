"""Jobs that Vertex AI would refuse, by what its document says in types and in words."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vertex.clients import PLACE, Answered, ask, container, create, custom_job, job_spec
from tests.vertex.stub import Ending, VertexStub

pytestmark = pytest.mark.emulators


@pytest.fixture(scope="module")
def service() -> Iterator[VertexStub]:
    with VertexStub(lambda _: Ending(), polls=1000, seconds=3600) as stub:
        yield stub


def pool(**changes: Any) -> dict[str, Any]:
    """A job spec whose only pool is changed; None takes a field away."""
    spec = job_spec()
    spec["workerPoolSpecs"][0].update(changes)
    spec["workerPoolSpecs"][0] = {
        name: value for name, value in spec["workerPoolSpecs"][0].items() if value is not None
    }
    return spec


def machine(**changes: Any) -> dict[str, Any]:
    return pool(machineSpec={"machineType": "n1-standard-8", **changes})


PACKAGE = {"executorImageUri": "i", "packageUris": ["gs://bucket/clv.tar.gz"], "pythonModule": "trainer.task"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"displayName": ""}, "custom_job.display_name is required"), ({"displayName": "x" * 129}, "129 characters"),
        ({"labels": {"Team": "x"}}, "invalid label Team=x"), ({"labels": {"1team": "x"}}, "invalid label 1team=x"),
        ({"labels": {"a" * 64: "x"}}, "invalid label"), ({"labels": {"a": "x" * 64}}, "invalid label"),
        ({"labels": {"a": "X"}}, "invalid label a=X"), ({"labels": {"a": "x.y"}}, "invalid label a=x.y"),
        ({"labels": {f"a{n}": "x" for n in range(65)}}, "65 labels"), ({"labels": {"a": 1}}, "at labels.a: 1, accepted is a string"),
        ({"jobspec": {}}, "unknown field jobspec"), ({"jobSpec": {}}, "worker_pool_specs is required"),
        ({"jobSpec": {"workerPoolSpecs": [{}]}}, "worker_pool_specs is required"),
        ({"jobSpec": pool(replicaCount=None)}, "[0].replica_count must be at least 1"), ({"jobSpec": pool(replicaCount="0")}, "replica_count must be at least 1"),
        ({"jobSpec": pool(replicaCount="2")}, "[0].replica_count must be 1"), ({"jobSpec": pool(replicas=1)}, "unknown field jobSpec.workerPoolSpecs[0].replicas"),
        ({"jobSpec": pool(machineSpec=None)}, "machine_type is required"), ({"jobSpec": pool(machineSpec={})}, "machine_type is required"),
        ({"jobSpec": pool(containerSpec=None)}, "needs one of container_spec and python_package_spec"),
        ({"jobSpec": pool(pythonPackageSpec=PACKAGE)}, "needs one of container_spec and python_package_spec"),
        ({"jobSpec": pool(containerSpec=None, pythonPackageSpec={**PACKAGE, "pythonModule": ""})}, "pythonModule is required"),
        ({"jobSpec": pool(containerSpec=None, pythonPackageSpec={**PACKAGE, "packageUris": ["clv.tar.gz"]})}, "'clv.tar.gz' is not a Cloud Storage URI"),
        ({"jobSpec": job_spec(imageUri="")}, "container_spec.image_uri is required"),
        ({"jobSpec": job_spec(**container("true", env=[{"name": "A-B", "value": "x"}]))}, "'A-B' is not a C identifier"),
        ({"jobSpec": job_spec(**container("true", env=[{"name": "A"}]))}, "A has no value"),
        ({"jobSpec": job_spec(**container("true", env=[{"name": f"A{n}", "value": ""} for n in range(101)]))}, "101 variables"),
        ({"jobSpec": machine(acceleratorType="NVIDIA_TESLA_T4")}, "accelerator_type NVIDIA_TESLA_T4 with accelerator_count 0"),
        ({"jobSpec": machine(acceleratorCount=1)}, "with accelerator_count 1"),
        ({"jobSpec": machine(acceleratorType="T4", acceleratorCount=1)}, "acceleratorType: "),
        ({"jobSpec": {**job_spec(), "baseOutputDirectory": {"outputUriPrefix": "/tmp"}}}, "'/tmp' is not a Cloud Storage URI"),
        ({"jobSpec": {**job_spec(), "network": "default"}}, "job_spec.network 'default' does not match"),
        ({"jobSpec": {**job_spec(), "serviceAccount": "trainer"}}, "job_spec.serviceAccount 'trainer' does not match"),
        ({"jobSpec": {**job_spec(), "scheduling": {"timeout": "2h"}}}, "scheduling.timeout: "), ({"jobSpec": {**job_spec(), "scheduling": {"timeout": "0s"}}}, "must be positive"),
    ],
)  # fmt: skip
def test_custom_jobs_that_cannot_be(service: VertexStub, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Answered) as answered:
        create(service, custom_job(**changes))
    assert answered.value.status == 400 and answered.value.reason == "INVALID_ARGUMENT"
    assert named in answered.value.message
    assert not service.jobs


def test_what_is_right_is_taken() -> None:
    full = {
        **machine(acceleratorType="NVIDIA_TESLA_T4", acceleratorCount=1), "network": "projects/123/global/networks/default",
        "serviceAccount": "trainer@shop.iam.gserviceaccount.com", "scheduling": {"timeout": "7200s", "strategy": "SPOT"},
        "baseOutputDirectory": {"outputUriPrefix": "gs://bucket"},
    }  # fmt: skip
    with VertexStub(lambda _: Ending()) as service:
        for spec in (
            full,
            pool(containerSpec=None, pythonPackageSpec=PACKAGE),
            {"workerPoolSpecs": [*job_spec()["workerPoolSpecs"], {}]},
        ):
            create(service, custom_job(jobSpec=spec, labels={"a" * 63: "x" * 63, "clv-key": "", "b_1": "0"}))
        assert len(service.jobs) == 3


TUNING: dict[str, Any] = {
    "displayName": "tune", "maxTrialCount": 4, "parallelTrialCount": 2, "trialJobSpec": job_spec(),
    "studySpec": {
        "metrics": [{"metricId": "loss", "goal": "MINIMIZE"}],
        "parameters": [{"parameterId": "rate", "doubleValueSpec": {"minValue": 0.001, "maxValue": 0.1}, "scaleType": "UNIT_LOG_SCALE"}],
    },
}  # fmt: skip


def study(**changes: Any) -> dict[str, Any]:
    return {"studySpec": {**TUNING["studySpec"], **changes}}


def parameter(**changes: Any) -> dict[str, Any]:
    return study(parameters=[{"parameterId": "rate", **changes}])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"displayName": ""}, "hyperparameter_tuning_job.display_name is required"), ({"maxTrialCount": 0}, "max_trial_count 0"),
        ({"parallelTrialCount": 0}, "parallel_trial_count 0"), ({"parallelTrialCount": 5}, "parallel_trial_count 5 must be between 1 and max_trial_count 4"),
        ({"trialJobSpec": {}}, "trial_job_spec.worker_pool_specs is required"), (study(metrics=[]), "study_spec.metrics is required"),
        (study(metrics=[{"metricId": "loss"}]), "loss has no goal"), (study(metrics=[{"metricId": "a loss", "goal": "MINIMIZE"}]), "id 'a loss'"),
        (study(parameters=[]), "study_spec.parameters is required"), (study(parameters=TUNING["studySpec"]["parameters"] * 2), "id 'rate' is empty, has white space, or is there twice"),
        (parameter(), "rate needs one of doubleValueSpec"), (parameter(doubleValueSpec={"minValue": 1.0}), "min_value and max_value are required"),
        (parameter(doubleValueSpec={"minValue": 1.0, "maxValue": 0.0}), "min_value 1.0 is above max_value 0.0"),
        (parameter(integerValueSpec={"minValue": "0", "maxValue": "9"}, scaleType="UNIT_LOG_SCALE"), "UNIT_LOG_SCALE needs values above 0"),
        (parameter(integerValueSpec={"minValue": "x", "maxValue": "9"}), "minValue: "),
        (parameter(discreteValueSpec={"values": [2.0, 1.0]}), "in increasing order"), (parameter(discreteValueSpec={"values": []}), "1 to 1000"),
        (parameter(categoricalValueSpec={"values": []}), "categories are required"), (parameter(categoricalValueSpec={"values": ["a", "a"]}), "each once"),
        (parameter(categoricalValueSpec={"values": ["a"]}, scaleType="UNIT_LINEAR_SCALE"), "no scale_type"),
        (parameter(categoricalValueSpec={"values": ["a"], "defaultValue": "a"}), "default_value is not supported"),
    ],
)  # fmt: skip
def test_tuning_jobs_that_cannot_be(service: VertexStub, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Answered) as answered:
        create(service, {**copy.deepcopy(TUNING), **changes}, "hyperparameterTuningJobs")
    assert answered.value.status == 400 and named in answered.value.message
    assert not service.tuning_jobs.records


def test_a_right_tuning_job_is_taken(service: VertexStub) -> None:
    name = create(service, TUNING, "hyperparameterTuningJobs")
    assert ask(service, "GET", name)["state"] == "JOB_STATE_QUEUED"
    listed = ask(service, "GET", f"{PLACE}/hyperparameterTuningJobs", filter="display_name=tune")
    assert [job["name"] for job in listed["hyperparameterTuningJobs"]] == [name]
    service.tuning_jobs.records.clear()
