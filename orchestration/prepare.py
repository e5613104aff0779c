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

A file that is not there yet, in a bucket that exists, ends it with 1, as does all that may pass by itself: the same
command may be tried again. What a person has to mend (an argument, a file, a right) ends it with 2.

A scheduler may run the three parts one by one, each as often as it likes, with the same other arguments:

    python -m orchestration.prepare ... --only dataset    # the dataset, the tables orders and order_dead_letters
    python -m orchestration.prepare ... --only load       # the files into the raw table
    python -m orchestration.prepare ... --only clean      # raw table -> orders and dead letters; reads no file

Each says what is missing where the part before it did not run, and prints what it knows as a JSON object. Which column
is which, and of which day the lines are, stands in the raw table, in the descriptions of its columns: --only clean
refuses another day's lines, which it would find with --replace where another day was loaded meanwhile.
`snapshot_time` is BigQuery's time when the orders were written and counted: what is given it as --snapshot_time reads
these orders, whatever is loaded later.

The tables' partitions stay: a table that expires is refused, whether by itself or by its dataset's default.

Ctrl-C and SIGTERM cancel the job that runs. What is killed without a word (SIGKILL, a lost machine) leaves its job to
BigQuery, where it may still end and replace what a run started meanwhile has written: look at the jobs labelled
step=prepare, or run the day once more when they are done.

For a shop whose export is always its whole history, --replace replaces the tables whole (the raw table is then
raw_orders), so that nothing is counted twice.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestration import prepare_options
from orchestration.prepare_jobs import Jobs, say
from orchestration.prepare_options import CLEAN, DATASET, LOAD, Options
from transforms.cli import exit_code

if TYPE_CHECKING:
    from orchestration.prepare_raw import Loaded
    from orchestration.prepare_sql import Statements
    from orchestration.raw_orders import RawOrders


def main(argv: list[str] | None = None) -> int:
    with _terminable():
        return exit_code(lambda: run(argv))


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, by which schedulers stop a task, interrupts as Ctrl-C does, once."""

    def interrupt(*_: object) -> None:
        # Schedulers send it again: the jobs are being called off, which the first one asked for.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prepares the day's orders, or one part of that, prints the account as one JSON object and returns it.

    Raises:
      UsageError: a bad argument or file, a part that has to run before, or BigQuery refuses a job.
      JobFailed: there is no file yet, or Cloud Storage fails for the time being.
      NotReconciled: lines were lost or doubled.
    """
    options = prepare_options.parse(argv, __doc__)
    if options.print_sql:
        return _print_sql(options)
    result = _prepare(options)
    print(json.dumps(result))
    return result


def _print_sql(options: Options) -> dict[str, Any]:
    statements = _statements(options, _files(options) or _loaded(options).raw)
    for name, sql in vars(statements).items():
        print(f"-- {name}\n{sql};\n")
    return dict(vars(statements))


def _files(options: Options) -> RawOrders | None:
    """The files, looked at; None where they are not to be loaded."""
    from orchestration import raw_orders

    return raw_orders.inspect(str(options.orders), options.how) if LOAD in options.parts else None


def _loaded(options: Options) -> Loaded:
    from orchestration import prepare_raw

    return prepare_raw.find(options.project, options.raw_table, options.loaded_on, options.how.columns)


def _statements(options: Options, raw: RawOrders) -> Statements:
    from orchestration import prepare_sql

    return prepare_sql.statements(
        raw, options.raw_table, options.orders_table, options.dead_letters_table, options.loaded_on
    )


def _prepare(options: Options) -> dict[str, Any]:
    raw = _files(options)
    jobs = Jobs(options, _dataset(options))
    result = {
        "dataset": options.dataset,
        "location": jobs.location,
        "tables": {
            "raw": str(options.raw_table),
            "orders": str(options.orders_table),
            "dead_letters": str(options.dead_letters_table),
        },
        "loaded_on": str(options.loaded_on),
    }
    try:
        return {**result, **_run_jobs(options, raw, jobs)}
    except KeyboardInterrupt:
        jobs.cancel()
        raise


def _run_jobs(options: Options, raw: RawOrders | None, jobs: Jobs) -> dict[str, Any]:
    from orchestration import prepare_clean

    result: dict[str, Any] = {}
    loaded = None
    if raw:
        loaded = jobs.load(raw)
        result |= {"files": list(raw.files), "rows_loaded": loaded.rows, "bytes_loaded": raw.bytes}
    if CLEAN in options.parts:
        loaded = loaded or _loaded(options)
        result |= prepare_clean.clean(options, loaded, _statements(options, loaded.raw), jobs)
    return {**result, "job_ids": jobs.ids} if jobs.ids else result


def _dataset(options: Options) -> str:
    """Makes what is missing, or requires it where another part makes it; returns the dataset's location."""
    from orchestration import prepared_tables
    from orchestration.prepared_tables import DEAD_LETTERS, ORDERS

    started = time.monotonic()
    make = DATASET in options.parts
    name = (options.project, options.orders_table.project, options.orders_table.dataset, options.location)
    dataset = prepared_tables.ensure_dataset(*name, options.labels) if make else prepared_tables.require_dataset(*name)
    if make or CLEAN in options.parts:
        hold = prepared_tables.ensure_table if make else prepared_tables.require_table
        for table, layout in ((options.orders_table, ORDERS), (options.dead_letters_table, DEAD_LETTERS)):
            hold(options.project, table, layout, replaced=options.replace)
    if make:
        say(1, f"dataset {options.dataset} in {dataset.location}, its tables", started)
    return str(dataset.location)


if __name__ == "__main__":
    sys.exit(main())
