"""From a Glue job's success to an updated campaign, step for step, as a person would look it up in DynamoDB.

Every poll is the command, as a scheduler or a Lambda would run it: it knows nothing but the settings, the table and the
service. DynamoDB and S3 are moto's over HTTP, the service is the local Personalize over HTTP; its clock goes on only where
the test says so.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from orchestration.refresh import demo_orders
from orchestration.refresh.__main__ import main
from orchestration.refresh.demo_story import glue_event
from orchestration.refresh.dynamodb_ledger import DynamoLedger, create_table
from orchestration.refresh.local_personalize.core import Durations, Fault, LocalPersonalize, s3_reader
from orchestration.refresh.local_personalize.resources import Shop, create_shop
from orchestration.refresh.local_personalize.server import Server
from orchestration.refresh.personalize import connect
from orchestration.refresh.policy import Policy
from orchestration.refresh.settings import read_settings
from orchestration.refresh.worker import Worker

TABLE, BUCKET, REGION = "refresh-ledger", "shop-interactions", "eu-central-1"
BASE_DATE = datetime.date(2025, 3, 3)
JOB_HOURS = 2
DATA = f"s3://{BUCKET}/{{base_date}}"
SETTINGS = """
ledger = "dynamodb://{table}?region={region}"
[campaigns.{name}]
data = "{data}"
[campaigns.{name}.personalize]
dataset_arn = "{shop.dataset_arn}"
solution_arn = "{shop.solution_arn}"
campaign_arn = "{shop.campaign_arn}"
role_arn = "{shop.role_arn}"
[campaigns.{name}.event]
source = "aws.glue"
job = "extract-behaviour"
"""


class Clock:
    """The time, and some hours."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def wait(self, seconds: float) -> None:
        self.ahead += seconds


@dataclass
class Installation:
    """What is there before the first event. Each test has a campaign of its own in it."""

    service: LocalPersonalize
    clock: Clock
    table: Any
    schema: dict[str, Any]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    with pytest.MonkeyPatch.context() as patch:
        host, port = moto.get_host_and_port()
        for name in ("S3", "DYNAMODB"):
            patch.setenv(f"AWS_ENDPOINT_URL_{name}", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        store = boto3.client("s3", region_name=REGION)
        store.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        _extract(tmp_path_factory.mktemp("orders"))
        schema = store.get_object(Bucket=BUCKET, Key=f"{BASE_DATE}/schema.avsc")["Body"].read()
        create_table(boto3.client("dynamodb", region_name=REGION), TABLE)
        clock, job = Clock(), JOB_HOURS * 3600.0
        # What is imported is read and checked.
        service = LocalPersonalize(clock, durations=Durations(job, job, job, 60.0), read_data=s3_reader(store))
        with Server(service) as server:
            patch.setenv("AWS_ENDPOINT_URL_PERSONALIZE", server.url)
            table = boto3.resource("dynamodb", region_name=REGION).Table(TABLE)
            yield Installation(service, clock, table, json.loads(schema))
    moto.stop()


def _extract(folder: Path) -> None:
    """The upstream job: the interactions until the base_date, in the bucket."""
    orders = str(folder / "orders.parquet")
    demo_orders.write_orders(orders)
    assert demo_orders.main(["--orders", orders, "--data", DATA, str(BASE_DATE)]) == 0


class Campaign:
    """One campaign, and what a person does and sees: events, polls, rows of the table, the service's console."""

    def __init__(self, installation: Installation, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.service, self.clock, self.table = installation.service, installation.clock, installation.table
        self.shop: Shop = create_shop(
            boto3.client("personalize", region_name=REGION), name, wait=lambda _: self.clock.wait(3600),
            location=DATA.format(base_date=BASE_DATE) + "/interactions", schema=installation.schema,
        )  # fmt: skip
        self.settings = str(folder / "refresh.toml")
        Path(self.settings).write_text(
            SETTINGS.format(table=TABLE, region=REGION, name=name, data=DATA, shop=self.shop)
        )
        self.first_version = self.serves()

    def deliver(self, event: dict[str, Any]) -> int:
        path = self.folder / "event.json"
        path.write_text(json.dumps(event))
        return main(["start", "--event", str(path), "--settings", self.settings])

    def poll(self) -> dict[str, Any]:
        """What the ledger's row says after it."""
        assert main(["tick", "--settings", self.settings]) == 0
        return self.row()

    def row(self, key: str = str(BASE_DATE)) -> dict[str, Any]:
        found = self.table.get_item(Key={"campaign_name": self.name, "base_date": key}, ConsistentRead=True)
        return found.get("Item", {})

    def hours_pass(self) -> None:
        self.clock.wait(JOB_HOURS * 3600 + 1)

    def serves(self) -> str:
        return self.service.campaigns[self.shop.campaign_arn].solution_version_arn

    def asked(self, operation: str) -> int:
        """How often the service did what the refresh asked for, by its own record."""
        names = (self.name, f"{self.name}-20250303")
        return sum(
            call.operation == operation and call.outcome in ("ok", "lost_reply")
            and (call.parameters.get("name") or call.parameters.get("jobName") or self.name) in names
            and self.shop.campaign_arn == call.parameters.get("campaignArn", self.shop.campaign_arn)
            for call in self.service.calls
        )  # fmt: skip


@pytest.fixture
def campaign(installation: Installation, tmp_path: Path, request: pytest.FixtureRequest) -> Campaign:
    """Named after its test, so that no test sees another's."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[-40:].strip("-")
    return Campaign(installation, name, tmp_path)


def states(row: dict[str, Any]) -> list[str]:
    return [each["state"] for each in row["history"]]


def test_from_the_events_success_to_the_updated_campaign(campaign: Campaign) -> None:
    # The upstream job has succeeded: a record, and nothing else.
    assert campaign.row() == {}
    assert campaign.deliver(glue_event(BASE_DATE, "jr_0303")) == 0
    row = campaign.row()
    assert row["state"] == "started" and "extract-behaviour" in row["reason"] and "jr_0303" in row["reason"]
    assert row["data"] == DATA.format(base_date=BASE_DATE)
    assert campaign.row("head")["open"] == ["2025-03-03"] and campaign.row("head")["latest"] == "2025-03-03"
    assert campaign.asked("CreateDatasetImportJob") == 0

    # The first poll: the data are validated, the import job is made, its name follows from campaign and base_date.
    row = campaign.poll()
    assert states(row) == ["started", "validated", "import_requested", "import_in_progress"]
    assert row["import_job"].endswith(f":dataset-import-job/{campaign.name}-20250303") and row["version"] == ""
    job = campaign.service.imports[row["import_job"]]
    assert (row["data_location"], row["import_mode"]) == (f"s3://{BUCKET}/2025-03-03/interactions", "FULL")
    assert (job.location, job.mode) == (f"{row['data_location']}/", "FULL")  # a folder, to the service
    assert row["lease_until"] is None and campaign.row("head")["importing"] == "2025-03-03"

    # While it is imported a poll writes nothing.
    assert campaign.poll() == row

    # ACTIVE: the solution version is asked for.
    campaign.hours_pass()
    row = campaign.poll()
    assert states(row)[4:] == ["import_active", "training_requested", "training_in_progress"]
    assert job.rows == row["data_rows"] == campaign.row("head")["imported_rows"] > 1_000
    version = campaign.service.versions[row["version"]]
    assert version.name == f"{campaign.name}-20250303" and version.trained_on == (row["import_job"],)
    assert campaign.poll() == row and campaign.asked("UpdateCampaign") == 0

    # ACTIVE: the new version is held against the one that is served, then the campaign's update is asked for.
    campaign.hours_pass()
    row = campaign.poll()
    assert states(row)[7:] == ["training_active", "deployment_requested", "deployment_in_progress"]
    assert row["replaced_version"] == campaign.first_version == campaign.serves() and row["metrics"]
    assert campaign.poll() == row and campaign.row("head")["serving"] is None

    # latestCampaignUpdate is ACTIVE: done.
    campaign.hours_pass()
    row = campaign.poll()
    assert states(row)[10:] == ["deployment_active"] and campaign.serves() == row["version"]
    head = campaign.row("head")
    assert (head["serving"]["version"], head["serving"]["base_date"]) == (row["version"], "2025-03-03")
    assert head["open"] == [] and head["deploying"] is None
    times = [datetime.datetime.fromisoformat(each["at"]) for each in row["history"]]
    assert times == sorted(times) and all(each["reason"] for each in row["history"])
    assert [campaign.asked(each) for each in ("CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign")] == [
        1
    ] * 3


def test_a_duplicate_event_buys_no_second_training(campaign: Campaign) -> None:
    event = glue_event(BASE_DATE, "jr_0303")
    for _ in range(4):
        assert campaign.deliver(event) == 0  # one more before each step, and after the last
        campaign.poll()
        campaign.hours_pass()
    row = campaign.poll()
    assert row["state"] == "deployment_active"
    assert campaign.deliver(event) == 0 and campaign.poll() == row
    assert campaign.asked("CreateSolutionVersion") == 1 and campaign.asked("CreateDatasetImportJob") == 1


class Overtaken(DynamoLedger):
    """Before some of its writes another poller does all that it can."""

    writes = 0

    def __init__(self, every: int, other: Callable[[], object]) -> None:
        super().__init__(TABLE, REGION)
        self.every, self.other = every, other

    def _write(self, campaign: str, key: str, row: dict[str, Any], expected: int) -> None:
        self.writes += 1
        if self.writes % self.every == 0:
            self.other()
        super()._write(campaign, key, row, expected)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_two_pollers_at_once_lose_no_update(campaign: Campaign, every: int) -> None:
    """moto's conditional writes are not atomic under threads, so the schedule is made by hand: each write is overtaken."""
    said: list[dict[str, Any]] = []
    resources = read_settings(campaign.settings).campaigns[campaign.name].resources
    ledger = Overtaken(every, campaign.poll)
    campaign.deliver(glue_event(BASE_DATE, "jr_0303"))
    for _ in range(4):
        # A worker each time, as a Lambda would be.
        worker = Worker(ledger, campaign.name, connect(resources, REGION), Policy(), log=said.append)
        worker.tick(BASE_DATE)
        campaign.hours_pass()
    row = campaign.poll()
    assert any(each["event"] == "conflict" for each in said)  # they did meet
    assert states(row) == [
        "started", "validated", "import_requested", "import_in_progress", "import_active", "training_requested",
        "training_in_progress", "training_active", "deployment_requested", "deployment_in_progress", "deployment_active",
    ]  # fmt: skip
    assert row["told"] == len(row["history"]) and campaign.row("head")["open"] == []
    assert [campaign.asked(each) for each in ("CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign")] == [
        1
    ] * 3


@pytest.mark.parametrize(
    ("operation", "kind", "ended"),
    [
        ("CreateDatasetImportJob", "create_failed", "import_failed"),
        ("CreateSolutionVersion", "create_failed", "training_failed"),
        ("CreateSolutionVersion", "stopped", "training_stopped"),
        ("UpdateCampaign", "create_failed", "deployment_failed"),
    ],
)
def test_a_failed_job_ends_as_failed(campaign: Campaign, operation: str, kind: str, ended: str) -> None:
    of_ours = {
        "CreateDatasetImportJob": {"jobName": f"{campaign.name}-20250303"},
        "CreateSolutionVersion": {"name": f"{campaign.name}-20250303"},
        "UpdateCampaign": {"campaignArn": campaign.shop.campaign_arn},
    }
    campaign.service.faults.append(Fault(operation, kind, matching=of_ours[operation], reason="The role may not."))
    campaign.deliver(glue_event(BASE_DATE, "jr_0303"))
    for _ in range(4):
        campaign.poll()
        campaign.hours_pass()
    row = campaign.poll()
    assert row["state"] == ended
    assert row["reason"] == ("CREATE STOPPED" if kind == "stopped" else "The role may not.")
    assert campaign.serves() == campaign.first_version and campaign.row("head")["serving"] is None
    asked = campaign.asked(operation)
    campaign.hours_pass()
    assert campaign.poll() == row and campaign.asked(operation) == asked == 1  # no poll tries again by itself
    assert campaign.row("head")["open"] == []


def test_done_is_only_what_the_campaign_serves(campaign: Campaign) -> None:
    """UpdateCampaign's answer, and a campaign whose status is ACTIVE, say nothing: latestCampaignUpdate does."""
    update = {"campaignArn": campaign.shop.campaign_arn}
    campaign.service.faults.append(Fault("UpdateCampaign", "slow", matching=update))
    campaign.deliver(glue_event(BASE_DATE, "jr_0303"))
    for _ in range(2):
        campaign.poll()
        campaign.hours_pass()
    row = campaign.poll()
    client = boto3.client("personalize", region_name=REGION)
    for _ in range(3):
        seen = client.describe_campaign(campaignArn=campaign.shop.campaign_arn)["campaign"]
        assert campaign.asked("UpdateCampaign") == 1 and seen["status"] == "ACTIVE"
        assert seen["latestCampaignUpdate"]["solutionVersionArn"] == row["version"] != seen["solutionVersionArn"]
        assert campaign.poll()["state"] == "deployment_in_progress" and campaign.row("head")["serving"] is None
        campaign.hours_pass()
    campaign.clock.wait(100 * JOB_HOURS * 3600)
    assert campaign.poll()["state"] == "deployment_active" and campaign.serves() == row["version"]


def test_an_event_of_a_failed_job_begins_nothing(campaign: Campaign) -> None:
    failed = glue_event(BASE_DATE, "jr_0303")
    failed["detail"] |= {"state": "FAILED", "message": "No space left on device"}
    assert campaign.deliver(failed) == 0
    campaign.poll()
    assert campaign.row() == {} and campaign.asked("CreateDatasetImportJob") == 0
