"""Gamma-Gamma: what a customer spends on an order day, whatever the number of them.

Fader, Hardie & Lee 2005, "RFM and CLV: Using Iso-Value Curves for Customer Base Analysis", and Fader & Hardie 2013, "The
Gamma-Gamma Model of Monetary Value": order values are Gamma(p, rate nu), and nu is Gamma(q, rate v) over customers. The
papers leave the first order out; nothing in the model asks for that, and it is the only order most customers ever
placed: give the count and the mean of all orders.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer import fitted_json
from trainer.btyd_math import log_rising
from trainer.maximum_likelihood import maximise
from transforms.errors import UsageError, rejected

Array = NDArray[np.float64]

# Of the mean order value as observed: a mean of the model beyond is an extrapolation of its tail, not the data's.
MOST_MEAN_RATIO = 2.0
# The model takes count and mean value as independent; from here on its bias shows in the totals.
NOTED_CORRELATION = 0.3
_ROUGH_ROWS = 20_000
_STARTS = ((6.0, 4.0), (2.0, 2.0), (1.0, 8.0))  # p, q


class GammaGamma(fitted_json.FittedModel):
    """The spend model; ``fit`` sets the attributes that end in an underscore.

    Attributes:
      params_: p, q (pure numbers) and v (money).
      standard_errors_: of the same; NaN where the data do not determine them, or the mean is held.
      log_likelihood_: of all rows, a density per unit of money.
      gradient_norm_, converged_: as in ``btyd.PurchaseModel``.
      constrained_: whether the mean of the model is held at the observed one, because it was infinite without (q <= 1)
        or more than ``MOST_MEAN_RATIO`` times the observed one.
      unconstrained_q_: q before that.
      correlation_: Pearson's, of count and mean value, which the model takes to be 0.
      population_mean_: the expected order value of a customer of whom nothing is known.
      customers_: how many customers the fit is of.
      notes_: what a person should know about the fit, in sentences.
    """

    name: ClassVar[str] = "gamma_gamma"
    fitted: ClassVar[tuple[str, ...]] = (
        "params_", "log_likelihood_", "gradient_norm_", "converged_", "constrained_", "unconstrained_q_", "correlation_",
        "population_mean_", "customers_", "notes_",
    )  # fmt: skip

    def fit(self, count: Any, mean_value: Any, customers: Any = None) -> Self:
        """Exact maximum likelihood.

        Args:
          count: [n] orders of a customer, whole numbers >= 1.
          mean_value: [n] their mean value, > 0.
          customers: [n] how many customers a row stands for; one if not given.

        Raises:
          UsageError: a row is unusable, or there are none.
        """
        count, mean_value = _checked(count, mean_value, least=1)
        weights = np.ones(len(count)) if customers is None else np.asarray(customers, np.float64)
        if not len(count):
            raise UsageError("no customer has an order of positive value: there is nothing a spend model could learn")
        observed = float((weights * count) @ mean_value / (weights @ count))
        # In units of the mean, so that one set of starts and bounds fits every currency.
        rows = _Likelihood(count, mean_value / observed, weights)
        rough = None
        if len(count) > 2 * _ROUGH_ROWS:
            some = slice(None, None, len(count) // _ROUGH_ROWS)
            rough = _Likelihood(count[some], mean_value[some] / observed, weights[some])
        free = maximise(rows, [(p, q, (q - 1) / p) for p, q in _STARTS], weights.sum(), rough)
        p, q, v = map(float, free.parameters)
        self.unconstrained_q_ = q
        self.constrained_ = not 0 < p * v <= MOST_MEAN_RATIO * (q - 1)
        estimate, errors = free, free.standard_errors
        if self.constrained_:
            estimate = maximise(rows.of_held_mean, [(p, (q - 1) / p) for p, q in _STARTS], weights.sum())
            p, v = map(float, estimate.parameters)
            q, errors = 1 + p * v, np.full(3, np.nan)
        self.params_ = {"p": p, "q": q, "v": v * observed}
        self.standard_errors_ = {"p": float(errors[0]), "q": float(errors[1]), "v": float(errors[2]) * observed}
        self.customers_ = float(weights.sum())
        self.log_likelihood_ = float((estimate.mean_log_likelihood - np.log(observed)) * self.customers_)
        self.gradient_norm_, self.converged_ = estimate.gradient_norm, estimate.converged
        self.population_mean_ = p * v * observed / (q - 1)
        self.correlation_ = _correlation(count, mean_value, weights)
        self.notes_ = self._notes(observed)
        return self

    def _notes(self, observed: float) -> list[str]:
        notes = []
        if not self.converged_:
            notes.append(f"not converged: the gradient is {self.gradient_norm_:.1e}")
        if self.constrained_:
            notes.append(
                f"the best fit (q = {self.unconstrained_q_:.3g}) has no usable mean order value; "
                f"the mean is held at the observed {observed:.4g}"
            )
        if abs(self.correlation_) > NOTED_CORRELATION:
            notes.append(
                f"the number of orders and their mean value correlate by {self.correlation_:.2f}: "
                "the model takes them to be independent"
            )
        return notes

    def expected_value(self, count: Any, mean_value: Any) -> Array:
        """[n]: E(value of an order | count orders of that mean so far), p (v + count mean) / (p count + q - 1).

        As in both papers: the mean order value drawn towards the population's, the more the fewer orders there are.
        Where the count is 0 it is the population's.
        """
        self.check_fitted()
        count, mean_value = _checked(count, mean_value, least=0)
        p, q, v = (self.params_[name] for name in ("p", "q", "v"))
        return p * (v + count * mean_value) / (p * count + q - 1)

    def log_likelihood(self, count: Any, mean_value: Any) -> Array:
        """[n]: ln of the density of a customer's mean order value, per unit of money."""
        self.check_fitted()
        count, mean_value = _checked(count, mean_value, least=1)
        theta = np.array([self.params_[name] for name in ("p", "q", "v")])
        return _Likelihood(count, mean_value, np.ones(len(count))).per_row(theta)


class _Likelihood:
    """The mean log-likelihood of a customer, as ``maximise`` wants it; the density of the mean in the 2013 note."""

    def __init__(self, count: Array, mean_value: Array, weights: Array) -> None:
        self.count, self.total, self.log_mean = count, count * mean_value, np.log(mean_value)
        self.weights = weights / weights.sum()
        self.counts, self.count_of = np.unique(count, return_inverse=True)
        self.by_count = np.bincount(self.count_of, self.weights)
        self.log_mean_weight = self.weights @ self.log_mean
        self.log_mean_by_count = self.weights * count @ self.log_mean

    def __call__(self, theta: Array) -> tuple[float, Array]:
        p, q, v = theta
        n, by_count = self.counts, self.by_count
        log_total = np.log(self.total + v)
        by_total = np.bincount(self.count_of, self.weights * log_total)
        by_inverse = np.bincount(self.count_of, self.weights / (self.total + v))
        value = (
            by_count @ self._by_count(theta)
            + p * self.log_mean_by_count
            - self.log_mean_weight
            - (p * n + q) @ by_total
        )
        at_sum = special.digamma(p * n + q)
        by_p = by_count @ (n * (at_sum - special.digamma(p * n) + np.log(n))) + self.log_mean_by_count - n @ by_total
        by_q = by_count @ (at_sum - special.digamma(q) + np.log(v)) - by_total.sum()
        by_v = q / v - (p * n + q) @ by_inverse
        return float(value), np.array([by_p, by_q, by_v])

    def _by_count(self, theta: Array) -> Array:
        """What depends on the count alone, for each distinct count."""
        p, q, v = theta
        n = self.counts
        return log_rising(p * n, q) - special.gammaln(q) + q * np.log(v) + p * n * np.log(n)

    def per_row(self, theta: Array) -> Array:
        p, q, v = theta
        shape = p * self.count
        return self._by_count(theta)[self.count_of] + (shape - 1) * self.log_mean - (shape + q) * np.log(self.total + v)

    def of_held_mean(self, theta: Array) -> tuple[float, Array]:
        """The same by p and v alone, with a mean of 1, p v / (q - 1) = 1, and so q = 1 + p v above 1."""
        p, v = theta
        value, (by_p, by_q, by_v) = self(np.array([p, 1 + p * v, v]))
        return value, np.array([by_p + v * by_q, by_v + p * by_q])


def _checked(count: Any, mean_value: Any, least: int) -> tuple[Array, Array]:
    count, mean_value = np.atleast_1d(np.asarray(count, np.float64)), np.atleast_1d(np.asarray(mean_value, np.float64))
    _check(
        "count", count, np.isfinite(count) & (count >= least) & (count == np.floor(count)), f"a whole number >= {least}"
    )
    _check("mean_value", mean_value, np.isfinite(mean_value) & ((mean_value > 0) | (count == 0)), "an amount > 0")
    return count, mean_value


def _check(name: str, values: Array, fine: NDArray[np.bool_], accepted: str) -> None:
    if not fine.all():
        raise rejected(f"{name} of row {int(np.argmin(fine))}", float(values[np.argmin(fine)]), accepted)


def _correlation(count: Array, mean_value: Array, weights: Array) -> float:
    """Pearson's; 0 where one of the two does not vary."""
    covariance = np.cov(count, mean_value, aweights=weights, ddof=0) if len(count) > 1 else np.zeros((2, 2))
    spread = float(np.sqrt(covariance[0, 0] * covariance[1, 1]))
    return float(covariance[0, 1] / spread) if spread > 0 else 0.0


def load(uri: str) -> GammaGamma:
    """The model saved there.

    Raises:
      UsageError: the file holds something else.
    """
    content = fitted_json.read(uri)
    if content["model"] != GammaGamma.name:
        raise rejected(f"the model in {uri}", content["model"], GammaGamma.name)
    model = GammaGamma()
    model.set_fitted(content)
    return model
