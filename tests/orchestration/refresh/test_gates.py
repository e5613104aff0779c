"""The two gates, as tables."""

from __future__ import annotations

import datetime
from dataclasses import replace

import pytest

from orchestration.refresh.gates import import_verdict, metrics_verdict
from orchestration.refresh.interactions_data import Data
from orchestration.refresh.policy import Policy
from orchestration.refresh.record import Head

DAY = datetime.date(2026, 3, 8)
BEFORE = DAY - datetime.timedelta(days=7)
FULL = Data("s3://shop/", "FULL", 5_000, 50, "new", None, DAY)
PART = replace(FULL, mode="INCREMENTAL", since=BEFORE, rows=1_200)
EMPTY = Head("shop")
HEAD = Head("shop", imported=BEFORE, imported_rows=10_000, imported_until=BEFORE)
EITHER = Policy(import_mode="INCREMENTAL")
NAME = Policy().metric


@pytest.mark.parametrize(
    ("data", "head", "policy", "passes", "said"),
    (
        (FULL, EMPTY, Policy(), True, "5,000 rows of 50 users, FULL"),
        (replace(FULL, failed=("users is 3, accepted is 25", "rows is 9")), EMPTY, Policy(), False, "accepted is 25; rows is 9"),
        (FULL, HEAD, Policy(), True, "5,000 rows"),
        (replace(FULL, rows=4_999), HEAD, Policy(), False, "4,999 rows, 0.50 of the 10,000 imported in full before: accepted is at least 0.5"),
        (replace(FULL, rows=4_999), HEAD, Policy(least_rows_ratio=0), True, "4,999 rows"),
        (replace(FULL, rows=10), replace(HEAD, imported_rows=0), Policy(), True, "10 rows"),
        (PART, HEAD, Policy(), False, "import_mode is FULL: export them without --since"),
        (PART, HEAD, EITHER, True, "1,200 rows of 50 users from 2026-03-01"),
        (PART, EMPTY, EITHER, False, "nothing was imported before"),
        (replace(PART, since=None), HEAD, EITHER, False, "the data begin at None"),
        (replace(PART, since=BEFORE - datetime.timedelta(days=1)), HEAD, EITHER, True, "from 2026-02-28"),
        (replace(PART, since=BEFORE + datetime.timedelta(days=1)), HEAD, EITHER, False, "export them with --since 2026-03-01 or earlier"),
        (FULL, HEAD, EITHER, True, "5,000 rows"),
    ),
)  # fmt: skip
def test_import_verdict(data: Data, head: Head, policy: Policy, passes: bool, said: str) -> None:
    passed, reason = import_verdict(data, DAY, head, policy)
    assert passed == passes
    assert said in reason and "\n" not in reason


@pytest.mark.parametrize(
    ("new", "serving", "passes", "said"),
    (
        ({NAME: 0.5}, {}, True, "the version that is served has none to compare it with"),
        ({NAME: 0.5}, {NAME: float("nan")}, True, "has none to compare it with"),
        ({}, {NAME: 0.5}, False, f"the new version has no {NAME}: it has no metrics"),
        ({"coverage": 1.0}, {}, False, "it has coverage"),
        ({NAME: float("nan")}, {}, False, "the new version has no"),
        ({NAME: 0.45}, {NAME: 0.5}, True, "0.4500, 0.90 of the 0.5000"),
        ({NAME: 0.4499}, {NAME: 0.5}, False, "accepted is at least 0.9"),
        ({NAME: 0.0}, {NAME: 0.0}, True, "0.0000"),
        ({NAME: 0.9}, {NAME: 0.1}, True, "9.00 of the 0.1000"),
    ),
)  # fmt: skip
def test_metrics_verdict(new: dict[str, float], serving: dict[str, float], passes: bool, said: str) -> None:
    passed, reason = metrics_verdict(new, serving, Policy())
    assert passed == passes
    assert said in reason and "\n" not in reason
