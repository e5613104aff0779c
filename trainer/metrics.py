"""How good a forecast is: pure functions on NumPy arrays.

``actual`` and ``predicted`` are float64 of shape (n,), one value a customer. ``weight`` counts how often
each customer is present: absent (everybody once), (n,), or (b, n) for b bootstrap resamples at once; the
result has the shape of ``weight`` without its last axis. What is undefined (the ranking of equal labels, a
share of nothing) is NaN, never an error. Nothing here depends on the order of the customers, and ties in a
prediction share what they win: the result is the expected value over every order of the tied customers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DECILES = 10
CAP_PERCENTILE = 99.5
# A Poisson mean of 0 makes one order infinitely surprising; this mean costs 28 per order instead.
SMALLEST_MEAN = 1e-6
LEVELS = (0.1, 0.5, 0.9)


def _ones(values: Array, weight: Array | None) -> Array:
    return np.ones(len(values)) if weight is None else weight


def _ratio(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator, NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)


def _total(values: Array, weight: Array) -> Array:
    # Not weight @ values: BLAS spreads a product this small over threads that spin while other work waits.
    return np.einsum("...n,n->...", weight, values)


def mean(values: Array, weight: Array | None = None) -> Array:
    """Weighted mean over the customers; NaN when nobody is present."""
    weight = _ones(values, weight)
    return _ratio(_total(values, weight), weight.sum(axis=-1))


@dataclass(frozen=True)
class GainCurve:
    """Cumulative sums over the customers from the highest prediction down, at the end of every tie.

    ``customers``, ``actual`` and ``predicted`` have shape (..., g + 1): g different predictions, after a
    leading 0. Between two points the curve is linear, which is its expected value over the tie's orders.
    """

    customers: Array
    actual: Array
    predicted: Array

    @classmethod
    def of(cls, actual: Array, predicted: Array, weight: Array | None = None) -> GainCurve:
        order = np.argsort(-predicted, kind="stable")
        ordered = predicted[order]
        ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        present = np.take(_ones(actual, weight), order, axis=-1)

        def cumulated(values: Array) -> Array:
            sums = np.zeros((*values.shape[:-1], len(order) + 1))
            np.cumsum(values, axis=-1, out=sums[..., 1:])
            return sums if len(ends) == len(order) else np.take(sums, np.append(0, ends + 1), axis=-1)

        return cls(cumulated(present), cumulated(present * actual[order]), cumulated(present * ordered))

    def at(self, shares: Array) -> tuple[Array, Array]:
        """Sums of actual and predicted over the given shares of the customers, each (..., len(shares))."""
        rows = self.customers.reshape(-1, self.customers.shape[-1])
        curves = (self.actual, self.predicted)
        found = [
            [np.interp(shares * x[-1], x, y) for x, y in zip(rows, curve.reshape(rows.shape), strict=True)]
            for curve in curves
        ]
        shape = (*self.customers.shape[:-1], len(shares))
        return np.reshape(found[0], shape), np.reshape(found[1], shape)

    def by_decile(self) -> tuple[Array, Array]:
        """Sums of actual and predicted in each tenth of the customers, highest predictions first: (..., 10).

        A customer on the border of two tenths is divided between them, so that n need not be a multiple of 10.
        """
        actual, predicted = self.at(np.arange(DECILES + 1) / DECILES)
        return np.diff(actual, axis=-1), np.diff(predicted, axis=-1)

    def gini(self) -> Array:
        """Area between the curve of actual value and the diagonal, times 2: G = 2 A - 1.

        NaN when the actual total is 0.
        """
        steps = np.diff(self.customers, axis=-1)
        doubled = np.einsum("...g,...g->...", steps, self.actual[..., 1:] + self.actual[..., :-1])
        return _ratio(doubled, self.customers[..., -1] * self.actual[..., -1]) - 1


def gini_ratio(curve: GainCurve, best: GainCurve) -> Array:
    """Normalised Gini from two curves: the forecast's and the one ordered by the actual values.

    NaN when every label is the same: there is nothing to rank.
    """
    perfect = best.gini()
    return _ratio(curve.gini(), np.where(perfect > 1e-12, perfect, 0.0))


def normalised_gini(actual: Array, predicted: Array, weight: Array | None = None) -> Array:
    """Gini of the ordering by ``predicted`` / Gini of the ordering by ``actual``: 1 perfect, 0 random, -1 reversed.

    Kaggle's normalised Gini (Allstate claim prediction, 2011) as used for customer value by Wang, Liu and
    Miao (2019), "A deep probabilistic model for customer lifetime value prediction", section 4.2; here with
    ties at their expected value.
    """
    return gini_ratio(GainCurve.of(actual, predicted, weight), GainCurve.of(actual, actual, weight))


def decile_errors(curve: GainCurve) -> Array:
    """|predicted - actual| / actual of each tenth by prediction, (..., 10).

    A tenth that bought nothing has no relative error: it counts 0 when nothing was predicted for it, else 1.
    """
    actual, predicted = curve.by_decile()
    no_value = np.where(predicted > 0, 1.0, 0.0)
    return np.where(actual > 0, _ratio(np.abs(predicted - actual), actual), no_value)


def decile_mape(actual: Array, predicted: Array, weight: Array | None = None) -> Array:
    """Mean over the tenths by prediction of |sum predicted - sum actual| / sum actual.

    Wang, Liu and Miao (2019), section 4.3. For a tenth without value see ``decile_errors``.
    """
    return decile_errors(GainCurve.of(actual, predicted, weight)).mean(axis=-1)


def top_share(curve: GainCurve) -> Array:
    """Share of the actual value that the highest tenth by prediction holds; NaN when there is no value."""
    return _ratio(curve.at(np.array([1 / DECILES]))[0][..., 0], curve.actual[..., -1])


def top_decile_share(actual: Array, predicted: Array, weight: Array | None = None) -> Array:
    """``top_share`` of the ordering by ``predicted``; with ``predicted=actual`` the best possible."""
    return top_share(GainCurve.of(actual, predicted, weight))


def mid_ranks(values: Array, weight: Array | None = None) -> Array:
    """Mean rank of each customer, from 0 to the sum of the weights; equal values share theirs. (..., n)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    sums = np.add.reduceat(np.take(_ones(values, weight), order, axis=-1), starts, axis=-1)
    middle = np.cumsum(sums, axis=-1) - sums / 2
    tie = np.empty(len(order), dtype=np.intp)
    tie[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    return np.take(middle, tie, axis=-1)


def rank_correlation(actual_ranks: Array, predicted: Array, tie_break: Array, weight: Array | None = None) -> Array:
    """Spearman's rho from the ``mid_ranks`` of the actual values; ``tie_break`` (n,) orders equal predictions.

    NaN when every label is the same. A customer drawn k times by a resample shares one rank k times.
    """
    order = np.lexsort((tie_break, predicted))
    present = np.take(_ones(predicted, weight), order, axis=-1)
    total = present.sum(axis=-1, keepdims=True)
    x = np.take(actual_ranks, order, axis=-1) - total / 2
    y = np.cumsum(present, axis=-1)
    y -= present / 2
    y -= total / 2

    def moment(a: Array, b: Array) -> Array:
        return np.einsum("...n,...n,...n->...", present, a, b)

    return _ratio(moment(x, y), np.sqrt(moment(x, x) * moment(y, y)))


def spearman(actual: Array, predicted: Array, seed: int = 0, weight: Array | None = None) -> Array:
    """Spearman's rank correlation; ties in the prediction are broken at random, ties in the labels share a rank.

    Shared ranks in the prediction would reward a model for calling its lowest 70% equal: most of them did
    buy the same, nothing. Broken at random, not knowing earns nothing: on average, and exactly nothing where
    all customers are predicted the same.
    """
    tie_break = np.random.default_rng(seed).permutation(len(actual)).astype(np.float64)
    correlation = rank_correlation(mid_ranks(actual, weight), predicted, tie_break, weight)
    return correlation * 0 if np.ptp(predicted) == 0 else correlation  # * 0: undefined (NaN) stays undefined


def rmse(actual: Array, predicted: Array, weight: Array | None = None) -> Array:
    """Root of the mean squared error, in money: the loss the mean minimises."""
    return np.sqrt(mean(np.square(predicted - actual), weight))


def cap_of(actual: Array) -> float:
    """The 99.5th percentile of the labels, or infinity (no cap) where so few buy that it is 0."""
    cap = float(np.percentile(actual, CAP_PERCENTILE))
    return cap if cap > 0 else np.inf


def rmse_capped(actual: Array, predicted: Array, cap: float, weight: Array | None = None) -> Array:
    """RMSE with label and forecast both cut off at ``cap``: three customers must not decide about a model."""
    return rmse(np.minimum(actual, cap), np.minimum(predicted, cap), weight)


def mae(actual: Array, median: Array, weight: Array | None = None) -> Array:
    """Mean absolute error, in money: the loss the median minimises. Predicting 0 often wins it."""
    return mean(np.abs(median - actual), weight)


def total_bias(actual: Array, predicted: Array, weight: Array | None = None) -> Array:
    """sum predicted / sum actual - 1; NaN when the actual total is 0."""
    weight = _ones(actual, weight)
    return _ratio(_total(predicted, weight), _total(actual, weight)) - 1


def pinball(actual: Array, quantile: Array, level: float, weight: Array | None = None) -> Array:
    """Mean of max(level (y - q), (level - 1)(y - q)), in money: the loss the quantile minimises.

    Koenker and Bassett (1978), "Regression quantiles".
    """
    error = actual - quantile
    return mean(np.maximum(level * error, (level - 1) * error), weight)


def share_above(actual: Array, quantile: Array, weight: Array | None = None) -> Array:
    """Share of labels above a quantile. For perfect p90: at most 0.1, less where P(no value) exceeds 0.9."""
    return mean((actual > quantile).astype(np.float64), weight)


def share_above_where_positive(actual: Array, quantile: Array, weight: Array | None = None) -> Array:
    """The same among those whose quantile is above 0: 0.1 for a perfect p90, however few customers buy."""
    weight, some = _ones(actual, weight), (quantile > 0).astype(np.float64)
    return _ratio(_total(some * (actual > quantile), weight), _total(some, weight))


def pit_at_levels(
    actual: Array, quantiles: Array, purchase_probability: Array, weight: Array | None = None
) -> tuple[Array, ...]:
    """Share of customers whose randomised PIT is at most 0.1, 0.5 and 0.9; a calibrated forecast gives just these.

    The randomised PIT is F(y-) + V (F(y) - F(y-)) with V uniform (Czado, Gneiting and Held 2009, "Predictive
    model assessment for count data"): uniform for a perfect forecast although F jumps at 0. Knowing F only at
    0 and at three quantiles is enough to know its share below a level l *exactly*, with V integrated out:
    a label of 0 has a PIT uniform on [0, P0] and counts min(1, l / P0); a positive label counts 1 when
    it is at most the l-quantile. P0 is taken as 1 - purchase_probability, which leaves out the few customers
    whose orders of the horizon are all returned: an order day, and no value.

    Args:
      quantiles: (3, n), the forecasts of ``LEVELS``.
    """
    no_value = 1 - purchase_probability
    shares = []
    for level, quantile in zip(LEVELS, quantiles, strict=True):
        # maximum() also covers P0 = 0: a label of 0 that was called impossible lies below every level.
        below = np.where(actual > 0, actual <= quantile, level / np.maximum(no_value, level))
        shares.append(mean(below.astype(np.float64), weight))
    return tuple(shares)


def pit_distance(actual: Array, quantiles: Array, purchase_probability: Array, weight: Array | None = None) -> Array:
    """max over ``LEVELS`` of |share of randomised PITs at most l - l|: 0 calibrated, at most 0.9.

    The Kolmogorov-Smirnov distance to the uniform distribution read at three points: a lower bound of it.
    """
    shares = pit_at_levels(actual, quantiles, purchase_probability, weight)
    return np.max([np.abs(share - level) for level, share in zip(LEVELS, shares, strict=True)], axis=0)


def pit_histogram(actual: Array, quantiles: Array, purchase_probability: Array, weight: Array | None = None) -> Array:
    """Shares of the customers whose randomised PIT lies in [0, .1], (.1, .5], (.5, .9] and (.9, 1]: (..., 4).

    Exact in expectation over the randomisation, see ``pit_at_levels``. A calibrated forecast has .1, .4, .4 and .1; more
    at both ends is a forecast too sure of itself, more at the upper end one too low. These four bins are all that P0 and
    three quantiles identify: ten would need the distribution between them.
    """
    below = np.stack(pit_at_levels(actual, quantiles, purchase_probability, weight), axis=-1)
    nobody, everybody = np.zeros_like(below[..., :1]), np.ones_like(below[..., :1])
    return np.diff(np.concatenate([nobody, below, everybody], axis=-1), axis=-1)


def brier(bought: Array, probability: Array, weight: Array | None = None) -> Array:
    """Mean of (probability - bought)^2, ``bought`` 0 or 1 (Brier 1950): 0 perfect, 0.25 for calling all of it 0.5."""
    return mean(np.square(probability - bought), weight)


def poisson_deviance(orders: Array, expected: Array, weight: Array | None = None) -> Array:
    """Mean of 2 (y log(y / mu) - y + mu), mu at least ``SMALLEST_MEAN`` (McCullagh and Nelder 1989, section 2.3)."""
    mu = np.maximum(expected, SMALLEST_MEAN)
    # y log y is 0 at 0; the inner where keeps log(0) from being computed at all.
    surprise = orders * np.log(np.where(orders > 0, orders, mu) / mu)
    return mean(2 * (surprise - orders + mu), weight)
