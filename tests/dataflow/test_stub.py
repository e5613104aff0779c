"""The judge judged: what Dataflow would refuse the stub refuses, naming the field."""

from __future__ import annotations

import http.client
import json
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.dataflow.discovery import Discovery, Refused, document_path
from tests.dataflow.stub import JOBS, DataflowStub, Ending, Job

pytestmark = pytest.mark.emulators

PATH = "/v1b3/projects/p/locations/l/jobs"


def body(**changes: Any) -> dict[str, Any]:
    environment = {"workerPools": [{"numWorkers": 2, "autoscalingSettings": {"maxNumWorkers": 3}}]}
    return {"name": "job-1", "type": "JOB_TYPE_BATCH", "environment": environment, **changes}


@pytest.fixture
def discovery() -> Discovery:
    return Discovery.load("dataflow.v1b3")


@pytest.fixture
def let_go() -> threading.Event:
    """What the jobs of ``service`` wait for."""
    return threading.Event()


@pytest.fixture
def service(let_go: threading.Event) -> Iterator[DataflowStub]:
    def run(_: Job) -> Ending:
        assert let_go.wait(30)
        return Ending()

    with DataflowStub(run) as stub:
        yield stub
        let_go.set()


def ask(service: DataflowStub, verb: str, path: str, content: Any = None) -> dict[str, Any]:
    return service.answer(verb, path, json.dumps(content).encode() if content is not None else b"")


def test_the_document_is_the_installed_one() -> None:
    document = json.loads(document_path("dataflow.v1b3").read_text())
    assert (document["name"], document["version"]) == ("dataflow", "v1b3")


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("PATCH", PATH, 404), ("POST", "/v1b3/projects/p/locations/l/job", 404), ("GET", "/v2/projects/p/jobs", 404),
        ("GET", PATH + "?pageSize=many", 400), ("GET", PATH + "?size=3", 400), ("GET", PATH + "?filter=SOME", 400),
        ("GET", PATH + "?$alt=xml", 400),
    ],
)  # fmt: skip
def test_unknown_methods_and_queries_are_refused(discovery: Discovery, verb: str, path: str, status: int) -> None:
    path, _, query = path.partition("?")
    parameters = {name: [value] for name, _, value in [part.partition("=") for part in query.split("&") if part]}
    with pytest.raises(Refused) as refused:
        discovery.call(verb, path, parameters)
    assert refused.value.status == status


def test_known_methods_are_found_with_their_values(discovery: Discovery) -> None:
    call = discovery.call("GET", f"{PATH}/j/messages", {"pageSize": ["3"], "$alt": ["json;enum-encoding=int"]})
    assert call.method == f"{JOBS}.messages.list"
    assert call.path == {"projectId": "p", "location": "l", "jobId": "j"} and call.query == {"pageSize": "3"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nam": "x"}, "unknown field nam"),
        ({"environment": {"workerPools": [{"machine_types": "x"}]}}, "unknown field environment.workerPools[0].machine_types"),
        ({"environment": {"workerPools": {}}}, "invalid value at environment.workerPools"),
        ({"environment": {"workerPools": [{"numWorkers": "2"}]}}, "at environment.workerPools[0].numWorkers: "),
        ({"environment": {"workerPools": [{"numWorkers": 2**31}]}}, "at environment.workerPools[0].numWorkers: "),
        ({"environment": {"experiments": [1]}}, "at environment.experiments[0]: 1, accepted is a string"),
        ({"type": "JOB_TYPE_SOMETIMES"}, "at type: "),
        ({"type": 99}, "at type: 99, accepted is one of "),
        ({"labels": {"team": 1}}, "at labels.team: 1, accepted is a string"),
        ({"createTime": "yesterday"}, "at createTime: "),
        ({"satisfiesPzs": "yes"}, "at satisfiesPzs: "),
        ({"name": "Job"}, "invalid job name 'Job'"),
        ({"name": "job-"}, "invalid job name"),
        ({"labels": {"Team": "x"}}, "invalid label Team=x"),
    ],
)  # fmt: skip
def test_wrong_bodies_are_refused_with_the_fields_path(service: DataflowStub, changes: dict, named: str) -> None:
    with pytest.raises(Refused) as refused:
        ask(service, "POST", PATH, body(**changes))
    assert refused.value.status == 400 and named in str(refused.value)
    assert not service.jobs


def test_enums_may_be_numbers_and_are_kept_by_name(service: DataflowStub) -> None:
    ask(service, "POST", PATH, body(type=1))
    assert service.jobs[0].body["type"] == "JOB_TYPE_BATCH"


def test_a_job_lives_and_ends(service: DataflowStub, let_go: threading.Event) -> None:
    job_id = ask(service, "POST", PATH, body())["id"]
    assert ask(service, "POST", PATH, body())["id"] == job_id, "a job of an active one's name is that one"
    assert ask(service, "GET", f"{PATH}/{job_id}")["currentState"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING")
    with pytest.raises(Refused, match="no job"):
        ask(service, "GET", f"/v1b3/projects/p/locations/elsewhere/jobs/{job_id}")
    let_go.set()
    assert service.jobs[0].ended.wait(30)
    assert ask(service, "GET", f"{PATH}/{job_id}")["currentState"] == "JOB_STATE_DONE"
    assert ask(service, "POST", PATH, body())["id"] != job_id
    with pytest.raises(Refused, match="JOB_STATE_DONE"):
        ask(service, "PUT", f"{PATH}/{job_id}", {"requestedState": "JOB_STATE_CANCELLED"})


def test_a_cancelled_job_stays_so(service: DataflowStub, let_go: threading.Event) -> None:
    job_id = ask(service, "POST", PATH, body())["id"]
    ask(service, "PUT", f"{PATH}/{job_id}", {"requestedState": "JOB_STATE_CANCELLED"})
    let_go.set()
    assert service.jobs[0].ended.wait(30)
    assert ask(service, "GET", f"{PATH}/{job_id}")["currentState"] == "JOB_STATE_CANCELLED"


def test_an_answer_may_be_lost_and_the_work_is_done(service: DataflowStub) -> None:
    service.lost.append(f"{JOBS}.create")
    request = urllib.request.Request(service.url + PATH, json.dumps(body()).encode(), method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(http.client.RemoteDisconnected):
        opener.open(request, timeout=30)
    (job,) = service.jobs
    with opener.open(request, timeout=30) as answer:
        assert json.load(answer)["id"] == job.body["id"]
    assert service.lost == [] and len(service.jobs) == 1


def named(service: DataflowStub, query: str = "") -> list[str]:
    return [job["name"] for job in ask(service, "GET", f"{PATH}{query}").get("jobs", [])]


def test_jobs_are_listed_newest_first_by_name_and_state(service: DataflowStub, let_go: threading.Event) -> None:
    assert ask(service, "GET", PATH) == {}, "what is empty is left out"
    for name in ("job-1", "job-1-b", "job-2"):
        ask(service, "POST", PATH, body(name=name))
    ask(service, "PUT", f"{PATH}/{service.jobs[0].body['id']}", {"requestedState": "JOB_STATE_CANCELLED"})
    ask(service, "POST", PATH, body(name="job-1"))
    assert named(service) == named(service, "?filter=ALL") == ["job-1", "job-2", "job-1-b", "job-1"]
    assert named(service, "?filter=TERMINATED") == ["job-1"]
    assert named(service, "?name=job-1") == ["job-1", "job-1"] and named(service, "?name=job") == []
    (active,) = ask(service, "GET", f"{PATH}?name=job-1&filter=ACTIVE")["jobs"]
    assert active["id"] == service.jobs[3].body["id"]
    let_go.set()
    assert all(job.ended.wait(30) for job in service.jobs)
    assert named(service, "?filter=ACTIVE") == []


def test_a_list_comes_in_pages(service: DataflowStub) -> None:
    for number in range(5):
        ask(service, "POST", PATH, body(name=f"job-{number}"))
    query, names = "?pageSize=2", []
    while query:
        page = ask(service, "GET", PATH + query)
        names.append([job["name"] for job in page["jobs"]])
        query = f"?pageSize=2&pageToken={page['nextPageToken']}" if "nextPageToken" in page else ""
    assert names == [["job-4", "job-3"], ["job-2", "job-1"], ["job-0"]]
    for wrong in ("pageToken=x", "pageSize=-1"):
        with pytest.raises(Refused) as refused:
            ask(service, "GET", f"{PATH}?{wrong}")
        assert refused.value.status == 400


def test_summaries_have_neither_labels_nor_environment(service: DataflowStub) -> None:
    job_id = ask(service, "POST", PATH, body(labels={"run": "1"}))["id"]
    whole = ask(service, "GET", f"{PATH}/{job_id}")
    assert whole["labels"] == {"run": "1"} and "environment" in whole
    for summary in (
        ask(service, "GET", f"{PATH}/{job_id}?view=JOB_VIEW_SUMMARY"),
        ask(service, "GET", PATH)["jobs"][0],
    ):
        assert {"labels", "environment"}.isdisjoint(summary)
        assert all(
            summary[name] == whole[name] for name in ("id", "name", "type", "location", "projectId", "createTime")
        )
        assert summary["currentState"] in ("JOB_STATE_PENDING", "JOB_STATE_RUNNING")


def test_messages_are_of_the_importance_and_the_time_asked_for(service: DataflowStub, let_go: threading.Event) -> None:
    job_id = ask(service, "POST", PATH, body())["id"]
    (job,) = service.jobs
    let_go.set()
    assert job.ended.wait(30)
    job.messages[:] = [
        {
            "id": name,
            "time": f"2011-08-08T00:00:0{second}Z",
            "messageImportance": f"JOB_MESSAGE_{name}",
            "messageText": "",
        }
        for second, name in enumerate(["DEBUG", "DETAILED", "BASIC", "WARNING", "ERROR"])
    ]

    def said(query: str) -> list[str]:
        return [m["id"] for m in ask(service, "GET", f"{PATH}/{job_id}/messages{query}").get("jobMessages", [])]

    assert said("") == ["DEBUG", "DETAILED", "BASIC", "WARNING", "ERROR"]
    assert said("?minimumImportance=JOB_MESSAGE_BASIC") == ["BASIC", "WARNING", "ERROR"]
    assert said("?minimumImportance=JOB_MESSAGE_ERROR") == ["ERROR"]
    assert said("?startTime=2011-08-08T00:00:01.000Z&endTime=2011-08-08T00:00:03.5Z") == [
        "DETAILED",
        "BASIC",
        "WARNING",
    ]
    assert said("?startTime=2011-08-08T02:00:03%2B02:00") == ["WARNING", "ERROR"]
    assert said("?startTime=2011-08-09T00:00:00Z") == []
