"""Who takes part in ``benchmarks.forecast``, and their forecasts, each made once and kept.

A peer knows ``Known``: features and labels of the training snapshots, features of the customers to forecast. Ours is the
command ``trainer.task`` with its defaults in a process of its own. A forecast is kept under a key of its inputs
and of the code that makes it, so that a changed model of ours reruns ours only.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import forecast_lifetimes, forecast_trees, harness
from benchmarks.forecast_data import Known, Window
from benchmarks.forecast_names import NAIVE, OURS, TREES
from benchmarks.harness import OutputsDiffer
from trainer.metrics import Array
from transforms import version

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Forecast:
    """Point forecasts of future_value, each (n,), in money, in the order of the customers.

    A peer has no distribution: its forecast stands for mean and median. ``cpu_seconds`` covers everything from the
    snapshots to the forecast, ours also the start of its process, its evaluation and export.
    """

    predicted_value: Array
    median: Array
    p10: Array | None
    p90: Array | None
    cpu_seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Effort:
    """How hard the trees are tuned; with the seed of everything random."""

    trials: int
    seed: int


def make_forecasts(
    peers: Sequence[str], window: Window, known: Known, effort: Effort, progress: Any
) -> dict[str, Forecast]:
    """Ours and every peer's; ``year_ago`` is left out where the history does not reach a year back."""
    home = window.home
    forecasts = {OURS: _kept(home, OURS, known, effort, progress, lambda key: _ours(window, known, key, effort))}
    naive = _naive(known)
    for peer in peers:
        if peer in NAIVE:
            forecasts |= {peer: naive[peer]} if peer in naive else {}
        else:
            forecasts[peer] = _kept(
                home, peer, known, effort, progress, lambda _, name=peer: _peer(name, known, effort)
            )
    for name, forecast in forecasts.items():
        assert_usable(name, forecast, known.customers.num_rows)
    return forecasts


def assert_usable(name: str, forecast: Forecast, n: int) -> None:
    """Raises: OutputsDiffer where a forecast is not n finite numbers >= 0."""
    for what in ("predicted_value", "median", "p10", "p90"):
        values = getattr(forecast, what)
        if values is not None and (values.shape != (n,) or not np.isfinite(values).all() or (values < 0).any()):
            raise OutputsDiffer(f"{what} of {name} is not {n} finite numbers >= 0")


def _naive(known: Known) -> dict[str, Forecast]:
    from trainer import baselines

    started = time.process_time()
    forecasts = baselines.baseline_forecasts(known.customers, known.horizon_days)
    seconds = time.process_time() - started
    return {name: Forecast(values, values, None, None, seconds, ()) for name, values in forecasts.items()}


def _peer(name: str, known: Known, effort: Effort) -> Forecast:
    started = time.process_time()
    if name in TREES:
        values, notes = forecast_trees.forecast(name, known, effort.trials, effort.seed)
    else:
        outcome = forecast_lifetimes.forecast(name, known.customers, known.horizon_days)
        values, notes = np.maximum(outcome.values, 0), outcome.notes
    return Forecast(values, values, None, None, time.process_time() - started, tuple(notes))


def _ours(window: Window, known: Known, key: str, effort: Effort) -> Forecast:
    """Trains and judges by the command a person would type; its evaluation holds a row a customer.

    Raises:
      OutputsDiffer: it forecast other customers than it was given.
    """
    import pyarrow.parquet as pq

    from trainer.baselines import float_column

    model = os.path.join(window.home, f"model-{key}")
    command = ["-m", "trainer.task", "--features", *window.training, "--evaluation", window.test, "--output", model]
    cost = harness.measure([*command, "--seed", str(effort.seed)], environment={})
    found = pq.read_table(os.path.join(model, "evaluation.parquet"))
    assert_same_customers(OURS, found, known.customers)
    names = ("predicted_value", "value_p50", "value_p10", "value_p90")
    mean, median, p10, p90 = (float_column(found, name) for name in names)
    with open(os.path.join(model, "manifest.json"), encoding="utf8") as file:
        model_version = json.load(file)["model_version"]
    return Forecast(mean, median, p10, p90, cost.cpu_seconds, (model_version,))


def assert_same_customers(name: str, found: pa.Table, customers: pa.Table) -> None:
    """Raises: OutputsDiffer where the customers, or their order, are not those of the snapshot."""
    if not found["customer_id"].combine_chunks().equals(customers["customer_id"].combine_chunks()):
        raise OutputsDiffer(
            f"{name} has {found.num_rows} customers that are not the snapshot's {customers.num_rows} in their order"
        )


def _kept(home: str, name: str, known: Known, effort: Effort, progress: Any, make: Any) -> Forecast:
    key = _key(name, known, effort)
    path = os.path.join(home, "forecasts", f"{name}-{key}.parquet")
    if not os.path.exists(path):
        progress(f"  {name}")
        _write(path, make(key))
    forecast = _read(path)
    for note in forecast.notes:
        progress(f"  {name}: {note}")
    return forecast


def _key(name: str, known: Known, effort: Effort) -> str:
    if name == OURS:
        decisive: list[Any] = [version.source_fingerprint(), effort.seed]
    elif name in TREES:
        libraries = [metadata.version(package) for package in ("lightgbm", "optuna")]
        decisive = [inspect.getsource(forecast_trees), libraries, effort.trials, effort.seed]
    else:
        decisive = [inspect.getsource(forecast_lifetimes), metadata.version("lifetimes")]
    return hashlib.sha256(json.dumps([name, known.fingerprint, *decisive]).encode()).hexdigest()[:12]


def _write(path: str, forecast: Forecast) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"predicted_value": forecast.predicted_value, "median": forecast.median}
    columns |= {name: values for name in ("p10", "p90") if (values := getattr(forecast, name)) is not None}
    about = json.dumps({"cpu_seconds": forecast.cpu_seconds, "notes": forecast.notes})
    table = pa.table(columns).replace_schema_metadata({"forecast": about})
    os.makedirs(os.path.dirname(path), exist_ok=True)
    pq.write_table(table, f"{path}.writing")
    os.replace(f"{path}.writing", path)


def _read(path: str) -> Forecast:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads(table.schema.metadata[b"forecast"])
    columns = {name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in table.column_names}
    return Forecast(
        columns["predicted_value"], columns["median"], columns.get("p10"), columns.get("p90"),
        about["cpu_seconds"], tuple(about["notes"]),
    )  # fmt: skip
