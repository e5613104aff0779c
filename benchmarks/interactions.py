"""What pipelines.interactions costs beside DuckDB writing the same CSV, and whether its memory stays flat.

    python -m benchmarks.interactions --orders 10000000

Generates an order file once (kept in --workdir), then runs three contestants on it, each in its own process and on one
thread, from the same Parquet file to CSV files of the same columns and rows: our Beam job; DuckDB's COPY, which trusts
every line and tells nothing; and DuckDB's COPY that also finds the figures of our manifest (distinct counts, users with
two, extent, fingerprint), exactly, by plain SQL on the rows. Before any figure is shown, the rows written are compared
as multisets, and our figures with the exact ones: equal where the manifest calls them exact, else within four standard
errors. Further runs on fewer orders show how our peak memory grows with the data, and what a line costs without the start.

Figures are seconds on the wall and CPU seconds of the process and its children, imports included. The last line is one
JSON object.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks import harness, interactions_contestant, order_file
from benchmarks.harness import Measurement, OutputsDiffer
from transforms.cli import ArgumentParser

NAME = "interactions"
OURS, COPY, TOLD = "pipelines.interactions", "DuckDB COPY", "DuckDB COPY + figures"
AIM = {"rows_a_cpu_second": 0.5, "rows_a_second": 0.5}
PACKAGES = ("apache-beam", "duckdb", "numpy", "pyarrow")
_STANDARD_ERRORS = 4


@dataclass(frozen=True)
class BenchmarkOptions:
    orders: int
    memory_baseline_orders: int
    runs: int
    seed: int
    workdir: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        from pipelines import options as shared

        parser = ArgumentParser("python -m benchmarks.interactions", description=__doc__)
        parser.add_argument("--orders", type=shared.positive, default=10_000_000, help="order lines, ten a customer")
        parser.add_argument(
            "--memory_baseline_orders", type=shared.positive, default=1_000_000, metavar="N",
            help="order lines of the smaller run that peak memory is compared with",
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
      OutputsDiffer: the contestants did not write the same.
    """
    options = BenchmarkOptions.parse(argv)
    orders = _orders(options, options.orders)
    runs: dict[str, list[Measurement]] = {OURS: [], COPY: [], TOLD: []}
    for number in range(options.runs):
        _progress(f"run {number + 1} of {options.runs}: {options.orders:,} lines")
        with _scratch(options.workdir) as directory:
            runs[OURS].append(harness.measure(ours_command(orders, f"{directory}/ours")))
            runs[COPY].append(harness.measure(copy_command(orders, f"{directory}/copy")))
            runs[TOLD].append(harness.measure([*copy_command(orders, f"{directory}/told"), "--figures"]))
            rows = compare(directory)
        _progress(f"the same {rows:,} rows, and the figures agree")
    figures = {name: Measurement.typical(measured) for name, measured in runs.items()}
    figures |= _small_runs(options)
    ratios = {
        "rows_a_cpu_second": figures[COPY].cpu_seconds / figures[OURS].cpu_seconds,
        "rows_a_second": figures[COPY].wall_seconds / figures[OURS].wall_seconds,
        "rows_a_cpu_second_with_figures": figures[TOLD].cpu_seconds / figures[OURS].cpu_seconds,
        "rows_a_cpu_second_beyond_the_baseline": _beyond(figures, COPY) / _beyond(figures, OURS),
        "memory_growth": figures[OURS].peak_rss_mb / figures[_on_baseline(OURS)].peak_rss_mb,
        "memory": figures[OURS].peak_rss_mb / figures[COPY].peak_rss_mb,
    }
    harness.print_table(figures)
    for name in (OURS, COPY, TOLD):
        cpu, wall = rows / figures[name].cpu_seconds, rows / figures[name].wall_seconds
        print(f"{name}: {cpu:,.0f} rows a CPU second, {wall:,.0f} rows a second")
    result = harness.verdict(NAME, PACKAGES, figures, ratios, AIM, at_least=True)
    for ratio, value in result["ratios"].items():
        least = result["aim"].get(ratio)
        print(f"{ratio}: {value}" + (f" (aim: at least {least})" if least is not None else ""))
    print(json.dumps(result))
    return result


def ours_command(orders: str, output: str) -> list[str]:
    return ["-m", "pipelines.interactions", "--orders", orders, "--output", output]


def copy_command(orders: str, output: str) -> list[str]:
    return ["-m", "benchmarks.interactions_contestant", "--orders", orders, "--output", output]


def compare(directory: str) -> int:
    """Compares what the contestants left below a directory, and returns the number of rows.

    Raises:
      OutputsDiffer: rows or figures differ; the first difference.
    """
    rows = interactions_contestant.same_rows(f"{directory}/ours/interactions/*.csv", f"{directory}/copy/*.csv")
    with (
        open(f"{directory}/ours/manifest.json", encoding="utf8") as ours,
        open(f"{directory}/told/figures.json") as told,
    ):
        _same_figures(json.load(ours), json.load(told))
    return rows


def _same_figures(manifest: dict[str, Any], exact: dict[str, Any]) -> None:
    for name, wanted in exact.items():
        found = manifest[name]
        off = _STANDARD_ERRORS * manifest["estimates_standard_error"] * wanted if name in manifest["estimates"] else 0
        if abs(found - wanted) > off:
            raise OutputsDiffer(f"{name} is {found} in the manifest, and exactly {wanted}")


def _small_runs(options: BenchmarkOptions) -> dict[str, Measurement]:
    """Our job and COPY on the smaller file."""
    orders = _orders(options, options.memory_baseline_orders)
    _progress(f"baseline: {options.memory_baseline_orders:,} lines")
    runs: dict[str, list[Measurement]] = {OURS: [], COPY: []}
    for _ in range(options.runs):
        with _scratch(options.workdir) as directory:
            runs[OURS].append(harness.measure(ours_command(orders, f"{directory}/ours")))
            runs[COPY].append(harness.measure(copy_command(orders, f"{directory}/copy")))
    return {_on_baseline(name): Measurement.typical(measured) for name, measured in runs.items()}


def _on_baseline(name: str) -> str:
    return f"{name}, smaller file"


def _beyond(figures: dict[str, Measurement], name: str) -> float:
    """CPU seconds of the lines that the smaller file does not have: without imports and the other costs of a start."""
    return max(figures[name].cpu_seconds - figures[_on_baseline(name)].cpu_seconds, 0.01)


def _orders(options: BenchmarkOptions, lines: int) -> str:
    return order_file.order_file(options.workdir, max(1, lines // 10), lines, options.seed)


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
