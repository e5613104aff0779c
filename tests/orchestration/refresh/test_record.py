"""What a record and a head say of themselves, and the names that they give."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.refresh.record import (
    ENDS,
    FAILURES,
    NAME,
    REQUESTED,
    Deployment,
    Head,
    Record,
    State,
    Transition,
    job_name,
)
from tests.orchestration.refresh.invariants import ALLOWED

DAY, LATER = datetime.date(2026, 3, 8), datetime.date(2026, 3, 9)
NOW = datetime.datetime(2026, 3, 9, tzinfo=datetime.UTC)
NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9\-_]{0,62}", fullmatch=True)
DATES = st.dates(datetime.date(1000, 1, 1))


def _record(*states: State) -> Record:
    steps = (Transition(NOW + datetime.timedelta(hours=hour), state, "because") for hour, state in enumerate(states))
    return Record("shop", DAY, "s3://shop", tuple(steps))


def test_a_name_says_what_it_is_of() -> None:
    assert job_name("shop", DAY) == "shop-20260308"
    assert job_name("shop", DAY, 2) == "shop-20260308-2"
    assert _record(State.STARTED).name == "shop-20260308"


@given(NAMES, DATES, st.integers(1, 10**6))
def test_names_are_accepted(campaign: str, base_date: datetime.date, attempt: int) -> None:
    name = job_name(campaign, base_date, attempt)
    assert NAME.fullmatch(name) and 1 <= len(name) <= 63


@given(NAMES, DATES, st.integers(1, 999), NAMES, DATES, st.integers(1, 999))
def test_names_of_long_campaigns_differ(
    one: str, day: datetime.date, attempt: int, other: str, other_day: datetime.date, other_attempt: int
) -> None:
    one, other = one.ljust(63, "a"), other.ljust(63, "a")
    same = (one, day, attempt) == (other, other_day, other_attempt)
    assert (job_name(one, day, attempt) == job_name(other, other_day, other_attempt)) == same


def test_ends() -> None:
    assert FAILURES < ENDS and not REQUESTED & ENDS
    assert {state for state in State if state.is_end} == ENDS
    assert all(ALLOWED.get(state) for state in State if state not in ENDS)


def test_a_record_begins_anew_where_it_was_opened_again() -> None:
    hour = datetime.timedelta(hours=1)
    assert _record(State.STARTED).began == NOW
    assert _record(State.STARTED, State.REJECTED).began == NOW
    assert _record(State.STARTED, State.REJECTED, State.STARTED, State.VALIDATED).began == NOW + 2 * hour
    again = (State.STARTED, State.SKIPPED, State.STARTED, State.REJECTED, State.STARTED)
    assert _record(*again).began == NOW + 4 * hour


def test_moving_leaves_no_waiting_behind() -> None:
    waiting = Record(
        "shop", DAY, "s3://shop", (Transition(NOW, State.STARTED, "event"),), lease_until=NOW, not_before=NOW, tries=3, note="busy"
    )  # fmt: skip
    moved = waiting.moved(State.VALIDATED, "good", NOW, data_rows=9)
    assert (moved.state, moved.reason, moved.since, moved.data_rows) == (State.VALIDATED, "good", NOW, 9)
    assert (moved.lease_until, moved.not_before, moved.tries, moved.note) == (None, None, 0, "")
    assert moved.history[:-1] == waiting.history


def test_a_head_has_who_is_open_and_whose_turn_it_is() -> None:
    head = Head("shop").joined(LATER).joined(DAY).joined(DAY)
    assert head.latest == LATER and head.open == (DAY, LATER)
    taken = Head("shop", open=(DAY, LATER), latest=LATER, importing=DAY, deploying=LATER)
    assert taken.left(DAY) == Head("shop", open=(LATER,), latest=LATER, deploying=LATER)
    assert taken.reopened(LATER) == Head("shop", open=(DAY, LATER), latest=LATER, importing=DAY)


@pytest.mark.parametrize("number", (1, 20, 50))
def test_a_head_keeps_the_last_deployments(number: int) -> None:
    head = Head("shop")
    for each in range(number):
        head = head.now_serving(Deployment(f"v{each}", DAY, NOW))
    assert head.serving == head.deployments[-1] == Deployment(f"v{number - 1}", DAY, NOW)
    assert len(head.deployments) == min(number, 20)
