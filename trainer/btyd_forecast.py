"""A purchase model and a spend model together: the forecast of a customer's value over a horizon.

The value is the sum of N order values. Given N = n it is (v + total spend so far) times a beta prime variable of shapes p n
and q + p * orders (a gamma of shape p n over the gamma posterior of the customer's rate), so that its distribution is an
exact mixture over the posterior predictive distribution of N. The quantiles are read off that mixture instead of being
drawn: they have no noise and need no seed, a customer's do not depend on who else is in the batch, and customers with
the same counts share the work, since their spend only scales the result. Uncertainty about the models' own
parameters is not in them; at the sizes these models are fitted on it is small beside a customer's.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer import btyd_counts
from trainer.btyd import PurchaseModel
from trainer.gamma_gamma import GammaGamma

Array = NDArray[np.float64]

LEVELS = (0.1, 0.5, 0.9)
# Probability that may be left out at either end, far below what moves a quantile between 10% and 90%.
_TAIL = 1e-5
# Points of a logarithmic grid of values: four times as many change the quantiles by less than 0.1%.
_GRID = 192
_ROWS = 4096


def forecast(purchases: PurchaseModel, spend: GammaGamma, customers: Any, horizon_days: float) -> dict[str, Array]:
    """The columns of ``predictor.FORECAST_COLUMNS``, [n] each, for customers in their order.

    Args:
      purchases, spend: fitted; the spend model on all orders, the first included.
      customers: an Arrow table or mapping with the columns of ``btyd_counts.read``, orders and order_value_mean.
      horizon_days: the forecast covers so many days after the cutoff.

    Raises:
      UsageError: a column is missing or a row is one that no customer can have.
    """
    counts = btyd_counts.read(customers, purchases.time_unit_days)
    orders, mean = (btyd_counts.column(customers, name) for name in ("orders", "order_value_mean"))
    expected_orders = purchases.expected_purchases(counts, horizon_days)
    quantiles = value_quantiles(purchases, spend, counts, orders, mean, horizon_days, LEVELS)
    return {
        "predicted_value": expected_orders * spend.expected_value(orders, mean),
        **{f"value_p{round(100 * level)}": quantiles[:, i] for i, level in enumerate(LEVELS)},
        "purchase_probability": purchases.purchase_probability(counts, horizon_days),
        "expected_orders": expected_orders,
    }


def value_quantiles(
    purchases: PurchaseModel, spend: GammaGamma, customers: Any, orders: Array, order_value_mean: Array,
    horizon_days: float, levels: tuple[float, ...] = LEVELS,
) -> Array:  # fmt: skip
    """[n, levels]: quantiles of the value over the horizon; 0 where the probability of no purchase reaches the level.

    Args:
      customers: [n] rows for ``PurchaseModel``.
      orders, order_value_mean: [n] each, what the customers have ordered so far.
    """
    counts = (
        customers
        if isinstance(customers, btyd_counts.Counts)
        else btyd_counts.read(customers, purchases.time_unit_days)
    )
    _, x_and_recency = btyd_counts.pairs(counts.frequency, counts.recency)
    _, triple = btyd_counts.pairs(x_and_recency.astype(np.float64), counts.age)
    rows, row_of = btyd_counts.pairs(orders, triple.astype(np.float64))
    distinct, most = counts.take(rows), purchases.most_purchases(counts.take(rows), horizon_days, _TAIL)
    unit = np.empty((len(rows), len(levels)))
    order = np.lexsort((most, orders[rows]))
    for start, end in _runs(orders[rows][order], most[order]):
        at = order[start:end]
        probabilities = purchases.count_probabilities(distinct.take(at), horizon_days, int(most[at[0]]))
        unit[at] = _unit_quantiles(spend, probabilities, float(orders[rows[at[0]]]), levels)
    return (spend.params_["v"] + orders * order_value_mean)[:, None] * unit[row_of]


def _runs(orders: Array, most: NDArray[np.int64]) -> list[tuple[int, int]]:
    """[start, end) of the runs in which both are equal, none longer than ``_ROWS``."""
    edges = [0, *(np.flatnonzero((np.diff(orders) != 0) | (np.diff(most) != 0)) + 1), len(most)]
    return [
        (start, min(start + _ROWS, end))
        for first, end in itertools.pairwise(edges)
        for start in range(first, end, _ROWS)
    ]


def _unit_quantiles(spend: GammaGamma, probabilities: Array, orders: float, levels: tuple[float, ...]) -> Array:
    """[n, levels]: quantiles of the value in units of v + total spend so far, of customers with so many orders each.

    Args:
      probabilities: [n, most + 1] of 0 .. most purchases.
    """
    shape, posterior = spend.params_["p"], spend.params_["q"] + spend.params_["p"] * orders
    most = probabilities.shape[1] - 1
    rest = np.maximum(1 - probabilities.sum(axis=1), 0)
    n = np.arange(1, most + 1)
    lowest = special.betaincinv(shape, posterior, _TAIL)
    highest = special.betaincinv(shape * most, posterior, 1 - _TAIL)
    log_value = np.linspace(special.logit(lowest), special.logit(highest), _GRID)
    by_count = special.betainc((shape * n)[:, None], posterior, special.expit(log_value))
    below = probabilities[:, :1] + probabilities[:, 1:] @ by_count  # [n, grid]: P(value <= grid point)
    below += rest[:, None] * by_count[-1]
    return np.stack([_invert(below, log_value, probabilities[:, 0], level) for level in levels], axis=1)


def _invert(below: Array, log_value: Array, nothing: Array, level: float) -> Array:
    """[n]: where the distribution functions [n, grid] reach the level, linear between the points of the grid."""
    right = np.clip((below < level).sum(axis=1), 1, len(log_value) - 1)
    rows = np.arange(len(below))
    low, high = below[rows, right - 1], below[rows, right]
    share = np.clip((level - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
    reached = log_value[right - 1] + share * (log_value[right] - log_value[right - 1])
    return np.where(nothing >= level, 0.0, np.exp(reached))
