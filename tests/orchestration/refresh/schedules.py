"""Schedules: what happens to a world in which order, drawn at random, run, and cut down where one fails."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from orchestration.refresh.ledger import HEAD
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import ENDS
from tests.orchestration.refresh.invariants import Broken
from tests.orchestration.refresh.world import DAYS, TASKS, DataPlan, Process, Setup, World

Step = tuple[Any, ...]
SLOTS = 4
TO_THE_END = 100_000
_CREATES = ("CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign")
_READS = (
    "ListDatasetImportJobs", "DescribeDatasetImportJob", "ListSolutionVersions", "DescribeSolutionVersion",
    "DescribeCampaign", "GetSolutionMetrics", "DescribeSolution",
)  # fmt: skip
_POLICY = Policy(
    data_hours=2, import_hours=4, training_hours=12, deployment_hours=3, total_hours=40, poll_seconds=300,
    full_training_every_days=2,
)  # fmt: skip
BASIC = Setup(_POLICY, skews=(0,))
_MOST_QUIET_ROUNDS = 400
_QUIET_SECONDS = 600
_FOR_EVER = 500_000  # seconds: what takes longer at the service counts as never


@dataclass(frozen=True)
class Schedule:
    setup: Setup
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        policy = {name: value for name, value in vars(self.setup.policy).items() if value != getattr(_POLICY, name)}
        plans = [str(plan).removeprefix("DataPlan") for plan in self.setup.plans]
        lines = [f"policy {policy}", *(f"data of {day}: {plan}" for day, plan in zip(DAYS, plans, strict=True))]
        lines += [f"outsiders: {self.setup.outsiders}, stalls: {self.setup.stalls}, clocks: {self.setup.skews}"]
        return "\n".join([*lines, *(f"  {' '.join(map(str, step))}" for step in self.steps)])


def drawn(seed: int, kind: str = "ordinary") -> Schedule:
    """The schedule of a number. ``kind``: ordinary, outsiders, or stalls."""
    draw = random.Random(f"{kind} {seed}")
    plans = tuple(_plan(draw) for _ in DAYS)
    policy = replace(
        _POLICY,
        training_mode=draw.choice(("FULL", "FULL", "UPDATE")),
        import_mode=draw.choice(("FULL", "FULL", "INCREMENTAL")),
    )
    skews = draw.choice(((0,), (0, 0, -45, 45), (45, -45)))
    setup = Setup(policy, plans, outsiders=kind == "outsiders", stalls=kind == "stalls", skews=skews)
    first = ("go", 0, "start", 0, TO_THE_END)
    steps = [first]
    for _ in range(draw.randint(15, 60)):
        steps += _meanwhile(draw) if draw.random() < 0.06 else (_step(draw, kind),)
    return Schedule(setup, tuple(steps))


def _meanwhile(draw: random.Random) -> tuple[Step, ...]:
    """A worker stands still somewhere while others do something, and then goes on to its end."""
    slot, day = draw.randrange(SLOTS), draw.choice((0, 1, 1, 2))
    others = [
        draw.choice(
            (
                ("go", SLOTS, "rollback", day, TO_THE_END), ("go", SLOTS, "retry", day, TO_THE_END),
                ("go", SLOTS, "sweep", day, TO_THE_END), ("go", SLOTS, "start", day + 1, TO_THE_END),
                ("go", SLOTS, "tick", day, draw.randint(4, 12)), ("pass", draw.choice((305, 700, 1_300, 15_000))),
            )
        )
        for _ in range(draw.randint(1, 4))
    ]  # fmt: skip
    task = draw.choice(("tick", "tick", "tick", "retry", "rollback", "sweep"))
    return (("go", slot, task, day, draw.randint(1, 10)), *others, ("go", slot, task, day, TO_THE_END))


def _plan(draw: random.Random) -> DataPlan:
    kind = draw.choices(
        ("good", "bad", "small", "same", "increment", "broken"), weights=(70, 6, 5, 8, 8, 3)
    )[0]  # fmt: skip
    after = draw.choices((0.0, 1_800.0, 20_000.0), weights=(90, 7, 3))[0]
    return DataPlan(kind, after, draw.choices((0.5, 0.6, 0.3), weights=(65, 15, 20))[0])


def _step(draw: random.Random, kind: str) -> Step:
    what = draw.choices(
        ("go", "pass", "settle", "crash", "fault", "ledger", "delay", "deliver", "outsider"),
        weights=(46, 20, 10, 8, 8, 2, 3, 1, 5 if kind == "outsiders" else 0),
    )[0]
    if what == "go":
        return _go(draw)
    if what == "pass":
        return ("pass", draw.choice((1, 31, 61, 181, 305, 605, 905, 1_300, 3_700, 15_000, 50_000)))
    if what == "settle":
        return ("settle", draw.randint(1, 8))
    if what == "crash":
        return ("crash", draw.randrange(SLOTS))
    if what == "fault":
        return _fault(draw)
    if what == "ledger":
        return ("ledger", draw.choice(("lost_request", "lost_reply")))
    return ("outsider", draw.randrange(9)) if what == "outsider" else (what,)


def _go(draw: random.Random) -> Step:
    task = draw.choices(tuple(TASKS), weights=(18, 36, 9, 4, 10, 23))[0]
    calls = draw.choice((1, 1, 2, 3, 4, 5, 6, 8, 12, TO_THE_END, TO_THE_END, TO_THE_END))
    return ("go", draw.randrange(SLOTS), task, draw.choices(range(len(DAYS)), weights=(4, 5, 4, 2, 1))[0], calls)


def _fault(draw: random.Random) -> Step:
    kind = draw.choice(
        ("lost_reply", "lost_reply", "lost_request", "throttled", "unavailable", "quota", "create_failed", "stopped", "slow", "never")
    )  # fmt: skip
    if kind in ("create_failed", "slow", "never"):
        operation = draw.choice((*_CREATES, "UpdateCampaign"))
    elif kind == "stopped":
        operation = "CreateSolutionVersion"
    else:
        operation = draw.choice((*_CREATES, *_CREATES, *_READS))
    return ("fault", operation, kind, draw.choice((1, 1, 2, 5)))


class Run:
    """One schedule carried out."""

    def __init__(self, schedule: Schedule) -> None:
        self.world, self.schedule = World(schedule.setup), schedule

    def all(self) -> Counter[str]:
        """Raises: Broken."""
        for step in self.schedule.steps:
            self.one(step)
        self.quiet()
        self.world.watch.at_rest()
        self.world.counts["schedules"] += 1
        return self.world.counts

    def one(self, step: Step) -> None:
        world = self.world
        match step:
            case ("go", slot, task, day, calls):
                process = world.processes.get(slot) or world.begin(slot, task, DAYS[day])
                self._go(process, calls)
            case ("pass", seconds):
                world.advance(seconds)
            case ("settle", rounds):
                for _ in range(rounds):
                    self._sweep()
                    world.advance(700)
            case ("crash", slot):
                world.crash(slot)
            case ("fault", operation, kind, times):
                world.fault(operation, kind, times)
            case ("ledger", kind):
                world.ledger_faults.append(kind)
            case ("delay",):
                world.delays += 1
            case ("deliver",):
                for packet in list(world.packets):
                    world.deliver(packet)
            case ("outsider", number):
                world.outsider(number)
        self._look()

    def quiet(self) -> None:
        """Nothing goes wrong any more, nobody asks for anything, and somebody looks after it all from time to time."""
        world = self.world
        world.service.faults.clear()
        world.ledger_faults.clear()
        world.delays = 0
        for number, process in enumerate(list(world.processes.values())):
            if number % 2:
                world.crash(process.slot)
            else:
                self._go(process, TO_THE_END)
        wait, calm = _QUIET_SECONDS, 0
        for _ in range(_MOST_QUIET_ROUNDS):
            before = dict(world.watch.rows)
            self._sweep()
            world.advance(wait)
            wait = min(round(wait * 1.2), 20_000)
            calm = calm + 1 if before == world.watch.rows and self._ended() else 0
            if calm == 2:
                return
        raise Broken(
            f"no rest after a quiet time: {[row['state'] for row in world.watch.rows.values() if 'state' in row]}"
        )

    def _ended(self) -> bool:
        rows = self.world.watch.rows
        ended = all(row["state"] in ENDS for key, row in rows.items() if key != HEAD)
        campaign = self.world.service.campaigns[self.world.resources.campaign_arn]
        update = campaign.latest_update
        busy = [each.life for each in self.world.service.imports.values()] + ([update.life] if update else [])
        return ended and not any(
            life.in_flight_at(self.world.now) and life.ended < self.world.now + _FOR_EVER for life in busy
        )

    def _sweep(self) -> None:
        self._go(self.world.begin(-1, "sweep"), TO_THE_END)

    def _go(self, process: Process, calls: int) -> None:
        self.world.go(process, calls)
        self._look()

    def _look(self) -> None:
        if self.world.watch.broken:
            raise Broken(self.world.watch.broken)


def failure(schedule: Schedule) -> str | None:
    """What goes wrong in a schedule, if anything does."""
    try:
        Run(schedule).all()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def kind_of(failed: str | None) -> str:
    """A failure without its dates and names."""
    return re.sub(r"\d{4}-\d\d-\d\d|arn:\S+|shop-\S+|\[.*|'.*?'", "...", failed or "")


def smallest(schedule: Schedule) -> Schedule:
    """A failing schedule without the steps, plans and modes that its failure does not need."""
    expected = kind_of(failure(schedule))
    size = max(1, len(schedule.steps) // 2)
    while size:
        at = 0
        while at < len(schedule.steps):
            shorter = replace(schedule, steps=schedule.steps[:at] + schedule.steps[at + size :])
            if kind_of(failure(shorter)) == expected:
                schedule = shorter
            else:
                at += size
        size //= 2
    return _plainest(schedule, expected)


def _plainest(schedule: Schedule, expected: str) -> Schedule:
    setup = schedule.setup
    plainer_plans = [(*setup.plans[:index], DataPlan(), *setup.plans[index + 1 :]) for index in range(len(DAYS))]
    tried = [replace(setup, skews=(0,)), replace(setup, policy=_POLICY)]
    tried += [replace(setup, plans=plans) for plans in plainer_plans]
    for each in tried:
        changed = [name for name in ("skews", "policy", "plans") if getattr(each, name) != getattr(setup, name)]
        for name in changed:
            value: Any = getattr(each, name)
            if name == "plans":
                now = schedule.setup.plans
                value = tuple(
                    new if new == DataPlan() and new != old else current
                    for new, old, current in zip(value, setup.plans, now, strict=True)
                )
            plainer = replace(schedule, setup=replace(schedule.setup, **{name: value}))
            if kind_of(failure(plainer)) == expected:
                schedule = plainer
    return schedule
