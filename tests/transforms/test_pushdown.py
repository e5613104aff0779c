"""One statement that does all of it equals the way through buckets, customers and every line's fate alike."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import brute_force, engine_runs, order_strategies
from tests.order_strategies import CUTOFF, HISTORY_DAYS, HORIZON_DAYS, Row
from tests.pipelines.features_data import expected_activity, expected_customers, expected_lines, numbers
from transforms import activity, aggregate, collect_customers, dead_letters, engines, pushdown, schema
from transforms.clean_orders import RAW_PREFIX
from transforms.customer_features import Snapshot
from transforms.pushdown import ACTIVITY, ACTIVITY_COLUMNS, FATE, LINES, ROUTED, UNKNOWN

ROWS = order_strategies.awkward_orders()
SNAPSHOTS = (
    Snapshot(CUTOFF, HORIZON_DAYS),
    Snapshot(CUTOFF, HORIZON_DAYS, HISTORY_DAYS),
    Snapshot(CUTOFF, HORIZON_DAYS, labels=False),
)
RANDOM_ROWS = order_strategies.mixed_text_rows() | order_strategies.raw_order_rows()


# Compiling costs half a second.
@functools.cache
def statement(name: str, raw_schema: pa.Schema, snapshot: Snapshot | None = None) -> str:
    raw = ibis.table(ibis.Schema.from_pyarrow(raw_schema), name="raw")
    arguments = (raw, snapshot) if snapshot else (raw,)
    return engines.compile_sql(getattr(pushdown, name)(*arguments), "duckdb")


@functools.cache
def buckets_statements(raw_schema: pa.Schema, snapshot: Snapshot) -> aggregate.Statements:
    return aggregate.Statements.compile(raw_schema, snapshot, 1)


def run(name: str, rows: list[Row], snapshot: Snapshot | None = None) -> pa.Table:
    raw = order_strategies.to_table(rows)
    return engine_runs.on_duckdb(statement(name, raw.schema, snapshot), raw=raw)


def customers_and_fates(rows: list[Row], snapshot: Snapshot) -> tuple[pa.Table, dict[str, int], pa.Table]:
    """The customers with their number of lines, the lines of each fate, and the activity; each fate has one row."""
    found = run("customers_and_fates", rows, snapshot)
    customers, others = (found.filter(some(found[FATE])) for some in (pc.is_null, pc.is_valid))
    names = [*schema.names(schema.CUSTOMERS), LINES]
    assert found.schema.names == [*names[:-1], FATE, LINES, *ACTIVITY_COLUMNS]
    days = pc.equal(others[FATE], ACTIVITY)
    for rows_, absent in (
        (customers, [FATE, *ACTIVITY_COLUMNS]),
        (others.filter(days), names),
        (others.filter(pc.invert(days)), [*names[:-1], *ACTIVITY_COLUMNS]),
    ):
        assert all(rows_[name].null_count == rows_.num_rows for name in absent)
    fates = collect_customers.fates_of(others)
    assert len(dict(fates)) == len(fates) == others.num_rows - pc.sum(days).as_py()
    return customers.select(names), dict(fates), collect_customers.activity_of(others)


def through_buckets(rows: list[Row], snapshot: Snapshot) -> tuple[aggregate.Aggregated, Counter[str]]:
    """What ``aggregate.py`` makes of the lines, and the lines by reason."""
    raw = order_strategies.to_table(rows)
    statements = buckets_statements(raw.schema, snapshot)
    lines = engine_runs.on_duckdb(statements.clean, raw=raw)
    usable = lines.filter(pc.is_null(lines["reason"])).drop_columns(["reason", "bucket"])
    aggregated = aggregate.aggregate(engines.duckdb_connection(), statements, usable)
    return aggregated, Counter(reason for reason in lines["reason"].to_pylist() if reason)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
def test_awkward_orders_equal_the_brute_force(snapshot: Snapshot) -> None:
    customers, fates, days = customers_and_fates(ROWS, snapshot)
    options: dict[str, Any] = {"history_days": snapshot.history_days, "labels": snapshot.labels}
    brute_force.assert_equal(expected_customers(ROWS, **options), customers.drop_columns([LINES]))
    lines = expected_lines(ROWS, **options)
    reasons = {**lines["excluded"], **lines["dead_letters"]}
    assert {fate: n for fate, n in fates.items() if fate != ROUTED} == reasons
    assert pc.sum(customers[LINES]).as_py() == lines["used"]
    assert sum(n for fate, n in fates.items() if fate != UNKNOWN) == len(ROWS)
    assert numbers(activity.by_day(days)) == expected_activity(ROWS, **options)


@settings(max_examples=25)
@given(RANDOM_ROWS, st.sampled_from(SNAPSHOTS))
def test_random_orders_equal_the_way_through_buckets(rows: list[Row], snapshot: Snapshot) -> None:
    (expected, expected_days, routed, unknown), reasons = through_buckets(rows, snapshot)
    customers, fates, days = customers_and_fates(rows, snapshot)
    assert days.sort_by("day").equals(expected_days.sort_by("day"))
    used = pc.sum(customers[LINES]).as_py() or 0
    assert_reconciled(len(rows), used, fates)
    brute_force.assert_equal({row["customer_id"]: row for row in expected.to_pylist()}, customers.drop_columns([LINES]))
    assert fates.pop(UNKNOWN) == unknown  # its row is there even where there is no line
    assert fates.pop(ROUTED, 0) == routed == used + unknown
    assert fates == reasons


def assert_reconciled(read: int, used: int, fates: dict[str, int]) -> None:
    """Every line is used, excluded or a dead letter, once."""
    counts: Counter[tuple[str, str]] = Counter()
    for key, lines in collect_customers.count_fates(fates.items()):
        counts[key] += lines
    aside = sum(n for (kind, _), n in counts.items() if kind in ("excluded", "dead_letters"))
    assert counts["read", ""] == read == used + aside
    assert counts["routed", ""] == used + counts["excluded", UNKNOWN]


@settings(max_examples=20)
@given(RANDOM_ROWS)
def test_dead_lines_are_those_that_cleaning_rejects(rows: list[Row]) -> None:
    raw = order_strategies.to_table(rows)
    found = run("dead_lines", rows)
    assert found.schema.names == [*(RAW_PREFIX + name for name in raw.schema.names), "reason"]
    reasons = engine_runs.cleaned(rows)["reason"]
    dead = pc.is_in(reasons, pa.array([rule.name for rule in schema.DEAD_LETTERS]))
    expected = raw.filter(dead).append_column("reason", reasons.filter(dead))
    given_back = found.rename_columns(expected.schema.names)
    assert Counter(map(repr, given_back.to_pylist())) == Counter(map(repr, expected.to_pylist()))
    for batch in given_back.to_batches():
        letters = dead_letters.of_lines(batch.drop_columns(["reason"]), batch["reason"].to_pylist())
        assert [letter.reason for letter in letters] == batch["reason"].to_pylist()


@settings(max_examples=20)
@given(RANDOM_ROWS)
def test_the_extent_is_that_of_the_usable_times(rows: list[Row]) -> None:
    (extent,) = run("extent", rows).to_pylist()
    days = [day for row in rows if (day := brute_force_day(row)) is not None]
    assert extent == {
        "order_lines": len(rows), "first_day": min(days, default=None), "last_day": max(days, default=None)
    }  # fmt: skip


def brute_force_day(row: Row) -> Any:
    """The UTC day of a line's time, whatever else is wrong with the line."""
    usable, _ = brute_force.clean([{**row, "customer_id": "x", "amount": "1", "quantity": None, "unit_price": None}])
    return usable[0]["order_day"] if usable else None
