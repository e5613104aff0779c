"""Which orders a command reads: its arguments, and the source they name."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from pipelines import options
from transforms.cli import whole_number
from transforms.errors import UsageError

if TYPE_CHECKING:
    from pipelines.bigquery_orders import BigQueryOrders
    from pipelines.orders_source import OrdersSource
    from transforms.customer_features import Snapshot

_BIGQUERY_ONLY = ("snapshot_time", "maximum_bytes_billed", "no_pushdown", "features_table")


@dataclass(frozen=True)
class OrdersArguments:
    """The arguments of every command that reads orders, as given."""

    orders: str | None
    orders_query: str | None
    columns: str | None
    csv_delimiter: str
    csv_encoding: str
    buckets: int | None
    snapshot_time: datetime.datetime | None
    maximum_bytes_billed: int | None
    no_pushdown: bool
    features_table: str | None

    @classmethod
    def take(cls, known: argparse.Namespace) -> OrdersArguments:
        """Takes its own arguments out of all that were parsed."""
        own = {field.name: getattr(known, field.name) for field in fields(cls)}
        for name in own:
            delattr(known, name)
        return cls(**own)

    @property
    def in_bigquery(self) -> bool:
        return self.orders_query is not None or str(self.orders).startswith("bigquery://")

    def given(self) -> list[str]:
        """The arguments that differ from their defaults, to be passed on to another command."""
        parser = argparse.ArgumentParser()
        add(parser)
        passed: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value == parser.get_default(field.name):
                continue
            if value is True:
                passed.append(f"--{field.name}")
            elif str(value).startswith("-"):  # by itself it would be taken for an argument
                passed.append(f"--{field.name}={value}")
            else:
                passed += [f"--{field.name}", str(value)]
        return passed


def instant(text: str) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not usable: accepted is a time such as 2011-12-09T22:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def add(parser: argparse.ArgumentParser, *, aggregated: bool = True) -> Any:
    """Adds the arguments of ``OrdersArguments``.

    Args:
      aggregated: whether the command aggregates the orders by customer; otherwise it is not asked how.

    Returns:
      The group of the arguments that name the lines, of which one is to be given.
    """
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--orders", metavar="URI",
        help="orders as Parquet or CSV (also .csv.gz): a file, a folder or a pattern, local or gs://; or a table, "
        "bigquery://project.dataset.table",
    )  # fmt: skip
    which.add_argument(
        "--orders_query", metavar="FILE.sql",
        help="orders as the result of the one SELECT in this file, run by BigQuery; --project pays for it",
    )  # fmt: skip
    parser.add_argument(
        "--columns", metavar="MAP",
        help="foreign column names as our_name=their_name,..., or a TOML file of such pairs; ours are customer_id, "
        "ordered_at, amount (or quantity and unit_price), order_id, item_id, country, channel, category",
    )  # fmt: skip
    parser.add_argument("--csv_delimiter", type=options.character, default=",", help="the character between CSV fields")
    parser.add_argument("--csv_encoding", default="utf8", help="the text encoding of CSV files, such as latin-1")
    if aggregated:
        parser.add_argument(
            "--buckets", type=options.buckets, metavar="N",
            help="groups of customers aggregated at a time; more need less memory (default: follows the input's size)",
        )  # fmt: skip
    parser.add_argument(
        "--snapshot_time", type=instant, metavar="TIME",
        help="BigQuery: orders as they were at this time, at most seven days ago (default: now; the manifest keeps it)",
    )  # fmt: skip
    parser.add_argument(
        "--maximum_bytes_billed", type=whole_number(1), metavar="N",
        help="BigQuery: a query that would scan more bytes fails and costs nothing (default: no limit)",
    )  # fmt: skip
    if not aggregated:
        parser.set_defaults(buckets=None, no_pushdown=False, features_table=None)
        return which
    parser.add_argument(
        "--no_pushdown", action="store_true",
        help="BigQuery: read the orders and aggregate them in this job, instead of having BigQuery do it",
    )  # fmt: skip
    parser.add_argument(
        "--features_table", metavar="TABLE",
        help="BigQuery: keep the customers' features in project.dataset.table too, replacing the cutoff's partition",
    )  # fmt: skip
    return which


def add_print_sql(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--print_sql", action="store_true",
        help="BigQuery: print the statements and the bytes they would scan, and run nothing",
    )  # fmt: skip


def open_orders(arguments: OrdersArguments, project: str | None = None, step: str = "orders") -> OrdersSource:
    """Checks and measures the orders.

    Args:
      project: whose quota and bill it is, where they are in BigQuery.
      step: labels BigQuery's jobs.

    Raises:
      UsageError: they cannot be read, or an argument does not go with such orders.
    """
    from pipelines import order_files, orders_source

    columns = orders_source.parse_columns(arguments.columns)
    if arguments.in_bigquery:
        return open_bigquery(arguments, project, step=step)
    for name in _BIGQUERY_ONLY:
        if getattr(arguments, name):
            raise UsageError(f"--{name} is about orders in BigQuery, --orders {arguments.orders!r} is not")
    assert arguments.orders is not None
    how = order_files.OrdersFormat(columns, arguments.csv_delimiter, arguments.csv_encoding)
    return order_files.inspect(arguments.orders, how)


def believed_end(source: OrdersSource, quiet_days: int) -> datetime.date:
    """The day before which the orders are believed to be all there: nobody bought on the days since the last order's."""
    return source.end + datetime.timedelta(quiet_days)


def quiet_days_hint(source: OrdersSource, end: datetime.date) -> str:
    """For a refusal: how the same command is accepted, where it is right about the days without an order."""
    return f"or --quiet_days {(end - source.end).days} if the shop was closed since"


def open_bigquery(
    arguments: OrdersArguments, project: str | None, *, step: str = "orders", run: bool = True
) -> BigQueryOrders:
    """Orders in BigQuery; without ``run`` only their metadata are asked for.

    Raises:
      UsageError: as ``bigquery_orders.open_orders``.
    """
    from pipelines import bigquery_orders, orders_source

    request = bigquery_orders.BigQueryRequest(
        arguments.orders,
        arguments.orders_query,
        orders_source.parse_columns(arguments.columns),
        project,
        arguments.snapshot_time,
        arguments.maximum_bytes_billed,
        not arguments.no_pushdown,
        arguments.features_table,
        step,
    )
    return bigquery_orders.open_orders(request, run=run)


def print_sql(arguments: OrdersArguments, project: str | None, snapshot: Snapshot) -> dict[str, Any]:
    """Prints the statements of a step with the bytes that BigQuery says they would scan; runs none of them.

    Raises:
      UsageError: the orders are not in BigQuery, or BigQuery refuses a statement.
    """
    from pipelines import bigquery
    from pipelines.keep_features import KeepFeatures

    if not arguments.in_bigquery:
        raise UsageError(f"--print_sql is about orders in BigQuery, --orders {arguments.orders!r} is not")
    source = open_bigquery(arguments, project, run=False)
    statements = {"the extent of the orders, before anything else": source.extent_sql()}
    if source.pushdown:
        statements["the customers"] = source.customers_sql(snapshot)
        statements["the dead letters, only if there are some"] = source.dead_lines_sql()
    elif not source.table:
        statements["the orders"] = source.select
    scanned: dict[str, int] = {}
    for name, sql in statements.items():
        job = bigquery.dry_run(source.query("clv-print-sql", sql))
        scanned[name] = job.total_bytes_processed or 0
        _print_statement(f"{name}: would scan {scanned[name]:,} bytes", sql)
    if source.features_table:
        # It reads the table that the customers' statement makes: there is nothing yet that a dry run could measure.
        made = source.query("clv-customers-", "", destination=source.features_table.beside("_staged_"))
        copy = KeepFeatures.of(made, source.features_table, snapshot).copy
        _print_statement(f"into {copy.destination}: would scan the customers just made", copy.sql)
    return {"bytes": scanned}


def _print_statement(title: str, sql: str) -> None:
    # The semicolon on a line of its own: the person's query may end with a comment.
    print(f"-- {title}\n{sql}\n;\n")
