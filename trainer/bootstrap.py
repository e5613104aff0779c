"""How uncertain a measurement is: what it does when the customers it was made on are drawn anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import Array

RESAMPLES = 200
BATCHES = 8  # 25 resamples at once keep the weights in cache: measured half the time of 5 at once
_SIGNED = ("normalised_gini", "spearman", "total_bias")


class Measurable(Protocol):
    """Customers and forecasts for them; ``measure`` gives {forecast: {metric: (b,)}} for weights (b, n)."""

    def __len__(self) -> int: ...
    def take(self, rows: NDArray[np.intp]) -> Self: ...
    def measure(self, weight: Array) -> dict[str, dict[str, Array]]: ...


@dataclass(frozen=True)
class Bootstrap:
    """How far each metric moves in each resample from its value on what was resampled: {...: (RESAMPLES,)}."""

    deviations: dict[str, dict[str, Array]]

    @classmethod
    def of(cls, sample: Measurable, seed: int, subset: int) -> Bootstrap:
        """Poisson bootstrap; for more customers than ``subset`` the bag of little bootstraps.

        Every customer is present Poisson(1) times (Chamandy, Muralidharan, Najmi and Naidu 2012, "Estimating
        uncertainty for massive data streams"). Above ``subset`` customers each batch draws a subset of that
        size and gives each of them Poisson(n / subset), so that a resample still stands for n customers
        (Kleiner, Talwalkar, Sarkar and Jordan 2014, "A scalable bootstrap for massive data").
        """
        rng = np.random.default_rng(seed)
        n, size = len(sample), min(len(sample), subset)
        batches: list[dict[str, dict[str, Array]]] = []
        for _ in range(BATCHES):
            part = sample if size == n else sample.take(rng.choice(n, size, replace=False, shuffle=False))
            centre = part.measure(np.ones((1, size)))
            weight = rng.poisson(n / size, (RESAMPLES // BATCHES, size)).astype(np.float64)
            resampled = part.measure(weight)
            batches.append({f: {m: v - centre[f][m] for m, v in of.items()} for f, of in resampled.items()})
        first = batches[0]
        return cls({f: {m: np.concatenate([b[f][m] for b in batches]) for m in first[f]} for f in first})

    def interval(self, name: str, metric: str, estimate: float, minus: str | None = None) -> list[float | None]:
        """95% interval [low, high] around the estimate; of the paired difference when ``minus`` is given."""
        deviation = self.deviations[name][metric]
        if minus is not None:
            deviation = deviation - self.deviations[minus][metric]
        deviation = deviation[np.isfinite(deviation)]
        if not deviation.size or not math.isfinite(estimate):
            return [None, None]
        low, middle, high = np.percentile(deviation, [2.5, 50, 97.5])
        # Errors averaged as absolute values are larger in a resample than in the sample; their spread is
        # what tells about uncertainty, so it is laid around the estimate.
        bounds = [estimate + low - middle, estimate + high - middle]
        if minus is None and metric not in _SIGNED:
            bounds[0] = max(bounds[0], 0.0)
        return [float(bound) for bound in bounds]


def or_none(value: float) -> float | None:
    """What is undefined (NaN) or infinite has no number in JSON."""
    return float(value) if math.isfinite(value) else None


def in_favour(higher_is_better: bool, interval: list[float | None]) -> bool:
    """Whether the interval of a paired difference lies wholly on the better side of 0."""
    low, high = interval
    if low is None or high is None:
        return False
    return low > 0 if higher_is_better else high < 0
