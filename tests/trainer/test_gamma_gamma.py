"""The spend model: its likelihood by quadrature, recovery, the guard where the mean is infinite, and what is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, stats

from tests.trainer import btyd_reference as reference
from trainer import gamma_gamma
from trainer.gamma_gamma import GammaGamma
from transforms.errors import UsageError

Array = NDArray[np.float64]
TRUTH = {"p": 5.0, "q": 4.0, "v": 60.0}

positive = st.floats(-1, 1.5).map(lambda exponent: 10**exponent)


def simulated(customers: int, seed: int, p: float = 5.0, q: float = 4.0, v: float = 60.0) -> tuple[Array, Array]:
    """Counts of orders, the first included, and their mean value."""
    rng = np.random.default_rng(seed)
    count = 1.0 + rng.poisson(rng.gamma(0.8, 2, customers))
    return count, rng.gamma(p * count) / rng.gamma(q, 1 / v, customers) / count


@given(positive, st.floats(0.5, 8), positive, st.integers(1, 30), st.floats(1, 200))
@settings(max_examples=25)
def test_the_likelihood_is_the_integral_over_customers(p: float, q: float, v: float, count: int, mean: float) -> None:
    model = reference.spend_with_parameters(p, q, v)

    def given_rate(log_rate: float) -> float:
        rate = np.exp(log_rate)
        value = stats.gamma.logpdf(mean, p * count, scale=1 / (rate * count)) + stats.gamma.logpdf(rate, q, scale=1 / v)
        return float(np.exp(value + log_rate - found))

    found = model.log_likelihood(count, mean)[0]
    peak = np.log((p * count + q) / (count * mean + v))
    assert integrate.quad(given_rate, peak - 25, peak + 25, points=[peak], limit=400)[0] == pytest.approx(1, rel=1e-6)


@given(positive, st.floats(0.5, 8), positive)
def test_the_gradient_is_that_of_the_likelihood(p: float, q: float, v: float) -> None:
    likelihood = gamma_gamma._Likelihood(np.array([1.0, 1, 3, 40]), np.array([2.0, 9, 5, 7]), np.array([1.0, 2, 1, 1]))
    theta = np.array([p, q, v])
    value, gradient = likelihood(theta)
    assert value == pytest.approx(np.average(likelihood.per_row(theta), weights=[1, 2, 1, 1]), rel=1e-11)
    steps = 1e-5 * np.eye(3)
    numeric = [(likelihood(theta * np.exp(s))[0] - likelihood(theta * np.exp(-s))[0]) / 2e-5 for s in steps]
    assert gradient * theta == pytest.approx(numeric, rel=1e-5, abs=1e-5)


def test_parameters_are_recovered_within_three_standard_errors() -> None:
    fits = [GammaGamma().fit(*simulated(2000, seed)) for seed in range(10)]
    scores = np.array([[(fit.params_[n] - TRUTH[n]) / fit.standard_errors_[n] for n in TRUTH] for fit in fits])
    assert np.abs(scores).max() < 3
    assert ((scores.std(axis=0) > 0.4) & (scores.std(axis=0) < 1.8)).all()
    assert all(fit.converged_ and not fit.constrained_ and not fit.notes_ for fit in fits)


def test_the_expected_value_is_what_the_next_orders_are_worth() -> None:
    count, mean = simulated(200_000, seed=1)
    model = reference.spend_with_parameters(**TRUTH)
    rng = np.random.default_rng(2)
    rate = rng.gamma(TRUTH["q"] + TRUTH["p"] * count) / (TRUTH["v"] + count * mean)  # drawn from the posterior
    following = rng.gamma(TRUTH["p"], 1 / rate)
    for group in (count == 1, count == 2, count > 2):
        for part in (mean < 20, mean >= 20):
            some = group & part
            error = following[some].std() / np.sqrt(some.sum())
            assert following[some].mean() == pytest.approx(
                model.expected_value(count, mean)[some].mean(), abs=4 * error
            )
    assert model.expected_value(0, 0.0) == pytest.approx([TRUTH["p"] * TRUTH["v"] / (TRUTH["q"] - 1)])


def test_currency_changes_v_and_nothing_else() -> None:
    count, mean = simulated(1500, seed=3)
    one, other = GammaGamma().fit(count, mean), GammaGamma().fit(count, 15_000 * mean)
    assert (other.params_["p"], other.params_["q"]) == pytest.approx((one.params_["p"], one.params_["q"]), rel=1e-6)
    assert other.params_["v"] == pytest.approx(15_000 * one.params_["v"], rel=1e-6)
    assert other.standard_errors_["v"] == pytest.approx(15_000 * one.standard_errors_["v"], rel=1e-4)
    assert other.log_likelihood_ == pytest.approx(one.log_likelihood_ - 1500 * np.log(15_000), abs=1e-6)
    assert one.log_likelihood(count, mean).sum() == pytest.approx(one.log_likelihood_, abs=1e-6)


def test_rows_may_stand_for_several_customers_and_the_starts_for_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    count, mean = simulated(1000, seed=4)
    once = GammaGamma().fit(np.tile(count, 3), np.tile(mean, 3))
    weighted = GammaGamma().fit(count, mean, customers=np.full(1000, 3))
    monkeypatch.setattr(gamma_gamma, "_ROUGH_ROWS", 100)
    thinned = GammaGamma().fit(count, mean, customers=np.full(1000, 3))
    for fit in (weighted, thinned):
        assert fit.params_ == pytest.approx(once.params_, rel=1e-6)
        assert fit.standard_errors_ == pytest.approx(once.standard_errors_, rel=1e-4)
        assert fit.correlation_ == pytest.approx(once.correlation_)


def test_an_infinite_mean_is_refused_and_the_observed_one_held() -> None:
    """q = 0.7: the model's mean order value is infinite, and its formula gives negative values."""
    count, mean = simulated(3000, seed=0, q=0.7, v=20.0)
    fit = GammaGamma().fit(count, mean)
    observed = count @ mean / count.sum()
    assert fit.constrained_ and fit.unconstrained_q_ == pytest.approx(0.7, abs=0.1)
    assert fit.params_["q"] > 1 and fit.converged_
    assert fit.population_mean_ == pytest.approx(observed, rel=1e-6)
    assert len(fit.notes_) == 1 and f"q = {fit.unconstrained_q_:.3g}" in fit.notes_[0]
    values = fit.expected_value(count, mean)
    assert (values > 0).all() and (np.diff(fit.expected_value(2, np.sort(mean))) >= 0).all()
    unconstrained = reference.spend_with_parameters(2.0, 0.7, 20.0)
    assert unconstrained.expected_value(0, 0.0) < 0, "which is what the guard is for"


def test_of_all_models_with_the_observed_mean_the_likeliest_is_held() -> None:
    count, mean = simulated(3000, seed=0, q=0.7, v=20.0)
    fit = GammaGamma().fit(count, mean)
    for factor in (0.8, 1.25):
        for p, v in ((fit.params_["p"] * factor, fit.params_["v"]), (fit.params_["p"], fit.params_["v"] * factor)):
            other = reference.spend_with_parameters(p, 1 + p * v / fit.population_mean_, v)
            assert other.log_likelihood(count, mean).sum() < fit.log_likelihood_


def test_a_dependence_of_count_and_value_is_measured_and_told() -> None:
    rng = np.random.default_rng(0)
    count, mean = simulated(3000, seed=5)
    assert abs(GammaGamma().fit(count, mean).correlation_) < 0.1
    fit = GammaGamma().fit(count, mean * count**2 * rng.uniform(0.9, 1.1, 3000))
    assert fit.correlation_ == pytest.approx(np.corrcoef(count, mean * count**2)[0, 1], abs=0.02)
    assert any("correlate by" in note for note in fit.notes_)


def test_one_kind_of_customer_is_a_fit_as_well() -> None:
    fit = GammaGamma().fit([1, 1, 1], [10.0, 20.0, 30.0])
    assert np.isfinite(fit.expected_value([1, 5], [10.0, 30.0])).all()
    assert fit.correlation_ == 0.0
    assert np.isfinite(GammaGamma().fit([2], [10.0]).expected_value(1, 3.0)).all()


def test_a_saved_model_values_the_same(tmp_path: Path) -> None:
    fit = GammaGamma().fit(*simulated(500, seed=6))
    fit.save(str(tmp_path / "spend.json"))
    assert vars(gamma_gamma.load(str(tmp_path / "spend.json"))) == vars(fit)
    reference.fitted("bgnbd", "summary").save(str(tmp_path / "purchases.json"))
    with pytest.raises(UsageError, match="gamma_gamma"):
        gamma_gamma.load(str(tmp_path / "purchases.json"))


@pytest.mark.parametrize(
    "count, mean, blamed",
    [([0], [5.0], "count"), ([1.5], [5.0], "count"), ([1], [0.0], "mean_value"), ([1], [float("nan")], "mean_value"), ([], [], "no customer")],
)  # fmt: skip
def test_orders_that_cannot_be_are_refused(count: list[float], mean: list[float], blamed: str) -> None:
    with pytest.raises(UsageError, match=blamed):
        GammaGamma().fit(count, mean)


def test_an_unfitted_model_says_so() -> None:
    with pytest.raises(UsageError, match="not fitted"):
        GammaGamma().expected_value(1, 5.0)
