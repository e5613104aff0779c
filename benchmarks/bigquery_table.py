"""Puts an order file of benchmarks/order_file.py into a BigQuery table, typed as a warehouse has it.

    python -m benchmarks.bigquery_table --orders orders.parquet --table my-project.shop.orders --bucket my-bucket

Makes the dataset, and the bucket that exports go through. Follows BIGQUERY_EMULATOR_HOST and
STORAGE_EMULATOR_HOST, and is meant for emulators: it signs in nowhere.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transforms.cli import ArgumentParser, exit_code

if TYPE_CHECKING:
    import pyarrow as pa

# An id is text, money a NUMERIC; the file has them as int64 and float64.
FIELDS = {
    "customer_id": "STRING",
    "ordered_at": "TIMESTAMP",
    "amount": "NUMERIC",
    "order_id": "STRING",
    "item_id": "STRING",
    "country": "STRING",
}


@dataclass(frozen=True)
class TableOptions:
    orders: str
    table: str
    bucket: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> TableOptions:
        parser = ArgumentParser("python -m benchmarks.bigquery_table", description=__doc__)
        parser.add_argument("--orders", required=True, metavar="FILE", help="Parquet file of benchmarks/order_file.py")
        parser.add_argument("--table", required=True, metavar="PROJECT.DATASET.TABLE", help="replaced by the orders")
        parser.add_argument("--bucket", required=True, help="a bucket to make")
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> int:
    """Loads the orders and returns their number.

    Raises:
      UsageError: --table is no table's name.
    """
    import io

    import pyarrow.parquet as pq
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as google
    from google.cloud import storage  # type: ignore[attr-defined]

    from pipelines import bigquery

    options = TableOptions.parse(argv)
    table = bigquery.Table.parse("--table", options.table)
    storage.Client(table.project, AnonymousCredentials()).create_bucket(options.bucket)
    client = bigquery.client(table.project)
    client.create_dataset(f"{table.project}.{table.dataset}", exists_ok=True)
    content = io.BytesIO()
    pq.write_table(typed(pq.read_table(options.orders)), content)
    config = google.LoadJobConfig(
        source_format="PARQUET",
        write_disposition="WRITE_TRUNCATE",
        schema=[google.SchemaField(name, type_) for name, type_ in FIELDS.items()],
    )
    job = client.load_table_from_file(content, table.reference, rewind=True, job_config=config)
    job.result()
    return int(job.output_rows)


def typed(lines: pa.Table) -> pa.Table:
    """The lines of an order file with the Arrow types of ``FIELDS``."""
    import pyarrow as pa

    # By way of cents: cast to 9 decimals at once, the double's binary dust would come along.
    amount = lines["amount"].cast(pa.decimal128(18, 2)).cast(pa.decimal128(38, 9))
    lines = lines.set_column(lines.schema.get_field_index("amount"), "amount", amount)
    lines = lines.set_column(lines.schema.get_field_index("order_id"), "order_id", lines["order_id"].cast(pa.string()))
    return lines.select(list(FIELDS))


if __name__ == "__main__":
    sys.exit(main())
