"""Cleaning and features on DuckDB against the brute force, and the leak property."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import brute_force, engine_runs, order_strategies
from tests.order_strategies import CUTOFF, HISTORY_DAYS, HORIZON_DAYS
from transforms import schema
from transforms.customer_features import Snapshot

SNAPSHOTS = (
    Snapshot(CUTOFF, HORIZON_DAYS),
    Snapshot(CUTOFF, HORIZON_DAYS, HISTORY_DAYS),
    Snapshot(CUTOFF, 400),  # a horizon longer than the year ago
    Snapshot(CUTOFF, HORIZON_DAYS, labels=False),
)
Row = dict[str, Any]


def check(rows: list[Row], snapshot: Snapshot) -> None:
    lines = engine_runs.cleaned(rows)
    orders, rejected = brute_force.clean(rows)
    reasons = [reason for reason in lines["reason"].to_pylist() if reason]
    assert reasons == [reason for reason, _ in rejected]
    assert engine_runs.usable(lines).to_pylist() == [{name: order[name] for name in lines.column_names[:-1]} for order in orders]
    expected = brute_force.customer_features(
        orders, snapshot.cutoff, snapshot.horizon_days, snapshot.history_days, labels=snapshot.labels
    )
    brute_force.assert_equal(expected, engine_runs.features(rows, snapshot))


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
@pytest.mark.parametrize("rows", [order_strategies.awkward_orders(), order_strategies.awkward_floats()], ids=["text", "typed"])
def test_awkward_orders_equal_the_brute_force(rows: list[Row], snapshot: Snapshot) -> None:
    check(rows, snapshot)


@settings(max_examples=60)
@given(order_strategies.raw_order_rows(), st.sampled_from(SNAPSHOTS))
def test_random_orders_equal_the_brute_force(rows: list[Row], snapshot: Snapshot) -> None:
    check(rows, snapshot)


@settings(max_examples=60)
@given(order_strategies.mixed_text_rows())
def test_random_text_lines_equal_the_brute_force(rows: list[Row]) -> None:
    check(rows, SNAPSHOTS[0])


@settings(max_examples=40)
@given(order_strategies.raw_order_rows(money=Decimal), order_strategies.raw_order_rows(money=Decimal))
def test_nothing_at_or_after_the_cutoff_changes_a_feature(past: list[Row], other: list[Row]) -> None:
    """The leak property: replace all orders from the cutoff on by any others; every feature stays."""
    cutoff = datetime.datetime.combine(CUTOFF, datetime.time(), datetime.UTC)

    def before(rows: list[Row], wanted: bool) -> list[Row]:
        return [row for row in rows if (order := brute_force.clean([row])[0]) and (order[0]["ordered_at"] < cutoff) == wanted]

    features = schema.names((schema.CUSTOMER_ID, *schema.FEATURES, schema.SPLIT))

    def of(rows: list[Row]) -> list[Row]:
        table = engine_runs.features(rows, SNAPSHOTS[0])
        return table.select(features).sort_by("customer_id").to_pylist()

    known = before(past, True)
    assert of(known + before(past, False)) == of(known + before(other, False))


@settings(max_examples=40)
@given(order_strategies.raw_order_rows(money=Decimal), order_strategies.raw_order_rows(money=Decimal))
def test_nothing_outside_the_horizon_changes_a_label(rows: list[Row], other: list[Row]) -> None:
    """Labels of a customer stay whatever else is ordered outside [cutoff, cutoff + horizon)."""
    end = CUTOFF + datetime.timedelta(days=HORIZON_DAYS)

    def labels(lines: list[Row]) -> dict[str, Row]:
        table = engine_runs.features(lines, SNAPSHOTS[0]).select(["customer_id", "future_value", "future_orders"])
        return {row["customer_id"]: row for row in table.to_pylist()}

    outside = [
        row for row in other if (order := brute_force.clean([row])[0]) and not CUTOFF <= order[0]["order_day"] < end
    ]
    alone, together = labels(rows), labels(rows + outside)
    # An order added before the cutoff can bring a customer into the population, or (a return) take one out of it.
    both = alone.keys() & together.keys()
    assert {id_: alone[id_] for id_ in both} == {id_: together[id_] for id_ in both}


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati"])
def test_the_machines_time_zone_changes_nothing(zone: str) -> None:
    """23:30 and 00:30 around the cutoff, on machines five hours behind and fourteen ahead of UTC."""
    program = (
        "from tests import engine_runs, order_strategies\n"
        "from tests.transforms.test_customer_features import SNAPSHOTS\n"
        "table = engine_runs.features(order_strategies.awkward_orders(), SNAPSHOTS[0]).sort_by('customer_id')\n"
        "print(table.to_pylist())"
    )
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "TZ": zone}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    here = engine_runs.features(order_strategies.awkward_orders(), SNAPSHOTS[0]).sort_by("customer_id")
    assert done.stdout.strip() == str(here.to_pylist())
