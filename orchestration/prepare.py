"""Order files in Cloud Storage -> clean, partitioned orders in BigQuery, by BigQuery's own jobs.

    python -m orchestration.prepare --orders 'gs://my-bucket/2011-08-08/*.csv.gz' --dataset my-project.shop \\
        --loaded_on 2011-08-08

Makes the dataset and the tables when they are missing, loads the files into the day's raw table
(raw_orders_20110808), sets unusable lines aside in order_dead_letters with the reason, and writes the others to
orders, partitioned by loaded_on: `pipelines.features --orders bigquery://my-project.shop.orders` reads them.
Each job replaces what it writes, the day's partition alone, in one step: the same command may run again at any
time, after a failure or with mended files, and other days stay as they are. Every line is accounted for: raw lines =
orders + dead letters + excluded (lines without a customer), or the exit code is 1. A CSV line with more or fewer
fields than the header is no line at all: it fails the load, which names it.

For a shop whose export is always its whole history, --replace replaces the tables whole (the raw table is then
raw_orders), so that nothing is counted twice.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipelines import bigquery
from pipelines import options as shared
from pipelines.bigquery import Load, Query, Table
from pipelines.order_files import OrdersFormat
from transforms import schema
from transforms.cli import ArgumentParser, exit_code, whole_number
from transforms.errors import JobFailed, UsageError, rejected

if TYPE_CHECKING:
    from orchestration.prepare_sql import Statements
    from orchestration.prepared_tables import Layout
    from orchestration.raw_orders import RawOrders

_LABEL = re.compile(r"([a-z][a-z0-9_-]{0,62})=([a-z0-9_-]{0,63})")
_STEPS = 6


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
    return exit_code(lambda: run(argv))


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
        labels=_labels(parsed.labels),
        print_sql=parsed.print_sql,
    )


def _labels(text: str | None) -> dict[str, str]:
    pairs = [_LABEL.fullmatch(part.strip()) for part in text.split(",")] if text else []
    if not all(pairs):
        raise rejected("--labels", text, "key=value,... of lower-case letters, digits, _ and -, such as team=crm")
    return {pair[1]: pair[2] for pair in pairs if pair}


@dataclass
class _Jobs:
    """The jobs of one run, told of one by one.

    Their ids hold a word of this process: a request whose answer was lost finds its own job again, but a
    later run never takes an older job's success, since when somebody may have changed the table, for its own.
    """

    options: Options
    location: str
    ids: dict[str, str] = field(default_factory=dict)
    bytes_processed: int = 0
    word: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def load(self, raw: RawOrders) -> int:
        """Loads the files into the raw table and returns the number of lines."""
        started = time.monotonic()
        common = (self.options.project, raw.uris, self.options.raw_table, raw.fields, raw.settings, self.location)
        try:
            job = bigquery.run_load(Load(self._name("load"), *common, self._labels("load")))
        except UsageError as error:
            hint = f"; accepted are lines of {len(raw.fields)} fields, as the header" if raw.empty_is_null else ""
            more = f" and {len(raw.uris) - 1} more" if len(raw.uris) > 1 else ""
            raise UsageError(f"{raw.uris[0]}{more}: {error}{hint}") from error
        self.ids["load"] = str(job.job_id)
        rows = int(job.output_rows or 0)
        say(2, f"{len(raw.uris)} files into {self.options.raw_table}", started, rows, raw.bytes)
        return rows

    def query(self, number: int, step: str, sql: str, target: Table | None = None, layout: Layout | None = None) -> Any:
        """Runs a query, into a table's partition or to be read, and returns its rows."""
        from orchestration.prepared_tables import PARTITION

        started = time.monotonic()
        query = Query(
            self._name(step), self.options.project, sql, self.location, self._labels(step),
            self.options.maximum_bytes_billed, target, PARTITION if target else None,
            layout.clustered_by if layout else (),
        )  # fmt: skip
        job = bigquery.run(query)
        rows = job.result()
        self.ids[step] = str(job.job_id)
        self.bytes_processed += int(job.total_bytes_processed or 0)
        where = f" into {target}" if target else ""
        say(number, step.replace("_", " ") + where, started, rows.total_rows, job.total_bytes_processed)
        return rows

    def _name(self, step: str) -> str:
        return f"clv-prepare-{step}-{self.options.loaded_on:%Y%m%d}-{self.word}"

    def _labels(self, step: str) -> dict[str, str]:
        return {"step": "prepare", "job": step, "loaded_on": str(self.options.loaded_on), **self.options.labels}


def say(number: int, what: str, started: float, rows: int | None = None, size: int | None = None) -> None:
    amounts = "" if rows is None else f" {rows:,} rows, {size or 0:,} bytes,"
    print(f"[{number}/{_STEPS}] {what}:{amounts} {time.monotonic() - started:.1f} s", file=sys.stderr)


def _prepare(options: Options, raw: RawOrders, statements: Statements) -> dict[str, Any]:
    from orchestration.prepare_sql import USABLE
    from orchestration.prepared_tables import DEAD_LETTERS, ORDERS, describe

    jobs = _Jobs(options, _ensure(options))
    loaded = jobs.load(raw)
    account = _counts(jobs.query(3, "account", statements.account))
    excluded = Counter({reason.name: account.pop(reason.name, 0) for reason in schema.EXCLUDED})
    dead_letters, orders = (
        replace(table, partition=options.partition) for table in (options.dead_letters_table, options.orders_table)
    )
    jobs.query(4, "dead_letters", statements.dead_letters, dead_letters, DEAD_LETTERS)
    _require_orders(options, account[USABLE], +account, loaded)
    jobs.query(5, "orders", statements.orders, orders, ORDERS)
    describe(options.project, options.dead_letters_table, DEAD_LETTERS)
    describe(options.project, options.orders_table, ORDERS)
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
    from orchestration.prepared_tables import DEAD_LETTERS, ORDERS, ensure_dataset, ensure_table

    started = time.monotonic()
    orders = options.orders_table
    dataset = ensure_dataset(options.project, orders.project, orders.dataset, options.location, options.labels)
    for table, layout in ((orders, ORDERS), (options.dead_letters_table, DEAD_LETTERS)):
        ensure_table(options.project, table, layout, replace=options.replace)
    say(1, f"dataset {orders.project}.{orders.dataset} in {dataset.location}, its tables", started)
    return str(dataset.location)


def _counts(rows: Any) -> Counter[str]:
    return Counter({row["reason"]: row["order_lines"] for row in rows})


def _require_orders(options: Options, usable: int, account: Counter[str], loaded: int) -> None:
    """Refuses, before the orders are touched, to put nothing in the place of what is there.

    A day without a line, or with lines of unknown customers only, is a day like others.
    """
    if not usable and (account or options.replace):
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in sorted(account.items())) or "nothing to blame"
        raise UsageError(
            f"--orders {options.orders!r} has {loaded:,} lines, none of them usable ({reasons}; see "
            f"{options.dead_letters_table}): {options.orders_table} stays as it was; accepted is at least one order line"
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
