"""Amazon Personalize by boto3: what each method asks, and what it makes of the answers."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestration.refresh import personalize
from orchestration.refresh.local_personalize.core import Durations, Fault
from orchestration.refresh.personalize import Personalize, connect
from orchestration.refresh.record import job_name
from orchestration.refresh.service import AlreadyExists, Busy, Progress, Refused, Status
from tests.orchestration.refresh.test_personalize_world import BEGIN, World, a_world

DAY = 86_400
IMPORT, TRAINING, DEPLOYMENT = 1_800, 3_600, 1_200


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(monkeypatch, Durations(IMPORT, TRAINING, DEPLOYMENT, pending_seconds=60)) as made:
        yield made


@pytest.fixture
def service(world: World) -> Personalize:
    return world.connect()


def progress(status: Status, text: str) -> Progress:
    return Progress(status, text)


class TestImport:
    def test_it_begins_and_ends(self, world: World, service: Personalize) -> None:
        assert service.find_import("shop-20261101") is None
        job = service.start_import("shop-20261101", "s3://shop/2026-11-01", "FULL")
        assert service.find_import("shop-20261101") == job
        assert service.import_progress(job) == progress(Status.IN_PROGRESS, "CREATE PENDING")
        world.clock.pass_by(61)
        assert service.import_progress(job) == progress(Status.IN_PROGRESS, "CREATE IN_PROGRESS")
        world.clock.pass_by(IMPORT)
        assert service.import_progress(job) == progress(Status.ACTIVE, "ACTIVE")
        made = world.service.imports[job]
        assert (made.mode, made.given["roleArn"]) == ("FULL", world.shop.role_arn)

    @pytest.mark.parametrize(
        ("given", "asked"),
        [("s3://b/p", "s3://b/p/"), ("s3://b/p/", "s3://b/p/"), ("s3://b/p/1.csv", "s3://b/p/1.csv")],
    )
    def test_a_folder_ends_in_a_slash(self, world: World, service: Personalize, given: str, asked: str) -> None:
        job = service.start_import("one", given, "FULL")
        assert world.service.imports[job].location == asked

    def test_a_failure_has_its_reason_in_one_line(self, world: World, service: Personalize) -> None:
        world.service.faults.append(Fault("CreateDatasetImportJob", "create_failed", reason="The header\nis wrong."))
        job = service.start_import("one", "s3://shop/1/", "FULL")
        world.clock.pass_by(2 * IMPORT)
        assert service.import_progress(job) == Progress(Status.FAILED, "CREATE FAILED", "The header is wrong.")

    def test_a_taken_name(self, world: World, service: Personalize) -> None:
        service.start_import("one", "s3://shop/1/", "FULL")
        with pytest.raises(AlreadyExists, match=r"CreateDatasetImportJob: ResourceAlreadyExistsException: .*one"):
            service.start_import("one", "s3://shop/1/", "FULL")

    def test_a_name_that_another_data_set_has_taken(self, world: World, service: Personalize) -> None:
        client = world.client()
        group = client.create_dataset_group(name="staging")["datasetGroupArn"]
        other = client.create_dataset(
            name="staging", datasetGroupArn=group, schemaArn=world.shop.schema_arn, datasetType="Interactions"
        )["datasetArn"]
        connect(replace(world.resources, dataset_arn=other)).start_import("one", "s3://shop/1/", "FULL")
        with pytest.raises(Refused, match=f"the import one exists already, of the data set {other}: rename"):
            service.start_import("one", "s3://shop/1/", "FULL")

    def test_none_begins_while_another_of_the_data_set_is_on_its_way(self, world: World, service: Personalize) -> None:
        service.start_import("one", "s3://shop/1/", "FULL")
        before = len(world.service.calls)
        with pytest.raises(Busy, match="the import one of the same data set is CREATE PENDING"):
            service.start_import("two", "s3://shop/2/", "FULL")
        assert world.asked(before) == ["ListDatasetImportJobs"]
        world.clock.pass_by(2 * IMPORT)
        service.start_import("two", "s3://shop/2/", "FULL")

    def test_the_list_has_more_than_one_page(self, world: World, service: Personalize) -> None:
        first = service.start_import("one", "s3://shop/1/", "FULL")
        for number in range(210):
            world.clock.pass_by(2 * IMPORT)
            service.start_import(f"n{number}", "s3://shop/1/", "FULL")
        before = len(world.service.calls)
        assert service.find_import("one") == first and service.find_import("n209") and not service.find_import("n210")
        assert world.asked(before) == ["ListDatasetImportJobs"] * 9

    def test_an_increment_without_a_full_import_is_refused(self, world: World) -> None:
        other = world.client().create_dataset_group(name="empty")["datasetGroupArn"]
        dataset = world.client().create_dataset(
            name="empty", datasetGroupArn=other, schemaArn=world.shop.schema_arn, datasetType="Interactions"
        )["datasetArn"]
        service = connect(replace(world.resources, dataset_arn=dataset))
        with pytest.raises(Refused, match="CreateDatasetImportJob: InvalidInputException"):
            service.start_import("one", "s3://shop/1/", "INCREMENTAL")

    @pytest.mark.parametrize("location", ["/tmp/data", "gs://shop/1", "s3://" + "x" * 300])
    def test_what_no_location_is_is_refused_in_one_line(self, service: Personalize, location: str) -> None:
        with pytest.raises(Refused, match=r"\ACreateDatasetImportJob: InvalidInputException: [^\n]+\Z"):
            service.start_import("one", location, "FULL")


class TestTraining:
    NAME = job_name("shop", BEGIN.date())

    def test_it_begins_and_ends(self, world: World, service: Personalize) -> None:
        assert service.find_training(self.NAME) is None
        version = service.start_training(self.NAME, "UPDATE")
        assert service.find_training(self.NAME) == version
        assert service.training_progress(version) == progress(Status.IN_PROGRESS, "CREATE PENDING")
        world.clock.pass_by(TRAINING + 1)
        assert service.training_progress(version) == progress(Status.ACTIVE, "ACTIVE")
        assert (world.service.versions[version].name, world.service.versions[version].mode) == (self.NAME, "UPDATE")

    @pytest.mark.parametrize(
        ("kind", "status", "text"),
        [("create_failed", Status.FAILED, "CREATE FAILED"), ("stopped", Status.STOPPED, "CREATE STOPPED")],
    )
    def test_it_ends_badly(self, world: World, service: Personalize, kind: str, status: Status, text: str) -> None:
        world.service.faults.append(Fault("CreateSolutionVersion", kind))
        version = service.start_training(self.NAME, "FULL")
        world.clock.pass_by(2 * TRAINING)
        found = service.training_progress(version)
        assert (found.status, found.text) == (status, text)
        assert service.find_training(self.NAME) == version

    def test_stopping(self, world: World, service: Personalize) -> None:
        version = service.start_training(self.NAME, "FULL")
        world.clock.pass_by(61)
        service.stop_training(version)
        stopping = service.training_progress(version)
        assert stopping == replace(progress(Status.IN_PROGRESS, "CREATE STOPPING"), is_stopping=True)
        service.stop_training(version)
        world.clock.pass_by(10)
        assert service.training_progress(version) == progress(Status.STOPPED, "CREATE STOPPED")
        service.stop_training(version)
        assert service.campaign().version != version
        service.stop_training(service.campaign().version)  # ACTIVE for long

    def test_stopping_what_is_not_there_is_refused(self, world: World, service: Personalize) -> None:
        with pytest.raises(Refused, match="ResourceNotFoundException"):
            service.stop_training(f"{world.shop.solution_arn}/00000000")

    def test_a_name_is_asked_for_once(self, world: World, service: Personalize) -> None:
        for day in range(5):
            service.start_training(job_name("shop", BEGIN.date() + datetime.timedelta(days=day)), "FULL")
            world.clock.pass_by(DAY)
        before = len(world.service.calls)
        wanted = job_name("shop", BEGIN.date() + datetime.timedelta(days=2))
        assert service.find_training(wanted)
        assert world.asked(before) == ["ListSolutionVersions", *["DescribeSolutionVersion"] * 3]
        assert service.find_training(wanted) and not service.find_training("other-20261101")
        assert (
            world.asked(before).count("DescribeSolutionVersion") == 6
        )  # three others, of which one is the shop's first

    def test_versions_of_long_ago_are_not_asked_for_their_names(self, world: World, service: Personalize) -> None:
        for day in range(10):
            service.start_training(job_name("shop", BEGIN.date() + datetime.timedelta(days=day)), "FULL")
            world.clock.pass_by(DAY)
        before = len(world.service.calls)
        assert service.find_training(job_name("shop", world.clock.now.date())) is None
        assert world.asked(before) == ["ListSolutionVersions", *["DescribeSolutionVersion"] * 2]

    def test_one_that_is_older_than_its_name_is_adopted_all_the_same(self, world: World, service: Personalize) -> None:
        ahead = job_name("shop", BEGIN.date() + datetime.timedelta(days=300))
        version = service.start_training(ahead, "FULL")
        assert service.find_training(ahead) == version  # it is being made
        world.clock.pass_by(2 * TRAINING)
        later = world.connect()  # by another process
        assert later.find_training(ahead) is None
        assert later.start_training(ahead, "FULL") == version
        assert sum(each.name == ahead for each in world.service.versions.values()) == 1

    def test_a_name_without_a_date_is_looked_for_everywhere(self, world: World, service: Personalize) -> None:
        assert service.find_training("shop-first") == service.campaign().version
        for name in ("shop-first-99999999", "shop-00010101", "shop-20261301-2"):
            assert service.find_training(name) is None

    def test_a_taken_name(self, service: Personalize) -> None:
        service.start_training(self.NAME, "FULL")
        with pytest.raises(
            AlreadyExists, match=f"CreateSolutionVersion: ResourceAlreadyExistsException: .*{self.NAME}"
        ):
            service.start_training(self.NAME, "FULL")

    def test_what_the_service_trains_by_itself_is_not_asked_for_its_name(self, world: World) -> None:
        client = world.client()
        client.update_solution(solutionArn=world.shop.solution_arn, performAutoTraining=True)
        world.clock.pass_by(30 * DAY)
        service = world.connect()
        automatic = [each for each in world.service.versions.values() if each.automatic]
        before = len(world.service.calls)
        assert len(automatic) >= 3 and service.find_training("nobody") is None
        assert world.asked(before) == ["ListSolutionVersions", "DescribeSolutionVersion"]

    def test_more_than_one_page(self, world: World, service: Personalize) -> None:
        for number in range(120):
            service.start_training(f"n{number}", "FULL")
            world.clock.pass_by(2 * TRAINING)
        found = service.find_training("n0")
        assert found is not None and world.service.versions[found].name == "n0"

    def test_an_update_without_a_full_training_is_refused(self, world: World) -> None:
        client = world.client()
        solution = client.create_solution(
            name="other", datasetGroupArn=world.shop.dataset_group_arn, performAutoTraining=False,
            recipeArn="arn:aws:personalize:::recipe/aws-user-personalization",
        )["solutionArn"]  # fmt: skip
        with pytest.raises(Refused, match="UPDATE"):
            connect(replace(world.resources, solution_arn=solution)).start_training("one", "UPDATE")


def test_metrics(world: World, service: Personalize) -> None:
    version = service.start_training("shop-20261101", "FULL")
    with pytest.raises(Busy, match="GetSolutionMetrics: ResourceInUseException"):
        service.metrics(version)
    world.clock.pass_by(2 * TRAINING)
    world.service.metrics = {"shop-20261101": {"coverage": 0.25, "precision_at_5": 1}}
    assert service.metrics(version) == {"coverage": 0.25, "precision_at_5": 1.0}
    world.service.metrics = {"shop-20261101": {}}
    assert service.metrics(version) == {}


class TestCampaign:
    @pytest.fixture
    def version(self, world: World, service: Personalize) -> str:
        made = service.start_training("shop-20261101", "FULL")
        world.clock.pass_by(2 * TRAINING)
        return made

    def test_before_its_first_update(self, world: World, service: Personalize) -> None:
        found = service.campaign()
        assert found.update is None and found.progress == progress(Status.ACTIVE, "ACTIVE")
        assert world.service.versions[found.version].name == "shop-first"

    def test_an_update(self, world: World, service: Personalize, version: str) -> None:
        before = service.campaign().version
        service.deploy(version)
        found = service.campaign()
        assert found.update is not None and found.version == before and found.progress.status == Status.ACTIVE
        assert (found.update.version, found.update.progress.text) == (version, "CREATE PENDING")
        assert datetime.datetime.fromisoformat(found.update.id) == world.clock.now
        with pytest.raises(Busy, match="UpdateCampaign: ResourceInUseException"):
            service.deploy(version)
        world.clock.pass_by(DEPLOYMENT + 1)
        done = service.campaign()
        assert done.update is not None and done.version == version
        assert done.update.id == found.update.id and done.update.progress == progress(Status.ACTIVE, "ACTIVE")
        service.deploy(before)
        again = service.campaign().update
        assert again is not None and again.id != done.update.id

    def test_what_is_not_named_stays(self, world: World, service: Personalize, version: str) -> None:
        config = {"itemExplorationConfig": {"explorationWeight": "0.1"}}
        world.client().update_campaign(campaignArn=world.shop.campaign_arn, minProvisionedTPS=7, campaignConfig=config)
        world.clock.pass_by(2 * DEPLOYMENT)
        service.deploy(version)
        world.clock.pass_by(2 * DEPLOYMENT)
        described = world.client().describe_campaign(campaignArn=world.shop.campaign_arn)["campaign"]
        assert (described["minProvisionedTPS"], described["campaignConfig"]) == (7, config)
        assert described["solutionVersionArn"] == version

    def test_an_update_that_fails(self, world: World, service: Personalize, version: str) -> None:
        world.service.faults.append(Fault("UpdateCampaign", "create_failed", reason="No capacity."))
        before = service.campaign().version
        service.deploy(version)
        world.clock.pass_by(2 * DEPLOYMENT)
        found = service.campaign()
        assert found.version == before and found.update is not None
        assert found.update.progress == Progress(Status.FAILED, "CREATE FAILED", "No capacity.")

    def test_a_version_that_is_not_there_is_refused(self, world: World, service: Personalize) -> None:
        with pytest.raises(Refused, match="UpdateCampaign: ResourceNotFoundException"):
            service.deploy(f"{world.shop.solution_arn}/00000000")


@pytest.mark.parametrize(
    "word", ["INACTIVE", "ACTIVE ", "active", "NOT CREATE FAILED", "DELETE PENDING", "", "CREATE STOPPING"]
)
def test_a_word_nobody_knows_is_in_progress_and_shown(word: str) -> None:
    found = personalize._progress({"status": word})
    assert found.status == Status.IN_PROGRESS and found.text == (word or "of no status")


def test_it_is_a_campaign_service(service: Personalize) -> None:
    from orchestration.refresh.service import CampaignService

    typed: CampaignService = service  # mypy's matter; at run time every method of the interface is there
    methods: list[Callable[..., Any]] = [getattr(typed, name) for name in vars(CampaignService) if name[0] != "_"]
    assert len(methods) == 11 and all(map(callable, methods))
