"""The BigQuery jobs of one preparation: named, labelled, told of one by one, and called off when it is interrupted."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipelines import bigquery
from pipelines.bigquery import Load, Query, Table
from transforms.errors import UsageError

if TYPE_CHECKING:
    import datetime

    from orchestration.prepare_options import Options
    from orchestration.prepare_raw import Loaded
    from orchestration.raw_orders import RawOrders
    from pipelines.bigquery_tables import Layout

_STEPS = 6


@dataclass
class Jobs:
    """The jobs of one run.

    Their ids hold a word of this process: a request whose answer was lost finds its own job again, but a
    later run never takes an older job's success, since when somebody may have changed the table, for its own.
    ``ids`` are by step; ``started`` is when BigQuery, by its own clock, began the last query.
    """

    options: Options
    location: str
    ids: dict[str, str] = field(default_factory=dict)
    started: datetime.datetime | None = None
    bytes_processed: int = 0
    word: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def load(self, raw: RawOrders) -> Loaded:
        """Loads the files into the raw table."""
        from orchestration import prepare_raw

        started = time.monotonic()
        table, columns = self.options.raw_table, self.options.how.columns
        fields = prepare_raw.described(raw, columns, self.options.loaded_on)
        common = (self.options.project, raw.uris, table, fields, raw.settings, self.location)
        try:
            job = bigquery.run_load(Load(self._name("load"), *common, self._labels("load")))
        except UsageError as error:
            hint = f"; accepted are lines of {len(raw.fields)} fields, as the header" if raw.empty_is_null else ""
            more = f" and {len(raw.uris) - 1} more" if len(raw.uris) > 1 else ""
            raise UsageError(f"{raw.uris[0]}{more}: {error}{hint}") from error
        self.ids["load"] = str(job.job_id)
        rows = int(job.output_rows or 0)
        prepare_raw.mark(self.options.project, table, fields, rows)
        say(2, f"{len(raw.uris)} files into {table}", started, rows, raw.bytes)
        return prepare_raw.Loaded(raw, rows, columns, f"--orders {self.options.orders!r}")

    def query(self, number: int, step: str, sql: str, target: Table | None = None, layout: Layout | None = None) -> Any:
        """Runs a query, into a table's partition or to be read, and returns its rows."""
        started = time.monotonic()
        query = Query(
            self._name(step), self.options.project, sql, self.location, self._labels(step),
            self.options.maximum_bytes_billed, target, layout.partitioned_by if layout else None,
            layout.clustered_by if layout else (),
        )  # fmt: skip
        job = bigquery.run(query)
        rows = job.result()
        self.ids[step] = str(job.job_id)
        if job.started is None:  # the end of a query may be told before its times are
            job.reload()
        self.started = job.started
        self.bytes_processed += int(job.total_bytes_processed or 0)
        where = f" into {target}" if target else ""
        say(number, step.replace("_", " ") + where, started, rows.total_rows, job.total_bytes_processed)
        return rows

    def cancel(self) -> None:
        """Asks BigQuery to stop what this run has begun: it could end after the next run's, in the place of its rows.

        Best effort: a job that is about to end may still do so, and errors are told, not raised.
        """
        from google.api_core.exceptions import GoogleAPICallError

        client = bigquery.client(self.options.project)
        try:
            for state in ("pending", "running"):
                for job in client.list_jobs(state_filter=state):
                    if f"-{self.word}-" in str(job.job_id):
                        client.cancel_job(job.job_id, location=self.location)
                        print(f"cancelled: {job.job_id}", file=sys.stderr)
        except GoogleAPICallError as error:
            print(f"not cancelled: {bigquery.message(error)}", file=sys.stderr)

    def _name(self, step: str) -> str:
        return f"clv-prepare-{step}-{self.options.loaded_on:%Y%m%d}-{self.word}"

    def _labels(self, step: str) -> dict[str, str]:
        return {"step": "prepare", "job": step, "loaded_on": str(self.options.loaded_on), **self.options.labels}


def say(number: int, what: str, started: float, rows: int | None = None, size: int | None = None) -> None:
    amounts = "" if rows is None else f" {rows:,} rows, {size or 0:,} bytes,"
    print(f"[{number}/{_STEPS}] {what}:{amounts} {time.monotonic() - started:.1f} s", file=sys.stderr)
