"""What a worker may see of a refresh, and what it may be told to do."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from orchestration.refresh.interactions_data import Data
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import Head, Record, State
from orchestration.refresh.service import Campaign, Progress


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


def wait(now: datetime.datetime, policy: Policy, why: str) -> Wait:
    """Until it is worth looking again."""
    return Wait(now + datetime.timedelta(seconds=policy.poll_seconds), why)


def turn_to(
    record: Record, observation: Observation, now: datetime.datetime, policy: Policy, turn: str
) -> Wait | SetHead | None:
    """How the refresh gets this turn of the head's; none where it has it."""
    head = observation.head
    if getattr(head, turn) == record.base_date:
        return None
    if observation.turn_taken is not None:
        return wait(now, policy, f"{observation.turn_taken} is {turn}")
    taken: dict[str, Any] = {turn: record.base_date}
    if record.state == State.TRAINING_ACTIVE:
        taken["deployment_fence"] = record.base_date
    return SetHead(replace(head, **taken), f"its turn: {turn}")
