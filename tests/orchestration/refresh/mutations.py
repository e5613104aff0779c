"""Ways to break the worker and the machine, each of which some schedule has to notice."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestration.notify import Event
from orchestration.refresh import campaign_change, machine, reconcile, reopen
from orchestration.refresh import worker as workers
from orchestration.refresh.actions import Move, Request, SetHead, Wait
from orchestration.refresh.personalize import Personalize
from orchestration.refresh.record import Head, Record, State
from tests.orchestration.refresh import world
from transforms.errors import UsageError

Patch = pytest.MonkeyPatch
Worker = workers.Worker


def lease_ignored(patch: Patch) -> None:
    whole = machine.resting_until
    patch.setattr(machine, "resting_until", lambda record, now: whole(replace(record, lease_until=None), now))


def no_compare_and_set(patch: Patch) -> None:
    def write(ledger: Any, campaign: str, key: str, row: Any, expected: int) -> None:
        before = ledger.row(key)
        kept(ledger, campaign, key, row, before["revision"] if before else 0)

    kept = world.MemoryLedger._write
    patch.setattr(world.MemoryLedger, "_write", write)


def intent_after_acting(patch: Patch) -> None:
    def request(worker: Any, action: Request, record: Record) -> None:
        now = worker.clock()
        until = now + datetime.timedelta(seconds=worker.policy.lease_seconds)
        intent = record.moved(action.requested, action.reason, now, lease_until=until, **action.changes)
        worker.ledger.write(worker._called(intent))

    patch.setattr(Worker, "_request", request)


def unnamed_version(patch: Patch) -> None:
    def start(service: Any, name: str, mode: str) -> str:
        asked = {"solutionArn": service.resources.solution_arn, "trainingMode": mode}
        return str(service._ask("CreateSolutionVersion", True, **asked)["solutionVersionArn"])

    patch.setattr(Personalize, "start_training", start)


def never_adopts(patch: Patch) -> None:
    patch.setattr(machine, "_adopt", lambda record, seen: Request(record.state, "asked for again"))


def update_not_told_apart(patch: Patch) -> None:
    """The token is not looked at: any update to the version counts as ours."""
    whole = machine.change_campaign

    def change(record: Record, *others: Any) -> Any:
        return whole(replace(record, replaced_update=""), *others)

    patch.setattr(machine, "change_campaign", change)


def done_when_the_call_returns(patch: Patch) -> None:
    whole = Worker._call

    def call(worker: Any, record: Record) -> Record:
        after = whole(worker, record)
        if after.state == State.DEPLOYMENT_IN_PROGRESS:
            return record.moved(State.DEPLOYMENT_ACTIVE, "asked for", worker.clock())
        return after

    patch.setattr(Worker, "_call", call)


def later_dates_ignored(patch: Patch) -> None:
    patch.setattr(machine, "_is_late", lambda record, head: False)


def superseded_while_importing(patch: Patch) -> None:
    whole = machine._imported

    def imported(record: Record, seen: Any, *others: Any) -> Any:
        action = whole(record, seen, *others)
        if isinstance(action, Wait) and machine._is_late(record, seen.head):
            return Move(State.SUPERSEDED, "later")
        return action

    patch.setattr(machine, "_imported", imported)


def no_deadlines(patch: Patch) -> None:
    whole = machine._within_limits

    def within(record: Record, action: Any, *others: Any) -> Any:
        limited = whole(record, action, *others)
        return action if getattr(limited, "reason", "").startswith("not done within") else limited

    patch.setattr(machine, "_within_limits", within)


def told_before_written(patch: Patch) -> None:
    whole = Worker._perform

    def perform(worker: Any, action: Any, record: Record) -> None:
        if isinstance(action, Move):
            figures = {"base_date": record.base_date, "number": len(record.history)}
            worker.tell(Event(f"refresh_{action.state}", "refresh", "run", figures=figures, at=worker.clock()))
        whole(worker, action, record)

    patch.setattr(Worker, "_perform", perform)


def remembered_before_told(patch: Patch) -> None:
    whole = Worker._announced

    def announced(worker: Any, record: Record) -> Record:
        if record.told == len(record.history) or (record.lease_until and record.lease_until > worker.clock()):
            return record
        written = worker.ledger.write(replace(record, told=len(record.history)))
        kept, worker.ledger = worker.ledger, _Unwritten()
        try:
            whole(worker, record)
        finally:
            worker.ledger = kept
        return written

    patch.setattr(Worker, "_announced", announced)


class _Unwritten:
    def write(self, record: Record) -> Record:
        return record


def reopened_without_the_head(patch: Patch) -> None:
    def reopened(worker: Any, record: Record, state: State, why: str, changes: dict[str, Any]) -> Record:
        try:
            return worker.ledger.write(record.moved(state, why, worker.clock(), **changes))
        except workers.Conflict:
            raise UsageError("changed meanwhile") from None

    patch.setattr(reopen, "_reopen", reopened)


def turns_ignored(patch: Patch) -> None:
    for module in (machine, campaign_change):
        patch.setattr(module, "turn_to", lambda record, seen, now, policy, turn: None)


def turn_taken_from_anybody(patch: Patch) -> None:
    patch.setattr(Worker, "_turn_taken", lambda worker, record, head: None)


def metrics_gate_open(patch: Patch) -> None:
    patch.setattr(campaign_change, "metrics_verdict", lambda new, serving, policy: (True, "open"))


def data_gate_open(patch: Patch) -> None:
    patch.setattr(machine, "import_verdict", lambda data, base_date, head, policy: (True, "open"))


def lost_is_merely_busy(patch: Patch) -> None:
    patch.setattr(workers, "Lost", type("Never", (Exception,), {}))


def margin_ignored(patch: Patch) -> None:
    whole = Worker._request

    def request(worker: Any, action: Request, record: Record) -> None:
        kept, worker.policy = worker.policy, replace(worker.policy, margin_seconds=-1e9)
        try:
            whole(worker, action, record)
        finally:
            worker.policy = kept

    patch.setattr(Worker, "_request", request)


def serving_not_written(patch: Patch) -> None:
    def served(record: Record, head: Head, target: str, now: Any) -> Move:
        back = record.state in (State.ROLLBACK_REQUESTED, State.ROLLBACK_IN_PROGRESS)
        return Move(State.ROLLED_BACK if back else State.DEPLOYMENT_ACTIVE, "served")

    patch.setattr(campaign_change, "_served", served)
    patch.setattr(reconcile, "reconcile", lambda worker: [])


def imported_not_written(patch: Patch) -> None:
    whole = machine._imported

    def imported(record: Record, *others: Any) -> Any:
        action = whole(record, *others)
        return Move(State.IMPORT_ACTIVE, "imported") if isinstance(action, SetHead) else action

    patch.setattr(machine, "_imported", imported)


def drift_ignored(patch: Patch) -> None:
    patch.setattr(reconcile, "reconcile", lambda worker: [])


def forgotten_not_rejoined(patch: Patch) -> None:
    patch.setattr(reconcile, "rejoin", lambda worker: [])


def retried_under_the_same_name(patch: Patch) -> None:
    patch.setattr(reopen, "_RETRIED", {state: (to, False) for state, (to, _) in reopen._RETRIED.items()})


def head_read_after_the_record(patch: Patch) -> None:
    def tick(worker: Any, base_date: datetime.date) -> Any:
        for _ in range(100):
            read = worker.ledger.record(worker.campaign, base_date)
            head = worker.ledger.head(worker.campaign)
            if read is None:
                return None
            try:
                record = worker._announced(read)
                action = worker._decide(record, head, worker.clock())
                if isinstance(action, Wait):
                    return workers.Ticked(record, action.until)
                worker._perform(action, record)
            except workers.Conflict:
                continue
        raise RuntimeError("no end")

    patch.setattr(Worker, "tick", tick)


def training_active_too_early(patch: Patch) -> None:
    whole = machine._trained

    def trained(*everything: Any) -> Any:
        action = whole(*everything)
        return Move(State.TRAINING_ACTIVE, "soon") if isinstance(action, Wait) else action

    patch.setattr(machine, "_trained", trained)


MUTATIONS: tuple[Callable[[Patch], None], ...] = (
    lease_ignored, no_compare_and_set, intent_after_acting, unnamed_version, never_adopts, update_not_told_apart,
    done_when_the_call_returns, later_dates_ignored, superseded_while_importing, no_deadlines, told_before_written, remembered_before_told,
    reopened_without_the_head, turns_ignored, turn_taken_from_anybody, metrics_gate_open, data_gate_open, lost_is_merely_busy, margin_ignored,
    serving_not_written, imported_not_written, drift_ignored, forgotten_not_rejoined, retried_under_the_same_name,
    head_read_after_the_record, training_active_too_early,
)  # fmt: skip
