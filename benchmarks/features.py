"""What pipelines.features costs beside plain DuckDB + scikit-learn, and whether its memory stays flat.

    python -m benchmarks.features --customers 1000000 --orders 10000000

Generates an order file once (kept in --workdir), then runs two contestants on it, each in its own
process and on one thread, from the same Parquet file to the same Parquet output (zstd): our Beam
job with tf.Transform, and benchmarks/plain_features.py. Before any figure is shown, the outputs are
compared for every customer; where they differ, the first difference is named and the exit code is 1.
A third run of our job on fewer orders shows how its peak memory grows with the data.

CPU seconds are user + system of the process and its children, imports included; on a shared
machine they, not the wall time, are the figure to look at. The last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import harness, order_file, plain_features, same_features
from benchmarks.harness import Measurement
from transforms.cli import ArgumentParser

NAME = "features"
OURS, PLAIN = "pipelines.features", "DuckDB + scikit-learn"
AIM = {"cpu": 2.0, "memory_growth": 1.25}
PACKAGES = ("apache-beam", "duckdb", "numpy", "pyarrow", "scikit-learn", "tensorflow", "tensorflow-transform")


@dataclass(frozen=True)
class BenchmarkOptions:
    customers: int
    orders: int
    memory_baseline_orders: int
    runs: int
    seed: int
    workdir: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        from pipelines import options as shared

        parser = ArgumentParser("python -m benchmarks.features", description=__doc__)
        parser.add_argument(
            "--customers", type=shared.positive, default=1_000_000, help="customers of the generated shop"
        )
        parser.add_argument(
            "--orders", type=shared.positive, default=10_000_000, help="order lines, at least 4 a customer"
        )
        parser.add_argument(
            "--memory_baseline_orders", type=shared.positive, default=2_000_000, metavar="N",
            help="order lines of the smaller run (with as many lines a customer) that peak memory is compared with",
        )  # fmt: skip
        parser.add_argument(
            "--runs", type=shared.positive, default=1, help="runs of each contestant; the median counts"
        )
        parser.add_argument("--seed", type=int, default=1, help="same seed, same orders")
        parser.add_argument(
            "--workdir", default=os.path.join(tempfile.gettempdir(), "clv-benchmarks"), metavar="DIR",
            help="keeps the generated orders between runs; outputs go there too and are deleted",
        )  # fmt: skip
        return cls(**vars(parser.parse_args(argv)))


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the table and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: the contestants did not compute the same.
    """
    options = BenchmarkOptions.parse(argv)
    orders = order_file.order_file(options.workdir, options.customers, options.orders, options.seed)
    ours, plain = [], []
    for number in range(options.runs):
        _progress(f"run {number + 1} of {options.runs}: {options.orders:,} lines of {options.customers:,} customers")
        with _scratch(options.workdir) as directory:
            ours.append(harness.measure(ours_command(orders, f"{directory}/ours")))
            plain.append(harness.measure(plain_command(orders, f"{directory}/plain")))
            rows = same_features.assert_same(f"{directory}/ours", f"{directory}/plain")
        _progress(f"the outputs agree for all {rows:,} customers")
    small = _small_run(options)
    figures = {OURS: Measurement.typical(ours), PLAIN: Measurement.typical(plain), small[0]: small[1]}
    ratios = {
        "cpu": figures[OURS].cpu_seconds / figures[PLAIN].cpu_seconds,
        "memory_growth": figures[OURS].peak_rss_mb / small[1].peak_rss_mb,
        "memory": figures[OURS].peak_rss_mb / figures[PLAIN].peak_rss_mb,
    }
    harness.print_table(figures)
    result = harness.verdict(NAME, PACKAGES, figures, ratios, AIM)
    harness.print_verdict(result)
    return result


def ours_command(orders: str, output: str) -> list[str]:
    return [
        "-m", "pipelines.features", "--orders", orders, "--cutoff", str(order_file.CUTOFF),
        "--horizon_days", str(order_file.HORIZON_DAYS), "--output", output,
    ]  # fmt: skip


def plain_command(orders: str, output: str) -> list[str]:
    """The peer's command. Its SQL is compiled here: who writes SQL by hand does not wait for Ibis."""
    from pipelines import order_files
    from transforms.customer_features import Snapshot

    source = order_files.inspect(orders, order_files.OrdersFormat())
    snapshot = Snapshot(order_file.CUTOFF, order_file.HORIZON_DAYS)
    sql = f"{output}.sql"
    with open(sql, "w", encoding="utf8") as file:
        file.write(plain_features.script(source, snapshot, f"{output}/raw/customers.parquet"))
    return ["-m", "benchmarks.plain_features", "--sql", sql, "--output", output]


def _small_run(options: BenchmarkOptions) -> tuple[str, Measurement]:
    """Our job on the smaller file, and the name of the figure."""
    lines = options.memory_baseline_orders
    customers = max(1, options.customers * lines // options.orders)
    orders = order_file.order_file(options.workdir, customers, lines, options.seed)
    _progress(f"memory baseline: {lines:,} lines of {customers:,} customers")
    with _scratch(options.workdir) as directory:
        measured = harness.measure(ours_command(orders, f"{directory}/ours"))
    return f"{OURS}, {lines:,} lines", Measurement.typical([measured])


@contextlib.contextmanager
def _scratch(workdir: str) -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="run-", dir=workdir)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
