"""A campaign with its service, its ledger and several workers, in one thread and one virtual time.

Every call that a worker makes (of the ledger, the service, the data, a sink) is a switching point: the worker stands
still before it until the schedule lets it go on, crashes it, or never comes back to it. A worker is a greenlet, so that
the real code runs, unchanged.
"""

from __future__ import annotations

import datetime
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ConnectionClosedError
from greenlet import getcurrent, greenlet

from orchestration.notify import Event
from orchestration.refresh import reconcile, reopen
from orchestration.refresh import worker as workers
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.ledger import HEAD, Conflict, Row
from orchestration.refresh.local_personalize.client import Client
from orchestration.refresh.local_personalize.core import Durations, Fault, LocalPersonalize, Quotas
from orchestration.refresh.local_personalize.resources import create_shop
from orchestration.refresh.personalize import Personalize, Resources
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import REQUESTED, job_name
from orchestration.refresh.service import Busy
from tests.orchestration.refresh.invariants import CHANGING, Watch
from tests.orchestration.refresh.memory_ledger import MemoryLedger
from transforms.errors import UsageError

CAMPAIGN = "shop"
DAYS = tuple(datetime.date(2026, 3, day) for day in range(2, 7))
METRIC = "normalized_discounted_cumulative_gain_at_25"
_BEGIN = datetime.datetime(2026, 3, 9, tzinfo=datetime.UTC).timestamp()
_SERVICE = Durations(import_seconds=900, training_seconds=3600, deployment_seconds=600, pending_seconds=60)
# How long a request may take at most, from the worker's look at its lease until the service does it: less than what
# the policy's margin leaves of the lease, the clocks' differences taken off.
UNDER_WAY_SECONDS = 180
SENT = (*CHANGING, "ListDatasetImportJobs")  # between the intent and the answer
SKEWS = (0, 0, -45, 45)


class Crash(BaseException):
    """The process is gone: nothing of it may run any more."""


@dataclass(frozen=True)
class DataPlan:
    """What the directory of a base_date is like. ``complete_after``: seconds from the beginning."""

    kind: str = "good"  # good, bad, small, same (as the day's before), increment, broken
    complete_after: float = 0
    gain: float = 0.5  # the metric of a version that is trained for this day


@dataclass(frozen=True)
class Setup:
    """What a schedule begins with."""

    policy: Policy = Policy()  # noqa: RUF009 - frozen
    plans: tuple[DataPlan, ...] = (DataPlan(),) * len(DAYS)
    outsiders: bool = False  # somebody else updates the campaign
    stalls: bool = False  # workers stand still with a request in hand for longer than their lease
    skews: tuple[int, ...] = SKEWS


@dataclass
class Process:
    """A worker at work. ``waits_for``: the call it is about to make; ``must_by``: when its request is with the service."""

    slot: int
    task: str
    greenlet: greenlet
    worker: workers.Worker
    base_date: datetime.date | None = None
    waits_for: str = ""
    must_by: float | None = None


@dataclass
class Packet:
    """A request that its sender has given up, and that the service has yet to get."""

    deadline: float
    deliver: Callable[[], None]


class WatchedLedger(MemoryLedger):
    """Every call is a switching point; every write is checked."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def _read(self, campaign: str, key: str) -> Row | None:
        self._world.switch("read")
        return super()._read(campaign, key)

    def _write(self, campaign: str, key: str, row: Row, expected: int) -> None:
        world = self._world
        world.switch("write")
        lost = world.ledger_faults.pop(0) if world.ledger_faults and world.process else ""
        if lost == "lost_request":
            world.counts["ledger requests lost"] += 1
            raise Busy("the ledger cannot be reached")
        before = super()._read(campaign, key)
        try:
            super()._write(campaign, key, row, expected)
        except Conflict:
            world.counts["conflicts"] += 1
            raise
        world.watch.written(key, before, row)
        if world.process and key != HEAD:
            intent = (
                row["state"] in REQUESTED
                and row["lease_until"]
                and row["lease_until"] != (before or {}).get("lease_until")
            )
            world.process.must_by = world.now + UNDER_WAY_SECONDS if intent else None
        if lost:
            world.counts["ledger replies lost"] += 1
            raise Busy("the ledger does not answer")

    def _rows(self, campaign: str) -> Any:
        self._world.switch("rows")
        return super()._rows(campaign)

    def row(self, key: str) -> Row | None:
        """For checks: no switching point."""
        return super()._read(CAMPAIGN, key)


class GatedClient(Client):
    """Every request is a switching point; requests that change something are checked when the service gets them."""

    def __init__(self, service: LocalPersonalize, world: World) -> None:
        super().__init__(service)
        self._world = world

    def _ask(self, name: str, /, **parameters: Any) -> dict[str, Any]:
        world, process = self._world, self._world.process
        if process is None:
            return super()._ask(name, **parameters)
        world.switch(name)
        if name not in CHANGING:
            return super()._ask(name, **parameters)

        base_date = process.base_date

        def deliver() -> dict[str, Any]:
            world.watch.asked(name, parameters, base_date)
            return super(GatedClient, self)._ask(name, **parameters)

        if world.delays:
            world.delays -= 1
            world.counts["requests delayed"] += 1
            world.packets.append(Packet(process.must_by or world.now, deliver))
            raise ConnectionClosedError(endpoint_url="in-process")
        return deliver()


class World:
    """One campaign and all that happens to it."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.now = setup, _BEGIN
        self.counts: Counter[str] = Counter()
        self.process: Process | None = None
        self.processes: dict[int, Process] = {}
        self.packets: list[Packet] = []
        self.delays = 0
        self.ledger_faults: list[str] = []
        self._draws = random.Random(1)
        self.service = LocalPersonalize(lambda: self.now, durations=_SERVICE, quotas=Quotas(imports=5, trainings=3))
        self.service.metrics = self._metrics
        self._client = GatedClient(self.service, self)
        shop = create_shop(self._client, CAMPAIGN, wait=lambda seconds: self._pass(3600))
        self.first_version = next(iter(self.service.versions))
        self.resources = Resources(shop.dataset_arn, shop.solution_arn, shop.campaign_arn, shop.role_arn)
        self.ledger = WatchedLedger(self)
        self.watch = Watch(self)
        self.began = self.now

    def time(self, slot: int = 0) -> datetime.datetime:
        """As a worker's clock shows it."""
        skew = self.setup.skews[slot % len(self.setup.skews)]
        return datetime.datetime.fromtimestamp(self.now + skew, datetime.UTC)

    def plan(self, base_date: datetime.date) -> DataPlan:
        return self.setup.plans[DAYS.index(base_date)]

    def gain(self, name: str) -> float:
        """The metric of a version, by its name at the service."""
        for base_date in DAYS:
            if name.startswith(job_name(CAMPAIGN, base_date)):
                return self.plan(base_date).gain
        return 0.5

    def _metrics(self, name: str) -> dict[str, float]:
        return {METRIC: self.gain(name)}

    def data(self, directory: str) -> Data | None:
        """What the worker reads of a directory."""
        self.switch("data")
        base_date = datetime.date.fromisoformat(directory.rpartition("/")[2])
        plan, index = self.plan(base_date), DAYS.index(base_date)
        if self.now < self.began + plan.complete_after:
            return None
        if plan.kind == "broken":
            raise UsageError(f"{directory}: its manifest is not one of pipelines.interactions")
        same = plan.kind == "same" and index
        until = base_date
        since = base_date - datetime.timedelta(days=1) if plan.kind == "increment" else None
        return Data(
            f"s3://shop/{base_date}/data/", "INCREMENTAL" if since else "FULL", 100 if plan.kind == "small" else 5_000, 50,
            f"fingerprint {index - 1 if same else index}", since, until, ("users is 3, accepted is 25",) if plan.kind == "bad" else (),
        )  # fmt: skip

    def switch(self, call: str) -> None:
        """A switching point; checks and set-up, which no process makes, go on."""
        process = self.process
        if process is not None and getcurrent() is process.greenlet:
            process.waits_for = call
            process.greenlet.parent.switch()

    def begin(self, slot: int, task: str, base_date: datetime.date | None = None) -> Process:
        """A new process, before its first call."""
        service = Personalize(self._client, self.resources)
        worker = workers.Worker(
            self.ledger, CAMPAIGN, service, self.setup.policy, read=self.data, tell=self._tell, log=self._log,
            clock=lambda: self.time(slot), draw=self._draws.random,
        )  # fmt: skip
        process = Process(slot, task, greenlet(lambda: self._run(process)), worker, base_date)
        self.processes[slot] = process
        return process

    def _run(self, process: Process) -> None:
        try:
            TASKS[process.task](process)
        except Crash:
            self.counts["crashes"] += 1
        except UsageError:
            self.counts[f"{process.task} refused"] += 1
        except Busy:
            self.counts["tasks given up"] += 1

    def go(self, process: Process, calls: int) -> None:
        """Lets a process make so many calls, or come to its end."""
        for _ in range(calls):
            if process.greenlet.dead:
                break
            before, self.process = self.process, process
            process.greenlet.switch()
            self.process = before
        if process.greenlet.dead and self.processes.get(process.slot) is process:
            del self.processes[process.slot]

    def crash(self, slot: int) -> None:
        process = self.processes.pop(slot, None)
        if process is not None and process.waits_for:
            before, self.process = self.process, process
            process.greenlet.throw(Crash)
            self.process = before

    def advance(self, seconds: float) -> None:
        """Time goes on. What is under way for too long arrives in between."""
        until = self.now + seconds
        while True:
            holding = [(each.must_by, each) for each in self.processes.values() if self._must_go(each)]
            sent = [(each.deadline, each) for each in self.packets]
            due = min((*holding, *sent), key=lambda each: each[0], default=None)
            if due is None or due[0] > until:
                break
            self._pass(max(0.0, due[0] - self.now))
            if isinstance(due[1], Packet):
                self.deliver(due[1])
            else:
                self.go(due[1], 1)
        self._pass(until - self.now)

    def _must_go(self, process: Process) -> bool:
        """A process with a request in hand stands still for so long and no longer: that is what margins are for."""
        return process.must_by is not None and process.waits_for in SENT

    def _pass(self, seconds: float) -> None:
        self.now += seconds

    def deliver(self, packet: Packet) -> None:
        self.packets.remove(packet)
        try:
            packet.deliver()
        except AssertionError:
            raise
        except Exception:
            self.counts["requests delivered in vain"] += 1

    def fault(self, operation: str, kind: str, times: int) -> None:
        self.service.faults.append(Fault(operation, kind, times))

    def outsider(self, number: int) -> None:
        """Somebody else deploys a version that is there."""
        ready = [arn for arn, each in self.service.versions.items() if each.status == "ACTIVE"]
        try:
            Client(self.service).update_campaign(
                campaignArn=self.resources.campaign_arn, solutionVersionArn=ready[number % len(ready)]
            )
        except Exception:
            self.counts["outsiders refused"] += 1
        else:
            self.counts["outsiders"] += 1

    def _tell(self, event: Event) -> None:
        self.switch("tell")
        self.watch.told(event)

    def _log(self, line: dict[str, Any]) -> None:
        if line["event"] == "duplicate":
            self.counts["duplicate starts"] += 1
        elif line["event"] == "drift":
            self.counts["drifts"] += 1
        elif line["event"] in ("stop", "stop failed"):
            self.counts["trainings stopped"] += 1


def _start(process: Process) -> None:
    assert process.base_date
    process.worker.start(process.base_date, f"s3://shop/{process.base_date}", "an event")


def _tick(process: Process) -> None:
    assert process.base_date
    process.worker.tick(process.base_date)


def _retry(process: Process) -> None:
    assert process.base_date
    reopen.retry(process.worker, process.base_date, "a person")


def _override(process: Process) -> None:
    assert process.base_date
    reopen.retry(process.worker, process.base_date, "a person", {"data": "known", "metrics": "known"})


def _rollback(process: Process) -> None:
    reopen.rollback(process.worker, None, "a person")


def _sweep(process: Process) -> None:
    worker = process.worker
    reconcile.rejoin(worker)
    for base_date in worker.ledger.head(CAMPAIGN).open:
        process.base_date = base_date
        worker.tick(base_date)
    reconcile.reconcile(worker)


TASKS: dict[str, Callable[[Process], None]] = {
    "start": _start, "tick": _tick, "retry": _retry, "override": _override, "rollback": _rollback, "sweep": _sweep,
}  # fmt: skip
