"""The steps, once: which commands, in which order, on which dates."""

from __future__ import annotations

import datetime
import itertools
import shlex
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestration.steps import Cycle, training_cutoffs

DAY = datetime.date
FIRST, CUTOFF = DAY(2010, 1, 1), DAY(2011, 1, 1)


def cycle(**changes: Any) -> Cycle:
    plain: dict[str, Any] = {
        "orders": ("--orders", "my orders.csv", "--csv_delimiter", ";"), "cutoff": CUTOFF, "horizon_days": 90,
        "history_days": None, "training_cutoffs": (DAY(2010, 10, 3), DAY(2010, 7, 5)), "as_of": DAY(2011, 4, 1), "seed": 3,
        "run_directory": "w/runs/1", "serving": "sqlite://w/serving.db", "warehouse": "w/warehouse", "dead_letters": "w/dead",
        "data_schema": "w/data_schema.pbtxt",
    }  # fmt: skip
    return Cycle(**{**plain, **changes})


def value(step: Any, flag: str) -> str | None:
    return step.arguments[step.arguments.index(flag) + 1] if flag in step.arguments else None


def test_the_steps_in_order() -> None:
    assert [(step.name, step.module) for step in cycle().steps()] == [
        ("features 2010-10-03", "pipelines.features"),
        ("features 2010-07-05", "pipelines.features"),
        ("features 2011-01-01", "pipelines.features"),
        ("train", "trainer.task"),
        ("predict 2011-04-01", "pipelines.predict"),
        ("report", "trainer.report"),
        ("publish", "pipelines.publish"),
    ]


def test_every_snapshot_applies_the_transform_of_the_latest_training_snapshot() -> None:
    first, *others = cycle().steps()[:3]
    assert value(first, "--reuse_transform") is None
    assert {value(step, "--reuse_transform") for step in others} == {first.output} == {"w/runs/1/features/2010-10-03"}


def test_the_model_is_judged_on_the_evaluation_snapshot() -> None:
    train = cycle().steps()[3]
    at = train.arguments.index("--features")
    assert train.arguments[at + 1 : at + 3] == ("w/runs/1/features/2010-10-03", "w/runs/1/features/2010-07-05")
    assert value(train, "--evaluation") == "w/runs/1/features/2011-01-01"
    assert value(train, "--seed") == "3"


def test_thresholds_reach_the_step_that_compares() -> None:
    steps = cycle(skew_thresholds="mine.toml").steps()
    assert [step.module for step in steps if value(step, "--skew_thresholds") == "mine.toml"] == ["pipelines.predict"]
    assert not [step for step in cycle().steps() if value(step, "--skew_thresholds")]


def test_what_completes_a_step() -> None:
    kinds = {step.module: (step.kind, step.reads_orders) for step in cycle().steps()}
    assert kinds == {
        "pipelines.features": ("features", True), "trainer.task": ("model", False),
        "pipelines.predict": ("predictions", True), "trainer.report": (None, False), "pipelines.publish": (None, False),
    }  # fmt: skip


def test_without_training_snapshots_the_evaluation_s_is_split_by_customer() -> None:
    short = cycle(training_cutoffs=())
    features, train = short.steps()[:2]
    assert features.name == "features 2011-01-01"
    assert value(train, "--features") == value(train, "--evaluation") == features.output


def test_what_is_asked_of_the_orders_reaches_every_reader() -> None:
    for step in cycle(history_days=365).steps():
        reads_orders = step.module in ("pipelines.features", "pipelines.predict")
        assert (value(step, "--csv_delimiter") == ";" and value(step, "--orders") == "my orders.csv") == reads_orders
        assert value(step, "--history_days") == ("365" if step.module == "pipelines.features" else None)


def test_a_command_is_what_a_person_could_type() -> None:
    step = cycle().steps()[0]
    assert shlex.split(step.command) == [sys.executable, "-m", step.module, *step.arguments]


def days_before(latest: datetime.date, apart: int, count: int) -> tuple[datetime.date, ...]:
    return tuple(latest - datetime.timedelta(days=apart * i) for i in range(count))


LATEST = DAY(2010, 10, 3)  # a horizon of 90 days before the cutoff


@pytest.mark.parametrize(
    ("first_day", "most", "expected"),
    [
        (DAY(2005, 1, 1), 13, days_before(LATEST, 28, 13)),  # a year of them
        (FIRST, 13, days_before(LATEST, 28, 9)),  # the next would see less than a third of a horizon
        (FIRST, 5, days_before(LATEST, 34, 5)),  # so few that they lie farther apart, to reach back a horizon
        (FIRST, 1, (LATEST,)),
        (DAY(2010, 6, 11), 13, days_before(LATEST, 28, 4)),  # 114 days: 30 of them before the fourth
        (DAY(2010, 6, 12), 13, days_before(LATEST, 14, 6)),  # a day less: half a month apart
        (DAY(2010, 9, 3), 13, (LATEST,)),  # exactly a third of a horizon of history
        (DAY(2010, 9, 4), 13, ()),
        (DAY(2010, 12, 31), 13, ()),
    ],
)
def test_training_cutoffs(first_day: datetime.date, most: int, expected: tuple[datetime.date, ...]) -> None:
    assert training_cutoffs(first_day, CUTOFF, 90, most) == expected


def test_a_short_horizon_still_asks_for_some_history() -> None:
    assert training_cutoffs(DAY(2010, 12, 11), CUTOFF, 7) == (DAY(2010, 12, 25),)  # 14 days
    assert training_cutoffs(DAY(2010, 12, 12), CUTOFF, 7) == ()


@given(st.integers(1, 2000), st.integers(1, 400), st.integers(1, 20))
def test_no_training_label_reaches_the_evaluation(history_days: int, horizon_days: int, most: int) -> None:
    """Latest first and evenly apart; labels end at or before the evaluation's cutoff; as many as there can be."""
    first_day, horizon = CUTOFF - datetime.timedelta(days=history_days), datetime.timedelta(days=horizon_days)
    found = training_cutoffs(first_day, CUTOFF, horizon_days, most)
    least = datetime.timedelta(days=max(14, horizon_days // 3))
    assert bool(found) == (CUTOFF - horizon - first_day >= least)
    if not found:
        return
    assert found[0] + horizon == CUTOFF and len(found) <= most
    apart = {(later - earlier).days for later, earlier in itertools.pairwise(found)}
    assert apart in (set(), {14}, {max(28, -(-3 * horizon_days // (2 * max(most - 1, 1))))})
    assert found[-1] - first_day >= least
    # One more would be too many, or see too little.
    assert len(found) == most or found[-1] - datetime.timedelta(days=max(apart, default=14)) - first_day < least
