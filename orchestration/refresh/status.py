"""What the ledger says of campaigns, as the object that ``status --json`` prints."""

from __future__ import annotations

import datetime
from typing import Any

from orchestration.refresh import machine
from orchestration.refresh.installation import Installation
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


def of_campaigns(installation: Installation, names: list[str], *, everything: bool = False) -> dict[str, Any]:
    """The object; ``everything``: all refreshes with their histories, not only the open ones and the latest that ended."""
    now = utc_now()
    campaigns = []
    for name in names:
        # The head first: a refresh that it calls open has a record by now.
        head, records = installation.ledger.head(name), installation.ledger.records(name)
        policy = installation.settings.campaign(name).policy
        campaigns.append(_of_campaign(head, records, policy, now, everything))
    return {"at": _text(now), "campaigns": campaigns}


def in_words(campaign: dict[str, Any]) -> str:
    """The latest refresh of a campaign in the object."""
    latest = campaign["refreshes"][0]
    return f"{campaign['campaign']} {latest['base_date']} is {latest['state']}: {latest['reason']}"


def _of_campaign(
    head: Head, records: list[Record], policy: Policy, now: datetime.datetime, everything: bool
) -> dict[str, Any]:
    """Args: records: the latest first."""
    ended = next((record.base_date for record in records if record.state.is_end), None)
    # The very latest too: whether it failed is what the campaign's own "failed" says.
    shown = [each for each in records if everything or not each.state.is_end or each.base_date == ended]
    serving = head.serving
    return {
        "campaign": head.campaign,
        "latest": _text(head.latest),
        "failed": bool(records) and records[0].state in FAILURES,
        "open": [_text(record.base_date) for record in records if not record.state.is_end],
        "serving": serving
        and {"version": serving.version, "base_date": _text(serving.base_date), "at": _text(serving.at)},
        "refreshes": [_of_refresh(record, policy, now, everything) for record in shown],
    }


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
