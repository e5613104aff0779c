"""What must hold whatever happens to a campaign: looked at on every write, every request and every event, and at the end.

Written from the picture in ``record.py`` and from what the service really has; never from the machine.
"""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from orchestration.notify import Event
from orchestration.refresh.ledger import HEAD, Row, head_of, record_of
from orchestration.refresh.local_personalize.lifecycle import FAILED, Version
from orchestration.refresh.record import ENDS, Record, job_name

if TYPE_CHECKING:
    from tests.orchestration.refresh.world import World

CHANGING = ("CreateDatasetImportJob", "CreateSolutionVersion", "UpdateCampaign")
_FORWARD = {
    "started": {"validated", "rejected", "skipped", "superseded"},
    "validated": {"import_requested", "import_failed", "superseded"},
    "import_requested": {"import_in_progress", "import_failed", "superseded"},
    "import_in_progress": {"import_active", "import_failed"},
    "import_active": {"training_requested", "training_failed", "superseded"},
    "training_requested": {"training_in_progress", "training_failed", "superseded"},
    "training_in_progress": {"training_active", "training_failed", "training_stopped", "superseded"},
    "training_active": {"deployment_requested", "deployment_failed", "rejected", "superseded"},
    "deployment_requested": {"deployment_in_progress", "deployment_active", "deployment_failed", "superseded"},
    "deployment_in_progress": {"deployment_active", "deployment_failed"},
    "rollback_requested": {"rollback_in_progress", "rolled_back", "rollback_failed"},
    "rollback_in_progress": {"rolled_back", "rollback_failed"},
}
# Opened again by a person. A rollback may undo whatever refresh the campaign is known to serve, however that ended.
_AGAIN = {
    "rejected": {"started", "training_active", "rollback_requested"},
    "skipped": {"started"},
    "import_failed": {"started", "validated"},
    "training_failed": {"import_active", "rollback_requested"},
    "training_stopped": {"import_active"},
    "deployment_failed": {"training_active", "rollback_requested"},
    "deployment_active": {"rollback_requested"},
    "rollback_failed": {"rollback_requested", "rolled_back"},
    "rolled_back": {"rollback_requested"},
    "superseded": {"rollback_requested"},
}
ALLOWED = _FORWARD | _AGAIN
_IMPORTS = {"import_requested", "import_in_progress"}
_DEPLOYS = {"deployment_requested", "deployment_in_progress", "rollback_in_progress"}
_TIMED_OUT = "not done within"
_SERVICE_SAYS = "An internal error occurred while creating the resource."


# What does not hold yet, each with a test of its own that says so: what the service does after a refresh gave it up for too late.
KNOWN: frozenset[str] = frozenset()


class Broken(AssertionError):
    """An invariant does not hold."""


class Watch:
    """Sees all that happens in a world; raises Broken, and keeps it in ``broken``, whoever catches it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken = ""
        self.rows: dict[str, Row] = {}
        self.events: set[tuple[str, int, str]] = set()
        self.imported: datetime.date | None = None  # the latest base_date that an import was asked for
        self.deployed: datetime.date | None = None  # the same of a deployment

    def must(self, holds: Any, text: str) -> None:
        if not holds:
            self.broken = self.broken or text
            raise Broken(text)

    def record(self, base_date: datetime.date | None) -> Record:
        self.must(base_date is not None, "a process without a refresh changes the service")
        assert base_date is not None
        row = self.rows.get(base_date.isoformat())
        self.must(row is not None, f"{base_date}: the service is asked for a refresh that is not in the ledger")
        assert row is not None
        return record_of("shop", base_date, row)

    def head(self) -> Any:
        return head_of("shop", self.rows[HEAD])

    # ------------------------------------------------------------------ the ledger

    def written(self, key: str, before: Row | None, row: Row) -> None:
        self.rows[key] = row
        if key == HEAD:
            return
        history, former = row["history"], before["history"] if before else []
        self.must(row["revision"] == (before["revision"] if before else 0) + 1, f"{key}: the revision is not the next")
        self.must(history[: len(former)] == former, f"{key}: its history was changed")
        self.must(len(history) - len(former) <= 1, f"{key}: two transitions in one write")
        if len(history) == len(former):
            return
        last = history[-1]
        state, was = last["state"], former[-1]["state"] if former else None
        self.must(last["at"] and last["reason"].strip(), f"{key}: {state} has no time or no reason")
        self.must(was is None or state in ALLOWED.get(was, ()), f"{key}: {was} -> {state} is not in the picture")
        self.must(was is not None or state == "started", f"{key}: begins as {state}")
        self.world.counts[f"state {state}"] += 1
        if was in _AGAIN and state in _AGAIN[was]:
            self.world.counts["opened again"] += 1
            # A job that was given up and goes on keeps its name.
            by = {("import_failed", "started"): {1}, ("training_stopped", "import_active"): {1},
                  ("training_failed", "import_active"): {0, 1}}.get((was, state), {0})  # fmt: skip
            self.must(before and row["attempt"] - before["attempt"] in by, f"{key}: opened again under other names")
        if last["reason"].endswith(" exists"):
            self.world.counts["adoptions"] += 1
        if last["reason"].startswith(_TIMED_OUT):
            self.world.counts["time-outs"] += 1
        self._turns()
        self._really(key, state, row)

    def _turns(self) -> None:
        rows = {key: row for key, row in self.rows.items() if key != HEAD}
        importing = [key for key, row in rows.items() if row["state"] in _IMPORTS]
        self.must(len(importing) < 2, f"two refreshes change the data set at once: {importing}")
        deploying = [
            key
            for key, row in rows.items()
            if row["state"] in _DEPLOYS or (row["state"] == "rollback_requested" and row["lease_until"])
        ]
        self.must(len(deploying) < 2, f"two refreshes change the campaign at once: {deploying}")

    def _really(self, key: str, state: str, row: Row) -> None:
        """The service has come as far as the ledger says."""
        service, now = self.world.service, self.world.now
        if state in ("import_in_progress", "import_active"):
            job = service.imports.get(row["import_job"])
            self.must(job is not None, f"{key}: {state}, and there is no import {row['import_job']!r}")
            assert job is not None
            self.must(
                state != "import_active" or job.life.active_at(now), f"{key}: {state}, and its import is {job.status}"
            )
        elif state in ("training_in_progress", "training_active"):
            version = service.versions.get(row["version"])
            self.must(version is not None, f"{key}: {state}, and there is no version {row['version']!r}")
            assert version is not None
            done = version.life.active_at(now)
            self.must(state != "training_active" or done, f"{key}: {state}, and its version is {version.status}")
        elif state in ("deployment_active", "rolled_back"):
            target = row["rollback_to"] if state == "rolled_back" else row["version"]
            campaign = service.campaigns[self.world.resources.campaign_arn]
            made = [each for each in (campaign.first, *campaign.updates) if each.life.active_at(now)]
            self.must(
                any(each.version_arn == target for each in made), f"{key}: {state}, and no update to {target} is ACTIVE"
            )
        elif state in ("deployment_failed", "rollback_failed") and row["history"][-1]["reason"] == _SERVICE_SAYS:
            self._truly_failed(key, row)

    def _truly_failed(self, key: str, row: Row) -> None:
        """The update that failed is one that was asked for since."""
        asked = [
            each["at"] for each in row["history"] if each["state"] in ("deployment_requested", "rollback_requested")
        ]
        since = datetime.datetime.fromisoformat(asked[-1]).timestamp() - 100  # clocks differ
        campaign = self.world.service.campaigns[self.world.resources.campaign_arn]
        last = campaign.updates[-1].life
        self.must(
            last.created >= since and last.end == FAILED, f"{key}: failed by an update of before it was asked for"
        )

    # ------------------------------------------------------------------ the service

    def asked(self, operation: str, parameters: dict[str, Any], base_date: datetime.date | None) -> None:
        """The service gets a request that changes something."""
        record = self.record(base_date)
        self.world.counts[operation] += 1
        if operation == "CreateDatasetImportJob":
            self._import_asked(record, parameters)
        elif operation == "CreateSolutionVersion":
            self._intended(record, "training_requested", parameters.get("name"))
        else:
            self._update_asked(record, parameters["solutionVersionArn"])

    def _intended(self, record: Record, state: str, name: str | None) -> None:
        where = f"{record.base_date}: the service is asked for {name!r}"
        if self.world.setup.stalls:
            attempts = [job_name("shop", record.base_date, each + 1) for each in range(record.attempt)]
            self.must(name in attempts, f"{where}, which is no name of this refresh")
            return
        self.must(name == record.name, f"{where}, not for {record.name!r}")
        self.must(record.state == state, f"{where} in the state {record.state}")
        self._leased(record, where)

    def _leased(self, record: Record, where: str) -> None:
        now = datetime.datetime.fromtimestamp(self.world.now - 60, datetime.UTC)
        self.must(record.lease_until is not None and record.lease_until > now, f"{where} without a lease")

    def _import_asked(self, record: Record, parameters: dict[str, Any]) -> None:
        plan = self.world.plan(record.base_date)
        self._intended(record, "import_requested", parameters.get("jobName"))
        self.must(
            plan.kind not in ("bad", "broken") or "data" in record.overrides,
            f"{record.base_date}: bad data are imported",
        )
        if not self.world.setup.stalls:
            self.must(
                self.imported is None or self.imported <= record.base_date,
                f"data of {record.base_date} are imported after those of {self.imported}",
            )
            self.imported = record.base_date

    def _update_asked(self, record: Record, version: str) -> None:
        back = record.state == "rollback_requested"
        where = f"{record.base_date}: the campaign is asked to serve {version}"
        self.must(back or record.state == "deployment_requested", f"{where} in the state {record.state}")
        self.must(version == (record.rollback_to if back else record.version), f"{where}, which is not its target")
        self.must(self.head().deploying == record.base_date, f"{where} without its turn")
        self._leased(record, where)
        if back:
            return
        self.must(
            self.deployed is None or self.deployed <= record.base_date,
            f"{record.base_date} is deployed after {self.deployed}",
        )
        self.deployed = record.base_date
        if "metrics" not in record.overrides and not self.world.setup.outsiders:
            self._good_enough(record, version, where)

    def _good_enough(self, record: Record, version: str, where: str) -> None:
        service = self.world.service
        serving = service.campaigns[self.world.resources.campaign_arn].solution_version_arn
        new, old = (self._gain(service.versions[each]) for each in (version, serving))
        least = self.world.setup.policy.least_metric_ratio * old
        self.must(new >= least or version == serving, f"{where}: its metric is {new}, that of {serving} {old}")

    def _gain(self, version: Version) -> float:
        return self.world.gain(version.name or "")

    # ------------------------------------------------------------------ events and the end

    def told(self, event: Event) -> None:
        if "number" not in event.figures:
            return
        key, number = str(event.figures["base_date"]), int(event.figures["number"])
        row = self.rows.get(key)
        known = row is not None and len(row["history"]) > number
        self.must(known, f"{key}: an event tells of a transition that is not in the ledger: {event.event}")
        assert row is not None
        state = row["history"][number]["state"]
        self.must(event.event == f"refresh_{state}", f"{key}: {event.event} is told, the ledger has {state}")
        self.world.counts["events repeated"] += (key, number, state) in self.events
        self.events.add((key, number, state))

    def at_rest(self) -> None:
        """After a quiet time: all has ended, all was told, and ledger and service agree."""
        records = [
            record_of("shop", datetime.date.fromisoformat(key), row) for key, row in self.rows.items() if key != HEAD
        ]
        for record in records:
            self.must(record.state in ENDS, f"{record.base_date}: stays {record.state} for ever: {record.note}")
            for number, each in enumerate(record.history):
                told = (record.base_date.isoformat(), number, str(each.state)) in self.events
                self.must(told, f"{record.base_date}: nobody was told of {each.state}")
            self._ended_truly(record)
        self._trainings_once({record.base_date: record for record in records})
        if HEAD in self.rows:
            self._head_agrees()

    def _ended_truly(self, record: Record) -> None:
        service, where = self.world.service, f"{record.base_date}: {record.state}"
        if not self.world.setup.stalls:  # what comes after its lease may come after its end
            jobs = [each.arn for each in service.imports.values() if each.name == record.name]
            made = [each.arn for each in service.versions.values() if each.name == record.name]
            self.must(set(jobs) <= {record.import_job}, f"{where}, and it does not know of its import {jobs}")
            self.must(set(made) <= {record.version}, f"{where}, and it does not know of its version {made}")
        if record.reason.startswith(_TIMED_OUT):
            return
        if record.state == "import_failed" and record.import_job:
            status = service.imports[record.import_job].status
            self.must(status == "CREATE FAILED", f"{where}, and its import is {status}")
        if record.state in ("training_failed", "training_stopped") and record.version:
            status = service.versions[record.version].status
            expected = "CREATE FAILED" if record.state == "training_failed" else "CREATE STOPPED"
            self.must(status == expected, f"{where}, and its version is {status}")

    def _timed_out(self, state: str) -> bool:
        return any(
            each["state"] == state and each["reason"].startswith(_TIMED_OUT)
            for key, row in self.rows.items()
            if key != HEAD
            for each in row["history"]
        )

    def _trainings_once(self, records: dict[datetime.date, Record]) -> None:
        names = [version.name for version in self.world.service.versions.values()]
        self.must(len(names) == len(set(names)), f"one training was begun twice: {names}")
        known = {
            job_name("shop", day, attempt + 1) for day, record in records.items() for attempt in range(record.attempt)
        }
        strange = set(names) - known - {"shop-first"}
        self.must(not strange, f"trainings that no refresh stands for: {strange}")

    def _head_agrees(self) -> None:
        head, service = self.head(), self.world.service
        self.must(not head.open, f"the head still has open refreshes: {head.open}")
        serves = service.campaigns[self.world.resources.campaign_arn].solution_version_arn
        if "late first deployment" in KNOWN and head.serving is None and self._timed_out("deployment_failed"):
            return
        known = head.serving.version if head.serving else self.world.first_version
        self.must(
            self.world.setup.outsiders or serves == known, f"the campaign serves {serves}, the ledger says {known}"
        )
        self.must(
            head.serving is None or serves == known,
            f"the campaign serves {serves}, the ledger says {known} (outsiders)",
        )
        if "late import" in KNOWN and self._timed_out("import_failed"):
            return
        done = [
            each
            for each in service.imports.values()
            if each.life.active_at(self.world.now) and each.name != "shop-first"
        ]
        latest = max(done, key=lambda each: each.life.ended, default=None)
        if latest is None:
            self.must(head.imported is None, f"the ledger says that {head.imported} was imported, and nothing was")
        else:
            named = head.imported and f"shop-{head.imported:%Y%m%d}"
            self.must(
                named and (latest.name or "").startswith(named),
                f"the data set was made by {latest.name}, the ledger says {head.imported}",
            )
