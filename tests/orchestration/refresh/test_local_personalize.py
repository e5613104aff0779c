"""Every rule of the local Amazon Personalize once: by boto3 over HTTP, and in process."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from typing import Any

import pytest

from orchestration.refresh.local_personalize.core import Durations, Fault, Quotas
from orchestration.refresh.local_personalize.resources import SCHEMA
from tests.orchestration.refresh.test_local_personalize_world import World, a_world

DAY = 86_400


@pytest.fixture(params=["http", "in_process"])
def world(request: Any) -> Iterator[World]:
    with a_world(request.param) as made:
        yield made


def test_an_import_goes_through_its_statuses_by_the_clock(world: World) -> None:
    began = datetime.datetime.fromtimestamp(world.clock.now, datetime.UTC)
    arn = world.start_import("second")
    assert arn == "arn:aws:personalize:eu-central-1:000000000000:dataset-import-job/second"
    seen = []
    for seconds in (0, 0.4, 0.2, 2.3, 0.2):
        world.clock.pass_by(seconds)
        seen.append(world.job(arn)["status"])
    assert seen == ["CREATE PENDING", "CREATE PENDING", "CREATE IN_PROGRESS", "CREATE IN_PROGRESS", "ACTIVE"]
    job = world.job(arn)
    assert job["importMode"] == "FULL" and job["dataSource"] == {"dataLocation": "s3://shop/interactions/"}
    assert abs((job["creationDateTime"] - began).total_seconds()) < 0.01
    assert (job["lastUpdatedDateTime"] - job["creationDateTime"]).total_seconds() == pytest.approx(3, abs=0.01)


def test_a_version_and_a_campaign_take_their_time(world: World) -> None:
    arn = world.start_training("second")
    assert arn.startswith(f"{world.shop.solution_arn}/") and len(arn.rsplit("/", 1)[1]) == 8
    assert world.version(arn)["status"] == "CREATE PENDING"
    world.clock.pass_by(4.9)
    assert world.version(arn)["status"] == "CREATE IN_PROGRESS"
    world.clock.pass_by(0.2)
    version = world.version(arn)
    assert (version["status"], version["name"], version["trainingMode"]) == ("ACTIVE", "second", "FULL")
    assert version["trainingType"] == "MANUAL" and version["trainingHours"] >= 0
    campaign = world.client.create_campaign(name="other", solutionVersionArn=arn, minProvisionedTPS=2)["campaignArn"]
    described = world.client.describe_campaign(campaignArn=campaign)["campaign"]
    assert (described["status"], described["minProvisionedTPS"]) == ("CREATE PENDING", 2)


def test_names_are_unique(world: World) -> None:
    version = world.trained("second")
    world.start_import("again")
    group, schema = world.shop.dataset_group_arn, world.shop.schema_arn
    dataset = {"name": "x", "datasetGroupArn": group, "schemaArn": schema, "datasetType": "INTERACTIONS"}
    doubles = [
        lambda: world.client.create_schema(name="shop-interactions", schema=json.dumps(SCHEMA)),
        lambda: world.client.create_dataset_group(name="shop"),
        lambda: world.client.create_dataset(**dataset),
        lambda: world.start_import("again"),
        lambda: world.new_solution("shop"),
        lambda: world.start_training("second"),
        lambda: world.client.create_campaign(name="shop", solutionVersionArn=version),
    ]
    for double in doubles:
        with world.refused("ResourceAlreadyExistsException", "already exists"):
            double()


def test_the_name_of_a_version_is_its_solutions_alone(world: World) -> None:
    world.start_training("second")
    other = world.start_training("second", solution=world.new_solution("other", performAutoTraining=False))
    assert world.version(other)["solutionArn"].endswith("solution/other")


def test_a_failed_import_and_a_failed_version_keep_their_names(world: World) -> None:
    world.service.faults += [
        Fault("CreateDatasetImportJob", "create_failed"),
        Fault("CreateSolutionVersion", "create_failed"),
    ]
    job, version = world.start_import("bad"), world.start_training("bad")
    world.clock.pass_by(5)
    assert world.job(job)["status"] == world.version(version)["status"] == "CREATE FAILED"
    with world.refused("ResourceAlreadyExistsException"):
        world.start_import("bad")
    with world.refused("ResourceAlreadyExistsException"):
        world.start_training("bad")


MISSING = {
    "describe_schema": "schemaArn",
    "describe_dataset_group": "datasetGroupArn",
    "describe_dataset": "datasetArn",
    "describe_dataset_import_job": "datasetImportJobArn",
    "describe_solution": "solutionArn",
    "update_solution": "solutionArn",
    "create_solution_version": "solutionArn",
    "list_solution_versions": "solutionArn",
    "describe_solution_version": "solutionVersionArn",
    "stop_solution_version_creation": "solutionVersionArn",
    "get_solution_metrics": "solutionVersionArn",
    "describe_campaign": "campaignArn",
    "update_campaign": "campaignArn",
    "delete_campaign": "campaignArn",
}


def test_what_there_is_not_is_not_found(world: World) -> None:
    arn = "arn:aws:personalize:eu-central-1:000000000000:thing/none"
    for method, member in MISSING.items():
        with world.refused("ResourceNotFoundException", arn):
            getattr(world.client, method)(**{member: arn})
    with world.refused("ResourceNotFoundException"):
        world.deploy(f"{world.shop.solution_arn}/00000000")
    with world.refused("ResourceNotFoundException"):
        world.client.create_campaign(name="x", solutionVersionArn=f"{world.shop.solution_arn}/00000000")


def test_an_incremental_import_needs_a_full_one_that_is_active(world: World) -> None:
    world.start_import("more", "INCREMENTAL")  # the shop has one
    group = world.client.create_dataset_group(name="empty")["datasetGroupArn"]
    dataset = world.client.create_dataset(
        name="empty", datasetGroupArn=group, schemaArn=world.shop.schema_arn, datasetType="Interactions"
    )["datasetArn"]
    job = {"datasetArn": dataset, "dataSource": {"dataLocation": "s3://a/b/"}, "roleArn": world.shop.role_arn}
    with world.refused("InvalidInputException", "ACTIVE FULL import"):
        world.client.create_dataset_import_job(jobName="i1", importMode="INCREMENTAL", **job)
    world.client.create_dataset_import_job(jobName="f1", **job)
    with world.refused("InvalidInputException", "ACTIVE FULL import"):  # it is not over
        world.client.create_dataset_import_job(jobName="i1", importMode="INCREMENTAL", **job)
    world.clock.pass_by(3)
    world.client.create_dataset_import_job(jobName="i1", importMode="INCREMENTAL", **job)


def test_a_version_needs_data_and_trains_on_the_last(world: World) -> None:
    group = world.client.create_dataset_group(name="empty")["datasetGroupArn"]
    empty = world.new_solution("empty", datasetGroupArn=group)
    with world.refused("InvalidInputException", "must be ACTIVE before training"):
        world.start_training(solution=empty)

    def data_of_a_new_version() -> list[str]:
        arn = world.start_training()
        return [each.rsplit("/", 1)[1] for each in world.service.versions[arn].trained_on]

    assert data_of_a_new_version() == ["shop-first"]
    world.start_import("more", "INCREMENTAL")
    assert data_of_a_new_version() == ["shop-first"]  # the other is in flight
    world.clock.pass_by(3)
    assert data_of_a_new_version() == ["shop-first", "more"]
    world.start_import("whole")
    world.clock.pass_by(3)
    assert data_of_a_new_version() == ["whole"]


def test_an_update_training_needs_a_full_one_that_is_active(world: World) -> None:
    assert world.version(world.start_training(mode="UPDATE"))["trainingMode"] == "UPDATE"
    fresh = world.new_solution("fresh", performAutoTraining=False)
    with world.refused("InvalidInputException", "trained in mode FULL"):
        world.start_training(mode="UPDATE", solution=fresh)
    world.trained(solution=fresh)
    world.start_training(mode="UPDATE", solution=fresh)
    ranking = "arn:aws:personalize:::recipe/aws-personalized-ranking"
    other = world.new_solution("ranking", recipeArn=ranking, performAutoTraining=False)
    world.trained(solution=other)
    with world.refused("InvalidInputException", "not possible with the recipe"):
        world.start_training(mode="UPDATE", solution=other)


def test_a_solution_trains_itself_unless_told_not_to(world: World) -> None:
    arn = world.new_solution("itself")
    assert world.solution(arn)["performAutoTraining"] is True
    assert "latestSolutionVersion" not in world.solution(arn)

    def versions() -> list[dict[str, Any]]:
        return world.client.list_solution_versions(solutionArn=arn)["solutionVersions"]

    world.clock.pass_by(3599)
    assert versions() == []
    world.clock.pass_by(2)
    assert [(each["trainingType"], each["status"]) for each in versions()] == [("AUTOMATIC", "CREATE IN_PROGRESS")]
    world.clock.pass_by(21 * DAY)
    assert len(versions()) == 4
    gaps = {
        (late["creationDateTime"] - early["creationDateTime"]).total_seconds()
        for early, late in zip(versions(), versions()[1:], strict=False)
    }
    assert gaps == {7 * DAY}
    assert world.solution(arn)["latestSolutionVersion"]["solutionVersionArn"] == versions()[-1]["solutionVersionArn"]
    assert "name" not in world.version(versions()[-1]["solutionVersionArn"])


def test_a_manual_version_within_the_hour_replaces_the_first_automatic_one(world: World) -> None:
    arn = world.new_solution("itself", solutionConfig={"autoTrainingConfig": {"schedulingExpression": "rate(2 days)"}})
    world.start_training(solution=arn)
    world.clock.pass_by(DAY)
    assert len(world.service.versions) == 2  # the shop's own and that one
    world.clock.pass_by(1.5 * DAY)
    assert [version.automatic for version in world.service.versions.values()] == [False, False, True]


def test_auto_training_is_turned_off_and_on(world: World) -> None:
    arn = world.new_solution("itself")
    world.client.update_solution(solutionArn=arn, performAutoTraining=False)
    described = world.solution(arn)
    assert described["performAutoTraining"] is False
    assert described["latestSolutionUpdate"]["status"] == "ACTIVE"
    assert described["latestSolutionUpdate"]["performAutoTraining"] is False
    world.clock.pass_by(30 * DAY)
    assert len(world.service.versions) == 1
    config = {"autoTrainingConfig": {"schedulingExpression": "rate(1 day)"}}
    world.client.update_solution(solutionArn=arn, performAutoTraining=True, solutionUpdateConfig=config)
    world.clock.pass_by(3.5 * DAY)
    assert len(world.service.versions) == 4
    with world.refused("InvalidInputException", "rate(31 days)", "1 to 30"):
        world.new_solution("x", solutionConfig={"autoTrainingConfig": {"schedulingExpression": "rate(31 days)"}})
    with world.refused("InvalidInputException", "performAutoTraining"):
        world.new_solution("x", solutionConfig=config, performAutoTraining=False)


@pytest.mark.parametrize("way", ["http", "in_process"])
def test_auto_training_goes_on_until_the_update_that_ends_it_is_active(way: str) -> None:
    with a_world(way, durations=Durations(setup_seconds=10)) as world:
        arn = world.new_solution("itself")
        assert world.solution(arn)["status"] == "CREATE IN_PROGRESS"
        with world.refused("ResourceInUseException", "must be ACTIVE"):
            world.start_training(solution=arn)
        world.clock.pass_by(10 + 3595)
        world.client.update_solution(solutionArn=arn, performAutoTraining=False)
        with world.refused("ResourceInUseException", "in progress"):
            world.client.update_solution(solutionArn=arn, performAutoTraining=False)
        world.clock.pass_by(30 * DAY)
        assert [version.automatic for version in world.service.versions.values()] == [False, True]
        assert world.solution(arn)["performAutoTraining"] is False


def test_a_training_can_be_stopped(world: World) -> None:
    arn = world.start_training()
    world.clock.pass_by(1)
    world.client.stop_solution_version_creation(solutionVersionArn=arn)
    assert world.version(arn)["status"] == "CREATE STOPPING"
    world.clock.pass_by(10)
    assert world.version(arn)["status"] == "CREATE STOPPED"
    with world.refused("InvalidInputException", "CREATE STOPPED"):
        world.client.stop_solution_version_creation(solutionVersionArn=arn)
    with world.refused("InvalidInputException", "CREATE STOPPED"):
        world.client.get_solution_metrics(solutionVersionArn=arn)


def test_metrics_are_of_active_versions_and_can_be_chosen(world: World) -> None:
    def metrics(arn: str) -> dict[str, float]:
        return world.client.get_solution_metrics(solutionVersionArn=arn)["metrics"]

    young = world.start_training("young")
    with world.refused("ResourceInUseException", "must be ACTIVE"):
        metrics(young)
    world.clock.pass_by(5)
    usual = metrics(young)
    assert set(usual) > {"coverage", "precision_at_25", "mean_reciprocal_rank_at_25"}
    assert all(0 < value < 1 for value in usual.values())
    assert metrics(young) == usual != metrics(world.trained("other"))
    world.service.metrics = {"young": {"coverage": 0.125}}
    assert metrics(young) == {"coverage": 0.125}
    world.service.metrics = lambda name: {"length": float(len(name))}
    assert metrics(young) == {"length": 5.0}


@pytest.mark.parametrize("way", ["http", "in_process"])
def test_more_in_flight_than_the_quota_is_refused(way: str) -> None:
    with a_world(way, quotas=Quotas(imports=2, trainings=1)) as world:
        world.start_import("a")
        world.start_import("b")
        with world.refused("LimitExceededException", "the limit is 2"):
            world.start_import("c")
        with world.refused("ResourceAlreadyExistsException"):  # who asks again learns that it is there
            world.start_import("b")
        world.clock.pass_by(3)
        world.start_import("c")
        world.start_training("a")
        with world.refused("LimitExceededException", "the limit is 1"):
            world.start_training("b")
        world.clock.pass_by(5)
        world.start_training("b")


def test_lists_come_in_pages(world: World) -> None:
    arns = [*world.service.versions] + [world.start_training(f"v{number}") for number in range(6)]
    first = world.client.list_solution_versions(solutionArn=world.shop.solution_arn, maxResults=3)
    assert [each["solutionVersionArn"] for each in first["solutionVersions"]] == arns[:3]
    assert all("name" not in each for each in first["solutionVersions"])
    pages = world.client.get_paginator("list_solution_versions").paginate(
        solutionArn=world.shop.solution_arn, PaginationConfig={"PageSize": 3}
    )
    sizes = [[each["solutionVersionArn"] for each in page["solutionVersions"]] for page in pages]
    assert sizes == [arns[:3], arns[3:6], arns[6:]]
    with world.refused("InvalidNextTokenException"):
        world.client.list_solution_versions(solutionArn=world.shop.solution_arn, nextToken="made-up")
    with world.refused("InvalidNextTokenException"):  # of another query
        world.client.list_solutions(nextToken=first["nextToken"])


def test_lists_are_of_what_is_asked(world: World) -> None:
    other = world.new_solution("other", performAutoTraining=False)
    world.start_training(solution=other)
    job = world.start_import("more")
    jobs = world.client.list_dataset_import_jobs(datasetArn=world.shop.dataset_arn)["datasetImportJobs"]
    assert [each["jobName"] for each in jobs] == ["shop-first", "more"] and jobs[1]["datasetImportJobArn"] == job
    assert world.client.list_dataset_import_jobs(datasetArn=f"{world.shop.dataset_arn}X")["datasetImportJobs"] == []
    solutions = world.client.list_solutions(datasetGroupArn=world.shop.dataset_group_arn)["solutions"]
    assert [each["name"] for each in solutions] == ["shop", "other"]
    assert len(world.client.list_solution_versions(solutionArn=other)["solutionVersions"]) == 1
    assert len(world.client.list_solution_versions()["solutionVersions"]) == 2
    assert [each["name"] for each in world.client.list_campaigns(solutionArn=world.shop.solution_arn)["campaigns"]] == [
        "shop"
    ]
    assert world.client.list_campaigns(solutionArn=other)["campaigns"] == []


def test_what_was_set_up_is_described(world: World) -> None:
    shop = world.shop
    schema = world.client.describe_schema(schemaArn=shop.schema_arn)["schema"]
    assert json.loads(schema["schema"]) == SCHEMA
    assert world.client.describe_dataset_group(datasetGroupArn=shop.dataset_group_arn)["datasetGroup"]["name"] == "shop"
    dataset = world.client.describe_dataset(datasetArn=shop.dataset_arn)["dataset"]
    assert (dataset["datasetType"], dataset["schemaArn"]) == ("INTERACTIONS", shop.schema_arn)


BAD_SCHEMAS = {
    "not JSON": "{",
    "no record": json.dumps({"type": "enum", "fields": []}),
    "no fields": json.dumps({"type": "record", "fields": []}),
    "unknown type": json.dumps({"type": "record", "fields": [{"name": "A", "type": "date"}]}),
    "twice": json.dumps({"type": "record", "fields": [{"name": "A", "type": "int"}, {"name": "A", "type": "int"}]}),
}


def test_schemas_are_read(world: World) -> None:
    for text in BAD_SCHEMAS.values():
        with world.refused("InvalidInputException", "schema is not valid"):
            world.client.create_schema(name="bad", schema=text)
    items = json.dumps({"type": "record", "fields": [{"name": "ITEM_ID", "type": "string"}]})
    arn = world.client.create_schema(name="items", schema=items)["schemaArn"]
    group = world.client.create_dataset_group(name="other")["datasetGroupArn"]
    given = {"name": "x", "schemaArn": arn, "datasetGroupArn": group}
    with world.refused("InvalidInputException", "interactions need the field USER_ID"):
        world.client.create_dataset(datasetType="Interactions", **given)
    with world.refused("InvalidInputException", "dataset type Things"):
        world.client.create_dataset(datasetType="Things", **given)
    assert world.client.create_dataset(datasetType="Items", **given)["datasetArn"].endswith("dataset/other/ITEMS")
