"""The daily activity on DuckDB against the brute force, beside the customers it is of, and its sums over parts."""

from __future__ import annotations

import datetime
import pickle
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import brute_force, engine_runs, order_strategies
from tests.brute_force import Day
from tests.order_strategies import CUTOFF, HORIZON_DAYS, Row, line
from tests.transforms.test_customer_features import SNAPSHOTS, apart, drawn
from transforms import activity, schema
from transforms.customer_features import Snapshot

SCHEMA = schema.arrow_schema(activity.COLUMNS)


def on_duckdb(rows: list[Row], snapshot: Snapshot) -> pa.Table:
    usable = engine_runs.usable(engine_runs.cleaned(rows))
    return engine_runs.on_duckdb(engine_runs.activity_sql(snapshot, "duckdb"), orders=usable).cast(SCHEMA)


def days_of(table: pa.Table) -> dict[datetime.date, Day]:
    rows = table.to_pylist()
    assert len({row["day"] for row in rows}) == len(rows)
    return {row.pop("day"): Day(**row) for row in rows}


def expected(rows: list[Row], snapshot: Snapshot) -> dict[datetime.date, Day]:
    orders, _ = brute_force.clean(rows)
    return brute_force.daily_activity(
        orders, snapshot.cutoff, snapshot.horizon_days, snapshot.history_days, labels=snapshot.labels
    )


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
@pytest.mark.parametrize(
    "rows", [order_strategies.awkward_orders(), order_strategies.awkward_floats()], ids=["text", "typed"]
)
def test_awkward_orders_equal_the_brute_force(rows: list[Row], snapshot: Snapshot) -> None:
    assert days_of(on_duckdb(rows, snapshot)) == expected(rows, snapshot)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
def test_random_orders_equal_the_brute_force(snapshot: Snapshot) -> None:
    sets = drawn(order_strategies.raw_order_rows(money=Decimal), 60)
    for rows in (sets[-1], apart(sets)):
        assert days_of(on_duckdb(rows, snapshot)) == expected(rows, snapshot)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
def test_it_adds_up_to_the_customers(snapshot: Snapshot) -> None:
    rows = apart(drawn(order_strategies.raw_order_rows(money=Decimal), 60))
    customers, days = engine_runs.features(rows, snapshot), on_duckdb(rows, snapshot)
    past = pc.less(days["day"], pa.scalar(snapshot.cutoff))
    before, after = days.filter(past), days.filter(pc.invert(past))

    def total(table: pa.Table, name: str) -> Any:
        return pc.sum(table[name]).as_py() or 0

    assert total(days, "first_days") == total(before, "first_days") == customers.num_rows > 0
    assert total(before, "order_days") == total(customers, "order_days")
    assert total(before, "value") == total(customers, "value_total")
    assert total(after, "order_days") == total(customers, "future_orders")
    assert after.num_rows if snapshot.labels else not after.num_rows


def test_a_small_example_by_hand() -> None:
    def at(days: int) -> str:
        return str(CUTOFF + datetime.timedelta(days=days))

    rows = [
        line("a", at(-9), "10", order_id="1"),
        line("a", at(-8), "-4", order_id="1"),  # part of the order of the day before: no order day, but value
        line("a", at(-8), "5", order_id="2"),
        line("a", at(-8), "-5", order_id="3"),  # an order day all the same: it was a visit
        line("b", at(-8), "1"),
        line("a", at(0), "3"),
        line("a", at(0), "-3"),  # nothing earned
        line("b", at(0), "0.5"),
        line("b", at(1), "-1"),
        line("later", at(0), "100"),
        line("returns", at(-8), "-100"),
    ]
    assert days_of(on_duckdb(rows, Snapshot(CUTOFF, HORIZON_DAYS))) == {
        CUTOFF + datetime.timedelta(days=day): Day(orders, first, Decimal(value))
        for day, orders, first, value in [(-9, 1, 1, "10"), (-8, 2, 1, "-3"), (0, 1, 0, "0.5"), (1, 0, 0, "-1")]
    }


# --- Sums over parts ------------------------------------------------------------------------------------------------

# Of 38 digits, 9 of them decimals, as far as sums of lines go.
MONEY = st.decimals(Decimal(-(10**27)), Decimal(10**27), places=9, allow_nan=False)
COUNTS = st.integers(0, 10**12)
DAYS = st.dates(datetime.date(2011, 1, 1), datetime.date(2011, 1, 6))
PARTS = st.lists(st.dictionaries(DAYS, st.builds(Day, COUNTS, COUNTS, MONEY), max_size=6), min_size=1, max_size=12)


def table_of(days: dict[datetime.date, Day]) -> pa.Table:
    return pa.Table.from_pylist([{"day": day, **vars(did)} for day, did in days.items()], SCHEMA)


def summed(parts: Iterable[dict[datetime.date, Day]]) -> dict[datetime.date, Day]:
    total: dict[datetime.date, Day] = {}
    for part in parts:
        for day, did in part.items():
            old = total.setdefault(day, Day())
            value = brute_force.EXACT.add(old.value, did.value)
            total[day] = Day(old.order_days + did.order_days, old.first_days + did.first_days, value)
    return total


@settings(max_examples=60)
@given(PARTS, st.integers(0, 12))
def test_parts_add_up_exactly_in_any_grouping(parts: list[dict[datetime.date, Day]], cut: int) -> None:
    tables = [table_of(part) for part in parts]
    whole = activity.merge(tables)
    assert whole.schema == SCHEMA and days_of(whole) == summed(parts)
    halves = [activity.merge(half) for half in (tables[:cut], tables[cut:]) if half]
    again = activity.merge(pickle.loads(pickle.dumps(halves))[::-1])
    assert days_of(again) == days_of(whole)


def test_the_manifest_has_the_days_in_order_and_the_money_to_the_last_digit() -> None:
    days = {
        datetime.date(2011, 1, 2): Day(2, 1, Decimal("12345678901234567890.000000001")),
        datetime.date(2011, 1, 1): Day(1, 1, Decimal("-0.500000000")),
        datetime.date(2010, 12, 31): Day(0, 0, Decimal("0E-9")),
        datetime.date(2010, 12, 30): Day(3, 0, Decimal("1200")),
    }
    found = activity.by_day(table_of(days))
    assert list(found.items()) == [
        ("2010-12-30", [3, 0, "1200"]),
        ("2010-12-31", [0, 0, "0"]),
        ("2011-01-01", [1, 1, "-0.5"]),
        ("2011-01-02", [2, 1, "12345678901234567890.000000001"]),
    ]
