"""What every ledger promises. A backend's test is a subclass with a ``ledger`` fixture."""

from __future__ import annotations

import datetime
import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestration.refresh.ledger import HEAD, Conflict, Ledger, row_of_head, row_of_record
from orchestration.refresh.record import NAME, Deployment, Head, Record, State, Transition
from transforms.errors import UsageError

NOW = datetime.datetime(2026, 7, 1, 4, 5, 6, 789, datetime.UTC)
DAY = datetime.date(2026, 7, 1)
_NUMBERS = itertools.count()

_texts = st.text(max_size=40)
_times = st.datetimes(timezones=st.just(datetime.UTC))
_dates = st.dates()
# What the narrowest backend has: DynamoDB's numbers have 38 digits, between 1e-130 and 1e126.
_floats = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x == 0 or 1e-130 <= abs(x) < 1e126)
_counts = st.integers(0, 2**53)
_states = st.sampled_from(State)
_deployments = st.builds(Deployment, _texts, st.none() | _dates, _times, _texts)
_names = st.text(min_size=1, max_size=20)
# Every field is named: Hypothesis would leave another at its default.
_RECORD = {
    "campaign": st.just("shop"),
    "base_date": _dates,
    "data": _texts,
    "history": st.lists(st.builds(Transition, _times, _states, _texts), min_size=1, max_size=5).map(tuple),
    "revision": st.just(0),
    "attempt": _counts,
    "data_location": _texts,
    "data_fingerprint": _texts,
    "data_rows": _counts,
    "data_until": st.none() | _dates,
    "import_mode": _texts,
    "training_mode": _texts,
    "import_job": _texts,
    "version": _texts,
    "replaced_version": _texts,
    "replaced_update": _texts,
    "rollback_to": _texts,
    "metrics": st.dictionaries(_names, _floats, max_size=4),
    "overrides": st.dictionaries(_names, _texts, max_size=3),
    "lease_until": st.none() | _times,
    "not_before": st.none() | _times,
    "tries": _counts,
    "note": _texts,
    "told": _counts,
}
_HEAD = {
    "campaign": st.just("shop"),
    "revision": st.just(0),
    "latest": st.none() | _dates,
    "fence": st.none() | _dates,
    "deployment_fence": st.none() | _dates,
    "open": st.lists(_dates, max_size=4).map(tuple),
    "importing": st.none() | _dates,
    "deploying": st.none() | _dates,
    "imported": st.none() | _dates,
    "imported_fingerprint": _texts,
    "imported_rows": _counts,
    "imported_until": st.none() | _dates,
    "full_training": st.none() | _dates,
    "serving": st.none() | _deployments,
    "deployments": st.lists(_deployments, max_size=4).map(tuple),
}
records, heads = st.builds(Record, **_RECORD), st.builds(Head, **_HEAD)
# Each example has a campaign of its own, and what is drawn is the same whichever subclass draws it.
drawn = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
)


def new_record(campaign: str = "shop", base_date: datetime.date = DAY, **others: Any) -> Record:
    return Record(campaign, base_date, "s3://shop/2026-07-01", (Transition(NOW, State.STARTED, "a test"),), **others)


def fresh(campaign: str = "shop") -> str:
    """A campaign that the store has not seen."""
    return f"{campaign}-{next(_NUMBERS)}"


def only_winner(racers: int, attempt: Callable[[int], object]) -> int:
    """All begin at once; the one that did not get a Conflict."""
    barrier = threading.Barrier(racers)

    def run(number: int) -> bool:
        barrier.wait(30)
        try:
            attempt(number)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(racers) as pool:
        won = [number for number, has_won in enumerate(pool.map(run, range(racers))) if has_won]
    assert len(won) == 1, f"{len(won)} of {racers} won"
    return won[0]


class LedgerContract:
    atomic = True  # false of a test server whose conditional writes are not

    @pytest.fixture
    def ledger(self) -> Ledger:
        raise NotImplementedError

    def another(self, ledger: Ledger) -> Ledger:
        """A second instance at the same store; by default the same."""
        return ledger

    def test_every_field_is_drawn(self) -> None:
        assert set(_RECORD) == {each.name for each in fields(Record)}
        assert set(_HEAD) == {each.name for each in fields(Head)}

    @drawn
    @given(record=records)
    def test_a_record_comes_back_as_it_was(self, ledger: Ledger, record: Record) -> None:
        record = replace(record, campaign=fresh())
        written = ledger.write(record)
        assert written == replace(record, revision=1)
        assert self.another(ledger).record(record.campaign, record.base_date) == written
        assert ledger.records(record.campaign) == [written]

    @drawn
    @given(head=heads)
    def test_a_head_comes_back_as_it_was(self, ledger: Ledger, head: Head) -> None:
        head = replace(head, campaign=fresh())
        written = ledger.write_head(head)
        assert written == replace(head, revision=1)
        assert self.another(ledger).head(head.campaign) == written

    def test_where_there_is_nothing(self, ledger: Ledger) -> None:
        campaign = fresh()
        assert ledger.record(campaign, DAY) is None
        assert ledger.head(campaign) == Head(campaign)
        assert ledger.records(campaign) == []
        assert campaign not in ledger.campaigns()

    def test_revisions_count_the_writes(self, ledger: Ledger) -> None:
        record, head = new_record(fresh()), Head(fresh())
        for expected in range(1, 5):
            record = ledger.write(replace(record, note=f"write {expected}"))
            head = ledger.write_head(head)
            assert (record.revision, head.revision) == (expected, expected)
        assert ledger.record(record.campaign, DAY) == record
        assert ledger.head(head.campaign) == head

    def test_a_row_is_made_once(self, ledger: Ledger) -> None:
        campaign = fresh()
        first = ledger.write(new_record(campaign))
        with pytest.raises(Conflict):
            self.another(ledger).write(new_record(campaign, note="a second one"))
        assert ledger.record(campaign, DAY) == first
        head = ledger.write_head(Head(campaign))
        with pytest.raises(Conflict):
            ledger.write_head(Head(campaign, latest=DAY))
        assert ledger.head(campaign) == head

    @pytest.mark.parametrize("revision", [0, 1, 3, 10**6])
    def test_another_revision_changes_nothing(self, ledger: Ledger, revision: int) -> None:
        campaign = fresh()
        record = ledger.write(ledger.write(new_record(campaign)))
        head = ledger.write_head(ledger.write_head(Head(campaign)))
        assert record.revision == head.revision == 2
        with pytest.raises(Conflict, match=campaign):
            ledger.write(replace(record, revision=revision, note="must not be seen"))
        with pytest.raises(Conflict, match=campaign):
            ledger.write_head(replace(head, revision=revision, latest=DAY))
        assert ledger.record(campaign, DAY) == record
        assert ledger.head(campaign) == head

    def test_a_row_that_is_not_there_is_not_replaced(self, ledger: Ledger) -> None:
        campaign = fresh()
        with pytest.raises(Conflict):
            ledger.write(new_record(campaign, revision=1))
        with pytest.raises(Conflict):
            ledger.write_head(Head(campaign, revision=1))
        assert ledger.record(campaign, DAY) is None
        assert ledger.head(campaign).revision == 0

    def test_records_are_the_latest_first_and_the_head_is_none_of_them(self, ledger: Ledger) -> None:
        campaign = fresh()
        days = [datetime.date(2026, 7, 2), datetime.date(2025, 12, 31), datetime.date(999, 1, 1), DAY]
        for day in days:
            ledger.write(new_record(campaign, day))
        ledger.write_head(Head(campaign))
        assert [record.base_date for record in ledger.records(campaign)] == sorted(days, reverse=True)

    def test_campaigns_are_apart(self, ledger: Ledger) -> None:
        name = fresh()
        others = [f"{name}-2", f"{name}_2", name.upper(), f"{name}2"]
        written = {each: ledger.write(new_record(each, note=each)) for each in (name, *others)}
        ledger.write_head(Head(name, latest=DAY))
        for each, record in written.items():
            assert ledger.records(each) == [record]
        assert [ledger.head(each).latest for each in others] == [None] * 4
        found = ledger.campaigns()
        assert set(written) <= set(found)
        assert found == sorted(set(found))

    def test_a_campaign_with_a_head_alone_is_one(self, ledger: Ledger) -> None:
        campaign = fresh()
        ledger.write_head(Head(campaign))
        assert campaign in ledger.campaigns()

    @pytest.mark.parametrize("campaign", [HEAD, "0", "a-_-", "z" * 63, "9__", "2026-07-01", "None", "revision"])
    def test_odd_but_valid_names(self, ledger: Ledger, campaign: str) -> None:
        assert NAME.fullmatch(campaign)
        record, head = ledger.write(new_record(campaign)), ledger.write_head(Head(campaign, latest=DAY))
        assert ledger.record(campaign, DAY) == record
        assert ledger.head(campaign) == head
        assert ledger.records(campaign) == [record]
        assert campaign in ledger.campaigns()

    def test_fields_of_a_later_version_are_passed_over(self, ledger: Ledger) -> None:
        campaign = fresh()
        later = {"later": {"a": [1, None, "x", 2.5, {}], "b": []}, "also": None}
        record, head = replace(new_record(campaign), revision=1), Head(campaign, revision=1)
        ledger._write(campaign, DAY.isoformat(), row_of_record(record) | later, 0)
        ledger._write(campaign, HEAD, row_of_head(head) | later, 0)
        assert ledger.record(campaign, DAY) == record
        assert ledger.head(campaign) == head
        assert ledger.write(record).revision == 2

    def test_fields_that_an_earlier_version_had_not_are_the_default(self, ledger: Ledger) -> None:
        campaign = fresh()
        record = replace(new_record(campaign), revision=1)
        known = {"history", "data", "revision"}
        row = {name: value for name, value in row_of_record(record).items() if name in known}
        ledger._write(campaign, DAY.isoformat(), row, 0)
        assert ledger.record(campaign, DAY) == record

    @pytest.mark.parametrize(
        "damage",
        [
            {"history": [{"at": "2026-07-01T00:00:00Z", "state": "no such state", "reason": ""}]},
            {"history": [{"at": "yesterday", "state": "started", "reason": ""}]},
            {"history": [{}]},
            {"history": None},
            {"lease_until": "soon"},
            {"data_until": 7},
        ],
    )
    def test_a_damaged_row_is_told_in_one_line(self, ledger: Ledger, damage: dict[str, Any]) -> None:
        campaign = fresh()
        row = row_of_record(replace(new_record(campaign), revision=1)) | damage
        ledger._write(campaign, DAY.isoformat(), row, 0)
        for read in (lambda: ledger.record(campaign, DAY), lambda: ledger.records(campaign)):
            with pytest.raises(UsageError, match=f"{campaign} {DAY}") as caught:
                read()
            assert "\n" not in str(caught.value)

    def test_a_damaged_head_is_told_in_one_line(self, ledger: Ledger) -> None:
        campaign = fresh()
        ledger._write(campaign, HEAD, row_of_head(Head(campaign, revision=1)) | {"open": ["someday"]}, 0)
        with pytest.raises(UsageError, match=campaign) as caught:
            ledger.head(campaign)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_number_that_is_none_is_refused(self, ledger: Ledger, value: float) -> None:
        record = ledger.write(new_record(fresh()))
        with pytest.raises(UsageError, match=f"{record.campaign} {DAY}.* finite numbers"):
            ledger.write(replace(record, metrics={"precision_at_5": value}))
        assert ledger.record(record.campaign, DAY) == record

    def test_what_is_no_text_is_refused(self, ledger: Ledger) -> None:
        record = ledger.write(new_record(fresh()))
        with pytest.raises(UsageError, match=f"{record.campaign} {DAY}.*UTF-8"):
            ledger.write(replace(record, note="a lone \udc80"))
        assert ledger.record(record.campaign, DAY) == record

    def test_a_long_history_is_kept(self, ledger: Ledger) -> None:
        """Twenty retries of a refresh whose every step has the longest reason there is."""
        history = (Transition(NOW, State.IMPORT_FAILED, "é" * 600),) * 200
        written = ledger.write(replace(new_record(fresh()), history=history))
        assert ledger.record(written.campaign, DAY) == written

    def test_more_rows_than_one_answer_of_a_store_has(self, ledger: Ledger) -> None:
        campaign = fresh()
        long = "é" * 20_000  # 40 KB, and an answer of DynamoDB has 1 MB at most
        days = [DAY + datetime.timedelta(days) for days in range(40)]
        written = [ledger.write(new_record(campaign, day, note=long)) for day in days]
        assert ledger.records(campaign) == written[::-1]
        assert campaign in ledger.campaigns()

    def test_of_all_who_make_a_row_one_does(self, ledger: Ledger) -> None:
        if not self.atomic:
            return
        for _ in range(10):
            campaign = fresh()
            winner = only_winner(16, lambda number, campaign=campaign: ledger.write(new_record(campaign, tries=number)))
            found = ledger.record(campaign, DAY)
            assert found is not None
            assert (found.tries, found.revision) == (winner, 1)

    def test_of_all_who_replace_a_row_one_does(self, ledger: Ledger) -> None:
        """All write the same row: nothing but the compare-and-set can tell them apart."""
        if not self.atomic:
            return
        record = ledger.write(new_record(fresh()))
        head = ledger.write_head(Head(fresh()))
        for revision in range(2, 12):
            only_winner(16, lambda _, record=record: ledger.write(record))
            only_winner(16, lambda _, head=head: ledger.write_head(head))
            found = ledger.record(record.campaign, DAY)
            assert found is not None
            record, head = found, ledger.head(head.campaign)
            assert (record.revision, head.revision) == (revision, revision)
