"""Sixteen workers, threads or processes, do the same refresh at the same moment: one acts, whatever the step.

Their clock stands still while they race, so that what they write is the same to the last byte: only the ledger's
compare-and-set tells one from the others.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestration.refresh.dynamodb_ledger import connect as connect_dynamodb
from orchestration.refresh.dynamodb_ledger import create_table
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.ledger import Ledger, open_ledger
from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import Durations, LocalPersonalize
from orchestration.refresh.local_personalize.resources import create_shop
from orchestration.refresh.local_personalize.server import Server
from orchestration.refresh.personalize import Resources, connect
from orchestration.refresh.policy import FULL, Policy
from orchestration.refresh.record import State
from orchestration.refresh.worker import Worker
from tests.orchestration.refresh.dynamodb import TABLE, Dynalite, point_at

WORKERS = 16
DAYS = [datetime.date(2026, 7, day) for day in (1, 2, 3)]
STEP_SECONDS = 600.0
# A worker's race: what it does, the operation that one of all may ask for, and where the refresh is afterwards.
RACES = [
    ("CreateDatasetImportJob", State.IMPORT_IN_PROGRESS),
    ("CreateSolutionVersion", State.TRAINING_IN_PROGRESS),
    ("UpdateCampaign", State.DEPLOYMENT_IN_PROGRESS),
    (None, State.DEPLOYMENT_ACTIVE),
]
OPERATIONS = [operation for operation, _ in RACES if operation]


def read(directory: str) -> Data:
    return Data(f"{directory}/data", FULL, 5000, 500, f"the fingerprint of {directory}", None, DAYS[-1])


@dataclass
class Place:
    """The service, and the clock that it and all workers go by."""

    service: LocalPersonalize
    resources: Resources
    clock: Any

    def count(self) -> dict[str, int]:
        return {operation: self.service.count(operation) for operation in OPERATIONS}


def worker_of(ledger: Ledger, resources: Resources, clock: Any, told: list[str]) -> Worker:
    return Worker(
        ledger, "shop", connect(resources), Policy(least_metric_ratio=0.0),
        read=read, tell=lambda event: told.append(event.event),
        clock=lambda: datetime.datetime.fromtimestamp(clock.value, datetime.UTC),
    )  # fmt: skip


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    clock = multiprocessing.get_context("forkserver").Value("d", 1_782_900_000.0)  # 2026-07-01, 10:00

    def wait(seconds: float) -> None:
        clock.value += seconds

    service = LocalPersonalize(lambda: clock.value, durations=Durations(60, 60, 60))
    shop = create_shop(Client(service), wait=wait)
    with Server(service) as server:
        point_at(monkeypatch, server.url, "PERSONALIZE")
        yield Place(service, Resources(shop.dataset_arn, shop.solution_arn, shop.campaign_arn, shop.role_arn), clock)


@contextmanager
def sqlite(path: Path) -> Iterator[Callable[[], Ledger]]:
    """A connection for each worker."""
    yield lambda: open_ledger(f"sqlite://{path}/refresh.db")


@contextmanager
def dynalite(path: Path) -> Iterator[Callable[[], Ledger]]:
    """A client for all workers."""
    with Dynalite() as server, pytest.MonkeyPatch.context() as patch:
        point_at(patch, server.url)
        create_table(connect_dynamodb(), TABLE)
        ledger = open_ledger(f"dynamodb://{TABLE}")
        yield lambda: ledger


def hold(place: Place, ledger: Ledger, day: datetime.date, race: Callable[[], object]) -> None:
    """All races for one refresh, one after the other; between them the service has time for what it was asked."""
    for operation, state in RACES:
        before = place.count()
        race()
        asked = {name: number - before[name] for name, number in place.count().items()}
        assert asked == {name: int(name == operation) for name in OPERATIONS}
        record = ledger.record("shop", day)
        assert record is not None
        assert record.state == state
        place.clock.value += STEP_SECONDS
    campaign = place.service.call("DescribeCampaign", {"campaignArn": place.resources.campaign_arn})["campaign"]
    assert campaign["solutionVersionArn"] == record.version
    assert [each.state for each in record.history].count(State.IMPORT_REQUESTED) == 1
    head = ledger.head("shop")
    assert head.serving is not None
    assert (head.serving.version, head.open, head.importing, head.deploying) == (record.version, (), None, None)


@pytest.mark.parametrize("store", [sqlite, pytest.param(dynalite, marks=pytest.mark.refresh)])
def test_of_sixteen_threads_one_acts(place: Place, tmp_path: Path, store: Any) -> None:
    barrier = threading.Barrier(WORKERS)
    told: list[str] = []
    with store(tmp_path) as new_ledger, ThreadPoolExecutor(WORKERS) as pool:
        workers = [worker_of(new_ledger(), place.resources, place.clock, told) for _ in range(WORKERS)]

        def all_do(act: Callable[[Worker], Any]) -> list[Any]:
            def begin(worker: Worker) -> Any:
                barrier.wait(60)
                return act(worker)

            return list(pool.map(begin, workers))

        for day in DAYS:
            started = all_do(lambda worker, day=day: worker.start(day, f"s3://shop/{day}", "a test"))
            assert sum(new for _, new in started) == 1
            hold(place, workers[0].ledger, day, lambda day=day: all_do(lambda worker: worker.tick(day)))
            record = workers[0].ledger.record("shop", day)
            assert record is not None
            untold = {f"refresh_{each.state}" for each in record.history} - set(told)
            assert untold == set()
            told.clear()


def _work(uri: str, resources: Resources, clock: Any, barrier: Any, answers: Any, settings: dict[str, str]) -> None:
    """One process: starts each refresh, then ticks it once in every race. Its answers: whether it did, or what went wrong."""
    try:
        os.environ.update(settings)
        worker = worker_of(open_ledger(uri), resources, clock, [])
        for day in DAYS:
            barrier.wait(60)
            answers.put(worker.start(day, f"s3://shop/{day}", "a test")[1])
            for _ in RACES:
                barrier.wait(60)
                answers.put(worker.tick(day) is not None)
    except BaseException:
        answers.put(traceback.format_exc())
        barrier.abort()


def test_of_sixteen_processes_one_acts(place: Place, tmp_path: Path) -> None:
    uri = f"sqlite://{tmp_path}/refresh.db"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    barrier, answers = context.Barrier(WORKERS + 1), context.Queue()
    settings = {name: value for name, value in os.environ.items() if name.startswith("AWS_") or name == "no_proxy"}
    processes = [
        context.Process(target=_work, args=(uri, place.resources, place.clock, barrier, answers, settings), daemon=True)
        for _ in range(WORKERS)
    ]
    for process in processes:
        process.start()

    def race(acting: int = WORKERS) -> None:
        barrier.wait(60)
        found = Counter(answers.get(timeout=60) for _ in processes)
        assert found == {True: acting} | ({False: WORKERS - acting} if acting < WORKERS else {})

    for day in DAYS:
        race(acting=1)
        hold(place, open_ledger(uri), day, race)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
