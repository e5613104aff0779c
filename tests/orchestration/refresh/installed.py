"""An installation in a temporary directory: settings, data, a SQLite ledger, and the local service over HTTP."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestration.refresh.__main__ import main
from orchestration.refresh.ledger import open_ledger
from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import Durations, LocalPersonalize
from orchestration.refresh.local_personalize.resources import create_shop
from orchestration.refresh.local_personalize.server import Server
from orchestration.refresh.record import Head, Record
from transforms import storage

# Dates of the past: a base_date in the future is refused.
WEEK_1, WEEK_2, WEEK_3 = (datetime.date(2026, 3, day) for day in (1, 8, 15))
QUICK = Durations(import_seconds=0.03, training_seconds=0.03, deployment_seconds=0.03, pending_seconds=0.01)
# A whole refresh within a second; the margin is what QUICK answers are sure to need.
POLICY = "lease_seconds = 4\nmargin_seconds = 2\npoll_seconds = 0.05\nbusy_seconds = 0.05\nmost_busy_seconds = 0.2"


class Installed:
    """``service`` may be given faults and metrics; the current directory is the installation's."""

    def __init__(self, directory: Path, service: LocalPersonalize, names: tuple[str, ...]) -> None:
        self.directory, self.service = directory, service
        client = Client(service)
        self.shops = {name: create_shop(client, name, wait=lambda seconds: time.sleep(0.002)) for name in names}
        self.write(dict.fromkeys(names, POLICY))

    def write(self, policies: dict[str, str]) -> None:
        """The settings, with each campaign's policy."""
        tables = ['ledger = "sqlite://refresh.db"', "sinks = []"]
        for name, policy in policies.items():
            shop = self.shops[name]
            arns = "\n".join(
                f'{key} = "{getattr(shop, key)}"' for key in ("dataset_arn", "solution_arn", "campaign_arn", "role_arn")
            )
            tables.append(
                f'[campaigns.{name}]\ndata = "data/{name}/{{base_date}}"\n[campaigns.{name}.personalize]\n{arns}\n'
                f'[campaigns.{name}.event]\nsource = "aws.glue"\njob = "extract-behaviour"\n[campaigns.{name}.policy]\n{policy}'
            )
        (self.directory / "refresh.toml").write_text("\n".join(tables))

    def data(self, base_date: datetime.date, name: str = "shop", *, rows: int = 5000, bad: str = "") -> str:
        """A complete directory of interactions, as its manifest says; ``bad``: a check that it did not pass."""
        directory = f"data/{name}/{base_date}"
        checks = [{"check": "rows", "found": rows, "accepted": "at least 1,000", "passed": True}]
        if bad:
            checks.append({"check": bad, "found": 3, "accepted": "at least 25", "passed": False})
        content = {
            "mode": "FULL", "rows": rows, "users": 300, "fingerprint": f"{name}-{base_date}-{rows}",
            "data": f"s3://interactions/{name}/{base_date}/interactions", "since": None, "until": str(base_date),
            "last_at": f"{base_date}T00:00:00Z", "validation": checks,
        }  # fmt: skip
        storage.begin(directory, "interactions", {})
        storage.finish(directory, "interactions", {}, content)
        return directory

    def event(
        self, base_date: datetime.date, state: str = "SUCCEEDED", job: str = "extract-behaviour"
    ) -> dict[str, Any]:
        """As EventBridge delivers Glue's."""
        return {
            "version": "0", "id": "0c2a1f3e", "detail-type": "Glue Job State Change", "source": "aws.glue",
            "account": "000000000000", "time": f"{base_date}T03:00:05Z", "region": "eu-central-1", "resources": [],
            "detail": {"jobName": job, "severity": "INFO", "state": state, "jobRunId": "jr_1", "message": f"Job run {state}"},
        }  # fmt: skip

    def send(self, event: object) -> int:
        (self.directory / "event.json").write_text(json.dumps(event))
        return main(["start", "--event", "event.json"])

    def record(self, base_date: datetime.date, name: str = "shop") -> Record:
        record = self._ledger().record(name, base_date)
        assert record is not None
        return record

    def head(self, name: str = "shop") -> Head:
        return self._ledger().head(name)

    def _ledger(self) -> Any:
        return open_ledger("sqlite://refresh.db")

    def served(self, name: str = "shop") -> str:
        """By the service's own account."""
        described = self.service.call("DescribeCampaign", {"campaignArn": self.shops[name].campaign_arn})
        return str(described["campaign"]["solutionVersionArn"])

    def deploy(self, base_date: datetime.date, name: str = "shop") -> Record:
        """A whole refresh, by the command line."""
        self.data(base_date, name)
        assert main(["start", "--campaign", name, "--base_date", str(base_date), "--wait"]) == 0
        return self.record(base_date, name)


def installed(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *names: str, durations: Durations = QUICK
) -> Iterator[Installed]:
    """For a fixture."""
    service = LocalPersonalize(durations=durations)
    with Server(service) as server:
        for variable, value in {
            "AWS_ENDPOINT_URL_PERSONALIZE": server.url, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(variable, value)
        for variable in ("CLV_LOG", "CLV_REFRESH_SETTINGS", "COLUMNS"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.chdir(directory)
        yield Installed(directory, service, names or ("shop",))


def lines(text: str) -> list[str]:
    return text.strip().splitlines()
