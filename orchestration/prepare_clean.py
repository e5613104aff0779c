"""The cleaning of what was loaded: dead letters, orders, and the proof that every line became one of them or was excluded."""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestration.prepare_options import Options
from transforms import schema
from transforms.errors import JobFailed, UsageError

if TYPE_CHECKING:
    from orchestration.prepare_jobs import Jobs
    from orchestration.prepare_raw import Loaded
    from orchestration.prepare_sql import Statements


class NotReconciled(JobFailed):
    """The lines that came and the lines that were written differ: a defect, or another run of the same day beside this."""


def clean(options: Options, loaded: Loaded, statements: Statements, jobs: Jobs) -> dict[str, Any]:
    """Writes the day's orders and dead letters and returns the account.

    Returns:
      ``rows_loaded, orders, excluded, dead_letters`` (counts by reason), ``snapshot_time`` (ISO 8601, UTC: when BigQuery
      counted what was written) and ``bytes_processed``.

    Raises:
      UsageError: no line is usable, or BigQuery refuses a job.
      NotReconciled: lines were lost or doubled.
    """
    from orchestration.prepare_sql import USABLE
    from orchestration.prepared_tables import DEAD_LETTERS, ORDERS, mend

    account = _counts(jobs.query(3, "account", statements.account))
    refused = (
        _nothing_usable(options, account, loaded) if not account[USABLE] and (loaded.rows or options.replace) else None
    )
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
    assert jobs.started
    _reconcile(loaded.rows, account, excluded, written)
    return {
        "rows_loaded": loaded.rows,
        "orders": written.pop(USABLE, 0),
        "excluded": dict(+excluded),
        "dead_letters": dict(sorted(written.items())),
        "snapshot_time": jobs.started.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z"),
        "bytes_processed": jobs.bytes_processed,
    }


def _counts(rows: Any) -> Counter[str]:
    return Counter({row["reason"]: row["order_lines"] for row in rows})


def _nothing_usable(options: Options, account: Counter[str], loaded: Loaded) -> UsageError:
    """Nothing is put in the place of what is there, unless a day had no line: a column gone null is the likelier cause."""
    reasons = [reason for reason in (*schema.EXCLUDED, *schema.DEAD_LETTERS) if account[reason.name]]
    counts = ", ".join(f"{reason.name} {account[reason.name]:,}" for reason in reasons)
    see = f"; see {options.dead_letters_table}" if any(reason in schema.DEAD_LETTERS for reason in reasons) else ""
    needed = [f"{loaded.columns.get(r.column, r.column)}: {r.accepted}" for r in reasons]
    accepted = "; ".join(["at least one usable line", *needed])
    return UsageError(
        f"{loaded.about} has {loaded.rows:,} lines, none of them usable{f' ({counts}{see})' if reasons else ''}: "
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
