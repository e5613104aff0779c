"""What to do next with a refresh: a pure function of its record, an observation and the time. No I/O, no clock.

A worker repeats, until the answer is to wait::

    look = what_to_look_at(record, head, now)      at most one question to the service where nothing happens
    observation = ...                              the worker asks it
    action = next_action(record, observation, now, policy)

Why it cannot do harm, however many workers there are and whenever they die:

* Each action changes one row by compare-and-set, and only *_requested records lead to calls that change something: of
  all who saw the same revision one wrote that intent, and that one has a lease to make the call. When the lease is over
  whoever comes next looks for what the call may have made, by its name, before it makes the same call again.
* The data set and the campaign are changed in turns, which the head hands out. A turn is taken over only from a refresh
  that is past such a change, never from one that may be about to make it; a refresh that comes back to one (a rollback,
  a person's retry) first gives up any turn it still has on paper.
* Once the data of a later base_date are found good an earlier refresh begins no import and no training any more; a training
  that is bought goes on, since the later one may fail, and is deployed unless the later one took its turn to deploy before.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from orchestration.refresh.gates import import_verdict, metrics_verdict
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.policy import FULL, Policy
from orchestration.refresh.record import REQUESTED, Deployment, Head, Record, State
from orchestration.refresh.service import Campaign, OwnTraining, Progress, Status


class Look(Enum):
    """What the next decision depends on beyond the ledger."""

    NOTHING = "nothing"
    DATA = "data"  # the manifest of the data, and what would fight the refresh at the service
    IMPORT_BY_NAME = "import by name"
    IMPORT = "import"
    TRAINING_BY_NAME = "training by name"
    TRAINING = "training"
    CAMPAIGN = "campaign"
    METRICS = "metrics"  # of the new version and of the one that is served, and the campaign


@dataclass(frozen=True)
class Observation:
    """What a worker saw.

    Attributes:
      head: of the campaign, read before the record: what the record says of turns is not older than the head.
      turn_taken: the refresh whose turn it still is, where this one waits for its own.
      data: none where they are not complete.
      problems: see ``CampaignService.problems``.
      found: the job or version of the refresh's name, if there is one.
      progress: of the job or version.
      campaign: as the service describes it.
      metrics, serving_metrics: offline metrics of the new version, and of the one that is served.
    """

    head: Head
    turn_taken: datetime.date | None = None
    data: Data | None = None
    problems: tuple[str, ...] = ()
    found: str | None = None
    progress: Progress | None = None
    campaign: Campaign | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    serving_metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Wait:
    """Nothing to do before ``until``."""

    until: datetime.datetime
    why: str


@dataclass(frozen=True)
class Move:
    """Write the record in its next state, having stopped the training ``stop``, which nobody needs any more."""

    state: State
    reason: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    stop: str = ""


@dataclass(frozen=True)
class SetHead:
    """Write the campaign's head."""

    head: Head
    why: str


@dataclass(frozen=True)
class Request:
    """Write the intent with a lease, then make the call that the state ``requested`` stands for."""

    requested: State
    reason: str
    changes: Mapping[str, Any] = field(default_factory=dict)


Action = Wait | Move | SetHead | Request

# Who is in one of these may be about to change the data set, or the campaign, or is doing so.
CHANGES_DATA = frozenset({State.VALIDATED, State.IMPORT_REQUESTED, State.IMPORT_IN_PROGRESS})
CHANGES_CAMPAIGN = frozenset(
    {
        State.TRAINING_ACTIVE, State.DEPLOYMENT_REQUESTED, State.DEPLOYMENT_IN_PROGRESS,
        State.ROLLBACK_REQUESTED, State.ROLLBACK_IN_PROGRESS,
    }
)  # fmt: skip
# Nothing at the service is on its way for who is in one of these.
_BETWEEN = frozenset({State.STARTED, State.VALIDATED, State.IMPORT_ACTIVE, State.TRAINING_ACTIVE})
_BEFORE_TRAINING = frozenset(
    {
        State.STARTED, State.VALIDATED, State.IMPORT_REQUESTED, State.IMPORT_IN_PROGRESS, State.IMPORT_ACTIVE,
        State.TRAINING_REQUESTED,
    }
)  # fmt: skip
_ROLLBACK = frozenset({State.ROLLBACK_REQUESTED, State.ROLLBACK_IN_PROGRESS})

_LOOKS = {
    State.STARTED: Look.DATA,
    State.IMPORT_REQUESTED: Look.IMPORT_BY_NAME,
    State.IMPORT_IN_PROGRESS: Look.IMPORT,
    State.TRAINING_REQUESTED: Look.TRAINING_BY_NAME,
    State.TRAINING_IN_PROGRESS: Look.TRAINING,
    State.TRAINING_ACTIVE: Look.METRICS,
    State.DEPLOYMENT_REQUESTED: Look.CAMPAIGN,
    State.DEPLOYMENT_IN_PROGRESS: Look.CAMPAIGN,
    State.ROLLBACK_REQUESTED: Look.CAMPAIGN,
    State.ROLLBACK_IN_PROGRESS: Look.CAMPAIGN,
}
# How each step ends where it does not end well, and which of the policy's hours it has.
_FAILED = {
    State.STARTED: (State.REJECTED, "data_hours"),
    State.VALIDATED: (State.IMPORT_FAILED, "total_hours"),
    State.IMPORT_REQUESTED: (State.IMPORT_FAILED, "total_hours"),
    State.IMPORT_IN_PROGRESS: (State.IMPORT_FAILED, "import_hours"),
    State.IMPORT_ACTIVE: (State.TRAINING_FAILED, "total_hours"),
    State.TRAINING_REQUESTED: (State.TRAINING_FAILED, "total_hours"),
    State.TRAINING_IN_PROGRESS: (State.TRAINING_FAILED, "training_hours"),
    State.TRAINING_ACTIVE: (State.DEPLOYMENT_FAILED, "total_hours"),
    State.DEPLOYMENT_REQUESTED: (State.DEPLOYMENT_FAILED, "deployment_hours"),
    State.DEPLOYMENT_IN_PROGRESS: (State.DEPLOYMENT_FAILED, "deployment_hours"),
    State.ROLLBACK_REQUESTED: (State.ROLLBACK_FAILED, "deployment_hours"),
    State.ROLLBACK_IN_PROGRESS: (State.ROLLBACK_FAILED, "deployment_hours"),
}


def failure_of(state: State) -> State:
    """How a refresh in this open state ends where its step fails."""
    return _FAILED[state][0]


def deadline(record: Record, policy: Policy) -> tuple[datetime.datetime, float]:
    """When an open refresh fails for want of time: after so many hours of its step, or of all, whichever is sooner."""
    began = record.since
    for each in reversed(record.history):
        if _FAILED.get(each.state) != _FAILED[record.state]:
            break
        began = each.at
    step = getattr(policy, _FAILED[record.state][1])
    limits = ((began + datetime.timedelta(hours=step), step),
              (record.began + datetime.timedelta(hours=policy.total_hours), policy.total_hours))  # fmt: skip
    return min(limits)


def resting_until(record: Record, now: datetime.datetime) -> datetime.datetime | None:
    """Until when nobody is to call the service for this record, if that is in the future."""
    until = max((each for each in (record.lease_until, record.not_before) if each), default=None)
    return until if until is not None and until > now else None


def what_to_look_at(record: Record, head: Head, now: datetime.datetime) -> Look:
    """The one thing ``next_action`` needs to know."""
    if _to_join(record, head) or resting_until(record, now) or (_is_late(record, head) and record.state in _BETWEEN):
        return Look.NOTHING
    if record.state == State.TRAINING_ACTIVE and head.deploying != record.base_date:
        return Look.NOTHING  # its turn comes first: what is served may change until then
    return _LOOKS.get(record.state, Look.NOTHING)


def next_action(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    """What to do with a refresh.

    Args:
      observation: has what ``what_to_look_at`` asked for.
      now: in UTC.
    """
    head = observation.head
    if record.state.is_end:
        if record.base_date in head.open:
            return SetHead(head.left(record.base_date), f"it has ended as {record.state}")
        return Wait(now + _DAY, f"it has ended as {record.state}")
    if _to_join(record, head):
        return SetHead(head.joined(record.base_date), "it is one of the open refreshes")
    if until := resting_until(record, now):
        why = record.note or "a worker has the lease to call the service"
        return Wait(until, why)
    if _is_late(record, head) and record.state in _BETWEEN:
        return _superseded(record, head)
    if record.state == State.STARTED:
        action = _validate(record, observation, now, policy)
    elif record.state == State.VALIDATED:
        action = (
            _fence(record, head)
            or _turn(record, observation, now, policy, "importing")
            or Request(State.IMPORT_REQUESTED, record.name)
        )
    elif record.state == State.IMPORT_ACTIVE:
        action = Request(State.TRAINING_REQUESTED, f"{record.name}, {record.training_mode}")
    elif record.state == State.TRAINING_ACTIVE:
        action = _turn(record, observation, now, policy, "deploying") or _judge(record, observation, now, policy)
    elif record.state in (State.IMPORT_REQUESTED, State.TRAINING_REQUESTED):
        action = _adopt(record, observation)
    elif record.state == State.IMPORT_IN_PROGRESS:
        action = _imported(record, observation, now, policy)
    elif record.state == State.TRAINING_IN_PROGRESS:
        action = _trained(record, observation, now, policy)
    else:
        action = _change_campaign(record, observation, now, policy)
    return _within_limits(record, action, head, now, policy)


_DAY = datetime.timedelta(days=1)


def _to_join(record: Record, head: Head) -> bool:
    known = record.base_date in head.open and head.latest is not None and head.latest >= record.base_date
    return not record.state.is_end and not known


def place_taken_by(record: Record, head: Head) -> datetime.date | None:
    """The later refresh for which this one has to give way in its state, if there is one."""
    if record.state in _ROLLBACK:
        return None
    fence = head.fence if record.state in _BEFORE_TRAINING else head.deployment_fence
    return fence if fence is not None and fence > record.base_date else None


def _is_late(record: Record, head: Head) -> bool:
    return place_taken_by(record, head) is not None


def _superseded(record: Record, head: Head, training: str = "") -> Move:
    return Move(State.SUPERSEDED, f"{place_taken_by(record, head)} has taken its place", stop=training)


def _within_limits(record: Record, action: Action, head: Head, now: datetime.datetime, policy: Policy) -> Action:
    """The action, unless the refresh is superseded or has had its time.

    Called where no call of this refresh can be on its way: its lease is over, and what it may have made was looked for.
    """
    if isinstance(action, Move) or (isinstance(action, SetHead) and record.state not in _BETWEEN):
        return action  # what is known of the service is written first
    training = record.version if record.state == State.TRAINING_IN_PROGRESS else ""
    changing = record.state in (State.IMPORT_IN_PROGRESS, State.DEPLOYMENT_IN_PROGRESS)
    if _is_late(record, head) and not changing:
        return _superseded(record, head, training)
    return given_up(record, now, policy, action.why if isinstance(action, Wait) else "") or action


def given_up(record: Record, now: datetime.datetime, policy: Policy, waited: str) -> Move | None:
    """How an open refresh ends that has had its time; none where it has some left, or a call may be on its way."""
    until, hours = deadline(record, policy)
    if now < until or resting_until(record, now):
        return None
    waited = record.note or waited
    why = f"not done within {hours:g} hours" + (f": {waited}" if waited else "")
    return Move(
        failure_of(record.state), why, stop=record.version if record.state == State.TRAINING_IN_PROGRESS else ""
    )


def _wait(now: datetime.datetime, policy: Policy, why: str) -> Wait:
    return Wait(now + datetime.timedelta(seconds=policy.poll_seconds), why)


def _validate(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    data, head = observation.data, observation.head
    if problems := [
        each for each in observation.problems if not (policy.own_auto_training and isinstance(each, OwnTraining))
    ]:
        return Move(State.REJECTED, "; ".join(problems))
    if data is None:
        return _wait(now, policy, f"{record.data} is not complete")
    if head.serving is not None and data.fingerprint == head.serving.data_fingerprint:
        return Move(State.SKIPPED, f"no new data: those of {head.serving.base_date} are the same")
    passed, reason = import_verdict(data, record.base_date, head, policy)
    if not passed and data.mode != FULL and any(each < record.base_date for each in head.open):
        return _wait(now, policy, f"{reason}; an earlier refresh may close the gap")
    if not passed and "data" not in record.overrides:
        return Move(State.REJECTED, reason)
    if not passed:
        reason = f"{reason}; overridden: {record.overrides['data']}"
    recent = head.full_training is not None and record.base_date < head.full_training + datetime.timedelta(
        days=policy.full_training_every_days
    )
    changes = {
        "data_location": data.location, "data_fingerprint": data.fingerprint, "data_rows": data.rows, "data_until": data.until,
        "import_mode": data.mode, "training_mode": policy.training_mode if recent else FULL,
    }  # fmt: skip
    return Move(State.VALIDATED, reason, changes)


def _fence(record: Record, head: Head) -> SetHead | None:
    """What ends earlier refreshes, now that this one's data are known to be good; none where that is done."""
    if head.fence is not None and head.fence >= record.base_date:
        return None
    return SetHead(replace(head, fence=record.base_date), "its data are good: earlier refreshes end")


def _turn(
    record: Record, observation: Observation, now: datetime.datetime, policy: Policy, turn: str
) -> Wait | SetHead | None:
    """How the refresh gets this turn of the head's; none where it has it."""
    head = observation.head
    if getattr(head, turn) == record.base_date:
        return None
    if observation.turn_taken is not None:
        return _wait(now, policy, f"{observation.turn_taken} is {turn}")
    taken: dict[str, Any] = {turn: record.base_date}
    if record.state == State.TRAINING_ACTIVE:
        taken["deployment_fence"] = record.base_date
    return SetHead(replace(head, **taken), f"its turn: {turn}")


def _adopt(record: Record, observation: Observation) -> Action:
    """An intent whose lease is over: what the call made, or the call once more."""
    if observation.found is None:
        return Request(record.state, f"{record.name}, asked for again")
    if record.state == State.IMPORT_REQUESTED:
        return Move(State.IMPORT_IN_PROGRESS, f"{record.name} exists", {"import_job": observation.found})
    return Move(State.TRAINING_IN_PROGRESS, f"{record.name} exists", {"version": observation.found})


def _imported(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    head, progress = observation.head, observation.progress
    assert progress is not None
    if progress.status == Status.IN_PROGRESS:
        return _wait(now, policy, progress.text)
    if progress.status != Status.ACTIVE:
        return Move(State.IMPORT_FAILED, progress.reason or progress.text)
    if (known := head_with_import(head, record)) != head:
        return SetHead(known, "the data are imported")
    return Move(State.IMPORT_ACTIVE, f"{record.data_rows:,} rows imported")


def head_with_import(head: Head, record: Record) -> Head:
    """The head once the data set is made of this refresh's data."""
    return replace(
        head, imported=record.base_date, imported_fingerprint=record.data_fingerprint, imported_until=record.data_until,
        imported_rows=record.data_rows if record.import_mode == FULL else head.imported_rows,
    )  # fmt: skip


def _trained(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    progress = observation.progress
    assert progress is not None
    if progress.status == Status.IN_PROGRESS:
        return _wait(now, policy, progress.text)
    if progress.status != Status.ACTIVE:
        ended = State.TRAINING_STOPPED if progress.status == Status.STOPPED else State.TRAINING_FAILED
        return Move(ended, progress.reason or progress.text)
    return Move(State.TRAINING_ACTIVE, f"{record.version} is trained")


def _judge(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    """The gate before the deployment."""
    campaign = observation.campaign
    assert campaign is not None
    if campaign.update is not None and campaign.update.progress.status == Status.IN_PROGRESS:
        return _wait(
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


def _change_campaign(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    """A deployment, or a rollback, which is a deployment of what was served before."""
    campaign, head = observation.campaign, observation.head
    assert campaign is not None
    back = record.state in _ROLLBACK
    target = record.rollback_to if back else record.version
    in_progress, failed = (
        (State.ROLLBACK_IN_PROGRESS, State.ROLLBACK_FAILED)
        if back
        else (State.DEPLOYMENT_IN_PROGRESS, State.DEPLOYMENT_FAILED)
    )
    if record.state == State.ROLLBACK_REQUESTED and (to_come := _turn(record, observation, now, policy, "deploying")):
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
        return _wait(now, policy, update.progress.text)
    if others:
        assert update is not None
        if record.state == State.ROLLBACK_REQUESTED and pending:
            return _wait(now, policy, f"the campaign is being updated to {update.version}")
        if record.state == State.ROLLBACK_REQUESTED and update.progress.status == Status.FAILED:
            # A later refresh's, which came while this one waited for its turn.
            return Request(record.state, f"{target}, asked for", {"replaced_update": update.id})
        return Move(failed, f"somebody else updated the campaign to {update.version}")
    if record.state in REQUESTED:
        return Request(record.state, f"{target}, asked for again")
    return _wait(now, policy, "the campaign's update is not to be seen yet")


def _served(record: Record, head: Head, target: str, now: datetime.datetime) -> Action:
    """The campaign serves the target: the head knows it first, so that nobody's turn begins before."""
    back = record.state in _ROLLBACK
    if head.serving is None or head.serving.version != target:
        base_date = None if back else record.base_date
        fingerprint = "" if back else record.data_fingerprint
        for each in head.deployments if back else ():
            if each.version == target:
                base_date, fingerprint = each.base_date, each.data_fingerprint
        return SetHead(
            head.now_serving(Deployment(target, base_date, now, fingerprint)), f"the campaign serves {target}"
        )
    return Move(State.ROLLED_BACK if back else State.DEPLOYMENT_ACTIVE, f"the campaign came to serve {target}")
