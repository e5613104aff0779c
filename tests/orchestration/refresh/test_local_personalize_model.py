"""The local Amazon Personalize holds to botocore's model of the service, and both ways to it give the same."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError, HTTPClientError, ParamValidationError

from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import HANDLERS, Fault, LocalPersonalize, ServiceError
from orchestration.refresh.local_personalize.patterns import translated, whole_match
from orchestration.refresh.local_personalize.resources import RECIPE, SCHEMA, create_shop
from orchestration.refresh.local_personalize.server import Server
from orchestration.refresh.local_personalize.shapes import operation, service_model
from tests.orchestration.refresh.test_local_personalize_world import ROLE, Clock, a_world, boto3_client

ARN = "arn:aws:personalize:eu-central-1:000000000000:thing/none"


def plain_value(shape: Any) -> Any:
    """A value of the shape that the model accepts."""
    kind, limits = shape.type_name, shape.metadata
    if kind == "string":
        if "enum" in limits:
            return limits["enum"][0]
        known = {"Arn": ARN, "RoleArn": ROLE, "S3Location": "s3://bucket/key", "SchedulingExpression": "rate(7 days)"}
        known["KmsKeyArn"] = "arn:aws:kms:eu-central-1:000000000000:key/k"
        return known.get(shape.name, "plain")
    if kind == "structure":
        return {name: plain_value(member) for name, member in shape.members.items()}
    if kind == "list":
        return [plain_value(shape.member)]
    if kind == "map":
        return {plain_value(shape.key): plain_value(shape.value)}
    return {"boolean": True, "integer": 1, "double": 0.5, "float": 0.5}[kind]


def bad_inputs(name: str) -> list[tuple[dict[str, Any], str]]:
    """Requests of an operation with one thing wrong each, and what the refusal must name."""
    shape = service_model().operation_model(name).input_shape
    good = plain_value(shape)
    found = [({**good, "surprise": 1}, "surprise")]
    found += [({each: value for each, value in good.items() if each != name}, name) for name in shape.required_members]
    for member, kind in shape.members.items():
        limits = kind.metadata
        found.append(({**good, member: object}, member))
        if kind.type_name == "string":
            if "max" in limits:
                found.append(({**good, member: plain_value(kind) + "x" * limits["max"]}, member))
            if limits.get("min"):
                found.append(({**good, member: ""}, member))
            if "pattern" in limits and "ASCII" not in limits["pattern"]:
                found.append(({**good, member: "!"}, member))
            if "enum" in limits:
                found.append(({**good, member: "NONE_OF_THEM"}, member))
        if kind.type_name == "integer":
            found += [({**good, member: 0}, member), ({**good, member: True}, member)]
        if kind.type_name == "list":
            found.append(({**good, member: [*good[member]] * (limits["max"] + 1)}, member))
    return found


@pytest.mark.parametrize("name", HANDLERS)
def test_every_operation_refuses_what_its_model_refuses(name: str) -> None:
    model = operation(name)
    service = LocalPersonalize()
    good = plain_value(service_model().operation_model(name).input_shape)
    assert model is not None and model.problem(good) is None
    cases = bad_inputs(name)
    assert len(cases) >= 3
    for request, named in cases:
        with pytest.raises(ServiceError) as caught:
            service.call(name, request)
        assert caught.value.code == "InvalidInputException" and named in caught.value.message, request
    assert [call.outcome for call in service.calls] == ["InvalidInputException"] * len(cases)


NAMES = ("a" * 64, "", "-first", "with space", "ümlaut", "a\n")


@pytest.mark.parametrize("name", NAMES)
def test_bad_names_are_refused_over_http(name: str) -> None:
    with a_world(with_shop=False) as world:
        if not name:
            with pytest.raises(ParamValidationError):  # boto3 itself
                world.client.create_dataset_group(name=name)
            return
        with world.refused("InvalidInputException", "Value at 'name'"):
            world.client.create_dataset_group(name=name)
        assert world.client.create_dataset_group(name="a" * 63)


def test_patterns_are_held_against_the_whole_value() -> None:
    name = "^[a-zA-Z0-9][a-zA-Z0-9\\-_]*"
    assert whole_match(name)("a-b_C9")
    assert not whole_match(name)("a.b") and not whole_match(name)("a\n")
    tag = "^([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*)$"
    for accepted in ("Größe", "数 量", "½", "a:b/c=d+e-f@g", ""):
        assert whole_match(tag)(accepted), accepted
    for refused in ("a\n", "a#b", "a\u0301", "€"):
        assert not whole_match(tag)(refused), refused
    assert whole_match("\\p{ASCII}{0,3}")("abc") and not whole_match("\\p{ASCII}{0,3}")("abé")
    assert not whole_match("rate\\(\\d+ days?\\)")("rate(٣ days)")  # \d is of ASCII alone, as in Java


def test_every_pattern_of_the_model_can_be_translated() -> None:
    patterns = {service_model().shape_for(name).metadata.get("pattern") for name in service_model().shape_names} - {
        None
    }
    assert len(patterns) >= 10
    for pattern in patterns:
        re.compile(translated(pattern))


def test_tags_are_validated_where_they_are_nested() -> None:
    with a_world(with_shop=False) as world:
        world.client.create_dataset_group(name="a", tags=[{"tagKey": "größe", "tagValue": "x"}])
        with world.refused("InvalidInputException", "tags.2.member.tagValue"):
            tags = [{"tagKey": "k", "tagValue": "v"}, {"tagKey": "k", "tagValue": "bad#value"}]
            world.client.create_dataset_group(name="b", tags=tags)


def test_an_answer_against_the_model_is_a_defect() -> None:
    model = operation("DescribeCampaign")
    assert model is not None
    model.must_fit({"campaign": {"status": "ACTIVE", "creationDateTime": 1.5}})
    for answer in (
        {"campain": {}},
        {"campaign": {"minProvisionedTPS": "2"}},
        {"campaign": {"creationDateTime": "now"}},
    ):
        with pytest.raises(RuntimeError, match="DescribeCampaign answered against the service model"):
            model.must_fit(answer)


def test_unknown_operations_are_refused() -> None:
    service = LocalPersonalize()
    for name in ("MakeCoffee", "CreateRecommender"):
        with pytest.raises(ServiceError, match="UnknownOperationException"):
            service.call(name, {})


# Calls one after the other, good and bad ones.
GROUP, SOLUTION = ARN.replace("thing/none", "dataset-group/g"), ARN.replace("thing/none", "solution/s")
SCRIPT: list[tuple[str, dict[str, Any]]] = [
    ("create_dataset_group", {"name": "g"}),
    ("create_dataset_group", {"name": "g"}),
    ("create_dataset_group", {"name": "g!"}),
    ("create_dataset_group", {"name": ""}),
    ("create_dataset_group", {}),
    ("create_dataset_group", {"name": 3}),
    ("create_dataset_group", {"name": "h", "nam": "h"}),
    ("create_dataset_group", {"name": "h", "domain": "BAKERY"}),
    ("create_schema", {"name": "i", "schema": json.dumps(SCHEMA)}),
    ("create_schema", {"name": "j", "schema": "{}"}),
    ("create_dataset", {"name": "d", "datasetGroupArn": GROUP, "schemaArn": ARN, "datasetType": "Interactions"}),
    (
        "create_dataset",
        {
            "name": "d",
            "datasetGroupArn": GROUP,
            "schemaArn": ARN.replace("thing/none", "schema/i"),
            "datasetType": "Interactions",
        },
    ),
    (
        "create_dataset_import_job",
        {"jobName": "m", "datasetArn": ARN.replace("thing/none", "dataset/g/INTERACTIONS"), "dataSource": {}},
    ),
    (
        "create_dataset_import_job",
        {
            "jobName": "m",
            "datasetArn": ARN.replace("thing/none", "dataset/g/INTERACTIONS"),
            "dataSource": {"dataLocation": "s3://a/b"},
            "roleArn": ROLE,
        },
    ),
    ("describe_dataset_import_job", {"datasetImportJobArn": ARN.replace("thing/none", "dataset-import-job/m")}),
    ("create_solution", {"name": "s", "datasetGroupArn": GROUP}),
    ("create_solution", {"name": "s", "datasetGroupArn": GROUP, "recipeArn": RECIPE, "performAutoTraining": False}),
    ("create_solution_version", {"solutionArn": SOLUTION, "name": "v"}),
    ("create_solution_version", {"solutionArn": SOLUTION, "name": "v"}),
    ("create_solution_version", {"solutionArn": SOLUTION, "name": "v", "trainingMode": "SOME"}),
    ("list_solution_versions", {"solutionArn": SOLUTION, "maxResults": 1}),
    ("list_solution_versions", {"solutionArn": SOLUTION, "maxResults": 0}),
    ("list_solution_versions", {"solutionArn": SOLUTION, "maxResults": 101}),
    ("list_solution_versions", {"solutionArn": SOLUTION, "nextToken": "x"}),
    ("describe_solution", {"solutionArn": SOLUTION}),
    ("update_solution", {"solutionArn": SOLUTION, "performAutoTraining": True}),
    ("describe_solution", {"solutionArn": SOLUTION}),
    ("create_campaign", {"name": "c", "solutionVersionArn": f"{SOLUTION}/$LATEST", "minProvisionedTPS": 0}),
    ("create_campaign", {"name": "c", "solutionVersionArn": f"{SOLUTION}/$LATEST"}),
    (
        "create_campaign",
        {
            "name": "c",
            "solutionVersionArn": f"{SOLUTION}/$LATEST",
            "campaignConfig": {"syncWithLatestSolutionVersion": True},
        },
    ),
    ("describe_campaign", {"campaignArn": ARN.replace("thing/none", "campaign/c")}),
    ("stop_solution_version_creation", {"solutionVersionArn": f"{SOLUTION}/00000000"}),
    ("delete_campaign", {"campaignArn": ARN.replace("thing/none", "campaign/c")}),
    ("list_campaigns", {}),
    ("create_filter", {"name": "f", "datasetGroupArn": GROUP, "filterExpression": "x"}),
]


def played(client: Any, clock: Clock) -> list[Any]:
    """What every line of the script gives: an answer, or an error by its class, code and message."""
    found: list[Any] = []
    for method, parameters in SCRIPT:
        try:
            answer = getattr(client, method)(**parameters)
            assert answer.pop("ResponseMetadata")["HTTPStatusCode"] == 200
            found.append(answer)
        except ClientError as error:
            said = error.response
            status = said["ResponseMetadata"]["HTTPStatusCode"]
            found.append((type(error).__name__, said["Error"]["Code"], said["Error"]["Message"], status, str(error)))
        except (ParamValidationError, HTTPClientError) as error:
            found.append((type(error).__name__, str(error)))
        clock.pass_by(1.7)
    return found


def test_both_ways_give_the_same() -> None:
    clock, local_clock = Clock(), Clock()
    local = LocalPersonalize(local_clock)
    service = LocalPersonalize(clock)
    with Server(service) as server:
        over_http = played(boto3_client(server.url), clock)
    in_process = played(Client(local), local_clock)
    for line, http, process in zip(SCRIPT, over_http, in_process, strict=True):
        assert http == process, line
    codes = {each[1] for each in over_http if isinstance(each, tuple)}
    assert codes >= {"InvalidInputException", "ResourceAlreadyExistsException", "ResourceNotFoundException"}
    assert [(call.operation, call.outcome) for call in service.calls] == [
        (call.operation, call.outcome) for call in local.calls
    ]


def test_the_client_has_boto3s_methods_only() -> None:
    client = Client(LocalPersonalize())
    for name in HANDLERS:
        assert callable(getattr(client, xform_name(name)))
    with pytest.raises(AttributeError, match="no attribute 'create_coffee'"):
        client.create_coffee()
    assert client.can_paginate("list_solutions") and not client.can_paginate("describe_solution")
    assert client.meta.region_name == "eu-central-1"
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.describe_campaign(campaignArn=ARN)


def test_faults_reach_the_client_in_process() -> None:
    clock = Clock()
    service = LocalPersonalize(clock)
    client = Client(service)
    shop = create_shop(client, wait=clock.pass_by)
    service.faults += [Fault("*", kind) for kind in ("lost_request", "throttled", "unavailable", "quota")]
    seen = []
    for _ in range(5):
        try:
            client.describe_campaign(campaignArn=shop.campaign_arn)
            seen.append("ok")
        except ClientError as error:
            seen.append(error.response["Error"]["Code"])
        except HTTPClientError as error:
            seen.append(type(error).__name__)
    assert seen == [
        "ConnectionClosedError",
        "ThrottlingException",
        "ServiceUnavailableException",
        "LimitExceededException",
        "ok",
    ]


def test_a_call_in_process_is_cheap() -> None:
    clock = Clock()
    client = Client(LocalPersonalize(clock))
    shop = create_shop(client, wait=clock.pass_by)
    best = 1.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(500):
            client.describe_campaign(campaignArn=shop.campaign_arn)
        best = min(best, (time.perf_counter() - began) / 500)
    assert best < 150e-6  # 11 microseconds on an idle core; what is held here is that nothing is compiled again
