"""A run's own date, time and name."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from orchestration import dag_plans, dag_runs

UTC = datetime.UTC
DUE = datetime.datetime(2026, 11, 22, 3, tzinfo=UTC)


class Run:
    """What a DAG run says of itself."""

    dag_id, run_id = "build_train_deploy", "scheduled__2026-11-22T03:00:00+00:00"

    def __init__(self, run_after: datetime.datetime) -> None:
        self.run_after = run_after


def context(logical_date: datetime.datetime | None = DUE, **params: Any) -> dict[str, Any]:
    later = DUE + datetime.timedelta(days=3)
    return {"logical_date": logical_date, "dag_run": Run(later), "params": params}


def test_a_run_on_time_has_the_day_it_is_due() -> None:
    assert dag_runs.moment(context()) == DUE
    assert dag_runs.day(context()) == datetime.date(2026, 11, 22)


def test_a_run_that_an_event_started_has_no_logical_date() -> None:
    assert dag_runs.moment(context(None)) == DUE + datetime.timedelta(days=3)
    assert dag_runs.day(context(None)) == datetime.date(2026, 11, 25)


@pytest.mark.parametrize("name", ["date", "as_of"])
def test_a_day_that_was_asked_for_is_the_run_s(name: str) -> None:
    asked = context(**{name: "2025-01-31"})
    assert dag_runs.day(asked) == datetime.date(2025, 1, 31)
    assert dag_runs.moment(asked) == DUE  # the champion is still that of the run's own time
    assert dag_runs.day(context(**{name: None})) == datetime.date(2026, 11, 22)


@pytest.mark.parametrize(
    ("local", "day"),
    [
        (datetime.datetime(2026, 11, 22, 0, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=1))), "2026-11-21"),
        (datetime.datetime(2026, 11, 21, 20, tzinfo=datetime.timezone(datetime.timedelta(hours=-5))), "2026-11-22"),
    ],
)
def test_days_are_those_of_utc(local: datetime.datetime, day: str) -> None:
    assert str(dag_runs.day(context(local))) == day
    assert dag_runs.moment(context(local)).tzinfo is UTC


def test_the_key_is_the_run_s_and_the_same_for_every_try() -> None:
    key = dag_runs.key(context())
    assert key == dag_runs.key(context(None, date="2025-01-31")) == dag_plans.run_key(Run.dag_id, Run.run_id)
    others = {dag_plans.run_key(dag, run) for dag in ("a", "b") for run in ("1", "2", f"manual__{DUE.isoformat()}")}
    assert len(others) == 6 and all(len(each) == 8 and each.isalnum() for each in others)
