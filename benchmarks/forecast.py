"""Our default model beside its peers on public orders, strictly out of time.

    python -m benchmarks.forecast --data cdnow

For every test cutoff the contestants learn from snapshots whose labels end at or before it, see the features of the
same customers at it, and forecast each one's spend over the horizon after it: 91 days for CDNOW, 123 for Online
Retail. Ours is `python -m trainer.task` with its defaults. The peers are forecasts without a model, lifetimes 0.11.3
(BG/NBD and Pareto/NBD with Gamma-Gamma, Pareto/NBD times the mean order, the seed system's formula) and LightGBM with
three objectives, tuned by Optuna. All are judged by trainer/metrics.py on the same rows; intervals come from one
paired Poisson bootstrap in which a customer has the same weight at every cutoff. docs/forecast_benchmark.md tells more.

Snapshots and forecasts are kept in --workdir: a second run with changed code of ours trains and judges ours only.
--output gets predictions.parquet, every contestant's forecast of every customer, from which all figures can be
recomputed, and figures.json. The last line is one JSON object. The exit code is 0 when everything was judged,
whether the aims are met or not.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.forecast_names import PEERS
from transforms.cli import MOST_SEED, ArgumentParser, whole_number

if TYPE_CHECKING:
    import pyarrow as pa

    from benchmarks.forecast_contestants import Forecast

NAME = "forecast"
PACKAGES = ("tensorflow", "keras", "lightgbm", "optuna", "lifetimes", "numpy", "scipy", "pyarrow")
DATA = ("cdnow", "online_retail")


@dataclass(frozen=True)
class BenchmarkOptions:
    data: str
    cutoffs: tuple[datetime.date, ...] | None
    contestants: tuple[str, ...]
    customers: int | None
    trials: int
    resamples: int
    seed: int
    workdir: str
    output: str | None

    @classmethod
    def parse(cls, argv: list[str] | None) -> BenchmarkOptions:
        from pipelines import options as shared

        parser = ArgumentParser("python -m benchmarks.forecast", description=__doc__)
        parser.add_argument("--data", choices=DATA, required=True, help="the public orders to forecast")
        parser.add_argument(
            "--cutoffs", nargs="+", type=shared.date, metavar="DATE",
            help="test cutoffs, YYYY-MM-DD, each with a horizon of orders after it (default: three, the data set's own)",
        )  # fmt: skip
        parser.add_argument(
            "--contestants", nargs="+", choices=PEERS, metavar="PEER",
            help=f"the peers to compare ours with, of {', '.join(PEERS)} (default: all; year_ago only takes part where "
            "the history reaches back that far)",
        )  # fmt: skip
        parser.add_argument(
            "--customers", type=whole_number(100), metavar="N",
            help="only the orders of the first N customers by id: a quick look, no verdict (default: all)",
        )  # fmt: skip
        parser.add_argument(
            "--trials", type=whole_number(1), default=25, metavar="N",
            help="parameter sets that Optuna tries for each LightGBM objective at each cutoff",
        )  # fmt: skip
        parser.add_argument("--resamples", type=whole_number(100), default=1000, metavar="N", help="of the bootstrap")
        parser.add_argument(
            "--seed", type=whole_number(0, MOST_SEED), default=0, metavar="N",
            help="of our training, the tuning, ties and the bootstrap: the same seed gives the same figures",
        )  # fmt: skip
        parser.add_argument(
            "--workdir", default=os.path.join(tempfile.gettempdir(), "clv-benchmarks", NAME), metavar="DIR",
            help="keeps snapshots and forecasts between runs",
        )  # fmt: skip
        parser.add_argument(
            "--output",
            metavar="DIR",
            help="gets predictions.parquet and figures.json (default: results/DATA in --workdir)",
        )
        values = vars(parser.parse_args(argv))
        cutoffs = values["cutoffs"] and tuple(dict.fromkeys(values["cutoffs"]))
        return cls(
            **{**values, "cutoffs": cutoffs, "contestants": tuple(dict.fromkeys(values["contestants"] or PEERS))}
        )


def main(argv: list[str] | None = None) -> int:
    from benchmarks import harness

    return harness.exit_code(lambda: run(argv))


def run(argv: list[str] | None = None) -> dict[str, Any]:
    """Prints the tables and the JSON line, and returns what the line says.

    Raises:
      OutputsDiffer: a contestant did not forecast the given customers, or not by finite numbers.
      UsageError: a bad argument.
      JobFailed: a library of the peers found no usable fit.
    """
    options = BenchmarkOptions.parse(argv)

    from benchmarks import forecast_contestants, forecast_data, forecast_judge, forecast_verdict, harness

    data = forecast_data.DATA_SETS[options.data]
    workdir = os.path.abspath(options.workdir)
    windows = forecast_data.make_windows(data, options.cutoffs or data.cutoffs, options.customers, workdir)
    effort = forecast_contestants.Effort(options.trials, options.seed)
    labels: dict[str, pa.Table] = {}
    forecasts: dict[str, dict[str, Forecast]] = {}
    for window in windows:
        cutoff = str(window.cutoff)
        known, labels[cutoff] = forecast_data.read_window(window, data.horizon_days)
        learned = ", ".join(map(str, window.training_cutoffs))
        _progress(f"{data.name} {cutoff}: {known.customers.num_rows:,} customers; training cutoffs {learned}")
        forecasts[cutoff] = forecast_contestants.make_forecasts(options.contestants, window, known, effort, _progress)
    _progress("judging")
    samples = _samples(labels, forecasts, options.seed)
    judgement = forecast_judge.judge(samples, options.resamples, options.seed)
    figures = forecast_verdict.figures(judgement, forecasts)
    ratios = forecast_verdict.ratios(judgement)
    title = forecast_data.title(data, options.customers)
    output = options.output or os.path.join(workdir, "results", title)
    _write_predictions(os.path.join(output, "predictions.parquet"), data.name, labels, forecasts)
    result = {
        "name": f"{NAME}_{title}",
        "machine": harness.machine(PACKAGES),
        "figures": _brief(figures),
        "ratios": {name: round(ratio, 4) for name, ratio in ratios.items()},
        "aim": {name: list(bounds) for name, bounds in forecast_verdict.AIM.items()},
        "aim_met": all(forecast_verdict.is_met(name, ratio) for name, ratio in ratios.items()),
    }
    with open(os.path.join(output, "figures.json"), "w", encoding="utf8") as file:
        json.dump({**result, "figures": figures, "arguments": _arguments(options, windows)}, file, indent=1)
    forecast_verdict.print_tables(judgement, forecasts)
    forecast_verdict.print_aims(ratios)
    print(json.dumps(result))
    return result


def _samples(labels: Mapping[str, pa.Table], forecasts: Mapping[str, Mapping[str, Forecast]], seed: int) -> Any:
    from benchmarks import forecast_judge
    from trainer.baselines import float_column

    customers = {cutoff: table["customer_id"].to_pylist() for cutoff, table in labels.items()}
    actual = {cutoff: float_column(table, "future_value") for cutoff, table in labels.items()}
    return forecast_judge.make_samples(customers, actual, forecasts, seed)


def _brief(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The mean over the cutoffs: values, and the paired interval of the Gini; figures.json has the rest."""
    brief = {}
    for name, measured in figures["mean"].items():
        brief[name] = {metric: of["value"] if isinstance(of, dict) else of for metric, of in measured.items()}
        if "ours_minus" in measured["normalised_gini"]:
            brief[name]["normalised_gini_ours_minus"] = measured["normalised_gini"]["ours_minus"]
    return brief


def _arguments(options: BenchmarkOptions, windows: Sequence[Any]) -> dict[str, Any]:
    return {
        "trials": options.trials, "resamples": options.resamples, "seed": options.seed, "customers": options.customers,
        "training_cutoffs": {str(w.cutoff): [str(day) for day in w.training_cutoffs] for w in windows},
    }  # fmt: skip


def _write_predictions(
    path: str, data: str, labels: Mapping[str, pa.Table], forecasts: Mapping[str, Mapping[str, Forecast]]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for cutoff, of in forecasts.items():
        n = labels[cutoff].num_rows
        day = pa.array([datetime.date.fromisoformat(cutoff)] * n)
        for name, forecast in of.items():
            values = {what: getattr(forecast, what) for what in ("predicted_value", "median", "p10", "p90")}
            given = {what: pa.nulls(n, pa.float64()) if of is None else pa.array(of) for what, of in values.items()}
            tables.append(pa.table({
                "data": [data] * n, "cutoff": day, "contestant": [name] * n,
                "customer_id": labels[cutoff]["customer_id"],
                "future_value": labels[cutoff]["future_value"].cast(pa.float64()), **given,
            }))  # fmt: skip
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pq.write_table(pa.concat_tables(tables), path, compression="zstd")


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
