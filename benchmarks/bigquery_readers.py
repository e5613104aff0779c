"""The three ways to read a BigQuery table in Beam, each with the same aggregation behind it.

Beam's source follows none of the variables that name an emulator: ``redirect_beam`` points it there. No
contestant looks for credentials, and all use one open channel of the Storage API, so that none of the figures
holds what only the emulator's absence of a sign-in would cost.
"""

from __future__ import annotations

import os
import time
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import PCollection

from benchmarks import spend
from pipelines import bigquery, read_bigquery
from pipelines.bigquery import Table

OURS, DIRECT_READ, EXPORT = "ours", "direct_read", "export"


class Moment(NamedTuple):
    """Seconds of the wall clock, and of this process's CPU with all its threads."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Moment:
        return cls(time.perf_counter(), time.process_time())


# Workers run in this process, but a DoFn reaches them pickled: only a module's own state is shared.
_moments: dict[str, Moment] = {}
_ASKED, _WRITTEN = "asked", "written"


def reading_span() -> tuple[Moment, Moment]:
    """From the first request for rows to the aggregate's file."""
    return _moments[_ASKED], _moments[_WRITTEN]


def note_first_request() -> None:
    """Notes when this process first asks for rows, from the Storage API or from an exported file."""
    from apache_beam.io.gcp.gcsio import GcsIO
    from google.cloud.bigquery_storage_v1.client import BigQueryReadClient

    _note_call(BigQueryReadClient, "read_rows")
    _note_call(GcsIO, "open")


def _note_call(owner: type, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    def noted(*arguments: Any, **named: Any) -> Any:
        _moments.setdefault(_ASKED, Moment.now())
        return original(*arguments, **named)

    setattr(owner, name, noted)


def redirect_beam() -> None:
    """Points Beam's BigQuery source and its Cloud Storage file system, in this process, at the emulators."""
    from apache_beam.internal.gcp import auth
    from apache_beam.io.gcp import bigquery as beam_bigquery
    from apache_beam.io.gcp.internal.clients.bigquery import BigqueryV2
    from google.auth.credentials import AnonymousCredentials

    BigqueryV2.BASE_URL = os.environ["BIGQUERY_EMULATOR_HOST"] + "/bigquery/v2/"
    beam_bigquery.bq_storage = types.SimpleNamespace(
        BigQueryReadClient=bigquery.storage_client, types=beam_bigquery.bq_storage.types
    )
    auth._Credentials._credentials = auth._ApitoolsCredentialsAdapter(AnonymousCredentials())
    auth._Credentials._credentials_init = True


def build(pipeline: beam.Pipeline, reader: str, aggregate: str, table: Table, output: str) -> None:
    """Adds reading, aggregation and the writing of its result, a Parquet file, to the pipeline."""
    if reader == OURS:
        result = _ours(pipeline, aggregate, table)
    else:
        rows = pipeline | beam.io.ReadFromBigQuery(**_beam_source(reader, table))
        result = _of_rows(rows, aggregate)
    result | "Write" >> beam.Map(_write, output)


def _ours(pipeline: beam.Pipeline, aggregate: str, table: Table) -> PCollection[Any]:
    columns = tuple((name, name) for name in spend.COLUMNS)
    rows = pipeline | "Table" >> beam.Create([read_bigquery.Rows(table, table.project, columns)])
    return (
        read_bigquery.read(rows, "Orders", unit="lines")
        | "AggregateBatch" >> beam.Map(spend.of_batch, aggregate)
        | "Combine" >> beam.CombineGlobally(spend.CombineParts(aggregate))
    )


def _beam_source(reader: str, table: Table) -> dict[str, Any]:
    if reader == DIRECT_READ:
        return {
            "method": beam.io.ReadFromBigQuery.Method.DIRECT_READ,
            "table": f"{table.project}:{table.dataset}.{table.table}",
            "selected_fields": list(spend.COLUMNS),
            "use_native_datetime": True,
        }
    # An export has all columns of its table: a query, whose result is exported, spares Beam decoding the others.
    return {
        "method": beam.io.ReadFromBigQuery.Method.EXPORT,
        "query": f"SELECT {', '.join(spend.COLUMNS)} FROM {table.sql}",
        "use_standard_sql": True,
    }


def _of_rows(rows: PCollection[Any], aggregate: str) -> PCollection[Any]:
    if aggregate == spend.TOTAL:
        results = rows | "Combine" >> beam.CombineGlobally(spend.SpendOfRows())
    else:
        keyed = rows | "ByCustomer" >> beam.Map(lambda row: (row["customer_id"], row))
        results = keyed | "Combine" >> beam.CombinePerKey(spend.SpendOfRows())
    return results | "Results" >> beam.combiners.ToList() | "ToTable" >> beam.Map(spend.of_rows, aggregate)


def _write(result: Any, path: str) -> None:
    import pyarrow.parquet as pq

    pq.write_table(result, path)
    _moments[_WRITTEN] = Moment.now()
