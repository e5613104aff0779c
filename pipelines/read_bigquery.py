"""BigQuery inside Beam: queries that run once, and their results as Arrow batches from parallel read streams.

    query --RunQuery--> Rows --OpenSession--> streams --Reshuffle--> ReadStream --> record batches

Beam's own source turns every cell into a Python object; pages of the Storage Read API are Arrow already.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.pvalue import AsSingleton, PCollection

from pipelines import bigquery, orders_source
from pipelines.bigquery import Query, Table
from transforms import progress
from transforms.errors import UsageError, one_line
from transforms.pushdown import ACTIVITY_COLUMNS, FATE, LINES

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.bigquery_orders import BigQueryOrders

_LOG = logging.getLogger(__name__)
# BigQuery's pages have some 1,000 rows: DuckDB's cost per query would be most of the work (20 times as much, measured).
BATCH_ROWS = 65_536
STAGED_HOURS = 24  # as long as BigQuery keeps the results it names itself


@dataclass(frozen=True)
class Rows:
    """Which rows and columns of a table to read, as of when, and how many there are where that is known."""

    table: Table
    project: str
    columns: tuple[tuple[str, str], ...] = ()  # (name in the table, name here); all when empty
    restriction: str = ""
    snapshot_time: datetime.datetime | None = None
    count: int | None = None

    def named(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        names = dict(self.columns)
        return batch.rename_columns([names.get(name, name) for name in batch.schema.names])


def open_session(rows: Rows) -> Any:
    """A read session on the rows: its streams hold each of them once, and last for six hours.

    Raises:
      UsageError: the table is missing or cannot be read; one line with its name.
    """
    from google.cloud.bigquery_storage_v1 import types

    lz4 = types.ArrowSerializationOptions.CompressionCodec.LZ4_FRAME
    options = types.ReadSession.TableReadOptions(
        selected_fields=[name for name, _ in rows.columns],
        row_restriction=rows.restriction,
        # Over a network the bytes cost more than their decompression.
        arrow_serialization_options=types.ArrowSerializationOptions(buffer_compression=lz4),
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
      UsageError: the session has ended before the stream did, or the rows may not be read.
    """
    import pyarrow as pa
    from google.api_core import exceptions

    columns: pa.Schema | None = None
    pages: list[pa.RecordBatch] = []
    held = 0  # rows
    try:
        # Iterated itself, not its pages: the stream goes on after the last row that came when a connection breaks.
        for message in bigquery.storage_client().read_rows(stream):
            if columns is None:  # only a stream's first message tells them
                columns = pa.ipc.read_schema(pa.py_buffer(message.arrow_schema.serialized_schema))
            page = pa.ipc.read_record_batch(pa.py_buffer(message.arrow_record_batch.serialized_record_batch), columns)
            pages.append(page)
            held += page.num_rows
            if held >= BATCH_ROWS:
                yield rows.named(pa.concat_batches(pages))
                pages, held = [], 0
        if pages:
            yield rows.named(pa.concat_batches(pages))
    except (exceptions.NotFound, exceptions.FailedPrecondition) as error:
        raise UsageError(
            f"reading {rows.table}: its read session has ended before all rows were read (sessions last six hours): "
            f"run the step again, with more workers; BigQuery says: {one_line(error.message)}"
        ) from error
    except exceptions.ClientError as error:
        if bigquery.may_pass(error):
            raise
        raise UsageError(f"reading {rows.table}: {bigquery.message(error)}") from error


class RunQuery(beam.DoFn):
    """Query -> the rows of its result. A table it names for the result goes by itself after a day."""

    def process(self, query: Query) -> Iterator[Rows]:
        if query.destination:
            _create_staged(query.project, query.destination)
        job = bigquery.run(query)
        _LOG.info(
            "query %s: %s bytes scanned, %s billed", job.job_id, job.total_bytes_processed, job.total_bytes_billed
        )
        yield Rows(Table.of(job.destination), query.project, count=job.result().total_rows)


def _create_staged(project: str, table: Table) -> None:
    from google.cloud import bigquery as google

    made = google.Table(table.reference)
    made.expires = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=STAGED_HOURS)
    with bigquery.explained(str(table)):
        bigquery.client(project).create_table(made, exists_ok=True)


class _OpenSession(beam.DoFn):
    def process(self, rows: Rows) -> Iterator[tuple[Rows, str]]:
        for stream in open_session(rows).streams:
            yield rows, stream.name


class _ReadStream(beam.DoFn):
    def __init__(self, unit: str, total: int | None) -> None:
        self.unit, self.total = unit, total

    def process(self, element: tuple[Rows, str]) -> Iterator[pa.RecordBatch]:
        for batch in plain_batches(*element):
            yield batch
            progress.advance(self.unit, batch.num_rows, self.total)


def plain_batches(rows: Rows, stream: str) -> Iterator[pa.RecordBatch]:
    """As ``read_stream``, in the types that sources of orders have.

    Raises:
      UsageError: as ``read_stream``.
    """
    import pyarrow as pa

    for batch in read_stream(rows, stream):
        yield pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], batch.schema.names)


def _plain(column: pa.Array) -> pa.Array:
    """``orders_source.plain``; BigQuery's BIGNUMERIC as text: DuckDB has no decimals of 76 digits."""
    import pyarrow as pa

    return column.cast(pa.string()) if pa.types.is_decimal256(column.type) else orders_source.plain(column)


def read(
    rows: PCollection[Rows], label: str, *, unit: str = "rows", total: int | None = None
) -> PCollection[pa.RecordBatch]:
    """Adds the reading of the rows to their pipeline: batches in any order.

    Args:
      label: distinguishes the transforms' names.
      unit: what the rows are, for the progress display, where ``total`` of them are expected.
    """
    return streams(rows, label) | f"ReadStreams{label}" >> beam.ParDo(_ReadStream(unit, total))


def streams(rows: PCollection[Rows], label: str) -> PCollection[tuple[Rows, str]]:
    """The rows with the names of the streams that together hold each of them once, spread over the workers."""
    return rows | f"OpenSession{label}" >> beam.ParDo(_OpenSession()) | f"SpreadStreams{label}" >> beam.Reshuffle()


def order_rows(
    pipeline: beam.Pipeline, source: BigQueryOrders, attempt: str, labels: dict[str, str], names: Sequence[str]
) -> PCollection[Rows]:
    """The orders of a table, or of a query's result: one element.

    Args:
      names: our names of the columns that are wanted.
    """
    if source.table:
        columns = tuple((source.columns.get(name, name), name) for name in names)
        return pipeline | "Table" >> beam.Create(
            [Rows(source.table, source.project, columns, snapshot_time=source.snapshot_time)]
        )
    query = source.query(f"clv-orders-{attempt}", source.select, labels)
    rows = pipeline | "Query" >> beam.Create([query]) | "RunQuery" >> beam.ParDo(RunQuery())
    if list(names) == source.schema.names:
        return rows
    return rows | "Columns" >> beam.Map(
        lambda found, names: replace(found, columns=names), tuple((n, n) for n in names)
    )


def require_all(rows: PCollection[Rows], batches: PCollection[pa.RecordBatch], label: str) -> PCollection[Any]:
    """Adds the check that all of the rows were read, where it is known how many there are.

    A stream that ends early without an error would make an output that looks complete.

    Returns:
      Nothing, once that is so: what must not happen before waits for it.
    """
    read = (
        batches
        | f"RowsOf{label}" >> beam.Map(lambda batch: batch.num_rows)
        | f"SumRows{label}" >> beam.CombineGlobally(sum)
    )
    return rows | f"RequireAll{label}" >> beam.FlatMap(_require_all, AsSingleton(read))


def _require_all(rows: Rows, read: int) -> list[Any]:
    if rows.count is not None and rows.count != read:
        raise UsageError(f"reading {rows.table}: {read} of its {rows.count} rows came: run the step again")
    return []


def read_others(rows: Rows) -> pa.Table:
    """The rows of a pushdown's result that are no customers: its fates and its activity."""
    import pyarrow as pa

    columns = tuple((name, name) for name in (FATE, LINES, *ACTIVITY_COLUMNS))
    few = replace(rows, columns=columns, restriction=f"{FATE} IS NOT NULL")
    return pa.Table.from_batches(
        [batch for stream in open_session(few).streams for batch in read_stream(few, stream.name)]
    )
