import datetime
import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import activity
from trainer.activity import Period
from trainer.evaluate import months
from transforms.errors import UsageError

CUTOFF = datetime.date(2011, 8, 29)
# Days around a window of 40 days from August 29 to October 7; money as a manifest holds it, as text or as a number.
ACTIVITY = {
    "2011-08-28": [9, 9, "900"],  # before it
    "2011-08-29": [2, 1, "10.10"],
    "2011-08-31": [1, 0, "0.20"],
    "2011-09-01": [4, 0, 40.5],
    "2011-09-30": [3, 0, "-5.000000001"],  # more returned than bought
    "2011-10-07": [5, 0, "7"],
    "2011-10-08": [9, 0, "900"],  # after it
}


def test_months_by_hand():
    assert activity.months(ACTIVITY, CUTOFF, 40) == [
        Period(datetime.date(2011, 8, 29), 3, False, 3, 1, 10.3),
        Period(datetime.date(2011, 9, 1), 30, True, 7, 0, 35.499999999),
        Period(datetime.date(2011, 10, 1), 7, False, 5, 0, 7.0),
    ]


def test_weeks_by_hand():
    found = activity.weeks(ACTIVITY, CUTOFF, 40)
    assert [week.start.isoformat() for week in found] == [
        "2011-08-29", "2011-09-05", "2011-09-12", "2011-09-19", "2011-09-26", "2011-10-03",
    ]  # fmt: skip
    assert [week.order_days for week in found] == [7, 0, 0, 0, 3, 5]
    assert [(week.days, week.complete) for week in found] == [(7, True)] * 5 + [(5, False)]
    assert found[0].value == 50.8


def test_a_month_that_ends_with_the_window_is_complete():
    found = activity.months({}, datetime.date(2012, 2, 1), 29)
    assert [(month.days, month.complete) for month in found] == [(29, True)]


@given(
    st.dates(datetime.date(1999, 1, 1), datetime.date(2030, 1, 1)),
    st.integers(1, 800),
    st.lists(st.tuples(st.integers(-20, 820), st.integers(0, 50)), max_size=30),
)
def test_periods_follow_each_other_and_lose_no_day(start, days, active):
    daily = {(start + datetime.timedelta(day)).isoformat(): [n, 0, "1"] for day, n in active}
    inside = sum(n for day, n in dict(active).items() if 0 <= day < days)
    for periods in (activity.weeks(daily, start, days), activity.months(daily, start, days)):
        assert periods[0].start == start
        assert sum(period.days for period in periods) == days
        for period, following in itertools.pairwise(periods):
            assert period.start + datetime.timedelta(period.days) == following.start
        assert sum(period.order_days for period in periods) == inside
    assert all(month.start.day == 1 for month in activity.months(daily, start, days)[1:])


def test_actual_against_expected_by_hand():
    expected = np.full(40, 0.5)
    expected[:3] = 0  # of August nothing is expected: no ratio
    rows = months(ACTIVITY, expected, CUTOFF, 40)
    assert rows == [
        {"month": "2011-08", "start": "2011-08-29", "days": 3, "complete": False,
         "order_days": 3, "expected": 0.0, "ratio": None},
        {"month": "2011-09", "start": "2011-09-01", "days": 30, "complete": True,
         "order_days": 7, "expected": 15.0, "ratio": 7 / 15},
        {"month": "2011-10", "start": "2011-10-01", "days": 7, "complete": False,
         "order_days": 5, "expected": 3.5, "ratio": 5 / 3.5},
    ]  # fmt: skip
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize("expected", [np.ones(39), np.full(40, np.nan), np.full(40, -1.0)])
def test_unusable_expected_order_days_are_refused(expected):
    with pytest.raises(UsageError, match=r"expected_by_day.*40 finite numbers"):
        months(ACTIVITY, expected, CUTOFF, 40)
