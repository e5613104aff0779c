"""The judge judged: jobs live as on Vertex AI, and what it would refuse the stub refuses."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.vertex import clients
from tests.vertex.clients import PLACE, Answered, ask, create, custom_job, job_spec, states
from tests.vertex.jobs import CANCELLED, CANCELLING, FAILED, PENDING, QUEUED, RUNNING, SUCCEEDED
from tests.vertex.resources import project_number
from tests.vertex.stub import CustomJobRecord, Ending, Fault, VertexStub

pytestmark = pytest.mark.emulators


@pytest.fixture
def let_go() -> threading.Event:
    """What the jobs of ``service`` wait for."""
    return threading.Event()


@pytest.fixture
def service(let_go: threading.Event) -> Iterator[VertexStub]:
    def run(job: CustomJobRecord) -> Ending:
        while not let_go.wait(0.01):
            if job.cancelled.is_set():
                return Ending(CANCELLED)
        return Ending()

    # So many seconds that only asking moves a job on.
    with VertexStub(run, polls=2, seconds=3600) as stub:
        yield stub
        let_go.set()


def in_order(seen: list[str]) -> list[str]:
    return list(dict.fromkeys(seen))


def test_a_job_goes_through_its_states_and_shows_each(service: VertexStub, let_go: threading.Event) -> None:
    job = ask(service, "POST", f"{PLACE}/customJobs", custom_job())
    assert job["state"] == QUEUED and "startTime" not in job
    let_go.set()
    seen = states(service, job["name"])
    assert in_order(seen) == [QUEUED, PENDING, RUNNING, SUCCEEDED]
    assert [seen.count(state) for state in (QUEUED, PENDING)] == [2, 2] and seen.count(RUNNING) >= 2
    ended = ask(service, "GET", job["name"])
    assert ended["createTime"] < ended["startTime"] < ended["endTime"] == ended["updateTime"]
    assert "error" not in ended and service.jobs[0].ended.is_set()


def test_a_job_runs_as_long_as_its_work(service: VertexStub, let_go: threading.Event) -> None:
    name = create(service, custom_job())
    assert in_order([ask(service, "GET", name)["state"] for _ in range(20)]) == [QUEUED, PENDING, RUNNING]
    let_go.set()
    assert states(service, name)[-1] == SUCCEEDED


def test_time_alone_moves_a_job() -> None:
    with VertexStub(lambda _: Ending(), polls=1000, seconds=0.05) as service:
        create(service, custom_job())
        until = time.monotonic() + 30
        seen: list[str] = []
        while not seen or seen[-1] != SUCCEEDED:
            assert time.monotonic() < until
            seen.append(ask(service, "GET", f"{PLACE}/customJobs")["customJobs"][0]["state"])
        assert in_order(seen) == [QUEUED, PENDING, RUNNING, SUCCEEDED]


def test_names_say_the_projects_number_and_requests_may_say_either(service: VertexStub) -> None:
    name = create(service, custom_job())
    number = project_number(clients.PROJECT)
    assert number.isdigit() and name.startswith(f"projects/{number}/locations/{clients.REGION}/customJobs/")
    job_id = name.split("/")[-1]
    assert ask(service, "GET", f"{PLACE}/customJobs/{job_id}")["name"] == name
    for elsewhere in (f"projects/other/locations/{clients.REGION}", f"projects/{clients.PROJECT}/locations/asia-east1"):
        with pytest.raises(Answered, match="404 NOT_FOUND: The customJob does not exist"):
            ask(service, "GET", f"{elsewhere}/customJobs/{job_id}")
        assert ask(service, "GET", f"{elsewhere}/customJobs") == {}


@pytest.mark.parametrize("polls", [0, 3, 7])
def test_a_job_is_cancelled_in_every_state(service: VertexStub, polls: int) -> None:
    name = create(service, custom_job())
    for _ in range(polls):
        ask(service, "GET", name)
    assert ask(service, "POST", f"{name}:cancel", {}) == {}
    assert ask(service, "POST", f"{name}:cancel", {}) == {}, "a second time is no mistake"
    assert in_order(states(service, name)) == [CANCELLING, CANCELLED]
    assert ask(service, "GET", name)["error"] == {"code": 1, "message": "CANCELED"}
    with pytest.raises(Answered, match=r"400 FAILED_PRECONDITION.*JOB_STATE_CANCELLED"):
        ask(service, "POST", f"{name}:cancel", {})


def test_what_the_work_says_is_what_the_job_says() -> None:
    def run(job: CustomJobRecord) -> Ending:
        if job.display_name == "bug":
            raise ZeroDivisionError("by 0")
        return Ending(FAILED, "out of memory", 8)

    with VertexStub(run, polls=0) as service:
        assert clients.ended(service, create(service, custom_job()))["error"] == {"code": 8, "message": "out of memory"}
        error = clients.ended(service, create(service, custom_job("bug")))["error"]
        assert error["code"] == 13 and "ZeroDivisionError: by 0" in error["message"]


def test_a_failure_on_request_happens_once_and_to_the_named() -> None:
    ran: list[str] = []

    def run(job: CustomJobRecord) -> Ending:
        ran.append(job.display_name)
        return Ending()

    with VertexStub(run, polls=0) as service:
        service.fail_next("clv-", "no machines")
        assert states(service, create(service, custom_job("other")))[-1] == SUCCEEDED
        assert clients.ended(service, create(service, custom_job("clv-1")))["error"]["message"] == "no machines"
        assert states(service, create(service, custom_job("clv-1")))[-1] == SUCCEEDED
    assert ran == ["other", "clv-1"]


def test_a_lost_reply_is_a_job_that_a_list_finds(service: VertexStub) -> None:
    service.faults.append(Fault("customJobs.create", drop=True))
    with pytest.raises(http.client.RemoteDisconnected):
        create(service, custom_job(labels={"clv-key": "k1"}))
    (job,) = ask(service, "GET", f"{PLACE}/customJobs", filter="labels.clv-key=k1")["customJobs"]
    assert service.jobs[0].name == job["name"]
    create(service, custom_job(labels={"clv-key": "k1"}))
    assert len(service.jobs) == 2, "the service itself adopts nothing"
    assert [request.status for request in service.requests] == [0, 200, 200]


def test_refusals_and_delays_come_as_scripted(service: VertexStub) -> None:
    service.faults += [
        Fault("customJobs.create", nth=2, times=2, refuse=503), Fault("customJobs.list", refuse=429, message="quota"),
        Fault("aiplatform.projects.locations.customJobs.get", delay=0.3),
    ]  # fmt: skip
    name = create(service, custom_job())
    for _ in range(2):
        with pytest.raises(Answered, match="503 UNAVAILABLE: scripted"):
            create(service, custom_job())
    create(service, custom_job())
    assert len(service.jobs) == 2, "what is refused is not done"
    with pytest.raises(Answered, match="429 RESOURCE_EXHAUSTED: quota"):
        ask(service, "GET", f"{PLACE}/customJobs")
    started = time.monotonic()
    ask(service, "GET", name)
    assert time.monotonic() - started >= 0.3
    assert service.calls == [*["customJobs.create"] * 4, "customJobs.list", "customJobs.get"]
    assert service.refusals == ["503 scripted"] * 2 + ["429 quota"]


def test_fields_that_only_the_service_sets_are_ignored(service: VertexStub) -> None:
    job = ask(service, "POST", f"{PLACE}/customJobs", custom_job(state="JOB_STATE_SUCCEEDED", name="mine", endTime="2020-01-01T00:00:00Z"))  # fmt: skip
    assert job["state"] == QUEUED and job["name"] != "mine" and "endTime" not in job


@pytest.mark.parametrize(
    ("verb", "path", "status", "named"),
    [
        ("GET", f"{PLACE}/customJob", 404, "no method"), ("PUT", f"{PLACE}/customJobs", 404, "no method"),
        ("GET", f"{PLACE}/customJobs/1", 404, "The customJob does not exist"),
        ("POST", f"{PLACE}/customJobs/1:cancel", 404, "The customJob does not exist"),
        ("GET", f"{PLACE}/hyperparameterTuningJobs/1", 404, "The hyperparameterTuningJob does not exist"),
        ("GET", f"{PLACE}/operations/1", 404, "The Operation does not exist"),
        ("GET", f"{PLACE}/customJobs?orderBy=create_time", 400, "unknown query parameter orderBy"),
        ("GET", f"{PLACE}/customJobs?pageSize=many", 400, "pageSize"),
        ("DELETE", f"{PLACE}/customJobs/1", 501, "not part of this stub"),
        ("GET", f"{PLACE}/endpoints", 501, "not part of this stub"),
    ],
)  # fmt: skip
def test_unknown_methods_queries_and_names_are_refused(
    service: VertexStub, verb: str, path: str, status: int, named: str
) -> None:
    with pytest.raises(Answered) as answered:
        ask(service, verb, path, {} if verb == "POST" else None)
    assert answered.value.status == status and named in answered.value.message


def test_what_is_no_json_is_refused(service: VertexStub) -> None:
    request = urllib.request.Request(f"{service.url}/v1/{PLACE}/customJobs", b"{", method="POST")
    with pytest.raises(urllib.error.HTTPError) as error, urllib.request.urlopen(request):
        pass
    with error.value as answer:
        told = json.load(answer)["error"]
    assert told["code"] == 400 and told["status"] == "INVALID_ARGUMENT" and "Invalid JSON payload" in told["message"]


def test_a_key_files_token_can_be_had(service: VertexStub) -> None:
    with urllib.request.urlopen(urllib.request.Request(f"{service.url}/token", b"grant_type=x")) as answer:
        assert json.load(answer)["access_token"]
    assert not service.requests


def test_googles_client_creates_lists_gets_and_cancels(service: VertexStub) -> None:
    from google.api_core import exceptions
    from google.cloud.aiplatform_v1 import types

    client = clients.job_client(service)
    wanted = types.CustomJob.from_json(json.dumps(custom_job(labels={"team": "a"})))
    jobs = [client.create_custom_job(parent=PLACE, custom_job=wanted) for _ in range(3)]
    assert jobs[0].state == types.JobState.JOB_STATE_QUEUED
    listed = client.list_custom_jobs(request={"parent": PLACE, "filter": 'labels.team="a"', "page_size": 2})
    assert [job.name for job in listed] == [job.name for job in reversed(jobs)]
    assert service.calls.count("customJobs.list") == 2
    client.cancel_custom_job(name=jobs[0].name)
    until = time.monotonic() + 30
    while (job := client.get_custom_job(name=jobs[0].name)).state != types.JobState.JOB_STATE_CANCELLED:
        assert time.monotonic() < until
    assert job.error.code == 1
    pool = job.job_spec.worker_pool_specs[0]
    assert pool.replica_count == 1 and list(pool.container_spec.command) == ["true"]
    with pytest.raises(exceptions.NotFound, match="does not exist"):
        client.get_custom_job(name=f"{PLACE}/customJobs/1")
    with pytest.raises(exceptions.BadRequest, match="display_name is required"):
        client.create_custom_job(parent=PLACE, custom_job={"job_spec": types.CustomJobSpec()})


def test_googles_client_meets_a_lost_reply_as_an_error(service: VertexStub) -> None:
    import requests

    client = clients.job_client(service)
    service.faults.append(Fault("customJobs.create", drop=True))
    wanted: dict[str, Any] = {"display_name": "train", "job_spec": {"worker_pool_specs": [
        {"machine_spec": {"machine_type": "n2-standard-8"}, "replica_count": 1, "container_spec": {"image_uri": "i"}}]}}  # fmt: skip
    with pytest.raises(requests.exceptions.ConnectionError):
        client.create_custom_job(parent=PLACE, custom_job=wanted)
    assert [job.display_name for job in client.list_custom_jobs(parent=PLACE)] == ["train"]


def test_what_still_runs_is_ended_with_the_service() -> None:
    seen = threading.Event()

    def run(job: CustomJobRecord) -> Ending:
        assert job.cancelled.wait(30)
        seen.set()
        return Ending(CANCELLED)

    with VertexStub(run, polls=0) as service:
        name = create(service, custom_job(jobSpec=job_spec()))
        while ask(service, "GET", name)["state"] != RUNNING:
            pass
    assert seen.is_set()
