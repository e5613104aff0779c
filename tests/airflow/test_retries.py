"""Whatever goes wrong once, the day ends as an undisturbed one does, and nothing is made twice."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.airflow import faults
from tests.airflow.fixtures import Install
from tests.airflow.installation import BUILD, SERVE
from tests.airflow.story import Story, told
from tests.vertex.stub import Fault

pytestmark = pytest.mark.airflow

CREATE, GET = "customJobs.create", "customJobs.get"


def test_every_task_may_fail_before_and_after_its_work(story: Story, install: Install) -> None:
    installation = install("retried", retries=2)
    faults.write_policy(installation.home.folder)
    again = told(installation)
    for run in (again.build, again.serve):
        assert {*run.tries.values()} == {3}, str(run)
    assert again.left == story.left
    assert {*Counter(job.display_name for job in installation.vertex_jobs()).values()} == {1}
    told_of = [event["event"] for dag in (BUILD, SERVE) for event in installation.events(dag)]
    assert "failed" not in told_of and {"new champion", "published"} == {*told_of}


def test_what_google_loses_or_fails_once_is_taken_up_again(story: Story, install: Install) -> None:
    installation, cloud = install("faulty", retries=2), story.installation.cloud
    cloud.lossy.drop("flexTemplates:launch")
    calls = cloud.vertex.calls
    cloud.vertex.faults += [
        Fault(CREATE, nth=calls.count(CREATE) + 1, drop=True),
        Fault(GET, nth=calls.count(GET) + 1, refuse=503),
    ]
    cloud.vertex.fail_next("clv-gate")
    with faults.FailOnce(cloud.dataflow, "clv-predict") as predict:
        again = told(installation)
    assert cloud.lossy.pending == [] and len(predict.failed) == 1
    assert (
        cloud.vertex.refusals.count("503 scripted")
        == [request.status for request in cloud.vertex.requests].count(0)
        == 1
    )
    assert again.left == story.left
    tries = {**again.build.tries, **again.serve.tries}
    repeated = {task: number for task, number in tries.items() if number > 1}
    # What failed runs twice; whose answers were lost goes on in the same try.
    assert repeated == {"deploy.gate": 2, "predict": 2}
    dataflow = Counter(job.body["name"].split("-")[1] for job in installation.dataflow_jobs())
    assert dataflow == {"features": 3, "predict": 2, "publish": 1}
    vertex = Counter(job.display_name.split("-")[1] for job in installation.vertex_jobs())
    assert vertex == {"train": 1, "gate": 2, "report": 2}
