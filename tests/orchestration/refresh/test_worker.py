"""The worker on single days: what it asks, what it writes, what it refuses. Orders of events are test_schedules.py's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestration.refresh import reconcile, reopen
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.ledger import record_of, row_of_head
from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import Fault
from orchestration.refresh.record import Record, State
from orchestration.refresh.service import NoAccess
from orchestration.refresh.worker import Worker
from tests.orchestration.refresh.schedules import BASIC, TO_THE_END, Run, Schedule, Step
from tests.orchestration.refresh.world import CAMPAIGN, DAYS, METRIC, World
from transforms.errors import UsageError

DAY = DAYS[0]
POLICY = BASIC.policy
START: Step = ("go", 0, "start", 0, TO_THE_END)


def at(*steps: Step) -> tuple[World, Worker]:
    """A world after these steps, and a worker in it."""
    run = Run(Schedule(BASIC, steps))
    for step in steps:
        run.one(step)
    return run.world, run.world.begin(9, "tick", DAY).worker


def record(world: World, day: int = 0) -> Record:
    row = world.ledger.row(DAYS[day].isoformat())
    assert row is not None
    return record_of(CAMPAIGN, DAYS[day], row)


def test_a_start_does_no_more_than_that() -> None:
    world, worker = at()
    asked = len(world.service.calls)
    begun, new = worker.start(DAY, "s3://shop/data", "an event")
    assert new and begun.state == State.STARTED and begun.revision == 1
    again, new = worker.start(DAY, "s3://shop/data", "the same event")
    assert not new and again == begun
    assert worker.ledger.head(CAMPAIGN).open == (DAY,)
    assert len(world.service.calls) == asked


def test_a_start_keeps_its_data() -> None:
    _, worker = at(START)
    with pytest.raises(UsageError, match=r"was started with the data 's3://shop/2026-03-02', not 's3://other'"):
        worker.start(DAY, "s3://other", "an event")


def test_there_is_no_refresh_to_tick() -> None:
    _, worker = at()
    assert worker.tick(DAY) is None


def test_an_idle_tick_asks_one_thing_and_writes_nothing() -> None:
    world, worker = at(START, ("settle", 3))
    before, asked = record(world), len(world.service.calls)
    ticked = worker.tick(DAY)
    assert ticked is not None and ticked.record.state == State.TRAINING_IN_PROGRESS
    assert [call.operation for call in world.service.calls[asked:]] == ["DescribeSolutionVersion"]
    assert record(world) == before
    assert ticked.until > world.time()


def test_a_deployment_is_done_when_the_service_says_so() -> None:
    world, worker = at(START, ("settle", 9))
    assert record(world).state == State.DEPLOYMENT_IN_PROGRESS
    assert world.watch.head().serving is None
    world.advance(700)
    worker.tick(DAY)
    assert record(world).state == State.DEPLOYMENT_ACTIVE
    assert world.watch.head().serving.version == record(world).version
    assert record(world).replaced_version == world.first_version


@pytest.mark.parametrize(
    ("steps", "action", "said"),
    (
        ((), "retry", "has no refresh of 2026-03-02"),
        ((START,), "retry", "is started: accepted for --retry are"),
        ((START, ("settle", 12)), "retry", "is deployment_active"),
        ((), "rollback", "serves no version that a refresh of this ledger deployed"),
        ((START, ("settle", 12)), "rollback of another", "serves the version of 2026-03-02, not of 2026-03-03"),
        ((START, ("settle", 12), ("go", 1, "rollback", 0, TO_THE_END), ("settle", 3)), "rollback", "deployed"),
    ),
)
def test_what_is_refused(steps: tuple[Step, ...], action: str, said: str) -> None:
    world, worker = at(*steps)
    before = dict(world.watch.rows)
    with pytest.raises(UsageError, match=said):
        if action == "retry":
            reopen.retry(worker, DAY, "a person")
        else:
            reopen.rollback(worker, DAYS[1] if "another" in action else None, "a person")
    assert world.watch.rows == before


def test_a_rollback_asked_for_twice_is_one() -> None:
    world, worker = at(START, ("settle", 12))
    asked = reopen.rollback(worker, None, "a person")
    assert asked.state == State.ROLLBACK_REQUESTED
    assert reopen.rollback(worker, DAY, "the same person") == asked
    worker.tick(DAY)
    world.advance(700)
    worker.tick(DAY)
    assert record(world).state == State.ROLLED_BACK
    campaign = world.service.campaigns[world.resources.campaign_arn]
    assert campaign.solution_version_arn == world.first_version and len(campaign.updates) == 2


@pytest.mark.parametrize(
    ("operation", "kind", "failed", "goes_on"),
    (
        ("CreateDatasetImportJob", "create_failed", State.IMPORT_FAILED, State.STARTED),
        ("CreateSolutionVersion", "create_failed", State.TRAINING_FAILED, State.IMPORT_ACTIVE),
        ("CreateSolutionVersion", "stopped", State.TRAINING_STOPPED, State.IMPORT_ACTIVE),
        ("UpdateCampaign", "create_failed", State.DEPLOYMENT_FAILED, State.TRAINING_ACTIVE),
    ),
)
def test_a_retry_goes_on_from_the_step_that_failed(operation: str, kind: str, failed: State, goes_on: State) -> None:
    world, worker = at(("fault", operation, kind, 1), START, ("settle", 13))
    assert record(world).state == failed
    again = reopen.retry(worker, DAY, "a person")
    assert again.state == goes_on
    for _ in range(14):
        worker.tick(DAY)
        world.advance(700)
    assert record(world).state == State.DEPLOYMENT_ACTIVE
    assert world.service.count(operation) == 2 + (operation != "UpdateCampaign")  # the shop's own
    assert record(world).attempt == (1 if operation == "UpdateCampaign" else 2)


@pytest.mark.parametrize("operation", ("CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign"))
def test_a_lost_reply_makes_nothing_twice(operation: str) -> None:
    world, _ = at(("fault", operation, "lost_reply", 1), START, ("settle", 16))
    assert record(world).state == State.DEPLOYMENT_ACTIVE
    assert len(world.service.imports) == len(world.service.versions) == 2  # the shop's own, and ours
    assert len(world.service.campaigns[world.resources.campaign_arn].updates) == 1


def test_the_log_has_a_line_for_each_event_and_decision() -> None:
    _, worker = at(START)
    lines: list[dict[str, Any]] = []
    worker.log = lines.append
    worker.tick(DAY)
    assert {"state", "decision"} == {line["event"] for line in lines}
    assert all(line["at"] and line["campaign"] == CAMPAIGN and line["why"] for line in lines)
    assert [line["state"] for line in lines if line["event"] == "state"] == [
        "started", "validated", "import_requested", "import_in_progress",
    ]  # fmt: skip


def test_what_somebody_else_deployed_is_known_after_a_sweep() -> None:
    world, worker = at(START, ("settle", 12), ("outsider", 0))
    world.advance(700)
    (line,) = reconcile.reconcile(worker)
    assert "which no refresh made" in line
    assert world.watch.head().serving.base_date is None
    assert reconcile.reconcile(worker) == []


def test_a_retry_reads_the_data_again_that_somebody_has_changed() -> None:
    world, worker = at(("fault", "CreateDatasetImportJob", "create_failed", 1), START, ("settle", 13))
    worker.read = lambda directory: replace(world.data(directory), failed=("rows is 3, accepted is at least 1,000",))  # type: ignore[type-var]
    reopen.retry(worker, DAY, "a person")
    worker.tick(DAY)
    assert (record(world).state, record(world).reason) == (State.REJECTED, "rows is 3, accepted is at least 1,000")


def test_an_import_that_was_given_up_and_goes_on_is_not_made_again() -> None:
    world, worker = at(("fault", "CreateDatasetImportJob", "slow", 1), START, ("settle", 1))
    world.advance(POLICY.import_hours * 3_600)
    worker.tick(DAY)
    assert record(world).state == State.IMPORT_FAILED
    reopen.retry(worker, DAY, "a person")
    worker.tick(DAY)
    assert (record(world).state, record(world).attempt) == (State.IMPORT_IN_PROGRESS, 1)
    assert len(world.service.imports) == 2  # the shop's own, and ours


def test_a_service_that_is_busy_for_ever_does_not_keep_a_refresh_for_ever() -> None:
    world, worker = at(START, ("settle", 3))
    assert record(world).state == State.TRAINING_IN_PROGRESS
    world.service.faults.append(Fault("DescribeSolutionVersion", "throttled", 10**6))
    world.advance(3_600)
    worker.tick(DAY)
    assert record(world).state == State.TRAINING_IN_PROGRESS
    world.advance(POLICY.training_hours * 3_600)
    worker.tick(DAY)
    assert record(world).state == State.TRAINING_FAILED
    assert "not done within" in record(world).reason and "Throttl" in record(world).reason


def test_data_that_may_not_be_read_are_a_matter_of_access_until_their_time_is_over() -> None:
    world, worker = at(START)

    def read(directory: str) -> Data | None:
        raise OSError("When getting information for key 'manifest.json': AWS Error ACCESS_DENIED during HeadObject")

    worker.read = read
    with pytest.raises(NoAccess, match="needs to list and to read what is there"):
        worker.tick(DAY)
    world.advance(POLICY.data_hours * 3_600)
    worker.tick(DAY)
    assert record(world).state == State.REJECTED and "ACCESS_DENIED" in record(world).reason


def test_a_version_is_judged_that_somebody_has_the_campaign_serve_before() -> None:
    """It is compared with what was served before it."""
    world, worker = at(START, ("settle", 14), ("go", 0, "start", 1, TO_THE_END))
    second = DAYS[1]
    while (later := record(world, 1)).state != State.TRAINING_IN_PROGRESS:
        world.advance(600)
        worker.tick(second)
        later = record(world, 1)
    world.advance(4_000)
    world.service.metrics = {later.name: {METRIC: 0.01}, record(world).name: {METRIC: 0.5}}
    Client(world.service).update_campaign(campaignArn=world.resources.campaign_arn, solutionVersionArn=later.version)
    world.advance(4_000)
    worker.tick(second)
    assert record(world, 1).state == State.REJECTED
    assert record(world, 1).reason.endswith("and yet somebody has the campaign serve it")
    assert record(world, 1).replaced_version == record(world).version


def test_a_rollback_goes_back_from_what_the_ledger_says_or_not_at_all() -> None:
    world, worker = at(START, ("settle", 14), ("outsider", 0))
    world.advance(700)
    with pytest.raises(UsageError, match="as the ledger says: sweep first"):
        reopen.rollback(worker, None, "a person")


def test_a_rollback_that_was_given_up_and_came_after_all_is_known() -> None:
    world, worker = at(START, ("settle", 14), ("fault", "UpdateCampaign", "slow", 1))
    reopen.rollback(worker, None, "a person")
    worker.tick(DAY)
    world.advance(POLICY.deployment_hours * 3_600)
    worker.tick(DAY)
    assert record(world).state == State.ROLLBACK_FAILED
    world.advance(100_000)
    reconcile.reconcile(worker)
    assert record(world).state == State.ROLLED_BACK
    assert world.watch.head().serving.version == record(world).rollback_to


def test_an_increment_waits_for_the_refresh_that_may_close_its_gap() -> None:
    world, worker = at(START)
    day = DAYS[1]
    worker.policy = replace(worker.policy, import_mode="INCREMENTAL")
    part = Data("s3://shop/", "INCREMENTAL", 2_000, 50, "part", DAY, day)
    worker.read = lambda directory: part
    worker.start(day, "s3://shop/part", "an event")
    worker.tick(day)
    assert record(world, 1).state == State.STARTED
    world.ledger._write(CAMPAIGN, "head", row_of_head(replace(worker.ledger.head(CAMPAIGN).left(DAY), revision=99)),
                        worker.ledger.head(CAMPAIGN).revision)  # fmt: skip
    worker.tick(day)
    assert record(world, 1).state == State.REJECTED and "nothing was imported before" in record(world, 1).reason


def test_an_update_is_built_on_a_full_training_that_is_served() -> None:
    world, worker = at(START, ("settle", 14))
    assert worker.ledger.head(CAMPAIGN).full_training == DAY
    reopen.rollback(worker, None, "a person")
    for _ in range(4):
        worker.tick(DAY)
        world.advance(700)
    assert record(world).state == State.ROLLED_BACK and worker.ledger.head(CAMPAIGN).full_training is None
