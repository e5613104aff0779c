"""The three ways in which benchmarks.publish writes the same entities; each returns when all are stored."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import TYPE_CHECKING, Any

from transforms.schema import PREDICTIONS, names

if TYPE_CHECKING:
    import pyarrow as pa

OURS, BEAM, RAW = "ours", "beam", "raw"
EXPIRE_AT = datetime(2100, 1, 1, tzinfo=UTC)
ENTITIES_A_COMMIT = 500
BATCH_ROWS = 65_536  # of a Parquet file, as Arrow's own readers take them


@dataclass(frozen=True)
class Job:
    """What to write where: every row of ``predictions`` (Parquet) into a namespace, with so many commits at once."""

    predictions: str
    project: str
    namespace: str
    in_flight: int

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        import pyarrow.parquet as pq

        yield from pq.ParquetFile(self.predictions).iter_batches(rows)


def prepare(writer: str, job: Job) -> Callable[[], object]:
    """Imports what the writer needs and returns the work that is measured."""
    import pyarrow.parquet  # noqa: F401

    return {OURS: _ours, BEAM: _beam, RAW: _raw}[writer](job)


def _ours(job: Job) -> Callable[[], object]:
    from serving.datastore_client import connect
    from serving.datastore_writer import Writer
    from serving.entity_bytes import Namespace, upserts
    from serving.rate_budget import RateBudget
    from serving.store import utc_now

    writer = Writer(connect(job.project), RateBudget(None, utc_now()), in_flight=job.in_flight)
    at = Namespace(job.project, "", job.namespace)
    upserts(next(job.batches()).slice(0, 0), at, EXPIRE_AT)  # imports what it needs

    def write() -> None:
        for batch in job.batches():
            writer.write(upserts(batch, at, EXPIRE_AT))

    return write


def _beam(job: Job) -> Callable[[], object]:
    """Beam's sink on its in-process runner, which works on one bundle at a time."""
    import apache_beam as beam
    from apache_beam.io.gcp.datastore.v1new.datastoreio import WriteToDatastore
    from apache_beam.io.gcp.datastore.v1new.types import Entity, Key

    from pipelines import run_job
    from pipelines.options import pipeline_options
    from serving.entity_bytes import KIND

    properties = (*names(PREDICTIONS), "expire_at")

    def entities(job: Job) -> Iterator[Entity]:
        for row in _rows(job.batches()):
            key = Key([KIND, row["customer_id"]], project=job.project, namespace=job.namespace)
            entity = Entity(key, exclude_from_indexes=properties)
            entity.set_properties(row)
            yield entity

    pipeline = beam.Pipeline(options=pipeline_options([]))
    written = pipeline | beam.Create([job]) | beam.FlatMap(entities)
    written | WriteToDatastore(job.project, throttle_rampup=False)
    return lambda: run_job.execute(pipeline, "writing")


def _raw(job: Job) -> Callable[[], object]:
    """The plain protobuf classes, a property at a time, and commits from as many threads: no retries, nothing else."""
    import grpc
    from google.cloud.datastore_v1 import types

    Request, Response = types.CommitRequest.pb(), types.CommitResponse.pb()
    channel = grpc.insecure_channel(os.environ["DATASTORE_EMULATOR_HOST"], [("grpc.enable_http_proxy", 0)])
    call = channel.unary_unary(
        "/google.datastore.v1.Datastore/Commit",
        request_serializer=Request.SerializeToString, response_deserializer=Response.FromString,
    )  # fmt: skip
    from serving.entity_bytes import KIND

    def commit(batch: pa.RecordBatch) -> None:
        request = Request(project_id=job.project, mode=Request.NON_TRANSACTIONAL)
        for row in _rows([batch]):
            entity = request.mutations.add().upsert
            entity.key.partition_id.project_id = job.project
            entity.key.partition_id.namespace_id = job.namespace
            element = entity.key.path.add()
            element.kind, element.name = KIND, row["customer_id"]
            for name, given in row.items():
                _set(entity.properties[name], given)
        call(request)

    def write() -> None:
        with ThreadPoolExecutor(job.in_flight) as pool:
            for _ in pool.map(commit, job.batches(ENTITIES_A_COMMIT)):
                pass

    return write


def _rows(batches: Any) -> Iterator[dict[str, Any]]:
    """An entity's properties, a row at a time."""
    for batch in batches:
        for row in batch.to_pylist():
            yield row | {"as_of": datetime.combine(row["as_of"], time(), UTC), "expire_at": EXPIRE_AT}


def _set(value: Any, given: Any) -> None:
    value.exclude_from_indexes = True
    if isinstance(given, float):
        value.double_value = given
    elif isinstance(given, str):
        value.string_value = given
    elif isinstance(given, int):
        value.integer_value = given
    else:
        value.timestamp_value.FromDatetime(given)
