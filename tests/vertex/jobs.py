"""Jobs and their life: queued, pending, running while their work really runs, then succeeded, failed or cancelled."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.dataflow.discovery import Refused
from tests.vertex.resources import Pace, new_id, not_found, now

QUEUED, PENDING, RUNNING = "JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING"
SUCCEEDED, FAILED = "JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED"
CANCELLING, CANCELLED = "JOB_STATE_CANCELLING", "JOB_STATE_CANCELLED"
ACTIVE = (QUEUED, PENDING, RUNNING, CANCELLING)
CODE_CANCELLED, _CODE_FAILED, _CODE_INTERNAL = 1, 3, 13  # of google.rpc.Code, as the service uses them


@dataclass(frozen=True)
class Ending:
    """How a job ends, and its error's message and code (of google.rpc.Code)."""

    state: str = SUCCEEDED
    error: str = ""
    code: int = _CODE_FAILED


def internal_error() -> Ending:
    """The ending of a job whose work raised what is being handled."""
    return Ending(FAILED, f"Internal error encountered: {traceback.format_exc()}", _CODE_INTERNAL)


@dataclass
class JobRecord:
    """A job of the service: the resource, and what this machine knows besides.

    Attributes:
      body: the resource as it is answered.
      cancelled: set when its work has to end.
      ended: set when the resource is in its last state.
    """

    body: dict[str, Any]
    pace: Pace
    cancelled: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    ending: Ending | None = None
    worker: threading.Thread | None = None

    @property
    def name(self) -> str:
        """``projects/NUMBER/locations/REGION/customJobs/ID``."""
        return str(self.body["name"])

    @property
    def id(self) -> str:
        return self.name.split("/")[-1]

    @property
    def project_number(self) -> str:
        return self.name.split("/")[1]

    @property
    def location(self) -> str:
        return self.name.split("/")[3]

    @property
    def display_name(self) -> str:
        return str(self.body["displayName"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body.get("labels", {}))

    @property
    def state(self) -> str:
        return str(self.body["state"])

    def stop(self) -> None:
        """Has its work end."""
        self.cancelled.set()

    def become(self, state: str) -> None:
        self.body["state"], self.body["updateTime"] = state, now()
        self.pace.restart()
        if state == RUNNING:
            self.body.setdefault("startTime", now())

    def end(self, ending: Ending) -> None:
        self.become(ending.state)
        self.body["endTime"] = self.body["updateTime"]
        if ending.state != SUCCEEDED:
            self.body["error"] = {"code": ending.code, "message": ending.error}
        self.ended.set()


@dataclass
class CustomJobRecord(JobRecord):
    """A custom job, or a trial's: ``variables`` are those the service gives a trial's container.

    ``output`` is what its process printed, when it has ended.
    """

    variables: dict[str, str] = field(default_factory=dict)
    output: str = ""

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.body["jobSpec"])

    @property
    def pool(self) -> dict[str, Any]:
        """The first worker pool: the one with the primary replica."""
        return dict(self.spec["workerPoolSpecs"][0])

    @property
    def container(self) -> dict[str, Any]:
        return dict(self.pool["containerSpec"])


class Jobs:
    """All jobs of one kind. Every method wants ``lock`` held, but the works run without it."""

    def __init__(self, lock: threading.RLock, work: Callable[[Any], Ending], failures: list[tuple[str, str]]) -> None:
        """``failures``: display names' beginnings and messages; each fails one job that is about to run."""
        self._lock, self._work, self._failures = lock, work, failures
        self.records: list[Any] = []

    def add(self, record: JobRecord, parent: str, collection: str, state: str = QUEUED) -> None:
        created = now()
        record.body.update({
            "name": f"{parent}/{collection}/{new_id()}", "createTime": created, "updateTime": created, "state": state,
        })  # fmt: skip
        self.records.append(record)

    def find(self, name: str) -> Any:
        """Raises: Refused where there is none (404)."""
        for record in self.records:
            if record.name == name:
                return record
        raise not_found(name.split("/")[-2].removesuffix("s"), name)

    def newest_first(self, parent: str) -> list[dict[str, Any]]:
        return [record.body for record in reversed(self.records) if record.name.startswith(f"{parent}/")]

    def cancel(self, name: str) -> None:
        """Raises: Refused where there is none (404), or it has ended (400)."""
        record = self.find(name)
        if record.state not in ACTIVE:
            raise Refused(
                400, "FAILED_PRECONDITION", f"The job {name} is in state {record.state}: it cannot be cancelled."
            )
        if record.state != CANCELLING:
            record.become(CANCELLING)
            record.stop()

    def advance(self) -> None:
        for record in self.records:
            if record.state in ACTIVE and record.pace.over:
                self.settle(record)

    def settle(self, record: JobRecord) -> None:
        """The next state, where what that waits for is there."""
        if record.state == QUEUED:
            record.become(PENDING)
        elif record.state == PENDING:
            record.become(RUNNING)
            record.worker = threading.Thread(target=self._run, args=(record,), daemon=True)
            record.worker.start()
        elif record.state == RUNNING and record.ending is not None:
            record.end(record.ending)
        elif record.state == CANCELLING and (record.worker is None or record.ending is not None):
            record.end(Ending(CANCELLED, "CANCELED", CODE_CANCELLED))

    def _run(self, record: JobRecord) -> None:
        with self._lock:
            failing = next((rule for rule in self._failures if record.display_name.startswith(rule[0])), None)
            if failing is not None:
                self._failures.remove(failing)
        try:
            ending = self._work(record) if failing is None else Ending(FAILED, failing[1])
        except Exception:
            ending = internal_error()
        with self._lock:
            record.ending = ending

    def stop(self) -> list[threading.Thread]:
        """Has every work end; the threads to wait for."""
        for record in self.records:
            record.stop()
        return [record.worker for record in self.records if record.worker is not None]
