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
from dataclasses import replace

from orchestration.refresh.actions import Action, Look, Move, Observation, Request, SetHead, Wait, turn_to, wait
from orchestration.refresh.campaign_change import change_campaign, judge
from orchestration.refresh.gates import import_verdict
from orchestration.refresh.policy import FULL, Policy
from orchestration.refresh.record import ROLLBACK, Head, Record, State
from orchestration.refresh.service import OwnTraining, Status

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
            or turn_to(record, observation, now, policy, "importing")
            or Request(State.IMPORT_REQUESTED, record.name)
        )
    elif record.state == State.IMPORT_ACTIVE:
        action = Request(State.TRAINING_REQUESTED, f"{record.name}, {record.training_mode}")
    elif record.state == State.TRAINING_ACTIVE:
        action = turn_to(record, observation, now, policy, "deploying") or judge(record, observation, now, policy)
    elif record.state in (State.IMPORT_REQUESTED, State.TRAINING_REQUESTED):
        action = _adopt(record, observation)
    elif record.state == State.IMPORT_IN_PROGRESS:
        action = _imported(record, observation, now, policy)
    elif record.state == State.TRAINING_IN_PROGRESS:
        action = _trained(record, observation, now, policy)
    else:
        action = change_campaign(record, observation, now, policy)
    return _within_limits(record, action, head, now, policy)


_DAY = datetime.timedelta(days=1)


def _to_join(record: Record, head: Head) -> bool:
    known = record.base_date in head.open and head.latest is not None and head.latest >= record.base_date
    return not record.state.is_end and not known


def place_taken_by(record: Record, head: Head) -> datetime.date | None:
    """The later refresh for which this one has to give way in its state, if there is one."""
    if record.state in ROLLBACK:
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


def _validate(record: Record, observation: Observation, now: datetime.datetime, policy: Policy) -> Action:
    data, head = observation.data, observation.head
    if problems := [
        each for each in observation.problems if not (policy.own_auto_training and isinstance(each, OwnTraining))
    ]:
        return Move(State.REJECTED, "; ".join(problems))
    if data is None:
        return wait(now, policy, f"{record.data} is not complete")
    if head.serving is not None and data.fingerprint == head.serving.data_fingerprint:
        return Move(State.SKIPPED, f"no new data: those of {head.serving.base_date} are the same")
    passed, reason = import_verdict(data, record.base_date, head, policy)
    if not passed and data.mode != FULL and any(each < record.base_date for each in head.open):
        return wait(now, policy, f"{reason}; an earlier refresh may close the gap")
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
        return wait(now, policy, progress.text)
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
        return wait(now, policy, progress.text)
    if progress.status != Status.ACTIVE:
        ended = State.TRAINING_STOPPED if progress.status == Status.STOPPED else State.TRAINING_FAILED
        return Move(ended, progress.reason or progress.text)
    return Move(State.TRAINING_ACTIVE, f"{record.version} is trained")
