"""Boosted trees: the same customers seen in steps and corners where the network sees slopes.

Three LightGBM models (Ke et al. 2017): whether a customer's value will be positive, the logarithm of the value of those
whose is, and the order days. Together they make a zero-inflated lognormal value, with one sigma for everybody. Alone they
cannot reach beyond the largest customers seen; beside a network and a purchase model they steady both.
Their ``purchase_probability`` is that of a positive value, which differs from that of an order day only by customers who return
all they buy.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer.baselines import float_column, require_columns
from trainer.predictor import FORECAST_COLUMNS
from trainer.settings import SIGMA_CAP, SIGMA_FLOOR, VALUE_CAP_MULTIPLE
from transforms import schema, storage
from transforms.errors import UsageError

if TYPE_CHECKING:
    import lightgbm
    import pyarrow as pa

Array = NDArray[np.float64]

# Small and slow, so that no data set is too small for it to stop by itself; measured no worse with 2,000 rows than tuned.
ROUNDS = 150
SETTINGS = {
    "num_leaves": 15, "learning_rate": 0.04, "min_data_in_leaf": 60, "feature_fraction": 0.6, "bagging_fraction": 0.8,
    "bagging_freq": 1, "lambda_l2": 5.0, "verbose": -1, "deterministic": True, "force_row_wise": True,
}  # fmt: skip
# Below, a leaf of 60 rows says nothing.
FEWEST_BUYERS = 300
_PARTS = ("purchase", "log_value", "orders")
_DESCRIPTION = "boosting.json"


def inputs() -> list[str]:
    """The columns the trees read: every feature that is a number."""
    return [column.name for column in schema.FEATURES if column.type is not schema.Type.STRING]


def matrix(customers: pa.Table | pa.RecordBatch) -> NDArray[np.float32]:
    """[n, k] of ``inputs()``; null becomes NaN, which the trees take for what it is.

    Raises:
      UsageError: a column is missing.
    """
    require_columns(customers, inputs())
    result = np.empty((customers.num_rows, len(inputs())), np.float32)
    for i, name in enumerate(inputs()):
        result[:, i] = float_column(customers, name)
    return result


@dataclass(frozen=True)
class Boosting:
    """Fitted trees. ``sigma``: of the logarithm of a positive value; ``value_cap``: no forecast exceeds it, money."""

    trees: Mapping[str, lightgbm.Booster]
    sigma: float
    value_cap: float
    horizon_days: int

    def forecasts(self, customers: pa.Table | pa.RecordBatch) -> dict[str, Array]:
        """The columns of ``predictor.FORECAST_COLUMNS``, [n] each."""
        if not customers.num_rows:
            return {name: np.empty(0) for name in FORECAST_COLUMNS}
        x = matrix(customers)
        raw = {name: np.asarray(tree.predict(x, num_threads=1), np.float64) for name, tree in self.trees.items()}
        positive, mu = np.clip(raw["purchase"], 0.0, 1.0), raw["log_value"]

        def money(value: Array) -> Array:
            return np.minimum(value, self.value_cap)

        orders = np.clip(raw["orders"], 0.0, float(self.horizon_days))
        quantiles = {f"value_p{round(100 * q)}": money(self._quantile(positive, mu, q)) for q in (0.1, 0.5, 0.9)}
        mean = money(positive * np.exp(np.minimum(mu + self.sigma**2 / 2, 300.0)))
        return {
            "predicted_value": mean, **quantiles, "purchase_probability": positive, "expected_orders": orders,
        }  # fmt: skip

    def _quantile(self, positive: Array, mu: Array, level: float) -> Array:
        nothing = 1 - positive
        rest = np.where(level > nothing, (level - nothing) / np.maximum(positive, 1e-12), 0.5)
        return np.where(level > nothing, np.exp(np.minimum(mu + self.sigma * special.ndtri(rest), 300.0)), 0.0)

    def fingerprint(self) -> str:
        """Equal for equal trees, however many threads grew them."""
        # Behind the trees LightGBM writes the settings they were grown with, the number of threads among them.
        text = "".join(self.trees[name].model_to_string().split("\nparameters:")[0] for name in _PARTS)
        return hashlib.sha256(f"{text}{self.sigma}{self.value_cap}".encode()).hexdigest()

    def save(self, directory: str) -> None:
        for name, tree in self.trees.items():
            storage.write_bytes(storage.join(directory, f"{name}.txt"), tree.model_to_string().encode())
        facts = {
            "sigma": self.sigma,
            "value_cap": self.value_cap,
            "horizon_days": self.horizon_days,
            "inputs": inputs(),
        }
        storage.write_bytes(storage.join(directory, _DESCRIPTION), json.dumps(facts, indent=2).encode())


def fit(
    x: NDArray[np.float32], value: Array, orders: Array, people: NDArray[np.int64], *, horizon_days: int, seed: int
) -> Boosting:
    """Trees of [n, k] features, [n] future values and [n] future order days.

    Args:
      people: [n], a number for each customer; rows of one customer at several cutoffs share it.

    Raises:
      UsageError: fewer than ``FEWEST_BUYERS`` rows have a positive value.
    """
    bought = value > 0
    if bought.sum() < FEWEST_BUYERS:
        raise UsageError(
            f"{int(bought.sum())} rows with a purchase are too few for trees: accepted are {FEWEST_BUYERS}"
        )
    logs = np.log(value[bought])
    trees = {
        "purchase": _train("binary", x, bought.astype(np.float64), seed),
        "log_value": _train("regression", x[bought], logs, seed),
        "orders": _train("poisson", x, orders, seed),
    }
    sigma = float(np.clip(_residual(x[bought], logs, people[bought], seed), SIGMA_FLOOR, SIGMA_CAP))
    return Boosting(trees, sigma, VALUE_CAP_MULTIPLE * float(value.max()), horizon_days)


def _residual(x: NDArray[np.float32], y: Array, people: NDArray[np.int64], seed: int) -> float:
    """How far [n] values lie from what trees grown on the other half of the customers say, as a root mean square.

    On the rows they were grown on, trees are too sure of themselves: 0.40 where the truth was 0.5, from 1,200 rows.
    """
    # By customer: what snapshots a month apart say of one is nearly the same.
    first = (np.random.default_rng(seed).random(int(people.max()) + 1) < 0.5)[people]
    off = np.empty_like(y)
    for half in (first, ~first):
        grown = _train("regression", x[half], y[half], seed)
        off[~half] = y[~half] - np.asarray(grown.predict(x[~half], num_threads=threads()))
    return float(np.sqrt(np.mean(np.square(off))))


def _train(objective: str, x: NDArray[np.float32], y: Array, seed: int) -> lightgbm.Booster:
    import lightgbm

    settings = {**SETTINGS, "objective": objective, "seed": seed, "num_threads": threads()}
    return lightgbm.train(settings, lightgbm.Dataset(x, y, params={"verbose": -1}), ROUNDS)


def threads() -> int:
    """LightGBM's: as many as OMP_NUM_THREADS says, else one; where cores are shared, more wait for each other at full load."""
    return int((os.environ.get("OMP_NUM_THREADS") or "1").split(",")[0])


def load(directory: str) -> Boosting:
    """The trees saved there.

    Raises:
      UsageError: they were grown on other inputs than this code's.
    """
    import lightgbm

    facts = json.loads(storage.read_bytes(storage.join(directory, _DESCRIPTION)))
    if facts["inputs"] != inputs():
        raise UsageError(f"{directory} was trained on other features than this code's: train it anew")
    trees = {
        name: lightgbm.Booster(model_str=storage.read_bytes(storage.join(directory, f"{name}.txt")).decode())
        for name in _PARTS
    }
    return Boosting(trees, facts["sigma"], facts["value_cap"], facts["horizon_days"])
