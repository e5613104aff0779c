"""What the tests of Amazon Personalize by boto3 have in common: the local service over HTTP, and boto3 that is pointed at it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.config import Config

from orchestration.refresh.local_personalize.core import Durations, LocalPersonalize, Quotas, ServiceError
from orchestration.refresh.local_personalize.resources import Shop, create_shop
from orchestration.refresh.local_personalize.server import Server
from orchestration.refresh.personalize import Personalize, Resources, connect

SESSION = boto3.session.Session()  # one, for it reads the description of the service only once
BEGIN = datetime.datetime(2026, 11, 1, 6, tzinfo=datetime.UTC)


class Clock:
    """Of the service and of the workers."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime.datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def pass_by(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)


class Scripted(LocalPersonalize):
    """Answers the next calls of an operation with errors that the local service has no reason for."""

    answers: dict[str, list[ServiceError]]
    other_answers: set[str]  # of these operations, somebody else's

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.answers, self.other_answers = {}, set()

    def call(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        if waiting := self.answers.get(operation):
            raise waiting.pop(0)
        if operation in self.other_answers:
            return {"html": "Please sign in."}
        return super().call(operation, parameters)


@dataclass
class World:
    service: Scripted
    server: Server
    clock: Clock
    shop: Shop

    @property
    def resources(self) -> Resources:
        return Resources(self.shop.dataset_arn, self.shop.solution_arn, self.shop.campaign_arn, self.shop.role_arn)

    def connect(self) -> Personalize:
        return connect(self.resources)

    def once(self, **config: Any) -> Personalize:
        """The same with one attempt a call."""
        return Personalize(self.client(retries={"total_max_attempts": 1}, **config), self.resources)

    def client(self, **config: Any) -> Any:
        return SESSION.client("personalize", region_name="eu-central-1", config=Config(**config))

    def asked(self, since: int = 0) -> list[str]:
        """The operations that the service was asked for."""
        return [call.operation for call in self.service.calls[since:]]


@contextmanager
def a_world(monkeypatch: pytest.MonkeyPatch, durations: Durations, **quotas: int) -> Iterator[World]:
    """A shop whose campaign is ACTIVE; the environment points boto3 at its service."""
    clock = Clock()
    service = Scripted(clock.seconds, durations=durations, quotas=Quotas(**quotas))
    with Server(service) as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_ENDPOINT_URL_PERSONALIZE", server.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        client = SESSION.client("personalize", region_name="eu-central-1")
        shop = create_shop(client, wait=lambda _: clock.pass_by(600))
        client.close()
        yield World(service, server, clock, shop)
