"""Carries out what the machine decides for one campaign: observes, writes the ledger, calls the service, tells of it.

Any number of workers may run at once, and each may die between any two lines: whoever comes next goes on from what
the ledger says and the service has. Clock and chance come from the caller.
"""

from __future__ import annotations

import datetime
import json
import logging
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from orchestration.notify import Event
from orchestration.refresh import machine
from orchestration.refresh.actions import Action, Look, Move, Observation, Request, SetHead, Wait
from orchestration.refresh.campaign_change import baseline_of
from orchestration.refresh.interactions_data import Data, read_data
from orchestration.refresh.ledger import Conflict, Ledger
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import FAILURES, REQUESTED, Head, Record, State, Transition
from orchestration.refresh.service import AlreadyExists, Busy, CampaignService, Lost, NoAccess, Refused
from transforms.errors import UsageError, one_line

_LOG = logging.getLogger(__name__)
_MOST_STEPS = 100  # of one tick; a whole refresh takes about 20
_DENIED = re.compile(
    r"ACCESS_DENIED|AccessDenied|PERMISSION_DENIED|HTTP (?:response code |status )?40[13]|Permission denied"
)
_SETTLING = datetime.timedelta(minutes=10)
STEP = "refresh"  # of events


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def log_line(content: dict[str, Any]) -> None:
    """One structured line of the log."""
    _LOG.info("%s", json.dumps(content, ensure_ascii=False, default=_text))


def _text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


@dataclass(frozen=True)
class Ticked:
    """What a tick left: the record, and when it is worth looking again."""

    record: Record
    until: datetime.datetime


class Worker:
    """Works on the refreshes of one campaign.

    Args:
      read: the data of a directory, none where it is not complete.
      tell: gets each event once or, where workers race or die, more often (see ``orchestration.notify``); must not raise.
      log: gets one object for each event and decision.
      draw: from 0 to 1, at random.
    """

    def __init__(
        self,
        ledger: Ledger,
        campaign: str,
        service: CampaignService,
        policy: Policy,
        *,
        read: Callable[[str], Data | None] = read_data,
        tell: Callable[[Event], object] = lambda event: None,
        log: Callable[[dict[str, Any]], object] = log_line,
        clock: Callable[[], datetime.datetime] = utc_now,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.ledger, self.campaign, self.service, self.policy = ledger, campaign, service, policy
        self.read, self.tell, self.log, self.clock, self.draw = read, tell, log, clock, draw

    def start(
        self, base_date: datetime.date, data: str, why: str, overrides: dict[str, str] | None = None
    ) -> tuple[Record, bool]:
        """Begins a refresh; does no more than that.

        Returns:
          Its record, and whether it is new: to a duplicate of an event nothing happens.

        Raises:
          UsageError: it was started with other data.
        """
        began = Transition(self.clock(), State.STARTED, one_line(why))
        record = Record(self.campaign, base_date, data, (began,), overrides=overrides or {})
        try:
            record, new = self.ledger.write(record), True
        except Conflict:
            found, new = self.ledger.record(self.campaign, base_date), False
            assert found is not None
            if found.data != data:
                raise UsageError(
                    f"{self.campaign} {base_date} was started with the data {found.data!r}, not {data!r}: "
                    "what has begun keeps its data; take another base_date"
                ) from None
            record = found
        self.say(record, "started" if new else "duplicate", why=why)
        if not record.state.is_end:
            self.change_head(lambda head: head.joined(base_date))
        return record, new

    def tick(self, base_date: datetime.date) -> Ticked | None:
        """Does all that can be done for a refresh now. None: there is no such refresh.

        Raises:
          NoAccess: the ledger or the service may not be used; nothing was changed by that.
        """
        for _ in range(_MOST_STEPS):
            head = self.ledger.head(self.campaign)
            read = self.ledger.record(self.campaign, base_date)
            if read is None:
                return None
            try:
                record = self._announced(read)
                action = self._decide(record, head, self.clock())
                if isinstance(action, Move) and action.stop and (busy := self._stop(record, action.stop)):
                    # Once the record has ended nobody would stop it any more.
                    action = Wait(self.clock() + self.policy.pause(0, self.draw()), f"stop: {busy}")
                if isinstance(action, Wait):
                    return Ticked(record, action.until)
                # A record that was opened again since the head was read may have lost the turn that the head gives it.
                if isinstance(action, SetHead) or self.ledger.head(self.campaign).revision == head.revision:
                    self._perform(action, record)
            except Conflict:
                self.say(read, "conflict", why="somebody else was faster")
        raise RuntimeError(f"{self.campaign} {base_date}: {_MOST_STEPS} steps and no end: {record}")

    def _decide(self, record: Record, head: Head, now: datetime.datetime) -> Action:
        look = machine.what_to_look_at(record, head, now)
        try:
            observation = self._observe(look, record, head)
        except (Busy, NoAccess) as error:
            # Nothing is written: the service's bad hour is not this refresh's failure, unless it lasts.
            why = f"{look.value}: {error}"
            # What an intent may have made has to be looked for first, however late.
            given_up = None if record.state in REQUESTED else machine.given_up(record, now, self.policy, why)
            if given_up is None and isinstance(error, NoAccess):
                raise
            action: Action = given_up or Wait(now + self.policy.pause(0, self.draw()), why)
        except Refused as refused:
            why = str(refused)
            action = Move(machine.failure_of(record.state), why)
            if look in (Look.IMPORT, Look.TRAINING) and now < record.since + _SETTLING:
                action = Wait(
                    now + self.policy.pause(0, self.draw()), why
                )  # what has just been made may not be seen yet
        else:
            action = machine.next_action(record, observation, now, self.policy)
        self.say(record, "decision", look=look.value, **_shown(action))
        return action

    def _observe(self, look: Look, record: Record, head: Head) -> Observation:
        seen = Observation(head, self._turn_taken(record, head))
        service = self.service
        if look == Look.DATA:
            data = self._data(record.data)
            seen = replace(seen, data=data, problems=tuple(service.problems(data.location if data else "")))
        elif look == Look.IMPORT_BY_NAME:
            seen = replace(seen, found=service.find_import(record.name))
        elif look == Look.TRAINING_BY_NAME:
            seen = replace(seen, found=service.find_training(record.name))
        elif look == Look.IMPORT:
            seen = replace(seen, progress=service.import_progress(record.import_job))
        elif look == Look.TRAINING:
            seen = replace(seen, progress=service.training_progress(record.version))
        elif look == Look.CAMPAIGN:
            seen = replace(seen, campaign=service.campaign())
        elif look == Look.METRICS:
            campaign = service.campaign()
            baseline = baseline_of(record, head, campaign)
            serving = service.metrics(baseline) if baseline else {}
            seen = replace(
                seen, campaign=campaign, metrics=service.metrics(record.version), serving_metrics=serving
            )  # fmt: skip
        return seen

    def _data(self, directory: str) -> Data | None:
        try:
            return self.read(directory)
        except UsageError as error:
            raise Refused(str(error)) from error
        except OSError as error:
            line = one_line(f"{directory}: {error}")
            if _DENIED.search(line):
                raise NoAccess(f"{line}; whoever runs this needs to list and to read what is there") from error
            raise Busy(line) from error

    def _turn_taken(self, record: Record, head: Head) -> datetime.date | None:
        """Whose turn it is, where it is not over and this refresh may want it."""
        if record.state == State.VALIDATED:
            holder, changes = head.importing, machine.CHANGES_DATA
        elif record.state in (State.TRAINING_ACTIVE, State.ROLLBACK_REQUESTED):
            holder, changes = head.deploying, machine.CHANGES_CAMPAIGN
        else:
            return None
        if holder in (None, record.base_date):
            return None
        assert holder is not None
        other = self.ledger.record(self.campaign, holder)
        return holder if other is not None and other.state in changes else None

    def _perform(self, action: Move | SetHead | Request, record: Record) -> None:
        """Raises: Conflict."""
        if isinstance(action, SetHead):
            self.ledger.write_head(action.head)
        elif isinstance(action, Move):
            self.ledger.write(record.moved(action.state, action.reason, self.clock(), **action.changes))
        else:
            self._request(action, record)

    def _request(self, action: Request, record: Record) -> None:
        now = self.clock()
        until = now + datetime.timedelta(seconds=self.policy.lease_seconds)
        if record.state == action.requested:
            intent = replace(record, lease_until=until, not_before=None, note="", **action.changes)
        else:
            intent = record.moved(action.requested, action.reason, now, lease_until=until, **action.changes)
        written = self.ledger.write(intent)
        if self.clock() > until - datetime.timedelta(seconds=self.policy.margin_seconds):
            return  # this process stood still meanwhile: whoever comes after the lease does it
        self.ledger.write(self._called(written))

    def _called(self, record: Record) -> Record:
        """Makes the call that an intent stands for; the record as its outcome leaves it."""
        try:
            return self._call(record)
        except AlreadyExists as error:
            again = None if record.tries == 0 else self.clock() + self._pause(record)
            return replace(
                record, lease_until=None, not_before=again, tries=record.tries + 1, note=one_line(str(error))
            )
        except Busy as busy:
            # What has no answer may still come to pass: nobody else acts before the lease is over.
            lease = record.lease_until if isinstance(busy, Lost) else None
            again = self.clock() + self._pause(record)
            return replace(
                record, lease_until=lease, not_before=again, tries=record.tries + 1, note=one_line(str(busy))
            )
        except Refused as refused:
            return record.moved(machine.failure_of(record.state), one_line(str(refused)), self.clock())

    def _call(self, record: Record) -> Record:
        if record.state == State.IMPORT_REQUESTED:
            job = self.service.start_import(record.name, record.data_location, record.import_mode)
            return record.moved(State.IMPORT_IN_PROGRESS, f"{record.name} is made", self.clock(), import_job=job)
        if record.state == State.TRAINING_REQUESTED:
            version = self.service.start_training(record.name, record.training_mode)
            return record.moved(State.TRAINING_IN_PROGRESS, f"{record.name} is made", self.clock(), version=version)
        back = record.state == State.ROLLBACK_REQUESTED
        target = record.rollback_to if back else record.version
        self.service.deploy(target)
        state = State.ROLLBACK_IN_PROGRESS if back else State.DEPLOYMENT_IN_PROGRESS
        return record.moved(state, f"the campaign's update to {target} is asked for", self.clock())

    def _pause(self, record: Record) -> datetime.timedelta:
        return self.policy.pause(record.tries, self.draw())

    def _stop(self, record: Record, version: str) -> str:
        """Asks that a training stop. Returns: why that has to be tried again, or nothing."""
        try:
            self.service.stop_training(version)
        except Busy as busy:
            self.say(record, "stop failed", why=str(busy))
            return str(busy)
        except (Refused, NoAccess) as error:  # it goes on to its own end
            self.say(record, "stop failed", why=str(error))
        else:
            self.say(record, "stop", why=f"nobody needs {version} any more")
        return ""

    def known(self, base_date: datetime.date) -> Record:
        """Raises: UsageError where there is no such refresh."""
        record = self.ledger.record(self.campaign, base_date)
        if record is None:
            raise UsageError(f"{self.campaign} has no refresh of {base_date}: see status")
        return record

    def change_head(self, change: Callable[[Head], Head]) -> None:
        """Writes what ``change`` makes of the head, however often somebody else writes it meanwhile."""
        for _ in range(_MOST_STEPS):
            head = self.ledger.head(self.campaign)
            changed = change(head)
            try:
                if changed != head:
                    self.ledger.write_head(changed)
                return
            except Conflict:
                continue
        raise Busy(f"the head of {self.campaign} is changed all the time")

    def _announced(self, record: Record) -> Record:
        """Tells of every transition that was not told of, then remembers that: who dies in between tells it twice.

        Raises: Conflict.
        """
        # While a worker has a lease it is about to write the record, and tells of that and this together.
        if record.told == len(record.history) or (record.lease_until and record.lease_until > self.clock()):
            return record
        for index in range(record.told, len(record.history)):
            each = record.history[index]
            failed = each.state in FAILURES
            figures = {
                "campaign": record.campaign, "base_date": record.base_date, "state": each.state, "failed": failed, "number": index,
                "attempt": record.attempt, "version": record.version, "data_rows": record.data_rows, "metrics": record.metrics,
            }  # fmt: skip
            run = f"{record.campaign}/{record.base_date}"
            self.tell(Event(f"refresh_{each.state}", STEP, run, "", figures, each.reason, at=each.at))
            self.log(
                {"at": each.at, "campaign": record.campaign, "base_date": record.base_date, "event": "state",
                 "state": each.state, "why": each.reason, "failed": failed}
            )  # fmt: skip
        return self.ledger.write(replace(record, told=len(record.history)))

    def say(self, record: Record, event: str, **others: Any) -> None:
        """One object of the log."""
        self.log(
            {"at": self.clock(), "campaign": record.campaign, "base_date": record.base_date, "event": event, "state": record.state,
             "revision": record.revision, **others}
        )  # fmt: skip


def _shown(action: Action) -> dict[str, Any]:
    if isinstance(action, Wait):
        return {"action": "wait", "why": action.why, "until": action.until}
    if isinstance(action, SetHead):
        return {"action": "head", "why": action.why}
    if isinstance(action, Request):
        return {"action": "request", "to": action.requested, "why": action.reason}
    return {"action": "move", "to": action.state, "why": action.reason}
