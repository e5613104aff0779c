"""What a person asks of a refresh that has ended: to do a failed step again, or to go back."""

from __future__ import annotations

import datetime
from typing import Any

from orchestration.refresh import machine
from orchestration.refresh.ledger import Conflict
from orchestration.refresh.record import ROLLBACK, Record, State
from orchestration.refresh.service import Busy, Refused, Status
from orchestration.refresh.worker import Worker
from transforms.errors import UsageError

_MOST_TRIES = 100
# What a failed refresh goes on from where a person has it done again, and whether under new names.
_RETRIED = {
    State.REJECTED: (State.STARTED, False),
    State.SKIPPED: (State.STARTED, False),
    State.IMPORT_FAILED: (State.STARTED, True),  # its data may have been mended
    State.TRAINING_FAILED: (State.IMPORT_ACTIVE, True),
    State.TRAINING_STOPPED: (State.IMPORT_ACTIVE, True),
    State.DEPLOYMENT_FAILED: (State.TRAINING_ACTIVE, False),
}


def retry(worker: Worker, base_date: datetime.date, why: str, overrides: dict[str, str] | None = None) -> Record:
    """Has a refresh that failed go on from the step that failed.

    Raises:
      UsageError: there is none, it has not failed, or a later one has taken its place.
    """
    record = worker.known(base_date)
    if record.state not in _RETRIED:
        raise UsageError(
            f"{worker.campaign} {base_date} is {record.state}: accepted for --retry are {', '.join(sorted(_RETRIED))}"
        )
    state, anew = _RETRIED[record.state]
    if record.state == State.REJECTED and record.version:
        state = State.TRAINING_ACTIVE
    elif anew and _goes_on(worker, record):
        state, anew = (State.VALIDATED if record.state == State.IMPORT_FAILED else state), False
    changes: dict[str, Any] = {"attempt": record.attempt + anew, "overrides": record.overrides | (overrides or {})}
    if anew:
        changes |= {"version": ""} | ({"import_job": ""} if state == State.STARTED else {})
    taken_by = machine.place_taken_by(record.moved(state, why, worker.clock()), worker.ledger.head(worker.campaign))
    if taken_by:
        raise UsageError(f"{worker.campaign} {base_date} is not done again: {taken_by} has taken its place")
    return _reopen(worker, record, state, why, changes)


def _goes_on(worker: Worker, record: Record) -> bool:
    """Whether the job that was given up goes on at the service, or is done: then it is asked for by the same name, and found."""
    try:
        if record.state == State.IMPORT_FAILED and record.import_job:
            progress = worker.service.import_progress(record.import_job)
        elif record.state == State.TRAINING_FAILED and record.version:
            progress = worker.service.training_progress(record.version)
        else:
            return False
    except Refused:  # it is gone
        return False
    return progress.status in (Status.IN_PROGRESS, Status.ACTIVE) and not progress.is_stopping


def rollback(worker: Worker, base_date: datetime.date | None, why: str) -> Record:
    """Asks that the campaign go back to what it served before the version it serves now; does no more than that.

    Args:
      base_date: the refresh to undo, for the case that another is served by now; by default whichever is served.

    Raises:
      UsageError: there is nothing to go back from or to.
    """
    serving = worker.ledger.head(worker.campaign).serving
    if serving is None or serving.base_date is None:
        raise UsageError(f"{worker.campaign} serves no version that a refresh of this ledger deployed")
    if base_date not in (None, serving.base_date):
        raise UsageError(f"{worker.campaign} serves the version of {serving.base_date}, not of {base_date}")
    record = worker.known(serving.base_date)
    if record.state in ROLLBACK:
        return record
    if not record.state.is_end or not record.replaced_version or record.replaced_version == record.version:
        raise UsageError(
            f"{worker.campaign} {record.base_date} is {record.state}, and replaced "
            f"{record.replaced_version or 'no version'}: there is nothing to go back to"
        )
    campaign = worker.service.campaign()
    if campaign.version != serving.version:
        raise UsageError(
            f"{worker.campaign} serves {campaign.version}, and not {serving.version} as the ledger says: sweep first"
        )
    update = campaign.update
    changes = {"rollback_to": record.replaced_version, "replaced_update": update.id if update else ""}
    return _reopen(worker, record, State.ROLLBACK_REQUESTED, why, changes)


def _reopen(worker: Worker, record: Record, state: State, why: str, changes: dict[str, Any]) -> Record:
    """The head first: whoever saw the record ended, and its turn free to take, sees another head by then.

    Raises: UsageError where somebody else changes the refresh at the same moment.
    """
    meanwhile = UsageError(f"{worker.campaign} {record.base_date} was changed meanwhile: look at its status")
    for _ in range(_MOST_TRIES):
        head = worker.ledger.head(worker.campaign)
        if worker.known(record.base_date).revision != record.revision:
            raise meanwhile
        try:
            worker.ledger.write_head(head.reopened(record.base_date))
        except Conflict:
            continue
        try:
            return worker.ledger.write(record.moved(state, why, worker.clock(), **changes))
        except Conflict:
            raise meanwhile from None
    raise Busy(f"the head of {worker.campaign} is changed all the time")
