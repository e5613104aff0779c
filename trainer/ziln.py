"""The zero-inflated lognormal distribution (ZILN) of a customer's future value, from a network's three logits.

The value is 0 with probability 1 - p, else lognormal(mu, sigma): Wang, Liu and Miao, "A Deep Probabilistic Model
for Customer Lifetime Value Prediction" (2019, arXiv:1912.07753), section 3. Logits are [..., 3]:
log-odds of p, mu, and the inverse softplus of sigma. Every function is finite in float32 at any finite logit.
"""

from __future__ import annotations

import math

import tensorflow as tf

from trainer.settings import SIGMA_CAP as SIGMA_CAP
from trainer.settings import SIGMA_FLOOR as SIGMA_FLOOR

# mu is in units of the mean positive label. exp(+-20) spans any currency, and exp(20 + 2.5 x 8) fits float32.
MU_BOUND = 20.0
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def parameters(logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Log-odds of a positive value, mu and sigma, each [...], from logits [..., 3]."""
    log_odds, mu, raw_sigma = tf.unstack(logits, num=3, axis=-1)
    sigma = tf.clip_by_value(tf.nn.softplus(raw_sigma), SIGMA_FLOOR, SIGMA_CAP)
    return log_odds, tf.clip_by_value(mu, -MU_BOUND, MU_BOUND), sigma


def loss(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Negative log-likelihood of each row, equation (5) of the paper.

    Args:
      labels: [...] values >= 0.
      logits: [..., 3].
    """
    log_odds, mu, sigma = parameters(logits)
    positive = labels > 0
    occurrence = tf.nn.sigmoid_cross_entropy_with_logits(labels=tf.cast(positive, logits.dtype), logits=log_odds)
    # A value of 1 stands in where there is none: a NaN in the branch not taken would still poison the gradient.
    log_value = tf.math.log(tf.where(positive, labels, tf.ones_like(labels)))
    z = (log_value - mu) / sigma
    severity = log_value + tf.math.log(sigma) + _HALF_LOG_2PI + 0.5 * z * z
    return occurrence + tf.where(positive, severity, tf.zeros_like(severity))


def mean(logits: tf.Tensor) -> tf.Tensor:
    """p exp(mu + sigma^2 / 2), [...]."""
    log_odds, mu, sigma = parameters(logits)
    return tf.sigmoid(log_odds) * tf.exp(mu + 0.5 * sigma * sigma)


def quantile(logits: tf.Tensor, alpha: float) -> tf.Tensor:
    """The smallest value whose cumulative probability reaches ``alpha``, [...].

    0 where alpha <= P(0), else exp(mu + sigma Phi^-1((alpha - P(0)) / (1 - P(0)))).
    """
    log_odds, mu, sigma = parameters(logits)
    zero = tf.sigmoid(-log_odds)
    above = alpha > zero
    # Where alpha > P(0), 1 - P(0) exceeds 1 - alpha: the division below is far from 0 / 0.
    rest = tf.where(
        above,
        (alpha - zero) / tf.where(above, 1 - zero, tf.ones_like(zero)),
        tf.fill(tf.shape(zero), tf.cast(0.5, zero.dtype)),
    )
    return tf.where(above, tf.exp(mu + sigma * tf.math.ndtri(rest)), tf.zeros_like(mu))
