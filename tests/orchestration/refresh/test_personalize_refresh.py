"""Whole refreshes on Amazon Personalize by boto3: a worker and its ledger, and what goes wrong on the way."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestration.notify import Event
from orchestration.refresh import reopen
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.local_personalize.core import Durations, Fault
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import Record, State
from orchestration.refresh.service import NoAccess
from orchestration.refresh.sqlite_ledger import SqliteLedger
from orchestration.refresh.worker import Worker
from tests.orchestration.refresh.test_personalize_world import BEGIN, World, a_world

IMPORT, TRAINING, DEPLOYMENT = 1_800, 7_200, 1_200
FIRST = BEGIN.date()
SECOND = FIRST + datetime.timedelta(days=7)
CREATES = ["CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign"]
WHOLE = [
    "started", "validated", "import_requested", "import_in_progress", "import_active", "training_requested",
    "training_in_progress", "training_active", "deployment_requested", "deployment_in_progress", "deployment_active",
]  # fmt: skip


def data_of(location: str) -> Data:
    until = datetime.date.fromisoformat(location.rpartition("/")[2])
    return Data(f"{location}/data/", "FULL", 5_000, 300, f"of {until}", None, until)


class Shop:
    """A worker for the campaign, whose time passes while it waits."""

    def __init__(self, world: World, ledger: SqliteLedger, policy: Policy | None = None) -> None:
        self.world, self.ledger, self.events = world, ledger, list[Event]()
        policy = policy or Policy(least_metric_ratio=0)
        self.worker = Worker(
            ledger, "shop", world.connect(), policy,
            read=data_of, tell=self.events.append, log=lambda _: None, clock=world.clock, draw=lambda: 1.0,
        )  # fmt: skip

    def refresh(self, base_date: datetime.date = FIRST) -> Record:
        self.worker.start(base_date, f"s3://shop-data/{base_date}", "a test")
        return self.on(base_date)

    def on(self, base_date: datetime.date = FIRST, until: Callable[[Record], bool] | None = None) -> Record:
        """Ticks whenever it is worth it, until the refresh has ended."""
        for _ in range(2_000):
            ticked = self.worker.tick(base_date)
            assert ticked is not None
            record = ticked.record
            if record.state.is_end or (until and until(record)):
                return record
            self.world.clock.now = max(self.world.clock.now, ticked.until)
        raise AssertionError(f"no end: {record}")

    @property
    def served(self) -> str:
        """The name of the version that the campaign serves."""
        version = self.world.service.campaigns[self.world.shop.campaign_arn].solution_version_arn
        return str(self.world.service.versions[version].name)

    def made(self, operation: str) -> int:
        """How many there are of what an operation makes."""
        service = self.world.service
        if operation == "UpdateCampaign":
            return len(service.campaigns[self.world.shop.campaign_arn].updates)
        table = service.imports if operation == "CreateDatasetImportJob" else service.versions
        return len(table) - 1  # the shop's first


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with a_world(
        monkeypatch, Durations(IMPORT, TRAINING, DEPLOYMENT, pending_seconds=60), imports=2, trainings=2
    ) as it:
        yield it


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[SqliteLedger]:
    made = SqliteLedger(str(tmp_path / "ledger.db"))
    yield made
    made.close()


@pytest.fixture
def shop(world: World, ledger: SqliteLedger) -> Shop:
    return Shop(world, ledger)


def test_a_refresh_imports_trains_and_deploys(shop: Shop) -> None:
    before = len(shop.world.service.calls)
    record = shop.refresh()
    assert [str(each.state) for each in record.history] == WHOLE
    assert shop.served == "shop-20261101"
    (job,) = [each for each in shop.world.service.imports.values() if each.name == "shop-20261101"]
    assert job.location == f"s3://shop-data/{FIRST}/data/"
    assert shop.world.service.versions[record.version].trained_on == (job.arn,)
    assert [each.event for each in shop.events] == [f"refresh_{state}" for state in WHOLE]
    assert [shop.made(operation) for operation in CREATES] == [1, 1, 1]
    took = shop.world.clock.now - record.began
    assert IMPORT + TRAINING + DEPLOYMENT <= took.total_seconds() < IMPORT + TRAINING + DEPLOYMENT + 200
    calls = shop.world.asked(before)
    assert calls.count("DescribeSolution") == 1 and "ListSolutionVersions" not in calls


def test_where_nothing_happens_a_tick_asks_once_and_writes_nothing(shop: Shop) -> None:
    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    record = shop.on(until=lambda record: record.state == State.TRAINING_IN_PROGRESS)
    before = len(shop.world.service.calls)
    for _ in range(5):
        shop.world.clock.pass_by(60)
        ticked = shop.worker.tick(FIRST)
        assert ticked is not None and ticked.record.revision == shop.ledger.record("shop", FIRST).revision  # type: ignore[union-attr]
        assert ticked.record.state == record.state
    assert shop.world.asked(before) == ["DescribeSolutionVersion"] * 5


@pytest.mark.parametrize("operation", CREATES)
@pytest.mark.parametrize("kind", ["lost_reply", "lost_request"])
@pytest.mark.parametrize("times", [1, 3])
def test_a_lost_answer_costs_time_and_nothing_else(shop: Shop, operation: str, kind: str, times: int) -> None:
    shop.world.service.faults.append(Fault(operation, kind, times))
    record = shop.refresh()
    assert record.state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"
    assert [shop.made(each) for each in CREATES] == [1, 1, 1]


@pytest.mark.parametrize("operation", CREATES)
def test_a_process_that_dies_in_a_call_is_taken_over_from(shop: Shop, ledger: SqliteLedger, operation: str) -> None:
    made = shop.world.service.call

    def die(name: str, given: object) -> dict[str, object]:
        made(name, given)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    client = shop.worker.service.client  # type: ignore[attr-defined]

    class Dying:
        meta = client.meta

        def __getattr__(self, name: str) -> object:
            wanted = "".join(each.title() for each in name.split("_"))
            return (lambda **given: die(operation, given)) if wanted == operation else getattr(client, name)

    shop.worker.service.client = Dying()  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        shop.on()
    record = Shop(shop.world, ledger).on()
    assert record.state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"
    assert [shop.made(each) for each in CREATES] == [1, 1, 1]


@pytest.mark.refresh
@pytest.mark.parametrize(("operation", "kind"), zip(CREATES, ["throttled", "quota", "unavailable"], strict=True))
def test_a_service_that_is_busy_is_waited_for(shop: Shop, operation: str, kind: str) -> None:
    shop.world.service.faults.append(Fault(operation, kind, 4))
    record = shop.refresh()
    assert record.state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"
    assert [shop.made(each) for each in CREATES] == [1, 1, 1]
    assert shop.world.service.count(operation) == 5 + (operation != "UpdateCampaign")


@pytest.mark.refresh
def test_a_full_quota_is_waited_for(shop: Shop) -> None:
    client, other = shop.world.client(), shop.world.shop
    for name in ("a", "b"):
        client.create_solution_version(name=name, solutionArn=other.solution_arn)
        shop.world.clock.pass_by(2_400)
    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    record = shop.on(until=lambda record: record.tries > 0)
    assert record.state == State.TRAINING_REQUESTED
    assert "LimitExceededException: 2 solution versions are in progress" in record.note
    assert shop.on().state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"


def test_somebodys_import_is_waited_for(shop: Shop) -> None:
    shop.world.client().create_dataset_import_job(
        jobName="by-hand", datasetArn=shop.world.shop.dataset_arn, dataSource={"dataLocation": "s3://x/"},
        roleArn=shop.world.shop.role_arn,
    )  # fmt: skip
    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    record = shop.on(until=lambda record: record.tries > 0)
    assert record.note == "the import by-hand of the same data set is CREATE PENDING"
    assert shop.on().state == State.DEPLOYMENT_ACTIVE


@pytest.mark.parametrize(
    ("operation", "kind", "state"),
    [
        ("CreateDatasetImportJob", "create_failed", State.IMPORT_FAILED),
        ("CreateSolutionVersion", "create_failed", State.TRAINING_FAILED),
        ("CreateSolutionVersion", "stopped", State.TRAINING_STOPPED),
        ("UpdateCampaign", "create_failed", State.DEPLOYMENT_FAILED),
    ],
)
def test_a_job_that_ends_badly_and_a_persons_retry(shop: Shop, operation: str, kind: str, state: State) -> None:
    shop.world.service.faults.append(Fault(operation, kind, reason="Of the test."))
    record = shop.refresh()
    assert record.state == state and record.reason == ("CREATE STOPPED" if kind == "stopped" else "Of the test.")
    assert shop.served == "shop-first"
    reopen.retry(shop.worker, FIRST, "once more")
    assert shop.on().state == State.DEPLOYMENT_ACTIVE
    assert shop.served == ("shop-20261101" if operation == "UpdateCampaign" else "shop-20261101-2")


@pytest.mark.parametrize(
    ("operation", "hours", "state"),
    [
        ("CreateDatasetImportJob", "import_hours", State.IMPORT_FAILED),
        ("CreateSolutionVersion", "training_hours", State.TRAINING_FAILED),
        ("UpdateCampaign", "deployment_hours", State.DEPLOYMENT_FAILED),
    ],
)
def test_what_never_ends_has_its_time(
    world: World, ledger: SqliteLedger, operation: str, hours: str, state: State
) -> None:
    shop = Shop(world, ledger, Policy(least_metric_ratio=0, poll_seconds=600, **{hours: 5.0}))
    shop.world.service.faults.append(Fault(operation, "never"))
    record = shop.refresh()
    assert record.state == state and record.reason == "not done within 5 hours: CREATE IN_PROGRESS"
    if state == State.TRAINING_FAILED:
        assert "STOP" in shop.world.service.versions[record.version].status


def test_a_worse_version_is_not_deployed_unless_a_person_says_so(world: World, ledger: SqliteLedger) -> None:
    shop = Shop(world, ledger, Policy(least_metric_ratio=0.9))
    name = Policy().metric
    world.service.metrics = {"shop-first": {name: 0.5}, "shop-20261101": {name: 0.4}}
    record = shop.refresh()
    assert record.state == State.REJECTED and record.reason.startswith(
        f"{name} 0.4000, 0.80 of the 0.5000 that is served"
    )
    assert shop.served == "shop-first" and world.service.count("UpdateCampaign") == 0
    reopen.retry(shop.worker, FIRST, "the test set changed", {"metrics": "the test set changed"})
    assert shop.on().state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"


def test_training_by_itself_is_found_before_anything_is_imported(shop: Shop) -> None:
    client = shop.world.client()
    client.update_solution(solutionArn=shop.world.shop.solution_arn, performAutoTraining=True)
    record = shop.refresh()
    assert record.state == State.REJECTED and "--no-perform-auto-training" in record.reason
    assert [shop.made(each) for each in CREATES] == [0, 0, 0]
    client.update_solution(solutionArn=shop.world.shop.solution_arn, performAutoTraining=False)
    reopen.retry(shop.worker, FIRST, "turned off")
    assert shop.on().state == State.DEPLOYMENT_ACTIVE


def test_a_rollback_leads_to_the_version_before(shop: Shop) -> None:
    shop.refresh(FIRST)
    shop.world.clock.pass_by(7 * 86_400)
    shop.refresh(SECOND)
    assert shop.served == "shop-20261108"
    shop.world.service.faults.append(Fault("UpdateCampaign", "lost_reply"))
    reopen.rollback(shop.worker, None, "fewer clicks")
    assert shop.on(SECOND).state == State.ROLLED_BACK
    assert shop.served == "shop-20261101" and shop.made("UpdateCampaign") == 3
    head = shop.ledger.head("shop")
    assert head.serving is not None and head.serving.base_date == FIRST


def test_of_many_workers_at_once_one_acts(world: World, ledger: SqliteLedger) -> None:
    shops = [Shop(world, ledger) for _ in range(8)]
    shops[0].worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    for _ in range(12):
        with ThreadPoolExecutor(len(shops)) as pool:
            ticked = list(pool.map(lambda shop: shop.worker.tick(FIRST), shops))
        world.clock.pass_by(3_600)
        if all(each is not None and each.record.state.is_end for each in ticked):
            break
    assert shops[0].served == "shop-20261101"
    assert [world.service.count(each) for each in CREATES] == [2, 2, 1]  # the shop's first, and one of each
    assert sorted({(event.event, event.reason) for shop in shops for event in shop.events}) == sorted(
        (f"refresh_{each.state}", each.reason)
        for each in ledger.record("shop", FIRST).history  # type: ignore[union-attr]
    )


def test_a_later_refresh_does_not_make_a_training_worthless(shop: Shop) -> None:
    """The later one may fail; and where each came before the former's training is done, none would ever be served."""
    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    shop.on(until=lambda record: record.state == State.TRAINING_IN_PROGRESS)
    shop.worker.start(SECOND, f"s3://shop-data/{SECOND}", "a test")
    shop.on(SECOND, until=lambda record: record.state == State.TRAINING_IN_PROGRESS)
    assert shop.on(FIRST).state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"
    assert shop.on(SECOND).state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261108"


def test_what_a_later_refresh_overtook_is_stopped(shop: Shop) -> None:
    shop.world.service.faults.append(Fault("CreateSolutionVersion", "slow"))
    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    record = shop.on(until=lambda record: record.state == State.TRAINING_IN_PROGRESS)
    shop.worker.start(SECOND, f"s3://shop-data/{SECOND}", "a test")
    assert shop.on(SECOND).state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261108"
    assert shop.on(FIRST).state == State.SUPERSEDED
    assert shop.world.service.versions[record.version].status == "CREATE STOPPING"


def test_without_access_nothing_is_changed_and_later_it_goes_on(
    shop: Shop, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestration.refresh.local_personalize.core import ServiceError

    shop.worker.start(FIRST, f"s3://shop-data/{FIRST}", "a test")
    world.service.answers["CreateSolutionVersion"] = [ServiceError("AccessDeniedException", "No.")]
    with pytest.raises(NoAccess, match="personalize:CreateSolutionVersion"):
        shop.on()
    assert shop.ledger.record("shop", FIRST).state == State.TRAINING_REQUESTED  # type: ignore[union-attr]
    assert shop.on().state == State.DEPLOYMENT_ACTIVE and shop.served == "shop-20261101"
