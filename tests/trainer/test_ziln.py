"""ZILN against the published case, numerical integration and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from trainer import ziln

# google/lifetime_value zero_inflated_lognormal_test.py: its inputs, and the closed form it tests against.
PUBLISHED_LOGITS = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]
PUBLISHED_LABELS = [0.0, 1.5]


def one(*logits: float) -> tf.Tensor:
    return tf.constant([logits], tf.float64)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_loss_and_mean_reproduce_the_published_case() -> None:
    logits = tf.constant(PUBLISHED_LOGITS, tf.float32)
    loss = ziln.loss(tf.constant(PUBLISHED_LABELS, tf.float32), logits)
    np.testing.assert_allclose(loss, [0.744396660073571, 1.8783725912594884], atol=1e-6)
    np.testing.assert_allclose(ziln.mean(logits), [0.9236378529549288, 1.6907553323445144], atol=1e-6)


@pytest.mark.parametrize("logits", [*PUBLISHED_LOGITS, [-2.0, 1.0, -0.5]])
def test_density_integrates_to_one_and_to_the_mean(logits: list[float]) -> None:
    def density(y: float) -> float:
        return float(tf.exp(-ziln.loss(tf.constant([y], tf.float64), one(*logits)))[0])

    # Substituting y = exp(u) spreads the lognormal's long tail.
    total = integrate.quad(lambda u: density(math.exp(u)) * math.exp(u), -20, 20, limit=200)[0]
    first_moment = integrate.quad(lambda u: density(math.exp(u)) * math.exp(2 * u), -20, 20, limit=200)[0]
    assert density(0.0) + total == pytest.approx(1, abs=1e-7)
    assert first_moment == pytest.approx(float(ziln.mean(one(*logits))[0]), rel=1e-6)


@given(st.floats(-6, 6), st.floats(-3, 3), st.floats(-2, 2), st.floats(0.01, 0.99))
@settings(max_examples=60, deadline=None)
def test_quantile_is_the_inverse_of_the_distribution(log_odds: float, mu: float, raw: float, alpha: float) -> None:
    p, sigma = 1 / (1 + math.exp(-log_odds)), softplus(raw)
    value = float(ziln.quantile(one(log_odds, mu, raw), alpha)[0])
    reached = 1 - p + p * stats.lognorm.cdf(value, sigma, scale=math.exp(mu))
    assert reached == pytest.approx(max(alpha, 1 - p), abs=1e-9)
    assert (value == 0) == (alpha <= 1 - p)


@given(st.floats(-6, 6), st.floats(-3, 3), st.floats(-2, 2), st.sampled_from([0.0, 1e-3, 0.7, 1.0, 25.0, 4e3]))
@settings(max_examples=60, deadline=None)
def test_loss_is_minus_the_logarithm_of_scipys_density(log_odds: float, mu: float, raw: float, label: float) -> None:
    sigma = min(max(softplus(raw), ziln.SIGMA_FLOOR), ziln.SIGMA_CAP)
    if label > 0:
        expected = -stats.bernoulli.logpmf(1, 1 / (1 + math.exp(-log_odds)))
        expected -= stats.lognorm.logpdf(label, sigma, scale=math.exp(mu))
    else:
        expected = -stats.bernoulli.logpmf(0, 1 / (1 + math.exp(-log_odds)))
    found = float(ziln.loss(tf.constant([label], tf.float64), one(log_odds, mu, raw))[0])
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.floats(0, 1e30))
@settings(max_examples=60, deadline=None)
def test_finite_and_ordered_at_any_float32_logit(log_odds: float, mu: float, raw: float, label: float) -> None:
    logits = tf.constant([[log_odds, mu, raw]], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = ziln.loss(tf.constant([label], tf.float32), logits)
    quantiles = [float(ziln.quantile(logits, alpha)[0]) for alpha in (0.1, 0.5, 0.9)]
    assert np.isfinite([float(loss[0]), float(ziln.mean(logits)[0]), *quantiles]).all()
    assert np.isfinite(tape.gradient(loss, logits)).all()
    assert 0 <= quantiles[0] <= quantiles[1] <= quantiles[2]


def test_sigma_stays_within_its_bounds() -> None:
    _, _, sigma = ziln.parameters(tf.constant([[0.0, 0.0, -50.0], [0.0, 0.0, 50.0]]))
    np.testing.assert_allclose(sigma, [ziln.SIGMA_FLOOR, ziln.SIGMA_CAP])
