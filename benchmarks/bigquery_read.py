"""How fast our BigQuery read path is beside Beam's own ReadFromBigQuery, on one table in one run.

    python -m benchmarks.bigquery_read --lines 500000 --rounds 3

Starts the BigQuery and Cloud Storage emulators (`make emulators`), loads an orders table and reads it with
three contestants, each in a process of its own, on one thread and Beam's in-process runner: ours
(pipelines.read_bigquery: Storage API, Arrow batches), and Beam's source by DIRECT_READ with native datetimes
and by EXPORT (of a query, so that it decodes no column it does not need). Each reads the same three columns
and aggregates them to the same file: the count, exact sum and last time of all lines ("total", the least work
behind the reading; the aim is judged on it), or of each customer's lines ("per_customer"). Where their
results differ there are no figures: the first difference is named and the exit code is 1.

Rows/s count from the first request for rows to the result's file: start-up, session and, for EXPORT, the
query and the export job before it are left out, to Beam's advantage ("job s" has them, but the emulator takes
its own time over an export). "CPU s" is the contestant's in that span, "emulators" the servers', for the whole
job. A ratio is ours against the faster of Beam's two in the same round, and the median over the rounds.

What it cannot show: a network, a service that answers from many machines, more than one worker. Emulators and
contestants share one machine, so that ours, which waits for the emulator more than it works, is held back most.
The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from benchmarks import harness, order_file
from benchmarks.harness import OutputsDiffer
from transforms.cli import ArgumentParser, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmarks.bigquery_emulators import Emulators

NAME = "bigquery_read"
OURS = "ours"
PEERS = ("direct_read", "export")
AGGREGATES = ("total", "per_customer")
AIM = {"total": 7.0}  # at least
PACKAGES = ("apache-beam", "google-cloud-bigquery-storage", "fastavro", "pyarrow")
TABLE, BUCKET = "test-project.shop.orders", "exports"
_LINES_A_CUSTOMER = 10


@dataclass(frozen=True)
class Reading:
    """What one contestant took for all lines.

    ``read_*`` is the span from the first request for rows to the aggregate's file; ``job_seconds`` the whole
    Beam job, ``emulator_cpu_seconds`` the servers' part in it; the last three are of the whole process.
    """

    rows_per_second: float
    read_seconds: float
    read_cpu_seconds: float
    job_seconds: float
    emulator_cpu_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_rss_mb: float

    @classmethod
    def typical(cls, readings: Sequence[Reading]) -> Reading:
        """The median of each."""
        columns = {field.name: [getattr(reading, field.name) for reading in readings] for field in fields(cls)}
        return cls(**{name: round(statistics.median(values), 3) for name, values in columns.items()})


# (reader, aggregate) -> what it took
Round = Mapping[tuple[str, str], Reading]


@dataclass(frozen=True)
class BenchmarkOptions:
    lines: int
    rounds: int
    page_rows: int
    seed: int
    workdir: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        from pipelines import options as shared

        parser = ArgumentParser("python -m benchmarks.bigquery_read", description=__doc__)
        parser.add_argument(
            "--lines", type=whole_number(_LINES_A_CUSTOMER), default=500_000,
            help=f"rows of the orders table, {_LINES_A_CUSTOMER} a customer",
        )  # fmt: skip
        parser.add_argument(
            "--rounds", type=shared.positive, default=3, help="rounds of all contestants; the median counts"
        )
        parser.add_argument(
            "--page_rows", type=shared.positive, default=1_024, metavar="N",
            help="rows of a page of the Storage API. Users of BigQuery report 1,024 and less; the emulator's own "
            "100,000 would flatter whoever works a page at a time",
        )  # fmt: skip
        parser.add_argument("--seed", type=shared.seed, default=1, help="same seed, same orders")
        parser.add_argument(
            "--workdir", default=os.path.join(tempfile.gettempdir(), "clv-benchmarks"), metavar="DIR",
            help="keeps the generated orders between runs; results go there too and are deleted",
        )  # fmt: skip
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the table and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: the contestants did not compute the same.
      UsageError: a bad argument, or the emulators' environment is missing.
    """
    from benchmarks import bigquery_emulators

    options = BenchmarkOptions.parse(argv)
    with bigquery_emulators.started(options.page_rows) as emulators:
        _load(options, emulators)
        rounds = [_round(options, emulators, number) for number in range(options.rounds)]
    result = verdict(rounds)
    print_table(result["figures"])
    print_ratios(rounds)
    print(json.dumps(result))
    return result


def _load(options: BenchmarkOptions, emulators: Emulators) -> None:
    customers = options.lines // _LINES_A_CUSTOMER
    orders = order_file.order_file(options.workdir, customers, options.lines, options.seed)
    _progress(f"loading {options.lines:,} lines of {customers:,} customers")
    command = ["-m", "benchmarks.bigquery_table", "--orders", orders, "--table", TABLE, "--bucket", BUCKET]
    harness.measure(command, emulators.environment)


def _round(options: BenchmarkOptions, emulators: Emulators, number: int) -> Round:
    """All contestants once, one after the other, their results compared."""
    _progress(f"round {number + 1} of {options.rounds}")
    readings = {}
    for aggregate in AGGREGATES:
        results = {}
        for reader in (OURS, *PEERS):
            readings[reader, aggregate], results[reader] = _contest(options, emulators, reader, aggregate)
        assert_same(results, options.lines)
    _progress(f"the results agree for all {options.lines:,} lines")
    return readings


def _contest(options: BenchmarkOptions, emulators: Emulators, reader: str, aggregate: str) -> tuple[Reading, pa.Table]:
    import pyarrow.parquet as pq

    from benchmarks.bigquery_contestant import COST_FILE, SPEND_FILE

    directory = tempfile.mkdtemp(prefix="run-", dir=options.workdir)
    try:
        before = emulators.cpu_seconds()
        measured = harness.measure(contestant_command(reader, aggregate, directory), emulators.environment)
        emulator_cpu_seconds = emulators.cpu_seconds() - before
        with open(os.path.join(directory, COST_FILE), encoding="utf8") as file:
            cost = json.load(file)
        result = pq.read_table(os.path.join(directory, SPEND_FILE))
    finally:
        shutil.rmtree(directory)
    rate = options.lines / cost["read_seconds"]
    return Reading(rate, **cost, emulator_cpu_seconds=emulator_cpu_seconds, **asdict(measured)), result


def contestant_command(reader: str, aggregate: str, output: str) -> list[str]:
    return [
        "-m", "benchmarks.bigquery_contestant", "--reader", reader, "--aggregate", aggregate, "--table", TABLE,
        "--temp_location", f"gs://{BUCKET}/temp", "--output", output,
    ]  # fmt: skip


def assert_same(results: Mapping[str, pa.Table], lines: int) -> None:
    """Holds all readers' results, keys first, to each other and to the number of lines.

    Raises:
      OutputsDiffer: names reader, column, row and both values of the first difference.
    """
    import pyarrow.compute as pc

    by_key = [(name, "ascending") for name in results[OURS].schema.names]
    ours = results[OURS].sort_by(by_key)
    counted = pc.sum(ours["lines"]).as_py() if ours.num_rows else 0
    if counted != lines:
        raise OutputsDiffer(f"{OURS} counted {counted} lines of {lines}")
    for reader, result in results.items():
        if not result.schema.equals(ours.schema) or result.num_rows != ours.num_rows:
            raise OutputsDiffer(
                f"{reader} has {result.num_rows} rows of {result.schema.names}, {OURS} {ours.num_rows} of {ours.schema.names}"
            )
        for row, (here, there) in enumerate(zip(ours.to_pylist(), result.sort_by(by_key).to_pylist(), strict=True)):
            for column, value in here.items():
                if there[column] != value:
                    raise OutputsDiffer(f"{column} of row {row} is {value} for {OURS} and {there[column]} for {reader}")


def ratios(readings: Round) -> dict[str, float]:
    """Ours against the faster of Beam's two: rows/s, rows per second of CPU (``_cpu``), rows/s of the job (``_job``)."""
    found = {}
    for aggregate in AGGREGATES:
        for suffix, seconds in (("", "read_seconds"), ("_cpu", "read_cpu_seconds"), ("_job", "job_seconds")):
            fastest = min(getattr(readings[peer, aggregate], seconds) for peer in PEERS)
            found[aggregate + suffix] = fastest / getattr(readings[OURS, aggregate], seconds)
    return found


def verdict(rounds: Sequence[Round]) -> dict[str, Any]:
    """The benchmark's result; the aim is met when no ratio falls below its aim."""
    of_rounds = [ratios(readings) for readings in rounds]
    median = {name: round(statistics.median(each[name] for each in of_rounds), 2) for name in of_rounds[0]}
    figures = {
        f"{reader}, {aggregate}": Reading.typical([readings[reader, aggregate] for readings in rounds])
        for reader, aggregate in rounds[0]
    }
    return harness.verdict(NAME, PACKAGES, figures, median, AIM, at_least=True)


def print_table(figures: Mapping[str, Mapping[str, float]]) -> None:
    """One line a contestant and aggregate."""
    width = max(map(len, figures))
    print(f"{'':{width}}  {'rows/s':>10}  {'read s':>7}  {'CPU s':>7}  {'job s':>7}  {'emulators':>9}  {'peak MiB':>8}")
    for name, figure in figures.items():
        print(
            f"{name:{width}}  {figure['rows_per_second']:10,.0f}  {figure['read_seconds']:7.2f}"
            f"  {figure['read_cpu_seconds']:7.2f}  {figure['job_seconds']:7.2f}  {figure['emulator_cpu_seconds']:9.2f}"
            f"  {figure['peak_rss_mb']:8.1f}"
        )


def print_ratios(rounds: Sequence[Round]) -> None:
    """The ratios' medians and ranges over the rounds."""
    for name in ratios(rounds[0]):
        values = [ratios(readings)[name] for readings in rounds]
        aim = f" (aim: at least {AIM[name]:g})" if name in AIM else ""
        print(f"{name}: {statistics.median(values):.1f}, from {min(values):.1f} to {max(values):.1f}{aim}")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
