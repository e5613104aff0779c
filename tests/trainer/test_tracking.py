"""Purchases by week against a slow sum over customers, one by one and day by day."""

from __future__ import annotations

import datetime
import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer import features_fixture
from tests.trainer.trained_models import World
from trainer import btyd, btyd_counts, snapshots, task, tracking
from trainer.btyd import PurchaseModel
from trainer.btyd_model import BtydModel

CUTOFF, HORIZON_DAYS = features_fixture.CUTOFF, 90
DAY = datetime.timedelta(days=1)


def activity_of(customers: pa.Table, order_days_ahead: dict[int, int] | None = None) -> dict[str, list[Any]]:
    """What the manifest would hold, as far as features tell: first and last order days, and days ahead of the cutoff."""
    daily: dict[str, list[Any]] = {}
    for row in customers.select(["frequency", "recency_days", "age_days"]).to_pylist():
        first = CUTOFF - DAY * row["age_days"]
        for day, new in ((first, 1), *([(first + DAY * row["recency_days"], 0)] if row["frequency"] else [])):
            of_day = daily.setdefault(str(day), [0, 0, "1"])
            of_day[0] += 1
            of_day[1] += new
    for ahead, count in (order_days_ahead or {}).items():
        daily[str(CUTOFF + DAY * ahead)] = [count, 0, "1"]
    return daily


@pytest.fixture(scope="module")
def customers() -> pa.Table:
    return features_fixture.simulate(600, seed=5)


@pytest.fixture(scope="module")
def purchases(customers: pa.Table) -> PurchaseModel:
    return btyd.make("pareto").fit(btyd_counts.collapse(customers))


def snapshot_of(customers: pa.Table, daily: dict[str, list[Any]] | None) -> snapshots.Snapshot:
    manifest = {"rows": customers.num_rows, **({} if daily is None else {"activity": daily})}
    return snapshots.Snapshot("mem", CUTOFF, HORIZON_DAYS, None, "t", "s", "h", manifest)


def predictions_of(customers: pa.Table, each: float) -> pa.Table:
    return pa.table({"expected_orders": np.full(customers.num_rows, each)})


def test_weeks_against_a_sum_over_customers(customers: pa.Table, purchases: PurchaseModel) -> None:
    daily = activity_of(customers, {0: 5, 8: 3, 89: 2})
    found = tracking.judge(snapshot_of(customers, daily), customers, predictions_of(customers, 0.5), {})
    weeks = found["weeks"]
    history = [week for week in weeks if week["window"] == "history"]
    labels = [week for week in weeks if week["window"] == "labels"]
    assert found["tracked_by"] == "pareto"

    curve = purchases.expected_purchases_new(list(range(800)))
    ages = customers["age_days"].to_pylist()
    for week in (history[-1], history[-30], history[5]):
        expected = 0.0
        for days_before in range((CUTOFF - datetime.date.fromisoformat(week["start"])).days, 0, -1)[:7]:
            for age in ages:
                k = age - days_before  # days since this customer's first
                expected += curve[k] - curve[k - 1] if k > 0 else 0.0
        assert week["expected"] == pytest.approx(expected, rel=1e-9)

    for week, (start, end) in zip(labels[::4], [(0, 7), (28, 35), (56, 63), (84, 90)], strict=True):
        one_by_one = [
            purchases.expected_purchases({name: [row[name]] for name in btyd_counts.COLUMNS}, float(end))[0]
            - (
                purchases.expected_purchases({n: [row[n]] for n in btyd_counts.COLUMNS}, float(start))[0]
                if start
                else 0
            )
            for row in customers.select(list(btyd_counts.COLUMNS)).to_pylist()
        ]
        assert week["expected"] == pytest.approx(sum(one_by_one), rel=1e-9)

    assert [(week["start"], week["days"], week["repeat"]) for week in (labels[0], labels[1], labels[-1])] == [
        (str(CUTOFF), 7, 5), (str(CUTOFF + 7 * DAY), 7, 3), (str(CUTOFF + 84 * DAY), 6, 2),
    ]  # fmt: skip
    repeats = sum(1 for frequency in customers["frequency"].to_pylist() if frequency)
    assert sum(week["repeat"] for week in history) == repeats
    assert datetime.date.fromisoformat(history[-1]["start"]) == CUTOFF - 7 * DAY
    json.dumps(found, allow_nan=False)


def test_the_models_total_is_shared_out_along_the_purchase_models_course(customers: pa.Table) -> None:
    snapshot = snapshot_of(customers, activity_of(customers))
    found = tracking.judge(snapshot, customers, predictions_of(customers, 0.5), {})
    labels = [week for week in found["weeks"] if week["window"] == "labels"]
    assert sum(week["model"] for week in labels) == pytest.approx(300)
    assert sum(month["expected"] for month in found["months"]) == pytest.approx(300)
    ratios = {round(week["model"] / week["expected"], 9) for week in labels}
    assert len(ratios) == 1
    assert all(week["model"] is None for week in found["weeks"] if week["window"] == "history")


def test_a_member_is_asked_instead_of_fitting_anew(customers: pa.Table) -> None:
    other = btyd.make("mbgnbd").fit(btyd_counts.collapse(customers))
    member = BtydModel(other, None, "own_mean", HORIZON_DAYS)  # type: ignore[arg-type]  # its spend is not asked
    snapshot = snapshot_of(customers, activity_of(customers))
    found = tracking.judge(snapshot, customers, predictions_of(customers, 0.5), {"btyd": member})
    assert found["tracked_by"] == "mbgnbd"
    total = sum(week["expected"] for week in found["weeks"] if week["window"] == "labels")
    assert total == pytest.approx(other.expected_purchases(customers, HORIZON_DAYS).sum(), rel=1e-9)


def test_what_cannot_be_known_is_left_out(customers: pa.Table, purchases: PurchaseModel) -> None:
    daily, said = activity_of(customers), predictions_of(customers, 0.5)
    assert tracking.judge(snapshot_of(customers, None), customers, said, {}) == {}
    sample = customers.slice(1)  # the activity is of one customer more
    assert tracking.judge(snapshot_of(customers, daily), sample, said.slice(1), {}) == {}
    once = customers.filter(pa.compute.equal(customers["frequency"], 0))
    assert tracking.judge(snapshot_of(once, activity_of(once)), once, said.slice(0, once.num_rows), {}) == {}
    # A manifest keeps the last days only: then the first days of the oldest customers are not known.
    cut = {day: of for day, of in daily.items() if day >= "2010-01-01"}
    found = tracking.judge(snapshot_of(customers, cut), customers, said, {"btyd": BtydModel(purchases, None, "", 0)})  # type: ignore[arg-type]
    assert {week["window"] for week in found["weeks"]} == {"labels"}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400))
def test_no_day_expects_less_than_nothing_and_the_days_add_up(
    customers: pa.Table, purchases: PurchaseModel, horizon_days: int
) -> None:
    by_day = tracking.expected_by_day(purchases, customers, horizon_days)
    assert by_day.shape == (horizon_days,)
    assert (by_day > 0).all()
    assert by_day.sum() == pytest.approx(purchases.expected_purchases(customers, horizon_days).sum(), rel=1e-9)


def test_a_sample_of_the_rows_stands_for_all(
    customers: pa.Table, purchases: PurchaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapsed = btyd_counts.collapse(customers)
    whole = tracking.expected_by_day(purchases, customers, HORIZON_DAYS)
    monkeypatch.setattr(tracking, "MOST_ROWS", collapsed.num_rows // 4)
    thin = tracking.thinned(collapsed)
    assert thin.num_rows <= collapsed.num_rows // 4
    assert sum(thin["customers"].to_pylist()) == pytest.approx(customers.num_rows)
    by_day = tracking.expected_by_day(purchases, customers, HORIZON_DAYS)
    assert by_day.sum() == pytest.approx(whole.sum(), rel=1e-9)
    assert by_day == pytest.approx(whole, rel=0.03)


def test_years_of_history_are_cut_to_what_can_be_read(customers: pa.Table, purchases: PurchaseModel) -> None:
    age = 8 * tracking.MOST_WEEKS
    daily = {str(CUTOFF - DAY * age): [1, 1, "1"]}
    ahead = np.ones(HORIZON_DAYS)
    weeks = tracking.weeks(daily, CUTOFF, purchases, ahead, ahead, 1)
    assert len(weeks) == tracking.MOST_WEEKS + 13
    starts = [datetime.date.fromisoformat(week["start"]) for week in weeks]
    assert all(b - a == 7 * DAY for a, b in itertools.pairwise(starts))


def test_an_evaluation_holds_weeks_and_months(world: World, tmp_path: Path) -> None:
    """The command line, on a snapshot that has its activity; the one that has none leaves them out."""
    assert "weeks" not in json.loads((world.root / "model" / "evaluation.json").read_text())
    evaluation = snapshots.open_snapshot(world.evaluation)
    first_days = Counter(str(evaluation.cutoff - DAY * age) for age in world.customers["age_days"].to_pylist())
    daily = {day: [count, count, "0"] for day, count in first_days.items()}
    shutil.copytree(world.evaluation, tmp_path / "evaluation")
    manifest = json.loads((tmp_path / "evaluation" / "manifest.json").read_text()) | {"activity": daily}
    (tmp_path / "evaluation" / "manifest.json").write_text(json.dumps(manifest))
    arguments = ["--features", world.training, "--evaluation", str(tmp_path / "evaluation"), "--model", "pareto"]
    assert task.main([*arguments, "--output", str(tmp_path / "model")]) == 0
    judged = json.loads((tmp_path / "model" / "evaluation.json").read_text())
    table = pq.read_table(tmp_path / "model" / "evaluation.parquet")
    assert sum(month["expected"] for month in judged["months"]) == pytest.approx(
        sum(table["expected_orders"].to_pylist()), rel=1e-9
    )
    assert len(judged["weeks"]) > 13
    for name in ("frequency", "recency_days", "age_days", "days_since_last"):
        assert table[name].to_pylist() == world.customers[name].to_pylist()
