"""Orders in the BigQuery emulator: what the tests of the pipelines over it share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from transforms import storage

if TYPE_CHECKING:
    from google.cloud import bigquery as google

ONLINE_RETAIL = Path(__file__).parent.parent / "data" / "online_retail.parquet"
ONLINE_RETAIL_COLUMNS = (
    "customer_id=CustomerID,ordered_at=InvoiceDate,order_id=InvoiceNo,item_id=StockCode,quantity=Quantity,"
    "unit_price=UnitPrice,country=Country"
)
_TYPES = {
    pa.string(): "STRING", pa.large_string(): "STRING", pa.int64(): "INT64", pa.int32(): "INT64", pa.float64(): "FLOAT64",
    pa.date32(): "DATE", pa.decimal128(38, 9): "NUMERIC", pa.timestamp("us", "UTC"): "TIMESTAMP",
    pa.timestamp("us"): "DATETIME", pa.timestamp("ms"): "DATETIME",
}  # fmt: skip


def client() -> google.Client:
    """A client of its own: what a test asks must not depend on what the pipelines keep."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as google

    return google.Client("test-project", credentials=AnonymousCredentials())


def load(bucket: str, table: str, rows: pa.Table, **types: str) -> str:
    """Loads the rows into a new table by a load job from Cloud Storage; returns the object's URI.

    Args:
      types: BigQuery's types of columns for which Arrow's do not tell.
    """
    from google.cloud import bigquery as google

    uri = f"gs://{bucket}/{table}.parquet"
    storage.write_parquet(rows, uri)
    fields = [google.SchemaField(f.name, types.get(f.name) or _TYPES[f.type]) for f in rows.schema]
    config = google.LoadJobConfig(source_format="PARQUET", schema=fields, write_disposition="WRITE_TRUNCATE")
    job = client().load_table_from_uri(uri, table, job_config=config)
    job.result(timeout=60)
    assert job.output_rows == rows.num_rows
    return uri


def query(sql: str) -> list[dict[str, Any]]:
    return [dict(row) for row in client().query(sql).result(timeout=60)]
