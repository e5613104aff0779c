"""The judge of ``benchmarks.forecast``: metrics at every test cutoff and their mean, with bootstrap intervals.

One Poisson bootstrap for everything: a resample gives each customer one weight, the same at every cutoff and for every
contestant. So differences are paired, and the mean over cutoffs knows that the same people were judged several times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.forecast_contestants import Forecast
from benchmarks.forecast_names import OURS
from trainer import metrics
from trainer.metrics import Array

MEAN = "mean"  # the scope of the mean over the cutoffs
METRICS = ("normalised_gini", "spearman", "decile_mape", "rmse", "rmse_capped", "mae_median", "total_bias")
SHARE_ABOVE_P90, MEAN_ABS_BIAS = "share_above_p90", "mean_abs_bias"
SHARE_WHERE_POSITIVE = "share_above_positive_p90"
_SIGNED = ("normalised_gini", "spearman", "total_bias")
_BATCH = 25  # resamples at once: their weights of some 20,000 customers stay in cache

Measured = dict[str, dict[str, Array]]  # contestant -> metric -> (b,)


@dataclass(frozen=True)
class Sample:
    """The customers of one test cutoff.

    Attributes:
      person: [n], the customer's row in the weights that all cutoffs share.
      actual: [n], future_value.
      tie_break: [n], distinct numbers that order equal forecasts, the same for all contestants.
    """

    person: NDArray[np.intp]
    actual: Array
    tie_break: Array
    forecasts: Mapping[str, Forecast]

    def measure(self, weight: Array) -> Measured:
        """Every metric of every contestant for b weightings of the customers, ``weight`` (b, n)."""
        best = metrics.GainCurve.of(self.actual, self.actual, weight)
        ranks = metrics.mid_ranks(self.actual, weight)
        cap = metrics.cap_of(self.actual)
        return {name: self._measure(f, best, ranks, cap, weight) for name, f in self.forecasts.items()}

    def _measure(
        self, forecast: Forecast, best: metrics.GainCurve, ranks: Array, cap: float, weight: Array
    ) -> dict[str, Array]:
        actual, predicted = self.actual, forecast.predicted_value
        curve = metrics.GainCurve.of(actual, predicted, weight)
        found = {
            "normalised_gini": metrics.gini_ratio(curve, best),
            "spearman": metrics.rank_correlation(ranks, predicted, self.tie_break, weight),
            "decile_mape": metrics.decile_errors(curve).mean(axis=-1),
            "rmse": metrics.rmse(actual, predicted, weight),
            "rmse_capped": metrics.rmse_capped(actual, predicted, cap, weight),
            "mae_median": metrics.mae(actual, forecast.median, weight),
            "total_bias": metrics.total_bias(actual, predicted, weight),
        }
        if forecast.p90 is not None:
            found[SHARE_ABOVE_P90] = metrics.share_above(actual, forecast.p90, weight)
            found[SHARE_WHERE_POSITIVE] = metrics.share_above_where_positive(actual, forecast.p90, weight)
        return found


def make_samples(
    customers: Mapping[str, Sequence[str]], actual: Mapping[str, Array],
    forecasts: Mapping[str, Mapping[str, Forecast]], seed: int,
) -> dict[str, Sample]:  # fmt: skip
    """Cutoff -> sample, from cutoff -> customer ids, labels and forecasts in one order."""
    ids = [np.asarray(list(names), dtype=str) for names in customers.values()]
    everybody, person = np.unique(np.concatenate(ids), return_inverse=True)
    tie_break = np.random.default_rng(seed).permutation(len(everybody)).astype(np.float64)
    parts = np.split(person, np.cumsum([len(names) for names in ids])[:-1])
    return {
        cutoff: Sample(part, actual[cutoff], tie_break[part], forecasts[cutoff])
        for cutoff, part in zip(customers, parts, strict=True)
    }


@dataclass(frozen=True)
class Judgement:
    """Metrics by scope (a cutoff, or ``MEAN``) and contestant: exact, and in each resample (``resamples``,)."""

    exact: dict[str, Measured]
    resampled: dict[str, Measured]

    def value(self, scope: str, contestant: str, metric: str) -> float:
        return float(self.exact[scope][contestant][metric][0])

    def interval(self, scope: str, contestant: str, metric: str) -> tuple[float, float]:
        """95%."""
        resampled = self.resampled[scope][contestant][metric]
        low, high = _around(self.value(scope, contestant, metric), resampled)
        return (low, high) if metric in _SIGNED else (max(low, 0.0), high)

    def paired(self, scope: str, peer: str, metric: str) -> tuple[float, float, float]:
        """Ours minus the peer's, and the 95% interval of that difference."""
        difference = self.value(scope, OURS, metric) - self.value(scope, peer, metric)
        of = self.resampled[scope]
        return difference, *_around(difference, of[OURS][metric] - of[peer][metric])

    def peers(self, scope: str) -> list[str]:
        return [name for name in self.exact[scope] if name != OURS]


def _around(estimate: float, resampled: Array) -> tuple[float, float]:
    # As trainer.evaluate: errors averaged as absolute values are larger in a resample than in the sample, so that
    # the spread of the resamples is laid around the estimate.
    low, middle, high = np.percentile(resampled, [2.5, 50, 97.5])
    return float(estimate + low - middle), float(estimate + high - middle)


def judge(samples: Mapping[str, Sample], resamples: int, seed: int) -> Judgement:
    """Measures every contestant; Poisson(1) weights (Chamandy, Muralidharan, Najmi and Naidu 2012)."""
    people = 1 + max(int(sample.person.max()) for sample in samples.values())
    rng = np.random.default_rng(seed)
    batches = []
    for start in range(0, resamples, _BATCH):
        weight = rng.poisson(1.0, (min(_BATCH, resamples - start), people)).astype(np.float64)
        batches.append(_measure_all(samples, weight))
    return Judgement(_measure_all(samples, np.ones((1, people))), _concatenated(batches))


def _measure_all(samples: Mapping[str, Sample], weight: Array) -> dict[str, Measured]:
    measured = {cutoff: sample.measure(weight[:, sample.person]) for cutoff, sample in samples.items()}
    return {**measured, MEAN: mean_over_cutoffs(list(measured.values()))}


def mean_over_cutoffs(measured: Sequence[Measured]) -> Measured:
    """Of the contestants that have a forecast at every cutoff; with the mean of |total_bias|."""
    everywhere = [name for name in measured[0] if all(name in of for of in measured)]
    means = {
        name: {metric: np.mean([of[name][metric] for of in measured], axis=0) for metric in measured[0][name]}
        for name in everywhere
    }
    for name in everywhere:
        means[name][MEAN_ABS_BIAS] = np.mean([np.abs(of[name]["total_bias"]) for of in measured], axis=0)
    return means


def _concatenated(batches: Sequence[dict[str, Measured]]) -> dict[str, Measured]:
    return {
        scope: {
            name: {metric: np.concatenate([batch[scope][name][metric] for batch in batches]) for metric in of_name}
            for name, of_name in of_scope.items()
        }
        for scope, of_scope in batches[0].items()
    }
