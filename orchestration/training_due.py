"""Whether a training is due: the days since the last one and the orders that came since, at the price of one small query.

    python -m orchestration.training_due --orders_table bigquery://my-project.shop.orders --registry gs://shop/registry \\
        --horizon_days 123 --on 2011-08-08 --every_days 7 --after_new_orders 100000

Due is a training when none took place yet, when --every_days have passed since the last one, or when --after_new_orders
order lines have come since; never without an order. The answer is one JSON object, and the exit code is 0 both ways:

    {"due": true, "reason": "...", "new_orders": 1234, "last_trained_on": "2011-08-01", "first_day": "2010-12-01",
     "snapshot_time": "2011-08-08T04:00:12.345678Z"}

due              whether to train
reason           why, or why not, for a person
new_orders       order lines loaded after last_trained_on (all there are where that is null), up to --on
last_trained_on  the day up to which the newest registered version of this horizon knew the orders; null: there is none
first_day        the first day of an order, for the snapshots to train on; null where there is no order
snapshot_time    BigQuery's time of the count: as --snapshot_time of the pipelines it means the orders counted here

What took place is told by the registry, whether the version became champion or not: a version judged on a snapshot of
some cutoff knew the orders up to a horizon later. No clock is asked: --on is the run's date. Versions of other
horizons do not count. A training beyond --on (a day in the past is run once more) counts as done. A table that
orchestration.prepare --replace writes has all its orders anew every day: let the days alone decide there.

The query reads loaded_on and order_day of the partitions up to --on: 16 bytes an order line, 16 GB for a billion, and
BigQuery's least of 10 MB.
"""

from __future__ import annotations

import datetime
import json
import sys
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestration import cloud_storage
from pipelines import bigquery
from pipelines import options as shared
from pipelines.bigquery import Query, Table
from transforms.cli import ArgumentParser, exit_code, whole_number
from transforms.errors import UsageError

if TYPE_CHECKING:
    import argparse

_LABELS = {"step": "training_due"}
_LOADED_ON, _ORDER_DAY = "loaded_on", "order_day"


@dataclass(frozen=True)
class Rule:
    """When a training is due on the day ``on``; ``after_new_orders`` None: however many orders have come."""

    on: datetime.date
    every_days: int
    after_new_orders: int | None = None


@dataclass(frozen=True)
class Orders:
    """The order lines loaded up to a day: all, those loaded after the last training, the first order day of all."""

    lines: int
    new: int
    first_day: datetime.date | None
    counted_at: datetime.datetime


def decide(rule: Rule, last: datetime.date | None, orders: Orders) -> tuple[bool, str]:
    """Whether a training is due, and why (not).

    Args:
      last: the day of the last training; None where there was none.
    """
    if not orders.lines:
        return False, f"no order is loaded up to {rule.on}"
    if last is None:
        return True, "no version of this horizon is registered yet"
    passed = (rule.on - last).days
    if passed < 0:
        return False, f"the last training was on {last}, after {rule.on}"
    days = f"{passed} of {rule.every_days} days have passed since the training on {last}"
    if passed >= rule.every_days:
        return True, days
    if rule.after_new_orders is None:
        return False, days
    came = f"{orders.new:,} of {rule.after_new_orders:,} new orders have come since the training on {last}"
    return (True, came) if orders.new >= rule.after_new_orders else (False, f"{days}, and {came}")


def last_trained_on(versions: Iterable[Mapping[str, Any]], horizon_days: int) -> datetime.date | None:
    """The latest day up to which a version of this horizon knew the orders.

    Args:
      versions: entries of the registry.
    """
    cutoffs = [v["evaluation_cutoff"] for v in versions if v["horizon_days"] == horizon_days]
    return max((datetime.date.fromisoformat(c) + datetime.timedelta(horizon_days) for c in cutoffs), default=None)


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the answer of ``check`` as one JSON object and returns it."""
    answer = check(argv)
    print(json.dumps(answer))
    return answer


def check(argv: list[str] | None = None) -> dict[str, Any]:
    """The answer, as the module's text describes it.

    Raises:
      UsageError: a bad argument, a registry in no bucket, or a table without the columns of prepared orders.
      JobFailed: BigQuery or Cloud Storage fails for the time being.
    """
    parsed = _parser().parse_args(argv)
    table = Table.parse("--orders_table", parsed.orders_table)
    last = last_trained_on(_versions(parsed.registry), parsed.horizon_days)
    with bigquery.patience(f"--orders_table {parsed.orders_table}"):
        orders = count(parsed.project or table.project, table, parsed.on, last, parsed.maximum_bytes_billed)
    due, reason = decide(Rule(parsed.on, parsed.every_days, parsed.after_new_orders), last, orders)
    return {
        "due": due,
        "reason": reason,
        "new_orders": orders.new,
        "last_trained_on": last and str(last),
        "first_day": orders.first_day and str(orders.first_day),
        "snapshot_time": orders.counted_at.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z"),
    }


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser("python -m orchestration.training_due", description=__doc__)
    add = parser.add_argument
    add("--orders_table", required=True, metavar="TABLE",
        help="the orders that orchestration.prepare keeps: bigquery://project.dataset.table")  # fmt: skip
    add("--registry", required=True, metavar="URI", help="the registry's directory, local or gs://; it may be empty")
    add("--horizon_days", type=shared.days, required=True, metavar="N", help="the horizon of the models in question")
    add("--on", type=shared.date, required=True, metavar="DATE", help="the run's date, YYYY-MM-DD")
    add(
        "--every_days",
        type=whole_number(1),
        required=True,
        metavar="N",
        help="due so many days after the last training",
    )
    add("--after_new_orders", type=whole_number(1), metavar="M",
        help="due earlier when so many order lines were loaded since (default: the days alone decide)")  # fmt: skip
    add("--project", help="the project whose quota and bill the query is on (default: the table's)")
    add("--maximum_bytes_billed", type=whole_number(1), metavar="BYTES",
        help="most bytes the query may bill; a larger one fails without cost (default: no limit)")  # fmt: skip
    return parser


def _versions(registry: str) -> list[dict[str, Any]]:
    from trainer.registry_store import Registry

    with cloud_storage.explained("--registry", registry):
        versions = Registry(registry).versions()
    if not versions:  # a mistyped place must not look like one where nobody has trained yet
        cloud_storage.require_bucket("--registry", registry)
    return versions


def count(
    project: str, table: Table, on: datetime.date, last: datetime.date | None, maximum_bytes_billed: int | None = None
) -> Orders:
    """Counts the orders loaded up to a day and since the last training, in one query.

    It bills ``loaded_on`` and ``order_day`` of the partitions up to ``on``: 16 bytes an order line.

    Args:
      project: pays for it.
      last: the day of the last training; None: every order is new.

    Raises:
      UsageError: the table is missing or has not these columns, or BigQuery refuses the query.
    """
    name = f"clv-training-due-{on:%Y%m%d}-{uuid.uuid4().hex[:12]}"  # a new count each time
    about = f"--orders_table {table}"
    location = _location(project, table, about)
    query = Query(name, project, count_sql(table, on, last), location, _LABELS, maximum_bytes_billed, about=about)
    (row,) = bigquery.run(query).result()
    return Orders(row["order_lines"], row["new_lines"], row["first_day"], row["counted_at"])


def count_sql(table: Table, on: datetime.date, last: datetime.date | None) -> str:
    """The query: one row of ``order_lines, new_lines, first_day, counted_at``."""
    new = f"COUNTIF({_LOADED_ON} > DATE '{last}')" if last else "COUNT(*)"
    return (
        f"SELECT COUNT(*) AS order_lines, {new} AS new_lines, MIN({_ORDER_DAY}) AS first_day, "
        f"CURRENT_TIMESTAMP() AS counted_at FROM {table.sql} WHERE {_LOADED_ON} <= DATE '{on}'"
    )


def _location(project: str, table: Table, about: str) -> str:
    """Where the table is.

    Raises:
      UsageError: it is missing, or not one of prepared orders.
    """
    with bigquery.explained(about):
        found = bigquery.client(project).get_table(table.reference)
    types = {field.name: field.field_type for field in found.schema}
    for column in (_LOADED_ON, _ORDER_DAY):
        if types.get(column) != "DATE":
            raise UsageError(
                f"{about} has {f'{column} as {types[column]}' if column in types else f'no column {column}'}: accepted is a "
                f"table of orchestration.prepare, with the DATE columns {_LOADED_ON} and {_ORDER_DAY}"
            )
    return str(found.location)


if __name__ == "__main__":
    sys.exit(main())
