"""What a maximum likelihood fit of BG/NBD and Pareto/NBD costs beside lifetimes 0.11.3, and which finds the higher top.

    python -m benchmarks.btyd_fit --customers 1000000

Simulates customers by the Pareto/NBD model with parameters like CDNOW's, whole days, kept in --workdir. Every
contestant fits the same file in a process of its own, on one thread: lifetimes on one row a customer, as it is meant to
be used, and on the collapsed table with weights. Each contestant's log-likelihood is computed from its
parameters by one and the same function, checked first against the contestant's own formula by the tests. Where ours is
lower the exit code is 1, and there are no figures. lifetimes takes minutes for the Pareto/NBD of a million customers: there
the two meet on the first --pareto_peer_customers, and ours alone fits them all.

lifetimes is among the development dependencies; 0.11.3 fits with NumPy 2 and pandas 3, only its ``lifetimes.datasets``
does not import there. The last line is one JSON object; its aim: ours needs at most a tenth of the CPU seconds of
lifetimes' BG/NBD, and at most 30 CPU seconds for the Pareto/NBD of all customers.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.btyd_contestant import OURS, PEER, PEER_COLLAPSED, WEEK_DAYS
from benchmarks.harness import Measurement, OutputsDiffer
from transforms.cli import MOST_SEED, ArgumentParser, whole_number

NAME = "btyd_fit"
PACKAGES = ("lifetimes", "numpy", "pandas", "pyarrow", "scipy")
AIM = {"bgnbd_cpu": 0.1, "pareto_cpu_seconds": 30.0}
# CDNOW's Pareto/NBD, in days, observed for two years instead of 39 weeks: more repeat purchases, more distinct rows.
TRUTH = {"r": 0.55, "alpha": 10.6 * WEEK_DAYS, "s": 0.6, "beta": 11.7 * WEEK_DAYS}
MOST_AGE_DAYS = 730
# lifetimes stops where its optimiser is content; a top that is lower by less than this is the same top.
_SAME_TOP = 1e-3


@dataclass(frozen=True)
class BenchmarkOptions:
    customers: int
    pareto_peer_customers: int
    seed: int
    workdir: str

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        parser = ArgumentParser("python -m benchmarks.btyd_fit", description=__doc__)
        parser.add_argument("--customers", type=whole_number(1000), default=1_000_000, help="simulated customers")
        parser.add_argument(
            "--pareto_peer_customers", type=whole_number(0), default=100_000, metavar="N",
            help="of these lifetimes fits the Pareto/NBD; 0 leaves that out, as many as --customers takes many minutes",
        )  # fmt: skip
        parser.add_argument("--seed", type=whole_number(0, MOST_SEED), default=1, help="same seed, same customers")
        parser.add_argument(
            "--workdir", default=os.path.join(tempfile.gettempdir(), "clv-benchmarks"), metavar="DIR",
            help="keeps the customers between runs",
        )  # fmt: skip
        return cls(**vars(parser.parse_args(argv)))


@dataclass(frozen=True)
class Fit(Measurement):
    """What a contestant's process cost, of which the fit itself, and the log-likelihood by weeks at what it found."""

    fit_cpu_seconds: float
    log_likelihood: float


def main(argv: list[str] | None = None) -> int:
    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the table and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: lifetimes found a higher likelihood.
    """
    options = BenchmarkOptions.parse(argv)
    customers = customers_file(options)
    some = min(options.pareto_peer_customers, options.customers)
    everybody = options.customers
    runs = [("bgnbd", library, everybody) for library in (OURS, PEER, PEER_COLLAPSED)]
    runs += [("pareto", library, some) for library in (OURS, PEER) if some and some < everybody]
    runs += [("pareto", OURS, everybody)] + ([("pareto", PEER, everybody)] if some == everybody else [])
    figures = {_title(*one): _measure(*one, customers) for one in runs}
    for model, rows in {(model, rows) for model, _, rows in runs}:
        assert_not_beaten(figures, model, rows)
    ours, peer = (figures[_title("bgnbd", library, everybody)] for library in (OURS, PEER))
    collapsed = figures[_title("bgnbd", PEER_COLLAPSED, everybody)]
    ratios = {
        "bgnbd_cpu": ours.fit_cpu_seconds / peer.fit_cpu_seconds,
        "bgnbd_cpu_collapsed": ours.fit_cpu_seconds / collapsed.fit_cpu_seconds,
        "pareto_cpu_seconds": figures[_title("pareto", OURS, everybody)].fit_cpu_seconds,
    }
    if some:
        pair = [figures[_title("pareto", library, some)].fit_cpu_seconds for library in (OURS, PEER)]
        ratios["pareto_cpu"] = pair[0] / pair[1]
    print_fits(figures)
    result = harness.verdict(NAME, PACKAGES, figures, ratios, AIM)
    harness.print_verdict(result)
    return result


def customers_file(options: BenchmarkOptions) -> str:
    """The path of the simulated customers: Parquet with frequency, recency_days, age_days."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks import btyd_customers

    path = os.path.join(options.workdir, f"btyd-customers-{options.customers}-{options.seed}.parquet")
    if not os.path.exists(path):
        os.makedirs(options.workdir, exist_ok=True)
        rng = np.random.default_rng(options.seed)
        age = rng.integers(1, MOST_AGE_DAYS + 1, options.customers).astype(np.float64)
        table = pa.table(btyd_customers.whole_days(btyd_customers.simulate("pareto", TRUTH, age, rng)))
        pq.write_table(table, f"{path}.writing")
        os.replace(f"{path}.writing", path)
    return path


def _title(model: str, library: str, rows: int) -> str:
    return f"{model} {library}, {rows:,} customers"


def _measure(model: str, library: str, rows: int, customers: str) -> Fit:
    print(_title(model, library, rows), file=sys.stderr)
    with tempfile.TemporaryDirectory() as directory:
        output = os.path.join(directory, "fit.json")
        cost = harness.measure([
            "-m", "benchmarks.btyd_contestant", "--library", library, "--model", model,
            "--customers", customers, "--rows", str(rows), "--output", output,
        ])  # fmt: skip
        with open(output, encoding="utf8") as file:
            found = json.load(file)
    likelihood = log_likelihood(model, found["params"], customers, rows)
    rounded = Measurement.typical([cost])
    return Fit(
        rounded.cpu_seconds, rounded.wall_seconds, rounded.peak_rss_mb, round(found["fit_cpu_seconds"], 3), likelihood
    )


def log_likelihood(model: str, params: dict[str, float], customers: str, rows: int) -> float:
    """Of the first rows of the file, by weeks, at these parameters."""
    import pyarrow.parquet as pq

    from trainer import btyd, btyd_counts

    fitted = btyd.make(model, WEEK_DAYS)
    fitted.params_ = params
    table = btyd_counts.collapse(pq.read_table(customers).slice(0, rows))
    return float(fitted.log_likelihood(table) @ table["customers"].to_numpy())


def assert_not_beaten(figures: dict[str, Fit], model: str, rows: int) -> None:
    """Raises: OutputsDiffer where another contestant's log-likelihood on the same rows is higher than ours."""
    ours = figures[_title(model, OURS, rows)].log_likelihood
    for library in (PEER, PEER_COLLAPSED):
        with contextlib.suppress(KeyError):
            peer = figures[_title(model, library, rows)].log_likelihood
            if peer > ours + _SAME_TOP:
                raise OutputsDiffer(f"{model}: {library} found the log-likelihood {peer:.4f}, ours {ours:.4f}")


def print_fits(figures: dict[str, Fit]) -> None:
    """One line a contestant."""
    width = max(map(len, figures))
    print(f"{'':{width}}  {'fit CPU s':>9}  {'CPU s':>8}  {'wall s':>8}  {'peak MiB':>8}  {'log-likelihood':>16}")
    for name, fit in figures.items():
        print(
            f"{name:{width}}  {fit.fit_cpu_seconds:9.2f}  {fit.cpu_seconds:8.2f}  {fit.wall_seconds:8.2f}  "
            f"{fit.peak_rss_mb:8.1f}  {fit.log_likelihood:16.4f}"
        )


if __name__ == "__main__":
    sys.exit(main())
