"""Writes predictions to Datastore in one of three ways: one contestant of benchmarks.publish.

    python -m benchmarks.publish_contestant --writer ours --predictions predictions.parquet \\
        --project my-project --namespace ours --in_flight 4 --output cost.json

Follows DATASTORE_EMULATOR_HOST, which must be set. Writes to OUTPUT what it took.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass

from transforms.cli import ArgumentParser, exit_code, whole_number


@dataclass(frozen=True)
class ContestantOptions:
    writer: str
    predictions: str
    project: str
    namespace: str
    in_flight: int
    output: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> ContestantOptions:
        parser = ArgumentParser("python -m benchmarks.publish_contestant", description=__doc__)
        parser.add_argument(
            "--writer", required=True, choices=["ours", "beam", "raw"],
            help="serving.datastore_writer, Beam's WriteToDatastore, or a bare loop on the protobuf classes",
        )  # fmt: skip
        parser.add_argument("--predictions", required=True, metavar="FILE", help="a Parquet file of predictions")
        parser.add_argument("--project", required=True, help="the project of the Datastore")
        parser.add_argument("--namespace", required=True, help="where the entities go")
        parser.add_argument(
            "--in_flight", type=whole_number(1), default=4, metavar="N", help="commits at once (ours and raw)"
        )
        parser.add_argument("--output", required=True, metavar="FILE", help="the JSON file of what it took")
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, float]:
    """Returns what OUTPUT says: seconds of wall and CPU from opening the file to the last entity stored."""
    from benchmarks import publish_writers

    options = ContestantOptions.parse(argv)
    job = publish_writers.Job(options.predictions, options.project, options.namespace, options.in_flight)
    write = publish_writers.prepare(options.writer, job)
    started, cpu_before = time.perf_counter(), time.process_time()
    write()
    cost = {
        "write_seconds": time.perf_counter() - started,
        "write_cpu_seconds": time.process_time() - cpu_before,
    }
    with open(options.output, "w", encoding="utf8") as file:
        json.dump(cost, file)
    return cost


if __name__ == "__main__":
    sys.exit(main())
