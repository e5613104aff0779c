"""gRPC calls of Google's own clients as the REST requests they become, and the answers as theirs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import aiplatform_v1, dataflow_v1beta3
from google.cloud.aiplatform_v1.types import AcceleratorType, JobState
from google.longrunning import operations_pb2
from google.protobuf import field_mask_pb2

from tests.google import transcode
from tests.google.front import TRANSCODE
from tests.google.rest_server import RestServer

PLACE = "projects/p/locations/europe-west1"


@pytest.fixture(scope="module")
def server() -> Iterator[RestServer]:
    with RestServer() as running:
        yield running


@pytest.fixture(scope="module")
def channel(server: RestServer) -> Iterator[grpc.Channel]:
    command = [sys.executable, "-P", str(TRANSCODE), server.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        port = json.loads(process.stdout.readline())[server.url]
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as opened:
            yield opened
        process.stdin.close()
        assert process.wait(30) == 0, "it ends with its input"


@pytest.fixture
def rest(server: RestServer) -> RestServer:
    """The server, as good as new."""
    server.asked.clear()
    server.answer = (200, b"{}")
    return server


@pytest.fixture
def make(channel: grpc.Channel, rest: RestServer) -> Callable[[Any], Any]:
    def client(kind: Any) -> Any:
        return kind(transport=kind.get_transport_class("grpc")(channel=channel))

    return client


def test_a_path_and_a_query(make: Callable, rest: RestServer) -> None:
    """Google would take an enum's number as well; the discovery documents name it."""
    rest.answer = (200, json.dumps({"id": "j", "currentState": "JOB_STATE_DONE", "labels": {"run": "1"}}).encode())
    job = make(dataflow_v1beta3.JobsV1Beta3Client).get_job(
        {"project_id": "p", "location": "l", "job_id": "j", "view": dataflow_v1beta3.JobView.JOB_VIEW_SUMMARY}
    )
    assert (job.current_state, dict(job.labels)) == (dataflow_v1beta3.JobState.JOB_STATE_DONE, {"run": "1"})
    (asked,) = rest.asked
    assert (asked.verb, asked.address, asked.body) == (
        "GET", "/v1b3/projects/p/locations/l/jobs/j?view=JOB_VIEW_SUMMARY", b"",
    )  # fmt: skip
    assert "project_id=p" in asked.headers["x-goog-request-params"]


def test_a_body_has_camel_case_and_names_of_enums(make: Callable, rest: RestServer) -> None:
    machine = {"machine_type": "g2-standard-8", "accelerator_type": AcceleratorType.NVIDIA_L4, "accelerator_count": 1}
    job = {"display_name": "é", "job_spec": {"worker_pool_specs": [{"machine_spec": machine, "replica_count": 1}]}}
    rest.answer = (200, json.dumps({"name": f"{PLACE}/customJobs/1", "state": "JOB_STATE_PENDING"}).encode())
    created = make(aiplatform_v1.JobServiceClient).create_custom_job(parent=PLACE, custom_job=job)
    assert (created.name, created.state) == (f"{PLACE}/customJobs/1", JobState.JOB_STATE_PENDING)
    (asked,) = rest.asked
    assert (asked.verb, asked.address) == ("POST", f"/v1/{PLACE}/customJobs")
    told = {"machineType": "g2-standard-8", "acceleratorType": "NVIDIA_L4", "acceleratorCount": 1}
    assert json.loads(asked.body) == {
        "displayName": "é", "jobSpec": {"workerPoolSpecs": [{"machineSpec": told, "replicaCount": "1"}]},
    }  # fmt: skip


def test_a_query_is_quoted_and_nested(make: Callable, rest: RestServer) -> None:
    request = {
        "parent": PLACE,
        "filter": 'labels.a="b c&d"',
        "read_mask": field_mask_pb2.FieldMask(paths=["name", "job_spec"]),
    }
    assert list(make(aiplatform_v1.JobServiceClient).list_custom_jobs(request)) == []
    assert rest.asked[0].address == (f"/v1/{PLACE}/customJobs?filter=labels.a%3D%22b+c%26d%22&readMask=name%2CjobSpec")


def test_pages_are_asked_for_one_after_the_other(make: Callable, rest: RestServer) -> None:
    rest.answer = (200, json.dumps({"jobs": [{"id": "a"}], "nextPageToken": "t"}).encode())
    pages = make(dataflow_v1beta3.JobsV1Beta3Client).list_jobs({"project_id": "p", "location": "l", "filter": 3}).pages
    assert [job.id for job in next(pages).jobs] == ["a"]
    rest.answer = (200, b"{}")
    assert [list(page.jobs) for page in pages] == [[]]
    first, second = (asked.address.partition("?")[2] for asked in rest.asked)
    assert "pageToken" not in first and sorted(second.split("&")) == ["filter=ACTIVE", "pageToken=t"]


def test_a_verb_behind_a_colon_and_an_operation(make: Callable, rest: RestServer) -> None:
    rest.answer = (200, json.dumps({"name": f"{PLACE}/operations/1"}).encode())
    models = make(aiplatform_v1.ModelServiceClient)
    models.merge_version_aliases(name=f"{PLACE}/models/clv@2", version_aliases=["champion"])
    assert rest.asked[0].address == f"/v1/{PLACE}/models/clv%402:mergeVersionAliases"
    assert json.loads(rest.asked[0].body) == {"versionAliases": ["champion"]}
    models.get_operation(operations_pb2.GetOperationRequest(name=f"{PLACE}/operations/1"))
    assert (rest.asked[1].verb, rest.asked[1].address) == ("GET", f"/v1/{PLACE}/operations/1")


def test_a_call_without_an_answer_s_content(make: Callable, rest: RestServer) -> None:
    make(aiplatform_v1.JobServiceClient).cancel_custom_job(name=f"{PLACE}/customJobs/1")
    assert (rest.asked[0].verb, rest.asked[0].address) == ("POST", f"/v1/{PLACE}/customJobs/1:cancel")


def test_a_field_the_client_does_not_know_is_passed_over(make: Callable, rest: RestServer) -> None:
    rest.answer = (200, json.dumps({"id": "j", "fieldOfTomorrow": {"a": 1}}).encode())
    assert make(dataflow_v1beta3.JobsV1Beta3Client).get_job(GET_JOB).id == "j"


GET_JOB = {"project_id": "p", "location": "l", "job_id": "j"}


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (404, "NOT_FOUND", exceptions.NotFound), (403, "PERMISSION_DENIED", exceptions.PermissionDenied),
        (409, "ALREADY_EXISTS", exceptions.AlreadyExists), (409, "ABORTED", exceptions.Aborted),
        (400, "FAILED_PRECONDITION", exceptions.FailedPrecondition), (429, "RESOURCE_EXHAUSTED", exceptions.ResourceExhausted),
        (503, "UNAVAILABLE", exceptions.ServiceUnavailable), (400, "NO_SUCH_REASON", exceptions.InvalidArgument),
        (401, "", exceptions.Unauthenticated),
    ],
)  # fmt: skip
def test_an_error_keeps_its_reason_and_its_words(
    make: Callable, rest: RestServer, status: int, reason: str, expected: type[Exception]
) -> None:
    rest.answer = (status, json.dumps({"error": {"code": status, "message": "why", "status": reason}}).encode())
    with pytest.raises(expected, match="why"):
        make(dataflow_v1beta3.JobsV1Beta3Client).get_job(GET_JOB)
    assert len(rest.asked) == 1


@pytest.mark.parametrize(
    ("answer", "expected", "told"),
    [
        ((502, b"<html>proxy</html>"), exceptions.Unknown, "HTTP status 502: <html>proxy"),
        ((404, b"[]"), exceptions.NotFound, "HTTP status 404"),
        ((404, b'{"error": "x"}'), exceptions.NotFound, "HTTP status 404"),
        ((200, b"no json"), exceptions.InternalServerError, "the answer is no message of /google.dataflow.v1beta3.Jobs"),
        ((200, b'{"id": 7, "labels": []}'), exceptions.InternalServerError, "the answer is no message"),
        (None, exceptions.ServiceUnavailable, "no answer to /v1b3/projects/p/locations/l/jobs/j"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_google_s_is_an_error(
    make: Callable, rest: RestServer, answer: tuple[int, bytes] | None, expected: type[Exception], told: str
) -> None:
    rest.answer = answer
    with pytest.raises(expected) as raised:
        make(dataflow_v1beta3.JobsV1Beta3Client).get_job(GET_JOB)
    assert told in str(raised.value)


def test_a_request_that_fits_no_address_is_refused_before_it_is_made(make: Callable, rest: RestServer) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        make(aiplatform_v1.JobServiceClient).get_custom_job(name="customJobs/1")
    assert not rest.asked


@pytest.mark.parametrize(
    "path",
    ["/google.dataflow.v1beta3.JobsV1Beta3/Nothing", "/google.cloud.nothing.v1.Service/Get", "/grpc.health.v1.Health/Check", "/x"],
)  # fmt: skip
def test_a_method_that_rest_does_not_have_is_unimplemented(channel: grpc.Channel, path: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(path)(b"", timeout=30)
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED and path in raised.value.details()


@pytest.mark.parametrize(
    ("service", "package"),
    [("google.dataflow.v1beta3", "google.cloud.dataflow_v1beta3"), ("google.cloud.aiplatform.v1", "google.cloud.aiplatform_v1")],
)  # fmt: skip
def test_packages_of_services(service: str, package: str) -> None:
    assert transcode._module(service) == package
