"""The statements that BigQuery is sent, whole: GoogleSQL accepts them, and evaluates them as the brute force does."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from google.cloud.bigquery import SchemaField

from pipelines import bigquery_orders, orders_source
from pipelines.bigquery import Table
from pipelines.bigquery_orders import BigQueryOrders
from pipelines.keep_features import KeepFeatures
from pipelines.orders_query import NamedTable, OrdersQuery, as_of
from tests import brute_force, order_strategies
from tests.googlesql.service import GoogleSql
from tests.order_strategies import CUTOFF, HISTORY_DAYS, HORIZON_DAYS
from tests.pipelines.features_data import expected_customers, expected_lines, numbers
from tests.pipelines.orders_queries import QUERIES
from transforms import activity, collect_customers, schema
from transforms.customer_features import Snapshot
from transforms.pushdown import FATE, LINES

ORDERS = "my-project.shop.orders"
INSTANT = datetime.datetime(2026, 11, 22, 1, 15, 13, 248250, datetime.UTC)
SNAPSHOTS = (
    Snapshot(CUTOFF, HORIZON_DAYS),
    Snapshot(CUTOFF, HORIZON_DAYS, HISTORY_DAYS),
    Snapshot(CUTOFF, 400, labels=False),
)
TYPES = {
    "text": dict.fromkeys(order_strategies.INPUTS, pa.string()),
    "money": {"customer_id": pa.string(), "ordered_at": pa.timestamp("us", "UTC"), "amount": pa.decimal128(38, 9)},
    "numbers": {
        "customer_id": pa.int64(), "ordered_at": pa.date32(), "quantity": pa.int64(), "unit_price": pa.float64(),
        "order_id": pa.int64(), "item_id": pa.int64(),
    },
    "exact": {
        "customer_id": pa.string(), "ordered_at": pa.timestamp("us", "UTC"), "quantity": pa.decimal256(76, 38),
        "unit_price": pa.decimal256(76, 38),
    },
    "datetime": {"customer_id": pa.float64(), "ordered_at": pa.timestamp("us"), "amount": pa.float64()},
}  # fmt: skip


def pinned(instant: datetime.datetime) -> str:
    return f"`{ORDERS}`{as_of(instant)}"


def at_any_time(_: datetime.datetime) -> str:
    """GoogleSQL's evaluator has no time travel."""
    return f"`{ORDERS}`"


GOOGLE_TYPES = {
    pa.string(): "STRING", pa.int64(): "INTEGER", pa.float64(): "FLOAT", pa.date32(): "DATE", pa.timestamp("us"): "DATETIME",
    pa.timestamp("us", "UTC"): "TIMESTAMP", pa.decimal128(38, 9): "NUMERIC", pa.decimal256(76, 38): "BIGNUMERIC",
}  # fmt: skip


def source(types: dict[str, pa.DataType], rows_from: Callable[[datetime.datetime], str] = pinned) -> BigQueryOrders:
    """Orders of these types, with the SELECT that the code makes of them."""
    fields = [SchemaField(name, GOOGLE_TYPES[type_]) for name, type_ in types.items()]
    origin = bigquery_orders._Origin(rows_from, fields, "my-project", "US", True, ())
    return BigQueryOrders(
        uri=f"bigquery://{ORDERS}", columns={}, schema=orders_source.our_schema(pa.schema(types), {}, ORDERS), rows=1,
        first_day=CUTOFF, last_day=CUTOFF, pinned=True,
        select=bigquery_orders._select(origin, pa.schema(types), {}, INSTANT), text=None, table=None,
        snapshot_time=INSTANT, chosen_time=None, modified=(), project="my-project", location="US",
        maximum_bytes_billed=None, pushdown=True, features_table=Table("my-project", "shop", "features"),
    )  # fmt: skip


def statements(orders: BigQueryOrders) -> dict[str, str]:
    named = {f"customers {snapshot}": orders.customers_sql(snapshot) for snapshot in SNAPSHOTS}
    return {**named, "dead lines": orders.dead_lines_sql(), "extent": orders.extent_sql()}


@pytest.mark.parametrize("types", TYPES.values(), ids=TYPES)
def test_every_statement_is_googlesql(googlesql: GoogleSql, types: dict[str, pa.DataType]) -> None:
    orders = source(types)
    for sql in [orders.select, *statements(orders).values()]:
        assert sql.count("FOR SYSTEM_TIME AS OF") == 1
        googlesql.analyze(sql, {ORDERS: pa.schema(types)})


def test_the_features_table_s_statement_is_googlesql(googlesql: GoogleSql) -> None:
    staged = Table("my-project", "shop", "features_staged_1")
    query = source(TYPES["text"], at_any_time).query("clv-customers-1", "", destination=staged)
    columns = [*((c.name, c.type.arrow) for c in schema.CUSTOMERS), (FATE, pa.string()), (LINES, pa.int64())]
    keep = KeepFeatures.of(query, Table("my-project", "shop", "features"), SNAPSHOTS[0])
    googlesql.analyze(keep.copy.sql, {str(staged): pa.schema(columns)})


def of_a_query(directory: Path, sql: str, instant: datetime.datetime | None) -> str:
    """What has its tables in the dataset ``shop``."""
    path = directory / "orders.sql"
    path.write_text(sql)
    query = OrdersQuery.read(str(path))
    names = [NamedTable(number, Table("my-project", "shop", table.name), True) for number, table in query.tables()]
    return f"(\n{query.spliced(names, instant)}\n) AS `orders`"


CUSTOMERS = {"my-project.shop.customers": pa.schema({"id": pa.int64(), "test": pa.bool_()})}


@pytest.mark.parametrize("name", QUERIES)
def test_a_person_s_query_stays_googlesql_with_its_times(googlesql: GoogleSql, tmp_path: Path, name: str) -> None:
    types = {"customer_id": pa.int64(), "ordered_at": pa.date32(), "amount": pa.decimal128(38, 9)}
    sql = QUERIES[name].format(ORDERS, "shop")
    orders = source(types, lambda instant: of_a_query(tmp_path, sql, instant))
    times = orders.select.count("FOR SYSTEM_TIME AS OF")
    assert times >= 1
    for statement in statements(orders).values():
        assert statement.count("FOR SYSTEM_TIME AS OF") == times
        googlesql.analyze(statement, {ORDERS: pa.schema(types), **CUSTOMERS})


@pytest.mark.parametrize("snapshot", SNAPSHOTS, ids=str)
def test_customers_and_fates_of_awkward_orders(googlesql: GoogleSql, snapshot: Snapshot) -> None:
    rows = order_strategies.awkward_orders()
    sql = source(TYPES["text"], at_any_time).customers_sql(snapshot)
    found = googlesql.evaluate(sql, {ORDERS: order_strategies.to_table(rows)})
    customers = found.filter(pc.is_null(found[FATE])).select(schema.names(schema.CUSTOMERS))
    window = {"history_days": snapshot.history_days, "labels": snapshot.labels}
    if snapshot.horizon_days == HORIZON_DAYS:
        brute_force.assert_equal(expected_customers(rows, **window), customers)
    orders, _ = brute_force.clean(rows)
    expected = brute_force.customer_features(orders, snapshot.cutoff, snapshot.horizon_days, **window)
    brute_force.assert_equal(expected, customers)
    others = found.filter(pc.is_valid(found[FATE]))
    assert numbers(activity.by_day(collect_customers.activity_of(others))) == {
        str(day): [did.order_days, did.first_days, did.value]
        for day, did in brute_force.daily_activity(orders, snapshot.cutoff, snapshot.horizon_days, **window).items()
    }
    fates = collect_customers.fates_of(others)
    counts: dict[tuple[str, str], int] = {}
    for key, lines in collect_customers.count_fates(fates):
        counts[key] = counts.get(key, 0) + lines
    wanted = expected_lines(rows, **window)
    used = pc.sum(found.filter(pc.is_null(found[FATE]))[LINES]).as_py()
    assert counts["read", ""] == wanted["read"] == len(rows) and used == wanted["used"]
    for kind in ("excluded", "dead_letters"):
        assert {reason: n for (k, reason), n in counts.items() if k == kind and n} == wanted[kind]


def test_dead_lines_of_awkward_orders(googlesql: GoogleSql) -> None:
    rows = order_strategies.awkward_orders()
    sql = source(TYPES["text"], at_any_time).dead_lines_sql()
    found = googlesql.evaluate(sql, {ORDERS: order_strategies.to_table(rows)})
    _, rejected = brute_force.clean(rows)
    expected = [reason for reason, _ in rejected if reason != "no_customer"]
    assert sorted(found["reason"].to_pylist()) == sorted(expected)


def test_a_datetime_is_a_time_in_utc(googlesql: GoogleSql) -> None:
    first, last = datetime.datetime(2012, 2, 29), datetime.datetime(2012, 3, 1, 23, 59, 59, 999999)
    given = pa.table(
        {"customer_id": [1.0, 1.0], "ordered_at": pa.array([last, first], pa.timestamp("us")), "amount": [1.5, 2.5]}
    )
    found = googlesql.evaluate(source(TYPES["datetime"], at_any_time).extent_sql(), {ORDERS: given})
    assert found.to_pylist() == [{"order_lines": 2, "first_day": first.date(), "last_day": last.date()}]
