"""Maximisation: tops known in closed form, several starts, bounds, and a verdict that rests on the gradient alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from trainer import maximum_likelihood
from trainer.maximum_likelihood import Estimate, maximise

Array = NDArray[np.float64]


def exponential(theta: Array) -> tuple[float, Array]:
    """Of waiting times with the mean 4, by their rate."""
    rate = theta[0]
    return float(np.log(rate) - 4 * rate), np.array([1 / rate - 4])


def two_hills(theta: Array) -> tuple[float, Array]:
    """Tops at ln theta of -2 (low) and +2 (high)."""
    z = np.log(theta[0])
    low, high = np.exp(-((z + 2) ** 2)), 1.5 * np.exp(-((z - 2) ** 2))
    return float(low + high), np.array([(-2 * (z + 2) * low - 2 * (z - 2) * high) / theta[0]])


def test_the_top_and_the_error_of_a_rate() -> None:
    found = maximise(exponential, [(1.0,)], rows=100)
    assert found.parameters == pytest.approx([0.25], rel=1e-9)
    assert found.standard_errors == pytest.approx([0.25 / np.sqrt(100)], rel=1e-6)
    assert found.converged


def test_a_gamma_fit_of_two_parameters() -> None:
    values = np.random.default_rng(3).gamma(2.5, 1 / 0.3, 4000)
    mean, mean_log = values.mean(), np.log(values).mean()

    def gamma(theta: Array) -> tuple[float, Array]:
        shape, rate = theta
        value = shape * np.log(rate) - special.gammaln(shape) + (shape - 1) * mean_log - rate * mean
        return float(value), np.array([np.log(rate) - special.digamma(shape) + mean_log, shape / rate - mean])

    found = maximise(gamma, [(1.0, 1.0)], rows=len(values))
    shape, rate = found.parameters
    assert shape / rate == pytest.approx(mean, rel=1e-8)  # the likelihood equations, in closed form
    assert np.log(shape) - special.digamma(shape) == pytest.approx(np.log(mean) - mean_log, rel=1e-8)
    information = len(values) * np.array([[special.polygamma(1, shape), -1 / rate], [-1 / rate, shape / rate**2]])
    assert found.standard_errors == pytest.approx(np.sqrt(np.diag(np.linalg.inv(information))), rel=1e-5)


@pytest.mark.parametrize("starts", [[(0.1,), (10.0,)], [(10.0,), (0.1,)]])
def test_of_several_starts_the_highest_end_counts(starts: list[tuple[float]]) -> None:
    found = maximise(two_hills, starts, rows=1)
    assert np.log(found.parameters[0]) == pytest.approx(2, abs=1e-6)
    assert starts[found.start] == (10.0,)


def test_starts_compete_on_the_rough_function_and_the_estimate_is_of_the_true_one() -> None:
    calls = []

    def rough(theta: Array) -> tuple[float, Array]:
        calls.append(theta)
        value, gradient = exponential(theta * 1.1)
        return value, gradient * 1.1

    found = maximise(exponential, [(1.0,), (9.0,)], rows=100, rough=rough)
    assert calls and found.parameters == pytest.approx([0.25], rel=1e-9)


def test_where_the_fewer_rows_mislead_all_rows_are_asked() -> None:
    def bell(theta: Array) -> tuple[float, Array]:
        z = np.log(theta[0])
        return float(np.exp(-z * z / 2)), np.array([-z * np.exp(-z * z / 2) / theta[0]])

    def endless(theta: Array) -> tuple[float, Array]:
        z = np.log(theta[0])
        return float(np.tanh(z / 8)), np.array([(1 - np.tanh(z / 8) ** 2) / 8 / theta[0]])

    assert maximise(endless, [(2.0,)], rows=100).parameters[0] > 1e6
    found = maximise(bell, [(2.0,)], rows=100, rough=endless)
    assert found.parameters == pytest.approx([1.0], abs=1e-6)
    assert found.standard_errors == pytest.approx([0.1], rel=1e-5)


def test_a_likelihood_without_a_top_ends_at_the_bound_without_a_standard_error() -> None:
    def rising(theta: Array) -> tuple[float, Array]:
        a, b = theta
        value, gradient = exponential(np.array([b]))
        return -1 / a + value, np.array([a**-2, gradient[0]])

    found = maximise(rising, [(1.0, 1.0)], rows=100)
    assert found.parameters[1] == pytest.approx(0.25, rel=1e-6)
    assert np.isnan(found.standard_errors).tolist() == [True, False]


def test_a_gradient_that_does_not_vanish_is_not_converged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maximum_likelihood, "_newton", lambda function, theta: theta + 0.1)
    found = maximise(exponential, [(1.0,)], rows=100)
    assert not found.converged and found.gradient_norm == pytest.approx(0.105, abs=0.01)


def test_convergence_is_the_gradient_alone() -> None:
    nan = np.full((1, 1), np.nan)
    assert Estimate(np.ones(1), 0.0, maximum_likelihood.GRADIENT_TOLERANCE, nan, 0).converged
    assert not Estimate(np.ones(1), 0.0, 2 * maximum_likelihood.GRADIENT_TOLERANCE, nan, 0).converged
