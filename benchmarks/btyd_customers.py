"""Simulated customers of the buy-till-you-die models: what they buy follows the models' own assumptions exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counted = dict[str, Array]


def simulate(model: str, parameters: Mapping[str, float], age: Array, rng: np.random.Generator) -> Counted:
    """Customers observed for ``age`` [n], in continuous time: frequency x, recency t_x and age T, [n] each.

    Args:
      model: bgnbd, mbgnbd or pareto.
      parameters: of the model, in the unit of time of ``age``.
    """
    rate = rng.gamma(parameters["r"], 1 / parameters["alpha"], len(age))
    if model == "pareto":
        dropout = rng.gamma(parameters["s"], 1 / parameters["beta"], len(age))
        # So low a rate that its reciprocal overflows is a customer who never leaves.
        active = np.minimum(age, rng.exponential(size=len(age)) / np.maximum(dropout, 1e-300))
        x = rng.poisson(rate * active).astype(np.float64)
        return {"frequency": x, "recency": _last_of(x, x, active, rng), "age": age}
    chances = rng.geometric(np.maximum(rng.beta(parameters["a"], parameters["b"], len(age)), 1e-15))
    most = chances.astype(np.float64) - (model == "mbgnbd")  # there the first purchase was a chance already
    possible = rng.poisson(rate * age).astype(np.float64)
    x = np.minimum(possible, most)
    return {"frequency": x, "recency": _last_of(x, possible, age, rng), "age": age}


def _last_of(x: Array, possible: Array, span: Array, rng: np.random.Generator) -> Array:
    """The time of the x-th of ``possible`` purchases that lie anywhere in the span; 0 where x is 0."""
    return np.where(x > 0, span * rng.beta(np.maximum(x, 1), possible - x + 1), 0.0)


def whole_days(customers: Counted) -> dict[str, NDArray[np.int64]]:
    """The columns of a snapshot: times in days become whole, and several purchases of a day become one order day."""
    age = np.maximum(np.ceil(customers["age"]), 1)
    recency = np.minimum(np.ceil(customers["recency"]), age)
    frequency = np.minimum(customers["frequency"], recency)
    named = {"frequency": frequency, "recency_days": recency, "age_days": age}
    return {name: values.astype(np.int64) for name, values in named.items()}
