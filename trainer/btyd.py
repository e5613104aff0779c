"""Buy-till-you-die models of purchases: what BG/NBD, MBG/NBD and Pareto/NBD have in common.

    model = make("pareto").fit(collapse(customers))
    model.expected_purchases(customers, horizon_days=90)

All of them say that a customer buys at a rate of their own, gamma distributed over customers (r, alpha), until a
dropout that nobody sees. They differ in the dropout alone, and so share the shape of the likelihood:

    L(x, t_x, T) = common factor(x) * [ term(x, T) + term(x, t_x) ].

Each term depends on a pair, and there are far fewer pairs than triples: the terms are tabulated, with their gradients,
once for all customers.

Times go in as days. The parameters are per ``time_unit_days`` (a week by default, the unit of the literature: alpha and
beta are times, the others pure numbers), and so is the log-likelihood, a density in time: sum(x) ln(time_unit_days)
less is the one per day.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from trainer import btyd_counts, fitted_json
from trainer.btyd_counts import Counts
from trainer.btyd_math import log_rising
from trainer.maximum_likelihood import Estimate, maximise
from transforms.errors import UsageError, rejected

Array = NDArray[np.float64]

WEEK_DAYS = 7.0
YEAR_DAYS = 365.25
# The starts compete on so many rows of the collapsed table: where they end differs little from where they would on all.
_ROUGH_ROWS = 3_000
# With a smaller share of customers gone there is hardly a dropout to learn from, and its parameters mean little.
COLLAPSED_BELOW = 0.01
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


class PurchaseModel(fitted_json.FittedModel, abc.ABC):
    """A purchase model; ``fit`` sets the attributes that end in an underscore.

    Attributes:
      params_: name -> estimate.
      standard_errors_: name -> standard error from the observed information; NaN where the data do not determine it.
      log_likelihood_: of all customers, see the module about its unit.
      gradient_norm_: the largest derivative of a customer's mean log-likelihood by a log-parameter at the estimate.
      converged_: whether that is as small as it has to be.
      start_: which of the starts led to the estimate.
      customers_: how many customers the fit is of.
      dropout_collapsed_: whether by this fit hardly anybody (``COLLAPSED_BELOW``) has dropped out.
      notes_: what a person should know about the fit, in sentences.
    """

    parameter_names: ClassVar[tuple[str, ...]]
    fitted: ClassVar[tuple[str, ...]] = (
        "time_unit_days", "params_", "log_likelihood_", "gradient_norm_", "converged_", "start_", "customers_",
        "dropout_collapsed_", "notes_",
    )  # fmt: skip

    def __init__(self, time_unit_days: float = WEEK_DAYS) -> None:
        if not time_unit_days > 0:
            raise rejected("time_unit_days", time_unit_days, "a positive number of days")
        self.time_unit_days = float(time_unit_days)

    # What a model says, in its own unit of time; x, t and T are [n], gradients [n, k] by the parameters.

    @abc.abstractmethod
    def _age_term(self, theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """ln of the term of L, but for ``common_factor``, that depends on T, here t; and its gradient."""

    @abc.abstractmethod
    def _recency_term(self, theta: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """ln of the term that depends on t_x, here t; and its gradient. -inf where there is none."""

    def _log_alive(self, theta: Array, x: Array, t: Array) -> Array:
        """ln of the part of L, but for ``common_factor``, that is being alive at T, here t."""
        return self._age_term(theta, x, t)[0]

    @abc.abstractmethod
    def _purchases_alive(self, theta: Array, x: Array, age: Array, horizon: Array) -> Array:
        """Expected purchases within the horizons ([h], or [n, h]) after T of a customer alive at T: [n, h]."""

    @abc.abstractmethod
    def _any_purchase_alive(self, theta: Array, x: Array, age: Array, horizon: float) -> Array:
        """[n]: the probability of a purchase within the horizon after T, of a customer alive at T."""

    @abc.abstractmethod
    def _counts_alive(self, theta: Array, x: Array, age: Array, horizon: float, most: int) -> Array:
        """[n, most + 1]: P(0 .. most purchases within the horizon after T) of a customer alive at T."""

    @abc.abstractmethod
    def _starts(self, rate: float, age: float) -> Sequence[Sequence[float]]:
        """Parameters to begin from, given the mean purchase rate and the mean age."""

    def fit(self, data: Any) -> Self:
        """Exact maximum likelihood.

        Args:
          data: customers or, the same and faster, ``btyd_counts.collapse`` of them.

        Raises:
          UsageError: the rows are unusable, or none of them has a repeat purchase.
        """
        counts = btyd_counts.read(data, self.time_unit_days)
        if not counts.frequency.any():
            raise UsageError("no customer has a repeat order day: there is nothing a purchase model could learn")
        customers = float(counts.customers.sum())
        bought, observed = float(counts.customers @ counts.frequency), float(counts.customers @ counts.age)
        rough = None
        if len(counts) > 2 * _ROUGH_ROWS:
            # Every so many rows of a sorted table: all frequencies and ages are in it, in proportion.
            rough = _Likelihood(self, counts.take(np.arange(0, len(counts), len(counts) // _ROUGH_ROWS)))
        starts = self._starts(bought / observed, observed / customers)
        estimate = maximise(_Likelihood(self, counts), starts, customers, rough)
        self._keep(estimate, counts)
        return self

    def _keep(self, estimate: Estimate, counts: Counts) -> None:
        names = self.parameter_names
        self.params_ = dict(zip(names, map(float, estimate.parameters), strict=True))
        self.standard_errors_ = dict(zip(names, map(float, estimate.standard_errors), strict=True))
        self.customers_ = float(counts.customers.sum())
        self.log_likelihood_ = float(estimate.mean_log_likelihood * self.customers_)
        self.gradient_norm_, self.converged_, self.start_ = estimate.gradient_norm, estimate.converged, estimate.start
        alive = self._probability_alive(counts)
        self.dropout_collapsed_ = bool(counts.customers @ (1 - alive) < COLLAPSED_BELOW * self.customers_)
        self.notes_ = list(self._notes(estimate))

    def _notes(self, estimate: Estimate) -> Sequence[str]:
        notes = []
        if not estimate.converged:
            notes.append(f"not converged: the gradient is {estimate.gradient_norm:.1e}")
        if self.dropout_collapsed_:
            notes.append(
                "dropout collapsed: by this fit hardly anybody has ever left, and its dropout parameters mean little"
            )
        open_ = [name for name, error in self.standard_errors_.items() if np.isnan(error)]
        if open_:
            notes.append(f"the data do not determine {', '.join(open_)}: no standard errors")
        return notes

    # What a fitted model answers. ``data`` is as for ``btyd_counts.read``; customers of no purchase yet and age 0
    # are those just won.

    def log_likelihood(self, data: Any) -> Array:
        """[n]: ln L of a customer of each row, per ``time_unit_days``."""
        counts = self._read(data)
        return _Likelihood(self, counts).per_row(self._theta())

    def probability_alive(self, data: Any) -> Array:
        """[n]: P(not dropped out at T | x, t_x, T)."""
        return self._probability_alive(self._read(data))

    def expected_purchases(self, data: Any, horizon_days: float) -> Array:
        """[n]: E(purchases within the horizon after T | x, t_x, T)."""
        counts = self._read(data)
        return (
            self._probability_alive(counts) * self._alive_curve(counts, np.array([self._horizon(horizon_days)]))[:, 0]
        )

    def expected_purchases_new(self, horizon_days: Sequence[float] | float) -> Array:
        """[h]: E(repeat purchases within each horizon of the first one) of a customer of whom nothing else is known."""
        horizons = np.atleast_1d(np.asarray(horizon_days, np.float64)) / self.time_unit_days
        new = Counts(np.zeros(1), np.zeros(1), np.zeros(1), np.ones(1))
        return self._probability_alive(new) * self._alive_curve(new, horizons)[0]

    def purchase_probability(self, data: Any, horizon_days: float) -> Array:
        """[n]: P(at least one purchase within the horizon after T | x, t_x, T)."""
        counts = self._read(data)
        rows, inverse = btyd_counts.pairs(counts.frequency, counts.age)
        any_purchase = self._any_purchase_alive(
            self._theta(), counts.frequency[rows], counts.age[rows], self._horizon(horizon_days)
        )
        return np.clip(self._probability_alive(counts) * any_purchase[inverse], 0.0, 1.0)

    def count_probabilities(self, data: Any, horizon_days: float, most: int) -> Array:
        """[n, most + 1]: P(0 .. most purchases within the horizon after T | x, t_x, T)."""
        counts = self._read(data)
        rows, inverse = btyd_counts.pairs(counts.frequency, counts.age)
        horizon = self._horizon(horizon_days)
        alive = self._counts_alive(self._theta(), counts.frequency[rows], counts.age[rows], horizon, most)
        share = self._probability_alive(counts)
        result = share[:, None] * alive[inverse]
        result[:, 0] += 1 - share
        return result

    def most_purchases(self, data: Any, horizon_days: float, tail: float) -> NDArray[np.int64]:
        """[n]: the least power of two that a customer exceeds within the horizon with a probability of ``tail`` at most.

        Were nobody to drop out, counts would be negative binomial, and dropout only makes them smaller.
        """
        counts = self._read(data)
        r, alpha = self._theta()[:2]
        horizon = self._horizon(horizon_days)
        shape, share = r + counts.frequency, horizon / (alpha + counts.age + horizon)
        most = np.ones(len(counts), np.int64)
        short = np.arange(len(counts))
        while len(short := short[special.betainc(most[short] + 1.0, shape[short], share[short]) > tail]):
            most[short] *= 2
        return most

    def discounted_purchases(self, data: Any, annual_discount_rate: float, horizon_days: float | None = None) -> Array:
        """[n]: expected purchases after T, each discounted continuously to T; without horizon the DERT of the literature.

        DERT (Fader, Hardie & Lee 2005, "RFM and CLV") with delta = ln(1 + annual rate); by partial integration
        it is int e^(-delta t) dM(t) = e^(-delta h) M(h) + delta int e^(-delta t) M(t) dt for M = ``expected_purchases``.

        Raises:
          UsageError: the discount rate is not positive, so that an endless sum would not end.
        """
        if not annual_discount_rate > 0:
            raise rejected("annual_discount_rate", annual_discount_rate, "a positive rate such as 0.15")
        counts = self._read(data)
        delta = np.log1p(annual_discount_rate) * self.time_unit_days / YEAR_DAYS
        endless = 40.0 / delta  # money so far ahead is worth e^-40 of itself
        end = endless if horizon_days is None else min(self._horizon(horizon_days), endless)
        rows, inverse = btyd_counts.pairs(counts.frequency, counts.age)
        # On a logarithmic scale a curve that flattens for ever, beginning as fast as the shortest time, is smooth.
        scale = self._shortest_time()
        v = np.log1p(end / scale) * (1 + _NODES) / 2
        times = scale * np.expm1(v)
        weights = np.log1p(end / scale) / 2 * _WEIGHTS * (times + scale) * delta * np.exp(-delta * times)
        curve = self._purchases_alive(self._theta(), counts.frequency[rows], counts.age[rows], np.append(times, end))
        discounted = curve[:, :-1] @ weights + curve[:, -1] * np.exp(-delta * end)
        return self._probability_alive(counts) * discounted[inverse]

    def _alive_curve(self, counts: Counts, horizons: Array) -> Array:
        rows, inverse = btyd_counts.pairs(counts.frequency, counts.age)
        return self._purchases_alive(self._theta(), counts.frequency[rows], counts.age[rows], horizons)[inverse]

    def _probability_alive(self, counts: Counts) -> Array:
        return _Likelihood(self, counts).probability_alive(self._theta())

    @abc.abstractmethod
    def _shortest_time(self) -> float:
        """The shortest time, in the model's unit, on which expected purchases change their course."""

    def _theta(self) -> Array:
        self.check_fitted()
        return np.array([self.params_[name] for name in self.parameter_names])

    def _read(self, data: Any) -> Counts:
        return data if isinstance(data, Counts) else btyd_counts.read(data, self.time_unit_days)

    def _horizon(self, horizon_days: float) -> float:
        if not horizon_days >= 0:
            raise rejected("horizon_days", horizon_days, "0 or more days")
        return horizon_days / self.time_unit_days


class _Likelihood:
    """The mean log-likelihood of a table of customers, callable as ``maximise`` wants it; its tables are made once."""

    def __init__(self, model: PurchaseModel, counts: Counts) -> None:
        self.model, self.counts = model, counts
        self.weights = counts.customers / counts.customers.sum()
        self.at_age, self.age_pair = btyd_counts.pairs(counts.frequency, counts.age)
        self.at_recency, self.recency_pair = btyd_counts.pairs(counts.frequency, counts.recency)
        self.frequencies, self.frequency_of = np.unique(counts.frequency, return_inverse=True)
        self.by_frequency = np.bincount(self.frequency_of, self.weights)
        self.by_age = np.bincount(self.age_pair, self.weights)

    def __call__(self, theta: Array) -> tuple[float, Array]:
        (age, age_gradient), (recency, recency_gradient) = self._terms(theta)
        common, common_gradient = common_factor(theta, self.frequencies)
        # ln(e^age + e^recency) = age + ln(1 + e^difference), and what share of the sum the second is.
        difference = recency[self.recency_pair] - age[self.age_pair]
        odds = np.exp(-np.abs(difference))
        total = np.maximum(difference, 0) + np.log1p(odds)
        second = self.weights * np.where(difference > 0, 1.0, odds) / (1 + odds)
        by_recency = np.bincount(self.recency_pair, second, len(recency))
        by_age = self.by_age - np.bincount(self.age_pair, second, len(age))
        value = self.weights @ total + self.by_age @ age + self.by_frequency @ common
        gradient = by_age @ age_gradient + by_recency @ recency_gradient
        gradient[:2] += self.by_frequency @ common_gradient
        return float(value), gradient

    def _terms(self, theta: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        x, counts = self.counts.frequency, self.counts
        age = self.model._age_term(theta, x[self.at_age], counts.age[self.at_age])
        return age, self.model._recency_term(theta, x[self.at_recency], counts.recency[self.at_recency])

    def _log_sum(self, theta: Array) -> Array:
        (age, _), (recency, _) = self._terms(theta)
        return np.logaddexp(age[self.age_pair], recency[self.recency_pair])

    def per_row(self, theta: Array) -> Array:
        return common_factor(theta, self.frequencies)[0][self.frequency_of] + self._log_sum(theta)

    def probability_alive(self, theta: Array) -> Array:
        counts, rows = self.counts, self.at_age
        alive = self.model._log_alive(theta, counts.frequency[rows], counts.age[rows])
        return np.exp(np.minimum(alive[self.age_pair] - self._log_sum(theta), 0.0))


def common_factor(theta: Array, x: Array) -> tuple[Array, Array]:
    """ln(Gamma(r + x) / Gamma(r) * alpha^r), [n], and its [n, 2] gradient by r and alpha: part of every likelihood here."""
    r, alpha = theta[0], theta[1]
    by_r = special.digamma(r + x) - special.digamma(r) + np.log(alpha)
    return log_rising(r, x) + r * np.log(alpha), np.stack([by_r, np.full_like(x, r / alpha)], axis=1)


def make(name: str, time_unit_days: float = WEEK_DAYS) -> PurchaseModel:
    """A model to fit, by name: bgnbd, mbgnbd or pareto.

    Raises:
      UsageError: there is none of that name.
    """
    from trainer.bgnbd import BgNbd, MbgNbd
    from trainer.pareto_nbd import ParetoNbd

    models: dict[str, type[PurchaseModel]] = {model.name: model for model in (BgNbd, MbgNbd, ParetoNbd)}
    if name not in models:
        raise rejected("the purchase model", name, ", ".join(models))
    return models[name](time_unit_days)


def load(uri: str) -> PurchaseModel:
    """The model saved there.

    Raises:
      UsageError: the file holds something else.
    """
    content = fitted_json.read(uri)
    model = make(content["model"])
    model.set_fitted(content)
    return model
