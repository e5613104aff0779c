"""Orders in BigQuery: a table, or what a query gives, as it was at one instant.

The instant is taken from BigQuery's own clock before anything is read, kept in the manifest, and every
statement reads the tables ``FOR SYSTEM_TIME AS OF`` it: rows that arrive meanwhile are in none of them.
Views and external tables know no such time; they are read as they are when each statement runs.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ibis
import pyarrow as pa
from ibis.expr import types as ir
from sqlglot import expressions as sge

from pipelines import bigquery, orders_source
from pipelines import features_table as layout
from pipelines.bigquery import Query, Table
from pipelines.orders_query import NamedTable, OrdersQuery, as_of
from pipelines.orders_source import OrdersSource
from transforms import customer_features, engines, pushdown, schema
from transforms.errors import UsageError, rejected

if TYPE_CHECKING:
    from google.cloud.bigquery import SchemaField

_TYPES = {
    "STRING": pa.string(), "INTEGER": pa.int64(), "INT64": pa.int64(), "FLOAT": pa.float64(), "FLOAT64": pa.float64(),
    "NUMERIC": pa.decimal128(38, 9), "BIGNUMERIC": pa.decimal256(76, 38), "DATE": pa.date32(),
    "DATETIME": pa.timestamp("us"), "TIMESTAMP": pa.timestamp("us", "UTC"),
}  # fmt: skip
_UNUSABLE = pa.struct([])  # stands for the types no column of ours can have
_DIALECT = "bigquery"
# What can be done where a job's result does not fit into a table of BigQuery's own, by the job's name.
_TOO_LARGE = {
    "clv-customers": "accepted is a --features_table: results above 10 GB need a table of their own",
    "clv-dead-letters": "more than 10 GB of the lines cannot be used: accepted are orders, or --columns, with fewer of "
    "them, or a table with --no_pushdown",
    "clv-orders": "accepted is a table (bigquery://project.dataset.table) that holds these orders, or the same without "
    "--no_pushdown",
}


@dataclass(frozen=True)
class BigQueryRequest:
    """How a person asks for orders in BigQuery, unchecked."""

    table: str | None  # bigquery://project.dataset.table
    query: str | None  # a file with one SELECT
    columns: dict[str, str]
    project: str | None = None  # whose quota and bill; the table's own by default
    snapshot_time: datetime.datetime | None = None
    maximum_bytes_billed: int | None = None
    pushdown: bool = True
    features_table: str | None = None
    step: str = "orders"  # labels the jobs that look at the orders before the step's own

    @property
    def labels(self) -> dict[str, str]:
        return {"step": self.step}

    @property
    def about(self) -> str:
        """The argument that names the orders, for messages."""
        named = f"--orders {self.table}" if self.table else f"--orders_query {self.query}"
        return named + (f" at --snapshot_time {self.snapshot_time}" if self.snapshot_time else "")


@dataclass(frozen=True)
class BigQueryOrders(OrdersSource):
    """Orders in BigQuery, pinned to an instant as far as its tables allow."""

    select: str  # SQL: our columns of the orders as of the instant
    text: str | None  # the person's own query
    table: Table | None  # the table itself, where it can be read without a query
    snapshot_time: datetime.datetime
    chosen_time: datetime.datetime | None  # as asked for
    modified: tuple[str, ...]  # when each base table was changed last
    project: str
    location: str | None
    maximum_bytes_billed: int | None
    pushdown: bool
    features_table: Table | None

    @property
    def identity(self) -> dict[str, Any]:
        # A retry an hour later means the same orders unless it names an instant: the manifest tells which it was.
        return {
            **super().identity,
            "orders_query": self.text,
            "snapshot_time": self.chosen_time and str(self.chosen_time),
            "pushdown": self.pushdown,
            "features_table": self.features_table and str(self.features_table),
        }

    @property
    def provenance(self) -> dict[str, Any]:
        return {**super().provenance, "snapshot_time": str(self.snapshot_time), "pinned": self.pinned}

    @property
    def revision(self) -> Any:
        return [*self.modified, None if self.pinned else str(self.snapshot_time)]

    def query(self, name: str, sql: str, labels: dict[str, str] | None = None, **options: Any) -> Query:
        """A job over these orders, within the limit of bytes."""
        about = f"{'--orders_query' if self.text else '--orders'} {self.uri}"
        too_large = next((hint for start, hint in _TOO_LARGE.items() if name.startswith(start)), "")
        return Query(
            name, self.project, sql, self.location, labels or {}, self.maximum_bytes_billed, about=about,
            too_large=too_large, **options,
        )  # fmt: skip

    def compiled(self, expression: ir.Table) -> str:
        """The SQL of an expression over ``raw_orders(self.schema)``."""
        return _compiled(expression, self.select)

    def extent_sql(self) -> str:
        return _extent_sql(self.select, self.schema)

    def customers_sql(self, snapshot: customer_features.Snapshot) -> str:
        return self.compiled(pushdown.customers_and_fates(raw_orders(self.schema), snapshot))

    def dead_lines_sql(self) -> str:
        return self.compiled(pushdown.dead_lines(raw_orders(self.schema)))


def raw_orders(our_schema: pa.Schema) -> ir.Table:
    return ibis.table(ibis.Schema.from_pyarrow(our_schema), name="raw")


def _compiled(expression: ir.Table, select: str) -> str:
    """The SQL of an expression over ``raw``, with the SELECT in it as it is, letter by letter."""
    stand_in = sge.select("*").from_("clv_raw")
    sql = engines.compile_sql(expression, "bigquery", pretty=True, tables={"raw": stand_in})
    compiled, times = re.subn(r"SELECT\s+\*\s+FROM clv_raw\b", lambda _: select, sql)
    assert times == 1, sql
    return compiled


def open_orders(request: BigQueryRequest, *, run: bool = True) -> BigQueryOrders:
    """Checks the request against BigQuery and looks at the orders' extent (one cheap query over ordered_at).

    Args:
      run: False asks for metadata only, and leaves the extent empty.

    Raises:
      UsageError: a name is none, a table or column is missing, a type cannot become the schema's, the query
        is more than one SELECT, or there are no rows.
    """
    features_table = request.features_table and Table.parse("--features_table", request.features_table)
    if features_table and not request.pushdown:
        raise UsageError(
            "--features_table is written by the pushed-down query: accepted is one without the other, --no_pushdown"
        )
    if request.snapshot_time and request.snapshot_time > datetime.datetime.now(datetime.UTC):
        raise rejected("--snapshot_time", str(request.snapshot_time), "a time that is past")
    origin = _of_table(request) if request.table else _of_query(request)
    uri = request.table or str(request.query)
    theirs = pa.schema([pa.field(field.name, _arrow_type(field)) for field in origin.fields])
    shown = {field.name: f"{field.mode} {field.field_type}".removeprefix("NULLABLE ") for field in origin.fields}
    ours = orders_source.our_schema(theirs, request.columns, uri, shown)
    project = request.project or origin.project
    if features_table:
        layout.require_usable(project, features_table, origin.location)
    at = request.snapshot_time or _now(request, project, origin.location, run)
    select = _select(origin, ours, request.columns, at)
    rows, first, last = 0, datetime.date.min, datetime.date.max
    if run:
        rows, first, last = _extent(request, _extent_sql(select, ours), project, origin.location)
    return BigQueryOrders(
        uri=uri, columns=request.columns, schema=ours, rows=rows, first_day=first, last_day=last, select=select,
        text=origin.text, table=origin.table, snapshot_time=at, chosen_time=request.snapshot_time, pinned=origin.pinned,
        modified=origin.modified,
        project=project, location=origin.location, maximum_bytes_billed=request.maximum_bytes_billed,
        pushdown=request.pushdown, features_table=features_table or None,
    )  # fmt: skip


@dataclass(frozen=True)
class _Origin:
    """What the orders are taken from, and what BigQuery says of it."""

    at: Callable[[datetime.datetime], str]  # what SQL has behind FROM, each base table as of the instant
    fields: list[SchemaField]
    project: str
    location: str | None
    pinned: bool
    modified: tuple[str, ...]
    text: str | None = None
    table: Table | None = None


def _arrow_type(field: SchemaField) -> pa.DataType:
    return _UNUSABLE if field.mode == "REPEATED" else _TYPES.get(field.field_type, _UNUSABLE)


def _of_table(request: BigQueryRequest) -> _Origin:
    table = Table.parse("--orders", str(request.table))
    project = request.project or table.project
    with bigquery.explained(f"--orders {request.table}"):
        found = bigquery.client(project).get_table(table.reference)
    base = found.table_type == "TABLE"
    return _Origin(
        lambda instant: table.sql + (as_of(instant) if base else ""),
        list(found.schema),
        table.project,
        found.location,
        base,
        (str(found.modified),),
        table=table if base else None,
    )


def _of_query(request: BigQueryRequest) -> _Origin:
    """The query of a file, with every table's name complete and known to exist."""
    project = _query_project(request)
    query = OrdersQuery.read(str(request.query))
    pinned, location, modified, tables = True, None, [], list[NamedTable]()
    for number, table in query.tables():
        name = _name_of(table, project, query.about) if _is_named(table) else None
        found = None
        if name:
            with bigquery.explained(f"{query.about}: {name}"):
                found = bigquery.client(project).get_table(name.reference)
            own_time = table.args.get("version") is not None
            timed = found.table_type == "TABLE" and not own_time
            tables.append(NamedTable(number, name, timed))
            pinned = pinned and (timed or own_time)
            location = location or found.location
        pinned = pinned and found is not None
        modified.append(str(found and found.modified))
    text = query.spliced(tables)
    fields = bigquery.dry_run(
        Query("clv-schema", project, text, location, request.labels, about=f"--orders_query {query.path}")
    ).schema
    if not fields:
        raise UsageError(f"{query.about}: BigQuery gives no columns for it: accepted is one SELECT of order lines")
    return _Origin(
        # On lines of its own: it may end with a comment.
        lambda instant: f"(\n{query.spliced(tables, instant)}\n) AS `orders`",
        list(fields),
        project,
        location,
        pinned,
        tuple(modified),
        text=text,
    )


def _is_named(table: sge.Table) -> bool:
    """Whether it is a table's name where rows come from: no function's call, and no argument of one."""
    return isinstance(table.this, sge.Identifier) and not isinstance(table.parent, sge.Func)


def _query_project(request: BigQueryRequest) -> str:
    import os

    project = request.project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if not project:
        raise UsageError("--orders_query needs the project that pays for it: name it by --project")
    return project


def _name_of(table: sge.Table, project: str, about: str) -> Table | None:
    """The table's whole name; None where it stands for several tables or a view of BigQuery's own."""
    if not table.db:
        raise UsageError(
            f"{about}: {table.name} is no complete name: accepted is dataset.table or project.dataset.table "
            "(an array: UNNEST)"
        )
    if table.name.endswith("*") or any(part.name.upper().startswith("INFORMATION_SCHEMA.") for part in table.parts):
        return None
    return Table.parse(f"{about}: table", f"{table.catalog or project}.{table.db}.{table.name}")


def _select(origin: _Origin, ours: pa.Schema, columns: dict[str, str], instant: datetime.datetime) -> str:
    """SELECT our columns, under our names, of the orders as of the instant."""
    types = {field.name: field.field_type for field in origin.fields}
    selected = []
    for name in ours.names:
        theirs = columns.get(name, name)
        column: sge.Expression = sge.column(theirs, quoted=True)
        if types[theirs] == "BIGNUMERIC":  # 76 digits: text, as what the workers read is
            column = sge.cast(column, "TEXT")
        selected.append(sge.alias_(column, name, quoted=True).sql(dialect=_DIALECT))
    return f"SELECT {', '.join(selected)} FROM {origin.at(instant)}"


def _now(request: BigQueryRequest, project: str, location: str | None, run: bool) -> datetime.datetime:
    """BigQuery's clock (this machine's may be ahead of it), or ours where nothing is to run."""
    if not run:
        return datetime.datetime.now(datetime.UTC)
    sql = "SELECT CURRENT_TIMESTAMP() AS instant"
    (row,) = bigquery.run(Query(_unique("clv-now"), project, sql, location, request.labels)).result()
    instant: datetime.datetime = row["instant"]
    return instant


def _extent_sql(select: str, ours: pa.Schema) -> str:
    return _compiled(pushdown.extent(raw_orders(ours)), select)


def _extent(
    request: BigQueryRequest, sql: str, project: str, location: str | None
) -> tuple[int, datetime.date, datetime.date]:
    about = f"--orders {request.table!r}" if request.table else f"--orders_query {request.query!r}"
    query = Query(
        _unique("clv-extent"), project, sql, location, request.labels, request.maximum_bytes_billed, about=request.about
    )
    (row,) = bigquery.run(query).result()
    if not row["order_lines"]:
        raise UsageError(f"{about} has no lines: accepted is at least one order line")
    if row["first_day"] is None:
        raise UsageError(
            f"{about} has {row['order_lines']} lines, none with a usable ordered_at: accepted is {schema.TIME_ACCEPTED}"
        )
    return row["order_lines"], row["first_day"], row["last_day"]


def _unique(name: str) -> str:
    import uuid

    return f"{name}-{uuid.uuid4().hex[:12]}"
