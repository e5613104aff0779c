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
    usable = engine_runs.usable(lines)
    assert usable.to_pylist() == [{name: order[name] for name in lines.column_names[:-1]} for order in orders]
    expected = brute_force.customer_features(
        orders, snapshot.cutoff, snapshot.horizon_days, snapshot.history_days, labels=snapshot.labels
    )
    brute_force.assert_equal(
        expected, engine_runs.on_duckdb(engine_runs.features_sql(snapshot, "duckdb"), orders=usable)
    )


def apart(sets: list[list[Row]]) -> list[Row]:
    """Several sets of lines as one, no customer in two of them.

    Planning a query costs some 0.1 s whatever its rows: asked for many sets at once, it costs that once.
    Missing and over-long ids stay what they are.
    """
    return [
        {**row, "customer_id": f"{number}:{id_}" if (id_ := row["customer_id"]) and len(id_.encode()) < 1490 else id_}
        for number, rows in enumerate(sets)
        for row in rows
    ]


def drawn(rows: st.SearchStrategy[list[Row]], examples: int) -> list[list[Row]]:
    """Sets of lines as Hypothesis chooses them."""
    sets: list[list[Row]] = []

    @settings(max_examples=examples, database=None)
    @given(rows)
    def collect(example: list[Row]) -> None:
        sets.append(example)

    collect()
    return sets


def check_sets(sets: list[list[Row]], snapshot: Snapshot) -> None:
    check(sets[-1], snapshot)  # one alone: columns without any value, tables without a row
    try:
        check(apart(sets), snapshot)
    except AssertionError:
        for rows in sets:
            check(rows, snapshot)  # the failing set, alone
        raise


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
@pytest.mark.parametrize(
    "rows", [order_strategies.awkward_orders(), order_strategies.awkward_floats()], ids=["text", "typed"]
)
def test_awkward_orders_equal_the_brute_force(rows: list[Row], snapshot: Snapshot) -> None:
    check(rows, snapshot)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
@pytest.mark.parametrize("money", [Decimal, float])
def test_random_orders_equal_the_brute_force(money: type, snapshot: Snapshot) -> None:
    check_sets(drawn(order_strategies.raw_order_rows(money=money), 20), snapshot)


def test_random_text_lines_equal_the_brute_force() -> None:
    check_sets(drawn(order_strategies.mixed_text_rows(), 60), SNAPSHOTS[0])


def usable_rows(rows: list[Row]) -> list[tuple[Row, Row]]:
    """(line, the order it is) of the usable lines."""
    return [(row, cleaned[0]) for row in rows if (cleaned := brute_force.clean([row])[0])]


@pytest.mark.parametrize("snapshot", SNAPSHOTS[:2], ids=str)
def test_nothing_at_or_after_the_cutoff_changes_a_feature(snapshot: Snapshot) -> None:
    """The leak property, for every set of lines drawn: replace all orders from the cutoff on by any others'."""
    cutoff = datetime.datetime.combine(CUTOFF, datetime.time(), datetime.UTC)

    def before(rows: list[Row], wanted: bool) -> list[Row]:
        return [row for row, order in usable_rows(rows) if (order["ordered_at"] < cutoff) == wanted]

    features = schema.names((schema.CUSTOMER_ID, *schema.FEATURES, schema.SPLIT))

    def of(rows: list[Row]) -> dict[str, list[Row]]:
        """Customers by the set they are of."""
        found: dict[str, list[Row]] = {}
        for row in engine_runs.features(rows, snapshot).select(features).sort_by("customer_id").to_pylist():
            found.setdefault(row["customer_id"].split(":")[0], []).append(row)
        return found

    past_rows, other_rows = (apart(drawn(order_strategies.raw_order_rows(money=Decimal), 60)) for _ in range(2))
    known, own, others = before(past_rows, True), before(past_rows, False), before(other_rows, False)
    with_own, with_others = of(known + own), of(known + others)
    assert len(with_own) > 8  # not vacuous; how many sets have customers at all varies with the draw
    assert with_others.keys() == with_own.keys()
    for number in with_own:
        assert with_others[number] == with_own[number], f"in set {number}"
    # Sets in which something was replaced.
    replaced = {row["customer_id"].split(":")[0] for row in own + others} & with_own.keys()
    assert len(replaced) > 4


def test_nothing_outside_the_horizon_changes_a_label() -> None:
    """Labels of a customer stay whatever else is ordered outside [cutoff, cutoff + horizon)."""
    end = CUTOFF + datetime.timedelta(days=HORIZON_DAYS)

    def labels(lines: list[Row]) -> dict[str, Row]:
        table = engine_runs.features(lines, SNAPSHOTS[0]).select(["customer_id", "future_value", "future_orders"])
        return {row["customer_id"]: row for row in table.to_pylist()}

    rows, others = (apart(drawn(order_strategies.raw_order_rows(money=Decimal), 60)) for _ in range(2))
    outside = [row for row, order in usable_rows(others) if not CUTOFF <= order["order_day"] < end]
    alone, together = labels(rows), labels(rows + outside)
    # An order added before the cutoff can bring a customer into the population, or (a return) take one out of it.
    both = alone.keys() & together.keys()
    assert len(both) > 5
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
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "TZ": zone}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    here = engine_runs.features(order_strategies.awkward_orders(), SNAPSHOTS[0]).sort_by("customer_id")
    assert done.stdout.strip() == str(here.to_pylist())
