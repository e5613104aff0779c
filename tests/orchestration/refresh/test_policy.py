"""How long a busy service is left alone."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.refresh.policy import Policy


@pytest.mark.parametrize(
    ("tries", "drawn", "seconds"),
    ((0, 0.0, 15), (0, 1.0, 30), (1, 1.0, 60), (4, 0.0, 240), (5, 1.0, 900), (10**9, 1.0, 900)),
)
def test_pauses_double_up_to_the_longest(tries: int, drawn: float, seconds: float) -> None:
    assert Policy().pause(tries, drawn) == datetime.timedelta(seconds=seconds)


@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_pause_is_never_nothing_and_never_too_long(tries: int, drawn: float) -> None:
    assert datetime.timedelta(seconds=15) <= Policy().pause(tries, drawn) <= datetime.timedelta(seconds=900)


def test_a_call_fits_into_its_lease() -> None:
    assert 0 < Policy().margin_seconds < Policy().lease_seconds
