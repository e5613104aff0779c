"""The warehouse's preparation: on BigQuery's and Cloud Storage's emulators, and its statements on GoogleSQL."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestration import prepare, prepared_tables
from orchestration.raw_orders import RawOrders
from pipelines import bigquery as bq
from pipelines.bigquery import Load, Table
from tests import brute_force, order_strategies
from tests.googlesql.service import GoogleSql, unavailable_reason
from tests.order_strategies import INPUTS, line
from transforms import dead_letters, schema
from transforms.errors import UsageError

DAY, NEXT_DAY = datetime.date(2012, 3, 1), datetime.date(2012, 3, 2)
Upload = Callable[[str, bytes], str]


def csv_text(rows: list[dict], header: tuple[str, ...] = INPUTS, delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(header)
    writer.writerows([row[name] for name in INPUTS] for row in rows)
    return text.getvalue().encode()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def as_tuples(rows: list[dict], columns: list[str]) -> Counter[tuple]:
    return Counter(tuple(row[name] for name in columns) for row in rows)


def expected_orders(rows: list[dict], day: datetime.date) -> Counter[tuple]:
    orders, _ = brute_force.clean(rows)
    return as_tuples([{**order, "loaded_on": day} for order in orders], [*schema.names(schema.ORDERS), "loaded_on"])


def expected_letters(rows: list[dict], day: datetime.date) -> Counter[tuple]:
    """What the jobs on files write of the same lines; they read empty text of a CSV as null."""
    _, rejected = brute_force.clean(rows)
    dead = [
        (reason, {name: row[name] or None for name in INPUTS}) for reason, row in rejected if reason != "no_customer"
    ]
    batch = pa.RecordBatch.from_pylist([row for _, row in dead])
    letters = dead_letters.of_lines(batch, [reason for reason, _ in dead])
    return Counter((day, x.stage, x.reason, x.detail, json.dumps(x.payload)) for x in letters)


def expected_reasons(rows: list[dict]) -> Counter[str]:
    return Counter(reason for reason, _ in brute_force.clean(rows)[1])


# --- The statements, on Google's own analyser and evaluator ---------------------------------------------------------


@pytest.fixture(scope="module")
def googlesql() -> Iterator[GoogleSql]:
    if reason := unavailable_reason():
        pytest.skip(reason)
    with GoogleSql() as engine:
        yield engine


RAW, ORDERS, DEAD = (Table("my-project", "shop", name) for name in ("raw_orders_20120301", "orders", "dead"))


QUOTABLE = ("it's", 'a "b"', "'\"", "back\\slash", "two\r\n\tlines", "客")


def raw_text(empty_is_null: bool) -> RawOrders:
    text = pa.schema([(name, pa.string()) for name in INPUTS])
    return RawOrders((), (), (), {name: name for name in INPUTS}, text, {}, empty_is_null)


@pytest.mark.parametrize("empty_is_null", [True, False])
def test_the_statements_mean_the_same_on_googlesql(googlesql: GoogleSql, empty_is_null: bool) -> None:
    from orchestration import prepare_sql

    rows = [*order_strategies.awkward_orders(), *(line("q", "2012-02-02", text) for text in QUOTABLE)]
    # A CSV load gives empty text, never null.
    raw = order_strategies.to_table([{k: v or "" for k, v in row.items()} if empty_is_null else row for row in rows])
    tables = {f"{RAW}": raw}
    statements = prepare_sql.statements(raw_text(empty_is_null), RAW, ORDERS, DEAD, DAY)

    orders = googlesql.evaluate(statements.orders, tables)
    assert orders.schema == schema.arrow_schema(prepared_tables.ORDERS.columns)
    assert as_tuples(orders.to_pylist(), orders.column_names) == expected_orders(rows, DAY)

    letters = googlesql.evaluate(statements.dead_letters, tables)
    assert letters.schema == schema.arrow_schema(prepared_tables.DEAD_LETTERS.columns)
    if empty_is_null:
        assert letters_of(letters) == expected_letters(rows, DAY)

    account = {row["reason"]: row["order_lines"] for row in googlesql.evaluate(statements.account, tables).to_pylist()}
    assert account == {**expected_reasons(rows), "usable": orders.num_rows}
    written = googlesql.evaluate(statements.written, {str(ORDERS): orders, str(DEAD): letters}).to_pylist()
    assert {row["reason"]: row["order_lines"] for row in written} | {"no_customer": 2} == account


def letters_of(table: pa.Table) -> Counter[tuple]:
    """Letters with the payload spelled as Python does."""
    return Counter(
        (row["loaded_on"], row["stage"], row["reason"], row["detail"], json.dumps(json.loads(row["payload"])))
        for row in table.to_pylist()
    )


# --- The command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--orders", "orders.csv"],
            "--orders 'orders.csv' is not usable: accepted is a file, a folder or a pattern in",
        ),
        (["--dataset", "shop"], "--dataset 'shop' is not usable: accepted is project.dataset"),
        (["--dataset", "my-project.shop.orders"], "--dataset 'my-project.shop.orders' is not usable"),
        (["--orders_table", "a`b"], "--orders_table 'my-project.shop.a`b' is not usable"),
        (["--orders_table", "x", "--dead_letters_table", "x"], "accepted are three different names"),
        (["--orders_table", "raw_orders_20120301"], "accepted are three different names"),
        (["--loaded_on", "yesterday"], "accepted is a date such as 2011-08-08"),
        (["--maximum_bytes_billed", "0"], "accepted is a whole number of at least 1"),
        (["--labels", "Team=CRM"], "--labels 'Team=CRM' is not usable: accepted is key=value"),
        (["--labels", "a=b,a=c"], "--labels 'a=b and a=c' is not usable: accepted is each key once"),
        (["--labels", "a=b,"], "--labels '' is not usable: accepted is key=value"),
        (["--columns", "nobody=x"], "--columns 'nobody' is not usable"),
        (["--datset", "x"], "did --datset mean --dataset?"),
        (["--only", "cleaning"], "argument --only: invalid choice: 'cleaning'"),
        (["--only", "load", "--orders", "orders.csv"], "--orders 'orders.csv' is not usable: accepted is a file"),
    ],
)
def test_a_bad_argument_is_told_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"--orders": "gs://b/o.csv", "--dataset": "my-project.shop", "--loaded_on": "2012-03-01"}
    given = {**base, **dict(zip(arguments[::2], arguments[1::2], strict=True))}
    assert prepare.main([part for pair in given.items() for part in pair]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ") and said in told


emulated = pytest.mark.emulators


@pytest.fixture
def upload(bucket: str) -> Upload:
    """Stores an object in a fresh bucket and returns its URI."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client("test-project", AnonymousCredentials())

    def put(name: str, content: bytes) -> str:
        client.bucket(bucket).blob(name).upload_from_string(content)
        return f"gs://{bucket}/{name}"

    return put


def arguments(uri: str, dataset: str, day: datetime.date = DAY, *more: str) -> list[str]:
    return ["--orders", uri, "--dataset", dataset, "--loaded_on", str(day), *more]


def table(dataset: str, name: str) -> pa.Table:
    client = bq.client("test-project")
    return client.list_rows(client.get_table(f"{dataset}.{name}")).to_arrow(create_bqstorage_client=False)


def stored(dataset: str, name: str = "orders") -> Counter[tuple]:
    rows = table(dataset, name)
    return as_tuples(rows.to_pylist(), rows.column_names)


@emulated
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "foreign.csv", "parquet"])
def test_awkward_orders(kind: str, upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = order_strategies.awkward_orders()
    foreign = ("Customer ID", "date", "Date", "Menge", "_TABLE_", "", "é`", "country", "channel", "category")
    more: list[str] = []
    if kind == "parquet":
        content = parquet(order_strategies.to_table(rows))
    elif kind == "foreign.csv":
        content = csv_text(rows, foreign, ";")
        pairs = zip(INPUTS, foreign[:5], strict=False)
        more = ["--columns", ",".join(f"{ours}={theirs}" for ours, theirs in pairs), "--csv_delimiter", ";"]
        rows = [{**row, "order_id": None, "item_id": None} for row in rows]
    else:
        content = gzip.compress(csv_text(rows)) if kind == "csv.gz" else csv_text(rows)
    uri = upload(f"in/orders.{kind}", content)

    assert prepare.main(arguments(uri, dataset, DAY, *more)) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    reasons = expected_reasons(rows)
    assert result["rows_loaded"] == len(rows) and result["bytes_loaded"] == len(content)
    assert result["excluded"] == {"no_customer": reasons.pop("no_customer")}
    assert result["dead_letters"] == reasons
    assert result["orders"] == len(brute_force.clean(rows)[0])
    assert output.err.count("\n") == 6 and f"{len(rows)} rows, {len(content):,} bytes" in output.err

    orders = table(dataset, "orders")
    assert orders.schema.remove_metadata() == schema.arrow_schema(prepared_tables.ORDERS.columns)
    assert stored(dataset) == expected_orders(rows, DAY)
    letters = letters_of(table(dataset, "order_dead_letters"))
    if kind in ("csv", "csv.gz"):
        assert letters == expected_letters(rows, DAY)
    assert Counter(letter[2] for letter in letters.elements()) == reasons


@emulated
def test_tables_are_laid_out_and_described(upload: Upload, dataset: str) -> None:
    from google.cloud import bigquery as google_bigquery

    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    for more in ((), ("--replace",)):
        prepare.run(arguments(uri, dataset, DAY, *more))
        found = bq.client("test-project").get_table(f"{dataset}.orders")
        assert found.time_partitioning.field == "loaded_on" and found.time_partitioning.type_ == "DAY"
        assert found.clustering_fields == ["customer_id"]
        described = {field.name: field.description for field in found.schema}
        assert described["amount"] == f"{schema.by_name(schema.ORDERS)['amount'].formula} (never null)"
        assert all(described.values()) and all(field.mode == "NULLABLE" for field in found.schema)
        # What BigQuery, unlike its emulator, does to a table that is replaced whole.
        found.schema = [google_bigquery.SchemaField(field.name, field.field_type) for field in found.schema]
        bq.client("test-project").update_table(found, ["schema"])


@emulated
def test_a_day_again_and_other_days(upload: Upload, dataset: str) -> None:
    rows = order_strategies.awkward_orders()
    first = upload("1/orders.csv", csv_text(rows))
    second = upload("2/orders.parquet", parquet(order_strategies.to_table(rows[:40])))
    for day, uri in ((DAY, first), (NEXT_DAY, second), (DAY, first)):
        prepare.run(arguments(uri, dataset, day))
    other_day = expected_orders(rows[:40], NEXT_DAY)
    assert stored(dataset) == expected_orders(rows, DAY) + other_day

    mended = [line("b", "2012-02-02", "2.5", order_id="o"), line("b", "2012-02-30", "1")]
    upload("1/orders.csv", csv_text(mended))
    prepare.run(arguments(first, dataset, DAY))
    assert stored(dataset) == expected_orders(mended, DAY) + other_day
    assert {row[0] for row in letters_of(table(dataset, "order_dead_letters"))} == {DAY}

    whole = prepare.run(arguments(second, dataset, NEXT_DAY, "--replace"))
    assert stored(dataset) == other_day and whole["tables"]["raw"] == f"{dataset}.raw_orders"
    assert not table(dataset, "order_dead_letters").num_rows


@emulated
def test_several_files_of_a_pattern(upload: Upload, dataset: str, bucket: str) -> None:
    rows = order_strategies.awkward_orders()
    for number in range(3):
        upload(f"d/part-{number}.csv", csv_text(rows[number::3]))
    upload("d/notes.txt", b"not orders")
    upload("d/deeper/part-9.csv", csv_text(rows))
    result = prepare.run(arguments(f"gs://{bucket}/d/part-*", dataset))
    assert len(result["files"]) == 3 and stored(dataset) == expected_orders(rows, DAY)


@emulated
def test_typed_parquet(upload: Upload, dataset: str) -> None:
    instants = [datetime.datetime(2012, 2, 2, 23, 30), datetime.datetime(1899, 12, 31), None]
    berlin = pa.timestamp("ms", "Europe/Berlin")
    columns: dict[str, Any] = {
        "customer_id": pa.array([12346.0, 7.0, float("nan")]),
        "ordered_at": pa.array(instants, pa.timestamp("us")),
        "amount": pa.array([Decimal("19.9900000005"), None, None], pa.decimal128(20, 10)),
        "quantity": pa.array([1, 2, None], pa.int32()),
        "unit_price": pa.array([0.1, float("nan"), 3.0]),
        "country": pa.array(["DE", "", None]).dictionary_encode(),
        "channel": pa.nulls(3),
        "item_id": pa.array([9007199254740993, None, -1], pa.int64()),
        "Kommentar, lang": pa.array([["a"], [], None]),
    }
    rows = [{name: column[i].as_py() for name, column in columns.items()} for i in range(3)]
    one = upload("1.parquet", parquet(pa.table(columns)))
    prepare.run(arguments(one, dataset))
    assert stored(dataset) == expected_orders(rows, DAY) and stored(dataset).total() == 1
    (letter,) = letters_of(table(dataset, "order_dead_letters"))
    assert letter[2] == "bad_ordered_at" and letter[3].startswith(
        "ordered_at=1899-12-31 00:00:00: accepted is ISO 8601"
    )

    zoned = {**columns, "ordered_at": pa.array(instants, berlin), "Customer ID": columns["customer_id"]}
    del zoned["customer_id"]
    two = upload("2.parquet", parquet(pa.table(zoned)))
    prepare.run(arguments(two, dataset, NEXT_DAY, "--columns", "customer_id=Customer ID"))
    aware = [{**row, "ordered_at": t and t.replace(tzinfo=datetime.UTC)} for row, t in zip(rows, instants, strict=True)]
    assert stored(dataset) == expected_orders(rows, DAY) + expected_orders(aware, NEXT_DAY)


@emulated
def test_latin_1(upload: Upload, dataset: str) -> None:
    uri = upload("orders.csv", "customer_id,ordered_at,amount\nMüller,2012-02-02,1\n".encode("latin-1"))
    prepare.run(arguments(uri, dataset, DAY, "--csv_encoding", "latin-1"))
    assert table(dataset, "orders")["customer_id"].to_pylist() == ["Müller"]


HEADER = b"customer_id,ordered_at,amount\n"
GOOD = pa.table({"customer_id": ["a"], "ordered_at": ["2012-02-02"], "amount": ["1"]})


def with_column(name: str, column: pa.Array) -> bytes:
    return parquet(GOOD.drop_columns(name).append_column(name, column))


@emulated
@pytest.mark.parametrize(
    ("files", "more", "said"),
    [
        ({"a.txt": b""}, [], "accepted is 1 to 10,000 .parquet, .csv or .csv.gz files that exist"),
        ({"a.csv": b"customer_id,amount\na,1\n"}, [], "a.csv has no column ordered_at"),
        ({"a.csv": HEADER}, ["--columns", "amount=Price"], "--columns 'amount=Price' is not usable"),
        ({"a.csv": HEADER}, ["--csv_encoding", "cp1252"], "--csv_encoding 'cp1252' is not usable"),
        ({"a.csv": HEADER, "b.csv": b"ordered_at,customer_id,amount\n"}, [], "same columns in the same order"),
        ({"a.csv": HEADER, "b.parquet": parquet(GOOD)}, [], "accepted are files of one kind"),
        ({"a.csv": HEADER + b"a,2012-02-02,1\nb,2012-02-02\n"}, [], "Line: 3"),
        ({"a.parquet": b"no parquet"}, [], "a.parquet is not readable"),
        ({"a.csv.gz": b"no gzip"}, [], "a.csv.gz is not readable"),
        ({"a.parquet": with_column("ordered_at", pa.array([True]))}, [], "column ordered_at has type bool"),
        ({"a.parquet": with_column("amount", pa.array([1], pa.float32()))}, [], "column amount is float32"),
        ({"a.parquet": with_column("customer_id", pa.array([1], pa.uint64()))}, [], "column customer_id is uint64"),
        ({"a.parquet": with_column("ordered_at", pa.array([1], pa.timestamp("ns")))}, [], "is timestamp[ns]"),
        ({"a.parquet": with_column("amount", pa.array([1], pa.decimal256(50, 0)))}, [], "more than BigQuery holds"),
        ({"a.parquet": parquet(GOOD), "b.parquet": with_column("amount", pa.array([1]))}, [], "amount as int64"),
    ],
)  # fmt: skip
def test_bad_files_are_told_in_one_line(
    files: dict[str, bytes], more: list[str], said: str, upload: Upload, bucket: str, dataset: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, content in files.items():
        upload(name, content)
    assert prepare.main(arguments(f"gs://{bucket}/*", dataset, DAY, *more)) == 2
    told = capsys.readouterr().err.splitlines()
    assert said in told[-1] and told[-1].startswith("error: ")
    # Nothing but a malformed line needs a job to be found.
    assert len(told) == (2 if "Line" in said else 1)


@emulated
def test_an_export_that_comes_late(
    upload: Upload, bucket: str, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not there yet is 1, by which a scheduler tries again; a bucket that does not exist is 2, for good."""
    for place, code in ((bucket, 1), (f"{bucket}-x", 2)):
        assert prepare.main(arguments(f"gs://{place}/2012-03-01/*.csv", dataset)) == code
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith(f"error: --orders 'gs://{place}/2012-03-01/*.csv' is not usable: accepted is ")
    upload("2012-03-01/orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    assert prepare.main(arguments(f"gs://{bucket}/2012-03-01/*.csv", dataset)) == 0


@emulated
def test_the_dataset_is_made_where_it_is_said_and_never_moved(
    upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    fresh = f"{dataset}_eu"
    assert prepare.run(arguments(uri, fresh, DAY, "--location", "EU", "--labels", "team=crm"))["location"] == "EU"
    found = bq.client("test-project").get_dataset(fresh)
    assert found.location == "EU" and found.labels == {"team": "crm"}
    assert prepare.run(arguments(uri, fresh))["location"] == "EU"
    assert prepare.main(arguments(uri, fresh, DAY, "--location", "US")) == 2
    assert f"--location 'US' is not where --dataset {fresh} is: accepted is EU" in capsys.readouterr().err


@emulated
def test_a_table_of_another_layout_is_refused(upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    from google.cloud import bigquery as google_bigquery

    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    fields = [google_bigquery.SchemaField("loaded_on", "DATE")]
    bq.client("test-project").create_table(google_bigquery.Table(f"{dataset}.plain", fields))
    narrow = google_bigquery.Table(f"{dataset}.narrow", fields)
    narrow.time_partitioning = google_bigquery.TimePartitioning(field="loaded_on")
    bq.client("test-project").create_table(narrow)
    for name, said in (("plain", "no daily partitions by loaded_on"), ("narrow", "no column, not STRING")):
        assert prepare.main(arguments(uri, dataset, DAY, "--orders_table", name)) == 2
        assert said in capsys.readouterr().err
    prepare.run(arguments(uri, dataset, DAY, "--orders_table", "narrow", "--replace"))
    assert stored(dataset, "narrow").total() == 1


@emulated
def test_a_required_column_is_refused_before_the_load(
    upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from google.cloud import bigquery as google_bigquery

    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    prepare.run(arguments(uri, dataset))
    made = bq.client("test-project").get_table(f"{dataset}.orders")
    fields = [{**f.to_api_repr(), "mode": "REQUIRED"} if f.name == "customer_id" else f for f in made.schema]
    strict = google_bigquery.Table(f"{dataset}.strict", fields)
    strict.time_partitioning, strict.clustering_fields = made.time_partitioning, made.clustering_fields
    bq.client("test-project").create_table(strict)
    capsys.readouterr()
    assert prepare.main(arguments(uri, dataset, DAY, "--orders_table", "strict")) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{dataset}.strict is not usable: it has customer_id as REQUIRED STRING, not STRING: accepted is" in told


@emulated
@pytest.mark.parametrize("more", [(), ("--replace",)])
def test_days_are_not_forgotten(
    more: tuple[str, ...], upload: Upload, dataset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    client = bq.client("test-project")
    run_query = bq.run

    def then_expiring(query: bq.Query) -> Any:
        """As BigQuery, unlike its emulator, may leave a table that is replaced whole: of the dataset's default."""
        job = run_query(query)
        if query.destination and not query.destination.partition:
            written = client.get_table(query.destination.reference)
            written.expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=60)
            client.update_table(written, ["expires"])
        return job

    monkeypatch.setattr(bq, "run", then_expiring)
    found = client.get_dataset(dataset)
    found.default_table_expiration_ms = 60 * 86_400_000
    client.update_dataset(found, ["default_table_expiration_ms"])
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1"), line("a", "02/02/2012", "1")]))
    prepare.run(arguments(uri, dataset, DAY, *more))
    for name in ("orders", "order_dead_letters"):
        assert client.get_table(f"{dataset}.{name}").expires is None

    orders = client.get_table(f"{dataset}.orders")
    orders.time_partitioning.expiration_ms = 30 * 86_400_000
    client.update_table(orders, ["time_partitioning"])
    capsys.readouterr()
    assert prepare.main(arguments(uri, dataset, DAY, *more)) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{dataset}.orders is not usable: BigQuery deletes each of its partitions 30 days after its date" in told
    assert "partition_expiration_days = NULL" in told


@emulated
def test_an_export_of_nothing_usable_does_not_empty_the_orders(
    upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = upload("good.csv", csv_text([line("a", "2012-02-02", "1")]))
    bad = upload("bad.csv", csv_text([line("a", "02/02/2012", "1"), line("b", "02/02/2012", "1")]))
    nobody = upload("nobody.csv", csv_text([line("", "2012-02-02", "1")] * 3))
    mixed = upload("mixed.csv", csv_text([line("", "2012-02-02", "1"), line("a", "02/02/2012", "1")]))
    empty = upload("empty.csv", csv_text([]))
    prepare.run(arguments(good, dataset))
    before = stored(dataset)
    see = f"; see {dataset}.order_dead_letters)"
    refused = (
        (bad, [], f"has 2 lines, none of them usable (bad_ordered_at 2{see}: {dataset}.orders stays as it was"),
        (bad, ["--replace"], "accepted is at least one usable line; ordered_at: ISO 8601"),
        (nobody, [], "has 3 lines, none of them usable (no_customer 3): "),
        (mixed, [], f"(no_customer 1, bad_ordered_at 1{see}"),
        (empty, ["--replace"], "has 0 lines, none of them usable: "),
    )
    for uri, more, said in refused:
        assert prepare.main(arguments(uri, dataset, DAY, *more)) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
        assert stored(dataset) == before
    # A day without orders is a day.
    assert prepare.run(arguments(empty, dataset, NEXT_DAY))["orders"] == 0
    assert stored(dataset) == before


@emulated
def test_dead_letters_stay_where_a_refused_load_has_none(upload: Upload, dataset: str) -> None:
    prepare.run(arguments(upload("1.csv", csv_text(order_strategies.awkward_orders())), dataset))
    before = table(dataset, "order_dead_letters")
    with pytest.raises(UsageError, match="no_customer 1"):
        prepare.run(arguments(upload("2.csv", csv_text([line("", "2012-02-02", "1")])), dataset))
    assert before.num_rows and letters_of(table(dataset, "order_dead_letters")) == letters_of(before)


@emulated
def test_a_killed_run_is_finished_by_the_next(upload: Upload, dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = order_strategies.awkward_orders()
    uri = upload("orders.csv", csv_text(rows))
    run_query = bq.run

    class Killed(BaseException):
        pass

    for step in ("account", "dead_letters", "orders", "written"):

        def until(query: bq.Query, step: str = step) -> Any:
            if f"-{step}-" in query.name:
                raise Killed
            return run_query(query)

        monkeypatch.setattr(bq, "run", until)
        with pytest.raises(Killed):
            prepare.run(arguments(uri, dataset))
    monkeypatch.setattr(bq, "run", run_query)
    prepare.run(arguments(uri, dataset))
    assert stored(dataset) == expected_orders(rows, DAY)
    assert letters_of(table(dataset, "order_dead_letters")) == expected_letters(rows, DAY)


ENDLESS = "SELECT 'usable' AS reason, COUNT(*) AS order_lines FROM " + ", ".join(
    f"UNNEST(GENERATE_ARRAY(1, 100000)) AS {name}" for name in "abc"
)


@emulated
def test_a_terminated_run_cancels_its_job(
    upload: Upload, dataset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from orchestration import prepare_sql

    compiled = prepare_sql.statements
    monkeypatch.setattr(prepare_sql, "statements", lambda *given: replace(compiled(*given), account=ENDLESS))
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    watcher = threading.Thread(target=terminate_when_running)
    watcher.start()
    before = signal.getsignal(signal.SIGTERM)
    assert prepare.main(arguments(uri, dataset)) == 130
    watcher.join()
    assert signal.getsignal(signal.SIGTERM) is before
    said = capsys.readouterr().err
    (job_id,) = (text.removeprefix("cancelled: ") for text in said.splitlines() if text.startswith("cancelled: "))
    job = bq.client("test-project").get_job(job_id)
    assert "clv-prepare-account-20120301-" in job_id and job.error_result["reason"] == "stopped"


def terminate_when_running() -> None:
    """Sends this process SIGTERM, as a scheduler does, once the query without an end is running."""
    client = bq.client("test-project")
    for _ in range(200):
        if any("-account-" in str(job.job_id) for job in client.list_jobs(state_filter="running")):
            time.sleep(1)  # the emulator loses a cancellation that comes before its engine has begun
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(0.1)


def test_terminated_twice_it_still_calls_its_jobs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a scheduler whose first SIGTERM did not end the process at once: the second comes while the jobs are cancelled."""
    called_off = []

    def terminated(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)  # the signal ends it at once

    def cancel(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        called_off.append(True)

    monkeypatch.setattr(prepare, "_dataset", lambda _: "EU")
    monkeypatch.setattr(prepare, "_run_jobs", terminated)
    monkeypatch.setattr(prepare.Jobs, "cancel", cancel)
    before = signal.getsignal(signal.SIGTERM)
    assert prepare.main(["--dataset", "my-project.shop", "--loaded_on", str(DAY), "--only", "dataset"]) == 130
    assert called_off and signal.getsignal(signal.SIGTERM) is before


@emulated
def test_lines_lost_between_the_jobs_end_the_run_with_1(
    upload: Upload, dataset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = upload("orders.csv", csv_text(order_strategies.awkward_orders()))
    run_query = bq.run

    def after_a_delete(query: bq.Query) -> Any:
        if "-written-" in query.name:
            bq.client("test-project").query(f"DELETE FROM `{dataset}.orders` WHERE customer_id = 'midnight'").result()
        return run_query(query)

    monkeypatch.setattr(bq, "run", after_a_delete)
    assert prepare.main(arguments(uri, dataset)) == 1
    said = capsys.readouterr()
    assert not said.out and "94 lines were loaded, 94 accounted for" in said.err.splitlines()[-1]


@emulated
def test_jobs_are_named_labelled_and_limited(upload: Upload, dataset: str) -> None:
    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    more = ("--labels", "team=crm", "--maximum_bytes_billed", "1000000")
    first, second = (prepare.run(arguments(uri, dataset, DAY, *more))["job_ids"] for _ in range(2))
    assert set(first) == {"load", "account", "dead_letters", "orders", "written"}
    assert not set(first.values()) & set(second.values())  # an older success is not this run's
    for step, job_id in first.items():
        job = bq.client("test-project").get_job(job_id)
        assert job.labels == {"step": "prepare", "job": step, "loaded_on": "2012-03-01", "team": "crm"}
        assert step == "load" or job.maximum_bytes_billed == 1_000_000


@emulated
def test_a_load_whose_answer_was_lost_is_found(upload: Upload, dataset: str) -> None:
    uri = upload("orders.csv", HEADER + b"a,2012-02-02,1\n")
    columns = tuple((name, "STRING") for name in ("customer_id", "ordered_at", "amount"))
    destination = Table.parse("table", f"{dataset}.raw")
    load = Load("once", "test-project", (uri,), destination, columns, {"skip_leading_rows": 1})
    first = bq.run_load(load)
    upload("orders.csv", HEADER)
    again = bq.run_load(load)
    assert (again.job_id, again.ended, again.output_rows) == (first.job_id, first.ended, 1)


@emulated
def test_print_sql_runs_nothing(upload: Upload, dataset: str, capsys: pytest.CaptureFixture[str]) -> None:
    from google.api_core.exceptions import NotFound

    uri = upload("orders.csv", csv_text([line("a", "2012-02-02", "1")]))
    assert prepare.main(arguments(uri, f"{dataset}_none", DAY, "--print_sql")) == 0
    printed = capsys.readouterr().out
    assert f"`{dataset}_none.raw_orders_20120301`" in printed and printed.count(";\n") == 4
    with pytest.raises(NotFound):
        bq.client("test-project").get_dataset(f"{dataset}_none")
