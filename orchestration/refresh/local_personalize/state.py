"""The tables of the service and what its operations share: finding, naming, starting and paging."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from orchestration.refresh.local_personalize.faults import FATES, Fault, ServiceError
from orchestration.refresh.local_personalize.lifecycle import (
    ACTIVE,
    FAILED,
    IN_FLIGHT,
    STOPPED,
    Campaign,
    Clock,
    Dataset,
    DatasetGroup,
    Durations,
    Import,
    Life,
    Quotas,
    Resource,
    Schema,
    Solution,
    Version,
)

R = TypeVar("R", bound=Resource)
ReadData = Callable[[str], Iterable[bytes]]
# The metrics of versions, by name (by ARN, where a version has none); a function of those is as good. None: the default ones.
Metrics = dict[str, dict[str, float]] | Callable[[str], Mapping[str, float] | None]
LONGEST_PAGE = 100


def copied(value: Any) -> Any:
    """A JSON value that shares nothing with the one given."""
    if isinstance(value, Mapping):
        return {name: copied(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [copied(each) for each in value]
    return value


def picked(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The named members that are there."""
    return {name: copied(given[name]) for name in names if name in given}


def invalid(message: str) -> ServiceError:
    return ServiceError("InvalidInputException", message)


def already_exists(message: str) -> ServiceError:
    return ServiceError("ResourceAlreadyExistsException", message)


def in_use(message: str) -> ServiceError:
    return ServiceError("ResourceInUseException", message)


class State:
    """Everything there is. ``now`` is the time of the call that is being answered."""

    def __init__(
        self, clock: Clock, durations: Durations, quotas: Quotas, read_data: ReadData | None, account: str, region: str
    ) -> None:
        self.clock, self.durations, self.quotas, self.read_data = clock, durations, quotas, read_data
        self.account, self.region = account, region
        self.now = clock()
        self.faults: list[Fault] = []
        self.metrics: Metrics = {}
        self.schemas: dict[str, Schema] = {}
        self.groups: dict[str, DatasetGroup] = {}
        self.datasets: dict[str, Dataset] = {}
        self.imports: dict[str, Import] = {}
        self.solutions: dict[str, Solution] = {}
        self.versions: dict[str, Version] = {}
        self.campaigns: dict[str, Campaign] = {}

    def arn(self, kind: str, name: str) -> str:
        return f"arn:aws:personalize:{self.region}:{self.account}:{kind}/{name}"

    def new_version_arn(self, solution_arn: str) -> str:
        """The number of a version is random at the service; here it follows from how many there are."""
        count = sum(version.solution_arn == solution_arn for version in self.versions.values())
        while True:
            arn = f"{solution_arn}/{hashlib.sha256(f'{solution_arn} {count}'.encode()).hexdigest()[:8]}"
            if arn not in self.versions:
                return arn
            count += 1

    def find(self, table: Mapping[str, R], arn: str) -> R:
        """The resource of that ARN, or ResourceNotFoundException."""
        found = table.get(arn)
        if found is None:
            raise ServiceError("ResourceNotFoundException", f"Resource Arn {arn} does not exist.")
        return found

    def find_active(self, table: Mapping[str, R], arn: str) -> R:
        """The same, and it is ACTIVE: ResourceInUseException while it is being made, InvalidInputException when that failed."""
        found = self.find(table, arn)
        status = found.life.status_at(self.now)
        if status in IN_FLIGHT:
            raise in_use(f"Resource {arn} is in {status}: it must be ACTIVE.")
        if status != ACTIVE:
            raise invalid(f"Resource {arn} is in {status}: it must be ACTIVE.")
        return found

    def must_be_new(self, table: Mapping[str, Resource], arn: str) -> None:
        if arn in table:
            raise already_exists(f"Another resource with Arn {arn} already exists.")

    def within_quota(self, table: Mapping[str, Resource], most: int, what: str) -> None:
        """LimitExceededException when as many as may are in flight."""
        flying = sum(each.life.in_flight_at(self.now) for each in table.values())
        if flying >= most:
            raise ServiceError("LimitExceededException", f"{flying} {what} are in progress: the limit is {most}.")

    def life(self, operation: str, parameters: Mapping[str, Any], seconds: float, *, setup: bool = False) -> Life:
        """The life of what an operation makes, with the faults that are meant for it."""
        life = Life(self.clock, self.now, 0 if setup else min(self.durations.pending_seconds, seconds))
        life.work = seconds - life.pending
        for fault in self.faults:
            if fault.kind in FATES and fault.strikes(operation, parameters):
                self._strike(life, fault)
        return life

    def _strike(self, life: Life, fault: Fault) -> None:
        if fault.kind == "slow":
            life.pending, life.work = life.pending * self.durations.slow_times, life.work * self.durations.slow_times
        elif fault.kind == "never":
            life.work = float("inf")
        else:
            life.end, life.reason = (FAILED if fault.kind == "create_failed" else STOPPED), fault.reason

    def active_data(self, group_arn: str, at: float) -> tuple[str, ...]:
        """The imports of interactions that a training of the group reads: the last ACTIVE FULL one and the INCREMENTAL ones after it."""
        dataset_arns = {
            each.arn for each in self.datasets.values() if each.group_arn == group_arn and each.kind == "INTERACTIONS"
        }
        done = [each for each in self.imports.values() if each.dataset_arn in dataset_arns and each.life.active_at(at)]
        done.sort(key=lambda each: each.life.ended)
        whole = [number for number, each in enumerate(done) if each.mode == "FULL"]
        return tuple(each.arn for each in done[whole[-1] :]) if whole else ()

    def page(self, operation: str, items: list[R], parameters: Mapping[str, Any]) -> tuple[list[R], dict[str, str]]:
        """The items of the page that is asked for, and the nextToken of the response where there are more."""
        query = {name: value for name, value in parameters.items() if name.endswith("Arn")}
        start = _start(operation, query, parameters["nextToken"]) if "nextToken" in parameters else 0
        stop = start + parameters.get("maxResults", LONGEST_PAGE)
        return items[start:stop], {"nextToken": _token(operation, query, stop)} if stop < len(items) else {}


def _token(operation: str, query: dict[str, str], start: int) -> str:
    return base64.urlsafe_b64encode(json.dumps([operation, query, start]).encode()).decode()


def _start(operation: str, query: dict[str, str], token: str) -> int:
    refused = ServiceError("InvalidNextTokenException", "The token is not valid.")
    try:
        whose, about, start = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, binascii.Error, TypeError):
        raise refused from None
    if whose != operation or about != query or not isinstance(start, int):
        raise refused
    return start
