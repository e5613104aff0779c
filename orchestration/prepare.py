"""Order files in Cloud Storage -> clean, partitioned orders in BigQuery, by BigQuery's own jobs.

    python -m orchestration.prepare --orders 'gs://my-bucket/2011-08-08/*.csv.gz' --dataset my-project.shop \\
        --loaded_on 2011-08-08

Makes the dataset and the tables when they are missing, loads the files into the day's raw table
(raw_orders_20110808), sets unusable lines aside in order_dead_letters with the reason, and writes the others to
orders, partitioned by loaded_on: `pipelines.features --orders bigquery://my-project.shop.orders` reads them.
Each job replaces what it writes, the day's partition alone, in one step: the same command may run again at any
time, after a failure or with mended files, and other days stay as they are. A day without lines is a day; lines
without a usable one among them are refused, and change no order. Every line is accounted for: raw lines = orders +
dead letters + excluded (lines without a customer), or the exit code is 1. A CSV line with more or fewer fields than
the header is no line at all: it fails the load, which names it.

The tables' partitions stay: a table that expires is refused, whether by itself or by its dataset's default.

Ctrl-C and SIGTERM cancel the job that runs. What is killed without a word (SIGKILL, a lost machine) leaves its job to
BigQuery, where it may still end and replace what a run started meanwhile has written: look at the jobs labelled
step=prepare, or run the day once more when they are done.

For a shop whose export is always its whole history, --replace replaces the tables whole (the raw table is then
raw_orders), so that nothing is counted twice.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestration.prepare_jobs import Jobs, say
from pipelines import bigquery, labels
from pipelines import options as shared
from pipelines.bigquery import Table
from pipelines.order_files import OrdersFormat
from transforms import schema
from transforms.cli import ArgumentParser, exit_code, whole_number
from transforms.errors import JobFailed, UsageError

if TYPE_CHECKING:
    from orchestration.prepare_sql import Statements
    from orchestration.raw_orders import RawOrders


class NotReconciled(JobFailed):
    """The lines that came and the lines that were written differ: a defect, or another run of the same day beside this."""


@dataclass(frozen=True)
class Options:
    """A checked command line. ``project`` pays for the jobs."""

    orders: str
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
    print_sql: bool

    @property
    def partition(self) -> datetime.date | None:
        """The part of the tables that is written; None is all."""
        return None if self.replace else self.loaded_on


def _parser() -> ArgumentParser:
    parser = ArgumentParser("python -m orchestration.prepare", description=__doc__)
    add = parser.add_argument
    add("--orders", required=True, metavar="URI",
        help="order lines as CSV (also .csv.gz) or Parquet in Cloud Storage: a file, a folder or a pattern, gs://...")  # fmt: skip
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
    add("--print_sql", action="store_true", help="print the statements and run nothing")
    return parser


def main(argv: list[str] | None = None) -> int:
    with _terminable():
        return exit_code(lambda: run(argv))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, by which schedulers stop a task, interrupts as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prepares the day's orders, prints the account as one JSON object and returns it.

    Raises:
      UsageError: a bad argument or file, or BigQuery refuses a job.
      NotReconciled: lines were lost or doubled.
    """
    options = _options(_parser().parse_args(argv))
    from orchestration import prepare_sql, raw_orders

    raw = raw_orders.inspect(options.orders, options.how)
    statements = prepare_sql.statements(
        raw, options.raw_table, options.orders_table, options.dead_letters_table, options.loaded_on
    )
    if options.print_sql:
        for name, sql in vars(statements).items():
            print(f"-- {name}\n{sql};\n")
        return dict(vars(statements))
    result = _prepare(options, raw, statements)
    print(json.dumps(result))
    return result


def _options(parsed: argparse.Namespace) -> Options:
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
        print_sql=parsed.print_sql,
    )


def _prepare(options: Options, raw: RawOrders, statements: Statements) -> dict[str, Any]:
    jobs = Jobs(options, _ensure(options))
    try:
        return _write(options, raw, statements, jobs)
    except KeyboardInterrupt:
        jobs.cancel()
        raise


def _write(options: Options, raw: RawOrders, statements: Statements, jobs: Jobs) -> dict[str, Any]:
    from orchestration.prepare_sql import USABLE
    from orchestration.prepared_tables import DEAD_LETTERS, ORDERS, mend

    loaded = jobs.load(raw)
    account = _counts(jobs.query(3, "account", statements.account))
    refused = _nothing_usable(options, account, loaded) if not account[USABLE] and (loaded or options.replace) else None
    excluded = Counter({reason.name: account.pop(reason.name, 0) for reason in schema.EXCLUDED})
    dead_letters, orders = (
        replace(table, partition=options.partition) for table in (options.dead_letters_table, options.orders_table)
    )
    if +account or not refused:  # dead letters of a refused load are there to be looked at
        jobs.query(4, "dead_letters", statements.dead_letters, dead_letters, DEAD_LETTERS)
        mend(options.project, options.dead_letters_table, DEAD_LETTERS)
    if refused:
        raise refused
    jobs.query(5, "orders", statements.orders, orders, ORDERS)
    mend(options.project, options.orders_table, ORDERS)
    written = _counts(jobs.query(6, "written", statements.written))
    _reconcile(loaded, account, excluded, written)
    return {
        "dataset": f"{orders.project}.{orders.dataset}",
        "location": jobs.location,
        "tables": {
            "raw": str(options.raw_table),
            "orders": str(options.orders_table),
            "dead_letters": str(options.dead_letters_table),
        },
        "loaded_on": str(options.loaded_on),
        "files": list(raw.files),
        "rows_loaded": loaded,
        "orders": written.pop(USABLE, 0),
        "excluded": dict(+excluded),
        "dead_letters": dict(sorted(written.items())),
        "bytes_loaded": raw.bytes,
        "bytes_processed": jobs.bytes_processed,
        "job_ids": jobs.ids,
    }


def _ensure(options: Options) -> str:
    """Makes what is missing and returns the dataset's location."""
    from orchestration.prepared_tables import DEAD_LETTERS, ORDERS, ensure_dataset
    from pipelines.bigquery_tables import ensure

    started = time.monotonic()
    orders = options.orders_table
    dataset = ensure_dataset(options.project, orders.project, orders.dataset, options.location, options.labels)
    for table, layout in ((orders, ORDERS), (options.dead_letters_table, DEAD_LETTERS)):
        ensure(options.project, table, layout, str(table), replaced=options.replace)
    say(1, f"dataset {orders.project}.{orders.dataset} in {dataset.location}, its tables", started)
    return str(dataset.location)


def _counts(rows: Any) -> Counter[str]:
    return Counter({row["reason"]: row["order_lines"] for row in rows})


def _nothing_usable(options: Options, account: Counter[str], loaded: int) -> UsageError:
    """Nothing is put in the place of what is there, unless a day had no line: a column gone null is the likelier cause."""
    reasons = [reason for reason in (*schema.EXCLUDED, *schema.DEAD_LETTERS) if account[reason.name]]
    counts = ", ".join(f"{reason.name} {account[reason.name]:,}" for reason in reasons)
    see = f"; see {options.dead_letters_table}" if any(reason in schema.DEAD_LETTERS for reason in reasons) else ""
    needed = [f"{options.how.columns.get(r.column, r.column)}: {r.accepted}" for r in reasons]
    accepted = "; ".join(["at least one usable line", *needed])
    return UsageError(
        f"--orders {options.orders!r} has {loaded:,} lines, none of them usable{f' ({counts}{see})' if reasons else ''}: "
        f"{options.orders_table} stays as it was; accepted is {accepted}"
    )


def _reconcile(loaded: int, account: Counter[str], excluded: Counter[str], written: Counter[str]) -> None:
    """Every line loaded is in the account, and what the account calls for is in the tables.

    Raises:
      NotReconciled: they differ.
    """
    accounted = account.total() + excluded.total()
    if loaded != accounted or +account != +written:
        raise NotReconciled(
            f"{loaded:,} lines were loaded, {accounted:,} accounted for ({dict(+account)}, excluded {dict(+excluded)}), and "
            f"the tables hold {dict(+written)}: was the same day prepared twice at a time? Run it again"
        )


if __name__ == "__main__":
    sys.exit(main())
