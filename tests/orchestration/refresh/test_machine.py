"""The machine as a table: a record, what was seen, the time -> what to do. It asks nobody, and it always has an answer."""

from __future__ import annotations

import datetime
import socket
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestration.refresh import machine
from orchestration.refresh.actions import Look, Move, Observation, Request, SetHead, Wait
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.machine import next_action, what_to_look_at
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import ENDS, Deployment, Head, Record, State, Transition
from orchestration.refresh.service import Campaign, Progress, Status, Update

NOW = datetime.datetime(2026, 3, 9, 12, tzinfo=datetime.UTC)
DAY, LATER = datetime.date(2026, 3, 8), datetime.date(2026, 3, 9)
HOUR = datetime.timedelta(hours=1)
POLICY = Policy()
METRIC = POLICY.metric
DATA = Data("s3://shop/data/", "FULL", 5_000, 50, "new", None, DAY)
ACTIVE, GOING = Progress(Status.ACTIVE, "ACTIVE"), Progress(Status.IN_PROGRESS, "CREATE IN_PROGRESS")
FAILED, STOPPED = Progress(Status.FAILED, "CREATE FAILED", "bad file"), Progress(Status.STOPPED, "CREATE STOPPED")
HEAD = Head("shop", 1, latest=DAY, fence=DAY, open=(DAY,))
OURS = replace(HEAD, importing=DAY, deploying=DAY)
LATE = replace(HEAD, latest=LATER, fence=LATER, open=(DAY, LATER))
OVERTAKEN = replace(LATE, deployment_fence=LATER)
MERELY_STARTED = replace(LATE, fence=DAY)
SERVED = Deployment("v0", None, NOW)
S = State


def record(state: State, ago: datetime.timedelta = datetime.timedelta(), **changes: Any) -> Record:
    given: dict[str, Any] = {
        "data_fingerprint": "new", "data_rows": 5_000, "import_mode": "FULL", "training_mode": "FULL", "import_job": "job",
        "version": "v1", "rollback_to": "v0", "replaced_update": "old",
    }  # fmt: skip
    return Record("shop", DAY, "s3://shop", (Transition(NOW - ago, state, "because"),), 3, **(given | changes))


def seen(head: Head = HEAD, **found: Any) -> Observation:
    return Observation(head, **found)


def serving(version: str, update: Update | None = None, progress: Progress = ACTIVE) -> Observation:
    return seen(OURS, campaign=Campaign(version, progress, update))


def update(version: str, progress: Progress, id_: str = "new") -> Update:
    return Update(id_, version, progress)


def judged(new: float, old: float = 0.5, head: Head = OURS, **others: Any) -> Observation:
    campaign = Campaign("v0", ACTIVE, update("v0", ACTIVE, "u0"))
    return seen(head, campaign=campaign, metrics={METRIC: new}, serving_metrics={METRIC: old}, **others)


IMPORTED = machine.head_with_import(OURS, record(S.IMPORT_IN_PROGRESS))
KNOWN = replace(OURS, serving=replace(SERVED, version="v1"))
BACK = replace(OURS, serving=SERVED)

# What is there, what is seen, and what is done: a state for a Move or a Request, the kind of action otherwise.
TABLE: tuple[tuple[str, Record, Observation, Any], ...] = (
    ("its data are not there", record(S.STARTED), seen(), Wait),
    ("its data are never there", record(S.STARTED, 7 * HOUR), seen(), S.REJECTED),
    ("its data are good", record(S.STARTED), seen(data=DATA), S.VALIDATED),
    ("its data are good, and it is the first", record(S.VALIDATED), seen(replace(OURS, fence=None)), SetHead),
    ("a later one has no data yet", record(S.STARTED), seen(MERELY_STARTED, data=DATA), S.VALIDATED),
    ("they are imported, and a later one has no data yet", record(S.IMPORT_ACTIVE), seen(MERELY_STARTED), S.TRAINING_REQUESTED),
    ("its data are bad", record(S.STARTED), seen(data=replace(DATA, failed=("users is 3",))), S.REJECTED),
    ("its bad data are accepted", record(S.STARTED, overrides={"data": "known"}),
     seen(data=replace(DATA, failed=("users is 3",))), S.VALIDATED),
    ("its data are served", record(S.STARTED),
     seen(replace(HEAD, serving=replace(SERVED, data_fingerprint="new")), data=DATA), S.SKIPPED),
    ("the service trains by itself", record(S.STARTED), seen(data=DATA, problems=("trains by itself",)), S.REJECTED),
    ("a later one began before its data", record(S.STARTED), seen(LATE), S.SUPERSEDED),
    ("the head does not have it", record(S.STARTED), seen(Head("shop")), SetHead),
    ("nobody's turn to import", record(S.VALIDATED), seen(), SetHead),
    ("its turn to import", record(S.VALIDATED), seen(OURS), S.IMPORT_REQUESTED),
    ("another's turn to import", record(S.VALIDATED), seen(turn_taken=LATER), Wait),
    ("another's turn for ever", record(S.VALIDATED, 145 * HOUR), seen(turn_taken=LATER), S.IMPORT_FAILED),
    ("its turn, and a later one began", record(S.VALIDATED), seen(replace(LATE, importing=DAY)), S.SUPERSEDED),
    ("another worker imports", record(S.IMPORT_REQUESTED, lease_until=NOW + HOUR), seen(OURS), Wait),
    ("its import exists", record(S.IMPORT_REQUESTED, lease_until=NOW), seen(OURS, found="job"), S.IMPORT_IN_PROGRESS),
    ("its import does not exist", record(S.IMPORT_REQUESTED), seen(OURS), S.IMPORT_REQUESTED),
    ("it does not exist, and a later one began", record(S.IMPORT_REQUESTED), seen(LATE), S.SUPERSEDED),
    ("it exists, and a later one began", record(S.IMPORT_REQUESTED), seen(LATE, found="job"), S.IMPORT_IN_PROGRESS),
    ("it is asked for for long", record(S.IMPORT_REQUESTED, 13 * HOUR), seen(OURS), S.IMPORT_REQUESTED),
    ("it is asked for for too long", record(S.IMPORT_REQUESTED, 145 * HOUR), seen(OURS), S.IMPORT_FAILED),
    ("it imports", record(S.IMPORT_IN_PROGRESS), seen(OURS, progress=GOING), Wait),
    ("it imports for too long", record(S.IMPORT_IN_PROGRESS, 13 * HOUR), seen(OURS, progress=GOING), S.IMPORT_FAILED),
    ("it imports, and a later one began", record(S.IMPORT_IN_PROGRESS), seen(LATE, progress=GOING), Wait),
    ("its import failed", record(S.IMPORT_IN_PROGRESS), seen(OURS, progress=FAILED), S.IMPORT_FAILED),
    ("its import is done", record(S.IMPORT_IN_PROGRESS), seen(OURS, progress=ACTIVE), SetHead),
    ("the head has its import", record(S.IMPORT_IN_PROGRESS), seen(IMPORTED, progress=ACTIVE), S.IMPORT_ACTIVE),
    ("its data are imported", record(S.IMPORT_ACTIVE), seen(), S.TRAINING_REQUESTED),
    ("they are, and a later one began", record(S.IMPORT_ACTIVE), seen(LATE), S.SUPERSEDED),
    ("its version exists", record(S.TRAINING_REQUESTED), seen(found="v1"), S.TRAINING_IN_PROGRESS),
    ("its version does not exist", record(S.TRAINING_REQUESTED), seen(), S.TRAINING_REQUESTED),
    ("the service is busy", record(S.TRAINING_REQUESTED, not_before=NOW + HOUR), seen(), Wait),
    ("it trains", record(S.TRAINING_IN_PROGRESS), seen(progress=GOING), Wait),
    ("it trains, and a later one began", record(S.TRAINING_IN_PROGRESS), seen(LATE, progress=GOING), Wait),
    ("it trains, and a later one deploys", record(S.TRAINING_IN_PROGRESS), seen(OVERTAKEN, progress=GOING), S.SUPERSEDED),
    ("it trains for too long", record(S.TRAINING_IN_PROGRESS, 73 * HOUR), seen(progress=GOING), S.TRAINING_FAILED),
    ("its training failed", record(S.TRAINING_IN_PROGRESS), seen(progress=FAILED), S.TRAINING_FAILED),
    ("its training was stopped", record(S.TRAINING_IN_PROGRESS), seen(progress=STOPPED), S.TRAINING_STOPPED),
    ("its training is done", record(S.TRAINING_IN_PROGRESS), seen(progress=ACTIVE), S.TRAINING_ACTIVE),
    ("it is good, and nobody's turn", record(S.TRAINING_ACTIVE), judged(0.5, head=HEAD), SetHead),
    ("it is good, and its turn", record(S.TRAINING_ACTIVE), judged(0.5), S.DEPLOYMENT_REQUESTED),
    ("it is good, and another's turn", record(S.TRAINING_ACTIVE), judged(0.5, head=HEAD, turn_taken=LATER), Wait),
    ("it is worse", record(S.TRAINING_ACTIVE), judged(0.4), S.REJECTED),
    ("it is worse, and accepted", record(S.TRAINING_ACTIVE, overrides={"metrics": "known"}), judged(0.4),
     S.DEPLOYMENT_REQUESTED),
    ("it is good, and a later one began", record(S.TRAINING_ACTIVE), seen(LATE), SetHead),
    ("it is good, and a later one deploys", record(S.TRAINING_ACTIVE), seen(OVERTAKEN), S.SUPERSEDED),
    ("no update of ours", record(S.DEPLOYMENT_REQUESTED), serving("v0", update("v0", ACTIVE, "old")), S.DEPLOYMENT_REQUESTED),
    ("an earlier update to it failed", record(S.DEPLOYMENT_REQUESTED), serving("v0", update("v1", FAILED, "old")),
     S.DEPLOYMENT_REQUESTED),
    ("our update goes on", record(S.DEPLOYMENT_REQUESTED), serving("v0", update("v1", GOING)), S.DEPLOYMENT_IN_PROGRESS),
    ("no update of ours, and a later one deploys", record(S.DEPLOYMENT_REQUESTED),
     replace(serving("v0"), head=OVERTAKEN), S.SUPERSEDED),
    ("our update still goes on", record(S.DEPLOYMENT_IN_PROGRESS), serving("v0", update("v1", GOING)), Wait),
    ("it goes on, and a later one began", record(S.DEPLOYMENT_IN_PROGRESS),
     replace(serving("v0", update("v1", GOING)), head=LATE), Wait),
    ("it goes on for too long", record(S.DEPLOYMENT_IN_PROGRESS, 7 * HOUR), serving("v0", update("v1", GOING)),
     S.DEPLOYMENT_FAILED),
    ("our update failed", record(S.DEPLOYMENT_IN_PROGRESS), serving("v0", update("v1", FAILED)), S.DEPLOYMENT_FAILED),
    ("our update is not to be seen yet", record(S.DEPLOYMENT_IN_PROGRESS), serving("v0", update("v0", ACTIVE, "old")), Wait),
    ("somebody else's update", record(S.DEPLOYMENT_IN_PROGRESS), serving("v9", update("v9", ACTIVE)), S.DEPLOYMENT_FAILED),
    ("the campaign failed", record(S.DEPLOYMENT_IN_PROGRESS), serving("v0", None, FAILED), S.DEPLOYMENT_FAILED),
    ("it is served", record(S.DEPLOYMENT_IN_PROGRESS), serving("v1", update("v1", ACTIVE)), SetHead),
    ("the head has that", record(S.DEPLOYMENT_IN_PROGRESS),
     replace(serving("v1", update("v1", ACTIVE)), head=KNOWN), S.DEPLOYMENT_ACTIVE),
    ("served while an update to it goes on", record(S.DEPLOYMENT_IN_PROGRESS), serving("v1", update("v1", GOING)), Wait),
    ("back, nobody's turn", record(S.ROLLBACK_REQUESTED), replace(serving("v1"), head=replace(KNOWN, deploying=None)), SetHead),
    ("back, another's turn", record(S.ROLLBACK_REQUESTED),
     replace(serving("v1"), head=replace(KNOWN, deploying=LATER), turn_taken=LATER), Wait),
    ("back from what is not served", record(S.ROLLBACK_REQUESTED),
     replace(serving("v2"), head=replace(KNOWN, deploying=None, serving=replace(SERVED, version="v2"))), S.ROLLBACK_FAILED),
    ("back, its turn", record(S.ROLLBACK_REQUESTED), replace(serving("v1"), head=KNOWN), S.ROLLBACK_REQUESTED),
    ("back, although a later one began", record(S.ROLLBACK_REQUESTED),
     replace(serving("v1"), head=replace(KNOWN, latest=LATER, fence=LATER)), S.ROLLBACK_REQUESTED),
    ("back, under way", record(S.ROLLBACK_REQUESTED), replace(serving("v1", update("v0", GOING)), head=KNOWN),
     S.ROLLBACK_IN_PROGRESS),
    ("back, still under way", record(S.ROLLBACK_IN_PROGRESS), serving("v1", update("v0", GOING)), Wait),
    ("back, failed", record(S.ROLLBACK_IN_PROGRESS), serving("v1", update("v0", FAILED)), S.ROLLBACK_FAILED),
    ("back, served", record(S.ROLLBACK_IN_PROGRESS), replace(serving("v0", update("v0", ACTIVE)), head=KNOWN), SetHead),
    ("back, known", record(S.ROLLBACK_IN_PROGRESS), replace(serving("v0", update("v0", ACTIVE)), head=BACK), S.ROLLED_BACK),
    *((f"{end} leaves", record(end), seen(), SetHead) for end in sorted(ENDS)),
    *((f"{end} stays", record(end), seen(replace(HEAD, open=())), Wait) for end in sorted(ENDS)),
)  # fmt: skip


@pytest.mark.parametrize(("what", "there", "observed", "expected"), TABLE, ids=[row[0] for row in TABLE])
def test_next_action(what: str, there: Record, observed: Observation, expected: Any) -> None:
    action = next_action(there, observed, NOW, POLICY)
    if isinstance(expected, State):
        assert isinstance(action, Move | Request), action
        assert (action.state if isinstance(action, Move) else action.requested) == expected
        assert action.reason.strip()
    else:
        assert isinstance(action, expected), action
        assert action.why.strip()


def test_every_state_is_in_the_table() -> None:
    assert {row[1].state for row in TABLE} == set(State)


def test_a_training_that_nobody_needs_is_stopped() -> None:
    for there, head in ((record(S.TRAINING_IN_PROGRESS), OVERTAKEN), (record(S.TRAINING_IN_PROGRESS, 73 * HOUR), HEAD)):
        action = next_action(there, seen(head, progress=GOING), NOW, POLICY)
        assert isinstance(action, Move) and action.stop == "v1"


def test_what_is_replaced_is_what_the_campaign_serves() -> None:
    action = next_action(record(S.TRAINING_ACTIVE), judged(0.5), NOW, POLICY)
    assert isinstance(action, Request)
    assert action.changes["replaced_version"] == "v0" and action.changes["replaced_update"] == "u0"


@pytest.mark.parametrize(
    ("mode", "last_full", "expected"),
    (("FULL", DAY, "FULL"), ("UPDATE", None, "FULL"), ("UPDATE", DAY - datetime.timedelta(days=27), "UPDATE"),
     ("UPDATE", DAY - datetime.timedelta(days=28), "FULL")),
)  # fmt: skip
def test_training_mode(mode: str, last_full: datetime.date | None, expected: str) -> None:
    policy = Policy(training_mode=mode, full_training_every_days=28)
    action = next_action(record(S.STARTED), seen(replace(HEAD, full_training=last_full), data=DATA), NOW, policy)
    assert isinstance(action, Move) and action.changes["training_mode"] == expected


def test_it_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No clock, no network, no file: the whole table again with all of them out of order."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("the machine is to ask nobody")

    class NoClock(datetime.datetime):
        now = utcnow = today = forbidden

    for module, name in (
        (time, "time"),
        (time, "monotonic"),
        (time, "sleep"),
        (socket, "socket"),
        (machine.datetime, "datetime"),
    ):
        monkeypatch.setattr(module, name, NoClock if name == "datetime" else forbidden)
    monkeypatch.setattr("builtins.open", forbidden)
    actions = [next_action(there, observed, NOW, POLICY) for _, there, observed, _ in TABLE]
    monkeypatch.undo()
    assert actions == [next_action(there, observed, NOW, POLICY) for _, there, observed, _ in TABLE]


DATES = st.sampled_from((None, DAY - datetime.timedelta(days=1), DAY, LATER))
VERSIONS = st.sampled_from(("", "v0", "v1", "v9"))
TIMES = st.none() | st.integers(-300, 300).map(lambda hours: NOW + hours * HOUR)
PROGRESS = st.sampled_from((ACTIVE, GOING, FAILED, STOPPED))
RATES = st.dictionaries(st.sampled_from((METRIC, "coverage")), st.floats(), max_size=2)
UPDATES = st.none() | st.builds(Update, st.sampled_from(("old", "new")), VERSIONS, PROGRESS)
DEPLOYMENTS = st.builds(Deployment, VERSIONS, DATES, st.just(NOW), st.sampled_from(("", "new", "old")))
HEADS = st.builds(
    Head, st.just("shop"), st.integers(0, 9), latest=DATES, fence=DATES, open=st.lists(DATES.filter(bool), max_size=3, unique=True).map(tuple),
    importing=DATES, deploying=DATES, imported=DATES, imported_fingerprint=st.sampled_from(("", "new")), deployment_fence=DATES,
    imported_rows=st.integers(0, 10_000), imported_until=DATES, full_training=DATES, serving=st.none() | DEPLOYMENTS,
    deployments=st.lists(DEPLOYMENTS, max_size=3).map(tuple),
)  # fmt: skip
HISTORIES = st.lists(
    st.builds(Transition, TIMES.filter(bool), st.sampled_from(State), st.just("because")), min_size=1, max_size=6
).map(tuple)
RECORDS = st.builds(
    Record, st.just("shop"), st.just(DAY), st.just("s3://shop"), HISTORIES, version=VERSIONS, rollback_to=VERSIONS,
    replaced_version=VERSIONS, replaced_update=st.sampled_from(("", "old")), training_mode=st.sampled_from(("", "FULL", "UPDATE")),
    overrides=st.dictionaries(st.sampled_from(("data", "metrics")), st.just("known")), lease_until=TIMES, not_before=TIMES,
    data_fingerprint=st.sampled_from(("", "new")), tries=st.integers(0, 99), note=st.sampled_from(("", "busy")),
)  # fmt: skip
ALL_DATA = st.none() | st.builds(
    Data, st.just("s3://shop/data/"), st.sampled_from(("FULL", "INCREMENTAL")), st.integers(0, 9_999), st.integers(0, 99),
    st.sampled_from(("new", "old")), DATES, DATES, st.sampled_from(((), ("users is 3",))),
)  # fmt: skip
POLICIES = st.builds(
    Policy, import_mode=st.sampled_from(("FULL", "INCREMENTAL")), training_mode=st.sampled_from(("FULL", "UPDATE")),
    own_auto_training=st.booleans(), least_rows_ratio=st.sampled_from((0.0, 0.5)), poll_seconds=st.sampled_from((1.0, 60.0)),
)  # fmt: skip


@settings(max_examples=300)
@given(there=RECORDS, head=HEADS, policy=POLICIES, found=st.data())
def test_there_is_always_an_answer(there: Record, head: Head, policy: Policy, found: st.DataObject) -> None:
    """Whatever is in the ledger, and whatever the service says to the one question: an action, in time, and not by whoever
    has neither lease nor leave to act."""
    look = what_to_look_at(there, head, NOW)
    campaign = st.builds(Campaign, VERSIONS, PROGRESS, UPDATES)
    answers: dict[Look, Any] = {
        Look.DATA: {"data": ALL_DATA, "problems": st.sampled_from(((), ("trains by itself",)))},
        Look.IMPORT_BY_NAME: {"found": st.sampled_from((None, "job"))},
        Look.TRAINING_BY_NAME: {"found": st.sampled_from((None, "v1"))},
        Look.IMPORT: {"progress": PROGRESS},
        Look.TRAINING: {"progress": PROGRESS},
        Look.CAMPAIGN: {"campaign": campaign},
        Look.METRICS: {"campaign": campaign, "metrics": RATES, "serving_metrics": RATES},
    }
    observed = found.draw(st.builds(Observation, st.just(head), DATES, **answers.get(look, {})))
    action = next_action(there, observed, NOW, policy)
    if isinstance(action, Wait):
        assert action.until > NOW
    if there.state.is_end:
        assert not isinstance(action, Move | Request)
    if machine.resting_until(there, NOW):
        assert isinstance(action, Wait | SetHead)
    if isinstance(action, Request):
        late = head.fence is not None and head.fence > DAY
        assert not late or action.requested == State.ROLLBACK_REQUESTED
