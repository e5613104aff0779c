"""The command line of orchestration.prepare: its arguments, and what they mean once checked."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import dataclass

from pipelines import bigquery, labels
from pipelines import options as shared
from pipelines.bigquery import Table
from pipelines.order_files import OrdersFormat
from transforms.cli import ArgumentParser, whole_number
from transforms.errors import UsageError

DATASET, LOAD, CLEAN = PARTS = ("dataset", "load", "clean")


@dataclass(frozen=True)
class Options:
    """A checked command line. ``project`` pays for the jobs; ``parts`` are what is to run of ``PARTS``, in their order."""

    orders: str | None  # None where no part of this run reads the files
    how: OrdersFormat
    project: str
    location: str | None
    raw_table: Table
    orders_table: Table
    dead_letters_table: Table
    loaded_on: datetime.date
    replace: bool
    maximum_bytes_billed: int | None
    labels: dict[str, str]
    parts: tuple[str, ...]
    print_sql: bool

    @property
    def partition(self) -> datetime.date | None:
        """The part of the tables that is written; None is all."""
        return None if self.replace else self.loaded_on

    @property
    def dataset(self) -> str:
        return f"{self.orders_table.project}.{self.orders_table.dataset}"


def parse(argv: list[str] | None, description: str | None) -> Options:
    """Reads the arguments; asks neither BigQuery nor Cloud Storage.

    Raises:
      UsageError: one is missing or unusable, or they do not go together.
    """
    parsed = _parser(description).parse_args(argv)
    parts = PARTS if parsed.only is None else (parsed.only,)
    if LOAD in parts and parsed.orders is None:
        raise UsageError("--orders is missing: accepted without it are --only dataset and --only clean")
    if parsed.print_sql and CLEAN not in parts:
        raise UsageError(f"--print_sql with --only {parsed.only}, which has no statement: accepted is --only clean")
    return _options(parsed, parts)


def _parser(description: str | None) -> ArgumentParser:
    parser = ArgumentParser("python -m orchestration.prepare", description=description)
    add = parser.add_argument
    add("--orders", metavar="URI",
        help="order lines as CSV (also .csv.gz) or Parquet in Cloud Storage: a file, a folder or a pattern, gs://...; "
        "not needed by --only dataset and --only clean")  # fmt: skip
    add("--columns", metavar="MAP",
        help="foreign column names as our_name=their_name,..., or a TOML file of such pairs; ours are customer_id, "
        "ordered_at, amount (or quantity and unit_price), order_id, item_id, country, channel, category")  # fmt: skip
    add("--csv_delimiter", type=shared.character, default=",", help="the character between CSV fields")
    add("--csv_encoding", default="utf8", help="the text encoding of CSV files: utf8 or latin-1")
    add("--dataset", required=True, metavar="PROJECT.DATASET", help="where the tables are")
    add("--location", help="where the dataset is, such as EU or europe-west1 (default: US for a new one)")
    add("--project", help="the project whose quota and bill the jobs are on (default: the dataset's)")
    add("--raw_table", default="raw_orders", metavar="NAME",
        help="the files' lines as they came; the day is added to its name, as in raw_orders_20110808")  # fmt: skip
    add("--orders_table", default="orders", metavar="NAME", help="the usable lines, cleaned")
    add("--dead_letters_table", default="order_dead_letters", metavar="NAME",
        help="the unusable lines, each with the reason")  # fmt: skip
    add("--loaded_on", type=shared.date, required=True, metavar="DATE",
        help="the day these files are the load of, YYYY-MM-DD: the partition that is replaced")  # fmt: skip
    add("--replace", action="store_true", help="the files are the whole history: replace the tables, not a partition")
    add("--maximum_bytes_billed", type=whole_number(1), metavar="BYTES",
        help="most bytes one query may bill; a larger one fails without cost (default: no limit)")  # fmt: skip
    add(
        "--labels", metavar="KEY=VALUE,...", help="labels of the jobs, besides step and loaded_on, and of a new dataset"
    )
    add("--only", choices=PARTS, help="run this part alone (default: all three, one after the other)")
    add("--print_sql", action="store_true", help="print the statements and run nothing")
    return parser


def _options(parsed: argparse.Namespace, parts: tuple[str, ...]) -> Options:
    from pipelines import orders_source

    project, dataset = bigquery.parse_dataset("--dataset", parsed.dataset)
    # A table a day, not a partition: each has the columns of its own files, and the next export may have others.
    raw_table = parsed.raw_table if parsed.replace else f"{parsed.raw_table}_{parsed.loaded_on:%Y%m%d}"
    names = {
        "--raw_table": raw_table, "--orders_table": parsed.orders_table,
        "--dead_letters_table": parsed.dead_letters_table,
    }  # fmt: skip
    tables = {argument: Table.parse(argument, f"{project}.{dataset}.{name}") for argument, name in names.items()}
    if len(set(tables.values())) < len(tables):
        raise UsageError(f"{', '.join(f'{k} {v!r}' for k, v in names.items())}: accepted are three different names")
    return Options(
        orders=parsed.orders,
        how=OrdersFormat(orders_source.parse_columns(parsed.columns), parsed.csv_delimiter, parsed.csv_encoding),
        project=parsed.project or project,
        location=parsed.location,
        raw_table=tables["--raw_table"],
        orders_table=tables["--orders_table"],
        dead_letters_table=tables["--dead_letters_table"],
        loaded_on=parsed.loaded_on,
        replace=parsed.replace,
        maximum_bytes_billed=parsed.maximum_bytes_billed,
        labels=labels.checked(map(labels.pair, parsed.labels.split(",") if parsed.labels else ())),
        parts=parts,
        print_sql=parsed.print_sql,
    )
