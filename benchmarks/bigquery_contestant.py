"""Reads a BigQuery table in one of three ways and aggregates it: one contestant of benchmarks.bigquery_read.

    python -m benchmarks.bigquery_contestant --reader ours --aggregate total \\
        --table my-project.shop.orders --temp_location gs://my-bucket/tmp --output result

Follows BIGQUERY_EMULATOR_HOST, BIGQUERY_STORAGE_EMULATOR_HOST and STORAGE_EMULATOR_HOST, which must be set.
Writes OUTPUT/spend.parquet, the aggregate, and OUTPUT/cost.json, what it took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass

from transforms.cli import ArgumentParser, exit_code

SPEND_FILE, COST_FILE = "spend.parquet", "cost.json"


@dataclass(frozen=True)
class ContestantOptions:
    reader: str
    aggregate: str
    table: str
    temp_location: str
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> ContestantOptions:
        parser = ArgumentParser("python -m benchmarks.bigquery_contestant", description=__doc__)
        parser.add_argument(
            "--reader", required=True, choices=["ours", "direct_read", "export"],
            help="pipelines.read_bigquery, or Beam's ReadFromBigQuery by this method",
        )  # fmt: skip
        parser.add_argument(
            "--aggregate", required=True, choices=["total", "per_customer"],
            help="count, exact sum and last time of all lines, or of each customer's",
        )  # fmt: skip
        parser.add_argument("--table", required=True, metavar="PROJECT.DATASET.TABLE", help="orders to read")
        parser.add_argument("--temp_location", required=True, metavar="gs://...", help="where Beam puts its exports")
        parser.add_argument("--output", required=True, metavar="DIR", help="an existing directory for the two files")
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, float]:
    """Returns what cost.json says: seconds of wall and CPU while reading, and seconds of the whole job.

    Raises:
      UsageError: --table is no table's name, or cannot be read.
    """
    import apache_beam as beam

    from benchmarks import bigquery_readers
    from pipelines import bigquery, run_job
    from pipelines.options import pipeline_options

    options = ContestantOptions.parse(argv)
    table = bigquery.Table.parse("--table", options.table)
    if options.reader != bigquery_readers.OURS:
        bigquery_readers.redirect_beam()
    bigquery_readers.note_first_request()
    beam_options = pipeline_options(["--project", table.project, "--temp_location", options.temp_location])
    pipeline = beam.Pipeline(options=beam_options)
    output = os.path.join(options.output, SPEND_FILE)
    bigquery_readers.build(pipeline, options.reader, options.aggregate, table, output)
    started = time.perf_counter()
    run_job.execute(pipeline, "reading")
    job_seconds = time.perf_counter() - started
    asked, written = bigquery_readers.reading_span()
    cost = {
        "read_seconds": written.wall - asked.wall,
        "read_cpu_seconds": written.cpu - asked.cpu,
        "job_seconds": job_seconds,
    }
    with open(os.path.join(options.output, COST_FILE), "w", encoding="utf8") as file:
        json.dump(cost, file)
    return cost


if __name__ == "__main__":
    sys.exit(main())
