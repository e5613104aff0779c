"""Amazon Personalize by boto3 before anything begins: the client, and what would fight a refresh."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestration.refresh import personalize
from orchestration.refresh.local_personalize.core import Durations, Fault
from orchestration.refresh.personalize import Personalize, connect
from orchestration.refresh.service import Status
from tests.orchestration.refresh.test_personalize_world import World, a_world
from transforms.errors import UsageError

DEPLOYMENT = 1_200


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(monkeypatch, Durations(1_800, 3_600, DEPLOYMENT, pending_seconds=60)) as made:
        yield made


@pytest.fixture
def service(world: World) -> Personalize:
    return world.connect()


class TestProblems:
    def test_none(self, world: World, service: Personalize) -> None:
        before = len(world.service.calls)
        assert list(service.problems()) == []
        assert world.asked(before) == ["DescribeSolution", "DescribeCampaign"]

    def test_training_by_itself_until_it_is_turned_off(self, world: World, service: Personalize) -> None:
        client = world.client()
        client.update_solution(solutionArn=world.shop.solution_arn, performAutoTraining=True)
        (line,) = service.problems()
        assert "trains by itself" in line and line.endswith(
            f"aws personalize update-solution --solution-arn {world.shop.solution_arn} --no-perform-auto-training"
        )
        client.update_solution(solutionArn=world.shop.solution_arn, performAutoTraining=False)
        assert not service.problems()

    @pytest.mark.parametrize(
        ("now", "asked", "status", "trains"),
        [
            (True, False, "ACTIVE", False), (True, False, "CREATE IN_PROGRESS", False), (True, False, "CREATE FAILED", True),
            (False, True, "CREATE IN_PROGRESS", True), (False, True, "CREATE FAILED", False), (True, None, "ACTIVE", True),
            (False, None, "ACTIVE", False), (None, None, "ACTIVE", False),
        ],
    )  # fmt: skip
    def test_what_was_asked_for_last_counts(
        self, world: World, now: bool | None, asked: bool | None, status: str, trains: bool
    ) -> None:
        update: dict[str, Any] = {"status": status} | ({} if asked is None else {"performAutoTraining": asked})
        solution: dict[str, Any] = {"status": "ACTIVE", "latestSolutionUpdate": update}
        solution |= {} if now is None else {"performAutoTraining": now}
        assert bool(list(personalize._of_solution(solution, world.resources))) == trains

    def test_deploying_by_itself(self, world: World, service: Personalize) -> None:
        client, arn = world.client(), world.shop.campaign_arn
        version, weight = service.campaign().version, {"itemExplorationConfig": {"explorationWeight": "0.1"}}
        client.update_campaign(
            campaignArn=arn, solutionVersionArn=f"{world.shop.solution_arn}/$LATEST",
            campaignConfig={**weight, "syncWithLatestSolutionVersion": True},
        )  # fmt: skip
        assert len(service.problems()) == 1  # from the moment it is asked for
        world.clock.pass_by(2 * DEPLOYMENT)
        (line,) = service.problems()
        mend = re.search(
            r"aws personalize update-campaign --campaign-arn (\S+) --solution-version-arn (\S+) --campaign-config '(.*)'$",
            line,
        )
        assert mend is not None and (mend[1], mend[2]) == (arn, version)
        config = json.loads(mend[3])
        assert config == {**weight, "syncWithLatestSolutionVersion": False}
        client.update_campaign(campaignArn=mend[1], solutionVersionArn=mend[2], campaignConfig=config)
        world.clock.pass_by(2 * DEPLOYMENT)
        assert not service.problems()

    def test_a_campaign_that_names_the_latest_version(self) -> None:
        campaign = {"status": "ACTIVE", "campaignArn": "c", "solutionVersionArn": "arn:s/$LATEST"}
        (line,) = personalize._of_campaign(campaign)
        assert "--solution-version-arn VERSION_ARN" in line

    def test_what_is_not_active(self, world: World, service: Personalize) -> None:
        world.service.faults.append(Fault("CreateCampaign", "create_failed"))
        arn = world.client().create_campaign(name="new", solutionVersionArn=service.campaign().version)["campaignArn"]
        new = connect(replace(world.resources, campaign_arn=arn))
        assert new.problems() == [f"the campaign {arn} is CREATE PENDING: accepted is ACTIVE"]
        world.clock.pass_by(2 * DEPLOYMENT)
        assert new.problems() == [f"the campaign {arn} is CREATE FAILED: accepted is ACTIVE"]
        assert new.campaign().progress.status == Status.FAILED
        assert "is DELETE PENDING" in next(personalize._of_solution({"status": "DELETE PENDING"}, world.resources))

    def test_data_that_the_solution_does_not_learn_from(self, world: World) -> None:
        other = world.shop.dataset_arn.replace("dataset/shop/", "dataset/other/")
        (line,) = connect(replace(world.resources, dataset_arn=other)).problems()
        assert "learns from the dataset group shop" in line and other in line


class TestConnect:
    def test_campaigns_of_a_region_share_a_client_and_threads_make_one(self, world: World) -> None:
        personalize._CLIENTS.clear()
        found: list[Personalize] = []
        ready = threading.Barrier(8)

        def make() -> None:
            ready.wait()
            found.append(connect(world.resources))

        threads = [threading.Thread(target=make) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len({id(each.client) for each in found}) == 1 and len(personalize._CLIENTS) == 1
        assert found[0].client.meta.region_name == "eu-central-1"

    def test_other_settings_are_another_client(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        before = connect(world.resources)
        monkeypatch.setenv("AWS_ENDPOINT_URL_PERSONALIZE", "http://127.0.0.1:9")
        after = connect(world.resources)
        assert after.client is not before.client and after.client.meta.endpoint_url == "http://127.0.0.1:9"

    def test_its_calls_are_over_well_within_the_margin_and_say_whose_they_are(self, world: World) -> None:
        from orchestration.refresh.policy import Policy

        config = connect(world.resources).client.meta.config
        assert "clv-pipelines" in config.user_agent
        assert (config.connect_timeout, config.read_timeout) == (5, 30)
        assert config.retries["mode"] == "standard" and config.retries["total_max_attempts"] == 3
        longest_pause = 20  # of botocore's standard mode
        assert 3 * (5 + 30) + 2 * longest_pause < Policy().margin_seconds / 2

    @pytest.mark.parametrize(
        ("field", "value", "accepted"),
        [
            ("dataset_arn", "shop", "arn:aws:personalize:REGION:ACCOUNT:dataset/"),
            ("solution_arn", "arn:aws:personalize:eu-central-1:000000000000:campaign/shop", "ACCOUNT:solution/"),
            ("campaign_arn", "arn:aws:personalize:us-east-1:000000000000:campaign/shop", "the region eu-central-1"),
            ("role_arn", "personalize", "arn:aws:iam::ACCOUNT:role/NAME"),
        ],
    )
    def test_what_is_no_arn_is_one_line(self, world: World, field: str, value: str, accepted: str) -> None:
        with pytest.raises(UsageError, match=re.escape(f"{field} '{value}' is not usable: accepted is ")) as told:
            connect(replace(world.resources, **{field: value}))
        assert accepted in str(told.value)

    def test_a_region_that_is_not_the_arns(self, world: World) -> None:
        with pytest.raises(UsageError, match=r"dataset_arn .* one of the region us-east-1"):
            connect(world.resources, "us-east-1")

    def test_without_boto3_it_says_what_to_install(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "boto3", None)
        with pytest.raises(UsageError, match=r"pip install 'clv-pipelines\[aws\]'"):
            connect(world.resources)

    def test_importing_it_is_light(self) -> None:
        code = "import sys; import orchestration.refresh.personalize; print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert not {"boto3", "botocore", "apache_beam"} & set(done.stdout.split())
