"""Orders in BigQuery: which queries are taken, what they are pinned to, and what is said about the others."""

from __future__ import annotations

import argparse
import datetime
import itertools
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sqlglot
from sqlglot import expressions as sge

from pipelines import bigquery as bq
from pipelines import bigquery_orders, features, orders_arguments, orders_source, predict
from pipelines.bigquery_orders import BigQueryOrders, BigQueryRequest
from pipelines.orders_arguments import OrdersArguments
from tests.order_strategies import CUTOFF
from tests.pipelines import bigquery_data
from tests.pipelines.features_data import WINDOW, assert_same_customers, refused
from tests.pipelines.orders_queries import QUERIES
from tests.pipelines.test_bigquery_parity import customers_of
from transforms import schema, storage
from transforms.errors import UsageError

PROJECT = "test-project"
INSTANT = datetime.datetime(2026, 11, 22, 1, 15, 13, 248250, datetime.UTC)


def write(directory: Path, sql: str) -> str:
    path = directory / "orders.sql"
    path.write_text(sql)
    return str(path)


def opened(*argv: str, run: bool = True) -> BigQueryOrders:
    parser = argparse.ArgumentParser()
    orders_arguments.add(parser)
    return orders_arguments.open_bigquery(OrdersArguments.take(parser.parse_args(argv)), PROJECT, run=run)


# --- Queries that are refused, before BigQuery is asked ------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "", "-- nothing", ";", "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE shop.orders", "DROP TABLE shop.orders",
        "DELETE FROM shop.orders WHERE TRUE", "INSERT INTO shop.orders SELECT 1", "UPDATE shop.orders SET a = 1 WHERE TRUE",
        "MERGE shop.t USING shop.s ON FALSE WHEN NOT MATCHED THEN INSERT ROW", "TRUNCATE TABLE shop.orders",
        "CREATE TABLE shop.t AS SELECT 1 AS a", "CREATE OR REPLACE VIEW shop.v AS SELECT 1 AS a",
        "DECLARE x INT64 DEFAULT 1; SELECT x", "CALL shop.procedure()", "EXECUTE IMMEDIATE 'SELECT 1'",
        "BEGIN SELECT 1; END", "IF TRUE THEN SELECT 1; END IF", "EXPORT DATA OPTIONS(uri='gs://b/*.csv') AS SELECT 1 AS a",
        "LOAD DATA INTO shop.t FROM FILES(format='CSV', uris=['gs://b/x'])", "GRANT SELECT ON shop.t TO 'user:x'",
        # A function of the query's own cannot go where the query goes, inside another.
        "CREATE TEMP FUNCTION f(x INT64) AS (x); SELECT f(1)",
        "SELECT * FROM (SELECT 1", "SELECT 'unclosed", "not sql at all", "EXPLAIN SELECT 1",
        "selec * form x",
    ],
)  # fmt: skip
def test_anything_but_one_select_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    monkeypatch.setattr(bq, "client", lambda project: pytest.fail("BigQuery was asked"))
    path = write(tmp_path, sql)
    with pytest.raises(UsageError) as raised:
        bigquery_orders.open_orders(BigQueryRequest(None, path, {}, PROJECT))
    assert repr(path) in str(raised.value) and len(str(raised.value).splitlines()) == 1
    assert re.search("(statements|is not a SELECT): accepted is one SELECT|is not GoogleSQL", str(raised.value))
    assert not capfd.readouterr().err


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00S", b"\x80\x81"])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "orders.sql"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="accepted is a readable UTF-8 file with one SELECT"):
        bigquery_orders.open_orders(BigQueryRequest(None, str(path), {}, PROJECT))


def test_somebody_pays_for_a_query(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(UsageError, match="--project"):
        bigquery_orders.open_orders(BigQueryRequest(None, write(tmp_path, "SELECT 1"), {}))


# --- Columns --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a`b", "x AS y", "a\\", "a`, (SELECT 1) AS `b", "-- a", "été", "SELECT"])
def test_a_column_s_name_stays_in_its_quotes(name: str) -> None:
    """Even if a table had such a column; a name that the table has not is refused before."""
    from google.cloud.bigquery import SchemaField

    fields = [SchemaField("customer_id", "STRING"), SchemaField("ordered_at", "DATE"), SchemaField(name, "BIGNUMERIC")]
    origin = bigquery_orders._Origin(lambda _: "`my-project.shop.orders`", fields, "my-project", "US", True, ())
    theirs = pa.schema([(f.name, bigquery_orders._TYPES[f.field_type]) for f in fields])
    ours = orders_source.our_schema(theirs, {"amount": name}, "the table")
    (select,) = sqlglot.parse(bigquery_orders._select(origin, ours, {"amount": name}, INSTANT), dialect="bigquery")
    assert isinstance(select, sge.Select)
    assert [column.name for column in select.find_all(sge.Column)] == ["customer_id", "ordered_at", name]
    assert [column.alias for column in select.selects] == ["customer_id", "ordered_at", "amount"]
    assert len(list(select.find_all(sge.Table))) == 1
    with pytest.raises(UsageError, match="a column of"):
        orders_source.our_schema(theirs, {"amount": name + "x"}, "the table")


# --- The instant in a query -----------------------------------------------------------------------------------------

LINES = pa.table(
    {
        "customer_id": pa.array([1, 1, 2, 2, None, 3]),
        "ordered_at": pa.array(
            [datetime.date(2012, 1, 1), datetime.date(2012, 2, 1), datetime.date(2012, 2, 2), datetime.date(2012, 3, 5),
             datetime.date(2012, 2, 3), datetime.date(2012, 5, 31)], pa.date32(),
        ),
        "amount": pa.array([10.5, 2.25, 7.0, 3.0, 1.0, 8.0]),
    }
)  # fmt: skip
COLUMNS = "customer_id, ordered_at, amount"


@pytest.fixture
def orders(bigquery: Any, dataset: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table of lines; the project that pays is known."""
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", PROJECT)
    bigquery_data.load(bucket, f"{dataset}.orders", LINES)
    return f"{dataset}.orders"


def versions(sql: str) -> dict[str, bool]:
    """Each table or common table that the statement reads from, and whether at a time."""
    tree = sqlglot.parse_one(sql, dialect="bigquery")
    found: dict[str, bool] = {}
    for table in tree.find_all(sge.Table):
        name = ".".join(part.name for part in table.parts)
        assert found.setdefault(name, bool(table.args.get("version"))) == bool(table.args.get("version")), name
    return found


@pytest.mark.emulators
@pytest.mark.parametrize("name", QUERIES)
def test_each_base_table_is_pinned_and_nothing_else(orders: str, tmp_path: Path, name: str) -> None:
    dataset = orders.rpartition(".")[0]
    if "customers" in QUERIES[name]:
        bigquery_data.query(f"CREATE TABLE `{dataset}.customers` AS SELECT 9 AS id, TRUE AS test")
    sql = QUERIES[name].format(orders, dataset.partition(".")[2])
    source = opened("--orders_query", write(tmp_path, sql))
    assert source.pinned and source.table is None and source.location == "US"
    named = versions(source.select)
    tables = {orders, f"{dataset}.customers"} if "customers" in QUERIES[name] else {orders}
    assert {table for table, at in named.items() if at} == tables
    assert not any("." in table for table, at in named.items() if not at)
    assert (source.rows, source.first_day, source.last_day) == (
        6,
        datetime.date(2012, 1, 1),
        datetime.date(2012, 5, 31),
    )
    # What was asked is what is run: the same lines as BigQuery gives for the person's own text.
    ordered = f"SELECT {COLUMNS} FROM ({{}}\n) ORDER BY 1, 2"
    own = re.sub(r";( -- the end)?$", "", sql)
    assert bigquery_data.query(ordered.format(source.select)) == bigquery_data.query(ordered.format(own))


@pytest.mark.emulators
def test_a_time_of_the_query_s_own_is_kept(orders: str, tmp_path: Path) -> None:
    (now,) = bigquery_data.query("SELECT CURRENT_TIMESTAMP() AS t")
    bigquery_data.query(f"DELETE FROM `{orders}` WHERE customer_id = 1")
    own = opened(
        "--orders_query", write(tmp_path, f"SELECT * FROM {orders} FOR SYSTEM_TIME AS OF TIMESTAMP '{now['t']}'")
    )
    assert own.pinned and own.rows == 6 and own.select.count("FOR SYSTEM_TIME") == 1


@pytest.mark.emulators
def test_what_is_run_is_the_person_s_own_text(orders: str, tmp_path: Path) -> None:
    """sqlglot's tree keeps no LOG10; of types with parameters, which the emulator refuses, see test_orders_query."""
    columns = "cast(customer_id as  string) AS customer_id, ordered_at, LOG10(amount)  AS amount"
    sql = f"SELECT {columns}, LOG10(100) AS ten FROM {orders} AS o WHERE LOG10(100) = 2"
    source = opened("--orders_query", write(tmp_path, sql), run=False)
    assert f"SELECT {columns}, LOG10(100) AS ten FROM `{orders}` AS o FOR SYSTEM_TIME AS OF" in source.select
    assert source.text == sql.replace(orders, f"`{orders}`")
    for statement in (source.extent_sql(), source.dead_lines_sql()):
        assert source.select in statement


@pytest.mark.emulators
def test_what_knows_no_time_is_read_as_it_is(orders: str, tmp_path: Path) -> None:
    dataset = orders.rpartition(".")[0]
    bigquery_data.query(f"CREATE VIEW `{dataset}.bought` AS SELECT * FROM `{orders}` WHERE amount > 5")
    view = opened("--orders", f"bigquery://{dataset}.bought")
    assert not view.pinned and view.table is None and "SYSTEM_TIME" not in view.select and view.rows == 3
    joined = opened("--orders_query", write(tmp_path, f"SELECT o.* FROM {dataset}.bought AS o"))
    assert not joined.pinned and "SYSTEM_TIME" not in joined.select and joined.rows == 3
    mixed = f"SELECT o.* FROM {orders} o WHERE customer_id IN (SELECT customer_id FROM {dataset}.bought)"
    # The emulator fails at a time of one table beside a view; BigQuery does not.
    source = opened("--orders_query", write(tmp_path, mixed), run=False)
    assert not source.pinned and versions(source.select) == {orders: True, f"{dataset}.bought": False}


@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("SELECT * FROM ML.PREDICT(MODEL shop.m, (SELECT 1 AS a))", {"shop.m": False}),
        ("SELECT * FROM shop.f(1)", {"shop.f": False}),
        ("SELECT * FROM shop.INFORMATION_SCHEMA.TABLES", {"shop.INFORMATION_SCHEMA.TABLES": False}),
        ("SELECT * FROM `shop.orders_*`", {"shop.orders_*": False}),
    ],
)
def test_neither_functions_nor_patterns_are_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str, named: dict[str, bool]
) -> None:
    """The emulator has none of them: only its answer about the columns is made up."""
    from google.cloud.bigquery import SchemaField

    class Columns:
        schema = [
            SchemaField("customer_id", "STRING"),
            SchemaField("ordered_at", "DATE"),
            SchemaField("amount", "NUMERIC"),
        ]

    monkeypatch.setattr(bq, "dry_run", lambda query: Columns)
    monkeypatch.setattr(bq, "client", lambda project: pytest.fail("BigQuery was asked about a table"))
    source = opened("--orders_query", write(tmp_path, sql), run=False)
    assert not source.pinned
    assert {
        name: at for name, at in versions(source.select).items() if name.startswith("shop.") and name[-1] != "."
    } == named


@pytest.mark.emulators
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT * FROM orders", "orders is no complete name"),
        ("SELECT * FROM shop.nothing", "test-project.shop.nothing"),
        ("SELECT * FROM `test-project.shop.orders$20110101`", "accepted is project.dataset.table"),
        ("SELECT nothing FROM {0}", "nothing"),
        ("SELECT o.* FROM {0} o WHERE EXISTS (SELECT 1 FROM o.items)", "an array: UNNEST|test-project.o.items"),
        ("WITH `shop.orders` AS (SELECT 1 AS a) SELECT * FROM `shop.orders`", "without dots"),
        ("SELECT customer_id, ordered_at FROM {0}", "has no column amount"),
        ("SELECT * FROM {0} WHERE FALSE", "^--orders_query .* has no lines"),
        ("SELECT customer_id, 'x' AS ordered_at, amount FROM {0}", "^--orders_query .* none with a usable ordered_at"),
        ("SELECT * FROM {0} PIVOT(SUM(amount) FOR customer_id IN (1, 2))", "accepted is .SELECT .* PIVOT"),
        ("SELECT * FROM {0}-2011", "in one pair of backticks|ot found"),
    ],
)
def test_a_query_that_cannot_be_orders_is_named(orders: str, tmp_path: Path, sql: str, says: str) -> None:
    path = write(tmp_path, sql.format(orders))
    with pytest.raises(UsageError, match=says) as raised:
        opened("--orders_query", path)
    assert len(str(raised.value).splitlines()) == 1 and path in str(raised.value)


# --- The instant over time ------------------------------------------------------------------------------------------


def found(directory: Path, *argv: str) -> tuple[pa.Table, dict[Any, int]]:
    customers, counts, _ = customers_of(directory, *argv)
    return customers, {key: n for key, n in counts.items() if n}


@pytest.mark.emulators
def test_what_happens_after_the_instant_is_in_neither_way(
    orders: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the extent and the reading, rows come, go and are replaced."""
    before = found(tmp_path / "before", "--orders", f"bigquery://{orders}")
    (then,) = bigquery_data.query("SELECT CURRENT_TIMESTAMP() AS t")
    changes = iter((f"DELETE FROM `{orders}` WHERE customer_id = 1", f"UPDATE `{orders}` SET amount = 99 WHERE TRUE"))
    plain = bigquery_orders._extent

    def extent_then_change(*arguments: Any) -> Any:
        extent = plain(*arguments)
        bigquery_data.query(next(changes))
        bigquery_data.query(f"INSERT INTO `{orders}` ({COLUMNS}) VALUES (4, DATE '2012-02-04', 4.5)")
        return extent

    monkeypatch.setattr(bigquery_orders, "_extent", extent_then_change)
    pushed = found(tmp_path / "pushed", "--orders", f"bigquery://{orders}")
    assert pushed[1] == before[1]
    assert_same_customers(before[0], pushed[0])
    now = opened_counts(orders)  # with the changes of the first reading, without those of the second
    read = found(tmp_path / "read", "--orders", f"bigquery://{orders}", "--no_pushdown")
    assert sum(n for (kind, _), n in read[1].items() if kind == "read") == now
    values = dict(zip(read[0]["customer_id"].to_pylist(), map(float, read[0]["value_total"].to_pylist()), strict=True))
    assert values == {"2": 7.0, "4": 4.5}
    monkeypatch.undo()
    # The older state again, as often as one likes; a time without a zone is UTC's.
    naive = str(then["t"].replace(tzinfo=None))
    for number, way in enumerate(([], ["--no_pushdown"])):
        again = found(tmp_path / f"again-{number}", "--orders", f"bigquery://{orders}", "--snapshot_time", naive, *way)
        assert again[1] == before[1]
        assert_same_customers(before[0], again[0])


def opened_counts(orders: str) -> int:
    (row,) = bigquery_data.query(f"SELECT COUNT(*) AS n FROM `{orders}`")
    return int(row["n"])


@pytest.mark.emulators
def test_the_manifest_tells_the_instant(orders: str) -> None:
    first = datetime.datetime.now(datetime.UTC)
    source = opened("--orders", f"bigquery://{orders}")
    assert first - datetime.timedelta(seconds=5) < source.snapshot_time < datetime.datetime.now(datetime.UTC)
    assert source.provenance["snapshot_time"] == str(source.snapshot_time) and source.provenance["pinned"] is True
    assert source.identity["snapshot_time"] is None  # a retry an hour later means the same orders
    chosen = opened("--orders", f"bigquery://{orders}", "--snapshot_time", str(source.snapshot_time))
    assert chosen.identity["snapshot_time"] == str(source.snapshot_time) == chosen.provenance["snapshot_time"]


@pytest.mark.emulators
def test_a_time_before_the_table_s_history_is_named(orders: str) -> None:
    time_ = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=30)).replace(microsecond=0)
    with pytest.raises(UsageError) as raised:
        opened("--orders", f"bigquery://{orders}", "--snapshot_time", str(time_))
    line = str(raised.value)
    assert line.startswith(f"--orders bigquery://{orders} at --snapshot_time {time_}: ") and "snapshot" in line[60:]


# --- A query, a view and the table itself mean the same ------------------------------------------------------------


@pytest.mark.emulators
def test_a_query_and_a_view_mean_the_same_as_their_table(orders: str, tmp_path: Path) -> None:
    view = f"{orders.rpartition('.')[0]}.a_view"
    bigquery_data.query(f"CREATE VIEW `{view}` AS SELECT * FROM `{orders}`")
    path = write(tmp_path, f"WITH o AS (SELECT * FROM {orders}) SELECT {COLUMNS} FROM o")
    expected = found(tmp_path / "table", "--orders", f"bigquery://{orders}")
    asked = ([f"--orders_query={path}"], [f"--orders=bigquery://{view}"])
    started = datetime.datetime.now(datetime.UTC)
    for number, (orders_argument, way) in enumerate(itertools.product(asked, ([], ["--no_pushdown"]))):
        other = found(tmp_path / str(number), *orders_argument, *way)
        assert other[1] == expected[1]
        assert_same_customers(expected[0], other[0])
    # The Storage Read API reads no view: without pushdown a query comes first, and its result is read.
    jobs = [
        job
        for job in bigquery_data.client().list_jobs(min_creation_time=started)
        if job.job_id.startswith("clv-orders-")
    ]
    assert len(jobs) == 2 and any(view in job.query for job in jobs)


# --- Bad input ------------------------------------------------------------------------------------------------------


def error_of(capsys: pytest.CaptureFixture[str], directory: Path, *argv: str) -> str:
    output = directory / "never-made"
    error = refused(capsys, features.main, [*argv, *WINDOW, "--output", str(output)])
    assert not storage.exists(storage.join(str(output), storage.MANIFEST))
    return error


@pytest.mark.emulators
@pytest.mark.parametrize("table", ["test-project.nowhere.orders", "{dataset}.nothing"])
def test_a_missing_table_is_named(
    bigquery: Any, dataset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    name = table.format(dataset=dataset)
    error = error_of(capsys, tmp_path, "--orders", f"bigquery://{name}")
    assert error.startswith(f"--orders bigquery://{name}: ") and "ot found" in error and "one that exists" in error


@pytest.mark.emulators
@pytest.mark.parametrize(
    ("column", "type_", "value"),
    [
        ("customer_id", "STRUCT<id INT64>", "STRUCT(1)"), ("customer_id", "BYTES", "b'x'"), ("amount", "ARRAY<INT64>", "[1]"),
        ("amount", "BOOL", "TRUE"), ("ordered_at", "TIME", "TIME '12:00:00'"), ("ordered_at", "INT64", "1330473600"),
        ("amount", "JSON", "JSON '1'"), ("country", "FLOAT64", "1.5"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_as_bigquery_names_it(
    bigquery: Any, dataset: str, column: str, type_: str, value: str
) -> None:
    values = {"customer_id": "'a'", "ordered_at": "DATE '2012-02-01'", "amount": "1", column: value}
    bigquery_data.query(f"CREATE TABLE `{dataset}.odd` AS SELECT {', '.join(f'{v} AS {n}' for n, v in values.items())}")
    with pytest.raises(UsageError) as raised:
        opened("--orders", f"bigquery://{dataset}.odd")
    shown = {"BOOL": "BOOLEAN", "INT64": "INTEGER", "FLOAT64": "FLOAT", "ARRAY<INT64>": "REPEATED INTEGER"}.get(
        type_, type_.partition("<")[0].replace("STRUCT", "RECORD")
    )
    assert f"column {column} has type {shown}, not usable as {column}: accepted is" in str(raised.value)


@pytest.mark.emulators
def test_missing_columns_lines_and_times_are_named(bigquery: Any, dataset: str) -> None:
    table = f"bigquery://{dataset}.bad"

    def error(sql: str, *argv: str) -> str:
        bigquery_data.query(f"CREATE OR REPLACE TABLE `{dataset}.bad` AS {sql}")
        with pytest.raises(UsageError) as raised:
            opened("--orders", table, *argv)
        assert table in str(raised.value) and len(str(raised.value).splitlines()) == 1
        return str(raised.value)

    good = "'a' AS customer_id, DATE '2012-02-01' AS ordered_at, 1 AS amount"
    assert "name it by --columns ordered_at=" in error(
        "SELECT 'a' AS customer_id, 1 AS amount, DATE '2012-01-01' AS day"
    )
    assert "a column of" in error(f"SELECT {good}", "--columns", "country=`; DROP TABLE x; --")
    assert "has no lines" in error(f"SELECT {good} LIMIT 0")
    assert "none with a usable ordered_at" in error("SELECT 'a' AS customer_id, 'yesterday' AS ordered_at, 1 AS amount")


@pytest.mark.emulators
@pytest.mark.parametrize("cutoff", ["2012-01-01", "2019-01-01"])
def test_a_cutoff_outside_the_data_is_named(
    orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], cutoff: str
) -> None:
    arguments = [
        "--orders",
        f"bigquery://{orders}",
        "--cutoff",
        cutoff,
        "--horizon_days",
        "10",
        "--output",
        str(tmp_path / "x"),
    ]
    assert cutoff in refused(capsys, features.main, arguments)


@pytest.mark.emulators
@pytest.mark.parametrize("type_", ["STRING", "INT64", "FLOAT64"])
def test_ids_of_any_kind(orders: str, tmp_path: Path, type_: str) -> None:
    other = f"{orders}_{type_}"
    bigquery_data.query(
        f"CREATE TABLE `{other}` AS SELECT * REPLACE (CAST(customer_id AS {type_}) AS customer_id) FROM `{orders}`"
    )
    ways = [found(tmp_path / way, "--orders", f"bigquery://{other}", *way.split()) for way in ("--no_pushdown", "")]
    for customers, counts in ways:
        assert customers["customer_id"].to_pylist() == ["1", "2"]
        assert counts == ways[0][1]


# --- --print_sql ----------------------------------------------------------------------------------------------------


@pytest.mark.emulators
@pytest.mark.parametrize("way", [[], ["--no_pushdown"], ["query"]])
def test_print_sql_prints_one_select_each_and_runs_nothing(
    orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: list[str]
) -> None:
    asked = ["--orders", f"bigquery://{orders}", *way]
    if way == ["query"]:
        asked = ["--orders_query", write(tmp_path, f"SELECT * FROM {orders}"), "--project", PROJECT]
    ids = {job.job_id for job in bigquery_data.client().list_jobs()}
    assert features.main([*asked, *WINDOW, "--print_sql"]) == 0
    printed = capsys.readouterr()
    assert not printed.err
    assert printed.out.count("\n;\n") == printed.out.count("would scan")
    statements = re.split(r"(?m)^-- (.*): would scan ([0-9,]+) bytes$", printed.out)[1:]
    titles, texts = statements[::3], statements[2::3]
    assert len(titles) == (1 if way == ["--no_pushdown"] else 3) and titles[0].startswith("the extent")
    for text in texts:
        (tree,) = [tree for tree in sqlglot.parse(text, dialect="bigquery") if tree]
        assert isinstance(tree, sge.Query)
        assert [name for name, at in versions(text).items() if at] == [orders]
    # Dry runs alone: they leave no job behind.
    assert not run_since(ids)
    assert way == ["--no_pushdown"] or f"DATE({CUTOFF.year}, {CUTOFF.month}, {CUTOFF.day})" in texts[1]


@pytest.mark.emulators
def test_print_sql_prints_the_copy_to_the_features_table(orders: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = f"{orders.rpartition('.')[0]}.features"
    argv = ["--orders", f"bigquery://{orders}", "--features_table", table, *WINDOW, "--print_sql"]
    assert features.main(argv) == 0
    copy = capsys.readouterr().out.rpartition("-- ")[2]
    assert copy.startswith(
        f"into {table}${CUTOFF:%Y%m%d}: would scan the customers just made\nSELECT DATE '{CUTOFF}' AS cutoff"
    )
    assert f"FROM `{table}_staged_`" in copy


@pytest.mark.emulators
def test_each_job_has_its_own_way_out_of_a_result_that_is_too_large(orders: str, tmp_path: Path) -> None:
    source = opened("--orders", f"bigquery://{orders}", run=False)
    jobs = ("clv-customers-a", "clv-dead-letters-a", "clv-orders-a", "clv-print-sql")
    customers, dead_letters, lines, other = (source.query(name, "SELECT 1").too_large for name in jobs)
    assert "--features_table" in customers and "--features_table" not in dead_letters + lines
    assert "--no_pushdown" in dead_letters and "without --no_pushdown" in lines and not other


def run_since(ids: set[str]) -> set[str]:
    """The jobs that were run since there were these; a dry run is none."""
    jobs = bigquery_data.client().list_jobs()
    return {job.job_id for job in jobs if not getattr(job, "dry_run", False)} - ids


@pytest.mark.emulators
def test_print_sql_of_predictions(orders: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "model")
    storage.begin(model, "model", {}, "a")
    about = {"schema_fingerprint": schema.fingerprint(schema.CUSTOMERS), "horizon_days": 30, "history_days": 400}
    storage.finish(model, "model", {}, about, "a")
    ids = {job.job_id for job in bigquery_data.client().list_jobs()}
    asked = ["--orders", f"bigquery://{orders}", "--model", model, "--print_sql"]
    assert "--as_of" in refused(capsys, predict.main, asked)
    assert predict.main([*asked, "--as_of", "2012-03-01"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("would scan") == 3 and "DATE(2012, 3, 1)" in printed
    assert not run_since(ids)
