"""Starts the tests' BigQuery emulator, made to answer at the size and with the completeness of BigQuery itself.

Run by the Python of the emulators' environment, with the emulator's arguments, in place of
``tests/emulators/bigquery_server.py``, which it ends in. What differs, for the contestants' sake:

- Pages of the Storage Read API hold ``PAGE_ROWS`` rows. The emulator's own hold 100,000, which would flatter
  whoever works a page at a time.
- Avro exports are whole: DuckDB 1.5.5 loses the first rows of a file of more than one chunk (16 of 20,000
  orders). They have BigQuery's Avro types and are written in Python, whose time no contestant pays.
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro  # type: ignore[import-untyped]
import pyarrow as pa
from google.cloud.bigquery_storage_v1 import types
from local_bigquery.engine import types as engine_types  # type: ignore[import-not-found]
from local_bigquery.grpc import read  # type: ignore[import-not-found]
from local_bigquery.jobs import extract, storage  # type: ignore[import-not-found]

PAGE_ROWS = "PAGE_ROWS"  # the environment variable
SERVER = Path(__file__).resolve().parent.parent / "tests" / "emulators" / "bigquery_server.py"
# Beam pays for every block anew: large ones are to its advantage.
_AVRO_BLOCK_BYTES = 1 << 20


def teach_page_rows(page_rows: int) -> None:
    """Cuts the answers to ReadRows into pages; as in BigQuery, only a stream's first carries the schema."""
    read_rows = read.read_rows

    def read_pages(request: Any) -> Iterator[Any]:
        sent = False
        for answer in read_rows(request):
            schema = pa.ipc.read_schema(pa.py_buffer(answer.arrow_schema.serialized_schema))
            rows = pa.py_buffer(answer.arrow_record_batch.serialized_record_batch)
            batch = pa.ipc.read_record_batch(rows, schema)
            for start in range(0, batch.num_rows, page_rows):
                page = batch.slice(start, page_rows)
                yield types.ReadRowsResponse(
                    row_count=page.num_rows,
                    arrow_record_batch=types.ArrowRecordBatch(serialized_record_batch=page.serialize().to_pybytes()),
                    arrow_schema=None if sent else answer.arrow_schema,
                )
                sent = True

    read.read_rows = read_pages


def teach_whole_avro() -> None:
    """Makes exports and extract jobs write Avro row by row, with the types of BigQuery's own files."""
    write = extract.write

    def write_whole(cursor: Any, query: str, parameters: dict, config: Any) -> int:
        if (config.destinationFormat or "").upper() != "AVRO":
            return int(write(cursor, query, parameters, config))
        relation = cursor.sql(query, params=parameters or None)
        fields = [engine_types.field(*column) for column in zip(relation.columns, relation.types, strict=True)]
        schema = {"type": "record", "name": "Root", "fields": [read._avro_field(field) for field in fields]}
        rows = relation.to_arrow_table()
        for uri in config.destinationUris:
            with storage.written(uri.replace("*", "000000000000")) as target, open(target, "wb") as file:
                records = (row for batch in rows.to_batches(max_chunksize=10_000) for row in batch.to_pylist())
                fastavro.writer(file, schema, records, sync_interval=_AVRO_BLOCK_BYTES)
        return int(rows.num_rows)

    extract.write = write_whole


if __name__ == "__main__":
    teach_page_rows(int(os.environ[PAGE_ROWS]))
    teach_whole_avro()
    runpy.run_path(str(SERVER), run_name="__main__")
