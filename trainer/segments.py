"""The judge's metrics for parts of the customers: a forecast can be right on the whole and wrong for the new ones.

Four ways to part them (``groups``); within ``history``, ``country`` and ``cohort`` a customer is in one segment:

- ``history``: ``today`` (seen for the first time on the last day before the cutoff), ``one-time`` (one order day, an
  older one), ``repeat`` (two order days or more).
- ``newness``: ``new`` (first order day within the last 30 days). It overlaps with all of ``history``.
- ``country``: the eight with most customers and ``other``; left out where there is one only.
- ``cohort``: the calendar month of the first order day, the last twelve and all before as one; needs the cutoff.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainer import metrics
from trainer.baselines import float_column
from trainer.bootstrap import Bootstrap, in_favour, or_none
from trainer.metrics import Array

if TYPE_CHECKING:
    import pyarrow as pa

Mask = NDArray[np.bool_]

NEW_DAYS = 30
COUNTRIES, COHORTS = 8, 12
OTHER, UNKNOWN = "other", "unknown"
LEAST_CUSTOMERS = 50
"""With fewer an interval would be as unsure as what it is to qualify."""
METRICS = (
    "total_bias", "normalised_gini", "mae_median", "rmse_capped", "share_above_p90", "brier", "poisson_deviance",
)  # fmt: skip
AGAINST_MEAN = ("rmse_capped", "poisson_deviance")
"""Losses that a mean minimises, of money and of order days: what knowing the customer has to lower."""

_MODEL, _MEAN = "model", "population_mean"


def groups(customers: pa.Table, cutoff: date | None) -> dict[str, dict[str, Mask]]:
    """{dimension: {segment: (n,) mask}}; no segment is empty.

    Args:
      customers: n rows with age_days, order_days and country of ``schema.FEATURES``.
      cutoff: of the features; without it there are no cohorts.
    """
    age, order_days = float_column(customers, "age_days"), float_column(customers, "order_days")
    today, repeat = age <= 1, order_days >= 2
    found = {
        "history": {"today": today & ~repeat, "one-time": ~today & ~repeat, "repeat": repeat},
        "newness": {"new": age <= NEW_DAYS},
        "country": _countries(customers),
        "cohort": {} if cutoff is None else _cohorts(age, cutoff),
    }
    present = {of: {name: mask for name, mask in masks.items() if mask.any()} for of, masks in found.items()}
    return {of: masks for of, masks in present.items() if masks}


def _countries(customers: pa.Table) -> dict[str, Mask]:
    encoded = customers["country"].combine_chunks().fill_null(UNKNOWN).dictionary_encode()
    names, code = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
    if len(names) < 2:
        return {}
    size = np.bincount(code, minlength=len(names))
    largest = sorted(range(len(names)), key=lambda i: (-size[i], names[i]))[:COUNTRIES]
    kept = {names[i]: code == i for i in largest}
    rest = ~np.isin(code, largest)
    # A country that is called "other" is one of the others.
    return {**kept, OTHER: kept[OTHER] | rest if OTHER in kept else rest}


def _cohorts(age: Array, cutoff: date) -> dict[str, Mask]:
    month = (np.datetime64(cutoff, "D") - age.astype("timedelta64[D]")).astype("datetime64[M]")
    last = np.unique(month)[-COHORTS:]
    return {f"before {last[0]}": month < last[0], **{str(each): month == each for each in last}}


@dataclass(frozen=True)
class Judged:
    """Customers, what they did and what was forecast for them: (n,) each.

    ``cap`` (money, of the whole population) is where ``rmse_capped`` cuts off. The population's means are constants.
    """

    actual: Array
    orders: Array
    predicted: Array
    p50: Array
    p90: Array
    purchase_probability: Array
    expected_orders: Array
    cap: float
    mean_value: float
    mean_orders: float

    @classmethod
    def of(
        cls, actual: Array, orders: Array, predicted: Array, distribution: dict[str, Array], cap: float
    ) -> Judged:  # fmt: skip
        """The population; ``distribution`` has the columns of ``schema.PREDICTIONS``.

        The mean value is that of forecasts cut off at the cap, as the loss is: a mean with the largest customers'
        money in it would be too easy to beat.
        """
        return cls(
            actual, orders, predicted, distribution["value_p50"], distribution["value_p90"],
            distribution["purchase_probability"], distribution["expected_orders"], cap,
            float(np.minimum(predicted, cap).mean()), float(distribution["expected_orders"].mean()),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.actual)

    def take(self, rows: NDArray[Any]) -> Judged:
        return Judged(
            self.actual[rows], self.orders[rows], self.predicted[rows], self.p50[rows], self.p90[rows],
            self.purchase_probability[rows], self.expected_orders[rows], self.cap, self.mean_value, self.mean_orders,
        )  # fmt: skip

    def measure(self, weight: Array) -> dict[str, dict[str, Array]]:
        """{forecast: {metric: (b,)}} for weights (b, n), of the model and of the population's mean."""
        actual, predicted = self.actual, self.predicted
        model = {
            "total_bias": metrics.total_bias(actual, predicted, weight),
            "normalised_gini": metrics.normalised_gini(actual, predicted, weight),
            "mae_median": metrics.mae(actual, self.p50, weight),
            "rmse_capped": metrics.rmse_capped(actual, predicted, self.cap, weight),
            "share_above_p90": metrics.share_above(actual, self.p90, weight),
            "brier": metrics.brier((self.orders >= 1).astype(np.float64), self.purchase_probability, weight),
            "poisson_deviance": metrics.poisson_deviance(self.orders, self.expected_orders, weight),
        }
        everybody = np.full(len(self), self.mean_value), np.full(len(self), self.mean_orders)
        mean = {
            "rmse_capped": metrics.rmse_capped(actual, everybody[0], self.cap, weight),
            "poisson_deviance": metrics.poisson_deviance(self.orders, everybody[1], weight),
        }
        return {_MODEL: model, _MEAN: mean}


def judge(
    population: Judged, customers: pa.Table, cutoff: date | None, seed: int, subset: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """{dimension: {segment: what ``_segment`` says}} for the groups of the same n customers."""
    return {
        dimension: {name: _segment(population.take(np.flatnonzero(mask)), seed, subset) for name, mask in masks.items()}
        for dimension, masks in groups(customers, cutoff).items()
    }


def _segment(part: Judged, seed: int, subset: int) -> dict[str, Any]:
    """One segment for JSON.

    ``customers``, ``buyers``, ``actual_total``, ``predicted_total`` (money), ``metrics`` {of ``METRICS``: value},
    ``intervals`` {the same: 95% [low, high]}, ``population_mean`` {of ``AGAINST_MEAN``: value} for the forecast that
    gives each customer the mean of the whole population's forecasts, ``paired`` {the same: 95% [low, high] of
    the model minus it} and ``beats_population_mean`` {the same: whether that interval is below 0}. With fewer than
    ``LEAST_CUSTOMERS`` the intervals are [None, None], and whether it beats the mean is None: not known.
    """
    measured = part.measure(np.ones((1, len(part))))
    exact = {f: {m: float(v[0]) for m, v in of.items()} for f, of in measured.items()}
    model, mean = exact[_MODEL], exact[_MEAN]
    intervals: dict[str, list[float | None]] = {m: [None, None] for m in METRICS}
    paired: dict[str, list[float | None]] = {m: [None, None] for m in AGAINST_MEAN}
    beats: dict[str, bool | None] = dict.fromkeys(AGAINST_MEAN)
    if len(part) >= LEAST_CUSTOMERS:
        bootstrap = Bootstrap.of(part, seed, subset)
        intervals = {m: bootstrap.interval(_MODEL, m, model[m]) for m in METRICS}
        paired = {m: bootstrap.interval(_MODEL, m, model[m] - mean[m], minus=_MEAN) for m in AGAINST_MEAN}
        beats = {m: in_favour(False, paired[m]) for m in AGAINST_MEAN}
    return {
        "customers": len(part),
        "buyers": int((part.actual > 0).sum()),
        "actual_total": float(part.actual.sum()),
        "predicted_total": float(part.predicted.sum()),
        "metrics": {m: or_none(model[m]) for m in METRICS},
        "intervals": intervals,
        "population_mean": {m: or_none(mean[m]) for m in AGAINST_MEAN},
        "paired": paired,
        "beats_population_mean": beats,
    }
