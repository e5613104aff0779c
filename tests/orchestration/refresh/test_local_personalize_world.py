"""The ground of the tests of the local Amazon Personalize: a clock that is set by hand, and both ways to the service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import Fault, LocalPersonalize
from orchestration.refresh.local_personalize.resources import RECIPE, Shop, create_shop
from orchestration.refresh.local_personalize.server import Server
from transforms.errors import JobFailed

SESSION = boto3.Session(aws_access_key_id="id", aws_secret_access_key="secret", region_name="eu-central-1")
ROLE = "arn:aws:iam::000000000000:role/personalize"


class Clock:
    """Epoch seconds that only go on when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def boto3_client(url: str, **config: Any) -> Any:
    return SESSION.client("personalize", endpoint_url=url, config=Config(**config))


@dataclass
class World:
    """A service, a client of it, and a shop."""

    service: LocalPersonalize
    client: Any
    clock: Clock
    shop: Shop

    def start_import(
        self, name: str, mode: str = "FULL", location: str = "s3://shop/interactions/", **more: Any
    ) -> str:
        return self.client.create_dataset_import_job(
            jobName=name,
            datasetArn=self.shop.dataset_arn,
            dataSource={"dataLocation": location},
            roleArn=ROLE,
            importMode=mode,
            **more,
        )["datasetImportJobArn"]

    def start_training(self, name: str | None = None, mode: str = "FULL", solution: str | None = None) -> str:
        named = {"name": name} if name else {}
        solution = solution or self.shop.solution_arn
        return self.client.create_solution_version(solutionArn=solution, trainingMode=mode, **named)[
            "solutionVersionArn"
        ]

    def trained(self, name: str | None = None, **more: Any) -> str:
        """A version that is ACTIVE."""
        arn = self.start_training(name, **more)
        self.clock.pass_by(5)
        assert self.version(arn)["status"] == "ACTIVE"
        return arn

    def new_solution(self, name: str, **more: Any) -> str:
        return self.client.create_solution(
            **{"name": name, "datasetGroupArn": self.shop.dataset_group_arn, "recipeArn": RECIPE, **more}
        )["solutionArn"]

    def deploy(self, version: str, **more: Any) -> None:
        self.client.update_campaign(campaignArn=self.shop.campaign_arn, solutionVersionArn=version, **more)

    def job(self, arn: str) -> dict[str, Any]:
        return self.client.describe_dataset_import_job(datasetImportJobArn=arn)["datasetImportJob"]

    def version(self, arn: str) -> dict[str, Any]:
        return self.client.describe_solution_version(solutionVersionArn=arn)["solutionVersion"]

    def solution(self, arn: str | None = None) -> dict[str, Any]:
        return self.client.describe_solution(solutionArn=arn or self.shop.solution_arn)["solution"]

    def campaign(self) -> dict[str, Any]:
        return self.client.describe_campaign(campaignArn=self.shop.campaign_arn)["campaign"]

    @contextmanager
    def refused(self, code: str, *words: str) -> Iterator[None]:
        """The call inside is refused with the code, by the exception that boto3 has for it, and says the words."""
        with pytest.raises(getattr(self.client.exceptions, code, ClientError)) as caught:
            yield
        assert caught.value.response["Error"]["Code"] == code
        for word in words:
            assert word in str(caught.value)


@contextmanager
def a_world(way: str = "http", with_shop: bool = True, **settings: Any) -> Iterator[World]:
    """``way``: "http" is boto3 over a socket, "in_process" the client without one."""
    clock = Clock()
    service = LocalPersonalize(clock, **settings)
    with Server(service) as server:
        client = boto3_client(server.url, retries={"mode": "standard", "total_max_attempts": 1})
        client = client if way == "http" else Client(service)
        none = Shop("", "", "", "", "", "")
        yield World(service, client, clock, create_shop(client, wait=clock.pass_by) if with_shop else none)


@pytest.mark.parametrize("way", ["http", "in_process"])
def test_a_shop_is_made_by_the_api_alone(way: str) -> None:
    with a_world(way) as world:
        start = "arn:aws:personalize:eu-central-1:000000000000:"
        assert world.shop.dataset_group_arn == f"{start}dataset-group/shop"
        assert world.shop.dataset_arn == f"{start}dataset/shop/INTERACTIONS"
        assert world.shop.solution_arn == f"{start}solution/shop"
        assert world.shop.campaign_arn == f"{start}campaign/shop"
        campaign = world.campaign()
        assert campaign["status"] == "ACTIVE"
        assert campaign["solutionVersionArn"] == next(iter(world.service.versions))
        assert "latestCampaignUpdate" not in campaign
        assert world.solution()["performAutoTraining"] is False
        assert world.clock.now - 1_800_000_000 == pytest.approx(10, abs=0.2)  # 3 + 5 + 2 seconds, by the clock alone


def test_a_shop_that_cannot_be_made_says_why() -> None:
    clock = Clock()
    service = LocalPersonalize(clock)
    service.faults.append(Fault("CreateDatasetImportJob", "create_failed", reason="no access to the bucket"))
    with pytest.raises(JobFailed, match="dataset-import-job/shop-first is in CREATE FAILED: no access to the bucket"):
        create_shop(Client(service), wait=clock.pass_by)


def test_a_shop_with_a_clock_that_stands_still_ends() -> None:
    with pytest.raises(JobFailed, match="is not ACTIVE after 120 seconds"):
        create_shop(Client(LocalPersonalize(Clock())), wait=lambda _: None)
