"""BigQuery inside Beam: queries that run once, and their results as Arrow batches from parallel read streams.

    query --RunQuery--> Rows --OpenSession--> streams --Reshuffle--> ReadStream --> record batches

Beam's own source turns every cell into a Python object; pages of the Storage Read API are Arrow already.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.pvalue import PCollection

from pipelines import bigquery, orders_source
from pipelines.bigquery import Query, Table
from transforms import progress, schema
from transforms.errors import UsageError
from transforms.pushdown import FATE, LINES

if TYPE_CHECKING:
    import pyarrow as pa

_LOG = logging.getLogger(__name__)
STAGED_HOURS = 24  # as long as BigQuery keeps the results it names itself


@dataclass(frozen=True)
class Rows:
    """Which rows and columns of a table to read, and as of when."""

    table: Table
    project: str
    columns: tuple[tuple[str, str], ...] = ()  # (name in the table, name here); all when empty
    restriction: str = ""
    snapshot_time: datetime.datetime | None = None

    def batches(self, pages: Any) -> Iterator[pa.RecordBatch]:
        names = dict(self.columns)
        for page in pages:
            batch = page.to_arrow()
            yield batch.rename_columns([names.get(name, name) for name in batch.schema.names])


def open_session(rows: Rows) -> Any:
    """A read session on the rows: its streams hold each of them once, and last for six hours.

    Raises:
      UsageError: the table is missing or cannot be read; one line with its name.
    """
    from google.cloud.bigquery_storage_v1 import types

    options = types.ReadSession.TableReadOptions(
        selected_fields=[name for name, _ in rows.columns], row_restriction=rows.restriction
    )
    session = types.ReadSession(table=rows.table.path, data_format=types.DataFormat.ARROW, read_options=options)
    if rows.snapshot_time:
        session.table_modifiers = types.ReadSession.TableModifiers(snapshot_time=rows.snapshot_time)
    with bigquery.explained(f"reading {rows.table}"):
        # Without a wish BigQuery decides how many streams the rows are worth.
        return bigquery.storage_client().create_read_session(parent=f"projects/{rows.project}", read_session=session)


def read_stream(rows: Rows, stream: str) -> Iterator[pa.RecordBatch]:
    """The batches of one stream of a session on the rows; a broken connection is resumed where it broke.

    Raises:
      UsageError: the session has ended before the stream did.
    """
    from google.api_core import exceptions

    try:
        yield from rows.batches(bigquery.storage_client().read_rows(stream).rows().pages)
    except (exceptions.NotFound, exceptions.FailedPrecondition) as error:
        raise UsageError(
            f"reading {rows.table}: its read session has ended before all rows were read (sessions last six hours): "
            f"run the step again, with more workers; BigQuery says: {' '.join(error.message.split())[:300]}"
        ) from error
    except exceptions.ClientError as error:
        raise UsageError(f"reading {rows.table}: {' '.join(error.message.split())[:300]}") from error


@dataclass(frozen=True)
class Pushdown:
    """The query that makes the customers, and the table that keeps them beyond the job, if any.

    ``features`` is the job that copies them there; ``staged`` is where its input is put, next to it: results
    above 10 GB do not fit into the tables that BigQuery names itself.
    """

    customers: Query
    features_table: Table | None = None
    day: datetime.date | None = None
    horizon_days: int | None = None


class RunQuery(beam.DoFn):
    """Query -> the rows of its result."""

    def process(self, query: Query) -> Iterator[Rows]:
        yield _run(query)


def _run(query: Query) -> Rows:
    job = bigquery.run(query)
    _LOG.info("query %s: %s bytes scanned, %s billed", job.job_id, job.total_bytes_processed, job.total_bytes_billed)
    return Rows(Table.of(job.destination), query.project)


class RunPushdown(beam.DoFn):
    """Pushdown -> the rows of its result, after the features table has its partition."""

    def process(self, pushdown: Pushdown) -> Iterator[Rows]:
        query = pushdown.customers
        if pushdown.features_table is None:
            yield _run(query)
            return
        assert query.destination is not None
        _create(query.project, query.destination, hours=STAGED_HOURS)
        rows = _run(query)
        _create_features_table(query.project, pushdown.features_table)
        _run(features_query(pushdown, rows.table))
        yield rows


def features_query(pushdown: Pushdown, staged: Table) -> Query:
    """The job that replaces the cutoff's partition of the features table by the customers of the result."""
    assert pushdown.features_table and pushdown.day
    names = ", ".join(f"`{name}`" for name in schema.names(schema.CUSTOMERS))
    horizon = "NULL" if pushdown.horizon_days is None else str(pushdown.horizon_days)
    return replace(
        pushdown.customers,
        name=pushdown.customers.name.replace("-customers-", "-table-"),
        sql=f"SELECT DATE '{pushdown.day}' AS cutoff, CAST({horizon} AS INT64) AS horizon_days, {names} FROM {staged.sql} "
        f"WHERE {FATE} IS NULL",
        destination=replace(pushdown.features_table, partition=pushdown.day),
        partitioned_by="cutoff",
        clustered_by=("customer_id",),
    )


def _create(project: str, table: Table, *, hours: int) -> None:
    from google.cloud import bigquery as google

    made = google.Table(table.reference)
    made.expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
    with bigquery.explained(str(table)):
        bigquery.client(project).create_table(made, exists_ok=True)


def _create_features_table(project: str, table: Table) -> None:
    from google.cloud import bigquery as google

    columns: list[dict[str, str]] = [
        {"name": "cutoff", "type": "DATE", "description": "features see order days before it, labels those from it on"},
        {"name": "horizon_days", "type": "INT64", "description": "days of the labels; null where there are none"},
        *schema.bigquery_schema(schema.CUSTOMERS),
    ]
    # A query's columns are nullable: a partition of them does not fit into a table that requires values.
    fields = [google.SchemaField.from_api_repr({**column, "mode": "NULLABLE"}) for column in columns]
    made = google.Table(table.reference, fields)
    made.time_partitioning = google.TimePartitioning(field="cutoff")
    made.clustering_fields = ["customer_id"]
    with bigquery.explained(str(table)):
        bigquery.client(project).create_table(made, exists_ok=True)


class _OpenSession(beam.DoFn):
    def __init__(self, restriction: str) -> None:
        self.restriction = restriction

    def process(self, rows: Rows) -> Iterator[tuple[Rows, str]]:
        for stream in open_session(replace(rows, restriction=self.restriction)).streams:
            yield rows, stream.name


class _ReadStream(beam.DoFn):
    def __init__(self, unit: str, total: int | None) -> None:
        self.unit, self.total = unit, total

    def process(self, element: tuple[Rows, str]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch in read_stream(*element):
            yield pa.RecordBatch.from_arrays(
                [orders_source.plain(column) for column in batch.columns], batch.schema.names
            )
            progress.advance(self.unit, batch.num_rows, self.total)


def read(
    rows: PCollection[Rows], label: str, *, restriction: str = "", unit: str = "rows", total: int | None = None
) -> PCollection[pa.RecordBatch]:
    """Adds the reading of the rows to their pipeline: batches in any order.

    Args:
      label: distinguishes the transforms' names.
      restriction: of the rows, a condition as in WHERE.
      unit: what the rows are, for the progress display, where ``total`` of them are expected.
    """
    return (
        rows
        | f"OpenSession{label}" >> beam.ParDo(_OpenSession(restriction))
        | f"SpreadStreams{label}" >> beam.Reshuffle()
        | f"ReadStreams{label}" >> beam.ParDo(_ReadStream(unit, total))
    )


def read_fates(rows: Rows) -> list[tuple[str, int]]:
    """(fate, lines) of a pushdown's result."""
    few = replace(rows, columns=((FATE, FATE), (LINES, LINES)), restriction=f"{FATE} IS NOT NULL")
    batches = [batch for stream in open_session(few).streams for batch in read_stream(few, stream.name)]
    return [(row[FATE], row[LINES]) for batch in batches for row in batch.to_pylist()]
