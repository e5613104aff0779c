"""What the ledger says of campaigns, as the object that ``status --json`` prints."""

from __future__ import annotations

import datetime
from typing import Any

from orchestration.refresh import machine
from orchestration.refresh.installation import Installation, Troubles, each_campaign
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import FAILURES, Head, Record, State
from orchestration.refresh.worker import utc_now

# What an open refresh waits for, and which of the policy's hours it has for that.
_WAITS = {
    State.STARTED: "complete data",
    State.VALIDATED: "its turn to import",
    State.IMPORT_REQUESTED: "the import's beginning",
    State.IMPORT_IN_PROGRESS: "the import",
    State.IMPORT_ACTIVE: "the next tick",
    State.TRAINING_REQUESTED: "the training's beginning",
    State.TRAINING_IN_PROGRESS: "the training",
    State.TRAINING_ACTIVE: "its turn to deploy",
    State.DEPLOYMENT_REQUESTED: "the campaign's update to begin",
    State.DEPLOYMENT_IN_PROGRESS: "the campaign's update",
    State.ROLLBACK_REQUESTED: "the campaign's update to begin",
    State.ROLLBACK_IN_PROGRESS: "the campaign's update",
}


def of_campaigns(
    installation: Installation, names: list[str], troubles: Troubles, *, everything: bool = False
) -> dict[str, Any]:
    """The object, without the campaigns that had trouble.

    Args:
      everything: all refreshes with their histories, not only the open ones, the latest that ended, the one that is
        served and the last rollback.
    """
    now = utc_now()
    found: dict[str, dict[str, Any]] = {}

    def read(name: str) -> None:
        # The head first: a refresh that it calls open has a record by now.
        head, records = installation.ledger.head(name), installation.ledger.records(name)
        found[name] = _of_campaign(head, records, installation.settings.campaign(name).policy, now, everything)

    each_campaign(names, read, troubles)
    return {"at": _text(now), "campaigns": [found[name] for name in names if name in found]}


def failures_in_words(campaign: dict[str, Any]) -> list[str]:
    """Of a campaign in the object."""
    return [
        f"{campaign['campaign']} {each['base_date']} is {each['state']}: {each['reason']}"
        for each in campaign["refreshes"]
        if each["base_date"] in campaign["failures"]
    ]


def _of_campaign(
    head: Head, records: list[Record], policy: Policy, now: datetime.datetime, everything: bool
) -> dict[str, Any]:
    """Args: records: the latest first."""
    ended = [record for record in records if record.state.is_end][:1]
    # These speak for the campaign: that something later was skipped, say, mends no rollback.
    telling = [*records[:1], *_served(head, records), *_undone(head, records)]
    failures = {each.base_date for each in telling if each.state in FAILURES}
    wanted = {each.base_date for each in (*ended, *telling)}
    shown = [each for each in records if everything or not each.state.is_end or each.base_date in wanted]
    serving = head.serving
    return {
        "campaign": head.campaign,
        "latest": _text(head.latest),
        "failed": bool(failures),
        "failures": [_text(record.base_date) for record in records if record.base_date in failures],
        "open": [_text(record.base_date) for record in records if not record.state.is_end],
        "serving": serving
        and {"version": serving.version, "base_date": _text(serving.base_date), "at": _text(serving.at)},
        "refreshes": [_of_refresh(record, policy, now, everything) for record in shown],
    }


def _served(head: Head, records: list[Record]) -> list[Record]:
    """The refresh whose version is served, if it is one's."""
    return [each for each in records if head.serving is not None and each.base_date == head.serving.base_date]


def _undone(head: Head, records: list[Record]) -> list[Record]:
    """The refresh that was to be rolled back last, until the version of a later one is served."""
    ends = [each for each in records if each.state in (State.ROLLED_BACK, State.ROLLBACK_FAILED)]
    served = head.serving.base_date if head.serving else None
    last = sorted(ends, key=lambda record: record.since)[-1:]
    return [each for each in last if served is None or served <= each.base_date]


def _of_refresh(record: Record, policy: Policy, now: datetime.datetime, everything: bool) -> dict[str, Any]:
    is_end = record.state.is_end
    metric = record.metrics.get(policy.metric)
    found: dict[str, Any] = {
        "base_date": _text(record.base_date),
        "state": str(record.state),
        "failed": record.state in FAILURES,
        "ended": is_end,
        "since": _text(record.since),
        "seconds": max(0, round((now - record.since).total_seconds())),
        "reason": record.reason,
        "waits_for": None if is_end else _waits_for(record, now),
        "until": None if is_end else _text(machine.resting_until(record, now)),
        "deadline": None if is_end else _text(machine.deadline(record, policy)[0]),
        "attempt": record.attempt,
        "version": record.version,
        "metric": None if metric is None else {"name": policy.metric, "value": metric},
        "metrics": record.metrics,
        "data": record.data,
        "data_rows": record.data_rows,
        "import_mode": record.import_mode,
        "training_mode": record.training_mode,
        "replaced_version": record.replaced_version,
        "overrides": record.overrides,
    }
    if everything:
        found["history"] = [
            {"at": _text(each.at), "state": str(each.state), "reason": each.reason} for each in record.history
        ]
    return found


def _waits_for(record: Record, now: datetime.datetime) -> str:
    """In words; what held it up last is the best there is to say."""
    if record.note:
        return record.note
    if record.lease_until is not None and record.lease_until > now:
        return "a worker that is calling the service, or died"
    return _WAITS[record.state]


def _text(value: datetime.date | None) -> str | None:
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")
    return None if value is None else value.isoformat()
