"""The mixture's mean and quantiles against SciPy's root finder and against the one distribution all members may share."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from trainer import mixture, ziln

LEVELS = (0.1, 0.5, 0.9)


def distribution(logits: np.ndarray, value: float) -> float:
    """P(V <= value) of [m, 3] logits, by SciPy's lognormal."""
    log_odds, mu, sigma = (part.numpy() for part in ziln.parameters(tf.constant(logits, tf.float64)))
    p = 1 / (1 + np.exp(-log_odds))
    return float(np.mean(1 - p + p * stats.lognorm.cdf(value, sigma, scale=np.exp(mu))))


@given(
    st.lists(st.tuples(st.floats(-4, 4), st.floats(-2, 3), st.floats(-2, 2)), min_size=1, max_size=6),
    st.sampled_from(LEVELS),
)
@example([(-3.3, 2.6, -1.3)] * 4 + [(-1.4, 2.9, -1.7), (-0.4, -1.5, 0.6)], 0.9)  # below every member's own but zero
@settings(max_examples=60, deadline=None)
def test_quantile_is_where_scipy_finds_it(members: list[tuple[float, float, float]], alpha: float) -> None:
    logits = np.array(members)
    found = float(mixture.quantile(tf.constant(logits[None], tf.float64), alpha)[0])
    if distribution(logits, 0.0) >= alpha - 1e-12:
        assert found == pytest.approx(0.0, abs=1e-6)
        return
    expected = optimize.brentq(lambda u: distribution(logits, np.exp(u)) - alpha, -60, 40)
    # Just above P(0) the quantile falls off steeply; what counts there is the probability it stands for.
    close = np.log(found) == pytest.approx(expected, abs=1e-3)
    assert close or distribution(logits, found) == pytest.approx(alpha, abs=1e-4)


def test_members_that_agree_are_one_distribution() -> None:
    logits = tf.constant(np.random.default_rng(1).normal(size=(50, 1, 3)), tf.float32)
    together = tf.repeat(logits, 4, axis=1)
    np.testing.assert_allclose(mixture.mean(together), ziln.mean(logits[:, 0]), rtol=1e-5)
    for level in LEVELS:
        np.testing.assert_allclose(
            mixture.quantile(together, level), ziln.quantile(logits[:, 0], level), rtol=1e-3, atol=1e-6
        )


def test_disagreement_widens_the_range() -> None:
    apart = tf.constant([[[5.0, -1.0, 0.0], [5.0, 1.0, 0.0]]], tf.float32)
    alone = tf.constant([[[5.0, 0.0, 0.0]]], tf.float32)
    assert mixture.quantile(apart, 0.1) < mixture.quantile(alone, 0.1)
    assert mixture.quantile(apart, 0.9) > mixture.quantile(alone, 0.9)


def test_quantiles_are_finite_and_in_order_at_wild_logits() -> None:
    wild = tf.constant(np.random.default_rng(2).normal(scale=1e4, size=(500, 3, 3)), tf.float32)
    low, middle, high = (mixture.quantile(wild, level).numpy() for level in LEVELS)
    assert np.isfinite([low, middle, high]).all()
    assert (low >= 0).all() and (low <= middle).all() and (middle <= high).all()
