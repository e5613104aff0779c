"""The compiled BigQuery SQL is GoogleSQL and means what DuckDB and the brute force mean."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from tests import brute_force, engine_runs, order_strategies
from tests.googlesql.service import GoogleSql
from tests.order_strategies import CUTOFF, HISTORY_DAYS, HORIZON_DAYS
from transforms.customer_features import Snapshot

SNAPSHOTS = (
    Snapshot(CUTOFF, HORIZON_DAYS),
    Snapshot(CUTOFF, HORIZON_DAYS, HISTORY_DAYS),
    Snapshot(CUTOFF, 400, labels=False),
)


def _columns(table: pa.Table, types: dict[pa.DataType, pa.DataType]) -> pa.Table:
    return table.cast(pa.schema([(f.name, types.get(f.type, f.type)) for f in table.schema]))


def _googlesql_features(googlesql: GoogleSql, rows: list[dict], snapshot: Snapshot) -> pa.Table:
    orders = engine_runs.usable(_googlesql_lines(googlesql, rows))
    return googlesql.evaluate(engine_runs.features_sql(snapshot, "bigquery"), {"orders": orders})


def _googlesql_lines(googlesql: GoogleSql, rows: list[dict]) -> pa.Table:
    # A row number restores the order, which a GoogleSQL table does not have.
    raw = order_strategies.to_table(rows)
    raw = _columns(raw, {pa.int32(): pa.int64(), pa.float32(): pa.float64(), pa.null(): pa.string()})
    sql = engine_runs.clean_sql(raw.schema, "bigquery")
    batches = [googlesql.evaluate(sql, {"raw": raw.slice(i, 1)}) for i in range(raw.num_rows)]
    return pa.concat_tables(batches)


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
def test_awkward_orders(googlesql: GoogleSql, snapshot: Snapshot) -> None:
    rows = order_strategies.awkward_orders()
    orders, rejected = brute_force.clean(rows)
    lines = _googlesql_lines(googlesql, rows)
    assert [reason for reason in lines["reason"].to_pylist() if reason] == [reason for reason, _ in rejected]
    expected = brute_force.customer_features(
        orders, snapshot.cutoff, snapshot.horizon_days, snapshot.history_days, labels=snapshot.labels
    )
    actual = googlesql.evaluate(engine_runs.features_sql(snapshot, "bigquery"), {"orders": engine_runs.usable(lines)})
    brute_force.assert_equal(expected, actual)
    brute_force.assert_equal(expected, engine_runs.features(rows, snapshot))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=order_strategies.raw_order_rows())
def test_random_orders(googlesql: GoogleSql, rows: list[dict]) -> None:
    orders, _ = brute_force.clean(rows)
    expected = brute_force.customer_features(orders, CUTOFF, HORIZON_DAYS)
    if orders:
        brute_force.assert_equal(expected, _googlesql_features(googlesql, rows, SNAPSHOTS[0]))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=order_strategies.mixed_text_rows())
def test_random_text_lines(googlesql: GoogleSql, rows: list[dict]) -> None:
    if rows:
        lines = _googlesql_lines(googlesql, rows)
        assert lines.equals(_columns(engine_runs.cleaned(rows), {}))
