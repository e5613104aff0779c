"""The hurdle Poisson head against sums over its own probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer import hurdle_poisson


@given(st.floats(-5, 5), st.floats(-5, 2.5))
@settings(max_examples=30, deadline=None)
def test_probabilities_sum_to_one_and_to_the_mean(log_odds: float, log_rate: float) -> None:
    n = np.arange(80)
    logits = tf.constant([[log_odds, log_rate]] * len(n), tf.float64)
    factorials = np.array([math.lgamma(max(int(k), 1)) for k in n])
    p = np.exp(-hurdle_poisson.loss(tf.constant(n, tf.float64), logits, 1e6).numpy() - factorials)
    assert p.sum() == pytest.approx(1, abs=1e-9)
    assert (p * n).sum() == pytest.approx(float(hurdle_poisson.mean(logits, 1e6)[0]), rel=1e-9)
    assert 1 - p[0] == pytest.approx(float(hurdle_poisson.probability(logits)[0]), rel=1e-9)


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30), st.integers(0, 400), st.sampled_from([0.0, 89.0, 364.0]))
@settings(max_examples=40, deadline=None)
def test_finite_and_within_the_horizon_at_any_float32_logit(a: float, b: float, n: int, max_rate: float) -> None:
    logits = tf.constant([[a, b]], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = hurdle_poisson.loss(tf.constant([float(n)]), logits, max_rate)
    assert np.isfinite(float(loss[0]))
    assert np.isfinite(tape.gradient(loss, logits)).all()
    assert 0 <= float(hurdle_poisson.mean(logits, max_rate)[0]) <= (max_rate + 1) * (1 + 1e-4)
