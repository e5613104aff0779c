"""What the ledger knows: one record for each refresh, keyed by (campaign, base_date), and one head for each campaign.

A refresh goes through these states, from left to right, and ends in one of the last column's::

    started -> validated -> import_requested -> import_in_progress -> import_active          rejected, skipped, superseded,
            -> training_requested -> training_in_progress -> training_active                 import_failed, training_failed,
            -> deployment_requested -> deployment_in_progress -> deployment_active           training_stopped, deployment_failed
    deployment_active -> rollback_requested -> rollback_in_progress -> rolled_back           rollback_failed

*_requested is the intent: it is written, with a lease, before the service is called. The head holds what refreshes of a
campaign have in common: which is the latest, whose turn it is to change the data set and the campaign, what is served.
Both have a revision that every change must name.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from transforms.errors import one_line

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-_]*")  # of everything that Personalize names, 1 to 63 characters
_NAME_LENGTH = 63
_DEPLOYMENTS_KEPT = 20


class State(StrEnum):
    """Where a refresh is."""

    STARTED = "started"
    VALIDATED = "validated"
    IMPORT_REQUESTED = "import_requested"
    IMPORT_IN_PROGRESS = "import_in_progress"
    IMPORT_ACTIVE = "import_active"
    IMPORT_FAILED = "import_failed"
    TRAINING_REQUESTED = "training_requested"
    TRAINING_IN_PROGRESS = "training_in_progress"
    TRAINING_ACTIVE = "training_active"
    TRAINING_FAILED = "training_failed"
    TRAINING_STOPPED = "training_stopped"
    DEPLOYMENT_REQUESTED = "deployment_requested"
    DEPLOYMENT_IN_PROGRESS = "deployment_in_progress"
    DEPLOYMENT_ACTIVE = "deployment_active"
    DEPLOYMENT_FAILED = "deployment_failed"
    ROLLBACK_REQUESTED = "rollback_requested"
    ROLLBACK_IN_PROGRESS = "rollback_in_progress"
    ROLLED_BACK = "rolled_back"
    ROLLBACK_FAILED = "rollback_failed"
    REJECTED = "rejected"  # by a gate
    SKIPPED = "skipped"  # no new data
    SUPERSEDED = "superseded"  # by a later base_date

    @property
    def is_end(self) -> bool:
        return self in ENDS


ENDS = frozenset(
    {
        State.IMPORT_FAILED, State.TRAINING_FAILED, State.TRAINING_STOPPED, State.DEPLOYMENT_ACTIVE, State.DEPLOYMENT_FAILED,
        State.ROLLED_BACK, State.ROLLBACK_FAILED, State.REJECTED, State.SKIPPED, State.SUPERSEDED,
    }
)  # fmt: skip
FAILURES = frozenset(
    {
        State.IMPORT_FAILED, State.TRAINING_FAILED, State.TRAINING_STOPPED, State.DEPLOYMENT_FAILED, State.ROLLBACK_FAILED,
        State.REJECTED,
    }
)  # fmt: skip
REQUESTED = frozenset(
    {State.IMPORT_REQUESTED, State.TRAINING_REQUESTED, State.DEPLOYMENT_REQUESTED, State.ROLLBACK_REQUESTED}
)
ROLLBACK = frozenset({State.ROLLBACK_REQUESTED, State.ROLLBACK_IN_PROGRESS})


@dataclass(frozen=True)
class Transition:
    """One change of state: when (UTC), to what, and why in one line."""

    at: datetime.datetime
    state: State
    reason: str


@dataclass(frozen=True)
class Record:
    """One refresh.

    Attributes:
      data: the directory that ``pipelines.interactions`` made, or is about to make.
      attempt: counts the times a person had a failed stage done again; part of the names at the service.
      data_location: the prefix to import; known, as all that follows, once it is needed.
      import_mode, training_mode: the service's words, such as FULL.
      version: what the training made, by the service's own name (at Personalize a solution version's ARN).
      replaced_version: what the campaign served when this refresh's deployment was asked for.
      replaced_update: names the campaign's latest update at that time, so that ours is told from it.
      rollback_to: the version that a rollback of this refresh leads to.
      metrics: offline metrics of the version.
      overrides: gates that a person has overridden, and why.
      lease_until: until then the worker that wrote the intent may call the service, and nobody else does.
      not_before: no worker calls the service earlier: it was busy.
      tries: how often in a row it was busy.
      note: why nothing happens, where that is known.
      told: how many of the transitions have been announced.
    """

    campaign: str
    base_date: datetime.date
    data: str
    history: tuple[Transition, ...]
    revision: int = 0
    attempt: int = 1
    data_location: str = ""
    data_fingerprint: str = ""
    data_rows: int = 0
    data_until: datetime.date | None = None
    import_mode: str = ""
    training_mode: str = ""
    import_job: str = ""
    version: str = ""
    replaced_version: str = ""
    replaced_update: str = ""
    rollback_to: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    lease_until: datetime.datetime | None = None
    not_before: datetime.datetime | None = None
    tries: int = 0
    note: str = ""
    told: int = 0

    @property
    def state(self) -> State:
        return self.history[-1].state

    @property
    def since(self) -> datetime.datetime:
        """When it came to its state."""
        return self.history[-1].at

    @property
    def reason(self) -> str:
        return self.history[-1].reason

    @property
    def began(self) -> datetime.datetime:
        """When it was started, or last opened again: by a rollback, or by a person's retry."""
        ends = [index for index, each in enumerate(self.history) if each.state.is_end and index + 1 < len(self.history)]
        return self.history[ends[-1] + 1 if ends else 0].at

    @property
    def name(self) -> str:
        """Of whatever this refresh makes at the service: the same however often it is tried."""
        return job_name(self.campaign, self.base_date, self.attempt)

    def moved(self, state: State, reason: str, now: datetime.datetime, **changes: Any) -> Record:
        """The record in its next state; nothing of the former state's waiting is left."""
        step = Transition(now, state, one_line(reason))
        kept = {"lease_until": None, "not_before": None, "tries": 0, "note": ""} | changes
        return replace(self, history=(*self.history, step), **kept)


@dataclass(frozen=True)
class Deployment:
    """A version that a campaign came to serve. ``base_date`` is none where no refresh of this ledger made it."""

    version: str
    base_date: datetime.date | None
    at: datetime.datetime
    data_fingerprint: str = ""


@dataclass(frozen=True)
class Head:
    """What a campaign's refreshes have in common.

    Attributes:
      latest: the latest base_date that was started.
      fence: the latest one whose data passed their gate: nothing earlier begins an import or a training any more.
      deployment_fence: the latest one that took its turn to deploy: nothing earlier is deployed any more.
      open: refreshes that have not ended, or whose end has not been announced.
      importing, deploying: the refresh whose turn it is to change the data set, or the campaign.
      imported: the base_date of what the data set was last made of, with its fingerprint and its end.
      imported_rows: of the last FULL import.
      full_training: the base_date of the last full training that was deployed; none after a rollback.
      serving: what the campaign serves as far as the ledger knows.
      deployments: what it came to serve, in order; the last few.
    """

    campaign: str
    revision: int = 0
    latest: datetime.date | None = None
    fence: datetime.date | None = None
    deployment_fence: datetime.date | None = None
    open: tuple[datetime.date, ...] = ()
    importing: datetime.date | None = None
    deploying: datetime.date | None = None
    imported: datetime.date | None = None
    imported_fingerprint: str = ""
    imported_rows: int = 0
    imported_until: datetime.date | None = None
    full_training: datetime.date | None = None
    serving: Deployment | None = None
    deployments: tuple[Deployment, ...] = ()

    def joined(self, base_date: datetime.date) -> Head:
        """The head once this refresh is one of the open ones."""
        latest = max(filter(None, (self.latest, base_date)))
        return replace(self, latest=latest, open=tuple(sorted({*self.open, base_date})))

    def left(self, base_date: datetime.date) -> Head:
        """The head once this refresh has ended. Its turns are over."""
        return replace(
            self,
            open=tuple(each for each in self.open if each != base_date),
            importing=None if self.importing == base_date else self.importing,
            deploying=None if self.deploying == base_date else self.deploying,
        )

    def now_serving(self, deployment: Deployment) -> Head:
        """The head once the campaign serves this."""
        return replace(self, serving=deployment, deployments=(*self.deployments, deployment)[-_DEPLOYMENTS_KEPT:])

    def reopened(self, base_date: datetime.date) -> Head:
        """The head before a refresh that had ended goes on: whoever saw it ended cannot take over a turn of it any more."""
        return self.left(base_date).joined(base_date)


def job_name(campaign: str, base_date: datetime.date, attempt: int = 1) -> str:
    """1 to 63 characters that Personalize accepts, different for different refreshes and attempts."""
    end = f"-{base_date:%Y%m%d}" + (f"-{attempt}" if attempt > 1 else "")
    if len(campaign) + len(end) <= _NAME_LENGTH:
        return campaign + end
    digest = hashlib.sha256(campaign.encode()).hexdigest()[:8]
    return f"{campaign[: _NAME_LENGTH - len(end) - 9]}-{digest}{end}"
