"""The campaigns of the local Amazon Personalize: updates, rollbacks, and those that follow their solution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from orchestration.refresh.local_personalize.core import Fault
from tests.orchestration.refresh.test_local_personalize_world import World, a_world


@pytest.fixture(params=["http", "in_process"])
def world(request: Any) -> Iterator[World]:
    with a_world(request.param) as made:
        yield made


def test_an_update_moves_the_campaign_when_it_is_active(world: World) -> None:
    old, new = world.campaign()["solutionVersionArn"], world.trained()
    world.deploy(new, minProvisionedTPS=3)
    during = world.campaign()
    assert (during["status"], during["solutionVersionArn"], during["minProvisionedTPS"]) == ("ACTIVE", old, 1)
    update = during["latestCampaignUpdate"]
    assert (update["status"], update["solutionVersionArn"]) == ("CREATE PENDING", new)
    with world.refused("ResourceInUseException", "CREATE PENDING"):
        world.deploy(new)
    world.clock.pass_by(2)
    after = world.campaign()
    assert (after["status"], after["solutionVersionArn"], after["minProvisionedTPS"]) == ("ACTIVE", new, 3)
    assert after["latestCampaignUpdate"]["status"] == "ACTIVE"
    world.deploy(old)  # a rollback is an update
    world.clock.pass_by(2)
    assert (
        world.campaign()["solutionVersionArn"]
        == world.service.campaigns[world.shop.campaign_arn].solution_version_arn
        == old
    )


def test_a_failed_update_leaves_the_campaign_as_it_is(world: World) -> None:
    old, new = world.campaign()["solutionVersionArn"], world.trained()
    world.service.faults.append(Fault("UpdateCampaign", "create_failed", reason="not enough capacity"))
    world.deploy(new)
    world.clock.pass_by(2)
    campaign = world.campaign()
    assert (campaign["status"], campaign["solutionVersionArn"]) == ("ACTIVE", old)
    update = campaign["latestCampaignUpdate"]
    assert (update["status"], update["failureReason"]) == ("CREATE FAILED", "not enough capacity")
    assert update["solutionVersionArn"] == new
    world.deploy(new)
    world.clock.pass_by(2)
    assert world.campaign()["solutionVersionArn"] == new


def test_only_what_is_active_is_deployed(world: World) -> None:
    version = world.start_training()
    with world.refused("ResourceInUseException", "must be ACTIVE"):
        world.deploy(version)
    with world.refused("ResourceInUseException", "must be ACTIVE"):
        world.client.create_campaign(name="x", solutionVersionArn=version)
    world.clock.pass_by(5)
    young = world.client.create_campaign(name="young", solutionVersionArn=version)["campaignArn"]
    with world.refused("ResourceInUseException", "CREATE PENDING"):
        world.client.update_campaign(campaignArn=young, solutionVersionArn=version)
    world.service.faults.append(Fault("CreateSolutionVersion", "create_failed"))
    failed = world.start_training()
    world.clock.pass_by(5)
    with world.refused("InvalidInputException", "CREATE FAILED"):
        world.deploy(failed)


def test_a_campaign_that_follows_its_solution_moves_by_itself(world: World) -> None:
    latest = f"{world.shop.solution_arn}/$LATEST"
    sync = {"syncWithLatestSolutionVersion": True}
    with world.refused("InvalidInputException", "syncWithLatestSolutionVersion"):
        world.deploy(latest)
    with world.refused("InvalidInputException", "$LATEST"):
        world.deploy(world.campaign()["solutionVersionArn"], campaignConfig=sync)
    world.deploy(latest, campaignConfig=sync)
    world.clock.pass_by(2)
    new = world.trained()
    assert world.campaign()["latestCampaignUpdate"]["solutionVersionArn"] == new
    assert world.campaign()["solutionVersionArn"] != new
    world.clock.pass_by(2)
    assert world.campaign()["solutionVersionArn"] == new
    world.deploy(new, campaignConfig={"syncWithLatestSolutionVersion": False})
    world.clock.pass_by(2)
    world.trained()
    world.clock.pass_by(60)
    assert world.campaign()["solutionVersionArn"] == new


def test_a_campaign_that_follows_its_solution_undoes_a_rollback(world: World) -> None:
    old, new = world.campaign()["solutionVersionArn"], world.trained()
    world.deploy(f"{world.shop.solution_arn}/$LATEST", campaignConfig={"syncWithLatestSolutionVersion": True})
    world.clock.pass_by(2)
    world.deploy(old)
    world.clock.pass_by(2.1)
    assert world.campaign()["solutionVersionArn"] == old
    assert world.campaign()["latestCampaignUpdate"]["solutionVersionArn"] == new
    world.clock.pass_by(2)
    assert world.campaign()["solutionVersionArn"] == new


def test_a_campaign_can_be_deleted(world: World) -> None:
    world.deploy(world.trained())
    with world.refused("ResourceInUseException"):
        world.client.delete_campaign(campaignArn=world.shop.campaign_arn)
    world.clock.pass_by(2)
    world.client.delete_campaign(campaignArn=world.shop.campaign_arn)
    with world.refused("ResourceNotFoundException"):
        world.campaign()
