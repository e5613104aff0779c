"""The worker on single days: what it asks, what it writes, what it refuses. Orders of events are test_schedules.py's."""

from __future__ import annotations

from typing import Any

import pytest

from orchestration.refresh.ledger import record_of
from orchestration.refresh.record import Record, State
from orchestration.refresh.worker import Worker
from tests.orchestration.refresh.schedules import BASIC, TO_THE_END, Run, Schedule, Step
from tests.orchestration.refresh.world import CAMPAIGN, DAYS, World
from transforms.errors import UsageError

DAY = DAYS[0]
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
            worker.retry(DAY, "a person")
        else:
            worker.rollback(DAYS[1] if "another" in action else None, "a person")
    assert world.watch.rows == before


def test_a_rollback_asked_for_twice_is_one() -> None:
    world, worker = at(START, ("settle", 12))
    asked = worker.rollback(None, "a person")
    assert asked.state == State.ROLLBACK_REQUESTED
    assert worker.rollback(DAY, "the same person") == asked
    worker.tick(DAY)
    world.advance(700)
    worker.tick(DAY)
    assert record(world).state == State.ROLLED_BACK
    campaign = world.service.campaigns[world.resources.campaign_arn]
    assert campaign.solution_version_arn == world.first_version and len(campaign.updates) == 2


@pytest.mark.parametrize(
    ("operation", "kind", "failed", "goes_on"),
    (
        ("CreateDatasetImportJob", "create_failed", State.IMPORT_FAILED, State.VALIDATED),
        ("CreateSolutionVersion", "create_failed", State.TRAINING_FAILED, State.IMPORT_ACTIVE),
        ("CreateSolutionVersion", "stopped", State.TRAINING_STOPPED, State.IMPORT_ACTIVE),
        ("UpdateCampaign", "create_failed", State.DEPLOYMENT_FAILED, State.TRAINING_ACTIVE),
    ),
)
def test_a_retry_goes_on_from_the_step_that_failed(operation: str, kind: str, failed: State, goes_on: State) -> None:
    world, worker = at(("fault", operation, kind, 1), START, ("settle", 13))
    assert record(world).state == failed
    again = worker.retry(DAY, "a person")
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
    (line,) = worker.reconcile()
    assert "which no refresh made" in line
    assert world.watch.head().serving.base_date is None
    assert worker.reconcile() == []
