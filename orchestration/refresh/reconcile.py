"""Has the ledger say what is so at the service, where that came to pass late, or by somebody else's hand."""

from __future__ import annotations

import contextlib
from functools import partial

from orchestration.notify import Event
from orchestration.refresh import machine
from orchestration.refresh.ledger import Conflict
from orchestration.refresh.record import Deployment, Head, Record, State
from orchestration.refresh.service import Campaign, Refused, Status
from orchestration.refresh.worker import STEP, Worker


def reconcile(worker: Worker) -> list[str]:
    """Has the ledger say what the campaign really serves and what was really imported, where that came to pass late, or
    by somebody else's hand.

    Returns:
      What differed, one line each.
    """
    head = worker.ledger.head(worker.campaign)
    records = worker.ledger.records(worker.campaign)
    found = _late_imports(worker, head, records)
    if not any(record.state in machine.CHANGES_CAMPAIGN for record in records):
        campaign = worker.service.campaign()
        _late_rollbacks(worker, campaign, records)
        found += _served_otherwise(worker, campaign, found[-1][0] if found else head, records)
    # Where somebody else writes the head meanwhile the campaign is not quiet, and whoever looks next sees more.
    with contextlib.suppress(Conflict):
        for _, line in found:
            worker.log({"at": worker.clock(), "campaign": worker.campaign, "event": "drift", "why": line})
            worker.tell(Event("refresh_drift", STEP, worker.campaign, reason=line, at=worker.clock()))
        if found:
            worker.ledger.write_head(found[-1][0])
        return [line for _, line in found]
    return []


def _late_imports(worker: Worker, head: Head, records: list[Record]) -> list[tuple[Head, str]]:
    """Imports that were given up and are done by now: the head that knows of each, and a line."""
    found = []
    for record in reversed(records):
        given_up = record.state == State.IMPORT_FAILED and record.import_job
        if not given_up or (head.imported is not None and head.imported >= record.base_date):
            continue
        with contextlib.suppress(Refused):  # it is gone
            if worker.service.import_progress(record.import_job).status == Status.ACTIVE:
                head = machine.head_with_import(head, record)
                found.append((head, f"the import of {record.base_date}, which was given up, is done"))
    return found


def _late_rollbacks(worker: Worker, campaign: Campaign, records: list[Record]) -> None:
    for record in records:
        if record.state == State.ROLLBACK_FAILED and record.rollback_to == campaign.version:
            line = f"the campaign serves {campaign.version}: the rollback that was given up is done"
            with contextlib.suppress(Conflict):  # it is asked for again at this moment
                worker.ledger.write(record.moved(State.ROLLED_BACK, line, worker.clock()))


def _served_otherwise(worker: Worker, campaign: Campaign, head: Head, records: list[Record]) -> list[tuple[Head, str]]:
    of_ours = next((record for record in records if record.version == campaign.version), None)
    before = head.serving.version if head.serving else ""
    known = head.serving is not None and (head.serving.base_date is not None or of_ours is None)
    if not campaign.version or (campaign.version == before and known) or (not before and of_ours is None):
        return []
    deployment = Deployment(
        campaign.version, of_ours.base_date if of_ours else None, worker.clock(), of_ours.data_fingerprint if of_ours else ""
    )  # fmt: skip
    whose = f"of {of_ours.base_date}, {of_ours.state}" if of_ours else "which no refresh made"
    line = f"the campaign serves {campaign.version}, {whose}"
    if campaign.version != before:
        line += f", and not {before or 'nothing of ours'}"
    return [(head.now_serving(deployment), line)]


def rejoin(worker: Worker) -> list[Record]:
    """Puts every refresh that has not ended, or not been told of, among the open ones; returns those that were missing."""
    known = worker.ledger.head(worker.campaign).open
    missing = [
        record
        for record in worker.ledger.records(worker.campaign)
        if record.base_date not in known and (not record.state.is_end or record.told < len(record.history))
    ]
    for record in missing:
        worker.change_head(partial(Head.joined, base_date=record.base_date))
    return missing
