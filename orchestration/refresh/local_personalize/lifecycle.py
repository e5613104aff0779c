"""What the service keeps: small records whose status follows from when they were made and what time it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PENDING, IN_PROGRESS, ACTIVE, FAILED = "CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE", "CREATE FAILED"
STOPPING, STOPPED = "CREATE STOPPING", "CREATE STOPPED"
IN_FLIGHT = (PENDING, IN_PROGRESS, STOPPING)

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds that resources take: ``pending_seconds`` of CREATE PENDING, then the rest of their kind's in CREATE IN_PROGRESS."""

    import_seconds: float = 3
    training_seconds: float = 5
    deployment_seconds: float = 2
    pending_seconds: float = 0.5
    setup_seconds: float = 0  # dataset groups, datasets, solutions and their updates; these are never pending
    stopping_seconds: float = 0.5
    slow_times: float = 100
    # The service makes a solution's first version itself within an hour, where auto-training is on.
    first_auto_training_seconds: float = 3600


AT_ONCE = Durations(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Quotas:
    """Resources in flight in the account; one more is LimitExceededException. The service's own defaults."""

    imports: int = 5
    trainings: int = 20


@dataclass(slots=True)
class Life:
    """From CREATE PENDING to an end, by the clock alone. All times are epoch seconds."""

    clock: Clock
    created: float
    pending: float = 0
    work: float = 0
    end: str = ACTIVE
    reason: str | None = None
    stop_asked: float = math.inf
    stopping: float = 0

    @property
    def ended(self) -> float:
        """When it ends, if nobody stops it."""
        return self.created + self.pending + self.work

    def status_at(self, now: float) -> str:
        if now >= self.stop_asked:
            return STOPPED if now >= self.stop_asked + self.stopping else STOPPING
        if now >= self.ended:
            return self.end
        return PENDING if now < self.created + self.pending else IN_PROGRESS

    def changed_at(self, now: float) -> float:
        """When it came into the status that it has now."""
        if now >= self.stop_asked:
            return self.stop_asked + self.stopping if now >= self.stop_asked + self.stopping else self.stop_asked
        if now >= self.ended:
            return self.ended
        return self.created if now < self.created + self.pending else self.created + self.pending

    def active_at(self, now: float) -> bool:
        return self.status_at(now) == ACTIVE

    def in_flight_at(self, now: float) -> bool:
        return self.status_at(now) in IN_FLIGHT

    def summary(self, now: float) -> dict[str, Any]:
        """The members that every description has: status, the two dates, and the reason of a failure."""
        status = self.status_at(now)
        found = {
            "status": status,
            "creationDateTime": round(self.created, 3),
            "lastUpdatedDateTime": round(self.changed_at(now), 3),
        }
        if status == FAILED:
            found["failureReason"] = self.reason or "An internal error occurred."
        return found


@dataclass(slots=True)
class Resource:
    arn: str
    name: str | None
    life: Life

    @property
    def status(self) -> str:
        """The status now."""
        return self.life.status_at(self.life.clock())


@dataclass(slots=True)
class Schema(Resource):
    text: str
    domain: str | None = None


@dataclass(slots=True)
class DatasetGroup(Resource):
    given: dict[str, Any]


@dataclass(slots=True)
class Dataset(Resource):
    group_arn: str
    kind: str  # INTERACTIONS, ITEMS, ...
    schema_arn: str


@dataclass(slots=True)
class Import(Resource):
    dataset_arn: str
    location: str
    mode: str  # FULL, INCREMENTAL
    given: dict[str, Any]
    rows: int | None = None  # None: the data was not read


@dataclass(slots=True)
class SolutionUpdate:
    life: Life
    given: dict[str, Any]
    applied: bool = False


@dataclass(slots=True)
class Solution(Resource):
    group_arn: str
    given: dict[str, Any]
    auto_training: bool
    auto_days: int
    auto_due: float  # the next automatic training
    auto_started: bool = (
        False  # an automatic training was due before: the first one is left out where a manual one was faster
    )
    update: SolutionUpdate | None = None


@dataclass(slots=True)
class Version(Resource):
    """``trained_on``: the ARNs of the FULL import and the INCREMENTAL ones after it that were ACTIVE when training began."""

    solution_arn: str
    mode: str  # FULL, UPDATE, AUTOTRAIN
    automatic: bool
    trained_on: tuple[str, ...]


@dataclass(slots=True)
class CampaignUpdate:
    life: Life
    version_arn: str
    tps: int
    config: dict[str, Any]


@dataclass(slots=True)
class Campaign(Resource):
    """``updates``: every update there was, oldest first; what it serves follows from the last one that succeeded."""

    first: CampaignUpdate  # what it was created with
    updates: list[CampaignUpdate] = field(default_factory=list)

    def serving_at(self, now: float) -> CampaignUpdate:
        # Only the last one can be in flight or is not looked at yet: an update starts when the one before has ended.
        for update in reversed(self.updates):
            if update.life.active_at(now):
                return update
        return self.first

    @property
    def latest_update(self) -> CampaignUpdate | None:
        return self.updates[-1] if self.updates else None

    @property
    def solution_version_arn(self) -> str:
        """The version that answers now."""
        return self.serving_at(self.life.clock()).version_arn

    def free_at(self) -> float:
        """When the next update may start."""
        return self.updates[-1].life.ended if self.updates else self.life.ended
