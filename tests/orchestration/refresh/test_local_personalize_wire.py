"""The local Amazon Personalize as boto3 meets it: lost replies, throttling, scripted ends, and what is no request at all."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.request import Request

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError

from orchestration.refresh.local_personalize import server as command
from orchestration.refresh.local_personalize.core import Fault, LocalPersonalize, Quotas, ServiceError
from orchestration.refresh.local_personalize.server import Server
from tests.orchestration.refresh.test_local_personalize_world import SESSION, Clock, World, a_world, boto3_client
from transforms.errors import UsageError

NEVER_AGAIN = {"retries": {"mode": "standard", "total_max_attempts": 1}}


@pytest.fixture
def world() -> Iterator[World]:
    with a_world() as made:
        yield made


@pytest.fixture
def retrying(world: World) -> World:
    """The same with boto3's default retries."""
    with_retries = boto3_client(world.client.meta.endpoint_url)
    return World(world.service, with_retries, world.clock, world.shop)


def test_a_lost_reply_of_an_unnamed_version_makes_two_trainings(retrying: World) -> None:
    retrying.service.faults.append(Fault("CreateSolutionVersion", "lost_reply"))
    retrying.start_training()
    assert len(retrying.service.versions) == 1 + 2


def test_a_lost_reply_of_a_named_version_makes_one(retrying: World) -> None:
    retrying.service.faults.append(Fault("CreateSolutionVersion", "lost_reply"))
    with retrying.refused("ResourceAlreadyExistsException", "second"):
        retrying.start_training("second")
    assert [version.name for version in retrying.service.versions.values()] == ["shop-first", "second"]
    outcomes = [call.outcome for call in retrying.service.calls if call.operation == "CreateSolutionVersion"]
    assert outcomes == ["ok", "lost_reply", "ResourceAlreadyExistsException"]


def test_throttling_and_a_lost_request_are_retried_by_boto3(retrying: World) -> None:
    retrying.service.faults.append(Fault("CreateSolutionVersion", "throttled"))
    retrying.service.faults.append(Fault("CreateSolutionVersion", "lost_request"))
    retrying.start_training("second")
    assert len(retrying.service.versions) == 2
    assert retrying.service.count("CreateSolutionVersion") == 4
    assert [call.outcome for call in retrying.service.calls][-3:] == ["ThrottlingException", "lost_request", "ok"]


def test_without_retries_every_fault_is_seen(world: World) -> None:
    for kind, code in (("throttled", "ThrottlingException"), ("quota", "LimitExceededException")):
        world.service.faults.append(Fault("DescribeCampaign", kind))
        with world.refused(code):
            world.campaign()
    world.service.faults.append(Fault("DescribeCampaign", "unavailable", times=2))
    for status in (503, 500):
        with pytest.raises(ClientError) as caught:
            world.campaign()
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    for kind, done in (("lost_request", 1), ("lost_reply", 2)):
        world.service.faults.append(Fault("CreateSolutionVersion", kind))
        with pytest.raises(ConnectionClosedError):
            world.start_training(kind)
        assert len(world.service.versions) == done
    assert world.campaign()["status"] == "ACTIVE"


def test_a_lost_reply_of_an_error_is_lost_too(world: World) -> None:
    world.service.faults.append(Fault("CreateSolutionVersion", "lost_reply"))
    with pytest.raises(ConnectionClosedError):
        world.start_training("shop-first")
    assert len(world.service.versions) == 1


def test_a_fault_waits_for_the_calls_it_is_meant_for(world: World) -> None:
    world.service.faults.append(
        Fault("CreateSolutionVersion", "throttled", times=2, after=1, matching={"trainingMode": "UPDATE"})
    )
    outcomes = []
    for mode in ("FULL", "UPDATE", "FULL", "UPDATE", "UPDATE", "UPDATE"):
        try:
            world.start_training(mode=mode)
            outcomes.append("ok")
        except ClientError as error:
            outcomes.append(error.response["Error"]["Code"])
    assert outcomes == ["ok", "ok", "ok", "ThrottlingException", "ThrottlingException", "ok"]


def test_resources_end_as_the_script_says(world: World) -> None:
    world.service.faults += [
        Fault("CreateSolutionVersion", kind, matching={"name": kind}, reason="out of luck")
        for kind in ("create_failed", "stopped", "slow", "never")
    ]
    arns = {kind: world.start_training(kind) for kind in ("create_failed", "stopped", "slow", "never")}
    world.clock.pass_by(5)
    assert world.version(arns["create_failed"])["status"] == "CREATE FAILED"
    assert world.version(arns["create_failed"])["failureReason"] == "out of luck"
    assert world.version(arns["stopped"])["status"] == "CREATE STOPPED"
    assert "failureReason" not in world.version(arns["stopped"])
    assert world.version(arns["slow"])["status"] == "CREATE PENDING"
    world.clock.pass_by(494)
    assert world.version(arns["slow"])["status"] == "CREATE IN_PROGRESS"
    world.clock.pass_by(2)
    assert world.version(arns["slow"])["status"] == "ACTIVE"
    world.clock.pass_by(1e9)
    assert world.version(arns["never"])["status"] == "CREATE IN_PROGRESS"
    world.client.stop_solution_version_creation(solutionVersionArn=arns["never"])
    world.clock.pass_by(1)
    assert world.version(arns["never"])["status"] == "CREATE STOPPED"


def test_a_fault_of_what_is_made_waits_for_something_to_be_made(world: World) -> None:
    world.service.faults.append(Fault("CreateSolutionVersion", "create_failed"))
    with world.refused("ResourceAlreadyExistsException"):
        world.start_training("shop-first")
    arn = world.start_training("second")
    world.clock.pass_by(5)
    assert world.version(arn)["status"] == "CREATE FAILED"


def test_a_kind_of_fault_that_there_is_not() -> None:
    with pytest.raises(UsageError, match="'broken' is not usable: accepted are lost_reply, "):
        Fault("CreateCampaign", "broken")


def test_a_named_version_is_made_once_by_many(world: World) -> None:
    ends: list[str] = []
    clients = [boto3_client(world.client.meta.endpoint_url, **NEVER_AGAIN) for _ in range(8)]

    def ask(client: Any) -> None:
        try:
            client.create_solution_version(name="second", solutionArn=world.shop.solution_arn)
            ends.append("made")
        except client.exceptions.ResourceAlreadyExistsException:
            ends.append("there")

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["made"] + ["there"] * 7


def test_calls_are_answered_one_after_the_other() -> None:
    with a_world("in_process", quotas=Quotas(trainings=10_000)) as world:
        switched = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=lambda: [world.start_training() for _ in range(60)]) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(switched)
        assert len(world.service.versions) == 1 + 8 * 60  # a number given twice would be one version


def signed(url: str, body: bytes, target: str = "AmazonPersonalize.ListSolutions", **headers: str) -> dict[str, str]:
    """The headers of a request, signed by botocore."""
    given = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1", **headers}
    request = botocore.awsrequest.AWSRequest("POST", url + "/", headers=given, data=body)
    keys = botocore.credentials.Credentials("id", "secret")
    botocore.auth.SigV4Auth(keys, "personalize", "eu-central-1").add_auth(request)
    return dict(request.headers)


def posted(
    connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str], path: str = "/"
) -> tuple[int, Any]:
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "application/x-amz-json-1.1" and answer.headers["x-amzn-RequestId"]
    return answer.status, json.loads(answer.read())


def test_what_is_no_request_is_refused_on_a_connection_that_lives_on() -> None:
    with Server(LocalPersonalize()) as server:
        connection = http.client.HTTPConnection("127.0.0.1", Request(server.url).host.split(":")[1], timeout=10)
        good = signed(server.url, b"{}")
        assert posted(connection, b"{}", good) == (200, {"solutions": []})
        first = connection.sock
        unsigned = {name: value for name, value in good.items() if name != "Authorization"}
        elsewhere = {**good, "Authorization": good["Authorization"].replace("/personalize/", "/s3/")}
        refused = [
            (b"{}", unsigned, 403, "MissingAuthenticationTokenException"),
            (b"{}", elsewhere, 403, "MissingAuthenticationTokenException"),
            (b"{}", signed(server.url, b"{}", "AmazonPersonalize.MakeCoffee"), 404, "UnknownOperationException"),
            (b"{}", signed(server.url, b"{}", "DynamoDB_20120810.ListTables"), 404, "UnknownOperationException"),
            (b"{", signed(server.url, b"{"), 400, "SerializationException"),
            (b"[]", signed(server.url, b"[]"), 400, "SerializationException"),
            (b"{}", {**good, "Content-Type": "text/plain"}, 400, "SerializationException"),
            (b'{"maxResults": "3"}', signed(server.url, b'{"maxResults": "3"}'), 400, "InvalidInputException"),
        ]
        for body, headers, status, code in refused:
            found, answer = posted(connection, body, headers)
            assert (found, answer["__type"]) == (status, code) and answer["message"]
        assert posted(connection, b"{}", good, "/other")[0] == 404
        assert posted(connection, b"{}", good)[0] == 200
        assert connection.sock is first
        connection.close()


def test_a_request_without_an_end_is_refused() -> None:
    with (
        Server(LocalPersonalize()) as server,
        socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as raw,
    ):
        raw.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")


def test_a_defect_of_the_stand_in_is_loud(capfd: Any, monkeypatch: Any) -> None:
    with a_world() as world:
        world.service.metrics = lambda _: {"coverage": "much"}  # type: ignore[dict-item,return-value]
        version = next(iter(world.service.versions))
        with pytest.raises(ClientError, match="answered against the service model"):
            world.client.get_solution_metrics(solutionVersionArn=version)
    assert "RuntimeError" in capfd.readouterr().err


def test_a_closed_server_answers_nobody() -> None:
    with Server(LocalPersonalize()) as server:
        client = boto3_client(server.url, **NEVER_AGAIN)
        client.list_solutions()
    with pytest.raises((EndpointConnectionError, ConnectionClosedError)):
        client.list_solutions()


def test_the_clock_never_goes_back() -> None:
    clock = Clock()
    service = LocalPersonalize(clock)
    service.call("CreateDatasetGroup", {"name": "a"})
    clock.pass_by(-1000)
    service.call("CreateDatasetGroup", {"name": "b"})
    assert service.calls[0].at == service.calls[1].at
    with pytest.raises(ServiceError, match="already exists"):
        service.call("CreateDatasetGroup", {"name": "a"})


def test_boto3_is_pointed_at_the_command(monkeypatch: Any) -> None:
    started = subprocess.Popen(
        [sys.executable, "-m", "orchestration.refresh.local_personalize.server", "--training_seconds", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline().strip()
        found = re.fullmatch(r"export (AWS_ENDPOINT_URL_PERSONALIZE)=(http://127\.0\.0\.1:\d+)", line)
        assert found, line
        monkeypatch.setenv(found[1], found[2])
        client = SESSION.client("personalize")
        assert client.create_dataset_group(name="shop")["datasetGroupArn"].endswith("dataset-group/shop")
        started.send_signal(signal.SIGINT)
        assert started.wait(10) == 130
    finally:
        started.kill()
        started.wait()


def test_bad_arguments_are_one_line(capsys: Any) -> None:
    with Server(LocalPersonalize()) as server:
        taken = server.url.rsplit(":", 1)[1]
        assert command.main(["--port", taken]) == 2
    assert f"--port {taken} is not usable" in capsys.readouterr().err
    assert command.main(["--training_seconds", "-1"]) == 2
    assert "accepted are seconds from 0" in capsys.readouterr().err
