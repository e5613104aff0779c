"""The last steps of a refresh, as pure functions: the gate before the deployment, the deployment, and the way back."""

from __future__ import annotations

import datetime
import math
from dataclasses import replace

from orchestration.refresh.actions import Action, Move, Observation, Request, SetHead, turn_to, wait
from orchestration.refresh.gates import metrics_verdict
from orchestration.refresh.policy import FULL, Policy
from orchestration.refresh.record import REQUESTED, ROLLBACK, Deployment, Head, Record, State
from orchestration.refresh.service import Campaign, Status


def judge(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    """The gate before the deployment."""
    campaign = observation.campaign
    assert campaign is not None
    if campaign.update is not None and campaign.update.progress.status == Status.IN_PROGRESS:
        return wait(
            now, policy, f"the campaign is being updated to {campaign.update.version}, and that is to be beaten"
        )
    served_already = campaign.version == record.version
    passed, reason = metrics_verdict(observation.metrics, observation.serving_metrics, policy)
    metrics = {name: float(value) for name, value in observation.metrics.items() if math.isfinite(value)}
    if not passed and "metrics" in record.overrides:
        passed, reason = True, f"{reason}; overridden: {record.overrides['metrics']}"
    # It may be served already: by a deployment that was given up too soon, by somebody, by the service itself.
    replaced = baseline_of(record, observation.head, campaign)
    if not passed:
        reason += "; and yet somebody has the campaign serve it" if served_already else ""
        return Move(State.REJECTED, reason, {"metrics": metrics, "replaced_version": replaced})
    changes = {
        "metrics": metrics, "replaced_version": replaced,
        "replaced_update": campaign.update.id if campaign.update else "",
    }  # fmt: skip
    return Request(State.DEPLOYMENT_REQUESTED, reason, changes)


def baseline_of(record: Record, head: Head, campaign: Campaign) -> str:
    """The version that this refresh's is to be better than: the one that is served, or was before this one."""
    if campaign.version != record.version:
        return campaign.version
    if record.replaced_version or head.serving is None or head.serving.version == record.version:
        return record.replaced_version
    return head.serving.version


def change_campaign(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    """A deployment, or a rollback, which is a deployment of what was served before."""
    campaign, head = observation.campaign, observation.head
    assert campaign is not None
    back = record.state in ROLLBACK
    target = record.rollback_to if back else record.version
    in_progress, failed = (
        (State.ROLLBACK_IN_PROGRESS, State.ROLLBACK_FAILED)
        if back
        else (State.DEPLOYMENT_IN_PROGRESS, State.DEPLOYMENT_FAILED)
    )
    if record.state == State.ROLLBACK_REQUESTED and (to_come := turn_to(record, observation, now, policy, "deploying")):
        if head.serving is None or head.serving.version != record.version:
            return Move(
                failed, f"the campaign serves {head.serving.version if head.serving else 'nothing of ours'} by now"
            )
        return to_come
    if campaign.progress.status == Status.FAILED:
        return Move(failed, campaign.progress.reason or campaign.progress.text)
    update = campaign.update
    ours = update is not None and update.version == target and update.id != record.replaced_update
    others = update is not None and not ours and update.id != record.replaced_update
    pending = update is not None and update.progress.status == Status.IN_PROGRESS
    if campaign.version == target and not pending:
        return _served(record, head, target, now)
    if ours:
        assert update is not None
        if update.progress.status in (Status.FAILED, Status.STOPPED):
            return Move(failed, update.progress.reason or update.progress.text)
        if record.state in REQUESTED:
            return Move(in_progress, f"the campaign's update to {target} is {update.progress.text}")
        return wait(now, policy, update.progress.text)
    if others:
        assert update is not None
        if record.state == State.ROLLBACK_REQUESTED and pending:
            return wait(now, policy, f"the campaign is being updated to {update.version}")
        if record.state == State.ROLLBACK_REQUESTED and update.progress.status == Status.FAILED:
            # A later refresh's, which came while this one waited for its turn.
            return Request(record.state, f"{target}, asked for", {"replaced_update": update.id})
        return Move(failed, f"somebody else updated the campaign to {update.version}")
    if record.state in REQUESTED:
        return Request(record.state, f"{target}, asked for again")
    return wait(now, policy, "the campaign's update is not to be seen yet")


def _served(record: Record, head: Head, target: str, now: datetime.datetime) -> Action:
    """The campaign serves the target: the head knows it first, so that nobody's turn begins before."""
    back = record.state in ROLLBACK
    if head.serving is None or head.serving.version != target:
        base_date = None if back else record.base_date
        fingerprint = "" if back else record.data_fingerprint
        for each in head.deployments if back else ():
            if each.version == target:
                base_date, fingerprint = each.base_date, each.data_fingerprint
        served = head.now_serving(Deployment(target, base_date, now, fingerprint))
        # What a rollback undoes is nothing to build an UPDATE on.
        full = None if back else record.base_date if record.training_mode == FULL else head.full_training
        return SetHead(replace(served, full_training=full), f"the campaign serves {target}")
    return Move(State.ROLLED_BACK if back else State.DEPLOYMENT_ACTIVE, f"the campaign came to serve {target}")
